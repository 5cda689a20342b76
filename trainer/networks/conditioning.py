"""What a discriminator is told besides the image: the camera, and a class."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import nn

from .layers import Linear, lrelu, unit_moment

CAMERA_DIM = 6


def camera_code(azimuth: torch.Tensor, elevation: torch.Tensor) -> torch.Tensor:
    """Angles ``[N]`` (radians) as ``[N, 6]``, free of the wrap of a raw azimuth at 0 = 2 pi.

    Sin and cos of the azimuth and of twice it, twice the sine of the elevation (a small angle),
    its cosine.
    """
    return torch.stack(
        [
            torch.sin(azimuth),
            torch.cos(azimuth),
            torch.sin(2 * azimuth),
            torch.cos(2 * azimuth),
            2 * torch.sin(elevation),
            torch.cos(elevation),
        ],
        dim=-1,
    )


def angle_code(azimuth: torch.Tensor, elevation: torch.Tensor) -> torch.Tensor:
    """Angles ``[N]`` (radians) as GET3D's ``[N, 14]``: c = (azimuth, polar angle).

    ``[c, sin c, cos c, sin 2c, cos 2c, sin 4c, cos 4c]``. The raw azimuth jumps at 0 = 2 pi; use
    :func:`camera_code` unless it is the paper's figures that you are after.
    """
    angles = torch.stack([azimuth, 0.5 * math.pi - elevation], dim=-1)
    waves = [wave(k * angles) for k in (1, 2, 4) for wave in (torch.sin, torch.cos)]
    return torch.cat([angles, *waves], dim=-1)


class CameraCode(NamedTuple):
    """An encoding of the camera.

    Attributes:
        dim: Its width.
        encode: ``(azimuth [N], elevation [N]) -> [N, dim]``.
    """

    dim: int
    encode: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


CameraCodeName = Literal["periodic", "angles", "none"]
CAMERA_CODES: dict[CameraCodeName, CameraCode] = {
    "periodic": CameraCode(CAMERA_DIM, camera_code),
    "angles": CameraCode(14, angle_code),
    "none": CameraCode(0, lambda azimuth, elevation: azimuth.new_zeros(len(azimuth), 0)),
}


class ConditionMapping(nn.Module):
    """``condition [N, in] -> [N, features]``: embedding, normalisation, a mapping MLP.

    A linear embedding of a camera code joined with a one-hot class is the sum of an embedding of
    each.

    Args:
        features_in: Width of the condition.
        features: Width of everything after.
        layers: Of the MLP, whose learning rate is a hundredth of that of other layers.
    """

    def __init__(self, features_in: int, features: int, layers: int = 8) -> None:
        super().__init__()
        self.embed = Linear(features_in, features)
        self.layers = nn.ModuleList(
            Linear(a, b, lr_multiplier=0.01) for a, b in pairwise([features] * (layers + 1))
        )

    def forward(self, condition: torch.Tensor) -> torch.Tensor:
        """Map a condition."""
        x = unit_moment(self.embed(condition))
        for layer in self.layers:
            x = lrelu(layer(x))
        return x


def join_condition(
    camera: torch.Tensor, label: torch.Tensor | None, label_dim: int
) -> torch.Tensor:
    """Camera code ``[N, C]`` and label ``[N, label_dim]`` side by side.

    Raises:
        ValueError: A label is missing, or given where none is expected.
    """
    if (label is None) != (label_dim == 0):
        raise ValueError(f"label_dim is {label_dim} but the label is {type(label).__name__}")
    return camera if label is None else torch.cat([camera, label.to(camera.dtype)], dim=1)
