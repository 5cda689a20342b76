"""Equalised-learning-rate layers and StyleGAN2's modulated convolution.

Weights are drawn from N(0, 1) and scaled at run time by ``gain / sqrt(fan_in)`` (Karras et al.,
"Progressive Growing of GANs", section 4.1). Axis letters: B batch, C channels, H W image.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

LRELU_SLOPE = 0.2
LRELU_GAIN = math.sqrt(2.0)


def lrelu(x: torch.Tensor) -> torch.Tensor:
    """Leaky ReLU with slope 0.2, scaled by sqrt(2) so that it keeps the variance."""
    return F.leaky_relu(x, LRELU_SLOPE) * LRELU_GAIN


class Linear(nn.Module):
    """Fully connected layer with equalised learning rate: ``[..., in] -> [..., out]``.

    Args:
        features_in: Input width.
        features_out: Output width.
        bias: Initial value of the bias, or None for no bias.
        lr_multiplier: Scales the effective learning rate (0.01 in mapping networks).
        gain: Scales the initial output.
    """

    def __init__(
        self,
        features_in: int,
        features_out: int,
        *,
        bias: float | None = 0.0,
        lr_multiplier: float = 1.0,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features_out, features_in) / lr_multiplier)
        self.bias = (
            None
            if bias is None
            else nn.Parameter(torch.full((features_out,), float(bias) / lr_multiplier))
        )
        self.weight_scale = gain * lr_multiplier / math.sqrt(features_in)
        self.bias_scale = lr_multiplier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer."""
        bias = None if self.bias is None else self.bias * self.bias_scale
        return F.linear(x, self.weight * self.weight_scale, bias)


class Conv2d(nn.Module):
    """Convolution with equalised learning rate: ``[B, C, H, W] -> [B, out, H', W']``."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        bias: bool = True,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        fan_in = channels_in // groups * kernel**2
        self.weight = nn.Parameter(torch.randn(channels_out, channels_in // groups, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(channels_out)) if bias else None
        self.weight_scale = gain / math.sqrt(fan_in)
        self.stride, self.padding, self.groups = stride, padding, groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer."""
        return F.conv2d(
            x,
            self.weight * self.weight_scale,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            groups=self.groups,
        )


class ModulatedConv2d(nn.Module):
    """StyleGAN2's modulated convolution (Karras et al. 2020, section 2.2, equations 1 and 3).

    A style ``s = A w`` scales the input channels; demodulation rescales every output channel to
    unit expected variance. Written in its scale-the-activations form.

    Args:
        channels_in: Input channels.
        channels_out: Output channels.
        kernel: Odd kernel width.
        w_dim: Width of ``w``.
        demodulate: Off for the 1x1 heads, whose style is scaled by ``1 / sqrt(channels_in)``
            instead.
        gain: Scales the initial output.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        w_dim: int,
        *,
        demodulate: bool = True,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels_out, channels_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(channels_out))
        self.style = Linear(w_dim, channels_in, bias=1.0)
        self.demodulate = demodulate
        self.weight_scale = gain / math.sqrt(channels_in * kernel**2)
        self.padding = kernel // 2

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """``x [B, C, H, W]``, ``w [B, w_dim]`` -> ``[B, out, H, W]``."""
        style = self.style(w)  # [B, C]
        weight = self.weight * self.weight_scale
        x = F.conv2d(x * style[:, :, None, None], weight, padding=self.padding)
        if self.demodulate:
            power = weight.square().sum(dim=(2, 3)) @ style.square().t()  # [out, B]
            x = x * (power.t() + 1e-8).rsqrt()[:, :, None, None]
        return x + self.bias[:, None, None]


def minibatch_stddev(x: torch.Tensor, group_size: int) -> torch.Tensor:
    """Append one channel holding the standard deviation over groups of the batch.

    Consecutive samples form a group (Karras et al. 2018, section 3). Order a batch view by view:
    then a group holds different shapes. Sample by sample, a group of fakes would hold several
    views of one shape and a group of reals would not, which gives the discriminator a free tell.

    Args:
        x: ``[B, C, H, W]``.
        group_size: Samples per group, a divisor of B.
    """
    batch, channels, height, width = x.shape
    groups = x.reshape(-1, group_size, channels, height, width)
    std = (groups.var(dim=1, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))  # [groups]
    channel = std.repeat_interleave(group_size).reshape(batch, 1, 1, 1).expand(-1, 1, height, width)
    return torch.cat([x, channel], dim=1)
