"""The public differentiable ops: input checks, then the backend that fits the device.

Conventions: clip space with y up and visible where |x|, |y|, |z| <= w; images ``[B, H, W, C]`` with
**row 0 at the bottom**; pixel (column i, row j) has its centre at x = (2i + 1)/W - 1,
y = (2j + 1)/H - 1. All arrays are float32, all indices int32. Semantics follow Laine et al. 2020,
"Modular Primitives for High-Performance Differentiable Rendering".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from .backend import Backend, Topology
from .registry import get_backend
from .torch_backend import attribute_derivatives

__all__ = ["Backend", "Topology", "antialias", "build_topology", "interpolate", "rasterize"]


def _check(
    name: str,
    tensor: torch.Tensor,
    dtype: torch.dtype,
    shape: tuple[int | None, ...],
    device: torch.device | None = None,
) -> torch.Tensor:
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"{name} must be a torch.Tensor, not {type(tensor).__name__}")
    if tensor.dtype != dtype:
        raise ValueError(f"{name} must be {dtype}, not {tensor.dtype}")
    fits = tensor.ndim == len(shape) and all(
        want is None or want == got for want, got in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("*" if n is None else str(n) for n in shape)
        raise ValueError(f"{name} must have shape [{wanted}], not {list(tensor.shape)}")
    if device is not None and tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}, the other tensors on {device}")
    return tensor.contiguous()


def _check_pos(pos: torch.Tensor, images: int | None, device: torch.device | None) -> torch.Tensor:
    if isinstance(pos, torch.Tensor) and pos.ndim == 2:
        return _check("pos", pos, torch.float32, (None, 4), device)
    return _check("pos", pos, torch.float32, (images, None, 4), device)


def _check_ranges(ranges: torch.Tensor, triangles: int) -> torch.Tensor:
    ranges = _check("ranges", ranges, torch.int32, (None, 2)).cpu()
    start, count = ranges[:, 0].long(), ranges[:, 1].long()
    if bool(((start < 0) | (count < 0) | (start + count > triangles)).any()):
        raise ValueError(f"ranges must lie within the {triangles} triangles: {ranges.tolist()}")
    return ranges


def rasterize(
    pos: torch.Tensor,
    tri: torch.Tensor,
    resolution: Sequence[int],
    ranges: torch.Tensor | None = None,
    *,
    want_db: bool = False,
    backend: str | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the nearest triangle at every pixel centre, and where on it.

    Both sides of a triangle are drawn. Vertices are snapped to 1/16 pixel for coverage; a pixel
    centre on an edge belongs to the triangle of which it is a left or bottom edge, so that
    neighbours neither overlap nor leave a hole. Of equal depths the later triangle wins. Triangles
    with an index out of range, a vertex that is not finite, or no area are skipped.

    Args:
        pos: float32 ``[B, V, 4]``, clip-space vertices of each image (instance mode), or
            ``[V, 4]`` with ``ranges`` (range mode: every image draws its part of ``tri``).
        tri: int32 ``[T, 3]``, vertex indices.
        resolution: Height and width (pixels).
        ranges: int32 ``[B, 2]``, first triangle and number of triangles of each image; kept on
            the CPU, moved there otherwise.
        want_db: Also compute the screen derivatives of u and v.
        backend: ``"numba"`` (CPU), ``"nvdiffrast"`` (CUDA), ``"torch"`` (any), or None: numba for
            CPU tensors, nvdiffrast for CUDA tensors where it is installed, torch for others.

    Returns:
        ``rast`` float32 ``[B, H, W, 4]``: (u, v, z/w, id). u and v are the perspective-correct
        weights of the triangle's vertices 0 and 1; id is one-based, an index into the whole
        ``tri``, 0 where nothing is drawn (ids above 2**24 are bit patterns, see ``encode_ids``).
        Gradients reach ``pos`` through u and v only (its x, y and w).
        ``rast_db`` float32 ``[B, H, W, 4]``: (du/dX, du/dY, dv/dX, dv/dY) per pixel,
        differentiable in ``pos``; ``[B, H, W, 0]`` unless ``want_db``.

    Raises:
        ValueError: A wrong dtype, shape, device, range or backend.
        MissingDependency: The backend's package is not installed.
    """
    tri = _check("tri", tri, torch.int32, (None, 3))
    pos = _check_pos(pos, None, tri.device)
    if (pos.ndim == 2) != (ranges is not None):
        raise ValueError("pos [V, 4] goes with ranges [B, 2], pos [B, V, 4] without")
    if ranges is not None:
        ranges = _check_ranges(ranges, len(tri))
    height, width = (int(n) for n in resolution)
    if not (0 < height <= 16384 and 0 < width <= 16384):
        raise ValueError(f"resolution must be (height, width) in 1..16384, not {resolution}")
    return get_backend(backend, pos.device).rasterize(pos, tri, (height, width), ranges, want_db)


def interpolate(
    attr: torch.Tensor,
    rast: torch.Tensor,
    tri: torch.Tensor,
    rast_db: torch.Tensor | None = None,
    diff_attrs: Literal["all"] | Sequence[int] | None = None,
    *,
    backend: str | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Vertex attributes at the pixels: ``u A0 + v A1 + (1 - u - v) A2``.

    Args:
        attr: float32 ``[V, C]``, shared by the images, or ``[B or 1, V, C]``.
        rast: float32 ``[B, H, W, 4]`` of :func:`rasterize`.
        tri: int32 ``[T, 3]``, the indices of the attributes (may differ from those of ``pos``).
        rast_db: float32 ``[B, H, W, 4]`` of :func:`rasterize` with ``want_db``.
        diff_attrs: Channels to differentiate in screen space (``"all"`` or their numbers).
        backend: As for :func:`rasterize`.

    Returns:
        ``out`` float32 ``[B, H, W, C]``, 0 where nothing is drawn; differentiable in ``attr`` and
        in u and v of ``rast``.
        ``da`` float32 ``[B, H, W, 2D]``: dA/dX, dA/dY per pixel of each of the D channels in
        turn, differentiable in ``attr`` and ``rast_db``; D = 0 without ``diff_attrs``.

    Raises:
        ValueError: A wrong dtype, shape, device or backend, or ``diff_attrs`` without ``rast_db``.
    """
    rast = _check("rast", rast, torch.float32, (None, None, None, 4))
    tri = _check("tri", tri, torch.int32, (None, 3), rast.device)
    if isinstance(attr, torch.Tensor) and attr.ndim == 2:
        attr = attr[None]
    attr = _check("attr", attr, torch.float32, (None, None, None), rast.device)
    if len(attr) not in (1, len(rast)):
        raise ValueError(f"attr has {len(attr)} images, rast {len(rast)}")
    out = get_backend(backend, rast.device).interpolate(attr, rast, tri)
    if diff_attrs is None:
        return out, out.new_zeros((*out.shape[:3], 0))
    if rast_db is None:
        raise ValueError("diff_attrs needs rast_db: rasterize(..., want_db=True)")
    rast_db = _check("rast_db", rast_db, torch.float32, tuple(rast.shape), rast.device)
    chosen = attr if diff_attrs == "all" else attr[..., list(diff_attrs)]
    return out, attribute_derivatives(chosen, rast, tri, rast_db)


def build_topology(tri: torch.Tensor, *, backend: str | None = None) -> Topology:
    """Find which triangles share an edge, by vertex index (vertices at one place do not count).

    Args:
        tri: int32 ``[T, 3]``; in range mode, of all images.
        backend: As for :func:`rasterize`.

    Returns:
        What :func:`antialias` takes as ``topology``; valid as long as ``tri`` does not change.

    Raises:
        ValueError: A wrong dtype, shape or backend.
    """
    tri = _check("tri", tri, torch.int32, (None, 3))
    return get_backend(backend, tri.device).build_topology(tri)


def antialias(
    color: torch.Tensor,
    rast: torch.Tensor,
    pos: torch.Tensor,
    tri: torch.Tensor,
    *,
    topology: Topology | None = None,
    pos_gradient_boost: float = 1.0,
    backend: str | None = None,
) -> torch.Tensor:
    """Blend pixels across silhouette edges, so that coverage has a gradient to the vertices.

    Two neighbouring pixels with different triangles are blended where a silhouette edge of the
    nearer triangle crosses the line between their centres. The edge must belong to the very
    triangle that a pixel sees: on meshes whose triangles are small beside a pixel few edges
    qualify and little gradient arrives; render larger and average down.

    Args:
        color: float32 ``[B, H, W, C]``.
        rast: float32 ``[B, H, W, 4]`` of :func:`rasterize`; receives no gradient.
        pos: float32 ``[B, V, 4]`` or ``[V, 4]``, as given to :func:`rasterize`.
        tri: int32 ``[T, 3]``, as given to :func:`rasterize`.
        topology: Of :func:`build_topology`; built here if it is None.
        pos_gradient_boost: Factor on the gradient of ``pos``.
        backend: As for :func:`rasterize`.

    Returns:
        float32 ``[B, H, W, C]``, differentiable in ``color`` and ``pos`` (x, y and w).

    Raises:
        ValueError: A wrong dtype, shape, device or backend.
    """
    rast = _check("rast", rast, torch.float32, (None, None, None, 4))
    device = rast.device
    color = _check("color", color, torch.float32, (*rast.shape[:3], None), device)
    tri = _check("tri", tri, torch.int32, (None, 3), device)
    pos = _check_pos(pos, len(rast), device)
    chosen = get_backend(backend, device)
    if topology is None:
        topology = chosen.build_topology(tri)
    _check("topology.opposite", topology.opposite, torch.int32, (len(tri), 3), device)
    return chosen.antialias(color, rast, pos, tri, topology, float(pos_gradient_boost))
