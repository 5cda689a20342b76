"""Equalised-learning-rate layers and the minibatch standard deviation.

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
    """Convolution with equalised learning rate: ``[B, C, H, W] -> [B, out, H', W']``.

    Weights are stored in float32 and cast to the dtype of the input.
    """

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
        return self._convolve(x, self.weight * self.weight_scale, self.bias)

    def activated(self, x: torch.Tensor) -> torch.Tensor:
        """``lrelu`` of the layer, holding one tensor where the two calls hold two.

        The gain of the activation goes into the weights, the activation overwrites its input.
        """
        bias = None if self.bias is None else self.bias * LRELU_GAIN
        x = self._convolve(x, self.weight * (self.weight_scale * LRELU_GAIN), bias)
        return F.leaky_relu(x, LRELU_SLOPE, inplace=True)

    def _convolve(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        return F.conv2d(
            x,
            weight.to(x.dtype),
            None if bias is None else bias.to(x.dtype),
            stride=self.stride,
            padding=self.padding,
            groups=self.groups,
        )


def unit_moment(x: torch.Tensor) -> torch.Tensor:
    """Scale the rows of ``x [B, C]`` to a mean square of 1."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


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
