"""Kernels that read a surface at a sample: barycentrics, mip-mapped textures, normals.

Colours are linear; texels come premultiplied from :mod:`.mipmaps`. Types are inferred at run time.
Everything here is inlined into the loops of :mod:`.visibility` and :mod:`.resolve`.
"""

from __future__ import annotations

import numba
import numpy as np

jit_kernel = numba.njit(nogil=True, cache=True, error_model="numpy", _nrt=False)
"""Compile without the GIL; dividing by zero gives inf or nan, as in NumPy.

Without numba's runtime (``_nrt``) too: a kernel cannot make arrays, and does not count references
to those that it is given, which takes more time than all the rest of a sample."""
jit_inline = numba.njit(nogil=True, cache=True, error_model="numpy", _nrt=False, forceinline=True)
"""A kernel that is compiled into its caller."""

TEXEL = 1.0 / 65535.0
"""Value of one step of a texel."""


@jit_inline
def corners(clip, tri, t):  # type: ignore[no-untyped-def]
    """Clip-space x, y, w of the corners of triangle ``t``, in float64."""
    i, j, k = tri[t, 0], tri[t, 1], tri[t, 2]
    return (
        np.float64(clip[i, 0]), np.float64(clip[i, 1]), np.float64(clip[i, 3]),
        np.float64(clip[j, 0]), np.float64(clip[j, 1]), np.float64(clip[j, 3]),
        np.float64(clip[k, 0]), np.float64(clip[k, 1]), np.float64(clip[k, 3]),
    )  # fmt: skip


@jit_inline
def barycentrics(corner, fx, fy):  # type: ignore[no-untyped-def]
    """Perspective-correct weights of corners 0 and 1 at NDC (fx, fy), as `rasterize` has them."""
    px, py, pw, qx, qy, qw, rx, ry, rw = corner
    x0, y0 = px - fx * pw, py - fy * pw
    x1, y1 = qx - fx * qw, qy - fy * qw
    x2, y2 = rx - fx * rw, ry - fy * rw
    a0 = x1 * y2 - y1 * x2
    a1 = x2 * y0 - y2 * x0
    total = a0 + a1 + (x0 * y1 - y0 * x1)
    u = v = 0.0
    if total != 0.0:
        u = min(1.0, max(0.0, a0 / total))
        v = min(1.0, max(0.0, a1 / total))
        if u + v > 1.0:
            u, v = u / (u + v), v / (u + v)
    return np.float32(u), np.float32(v)


@jit_inline
def blend(values, i, j, k, channel, b0, b1, b2):  # type: ignore[no-untyped-def]
    """Attribute ``channel`` of the corners i, j, k, weighted."""
    return b0 * values[i, channel] + b1 * values[j, channel] + b2 * values[k, channel]


@jit_inline
def screen_plane(planes, t):  # type: ignore[no-untyped-def]
    """What ``planes`` has of triangle ``t``, less what :func:`level` has no use for."""
    return (
        planes[t, 0], planes[t, 1], planes[t, 3], planes[t, 4], planes[t, 6], planes[t, 7],
    )  # fmt: skip


@jit_inline
def _log2(x):  # type: ignore[no-untyped-def]
    """Base 2 logarithm of a normal number, to 3e-11: plain arithmetic, so that loops vectorise."""
    bits = np.float64(x).view(np.int64)
    exponent = (bits >> 52) - 1023
    mantissa = np.int64((bits & 0xFFFFFFFFFFFFF) | 0x3FF0000000000000).view(np.float64)
    if mantissa > 1.4142135623730951:
        mantissa, exponent = 0.5 * mantissa, exponent + 1
    # 2 / ln 2 times the series of the inverse hyperbolic tangent.
    s = (mantissa - 1.0) / (mantissa + 1.0)
    q = s * s
    series = 0.41219858311113244 + q * (0.3205988979753252 + q * 0.2623081892525388)
    series = 0.9617966939259756 + q * (0.5770780163555854 + q * series)
    return exponent + s * (2.8853900817779268 + q * series)


@jit_inline
def extent(textures, k):  # type: ignore[no-untyped-def]
    """Height, width and number of mip levels of texture ``k``, as floats."""
    _, levels, first = textures
    row = first[k, 0]
    return np.float64(levels[row, 1]), np.float64(levels[row, 2]), np.float64(first[k, 1])


@jit_inline
def level(size, plane, u, v, w, width, height):  # type: ignore[no-untyped-def]
    """Mip level of a texture at a sample: log2 of the longer side of its footprint, in texels.

    ``size``: the texture's ``extent``. ``w``: clip w of the sample. ``width`` and ``height``:
    samples of the image.
    """
    rows, columns, count = size
    a, b, c, d, e, f = plane
    dx, dy = 2.0 / width * w, 2.0 / height * w
    ux, vx = dx * (a - u * e) * columns, dx * (c - v * e) * rows
    uy, vy = dy * (b - u * f) * columns, dy * (d - v * f) * rows
    area = max(1.0, max(ux * ux + vx * vx, uy * uy + vy * vy))
    return min(0.5 * _log2(area), count - 1.0)


@jit_inline
def _texels(levels, row, u, v):  # type: ignore[no-untyped-def]
    """Texels and weights of a bilinear lookup at (u, v), v upwards, both wrapped."""
    offset, height, width = levels[row, 0], levels[row, 1], levels[row, 2]
    x = (u - np.floor(u)) * width - 0.5
    y = (1.0 - (v - np.floor(v))) * height - 0.5
    fx, fy = np.floor(x), np.floor(y)
    x0, y0 = int(fx), int(fy)
    fx, fy = x - fx, y - fy
    x1, y1 = x0 + 1, y0 + 1
    if x0 < 0:
        x0 += width
    if x1 >= width:
        x1 -= width
    if y0 < 0:
        y0 += height
    if y1 >= height:
        y1 -= height
    low, high = offset + y0 * width, offset + y1 * width
    return (
        np.uint64(low + x0), np.uint64(low + x1), np.uint64(high + x0), np.uint64(high + x1),
        (1.0 - fx) * (1.0 - fy), fx * (1.0 - fy), (1.0 - fx) * fy, fx * fy,
    )  # fmt: skip


@jit_inline
def _read(texels, at, channel):  # type: ignore[no-untyped-def]
    a, b, c, d, w00, w01, w10, w11 = at
    return TEXEL * (
        w00 * texels[a, channel] + w01 * texels[b, channel]
        + w10 * texels[c, channel] + w11 * texels[d, channel]
    )  # fmt: skip


@jit_inline
def lookup(textures, k, u, v, lod, with_alpha):  # type: ignore[no-untyped-def]
    """Trilinear lookup in texture ``k``: r, g, b, a, premultiplied; a = 1 unless ``with_alpha``."""
    texels, levels, first = textures
    zero, one, two, three = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(3)
    low, a = 0, 1.0
    if lod > 0.0:
        low = min(int(lod), first[k, 1] - 2)
    row, s = first[k, 0] + low, lod - low
    at = _texels(levels, row, u, v)
    r, g, b = _read(texels, at, zero), _read(texels, at, one), _read(texels, at, two)
    if with_alpha:
        a = _read(texels, at, three)
    if lod > 0.0:
        at = _texels(levels, row + 1, u, v)
        r += s * (_read(texels, at, zero) - r)
        g += s * (_read(texels, at, one) - g)
        b += s * (_read(texels, at, two) - b)
        if with_alpha:
            a += s * (_read(texels, at, three) - a)
    return r, g, b, a
