"""Kernels of the raster renderer: texture lookup, lights, resolving samples to pixels.

All colour arithmetic is in linear light; textures come premultiplied from :mod:`.mipmaps`. The
kernels are numba functions, whose types are inferred at run time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np


@dataclass(frozen=True)
class LightRig:
    """Lights fixed to the object: the colour of a surface point is the same from every camera.

    ``light(n) = ground + sky (1 + n.y) / 2 + key max(0, n . k) + fill max(0, n . f)``

    scaled so that the brightest normal gets exactly 1: nothing is ever clipped. No specular part.

    Attributes:
        ground: Light from everywhere.
        sky: More of it from above (+Y).
        key: Strength of the key light, from above, front (+Z) and right.
        fill: Strength of the fill light, from behind and left.
        key_direction: Towards the key light (any length).
        fill_direction: Towards the fill light (any length).
    """

    ground: float = 0.45
    sky: float = 0.17
    key: float = 0.36
    fill: float = 0.16
    key_direction: tuple[float, float, float] = (0.42, 0.72, 0.55)
    fill_direction: tuple[float, float, float] = (-0.75, 0.2, -0.63)

    def packed(self) -> np.ndarray:
        """Float32 ``[9]``: ground, sky, key xyz, fill xyz (strengths folded in), is lit (1)."""
        key = np.asarray(self.key_direction, np.float64)
        fill = np.asarray(self.fill_direction, np.float64)
        key = self.key * key / np.linalg.norm(key)
        fill = self.fill * fill / np.linalg.norm(fill)
        scale = 1.0 / self._brightest(key, fill)
        row = [self.ground, self.sky, *key, *fill]
        return np.asarray([scale * value for value in row] + [1.0], np.float32)

    def _brightest(self, key: np.ndarray, fill: np.ndarray) -> float:
        """The greatest ``light(n)``: exact, the best normal of each set of lights switched on."""
        half = np.array([0.0, 0.5 * self.sky, 0.0])
        best = 0.0
        for total in (half, half + key, half + fill, half + key + fill):
            n = total / max(float(np.linalg.norm(total)), 1e-12)
            light = self.ground + 0.5 * self.sky * (1 + n[1])
            best = max(best, float(light + max(0.0, n @ key) + max(0.0, n @ fill)))
        return best


FLAT = np.zeros(9, np.float32)
"""Packed lights of ``flat``: albedo as it is."""


@numba.njit(nogil=True, cache=True, inline="always")
def _bilinear(texels, offset, height, width, u, v):  # type: ignore[no-untyped-def]
    """Premultiplied linear colour at (u, v), v upwards, both wrapped."""
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
    w00, w01 = (1.0 - fx) * (1.0 - fy), fx * (1.0 - fy)
    w10, w11 = (1.0 - fx) * fy, fx * fy
    a, b = offset + y0 * width + x0, offset + y0 * width + x1
    c, d = offset + y1 * width + x0, offset + y1 * width + x1
    s = 1.0 / 65535.0
    return (
        s * (w00 * texels[a, 0] + w01 * texels[b, 0] + w10 * texels[c, 0] + w11 * texels[d, 0]),
        s * (w00 * texels[a, 1] + w01 * texels[b, 1] + w10 * texels[c, 1] + w11 * texels[d, 1]),
        s * (w00 * texels[a, 2] + w01 * texels[b, 2] + w10 * texels[c, 2] + w11 * texels[d, 2]),
        s * (w00 * texels[a, 3] + w01 * texels[b, 3] + w10 * texels[c, 3] + w11 * texels[d, 3]),
    )


@numba.njit(nogil=True, cache=True)
def _lookup(texels, levels, first, k, u, v, footprint):  # type: ignore[no-untyped-def]
    """Trilinear lookup in texture ``k``; ``footprint`` = squared width of a sample in level 0."""
    row, count = first[k, 0], first[k, 1]
    if footprint <= 1.0 or count == 1:
        return _bilinear(texels, levels[row, 0], levels[row, 1], levels[row, 2], u, v)
    lod = min(0.5 * np.log2(footprint), count - 1.0)
    low = min(int(lod), count - 2)
    t = lod - low
    row += low
    r0, g0, b0, a0 = _bilinear(texels, levels[row, 0], levels[row, 1], levels[row, 2], u, v)
    row += 1
    r1, g1, b1, a1 = _bilinear(texels, levels[row, 0], levels[row, 1], levels[row, 2], u, v)
    return r0 + t * (r1 - r0), g0 + t * (g1 - g0), b0 + t * (b1 - b0), a0 + t * (a1 - a0)


@numba.njit(nogil=True, cache=True)
def triangle_setup(clip, tri, uvs, vertices, face_normals, eye, textured, facing, planes):  # type: ignore[no-untyped-def]
    """Fill ``facing`` [T] (+1 seen from outside, -1 from behind) and ``planes`` [T, 9].

    ``planes``: coefficients in (x, y, 1) NDC of u/w, v/w and 1/w, which are linear on the screen
    (Olano and Greer, 1997); zero for triangles without texture or seen edge on.
    """
    for t in range(tri.shape[0]):
        i, j, k = tri[t, 0], tri[t, 1], tri[t, 2]
        side = 0.0
        for axis in range(3):
            side += face_normals[t, axis] * (eye[axis] - vertices[i, axis])
        facing[t] = 1.0 if side >= 0.0 else -1.0
        planes[t, :] = 0.0
        if not textured[t]:
            continue
        x0, y0, w0 = float(clip[i, 0]), float(clip[i, 1]), float(clip[i, 3])
        x1, y1, w1 = float(clip[j, 0]), float(clip[j, 1]), float(clip[j, 3])
        x2, y2, w2 = float(clip[k, 0]), float(clip[k, 1]), float(clip[k, 3])
        # Rows of the inverse of [[x0, x1, x2], [y0, y1, y2], [w0, w1, w2]].
        e0 = (y1 * w2 - y2 * w1, x2 * w1 - x1 * w2, x1 * y2 - x2 * y1)
        e1 = (y2 * w0 - y0 * w2, x0 * w2 - x2 * w0, x2 * y0 - x0 * y2)
        e2 = (y0 * w1 - y1 * w0, x1 * w0 - x0 * w1, x0 * y1 - x1 * y0)
        det = x0 * e0[0] + y0 * e0[1] + w0 * e0[2]
        if abs(det) < 1e-12:
            continue
        for c in range(3):
            a0, a1, a2 = e0[c] / det, e1[c] / det, e2[c] / det
            planes[t, c] = a0 * uvs[i, 0] + a1 * uvs[j, 0] + a2 * uvs[k, 0]
            planes[t, 3 + c] = a0 * uvs[i, 1] + a1 * uvs[j, 1] + a2 * uvs[k, 1]
            planes[t, 6 + c] = a0 + a1 + a2


@numba.njit(nogil=True, cache=True)
def _albedo(  # type: ignore[no-untyped-def]
    t, b0, b1, w, tri, uvs, colors, face_material, factors, index, textures, planes, step_x, step_y
):
    """Linear straight colour and opacity of a sample of triangle ``t``; ``w`` its clip w."""
    texels, levels, first = textures
    i, j, k = tri[t, 0], tri[t, 1], tri[t, 2]
    b2 = 1.0 - b0 - b1
    m = face_material[t]
    r, g, b, a = factors[m, 0], factors[m, 1], factors[m, 2], factors[m, 3]
    if colors.shape[0] > 0:
        r *= b0 * colors[i, 0] + b1 * colors[j, 0] + b2 * colors[k, 0]
        g *= b0 * colors[i, 1] + b1 * colors[j, 1] + b2 * colors[k, 1]
        b *= b0 * colors[i, 2] + b1 * colors[j, 2] + b2 * colors[k, 2]
        a *= b0 * colors[i, 3] + b1 * colors[j, 3] + b2 * colors[k, 3]
    kt = index[m]
    if kt >= 0:
        u = b0 * uvs[i, 0] + b1 * uvs[j, 0] + b2 * uvs[k, 0]
        v = b0 * uvs[i, 1] + b1 * uvs[j, 1] + b2 * uvs[k, 1]
        height, width = levels[first[kt, 0], 1], levels[first[kt, 0], 2]
        dx, dy = step_x * w, step_y * w
        ux = dx * width * (planes[t, 0] - u * planes[t, 6])
        vx = dx * height * (planes[t, 3] - v * planes[t, 6])
        uy = dy * width * (planes[t, 1] - u * planes[t, 7])
        vy = dy * height * (planes[t, 4] - v * planes[t, 7])
        footprint = max(ux * ux + vx * vx, uy * uy + vy * vy)
        tr, tg, tb, ta = _lookup(texels, levels, first, kt, u, v, footprint)
        if ta > 0.0:
            inverse = 1.0 / ta
            r, g, b = r * tr * inverse, g * tg * inverse, b * tb * inverse
        a *= ta
    return r, g, b, a


@numba.njit(nogil=True, cache=True)
def merge_masked(  # type: ignore[no-untyped-def]
    rast, extra, ids, clip, tri, uvs, colors, face_material, factors, index, cutoff, textures,
    planes,
):  # fmt: skip
    """Put the samples of ``extra`` that pass the alpha test and are nearer into ``rast``, in place.

    ``ids`` [T'] takes the triangles of ``extra`` to those of the mesh.
    """
    rows, columns = rast.shape[0], rast.shape[1]
    for y in range(rows):
        for x in range(columns):
            hit = int(extra[y, x, 3])
            if hit == 0 or (rast[y, x, 3] > 0 and rast[y, x, 2] <= extra[y, x, 2]):
                continue
            t = ids[hit - 1]
            b0, b1 = extra[y, x, 0], extra[y, x, 1]
            w = (
                b0 * clip[tri[t, 0], 3] + b1 * clip[tri[t, 1], 3]
                + (1.0 - b0 - b1) * clip[tri[t, 2], 3]
            )  # fmt: skip
            _, _, _, a = _albedo(
                t, b0, b1, w, tri, uvs, colors, face_material, factors, index, textures, planes,
                2.0 / columns, 2.0 / rows,
            )  # fmt: skip
            if a >= cutoff[face_material[t]]:
                rast[y, x, 0], rast[y, x, 1], rast[y, x, 2] = b0, b1, extra[y, x, 2]
                rast[y, x, 3] = t + 1


@numba.njit(nogil=True, cache=True)
def resolve(  # type: ignore[no-untyped-def]
    rast, clip, tri, uvs, colors, normals, face_normals, facing, face_material, factors, index,
    textures, planes, light, encode, samples, rgba, depth, normal,
):  # fmt: skip
    """Shade the samples of one image and average them: fills rgba, depth and normal, row 0 = top.

    ``rast`` is ``[H s, W s, 4]`` with row 0 = bottom.
    """
    height, width = rgba.shape[0], rgba.shape[1]
    step_x, step_y = 2.0 / rast.shape[1], 2.0 / rast.shape[0]
    total = samples * samples
    lit = light[8] > 0
    for py in range(height):
        base = (height - 1 - py) * samples
        for px in range(width):
            count = 0
            sr = sg = sb = sz = sx = sy = sn = 0.0
            for j in range(base, base + samples):
                for i in range(px * samples, (px + 1) * samples):
                    hit = int(rast[j, i, 3])
                    if hit == 0:
                        continue
                    t = hit - 1
                    b0, b1 = rast[j, i, 0], rast[j, i, 1]
                    b2 = np.float32(1.0) - b0 - b1
                    v0, v1, v2 = tri[t, 0], tri[t, 1], tri[t, 2]
                    w = b0 * clip[v0, 3] + b1 * clip[v1, 3] + b2 * clip[v2, 3]
                    r, g, b, _ = _albedo(
                        t, b0, b1, w, tri, uvs, colors, face_material, factors, index, textures,
                        planes, step_x, step_y,
                    )  # fmt: skip
                    nx, ny, nz = face_normals[t, 0], face_normals[t, 1], face_normals[t, 2]
                    if normals.shape[0] > 0:
                        mx = b0 * normals[v0, 0] + b1 * normals[v1, 0] + b2 * normals[v2, 0]
                        my = b0 * normals[v0, 1] + b1 * normals[v1, 1] + b2 * normals[v2, 1]
                        mz = b0 * normals[v0, 2] + b1 * normals[v1, 2] + b2 * normals[v2, 2]
                        length = np.sqrt(mx * mx + my * my + mz * mz)
                        if length > 1e-6:
                            nx, ny, nz = mx / length, my / length, mz / length
                    nx, ny, nz = nx * facing[t], ny * facing[t], nz * facing[t]
                    if lit:
                        bright = light[0] + light[1] * 0.5 * (1.0 + ny)
                        bright += max(0.0, nx * light[2] + ny * light[3] + nz * light[4])
                        bright += max(0.0, nx * light[5] + ny * light[6] + nz * light[7])
                        r, g, b = r * bright, g * bright, b * bright
                    count += 1
                    sr, sg, sb, sz = sr + r, sg + g, sb + b, sz + w
                    sx, sy, sn = sx + nx, sy + ny, sn + nz
            if count == 0:
                continue
            scale = 65535.0 / count
            rgba[py, px, 0] = encode[min(65535, max(0, int(sr * scale + 0.5)))]
            rgba[py, px, 1] = encode[min(65535, max(0, int(sg * scale + 0.5)))]
            rgba[py, px, 2] = encode[min(65535, max(0, int(sb * scale + 0.5)))]
            rgba[py, px, 3] = int(255.0 * count / total + 0.5)
            depth[py, px] = sz / count
            length = np.sqrt(sx * sx + sy * sy + sn * sn)
            if length > 1e-6:
                normal[py, px, 0] = sx / length
                normal[py, px, 1] = sy / length
                normal[py, px, 2] = sn / length
            else:
                # Opposite samples cancel: any of them is as good as another.
                normal[py, px, 0], normal[py, px, 1], normal[py, px, 2] = nx, ny, nz
