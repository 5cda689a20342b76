"""Exponential moving average of a generator's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


def averaged_copy(net: nn.Module) -> nn.Module:
    """A copy for inference that never takes a gradient."""
    return copy.deepcopy(net).requires_grad_(False).eval()


@torch.no_grad()
def update_average(
    average: nn.Module, net: nn.Module, *, batch: int, nimg: int, half_life: float, rampup: float
) -> None:
    """Move ``average`` towards ``net`` by one step; buffers are copied.

    The weight of the past is ``0.5 ** (batch / h)`` with half-life ``h`` in images, at most the
    share ``rampup`` of the images shown so far (Karras et al. 2020, StyleGAN2-ADA).
    """
    if rampup > 0:
        half_life = min(half_life, nimg * rampup)
    decay = 0.5 ** (batch / max(half_life, 1e-8))
    targets: list[torch.Tensor] = list(average.parameters())
    sources: list[torch.Tensor] = list(net.parameters())
    torch._foreach_lerp_(targets, sources, 1.0 - decay)
    for target, source in zip(average.buffers(), net.buffers(), strict=True):
        target.copy_(source)
