"""Small decoders on tri-planes: geometry on the nodes of the grid, colour at surface points.

The first layer of a decoder is linear and comes before the sum over planes, so it is applied to
the planes themselves (a grouped 1x1 convolution, own weights for each plane) and not to points:
interpolation and a linear layer commute. What is left per point is one activation and one layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from .field import CUBE_WEIGHTS, Lattices, Where, as_points
from .layers import Conv2d, Linear, lrelu
from .triplane import sample_lattice, sample_points


class PlaneLayer(nn.Module):
    """The first layer of a decoder: ``[B, 3, C, R, R] -> [B, 3, hidden, R, R]``."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        # Three planes are summed afterwards: the gain keeps the sum at unit variance.
        self.conv = Conv2d(3 * channels, 3 * hidden, 1, groups=3, gain=3**-0.5)

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        """Apply the layer to all three planes."""
        batch, _, _, height, width = planes.shape
        return self.conv(planes.flatten(1, 2)).reshape(batch, 3, -1, height, width)


class GeometryDecoder(nn.Module):
    """``planes -> (sdf [B, V], offsets [B, V, 3])`` wherever it is asked for.

    Both outputs are raw: the generator adds the initial shape and bounds the offsets.

    Args:
        channels: Of a plane.
        hidden: Width.
        cube_weights: Also read weights of cubes from the hidden features at their corners.
    """

    CUBE_SCALE = 0.1
    """Of the weights of cubes, which start near those of plain dual marching."""

    def __init__(self, channels: int, hidden: int, *, cube_weights: bool = False) -> None:
        super().__init__()
        self.first = PlaneLayer(channels, hidden)
        self.out = Linear(hidden, 4)
        self.cubes = (
            Linear(8 * hidden, CUBE_WEIGHTS, gain=self.CUBE_SCALE) if cube_weights else None
        )

    def forward(self, planes: torch.Tensor, where: Where) -> tuple[torch.Tensor, torch.Tensor]:
        """Evaluate the field: ``(sdf [B, V], offsets [B, V, 3])``."""
        hidden = self.first(planes)
        if isinstance(where, Lattices):
            return self._values(hidden, where.matrices(planes.shape[-1], planes))
        raw = self.out(lrelu(sample_points(hidden, as_points(where, planes))))
        return raw[..., 0], raw[..., 1:]

    def at_cubes(self, planes: torch.Tensor, corners: torch.Tensor) -> torch.Tensor:
        """Raw weights ``[B, K, 21]`` of the cubes with the corners ``[B, K, 8, 3]``.

        Raises:
            ValueError: The decoder was built without them.
        """
        if self.cubes is None:
            raise ValueError("this network has no FlexiCubes weights: set cube_weights: true")
        corners = corners.to(planes.device, planes.dtype).expand(len(planes), -1, -1, -1)
        features = lrelu(sample_points(self.first(planes), corners.flatten(1, 2)))
        return self.cubes(features.reshape(*corners.shape[:2], -1))

    def _values(
        self, hidden: torch.Tensor, matrices: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        weight = self.out.weight * self.out.weight_scale
        parts = []
        for matrix in matrices:
            features = lrelu(sample_lattice(hidden, matrix)).flatten(2)  # [B, hidden, N^3]
            parts.append(weight @ features)
        raw = torch.cat(parts, dim=2)
        assert self.out.bias is not None
        raw = raw + self.out.bias[:, None]
        return raw[:, 0], raw[:, 1:].transpose(1, 2)


class TextureDecoder(nn.Module):
    """Colour at points: ``planes, points [B, P, 3], w [B, w_dim] -> sRGB [B, P, 3]`` in [0, 1].

    The style of ``w`` scales the hidden features and shifts the colour, so that whole parts take
    one colour early in training; the low initial gain keeps the first colours plain.
    """

    def __init__(self, channels: int, hidden: int, w_dim: int) -> None:
        super().__init__()
        self.first = PlaneLayer(channels, hidden)
        self.style = Linear(w_dim, hidden, bias=1.0)
        self.out = Linear(hidden, 3, gain=0.2)
        self.shift = Linear(w_dim, 3, gain=0.5)

    def forward(self, planes: torch.Tensor, points: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """Query the texture field at ``points`` in [-1, 1]."""
        features = lrelu(sample_points(self.first(planes), points))  # [B, P, hidden]
        raw = self.out(features * self.style(w)[:, None]) + self.shift(w)[:, None]
        return torch.sigmoid(2.0 * raw)
