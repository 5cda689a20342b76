"""The texture head of the paper's size: modulated MLP to features, one layer from there to RGB."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from .modulated import ModulatedLinear
from .triplane_mlp import TriplaneMLP

Color = Literal["linear", "sigmoid"]


class TextureField(nn.Module):
    """``planes [B, 3, C, R, R], points [B, P, 3] -> sRGB [B, P, 3]``, nominally in [0, 1].

    Args:
        channels: Of a plane.
        hidden: Width of the hidden layers.
        hidden_layers: Their number.
        features: Width of what ``to_rgb`` reads.
        w_dim: Width of ``w``.
        color: ``linear``: the paper's, -1 to 1 before it is shifted, not bounded; ``sigmoid``:
            bounded.
        clamp: Largest magnitude before the shift, or None.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        hidden_layers: int,
        features: int,
        w_dim: int,
        color: Color,
        clamp: float | None,
    ) -> None:
        super().__init__()
        self.mlp = TriplaneMLP([channels, *[hidden] * hidden_layers, features], w_dim)
        self.to_rgb = ModulatedLinear(features, 3, w_dim, demodulate=False)
        self.color, self.clamp = color, clamp

    @property
    def rows(self) -> int:
        """Rows of w: one a layer of the MLP; ``to_rgb`` reads the last again."""
        return self.mlp.rows

    def forward(
        self, planes: torch.Tensor, rows: torch.Tensor, points: torch.Tensor
    ) -> torch.Tensor:
        """Colours at points; ``rows [B, self.rows, w_dim]``."""
        features = self.mlp.evaluate(planes, rows, points)
        raw = self.to_rgb(features, rows[:, -1])
        if self.clamp is not None:
            raw = raw.clamp(-self.clamp, self.clamp)
        raw = raw.transpose(1, 2)
        return torch.sigmoid(2.0 * raw) if self.color == "sigmoid" else 0.5 * (raw + 1.0)
