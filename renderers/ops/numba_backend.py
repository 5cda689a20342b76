"""The CPU backend: compiled kernels behind ``torch.autograd.Function``.

Images are spread over ``torch.get_num_threads()`` threads. Each image sums its gradients in a
buffer of its own and the buffers are added in the order of the images, so that the result is the
same, bit for bit, for any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .antialiasing import (
    ITEM_FIELDS,
    antialias_image,
    antialias_image_grad,
    opposite_vertices,
)
from .backend import Topology
from .coverage import pixel_span
from .kernels import decode_ids, interpolate_numpy, rasterize_numpy
from .parallel import each_image
from .pixels import interpolate_image_grad, rasterize_image_grad
from .torch_backend import barycentric_derivatives


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _image(array: np.ndarray, image: int) -> np.ndarray:
    # Vertices of one image: [B, V, C] has its own, [V, C] and [1, V, C] are shared.
    return array if array.ndim == 2 else array[image if len(array) > 1 else 0]


def _sum_images(
    array: np.ndarray,
    count: int,
    span: Callable[[int], tuple[int, int]],
    fill: Callable[[int, int, np.ndarray], None],
) -> torch.Tensor:
    # Gradient of vertices `array`: fill(image, low, buffer) adds one image's share into rows
    # low .. high of it, span(image) -> (low, high).
    parts: list[tuple[int, np.ndarray]] = [(0, np.zeros((0, 0)))] * count

    def job(image: int) -> None:
        low, high = span(image)
        buffer = np.zeros((high - low, array.shape[-1]))
        if high > low:
            fill(image, low, buffer)
        parts[image] = (low, buffer)

    each_image(job, count, torch.get_num_threads())
    total = np.zeros(array.shape, dtype=np.float64)
    for image, (low, buffer) in enumerate(parts):
        if len(buffer):
            _image(total, image)[low : low + len(buffer)] += buffer
    return torch.from_numpy(total.astype(np.float32))


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        pos: torch.Tensor,
        tri: torch.Tensor,
        resolution: tuple[int, int],
        ranges: torch.Tensor | None,
    ) -> torch.Tensor:
        rast = torch.from_numpy(
            rasterize_numpy(
                _numpy(pos),
                _numpy(tri),
                *resolution,
                ranges=None if ranges is None else _numpy(ranges),
                threads=torch.get_num_threads(),
            )
        )
        ctx.save_for_backward(pos, tri, rast)
        return rast

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        pos, tri, rast = (_numpy(t) for t in ctx.saved_tensors)
        grad = _numpy(grads[0])
        ids = decode_ids(rast[..., 3])

        def fill(image: int, low: int, buffer: np.ndarray) -> None:
            rasterize_image_grad(_image(pos, image), tri, ids[image], grad[image], low, buffer)

        def span(image: int) -> tuple[int, int]:
            return pixel_span(ids[image], tri, pos.shape[-2])

        return _sum_images(pos, len(ids), span, fill), None, None, None


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, attr: torch.Tensor, rast: torch.Tensor, tri: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(attr, rast, tri)
        out = interpolate_numpy(_numpy(attr), _numpy(rast), _numpy(tri), torch.get_num_threads())
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        attr, rast, tri = (_numpy(t) for t in ctx.saved_tensors)
        grad = _numpy(grads[0])
        ids = decode_ids(rast[..., 3])
        grad_rast = np.zeros_like(rast)
        wanted = ctx.needs_input_grad[0]

        def fill(image: int, low: int, buffer: np.ndarray) -> None:
            interpolate_image_grad(
                _image(attr, image),
                rast[image],
                ids[image],
                tri,
                grad[image],
                low,
                buffer if wanted else buffer[:0],
                grad_rast[image],
            )

        def span(image: int) -> tuple[int, int]:
            return pixel_span(ids[image], tri, attr.shape[-2])

        grad_attr = _sum_images(attr, len(ids), span, fill)
        return (
            grad_attr if wanted else None,
            torch.from_numpy(grad_rast) if ctx.needs_input_grad[1] else None,
            None,
        )


class _Antialias(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        color: torch.Tensor,
        rast: torch.Tensor,
        pos: torch.Tensor,
        tri: torch.Tensor,
        opposite: torch.Tensor,
        boost: float,
    ) -> torch.Tensor:
        pixels, drawn, vertices, faces, across = (
            _numpy(t) for t in (color, rast, pos, tri, opposite)
        )
        count, height, width = pixels.shape[:3]
        out = pixels.copy()
        keep_idle = bool(ctx.needs_input_grad[0])
        blends: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros(0), np.zeros(0))] * count

        def job(image: int) -> None:
            items = np.zeros((2 * height * width, ITEM_FIELDS), dtype=np.int32)
            alphas = np.zeros(2 * height * width, dtype=np.float32)
            used = antialias_image(
                pixels[image],
                drawn[image],
                decode_ids(drawn[image, ..., 3]),
                _image(vertices, image),
                faces,
                across,
                keep_idle,
                out[image],
                items,
                alphas,
            )
            # A copy: a view would keep the whole worst-case buffer alive until the backward pass.
            blends[image] = (items[:used].copy(), alphas[:used].copy())

        each_image(job, count, torch.get_num_threads())
        ctx.save_for_backward(color, pos)
        ctx.blends, ctx.boost = blends, boost
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        color, pos = (_numpy(t) for t in ctx.saved_tensors)
        grad = _numpy(grads[0])
        for_color, wanted = ctx.needs_input_grad[0], ctx.needs_input_grad[2]
        grad_color = grad.copy() if for_color else grad[:, :0]

        def fill(image: int, low: int, buffer: np.ndarray) -> None:
            antialias_image_grad(
                color[image],
                grad[image],
                _image(pos, image),
                *ctx.blends[image],
                ctx.boost,
                low,
                grad_color[image],
                buffer if wanted else buffer[:0],
            )

        def span(image: int) -> tuple[int, int]:
            edges = ctx.blends[image][0][:, 2:]
            return (int(edges.min()), int(edges.max()) + 1) if len(edges) else (0, 0)

        grad_pos = _sum_images(pos, len(grad), span, fill)
        return (
            torch.from_numpy(grad_color) if for_color else None,
            None,
            grad_pos if wanted else None,
            None,
            None,
            None,
        )


class NumbaBackend:
    """Kernels compiled on first use and cached on disk; CPU tensors only."""

    name = "numba"

    def rasterize(
        self,
        pos: torch.Tensor,
        tri: torch.Tensor,
        resolution: tuple[int, int],
        ranges: torch.Tensor | None,
        want_db: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See :class:`.backend.Backend`."""
        rast = _Rasterize.apply(pos, tri, resolution, ranges)
        if not want_db:
            return rast, rast.new_zeros((*rast.shape[:3], 0))
        return rast, barycentric_derivatives(pos, tri, rast.detach())

    def interpolate(
        self, attr: torch.Tensor, rast: torch.Tensor, tri: torch.Tensor
    ) -> torch.Tensor:
        """See :class:`.backend.Backend`."""
        return _Interpolate.apply(attr, rast, tri)

    def antialias(
        self,
        color: torch.Tensor,
        rast: torch.Tensor,
        pos: torch.Tensor,
        tri: torch.Tensor,
        topology: Topology,
        pos_gradient_boost: float,
    ) -> torch.Tensor:
        """See :class:`.backend.Backend`."""
        return _Antialias.apply(
            color, rast.detach(), pos, tri, topology.opposite, pos_gradient_boost
        )

    def build_topology(self, tri: torch.Tensor) -> Topology:
        """See :class:`.backend.Backend`."""
        opposite = np.zeros(tuple(tri.shape), dtype=np.int32)
        opposite_vertices(_numpy(tri), opposite)
        return Topology(torch.from_numpy(opposite))
