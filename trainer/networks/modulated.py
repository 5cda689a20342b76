"""Modulated layers: their weights are scaled by a style and, as a rule, normalised again.

Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN", section 2.2, equations
1 and 3: a style ``s = A w`` scales the input channels; demodulation rescales every output channel
to unit expected variance. Axis letters: B batch, C channels, P points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from .layers import Linear, lrelu
from .resample import Up, enlarge, upfirdn

NoiseMode = Literal["none", "const", "random"]
EPS = 1e-8


class ModulatedConv(nn.Module):
    """Modulated convolution of images (``dims=2``) or volumes (``dims=3``).

    Two forms with equal results: scale the activations (shared weights, any batch), or make each
    sample's own weights and run one grouped convolution (``fused``; stores fewer activations).
    Weights stay float32 and are cast to the dtype of ``x``; styles and norms are computed in
    float32.

    Args:
        channels_in: Input channels.
        channels_out: Output channels.
        kernel: Odd kernel width.
        w_dim: Width of ``w``.
        dims: 2 or 3.
        demodulate: Off for the 1x1 heads, whose style is scaled by ``1 / sqrt(channels_in)``
            instead.
        gain: Scales the initial output of a layer that is not demodulated.
        up: Enlarge by two first; ``fir`` needs a 3x3 kernel and ``dims=2``.
        fused: Per-sample weights.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        w_dim: int,
        *,
        dims: int = 2,
        demodulate: bool = True,
        gain: float = 1.0,
        up: Up = "none",
        fused: bool = False,
    ) -> None:
        super().__init__()
        if up == "fir" and (kernel, dims) != (3, 2):
            raise ValueError(f"up='fir' is for 3x3 kernels, not {kernel} in {dims} dimensions")
        self.weight = nn.Parameter(torch.randn(channels_out, channels_in, *[kernel] * dims))
        self.bias = nn.Parameter(torch.zeros(channels_out))
        self.style = Linear(w_dim, channels_in, bias=1.0)
        self.dims, self.demodulate, self.up, self.fused = dims, demodulate, up, fused
        self.weight_scale = gain / math.sqrt(channels_in * kernel**dims)
        self.padding = kernel // 2

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """``x [B, C, ...], w [B, w_dim] -> [B, out, ...]``."""
        if self.up == "linear":
            x = enlarge(x)
        style = self.style(w)  # [B, C]
        weight = self.weight * self.weight_scale
        if x.dtype == torch.float16 and self.demodulate:
            # Demodulation cancels both factors; with them nothing overflows on the way.
            style = style / (style.abs().amax(dim=1, keepdim=True) + EPS)
            weight = weight / (weight.abs().amax(dim=(1, *self._taps()), keepdim=True) + EPS)
        x = self._per_sample(x, weight, style) if self.fused else self._shared(x, weight, style)
        return x + self._spread(self.bias.to(x.dtype))

    def _shared(self, x: torch.Tensor, weight: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        x = self._convolve(x * self._spread(style.to(x.dtype)), weight.to(x.dtype))
        if not self.demodulate:
            return x
        power = weight.square().sum(dim=self._taps()) @ style.square().t()  # [out, B]
        return x * self._spread((power.t() + EPS).rsqrt().to(x.dtype))

    def _per_sample(
        self, x: torch.Tensor, weight: torch.Tensor, style: torch.Tensor
    ) -> torch.Tensor:
        batch = len(x)
        weight = weight[None] * self._spread(style)[:, None]  # [B, out, C, ...]
        if self.demodulate:
            power = weight.square().flatten(2).sum(dim=2)  # [B, out]
            weight = weight * (power + EPS).rsqrt().reshape(*power.shape, 1, *[1] * self.dims)
        weight = weight.flatten(0, 1).to(x.dtype)
        y = self._convolve(x.reshape(1, -1, *x.shape[2:]), weight, groups=batch)
        return y.reshape(batch, -1, *y.shape[2:])

    def _convolve(self, x: torch.Tensor, weight: torch.Tensor, groups: int = 1) -> torch.Tensor:
        if self.up == "fir":
            return _enlarged_convolution(x, weight, groups)
        convolve = F.conv2d if self.dims == 2 else F.conv3d
        return convolve(x, weight, padding=self.padding, groups=groups)

    def _taps(self) -> tuple[int, ...]:
        return tuple(range(2, 2 + self.dims))

    def _spread(self, channels: torch.Tensor) -> torch.Tensor:
        """``[..., C] -> [..., C, 1, 1]`` (or three ones): broadcast over positions."""
        return channels[(..., *[None] * self.dims)]


def _enlarged_convolution(x: torch.Tensor, weight: torch.Tensor, groups: int) -> torch.Tensor:
    """Enlarge by the filter, then convolve 3x3, in the cheaper order.

    Both are convolutions of the image with zeros in between, so they commute: the 3x3 kernel goes
    first, as a transposed convolution that skips the zeros (a quarter of the multiplications).
    """
    if groups > 1:
        out = weight.shape[0] // groups
        weight = weight.reshape(groups, out, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)
    else:
        weight = weight.transpose(0, 1)
    x = F.conv_transpose2d(x, weight.flip(2, 3), stride=2, groups=groups)
    return upfirdn(x, pad=(1, 1), gain=2.0)


class NoiseInput(nn.Module):
    """Adds noise times a learned strength, which starts at zero.

    ``const`` is one pattern drawn at construction and stored with the weights: the same code gives
    the same object from every camera. ``random`` is new at every call (torch's default generator).
    """

    def __init__(self, resolution: int, mode: NoiseMode) -> None:
        super().__init__()
        self.mode = mode
        self.strength = nn.Parameter(torch.zeros(()))
        self.pattern: torch.Tensor
        self.register_buffer("pattern", torch.randn(resolution, resolution))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x [B, C, R, R]`` with the noise added, the same in all channels."""
        if self.mode == "none":
            return x
        pattern = self.pattern
        if self.mode == "random":
            pattern = torch.randn(len(x), 1, *x.shape[2:], device=x.device)
        return x + (pattern * self.strength).to(x.dtype)


class StyledConv(ModulatedConv):
    """Modulated convolution, noise, leaky ReLU, clamp.

    Args:
        channels_in: Input channels.
        channels_out: Output channels.
        kernel: Odd kernel width.
        w_dim: Width of ``w``.
        dims: 2 or 3.
        up: As in :class:`ModulatedConv`.
        fused: As in :class:`ModulatedConv`.
        noise: Side of the noise pattern and where its values come from; None for a layer without.
        clamp: Largest magnitude of the output, or None. Keeps float16 from overflowing.
        gain: Scales the output (after the activation, before the clamp).
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        w_dim: int,
        *,
        dims: int = 2,
        up: Up = "none",
        fused: bool = False,
        noise: tuple[int, NoiseMode] | None = None,
        clamp: float | None = None,
        gain: float = 1.0,
    ) -> None:
        super().__init__(channels_in, channels_out, kernel, w_dim, dims=dims, up=up, fused=fused)
        self.noise = None if noise is None else NoiseInput(*noise)
        self.clamp, self.gain = clamp, gain

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """``x [B, C, ...], w [B, w_dim] -> [B, out, ...]``."""
        x = super().forward(x, w)
        if self.noise is not None:
            x = self.noise(x)
        x = lrelu(x)
        if self.gain != 1.0:
            x = x * self.gain
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class ModulatedLinear(nn.Module):
    """Modulated fully connected layer at points: ``x [B, in, P], w [B, w_dim] -> [B, out, P]``.

    Each sample has its own weight matrix, all of a batch in one batched product.

    Args:
        features_in: Input width.
        features_out: Output width.
        w_dim: Width of ``w``.
        demodulate: Norm of every row of the matrix is 1, also in a last, linear layer: the scale of
            the output follows that of the input alone. Without it the style is scaled by
            ``1 / sqrt(features_in)``.
    """

    def __init__(
        self, features_in: int, features_out: int, w_dim: int, *, demodulate: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features_out, features_in))
        self.bias = nn.Parameter(torch.zeros(features_out))
        self.style = Linear(w_dim, features_in, bias=1.0)
        self.demodulate = demodulate
        self.weight_scale = 1 / math.sqrt(features_in)

    def matrices(self, w: torch.Tensor) -> torch.Tensor:
        """The weights of each sample ``[B, out, in]``."""
        matrix = self.weight * self.weight_scale * self.style(w)[:, None]
        if self.demodulate:
            matrix = matrix * (matrix.square().sum(dim=2, keepdim=True) + EPS).rsqrt()
        return matrix

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """Apply the layer."""
        return torch.baddbmm(self.bias[:, None], self.matrices(w), x)


class ModulatedMLP(nn.Module):
    """Modulated layers with leaky ReLU between them; the last is linear.

    Args:
        widths: Input, hidden layers, output.
        w_dim: Width of ``w``.
    """

    def __init__(self, widths: Sequence[int], w_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ModulatedLinear(a, b, w_dim) for a, b in pairwise(widths))

    @property
    def rows(self) -> int:
        """Rows of ``w`` that it reads, one a layer."""
        return len(self.layers)

    @property
    def first(self) -> ModulatedLinear:
        """The first layer."""
        layer = self.layers[0]
        assert isinstance(layer, ModulatedLinear)
        return layer

    def forward(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """``x [B, in, P], rows [B, >= layers, w_dim] -> [B, out, P]``; first rows are used."""
        return self._rest(self.layers[0](x, rows[:, 0]), rows)

    def after_first(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """All but the matrix of the first layer, by which ``x [B, hidden, P]`` was multiplied.

        For callers that apply that linear step before they interpolate: the two commute.
        """
        return self._rest(x + self.first.bias[:, None], rows)

    def _rest(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        for layer, w in zip(list(self.layers)[1:], rows.unbind(1)[1:], strict=False):
            x = layer(lrelu(x), w)
        return x
