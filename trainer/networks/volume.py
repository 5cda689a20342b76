"""Feature volumes by 3-D convolution, and the MLPs that read them (GET3D, section 3.1)."""

from __future__ import annotations

import math

import torch
from torch import nn

from ...config import Config
from .field import Lattices, Where, as_points
from .modulated import ModulatedMLP, StyledConv
from .resample import enlarge
from .triplane import sample_volume, sample_volume_lattice

HALF_GAIN = math.sqrt(0.5)


class VolumeConfig(Config):
    """Size of the convolutions of one geometry network; the defaults are the paper's."""

    resolution: int = 32
    """Side of the volume (voxels), a power of two."""
    channel_base: int = 2048
    """Channels at resolution r are `min(channel_base / r, channel_max)`."""
    channel_max: int = 256
    clamp: float | None = 256.0
    """Largest magnitude after an activation."""
    fused: bool = False
    """Per-sample weights in grouped convolutions in place of scaled activations."""

    @property
    def levels(self) -> list[int]:
        """Resolutions of the levels: 4, 8, ..., resolution."""
        return [4 << i for i in range((self.resolution // 4).bit_length())]

    def channels(self, resolution: int) -> int:
        """Channels at a level."""
        return min(self.channel_base // resolution, self.channel_max)


class VolumeLevel(nn.Module):
    """Enlarge by two, two 3x3x3 convolutions, and a 1x1x1 shortcut around them."""

    def __init__(self, config: VolumeConfig, resolution: int, w_dim: int) -> None:
        super().__init__()
        before, channels = config.channels(resolution // 2), config.channels(resolution)
        fused, clamp = config.fused, config.clamp
        self.first = StyledConv(
            before, channels, 3, w_dim, dims=3, up="linear", fused=fused, clamp=clamp
        )
        self.second = StyledConv(
            channels, channels, 3, w_dim, dims=3, fused=fused, clamp=clamp, gain=HALF_GAIN
        )
        self.shortcut = nn.Parameter(torch.randn(channels, before))
        self.shortcut_scale = HALF_GAIN / math.sqrt(before)

    def forward(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """``x [B, C, R/2, R/2, R/2], rows [B, 2, w_dim] -> [B, out, R, R, R]``."""
        shape = x.shape[2:]
        # One channel mix and one enlargement commute: mix first, on an eighth of the voxels.
        short = (self.shortcut * self.shortcut_scale @ x.flatten(2)).unflatten(2, shape)
        x = self.second(self.first(x, rows[:, 0]), rows[:, 1])
        return x + enlarge(short)


class VolumeSynthesis(nn.Module):
    """``rows [B, self.rows, w_dim] -> volume [B, C, R, R, R]``, axes x, y, z."""

    def __init__(self, config: VolumeConfig, w_dim: int) -> None:
        super().__init__()
        first, *rest = config.levels
        channels = config.channels(first)
        self.constant = nn.Parameter(torch.randn(channels, first, first, first))
        self.first = StyledConv(
            channels, channels, 3, w_dim, dims=3, fused=config.fused, clamp=config.clamp
        )
        self.levels = nn.ModuleList(VolumeLevel(config, resolution, w_dim) for resolution in rest)
        self.rows = 1 + 2 * len(rest)
        self.channels = config.channels(config.resolution)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Build the volumes of a batch."""
        x = self.first(self.constant.expand(len(rows), -1, -1, -1, -1), rows[:, 0])
        for i, level in enumerate(self.levels):
            x = level(x, rows[:, 1 + 2 * i : 3 + 2 * i])
        return x


def position_code(points: torch.Tensor) -> torch.Tensor:
    """``points [..., 3]`` in [-1, 1] as ``[..., 6]``: sin and cos of pi p.

    p is in units of the grid's side, from -1/2 to 1/2, so that no two points share a code.
    """
    angle = 0.5 * math.pi * points
    return torch.cat([torch.sin(angle), torch.cos(angle)], dim=-1)


class VolumeMLP(ModulatedMLP):
    """``volume [B, C, R, R, R] -> [B, out, V]``: sampled features and position, then an MLP.

    Args:
        channels: Of the volume.
        hidden: Width.
        hidden_layers: Their number.
        out: Output width.
        w_dim: Width of ``w``.
    """

    def __init__(
        self, channels: int, hidden: int, hidden_layers: int, out: int, w_dim: int
    ) -> None:
        super().__init__([channels + 6, *[hidden] * hidden_layers, out], w_dim)

    def evaluate(self, volume: torch.Tensor, rows: torch.Tensor, where: Where) -> torch.Tensor:
        """Values at lattices or points; ``rows [B, >= layers, w_dim]``."""
        points = as_points(where, volume)
        if isinstance(where, Lattices):
            matrices = where.matrices(volume.shape[-1], volume)
            parts = [sample_volume_lattice(volume, matrix).flatten(2) for matrix in matrices]
            features = torch.cat(parts, dim=2)
        else:
            features = sample_volume(volume, points)
        code = position_code(points).transpose(1, 2)
        return self(torch.cat([features, code], dim=1), rows)
