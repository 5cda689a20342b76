"""The discriminator at the paper's size: StyleGAN2's `skip` trunk with a projected condition.

Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN", section 4.2; Miyato and
Koyama 2018 for the projection. GET3D trains two of them, one on RGB and one on silhouettes.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from ...config import Config
from .conditioning import CAMERA_CODES, CameraCodeName, ConditionMapping, join_condition
from .layers import Conv2d, Linear, lrelu, minibatch_stddev
from .resample import blur, downsample
from .synthesis import HALF_TYPES, Half


class TrunkConfig(Config):
    """Size of one trunk; the defaults are the paper's, but for the periodic camera code."""

    kind: Literal["stylegan2"] = "stylegan2"

    channel_base: int = 32768
    """Channels at resolution r are `min(channel_base / r, channel_max)`."""
    channel_max: int = 512
    group_size: int = 4
    """Samples per group of the minibatch standard deviation; 0 = none."""
    camera: CameraCodeName = "periodic"
    """`angles` is the paper's, with a jump at azimuth 0; `none`: the camera is not told."""
    mapping_layers: int = 8
    """Layers of the MLP of the condition."""
    clamp: float | None = None
    """Largest magnitude after an activation; 256 with float16, as in the paper."""
    half: Half = "none"
    """Precision of the blocks of the highest resolutions."""
    half_levels: int = Field(4, ge=0)
    """How many blocks `half` is for."""
    channels_last: bool = True

    def channels(self, resolution: int) -> int:
        """Channels at a resolution."""
        return min(self.channel_base // resolution, self.channel_max)


class TrunkBlock(nn.Module):
    """Image in by a 1x1 convolution, a 3x3 convolution, a 3x3 convolution that halves the size."""

    def __init__(self, image_channels: int, channels: int, out: int, clamp: float | None) -> None:
        super().__init__()
        self.from_image = Conv2d(image_channels, channels, 1)
        self.conv = Conv2d(channels, channels, 3, padding=1)
        self.down = Conv2d(channels, out, 3, stride=2)
        self.clamp = clamp

    def forward(self, x: torch.Tensor | None, image: torch.Tensor) -> torch.Tensor:
        """``x [N, C, R, R]`` or None at the top, ``image [N, I, R, R] -> [N, out, R/2, R/2]``."""
        y = _clamped(self.from_image.activated(image), self.clamp)
        x = y if x is None else x + y
        x = _clamped(self.conv.activated(x), self.clamp)
        return _clamped(self.down.activated(blur(x)), self.clamp)


class Trunk(nn.Module):
    """``images [N, C, S, S] in [-1, 1], camera code [N, .], label -> logits [N]``.

    Args:
        config: Size.
        image_channels: 3 for RGB or normals, 1 for silhouettes.
        size: Side of the images (pixels), a power of two from 8.
        label_dim: Width of the one-hot class; 0 = none.

    Attributes:
        blocks: One for each resolution from ``size`` to 8.
    """

    FINAL = 4

    def __init__(
        self, config: TrunkConfig, image_channels: int, size: int, label_dim: int = 0
    ) -> None:
        super().__init__()
        if size < 2 * self.FINAL or size & (size - 1):
            raise ValueError(f"the side of the images is a power of two from 8, not {size}")
        self.config, self.label_dim = config, label_dim
        sizes = [size >> i for i in range((size // self.FINAL).bit_length() - 1)]
        self.blocks = nn.ModuleList(
            TrunkBlock(image_channels, config.channels(r), config.channels(r // 2), config.clamp)
            for r in sizes
        )
        self.dtypes = [
            HALF_TYPES[config.half] if i < config.half_levels else None for i in range(len(sizes))
        ]
        channels = config.channels(self.FINAL)
        self.from_image = Conv2d(image_channels, channels, 1)
        self.final = Conv2d(channels + (config.group_size > 0), channels, 3, padding=1)
        self.features = Linear(channels * self.FINAL**2, channels)
        condition = CAMERA_CODES[config.camera].dim + label_dim
        self.out = Linear(channels, channels if condition else 1)
        self.condition = (
            ConditionMapping(condition, channels, config.mapping_layers) if condition else None
        )
        self.scale = channels**-0.5
        if config.channels_last:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self,
        images: torch.Tensor,
        camera: torch.Tensor,
        label: torch.Tensor | None = None,
        *,
        full_precision: bool = False,
    ) -> torch.Tensor:
        """Score a batch; its size is a multiple of the group size or smaller than it.

        Args:
            images: ``[N, C, S, S]``.
            camera: ``[N, dim]`` by ``CAMERA_CODES[config.camera]``.
            label: ``[N, label_dim]``, if there is one.
            full_precision: All blocks in the precision of ``images``, for R1.
        """
        if self.config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        x = None
        for block, half in zip(self.blocks, self.dtypes, strict=True):
            dtype = images.dtype if full_precision or half is None else half
            x = block(None if x is None else x.to(dtype), images.to(dtype))
            images = downsample(images)
        assert x is not None
        clamp = self.config.clamp
        x = x.to(images.dtype) + _clamped(self.from_image.activated(images), clamp)
        if self.config.group_size:
            x = minibatch_stddev(x, min(self.config.group_size, len(x)))
        x = _clamped(self.final.activated(x), clamp).flatten(1)
        x = self.out(lrelu(self.features(x)))
        if self.condition is None:
            return x[:, 0]
        condition = join_condition(camera, label, self.label_dim)
        return (x * self.condition(condition)).sum(dim=1) * self.scale


def _clamped(x: torch.Tensor, clamp: float | None) -> torch.Tensor:
    return x if clamp is None else x.clamp(-clamp, clamp)
