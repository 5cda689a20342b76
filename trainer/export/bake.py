"""Bake a colour field into a texture: texels to surface points, field, seam fill."""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np

ColorField = Callable[[np.ndarray], np.ndarray]

MARGIN = 1.5
"""Texels beyond a chart's edge that are still evaluated, at the nearest point of the chart.

A bilinear look-up at a chart's edge reads texels whose centres lie up to sqrt(2) outside it."""


@numba.njit(cache=True, nogil=True)
def _segment(
    px: float, py: float, ax: float, ay: float, bx: float, by: float
) -> tuple[float, float]:
    """Squared distance from p to the segment a-b, and the parameter of the nearest point."""
    dx, dy = bx - ax, by - ay
    length = dx * dx + dy * dy
    t = 0.0
    if length > 0.0:
        t = min(max(((px - ax) * dx + (py - ay) * dy) / length, 0.0), 1.0)
    ex, ey = px - ax - t * dx, py - ay - t * dy
    return ex * ex + ey * ey, t


@numba.njit(cache=True, nogil=True)
def _nearest(px: float, py: float, tri: np.ndarray, weights: np.ndarray) -> float:
    """Squared distance from p to a 2D triangle ``[3, 2]``; writes the nearest point's weights."""
    ax, ay, bx, by, cx, cy = tri[0, 0], tri[0, 1], tri[1, 0], tri[1, 1], tri[2, 0], tri[2, 1]
    area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
    if area != 0.0:
        wb = ((px - ax) * (cy - ay) - (cx - ax) * (py - ay)) / area
        wc = ((bx - ax) * (py - ay) - (px - ax) * (by - ay)) / area
        wa = 1.0 - wb - wc
        if wa >= 0.0 and wb >= 0.0 and wc >= 0.0:
            weights[0], weights[1], weights[2] = wa, wb, wc
            return 0.0
    best, t = _segment(px, py, ax, ay, bx, by)
    weights[0], weights[1], weights[2] = 1.0 - t, t, 0.0
    d, t = _segment(px, py, bx, by, cx, cy)
    if d < best:
        best = d
        weights[0], weights[1], weights[2] = 0.0, 1.0 - t, t
    d, t = _segment(px, py, cx, cy, ax, ay)
    if d < best:
        best = d
        weights[0], weights[1], weights[2] = t, 0.0, 1.0 - t
    return best


@numba.njit(cache=True, nogil=True)
def _raster(
    texels: np.ndarray,
    vertices: np.ndarray,
    faces: np.ndarray,
    margin: float,
    best: np.ndarray,
    positions: np.ndarray,
) -> None:
    """Write the surface point of each texel centre within ``margin`` of a UV triangle.

    The nearest triangle wins, of equally near ones the first in the list.
    """
    height, width = best.shape
    weights = np.zeros(3)
    tri = np.zeros((3, 2))
    for f in range(len(faces)):
        for k in range(3):
            tri[k, 0], tri[k, 1] = texels[faces[f, k], 0], texels[faces[f, k], 1]
        x0 = max(int(np.floor(tri[:, 0].min() - margin - 0.5)), 0)
        x1 = min(int(np.ceil(tri[:, 0].max() + margin - 0.5)), width - 1)
        y0 = max(int(np.floor(tri[:, 1].min() - margin - 0.5)), 0)
        y1 = min(int(np.ceil(tri[:, 1].max() + margin - 0.5)), height - 1)
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                if best[y, x] == 0.0:
                    continue
                d = _nearest(x + 0.5, y + 0.5, tri, weights)
                if d < best[y, x]:
                    best[y, x] = d
                    for axis in range(3):
                        positions[y, x, axis] = (
                            weights[0] * vertices[faces[f, 0], axis]
                            + weights[1] * vertices[faces[f, 1], axis]
                            + weights[2] * vertices[faces[f, 2], axis]
                        )


def texel_positions(
    vertices: np.ndarray, faces: np.ndarray, uvs: np.ndarray, size: int, margin: float = MARGIN
) -> tuple[np.ndarray, np.ndarray]:
    """The surface point under each texel of a ``size`` x ``size`` texture.

    Args:
        vertices: ``[V, 3]``.
        faces: ``[F, 3]``.
        uvs: ``[V, 2]`` in 0..1, origin bottom-left.
        size: Side of the texture (texels).
        margin: See :data:`MARGIN` (texels).

    Returns:
        Positions float32 ``[size, size, 3]``, row 0 = top, and a bool ``[size, size]`` that says
        which of them are set.
    """
    texels = np.ascontiguousarray(uvs, np.float64) * [1.0, -1.0] * size + [0.0, size]
    # Just above the margin's square, so that a texel at exactly the margin counts.
    best = np.full((size, size), margin * margin + 1e-9)
    positions = np.zeros((size, size, 3), np.float64)
    _raster(
        texels, np.ascontiguousarray(vertices, np.float64), np.ascontiguousarray(faces, np.int64),
        margin, best, positions,
    )  # fmt: skip
    return positions.astype(np.float32), best <= margin * margin


def evaluate(color: ColorField, points: np.ndarray, chunk: int = 65536) -> np.ndarray:
    """``color(points)`` in chunks, clipped to 0..1: float32 ``[P, 3]``.

    Raises:
        ValueError: The field gave a colour that is not finite, or another shape.
    """
    out = np.zeros((len(points), 3), np.float32)
    for start in range(0, len(points), chunk):
        part = points[start : start + chunk]
        values = np.asarray(color(part), np.float32)
        if values.shape != part.shape:
            raise ValueError(f"the colour field gave shape {values.shape} for {part.shape}")
        out[start : start + chunk] = values
    if not np.isfinite(out).all():
        raise ValueError("the colour field gave values that are not finite")
    return np.clip(out, 0.0, 1.0)


def fill_background(texture: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Give every texel outside the charts the colour of the nearest inside.

    The whole background, because mip-maps mix colours from far beyond a fixed border.
    """
    from scipy.ndimage import distance_transform_edt

    if covered.all() or not covered.any():
        return texture
    rows, columns = distance_transform_edt(~covered, return_distances=False, return_indices=True)
    return texture[rows, columns]


def bake(
    vertices: np.ndarray, faces: np.ndarray, uvs: np.ndarray, color: ColorField, size: int
) -> np.ndarray:
    """Bake ``color`` into a texture: opaque uint8 ``[size, size, 4]`` sRGB, row 0 = top.

    Args:
        vertices: ``[V, 3]``.
        faces: ``[F, 3]``.
        uvs: ``[V, 2]`` in 0..1, origin bottom-left.
        color: Field ``[P, 3]`` positions to ``[P, 3]`` sRGB in 0..1.
        size: Side of the texture (texels).

    Raises:
        ValueError: The field gave a colour that is not finite, or another shape.
    """
    positions, covered = texel_positions(vertices, faces, uvs, size)
    values = evaluate(color, positions[covered])
    texture = np.full((size, size, 4), 255, np.uint8)
    texture[covered, :3] = np.round(values * 255.0).astype(np.uint8)
    return fill_background(texture, covered)
