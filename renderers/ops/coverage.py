"""Kernels that find which triangle each pixel centre sees, one image a call, GIL released.

Images are ``[H, W]`` with row 0 at the bottom (clip-space y = -1). What decides something
(coverage, depth order) is written so that the torch backend can repeat it operation by operation:
integers, no fastmath, no fused multiply-add. Rules: ``functional.rasterize``; method: Laine et al.
2020, "Modular Primitives for High-Performance Differentiable Rendering".
"""

from __future__ import annotations

import numpy as np

from .parallel import kernel

INVALID = 64
MIN_W = 1e-30
NOTHING = np.int64((1 << 63) - 1)
"""Key of a pixel that sees no triangle."""
LAST_ID = np.int64((1 << 31) - 1)
CHUNK = 2  # pixels of a row looked at together
KEY_PADDING = CHUNK - 1
"""Columns that a buffer of keys has beyond those of the image."""
HALF_DEPTH = 0.5 * 4294967295.0


@kernel
def vertex_span(tri: np.ndarray, start: int, count: int, vertices: int) -> tuple[int, int]:
    """Smallest ``(low, high)`` with every valid vertex of the triangles in ``low <= v < high``."""
    low, high = vertices, 0
    for t in range(start, start + count):
        for k in range(3):
            v = tri[t, k]
            if 0 <= v < vertices:
                low = min(low, v)
                high = max(high, v + 1)
    return min(low, high), high


@kernel
def label_range(ids: np.ndarray) -> tuple[int, int]:
    """Triangles ``low .. high - 1`` that the one-based ``ids`` int32 ``[H, W]`` show."""
    low, high = np.int32(LAST_ID), np.int32(0)
    for y in range(ids.shape[0]):
        for x in range(ids.shape[1]):
            label = ids[y, x]
            low = min(low, label if label > 0 else np.int32(LAST_ID))
            high = max(high, label)
    return min(int(low) - 1, int(high)), int(high)


@kernel
def pixel_span(ids: np.ndarray, tri: np.ndarray, vertices: int) -> tuple[int, int]:
    """:func:`vertex_span` of the triangles that ``ids`` int32 ``[H, W]`` shows."""
    low, high = label_range(ids)
    high = min(high, len(tri))
    return vertex_span(tri, low, max(0, high - low), vertices)


@kernel
def _fill(
    x0: int, y0: int, z0: float,
    x1: int, y1: int, z1: float,
    x2: int, y2: int, z2: float,
    label: int, width: int, keys: np.ndarray,
) -> None:  # fmt: skip
    # Coordinates are 1/16 pixel from the centre of the viewport; z is z/w in [-1, 1].
    height = keys.shape[0]
    left, bottom = 8 - 8 * width, 8 - 8 * height  # centre of pixel (0, 0)
    px0 = max(0, (min(x0, x1, x2) - left + 15) >> 4)
    px1 = min(width - 1, (max(x0, x1, x2) - left) >> 4)
    py0 = max(0, (min(y0, y1, y2) - bottom + 15) >> 4)
    py1 = min(height - 1, (max(y0, y1, y2) - bottom) >> 4)
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    if px0 > px1 or py0 > py1 or area == 0:
        return
    if area < 0:
        x1, x2 = x2, x1
        y1, y2 = y2, y1
        z1, z2 = z2, z1
        area = -area
    # Edge k is opposite vertex k and its function is positive inside.
    ax, ay = x2 - x1, y2 - y1
    bx, by = x0 - x2, y0 - y2
    cx, cy = x1 - x0, y1 - y0
    # Left and bottom edges own the pixels that lie on them.
    aleast = 1.0 if ay > 0 or (ay == 0 and ax <= 0) else 0.0
    bleast = 1.0 if by > 0 or (by == 0 and bx <= 0) else 0.0
    cleast = 1.0 if cy > 0 or (cy == 0 and cx <= 0) else 0.0
    fx, fy = left + 16 * px0, bottom + 16 * py0
    # From here in float64, which holds these integers exactly and need not be converted for z.
    a = np.float64(ax * (fy - y1) - ay * (fx - x1))
    b = np.float64(bx * (fy - y2) - by * (fx - x2))
    c = np.float64(cx * (fy - y0) - cy * (fx - x0))
    aright, aup = np.float64(-16 * ay), np.float64(16 * ax)
    bright, bup = np.float64(-16 * by), np.float64(16 * bx)
    cright, cup = np.float64(-16 * cy), np.float64(16 * cx)
    scale = HALF_DEPTH / area
    z0, z1, z2 = z0 * scale, z1 * scale, z2 * scale
    low = LAST_ID - label
    # Triangles are mostly some pixels in size, and whether a pixel is inside cannot be foreseen:
    # pairs of pixels without a branch take half the time of single ones with it. A pixel beyond
    # px1 is outside the triangle, or in the padding.
    for py in range(py0, py1 + 1):
        aleft, bleft, cleft = a, b, c
        for px in range(px0, px1 + 1, CHUNK):
            for i in range(CHUNK):
                ai, bi, ci = aleft + i * aright, bleft + i * bright, cleft + i * cright
                key = (np.int64(z0 * ai + z1 * bi + z2 * ci + HALF_DEPTH) << 31) | low
                key = key if (ai >= aleast) & (bi >= bleast) & (ci >= cleast) else NOTHING
                before = keys[py, px + i]
                # The smaller one, by arithmetic: a comparison would be compiled into a branch.
                keys[py, px + i] = before + ((key - before) & ((key - before) >> 63))
            aleft += CHUNK * aright
            bleft += CHUNK * bright
            cleft += CHUNK * cright
        a += aup
        b += bup
        c += cup


@kernel
def _clip(pos: np.ndarray, i0: int, i1: int, i2: int, polygon: np.ndarray) -> int:
    # Sutherland-Hodgman against the six frustum planes; returns the number of corners.
    scratch = np.zeros((9, 4))
    for k in range(4):
        polygon[0, k] = pos[i0, k]
        polygon[1, k] = pos[i1, k]
        polygon[2, k] = pos[i2, k]
    count = 3
    for plane in range(6):
        axis = plane >> 1
        sign = 1.0 if plane & 1 == 0 else -1.0
        kept = 0
        for i in range(count):
            j = i + 1 if i + 1 < count else 0
            di = polygon[i, 3] + sign * polygon[i, axis]
            dj = polygon[j, 3] + sign * polygon[j, axis]
            if di >= 0.0:
                for k in range(4):
                    scratch[kept, k] = polygon[i, k]
                kept += 1
            if (di >= 0.0) != (dj >= 0.0):
                # From the inside out, so that two triangles cut their common edge alike.
                p, q, s = (i, j, di / (di - dj)) if di >= 0.0 else (j, i, dj / (dj - di))
                for k in range(4):
                    scratch[kept, k] = polygon[p, k] + s * (polygon[q, k] - polygon[p, k])
                kept += 1
        count = kept
        for i in range(count):
            for k in range(4):
                polygon[i, k] = scratch[i, k]
    return count


@kernel
def _fill_clipped(
    pos: np.ndarray,
    i0: int,
    i1: int,
    i2: int,
    label: int,
    width: int,
    keys: np.ndarray,
) -> None:
    height = keys.shape[0]
    polygon = np.zeros((9, 4))
    count = _clip(pos, i0, i1, i2, polygon)
    screen = np.zeros((9, 2), dtype=np.int64)
    for i in range(count):
        if polygon[i, 3] < MIN_W:
            return
        # In float32, as whole triangles are: an edge between the two kinds must not open.
        x, y = np.float32(polygon[i, 0]), np.float32(polygon[i, 1])
        inverse = np.float32(1.0) / np.float32(polygon[i, 3])
        screen[i, 0] = np.int64(np.rint(x * inverse * np.float32(width * 8)))
        screen[i, 1] = np.int64(np.rint(y * inverse * np.float32(height * 8)))
        polygon[i, 2] = min(1.0, max(-1.0, polygon[i, 2] / polygon[i, 3]))
    for i in range(2, count):
        _fill(
            screen[0, 0],
            screen[0, 1],
            polygon[0, 2],
            screen[i - 1, 0],
            screen[i - 1, 1],
            polygon[i - 1, 2],
            screen[i, 0],
            screen[i, 1],
            polygon[i, 2],
            label,
            width,
            keys,
        )


@kernel
def _outcode(x: float, y: float, z: float, w: float) -> int:
    # One bit for each frustum plane that the vertex is beyond.
    if abs(x) <= w and abs(y) <= w and abs(z) <= w and MIN_W <= w < np.inf:
        return 0
    if not (np.isfinite(x) and np.isfinite(y) and np.isfinite(z) and np.isfinite(w)):
        return INVALID
    code = 0
    if x < -w:
        code |= 1
    if x > w:
        code |= 2
    if y < -w:
        code |= 4
    if y > w:
        code |= 8
    if z < -w:
        code |= 16
    if z > w:
        code |= 32
    if code == 0 and w < MIN_W:
        return INVALID
    return code


@kernel
def visible_image(
    pos: np.ndarray, tri: np.ndarray, start: int, count: int, width: int, keys: np.ndarray
) -> None:
    """Find the nearest triangle at every pixel centre; of equally near ones the last.

    Args:
        pos: float32 ``[V, 4]``, clip space.
        tri: int32 ``[T, 3]``; only ``start .. start + count`` are drawn.
        start: First triangle.
        count: Number of triangles.
        width: Columns of the image, W.
        keys: int64 ``[H, W + KEY_PADDING]``, all ``NOTHING``; becomes the smallest key of each
            pixel: z/w as 32-bit fixed point, then 31 bits of ``LAST_ID`` minus one-based id.
    """
    height = keys.shape[0]
    low, high = vertex_span(tri, start, count, len(pos))
    n = high - low
    screen = np.zeros((n, 2), dtype=np.int32)
    ndc_z = np.zeros(n)
    codes = np.zeros(n, dtype=np.uint8)
    for i in range(n):
        x, y, z, w = pos[low + i, 0], pos[low + i, 1], pos[low + i, 2], pos[low + i, 3]
        code = _outcode(x, y, z, w)
        codes[i] = code
        if code == 0:
            inverse = np.float32(1.0) / w
            screen[i, 0] = np.int32(np.rint(x * inverse * np.float32(width * 8)))
            screen[i, 1] = np.int32(np.rint(y * inverse * np.float32(height * 8)))
            ndc_z[i] = np.float64(z) / np.float64(w)
    for t in range(start, start + count):
        i0, i1, i2 = tri[t, 0] - low, tri[t, 1] - low, tri[t, 2] - low
        if min(i0, i1, i2) < 0 or max(i0, i1, i2) >= n:
            continue
        c0, c1, c2 = codes[i0], codes[i1], codes[i2]
        if (c0 | c1 | c2) == 0:
            _fill(
                np.int64(screen[i0, 0]),
                np.int64(screen[i0, 1]),
                ndc_z[i0],
                np.int64(screen[i1, 0]),
                np.int64(screen[i1, 1]),
                ndc_z[i1],
                np.int64(screen[i2, 0]),
                np.int64(screen[i2, 1]),
                ndc_z[i2],
                t + 1,
                width,
                keys,
            )
        elif (c0 & c1 & c2) == 0 and (c0 | c1 | c2) < INVALID:
            _fill_clipped(pos, i0 + low, i1 + low, i2 + low, t + 1, width, keys)
