"""StyleGAN2-like skip generators whose images are tri-planes.

:class:`Synthesis` is GET3D's shared backbone. The convolutions are driven by ``w_geo``. Every level
ends with two 1x1 heads whose outputs accumulate in an upsampled skip image: geometry from
``w_geo``, texture from ``w_tex`` (GET3D, appendix A.5: sharing the backbone keeps the two codes
disentangled). :class:`PlaneSynthesis` has one head and one stream of codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import nn

from ...config import Config
from .modulated import ModulatedConv, NoiseMode, StyledConv
from .resample import Up, enlarge, upsample

Half = Literal["none", "bfloat16", "float16"]
HALF_TYPES: dict[Half, torch.dtype | None] = {
    "none": None,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""None: the precision of the network's inputs."""


class SynthesisConfig(Config):
    """Size of a skip generator; the defaults but `noise`, `filter` and `clamp` are the paper's."""

    resolution: int = 256
    """Side of a plane (texels), a power of two."""
    channel_base: int = 32768
    """Channels at resolution r are `min(channel_base / r, channel_max)`."""
    channel_max: int = 512
    convs_per_level: int = 2
    """3x3 convolutions per level above the first, which has one."""
    plane_channels: int = 32
    """Channels of a plane; geometry and texture have three planes each."""
    noise: NoiseMode = "none"
    """Noise after each 3x3 convolution: none, one fixed pattern, or new at every call, which makes
    views of one object differ."""
    filter: Literal["linear", "fir"] = "linear"
    """Enlargement: bilinear (borders repeated) before the convolution, or StyleGAN2's filter
    [1, 3, 3, 1] (zeros outside) after a transposed convolution, for a quarter of the work."""
    clamp: float | None = None
    """Largest magnitude after an activation; the paper has 256."""
    fused: bool = False
    """Per-sample weights in grouped convolutions in place of scaled activations."""
    half: Half = "none"
    """Precision of the convolutions of the highest levels; planes are accumulated in float32."""
    half_levels: int = Field(4, ge=0)
    """How many of the highest levels `half` is for."""
    channels_last: bool = True
    """Memory layout of the weights."""

    @property
    def levels(self) -> list[int]:
        """Resolutions of the levels: 4, 8, ..., resolution."""
        return [4 << i for i in range((self.resolution // 4).bit_length())]

    def channels(self, resolution: int) -> int:
        """Channels at a level."""
        return min(self.channel_base // resolution, self.channel_max)

    def convs(self, resolution: int) -> int:
        """3x3 convolutions at a level."""
        return 1 if resolution == self.levels[0] else self.convs_per_level

    def dtype(self, resolution: int) -> torch.dtype | None:
        """Precision of a level; None: that of the codes."""
        high = resolution > self.resolution >> self.half_levels
        return HALF_TYPES[self.half] if high else None


PAPER_SYNTHESIS = SynthesisConfig(noise="const", filter="fir", clamp=256.0)
"""The backbone of the paper."""


class Planes(NamedTuple):
    """Tri-planes of a batch, order XY, YZ, XZ; both ``[B, 3, C, R, R]``."""

    geometry: torch.Tensor
    texture: torch.Tensor


class Level(nn.Module):
    """Convolutions and heads at one resolution; each layer reads its own row of w."""

    def __init__(
        self, config: SynthesisConfig, resolution: int, w_dim: int, heads: Sequence[str]
    ) -> None:
        super().__init__()
        channels = config.channels(resolution)
        first = resolution == config.levels[0]
        self.convs = nn.ModuleList()
        for i in range(config.convs(resolution)):
            enlarges = i == 0 and not first
            up: Up = config.filter if enlarges else "none"
            before = config.channels(resolution // 2) if enlarges else channels
            noise = None if config.noise == "none" else (resolution, config.noise)
            self.convs.append(
                StyledConv(
                    before,
                    channels,
                    3,
                    w_dim,
                    up=up,
                    fused=config.fused,
                    noise=noise,
                    clamp=config.clamp,
                )
            )
        self.heads = tuple(heads)
        for name in heads:
            head = ModulatedConv(channels, 3 * config.plane_channels, 1, w_dim, demodulate=False)
            self.add_module(name, head)
        self.dtype = config.dtype(resolution)
        self.clamp = config.clamp

    def forward(
        self, x: torch.Tensor, main: torch.Tensor, others: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Features, and what each head adds to its planes (in the dtype of w).

        Args:
            x: ``[B, C, R', R']``; enlarged by the first convolution, except at the first level.
            main: ``[B, rows, w_dim]``, for the convolutions and the first head.
            others: ``[B, w_dim]`` for each further head.
        """
        x = x.to(self.dtype or main.dtype)
        rows = main.unbind(1)
        for conv, row in zip(self.convs, rows, strict=False):
            x = conv(x, row)
        images = []
        for name, row in zip(self.heads, [rows[-1], *others], strict=True):
            image = getattr(self, name)(x, row)
            if self.clamp is not None:
                image = image.clamp(-self.clamp, self.clamp)
            images.append(image.to(main.dtype))
        return x, images


class SkipSynthesis(nn.Module):
    """A constant, levels of doubling size, and a skip image for each head."""

    HEADS: ClassVar[tuple[str, ...]]

    def __init__(self, config: SynthesisConfig, w_dim: int) -> None:
        super().__init__()
        self.config = config
        self.constant = nn.Parameter(torch.randn(config.channels(4), 4, 4))
        self.levels = nn.ModuleList(Level(config, r, w_dim, self.HEADS) for r in config.levels)
        # Of the first stream, a level reads one row a convolution and one for the first head.
        self.level_rows = [config.convs(r) + 1 for r in config.levels]
        self.rows = sum(self.level_rows)
        if config.channels_last:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def images(self, main: torch.Tensor, *others: torch.Tensor) -> list[torch.Tensor]:
        """Tri-planes ``[B, 3, C, R, R]`` of each head.

        Args:
            main: ``[B, rows, w_dim]``.
            others: ``[B, levels, w_dim]`` for each further head.
        """
        grow = enlarge if self.config.filter == "linear" else upsample
        batch = len(main)
        x = self.constant.expand(batch, -1, -1, -1)
        images: list[torch.Tensor] = []
        streams = main.split(self.level_rows, dim=1)
        for i, (level, rows) in enumerate(zip(self.levels, streams, strict=True)):
            x, added = level(x, rows, [other[:, i] for other in others])
            images = [grow(a) + b for a, b in zip(images, added, strict=True)] if i else added
        shape = (batch, 3, self.config.plane_channels, *images[0].shape[-2:])
        return [image.reshape(shape) for image in images]


class Synthesis(SkipSynthesis):
    """``w_geo [B, L_geo, w_dim], w_tex [B, L_tex, w_dim] -> Planes``.

    Each layer reads its own row of ``w``: ``num_ws_geo`` and ``num_ws_tex`` rows in all.
    """

    HEADS = ("to_geometry", "to_texture")

    def __init__(self, config: SynthesisConfig, w_dim: int) -> None:
        super().__init__(config, w_dim)
        self.num_ws_geo = self.rows
        self.num_ws_tex = len(self.levels)

    def forward(self, w_geo: torch.Tensor, w_tex: torch.Tensor) -> Planes:
        """Build the planes of a batch."""
        return Planes(*self.images(w_geo, w_tex))


class PlaneSynthesis(SkipSynthesis):
    """``w [B, rows, w_dim] -> planes [B, 3, C, R, R]``: StyleGAN2 with 3 C channels for 3."""

    HEADS = ("to_planes",)

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        """Build the planes of a batch."""
        (planes,) = self.images(w)
        return planes
