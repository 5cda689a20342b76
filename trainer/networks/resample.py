"""Resampling images with a short FIR filter.

The filter of StyleGAN2 is [1, 3, 3, 1] along each axis (Karras et al. 2019, after Zhang 2019,
"Making Convolutional Networks Shift-Invariant Again"). Outside an image is zero; only
:func:`enlarge` repeats the border instead, which is bilinear interpolation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F

TAPS = (1.0, 3.0, 3.0, 1.0)
ONE_PASS = 4
"""Longest filter that is applied along both axes at once."""
Up = Literal["none", "linear", "fir"]
"""Enlargement by two in front of a layer: none, (tri)linear with the border repeated, or by the
filter with zeros outside. The last two differ in the outermost texels only."""


def upfirdn(
    x: torch.Tensor,
    taps: Sequence[float] = TAPS,
    *,
    up: int = 1,
    down: int = 1,
    pad: tuple[int, int] = (0, 0),
    gain: float = 1.0,
) -> torch.Tensor:
    """Put ``up - 1`` zeros after each sample, pad, convolve, keep every ``down``-th sample.

    By depthwise convolution, so it has derivatives of every order; separable filters of more than
    ``ONE_PASS`` taps go axis by axis, shorter ones in one pass over the image, which is bound by
    memory (half the time on a CPU). The taps are scaled to the sum ``gain * up`` along each axis;
    enlarging then keeps the mean.

    Args:
        x: ``[B, C, H, W]``.
        taps: Filter of one axis, in the order of a convolution (not a correlation).
        up: Factor of enlargement.
        down: Factor of reduction.
        pad: Zeros before and after, on both axes, in samples of the enlarged image.
        gain: Of one axis.

    Returns:
        ``[B, C, H', W']`` with ``H' = (H up + sum(pad) - len(taps)) // down + 1``.
    """
    channels = x.shape[1]
    if up > 1:
        batch, _, height, width = x.shape
        spread = x.new_zeros(batch, channels, height, up, width, up)
        spread[:, :, :, 0, :, 0] = x
        x = spread.reshape(batch, channels, height * up, width * up)
    scale = gain * up / sum(taps)
    line = torch.tensor([t * scale for t in reversed(taps)], dtype=x.dtype, device=x.device)
    size = len(taps)
    before, after = pad
    padding = before if before == after else 0
    if before != after:
        x = F.pad(x, (before, after, before, after))  # a convolution pads both sides alike
    if size <= ONE_PASS:
        kernel = (line[:, None] * line).expand(channels, 1, size, size)
        return F.conv2d(x, kernel, stride=down, padding=padding, groups=channels)
    columns = line.reshape(1, 1, 1, size).expand(channels, 1, 1, size)
    rows = line.reshape(1, 1, size, 1).expand(channels, 1, size, 1)
    x = F.conv2d(x, columns, stride=(1, down), padding=(0, padding), groups=channels)
    return F.conv2d(x, rows, stride=(down, 1), padding=(padding, 0), groups=channels)


def upsample(x: torch.Tensor) -> torch.Tensor:
    """Twice the size, zeros outside: ``upfirdn(x, up=2, pad=(2, 1))``.

    Computed as bilinear interpolation of the image with a rim of zeros: the same filter, an eighth
    of the multiplications.
    """
    return enlarge(F.pad(x, (1, 1, 1, 1)))[..., 2:-2, 2:-2]


def enlarge(x: torch.Tensor) -> torch.Tensor:
    """Twice the size by bilinear (images) or trilinear (volumes) interpolation.

    Inside, images get the filter [1, 3, 3, 1]; at the border the outermost texel is repeated.
    """
    mode = "trilinear" if x.dim() == 5 else "bilinear"
    return F.interpolate(x, scale_factor=2, mode=mode, align_corners=False)


def downsample(x: torch.Tensor) -> torch.Tensor:
    """Half the size: ``out[i] = (x[2i-1] + 3 x[2i] + 3 x[2i+1] + x[2i+2]) / 8`` on both axes."""
    return upfirdn(x, down=2, pad=(1, 1))


def blur(x: torch.Tensor) -> torch.Tensor:
    """Low-pass before a 3x3 convolution of stride 2 without padding: ``H -> H + 1``.

    Together they read the same neighbourhood as :func:`downsample`.
    """
    return upfirdn(x, pad=(2, 2))
