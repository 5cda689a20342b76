"""Kernels that work pixel by pixel: barycentrics, interpolation and their gradients.

One call handles one image (row 0 = bottom) and releases the GIL. Sums are in float64.
"""

from __future__ import annotations

import numpy as np

from .coverage import LAST_ID, NOTHING
from .parallel import kernel


@kernel
def barycentric_image(
    pos: np.ndarray, tri: np.ndarray, keys: np.ndarray, ids: np.ndarray, rast: np.ndarray
) -> None:
    """From the keys of ``coverage.visible_image`` to u, v, z/w and id.

    Args:
        pos: float32 ``[V, 4]``.
        tri: int32 ``[T, 3]``.
        keys: int64 ``[H, W + KEY_PADDING]``.
        ids: int32 ``[H, W]`` zeros, receives the one-based ids.
        rast: float32 ``[H, W, 4]`` zeros, receives u, v, z/w and the id as a float.
    """
    height, width = ids.shape
    for py in range(height):
        fy = (2 * py + 1) / height - 1.0
        for px in range(width):
            key = keys[py, px]
            if key == NOTHING:
                continue
            label = LAST_ID - (key & LAST_ID)
            fx = (2 * px + 1) / width - 1.0
            i0, i1, i2 = tri[label - 1, 0], tri[label - 1, 1], tri[label - 1, 2]
            w0, w1, w2 = np.float64(pos[i0, 3]), np.float64(pos[i1, 3]), np.float64(pos[i2, 3])
            x0, y0 = pos[i0, 0] - fx * w0, pos[i0, 1] - fy * w0
            x1, y1 = pos[i1, 0] - fx * w1, pos[i1, 1] - fy * w1
            x2, y2 = pos[i2, 0] - fx * w2, pos[i2, 1] - fy * w2
            a0 = x1 * y2 - y1 * x2
            a1 = x2 * y0 - y2 * x0
            a2 = x0 * y1 - y0 * x1
            total = a0 + a1 + a2
            w = a0 * w0 + a1 * w1 + a2 * w2
            u = v = z = 0.0
            if total != 0.0:
                inverse = 1.0 / total
                u = min(1.0, max(0.0, a0 * inverse))
                v = min(1.0, max(0.0, a1 * inverse))
                if u + v > 1.0:
                    u, v = u / (u + v), v / (u + v)
            if w != 0.0:
                z = (a0 * pos[i0, 2] + a1 * pos[i1, 2] + a2 * pos[i2, 2]) / w
                z = min(1.0, max(-1.0, z))
            ids[py, px] = label
            rast[py, px, 0] = u
            rast[py, px, 1] = v
            rast[py, px, 2] = z
            rast[py, px, 3] = label


@kernel
def rasterize_image_grad(
    pos: np.ndarray,
    tri: np.ndarray,
    ids: np.ndarray,
    grad_rast: np.ndarray,
    low: int,
    grad_pos: np.ndarray,
) -> None:
    """Add the gradient of u and v to ``grad_pos`` float64 ``[n, 4]`` (row 0 = vertex ``low``)."""
    height, width = ids.shape
    for py in range(height):
        fy = (2 * py + 1) / height - 1.0
        for px in range(width):
            label = ids[py, px]
            gu, gv = np.float64(grad_rast[py, px, 0]), np.float64(grad_rast[py, px, 1])
            if label == 0 or (gu == 0.0 and gv == 0.0):
                continue
            fx = (2 * px + 1) / width - 1.0
            i0, i1, i2 = tri[label - 1, 0], tri[label - 1, 1], tri[label - 1, 2]
            w0, w1, w2 = np.float64(pos[i0, 3]), np.float64(pos[i1, 3]), np.float64(pos[i2, 3])
            x0, y0 = pos[i0, 0] - fx * w0, pos[i0, 1] - fy * w0
            x1, y1 = pos[i1, 0] - fx * w1, pos[i1, 1] - fy * w1
            x2, y2 = pos[i2, 0] - fx * w2, pos[i2, 1] - fy * w2
            a0 = x1 * y2 - y1 * x2
            a1 = x2 * y0 - y2 * x0
            a2 = x0 * y1 - y0 * x1
            total = a0 + a1 + a2
            # The epsilon keeps triangles of almost no area from blowing up the gradient.
            inverse = 1.0 / (total + np.copysign(1e-6, total))
            mean = (gu * a0 + gv * a1) * inverse
            g0, g1, g2 = (gu - mean) * inverse, (gv - mean) * inverse, -mean * inverse
            gx0, gy0 = g2 * y1 - g1 * y2, g1 * x2 - g2 * x1
            gx1, gy1 = g0 * y2 - g2 * y0, g2 * x0 - g0 * x2
            gx2, gy2 = g1 * y0 - g0 * y1, g0 * x1 - g1 * x0
            grad_pos[i0 - low, 0] += gx0
            grad_pos[i0 - low, 1] += gy0
            grad_pos[i0 - low, 3] -= fx * gx0 + fy * gy0
            grad_pos[i1 - low, 0] += gx1
            grad_pos[i1 - low, 1] += gy1
            grad_pos[i1 - low, 3] -= fx * gx1 + fy * gy1
            grad_pos[i2 - low, 0] += gx2
            grad_pos[i2 - low, 1] += gy2
            grad_pos[i2 - low, 3] -= fx * gx2 + fy * gy2


@kernel
def interpolate_image(
    attr: np.ndarray, rast: np.ndarray, ids: np.ndarray, tri: np.ndarray, out: np.ndarray
) -> None:
    """Fill ``out`` float32 ``[H, W, C]`` (zeros) with ``attr`` ``[V, C]`` at the covered pixels."""
    height, width, channels = out.shape
    for py in range(height):
        for px in range(width):
            t = ids[py, px] - 1
            if t < 0 or t >= len(tri):
                continue
            i0, i1, i2 = tri[t, 0], tri[t, 1], tri[t, 2]
            if min(i0, i1, i2) < 0 or max(i0, i1, i2) >= len(attr):
                continue
            u, v = rast[py, px, 0], rast[py, px, 1]
            s = np.float32(1.0) - u - v
            for c in range(channels):
                out[py, px, c] = u * attr[i0, c] + v * attr[i1, c] + s * attr[i2, c]


@kernel
def interpolate_image_grad(
    attr: np.ndarray,
    rast: np.ndarray,
    ids: np.ndarray,
    tri: np.ndarray,
    grad_out: np.ndarray,
    low: int,
    grad_attr: np.ndarray,
    grad_rast: np.ndarray,
) -> None:
    """Gradients of :func:`interpolate_image`.

    Args:
        attr: float32 ``[V, C]``.
        rast: float32 ``[H, W, 4]``.
        ids: int32 ``[H, W]``.
        tri: int32 ``[T, 3]``.
        grad_out: float32 ``[H, W, C]``.
        low: Vertex of row 0 of ``grad_attr``.
        grad_attr: float64 ``[n, C]``, added to; ``n = 0`` where it is not wanted.
        grad_rast: float32 ``[H, W, 4]``, channels 0 and 1 are written.
    """
    height, width, channels = grad_out.shape
    wanted = len(grad_attr) > 0
    for py in range(height):
        for px in range(width):
            t = ids[py, px] - 1
            if t < 0 or t >= len(tri):
                continue
            i0, i1, i2 = tri[t, 0], tri[t, 1], tri[t, 2]
            if min(i0, i1, i2) < 0 or max(i0, i1, i2) >= len(attr):
                continue
            u, v = rast[py, px, 0], rast[py, px, 1]
            s = np.float32(1.0) - u - v
            gu = gv = 0.0
            for c in range(channels):
                g = grad_out[py, px, c]
                gu += g * (attr[i0, c] - attr[i2, c])
                gv += g * (attr[i1, c] - attr[i2, c])
                if wanted:
                    grad_attr[i0 - low, c] += u * g
                    grad_attr[i1 - low, c] += v * g
                    grad_attr[i2 - low, c] += s * g
            grad_rast[py, px, 0] = gu
            grad_rast[py, px, 1] = gv
