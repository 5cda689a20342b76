"""Kernels of antialias: mesh topology, silhouette blends and their gradients; GIL released.

The rule (Laine et al. 2020, section 3.6): where two neighbouring pixels see different triangles and
the nearer one's silhouette edge crosses the line between their centres, the pixel that the edge
covers in part takes that part of the other's colour.
"""

from __future__ import annotations

import numpy as np

from .coverage import label_range
from .parallel import kernel

ITEM_FIELDS = 4
"""Fields of a blend: index of the first pixel, direction (0 right, 1 up), the edge's vertices."""


@kernel
def opposite_vertices(tri: np.ndarray, opposite: np.ndarray) -> None:
    """Fill ``opposite`` int32 ``[T, 3]`` with the vertex across edge k (the edge facing vertex k).

    -1 where no other triangle has the edge. The first two triangles of an edge (in the order of
    ``tri``, with different third vertices) are partners; later ones take the first as theirs.
    Triangles with a repeated or negative index have no edges.
    """
    size = 16
    while size < 4 * len(tri):
        size *= 2
    mask = size - 1
    keys = np.full(size, -1, dtype=np.int64)
    first = np.full(size, -1, dtype=np.int32)
    second = np.full(size, -1, dtype=np.int32)
    slots = np.full((len(tri), 3), -1, dtype=np.int32)
    for t in range(len(tri)):
        a, b, c = np.int64(tri[t, 0]), np.int64(tri[t, 1]), np.int64(tri[t, 2])
        if min(a, b, c) < 0 or a == b or b == c or c == a:
            continue
        for k in range(3):
            low, high = min(b, c), max(b, c)
            key = (low << 32) | high
            # Edges of one neighbourhood stay close in the table: meshes number vertices locally.
            slot = (low * 5 + ((high - low) * 7919)) & mask
            while keys[slot] != -1 and keys[slot] != key:
                slot = (slot + 1) & mask
            keys[slot] = key
            if first[slot] == -1:
                first[slot] = a
            elif second[slot] == -1 and first[slot] != a:
                second[slot] = a
            slots[t, k] = slot
            a, b, c = b, c, a
    for t in range(len(tri)):
        for k in range(3):
            slot = slots[t, k]
            opposite[t, k] = -1
            if slot >= 0:
                opposite[t, k] = second[slot] if first[slot] == tri[t, k] else first[slot]


@kernel
def _silhouette_bits(t: int, pos: np.ndarray, tri: np.ndarray, opposite: np.ndarray) -> int:
    # Bit k: edge k of triangle t is open, or both its triangles lie on one side of it.
    bits = 0
    for k in range(3):
        n = opposite[t, k]
        if n < 0 or n >= len(pos):
            bits |= 1 << k
            continue
        a, b, o = tri[t, (k + 1) % 3], tri[t, (k + 2) % 3], tri[t, k]
        ax, ay = pos[a, 0] / np.float64(pos[a, 3]), pos[a, 1] / np.float64(pos[a, 3])
        bx, by = pos[b, 0] / np.float64(pos[b, 3]), pos[b, 1] / np.float64(pos[b, 3])
        ox, oy = pos[o, 0] / np.float64(pos[o, 3]), pos[o, 1] / np.float64(pos[o, 3])
        nx, ny = pos[n, 0] / np.float64(pos[n, 3]), pos[n, 1] / np.float64(pos[n, 3])
        own = (bx - ax) * (oy - ay) - (by - ay) * (ox - ax)
        other = (bx - ax) * (ny - ay) - (by - ay) * (nx - ax)
        if np.signbit(own) == np.signbit(other):
            bits |= 1 << k
    return bits


@kernel
def _crossing(
    t: int,
    bits: int,
    px: int,
    py: int,
    direction: int,
    ds: float,
    pos: np.ndarray,
    tri: np.ndarray,
    half_w: float,
    half_h: float,
) -> tuple[float, int]:
    # Where triangle t, seen at pixel (px, py), ends on the way to the neighbour: the distance in
    # pixels and the edge, or edge -1 where there is nothing to blend.
    cx, cy = px + 0.5 - half_w, py + 0.5 - half_h
    best, edge = -np.inf, -1
    for k in range(3):
        a, b = tri[t, (k + 1) % 3], tri[t, (k + 2) % 3]
        x1 = pos[a, 0] / np.float64(pos[a, 3]) * half_w - cx
        y1 = pos[a, 1] / np.float64(pos[a, 3]) * half_h - cy
        x2 = pos[b, 0] / np.float64(pos[b, 3]) * half_w - cx
        y2 = pos[b, 1] / np.float64(pos[b, 3]) * half_h - cy
        if direction == 1:
            x1, y1, x2, y2 = y1, x1, y2, x2
        if np.signbit(y1) != np.signbit(y2):
            dc = ds * (x1 * (y2 - y1) - y1 * (x2 - x1)) / (y2 - y1)
            if dc > best:
                best = dc
                edge = k if abs(y2 - y1) >= abs(x2 - x1) else -1
    if edge < 0 or (bits >> edge) & 1 == 0 or not (-0.0625 < best < 1.0625):
        return 0.0, -1
    return min(1.0, max(0.0, best)), edge


@kernel
def _nearer(
    y: int,
    x: int,
    y1: int,
    x1: int,
    ids: np.ndarray,
    rast: np.ndarray,
    tri: np.ndarray,
    vertices: int,
) -> tuple[int, int]:
    # Which of two pixels (0 or 1) has the triangle in front, and that triangle; -1 if it is none.
    id0, id1 = ids[y, x], ids[y1, x1]
    owner = 0 if id1 == 0 or (id0 != 0 and rast[y, x, 2] < rast[y1, x1, 2]) else 1
    t = (id0 if owner == 0 else id1) - 1
    if t < 0 or t >= len(tri):
        return owner, -1
    if min(tri[t, 0], tri[t, 1], tri[t, 2]) < 0 or max(tri[t, 0], tri[t, 1], tri[t, 2]) >= vertices:
        return owner, -1
    return owner, t


@kernel
def _differences(
    ids: np.ndarray, color: np.ndarray, y: int, keep_idle: bool, differ: np.ndarray
) -> None:
    # Row y: bit 0 where a pixel and its right neighbour see different triangles (or, of those that
    # matter, have different colours), bit 1 likewise for the one above. Plain loops, which the
    # compiler turns into vector instructions.
    height, width, channels = color.shape
    above = min(y + 1, height - 1)
    if keep_idle:
        for x in range(width):
            differ[x] = (ids[y, x] != ids[above, x]) << 1
        for x in range(width - 1):
            differ[x] |= ids[y, x] != ids[y, x + 1]
        return
    differ[:] = 0
    for c in range(channels):
        for x in range(width):
            differ[x] |= (color[y, x, c] != color[above, x, c]) << 1
        for x in range(width - 1):
            differ[x] |= color[y, x, c] != color[y, x + 1, c]


@kernel
def antialias_image(
    color: np.ndarray,
    rast: np.ndarray,
    ids: np.ndarray,
    pos: np.ndarray,
    tri: np.ndarray,
    opposite: np.ndarray,
    keep_idle: bool,
    out: np.ndarray,
    items: np.ndarray,
    alphas: np.ndarray,
) -> int:
    """Blend one image.

    Args:
        color: float32 ``[H, W, C]``.
        rast: float32 ``[H, W, 4]``; z/w decides which pixel's triangle is in front.
        ids: int32 ``[H, W]``, one-based triangle ids.
        pos: float32 ``[V, 4]``.
        tri: int32 ``[T, 3]``.
        opposite: int32 ``[T, 3]`` of :func:`opposite_vertices`.
        keep_idle: Also list blends between equal colours. They change nothing now and pass nothing
            on to the vertices, but the gradient of ``color`` needs them.
        out: float32 ``[H, W, C]``, a copy of ``color``; blended in place.
        items: int32 ``[2HW, 4]``, receives the blends.
        alphas: float32 ``[2HW]``, receives their weights.

    Returns:
        The number of blends.
    """
    height, width, channels = color.shape
    half_w, half_h = 0.5 * width, 0.5 * height
    low, high = label_range(ids)
    known = np.full(max(0, min(high, len(tri)) - low), 255, dtype=np.uint8)
    differ = np.zeros(width, dtype=np.uint8)
    count = 0
    for y in range(height):
        _differences(ids, color, y, keep_idle, differ)
        for x in range(width):
            if differ[x] == 0:
                continue
            for direction in range(2):
                x1, y1 = x + 1 - direction, y + direction
                if (differ[x] >> direction) & 1 == 0 or ids[y, x] == ids[y1, x1]:
                    continue
                owner, t = _nearer(y, x, y1, x1, ids, rast, tri, len(pos))
                if t < 0:
                    continue
                bits = known[t - low]
                if bits == 255:
                    bits = np.uint8(_silhouette_bits(t, pos, tri, opposite))
                    known[t - low] = bits
                if bits == 0:
                    continue
                ds = 1.0 if owner == 0 else -1.0
                px, py = (x, y) if owner == 0 else (x1, y1)
                dc, edge = _crossing(t, bits, px, py, direction, ds, pos, tri, half_w, half_h)
                if edge < 0:
                    continue
                alpha = np.float32(ds * (0.5 - dc))
                ty, tx = (y, x) if alpha > 0 else (y1, x1)
                for c in range(channels):
                    out[ty, tx, c] += alpha * (color[y1, x1, c] - color[y, x, c])
                items[count, 0] = y * width + x
                items[count, 1] = direction
                items[count, 2] = tri[t, (edge + 1) % 3]
                items[count, 3] = tri[t, (edge + 2) % 3]
                alphas[count] = alpha
                count += 1
    return count


@kernel
def antialias_image_grad(
    color: np.ndarray,
    grad_out: np.ndarray,
    pos: np.ndarray,
    items: np.ndarray,
    alphas: np.ndarray,
    boost: float,
    low: int,
    grad_color: np.ndarray,
    grad_pos: np.ndarray,
) -> None:
    """Gradients of :func:`antialias_image`.

    Args:
        color: float32 ``[H, W, C]``.
        grad_out: float32 ``[H, W, C]``.
        pos: float32 ``[V, 4]``.
        items: int32 ``[n, 4]``, the blends of the forward pass.
        alphas: float32 ``[n]``.
        boost: Factor on the gradient of the positions.
        low: Vertex of row 0 of ``grad_pos``.
        grad_color: float32 ``[H, W, C]``, a copy of ``grad_out``; corrected in place.
            ``[0, W, C]`` where it is not wanted.
        grad_pos: float64 ``[m, 4]``, added to; ``m = 0`` where it is not wanted.
    """
    height, width, channels = color.shape
    half_w, half_h = 0.5 * width, 0.5 * height
    for i in range(len(items)):
        y, x = items[i, 0] // width, items[i, 0] % width
        direction = items[i, 1]
        xb, yb = x + 1 - direction, y + direction
        alpha = alphas[i]
        ty, tx = (y, x) if alpha > 0 else (yb, xb)
        slope = 0.0
        for c in range(channels):
            g = grad_out[ty, tx, c]
            slope += g * (color[yb, xb, c] - color[y, x, c])
            if len(grad_color) > 0:
                grad_color[y, x, c] -= alpha * g
                grad_color[yb, xb, c] += alpha * g
        if len(grad_pos) == 0 or slope == 0.0 or abs(alpha) >= 0.5:
            continue
        slope *= boost
        a, b = items[i, 2], items[i, 3]
        wa, wb = np.float64(pos[a, 3]), np.float64(pos[b, 3])
        sxa, sya = pos[a, 0] / wa * half_w, pos[a, 1] / wa * half_h
        sxb, syb = pos[b, 0] / wb * half_w, pos[b, 1] / wb * half_h
        if direction == 0:
            centre = y + 0.5 - half_h
            x1, y1, x2, y2 = sxa, sya - centre, sxb, syb - centre
        else:
            centre = x + 0.5 - half_w
            x1, y1, x2, y2 = sya, sxa - centre, syb, sxb - centre
        # alpha = const - X, X = where the edge crosses y = 0; see torch_backend for the formula.
        inverse = 1.0 / ((y2 - y1) + np.copysign(1e-3, y2 - y1))
        ga, gb = -slope * y2 * inverse, slope * y1 * inverse
        lean = (x2 - x1) * inverse
        if direction == 0:
            gxa, gya, gxb, gyb = ga, -ga * lean, gb, -gb * lean
        else:
            gxa, gya, gxb, gyb = -ga * lean, ga, -gb * lean, gb
        grad_pos[a - low, 0] += gxa * half_w / wa
        grad_pos[a - low, 1] += gya * half_h / wa
        grad_pos[a - low, 3] -= (gxa * sxa + gya * sya) / wa
        grad_pos[b - low, 0] += gxb * half_w / wb
        grad_pos[b - low, 1] += gyb * half_h / wb
        grad_pos[b - low, 3] -= (gxb * sxb + gyb * syb) / wb
