"""Mapping network: z -> w, with a running mean of w for truncation."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from .layers import Linear, lrelu


class MappingNetwork(nn.Module):
    """``z [B, z_dim] -> w [B, w_dim]`` (Karras et al. 2019).

    Args:
        z_dim: Width of the latent code.
        w_dim: Width of ``w`` and of the hidden layers.
        layers: Number of fully connected layers.
        lr_multiplier: Learning-rate multiplier of all layers.
    """

    W_AVG_DECAY = 0.998

    def __init__(self, z_dim: int, w_dim: int, layers: int, lr_multiplier: float = 0.01) -> None:
        super().__init__()
        widths = [z_dim] + [w_dim] * layers
        self.layers = nn.ModuleList(
            Linear(a, b, lr_multiplier=lr_multiplier) for a, b in pairwise(widths)
        )
        self.w_avg: torch.Tensor
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z: torch.Tensor, psi: float = 1.0) -> torch.Tensor:
        """Map ``z``; with ``psi < 1`` pull ``w`` towards its mean (truncation)."""
        w = z * (z.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.layers:
            w = lrelu(layer(w))
        return w if psi == 1.0 else self.w_avg.lerp(w, psi)

    @torch.no_grad()
    def track(self, w: torch.Tensor) -> None:
        """Move ``w_avg`` towards the mean of a batch of ``w`` (decay 0.998)."""
        self.w_avg.lerp_(w.detach().mean(dim=0), 1.0 - self.W_AVG_DECAY)
