"""The ops on tensors without data (device ``meta``): shapes, what is kept for the backward pass.

With it a training step can be traced without being computed, to know its memory beforehand.
"""

from __future__ import annotations

from typing import Any

import torch

from .backend import Topology


class _Op(torch.autograd.Function):
    """An image out, a gradient for the first input (and the second, if asked), all inputs kept."""

    @staticmethod
    def forward(
        ctx: Any, shape: tuple[int, ...], keep_output: bool, *inputs: torch.Tensor
    ) -> torch.Tensor:
        out = torch.zeros(shape, device="meta")
        ctx.save_for_backward(*inputs, *([out] if keep_output else []))
        ctx.count = len(inputs)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs = ctx.saved_tensors[: ctx.count]
        wanted = ctx.needs_input_grad[2:]
        pairs = zip(inputs, wanted, strict=True)
        return None, None, *(torch.zeros_like(x) if want else None for x, want in pairs)


class ShapesBackend:
    """See :class:`.backend.Backend`; keeps and returns as much as the numba backend does."""

    name = "shapes"

    def rasterize(
        self,
        pos: torch.Tensor,
        tri: torch.Tensor,
        resolution: tuple[int, int],
        ranges: torch.Tensor | None,
        want_db: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``rast [B, H, W, 4]`` and ``rast_db [B, H, W, 4 or 0]``."""
        images = len(pos) if ranges is None else len(ranges)
        rast = _Op.apply((images, *resolution, 4), True, pos, tri)
        return rast, torch.zeros((images, *resolution, 4 if want_db else 0), device="meta")

    def interpolate(
        self, attr: torch.Tensor, rast: torch.Tensor, tri: torch.Tensor
    ) -> torch.Tensor:
        """Return ``[B, H, W, C]``."""
        return _Op.apply((*rast.shape[:3], attr.shape[-1]), False, attr, rast, tri)

    def antialias(
        self,
        color: torch.Tensor,
        rast: torch.Tensor,
        pos: torch.Tensor,
        tri: torch.Tensor,
        topology: Topology,
        pos_gradient_boost: float,
    ) -> torch.Tensor:
        """Return the blended ``color [B, H, W, C]``."""
        return _Op.apply(
            tuple(color.shape), False, color, pos, rast.detach(), tri, topology.opposite
        )

    def build_topology(self, tri: torch.Tensor) -> Topology:
        """Find the neighbours of every triangle."""
        return Topology(torch.zeros(tri.shape, dtype=torch.int32, device="meta"))
