"""Modulated MLPs on tri-planes: at points, on whole lattices, and on the cubes of a lattice."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .field import CUBE_WEIGHTS, Lattices, Where, as_points
from .modulated import ModulatedMLP
from .triplane import resample_planes, sample_points, spread_maps


class TriplaneMLP(ModulatedMLP):
    """``planes [B, 3, C, R, R] -> [B, out, V]``.

    On a lattice the matrix of the first layer is applied to the planes, resampled to the lattice's
    faces: it commutes with the sum over planes, and V = N^3 nodes share 3 N^2 products.
    """

    def evaluate(self, planes: torch.Tensor, rows: torch.Tensor, where: Where) -> torch.Tensor:
        """Values at lattices or points; one row of w a layer, ``rows [B, >= layers, w_dim]``."""
        if not isinstance(where, Lattices):
            features = sample_points(planes, as_points(where, planes)).transpose(1, 2)
            return self(features, rows)
        matrix = self.first.matrices(rows[:, 0])  # [B, hidden, C]
        parts = []
        for weights in where.matrices(planes.shape[-1], planes):
            maps = resample_planes(planes, weights)
            size = maps.shape[-2:]
            first = (matrix[:, None] @ maps.flatten(3)).unflatten(3, size)
            parts.append(self.after_first(spread_maps(first).flatten(2), rows))
        return torch.cat(parts, dim=2)


class CubeMLP(ModulatedMLP):
    """FlexiCubes weights of cubes from the features at their eight corners, joined.

    Args:
        channels: Of a plane.
        hidden: Width; one hidden layer.
        w_dim: Width of ``w``.
    """

    SCALE = 0.1
    """Of the output: the weights start near those of plain dual marching."""

    def __init__(self, channels: int, hidden: int, w_dim: int) -> None:
        super().__init__([8 * channels, hidden, CUBE_WEIGHTS], w_dim)

    def evaluate(self, planes: torch.Tensor, rows: torch.Tensor, where: Where) -> torch.Tensor:
        """Raw weights ``[B, K, 21]``.

        Args:
            planes: ``[B, 3, C, R, R]``.
            rows: ``[B, >= 2, w_dim]``.
            where: One lattice, for all of its cubes in C order, or the corners ``[K, 8, 3]`` or
                ``[B, K, 8, 3]`` of some, ordered as ``CORNERS``.
        """
        if isinstance(where, Lattices):
            (weights,) = where.matrices(planes.shape[-1], planes)
            out = self.after_first(self._first_on_cubes(planes, rows, weights), rows)
        else:
            corners = where.to(planes.device, planes.dtype).expand(len(planes), -1, -1, -1)
            features = sample_points(planes, corners.flatten(1, 2))  # [B, 8 K, C]
            joined = features.reshape(*corners.shape[:2], -1)  # [B, K, 8 C]
            out = self(joined.transpose(1, 2), rows)
        return self.SCALE * out.transpose(1, 2)

    def _first_on_cubes(
        self, planes: torch.Tensor, rows: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """The first layer's product ``[B, hidden, cubes]``, without joining the corners.

        A feature is a sum over planes and each plane sees two axes, so the sum over eight corners
        is a 2x2 convolution of each resampled plane, whose kernel sums the weights along the third.
        """
        maps = resample_planes(planes, weights)  # [B, 3, C, N, N]
        batch, _, channels, size, _ = maps.shape
        matrix = self.first.matrices(rows[:, 0])
        kernel = matrix.reshape(batch, -1, *(2, 2, 2), channels).permute(0, 1, 5, 2, 3, 4)
        # Rows of a map are its second axis: kernels are (height, width) = (y, x), (z, y), (z, x).
        faces = [
            kernel.sum(dim=5).transpose(3, 4),
            kernel.sum(dim=3).transpose(3, 4),
            kernel.sum(dim=4).transpose(3, 4),
        ]
        stacked = torch.stack(faces, dim=1)  # [B, 3, hidden, C, 2, 2]
        hidden = stacked.shape[2]
        first = F.conv2d(
            maps.reshape(1, -1, size, size),
            stacked.reshape(-1, channels, 2, 2),
            groups=3 * batch,
        )
        return spread_maps(first.reshape(batch, 3, hidden, size - 1, size - 1)).flatten(2)
