"""GET3D's shared backbone: one StyleGAN2-like skip generator, two stacks of tri-planes.

The convolutions are driven by ``w_geo``. Every level ends with two 1x1 heads whose outputs
accumulate in an upsampled skip image: geometry from ``w_geo``, texture from ``w_tex``
(GET3D, appendix A.5: sharing the backbone keeps the two codes disentangled).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ...config import Config
from .layers import ModulatedConv2d, lrelu


class SynthesisConfig(Config):
    """Size of the backbone."""

    resolution: int = 256
    """Side of a plane (texels), a power of two."""
    channel_base: int = 32768
    """Channels at resolution r are `min(channel_base / r, channel_max)`."""
    channel_max: int = 512
    convs_per_level: int = 2
    """3x3 convolutions per level above the first, which has one."""
    plane_channels: int = 32
    """Channels of a plane; geometry and texture have three planes each."""

    @property
    def levels(self) -> list[int]:
        """Resolutions of the levels: 4, 8, ..., resolution."""
        return [4 << i for i in range((self.resolution // 4).bit_length())]

    def channels(self, resolution: int) -> int:
        """Channels at a level."""
        return min(self.channel_base // resolution, self.channel_max)


class Planes(NamedTuple):
    """Tri-planes of a batch, order XY, YZ, XZ; both ``[B, 3, C, R, R]``."""

    geometry: torch.Tensor
    texture: torch.Tensor


class Level(nn.Module):
    """Convolutions and the two heads at one resolution."""

    def __init__(
        self, channels_in: int, channels_out: int, convs: int, w_dim: int, out: int
    ) -> None:
        super().__init__()
        widths = [channels_in] + [channels_out] * convs
        self.convs = nn.ModuleList(ModulatedConv2d(a, b, 3, w_dim) for a, b in pairwise(widths))
        self.to_geometry = ModulatedConv2d(channels_out, out, 1, w_dim, demodulate=False)
        self.to_texture = ModulatedConv2d(channels_out, out, 1, w_dim, demodulate=False)

    def forward(
        self, x: torch.Tensor, rows_geo: Iterator[torch.Tensor], rows_tex: Iterator[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Features, and what the two heads add to the planes; takes the rows of w it needs."""
        for conv in self.convs:
            x = lrelu(conv(x, next(rows_geo)))
        return x, self.to_geometry(x, next(rows_geo)), self.to_texture(x, next(rows_tex))


class Synthesis(nn.Module):
    """``w_geo [B, L_geo, w_dim], w_tex [B, L_tex, w_dim] -> Planes``.

    Each layer reads its own row of ``w``: ``num_ws_geo`` and ``num_ws_tex`` rows in all.
    """

    def __init__(self, config: SynthesisConfig, w_dim: int) -> None:
        super().__init__()
        self.config = config
        self.constant = nn.Parameter(torch.randn(config.channels(4), 4, 4))
        self.levels = nn.ModuleList()
        self.num_ws_geo = 0
        previous = config.channels(4)
        for i, resolution in enumerate(config.levels):
            channels = config.channels(resolution)
            convs = 1 if i == 0 else config.convs_per_level
            self.levels.append(Level(previous, channels, convs, w_dim, 3 * config.plane_channels))
            previous = channels
            self.num_ws_geo += convs + 1
        self.num_ws_tex = len(self.levels)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, w_geo: torch.Tensor, w_tex: torch.Tensor) -> Planes:
        """Build the planes of a batch."""
        batch = len(w_geo)
        rows_geo, rows_tex = iter(w_geo.unbind(1)), iter(w_tex.unbind(1))
        x = self.constant.expand(batch, -1, -1, -1)
        x, geometry, texture = self.levels[0](x, rows_geo, rows_tex)
        for level in islice(self.levels, 1, None):
            x = _upsample(x)
            x, geo, tex = level(x, rows_geo, rows_tex)
            geometry, texture = _upsample(geometry) + geo, _upsample(texture) + tex
        shape = (batch, 3, self.config.plane_channels, *geometry.shape[-2:])
        return Planes(geometry.reshape(shape), texture.reshape(shape))


def _upsample(x: torch.Tensor) -> torch.Tensor:
    """Twice the size with the filter [1, 3, 3, 1], which is bilinear interpolation."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
