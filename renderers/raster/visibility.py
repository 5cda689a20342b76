"""Kernels that find which triangle each sample sees, band by band of an image.

The rules (snapping, ties, depth order) are those of :mod:`.ops.coverage`, and so are the triangles
that samples see; only the order of work differs. A band's samples stay in the processor's cache
from the clearing to the shading, and no memory is asked for that grows with the image.

Alpha is tested here: a sample of a masked triangle that its texture cuts out hides nothing, so
that any number of masked layers lie behind each other.
"""

from __future__ import annotations

import numpy as np

from ..ops.coverage import INVALID, MIN_W
from .sampling import (
    barycentrics,
    blend,
    corners,
    extent,
    jit_inline,
    jit_kernel,
    level,
    lookup,
    screen_plane,
)

FARTHEST = np.uint32(0xFFFFFFFF)
HALF_DEPTH = 0.5 * 4294967295.0
CORNERS = 9
"""Most corners of a triangle cut by the six planes of the frustum."""


@jit_inline
def _outcode(x, y, z, w):  # type: ignore[no-untyped-def]
    """One bit for each frustum plane that a vertex is beyond, or INVALID."""
    if not (np.isfinite(x) and np.isfinite(y) and np.isfinite(z) and np.isfinite(w)):
        return INVALID
    code = (x < -w) | (x > w) << 1 | (y < -w) << 2 | (y > w) << 3 | (z < -w) << 4 | (z > w) << 5
    return INVALID if code == 0 and w < MIN_W else code


@jit_kernel
def project(corner, height, width):  # type: ignore[no-untyped-def]
    """Snap vertices to 1/16 sample: fill ``screen`` [V, 2], ``depth`` [V] (z/w), ``codes`` [V].

    ``corner``: clip, tri, screen, depth, codes.
    """
    clip, _, screen, depth, codes = corner
    for n in range(clip.shape[0]):
        x, y, z, w = clip[n, 0], clip[n, 1], clip[n, 2], clip[n, 3]
        code = _outcode(x, y, z, w)
        codes[n] = code
        if code == 0:
            inverse = np.float32(1.0) / w
            screen[n, 0] = np.int32(np.rint(x * inverse * np.float32(width * 8)))
            screen[n, 1] = np.int32(np.rint(y * inverse * np.float32(height * 8)))
            depth[n] = np.float64(z) / np.float64(w)


@jit_kernel
def _clip(clip, i, j, k, polygon, spare):  # type: ignore[no-untyped-def]
    """Cut a triangle by the frustum (Sutherland and Hodgman, 1974): number of corners."""
    for c in range(4):
        polygon[0, c], polygon[1, c], polygon[2, c] = clip[i, c], clip[j, c], clip[k, c]
    count = 3
    for plane in range(6):
        axis, sign, kept = plane >> 1, 1.0 if plane & 1 == 0 else -1.0, 0
        for n in range(count):
            m = n + 1 if n + 1 < count else 0
            here = polygon[n, 3] + sign * polygon[n, axis]
            there = polygon[m, 3] + sign * polygon[m, axis]
            if here >= 0.0:
                for c in range(4):
                    spare[kept, c] = polygon[n, c]
                kept += 1
            if (here >= 0.0) != (there >= 0.0):
                # From the inside out, so that two triangles cut their common edge alike.
                p, q, s = n, m, here / (here - there)
                if there >= 0.0:
                    p, q, s = m, n, there / (there - here)
                for c in range(4):
                    spare[kept, c] = polygon[p, c] + s * (polygon[q, c] - polygon[p, c])
                kept += 1
        count = kept
        for n in range(count):
            for c in range(4):
                polygon[n, c] = spare[n, c]
    return count


@jit_kernel
def _clipped(clip, i, j, k, height, width, scratch):  # type: ignore[no-untyped-def]
    """Corners of a triangle cut by the frustum: their number; snapped x, y and z/w in ``scratch``.

    ``scratch``: float64 [3, 9, 4]; the corners are its last part.
    """
    polygon, points = scratch[0], scratch[2]
    count = _clip(clip, i, j, k, polygon, scratch[1])
    for n in range(count):
        if polygon[n, 3] < MIN_W:
            return 0
        # In float32, as whole triangles are: an edge between the two kinds must not open.
        x, y = np.float32(polygon[n, 0]), np.float32(polygon[n, 1])
        inverse = np.float32(1.0) / np.float32(polygon[n, 3])
        points[n, 0] = np.rint(x * inverse * np.float32(width * 8))
        points[n, 1] = np.rint(y * inverse * np.float32(height * 8))
        points[n, 2] = min(1.0, max(-1.0, polygon[n, 2] / polygon[n, 3]))
    return count


@jit_kernel
def bounds(corner, height, width, scratch, box):  # type: ignore[no-untyped-def]
    """Samples that triangles may cover: ``box`` int32 [T, 4], first and last column and row.

    A triangle that is nowhere to be seen gets 0 and -1.
    """
    clip, tri, screen, _, codes = corner
    left, bottom = 8 - 8 * width, 8 - 8 * height  # centre of sample (0, 0)
    for t in range(tri.shape[0]):
        i, j, k = tri[t, 0], tri[t, 1], tri[t, 2]
        box[t, 0], box[t, 1], box[t, 2], box[t, 3] = 0, -1, 0, -1
        outside = codes[i] | codes[j] | codes[k]
        if outside == 0:
            x0, y0 = np.int64(screen[i, 0]), np.int64(screen[i, 1])
            x1, y1 = np.int64(screen[j, 0]), np.int64(screen[j, 1])
            x2, y2 = np.int64(screen[k, 0]), np.int64(screen[k, 1])
            if (x1 - x0) * (y2 - y0) == (x2 - x0) * (y1 - y0):
                continue
            low_x, high_x = min(x0, x1, x2), max(x0, x1, x2)
            low_y, high_y = min(y0, y1, y2), max(y0, y1, y2)
        elif codes[i] & codes[j] & codes[k] == 0 and outside < INVALID:
            count = _clipped(clip, i, j, k, height, width, scratch)
            low_x, high_x = left + 16 * width, left - 16
            low_y, high_y = bottom + 16 * height, bottom - 16
            for n in range(count):
                px, py = np.int64(scratch[2, n, 0]), np.int64(scratch[2, n, 1])
                low_x, high_x = min(low_x, px), max(high_x, px)
                low_y, high_y = min(low_y, py), max(high_y, py)
        else:
            continue
        first_x, last_x = max(0, (low_x - left + 15) >> 4), min(width - 1, (high_x - left) >> 4)
        first_y = max(0, (low_y - bottom + 15) >> 4)
        last_y = min(height - 1, (high_y - bottom) >> 4)
        if first_x <= last_x and first_y <= last_y:
            box[t, 0], box[t, 1], box[t, 2], box[t, 3] = first_x, last_x, first_y, last_y


@jit_kernel
def count_by_band(box, masked, rows, start):  # type: ignore[no-untyped-def]
    """Where the triangles of every band of ``rows`` sample rows start in a list of all of them.

    ``start``: int64 [2 bands + 1] (zeros), the solid and the masked triangles of each band in turn.
    """
    for t in range(box.shape[0]):
        for band in range(box[t, 2] // rows, box[t, 3] // rows + 1):
            start[2 * band + masked[t] + 1] += 1
    for n in range(start.shape[0] - 1):
        start[n + 1] += start[n]


@jit_kernel
def sort_by_band(box, masked, rows, slot, order):  # type: ignore[no-untyped-def]
    """Fill that list, ``order``, in the triangles' order: later ones win at equal depth.

    ``slot``: a copy of ``start``, used up.
    """
    for t in range(box.shape[0]):
        for band in range(box[t, 2] // rows, box[t, 3] // rows + 1):
            order[slot[2 * band + masked[t]]] = t
            slot[2 * band + masked[t]] += 1


@jit_inline
def _edges(x0, y0, x1, y1, x2, y2, fx, fy):  # type: ignore[no-untyped-def]
    """Edge functions at (fx, fy) of a counter-clockwise triangle, and whether each is open."""
    ax, ay, bx, by, cx, cy = x2 - x1, y2 - y1, x0 - x2, y0 - y2, x1 - x0, y1 - y0
    # Left and bottom edges own the samples that lie on them.
    return (
        ax * (fy - y1) - ay * (fx - x1), bx * (fy - y2) - by * (fx - x2),
        cx * (fy - y0) - cy * (fx - x0),
        1 if ay > 0 or (ay == 0 and ax <= 0) else 0, 1 if by > 0 or (by == 0 and bx <= 0) else 0,
        1 if cy > 0 or (cy == 0 and cx <= 0) else 0,
    )  # fmt: skip


@jit_inline
def _kept(t, column, row, height, width, alpha):  # type: ignore[no-untyped-def]
    """Whether triangle ``t`` is solid enough at a sample."""
    clip, tri, uvs, colors, material, factors, index, cutoff, textures, planes = alpha
    m = material[t]
    i, j, k = tri[t, 0], tri[t, 1], tri[t, 2]
    fx, fy = (2 * column + 1) / width - 1.0, (2 * row + 1) / height - 1.0
    b0, b1 = barycentrics(corners(clip, tri, t), fx, fy)
    b2 = np.float32(1.0) - b0 - b1
    opacity = np.float64(factors[m, 3])
    if colors.shape[0] > 0:
        opacity *= blend(colors, i, j, k, 3, b0, b1, b2)
    if index[m] >= 0:
        w = b0 * clip[i, 3] + b1 * clip[j, 3] + b2 * clip[k, 3]
        u, v = blend(uvs, i, j, k, 0, b0, b1, b2), blend(uvs, i, j, k, 1, b0, b1, b2)
        lod = level(extent(textures, index[m]), screen_plane(planes, t), u, v, w, width, height)
        opacity *= lookup(textures, index[m], u, v, lod, True)[3]
    return opacity >= cutoff[m]


@jit_inline
def _fill(p0, p1, p2, t, tested, frame, target, alpha):  # type: ignore[no-untyped-def]
    """Draw a triangle; p = x, y (1/16 sample from the centre), z/w of a corner.

    ``frame``: samples of the image along y and x, first row of the band, row after its last one.
    ``target``: ids and depths of the band.
    """
    height, width, low, high = frame
    ids, depth = target
    x0, y0, z0 = p0
    x1, y1, z1 = p1
    x2, y2, z2 = p2
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    if area < 0:
        x1, x2, y1, y2, z1, z2, area = x2, x1, y2, y1, z2, z1, -area
    left, bottom = 8 - 8 * width, 8 - 8 * height
    column0 = max(0, (min(x0, x1, x2) - left + 15) >> 4)
    column1 = min(width - 1, (max(x0, x1, x2) - left) >> 4)
    row0 = max(low, (min(y0, y1, y2) - bottom + 15) >> 4)
    row1 = min(high - 1, (max(y0, y1, y2) - bottom) >> 4)
    if area == 0 or column0 > column1 or row0 > row1:
        return
    fx, fy = left + 16 * column0, bottom + 16 * row0
    a, b, c, open_a, open_b, open_c = _edges(x0, y0, x1, y1, x2, y2, fx, fy)
    ax, ay, bx, by = 16 * (x2 - x1), 16 * (y2 - y1), 16 * (x0 - x2), 16 * (y0 - y2)
    cx, cy = 16 * (x1 - x0), 16 * (y1 - y0)
    # z/w is linear on the screen; (z / 2 + 1 / 2) (2^32 - 1) in float64 is what depths hold.
    factor = HALF_DEPTH / area
    slope = -factor * (z0 * ay + z1 * by + z2 * cy)
    label = np.int32(t + 1)
    for row in range(row0, row1 + 1):
        start = HALF_DEPTH + factor * (z0 * a + z1 * b + z2 * c)
        near, name = depth[row - low], ids[row - low]
        # Without a jump inside, so that the compiler makes it one step for many samples.
        for n in range(column1 + 1 - column0):
            value = np.uint32(np.int64(start + slope * n))
            old, other = near[column0 + n], name[column0 + n]
            inside = (a - open_a - ay * n) | (b - open_b - by * n) | (c - open_c - cy * n)
            hit = (inside >= 0) & (value <= old)
            if tested:
                hit = hit and _kept(t, column0 + n, row, height, width, alpha)
            near[column0 + n] = value if hit else old
            name[column0 + n] = label if hit else other
        a += ax
        b += bx
        c += cx


@jit_inline
def _draw(t, tested, corner, frame, scratch, target, alpha):  # type: ignore[no-untyped-def]
    """Draw triangle ``t``, whole or cut by the frustum."""
    clip, tri, screen, depth, codes = corner
    i, j, k = tri[t, 0], tri[t, 1], tri[t, 2]
    if codes[i] | codes[j] | codes[k] == 0:
        _fill(
            (np.int64(screen[i, 0]), np.int64(screen[i, 1]), depth[i]),
            (np.int64(screen[j, 0]), np.int64(screen[j, 1]), depth[j]),
            (np.int64(screen[k, 0]), np.int64(screen[k, 1]), depth[k]),
            t, tested, frame, target, alpha,
        )  # fmt: skip
        return
    count = _clipped(clip, i, j, k, frame[0], frame[1], scratch)
    points = scratch[2]
    for n in range(2, count):
        _fill(
            (np.int64(points[0, 0]), np.int64(points[0, 1]), points[0, 2]),
            (np.int64(points[n - 1, 0]), np.int64(points[n - 1, 1]), points[n - 1, 2]),
            (np.int64(points[n, 0]), np.int64(points[n, 1]), points[n, 2]),
            t, tested, frame, target, alpha,
        )  # fmt: skip


@jit_kernel
def draw_band(start, order, corner, frame, scratch, target, alpha):  # type: ignore[no-untyped-def]
    """Draw the triangles of a band, the solid ones first, into ``target``: ids and depths.

    ``start`` [3]: where in ``order`` its solid ones, its masked ones and those of the next begin.
    """
    for n in range(start[0], start[1]):
        _draw(order[n], False, corner, frame, scratch, target, alpha)
    for n in range(start[1], start[2]):
        _draw(order[n], True, corner, frame, scratch, target, alpha)
