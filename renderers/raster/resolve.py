"""The kernel that draws one image: visibility band by band, shading, samples to pixels."""

from __future__ import annotations

import numba
import numpy as np

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
from .shading import diffuse, pbr
from .visibility import (
    CORNERS,
    FARTHEST,
    bounds,
    count_by_band,
    draw_band,
    project,
    sort_by_band,
)

BAND_SAMPLES = 1 << 17
"""Samples of a band: ids and depths of so many fit into a core's own cache."""
RUN = 64
"""Most samples of a run."""
B0, B1, W, U, V, X, Y, Z = (n * RUN for n in range(8))
# Where a run keeps its weights, clip w, uv and normal.
SUMS = 11
"""Sums of a pixel: light (3), base colour (3), clip w, normal (3), number of samples."""


@jit_kernel
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
        x0, y0, w0, x1, y1, w1, x2, y2, w2 = corners(clip, tri, t)
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


@jit_inline
def _weights(lane, run, column, fy, view, geometry):  # type: ignore[no-untyped-def]
    """Weights of the corners, clip w and uv of a run of samples."""
    count, t, i, j, k, _ = run
    clip, width = view[0], view[3]
    tri, uvs = geometry[1], geometry[2]
    corner = corners(clip, tri, t)
    w0, w1, w2 = clip[i, 3], clip[j, 3], clip[k, 3]
    u0, u1, u2, v0, v1, v2 = uvs[i, 0], uvs[j, 0], uvs[k, 0], uvs[i, 1], uvs[j, 1], uvs[k, 1]
    for n in range(count):
        b0, b1 = barycentrics(corner, (2 * (column + n) + 1) / width - 1.0, fy)
        b2 = np.float32(1.0) - b0 - b1
        lane[B0 + n], lane[B1 + n] = b0, b1
        lane[W + n] = b0 * w0 + b1 * w1 + b2 * w2
        lane[U + n] = b0 * u0 + b1 * u1 + b2 * u2
        lane[V + n] = b0 * v0 + b1 * v1 + b2 * v2


@jit_inline
def _normals(lane, run, view, geometry):  # type: ignore[no-untyped-def]
    """Unit normals turned to the viewer; the face's own where the vertices have none."""
    count, t, i, j, k, _ = run
    side, normals, face_normals = view[2][t], geometry[4], geometry[5]
    fx, fy, fz = face_normals[t, 0] * side, face_normals[t, 1] * side, face_normals[t, 2] * side
    if normals.shape[0] == 0:
        for n in range(count):
            lane[X + n], lane[Y + n], lane[Z + n] = fx, fy, fz
        return
    x0, x1, x2 = normals[i, 0] * side, normals[j, 0] * side, normals[k, 0] * side
    y0, y1, y2 = normals[i, 1] * side, normals[j, 1] * side, normals[k, 1] * side
    z0, z1, z2 = normals[i, 2] * side, normals[j, 2] * side, normals[k, 2] * side
    for n in range(count):
        b0, b1 = lane[B0 + n], lane[B1 + n]
        b2 = np.float32(1.0) - b0 - b1
        x, y = b0 * x0 + b1 * x1 + b2 * x2, b0 * y0 + b1 * y1 + b2 * y2
        z = b0 * z0 + b1 * z1 + b2 * z2
        length = np.sqrt(x * x + y * y + z * z)
        smooth = length > np.float32(1e-6)
        lane[X + n] = x / length if smooth else fx
        lane[Y + n] = y / length if smooth else fy
        lane[Z + n] = z / length if smooth else fz


@jit_inline
def _base_color(tint, lane, run, view, geometry, materials):  # type: ignore[no-untyped-def]
    """Linear straight base colour of a run: factor x vertex colour x texture."""
    count, t, i, j, k, m = run
    _, planes, _, width, height = view
    colors, factors, textures = geometry[3], materials[0], materials[5]
    texture, use_alpha = materials[2][m], materials[1][m] >= 0
    for c in range(3):
        factor = factors[m, c]
        for n in range(count):
            tint[c * RUN + n] = factor
        if colors.shape[0] > 0:
            c0, c1, c2 = colors[i, c], colors[j, c], colors[k, c]
            for n in range(count):
                b0, b1 = lane[B0 + n], lane[B1 + n]
                tint[c * RUN + n] *= b0 * c0 + b1 * c1 + (np.float32(1.0) - b0 - b1) * c2
    if texture >= 0:
        plane, size = screen_plane(planes, t), extent(textures, texture)
        for n in range(count):
            u, v, w = lane[U + n], lane[V + n], lane[W + n]
            tint[3 * RUN + n] = level(size, plane, u, v, w, width, height)
        for n in range(count):
            u, v, lod = lane[U + n], lane[V + n], tint[3 * RUN + n]
            r, g, b, a = lookup(textures, texture, u, v, lod, use_alpha)
            # Without an alpha test the texture's alpha has been taken as 1 (mipmaps).
            if a > 0.0:
                tint[n] *= r / a
                tint[RUN + n] *= g / a
                tint[2 * RUN + n] *= b / a


@jit_inline
def _lit(tint, lane, count, light):  # type: ignore[no-untyped-def]
    """Diffuse light on a run."""
    for n in range(count):
        bright = diffuse(light, lane[X + n], lane[Y + n], lane[Z + n])
        tint[3 * RUN + n] = tint[n] * bright
        tint[4 * RUN + n] = tint[RUN + n] * bright
        tint[5 * RUN + n] = tint[2 * RUN + n] * bright


@jit_inline
def _physical(tint, lane, run, eye, light, view, vertices, materials):  # type: ignore[no-untyped-def]
    """A run under `pbr`: light sent to the viewer, emission included."""
    count, t, i, j, k, m = run
    _, planes, _, width, height = view
    physical, extra, textures = materials[3], materials[4], materials[5]
    for n in range(count):
        b0, b1, u, v = lane[B0 + n], lane[B1 + n], lane[U + n], lane[V + n]
        b2 = np.float32(1.0) - b0 - b1
        vx = eye[0] - blend(vertices, i, j, k, 0, b0, b1, b2)
        vy = eye[1] - blend(vertices, i, j, k, 1, b0, b1, b2)
        vz = eye[2] - blend(vertices, i, j, k, 2, b0, b1, b2)
        inverse = 1.0 / max(np.sqrt(vx * vx + vy * vy + vz * vz), 1e-12)
        metallic, roughness = np.float64(physical[m, 0]), np.float64(physical[m, 1])
        red, green = np.float64(physical[m, 2]), np.float64(physical[m, 3])
        blue = np.float64(physical[m, 4])
        w, plane = lane[W + n], screen_plane(planes, t)
        if extra[m, 0] >= 0:
            lod = level(extent(textures, extra[m, 0]), plane, u, v, w, width, height)
            _, g, b, _ = lookup(textures, extra[m, 0], u, v, lod, False)
            metallic, roughness = metallic * b, roughness * g
        if extra[m, 1] >= 0:
            lod = level(extent(textures, extra[m, 1]), plane, u, v, w, width, height)
            r, g, b, _ = lookup(textures, extra[m, 1], u, v, lod, False)
            red, green, blue = red * r, green * g, blue * b
        r, g, b = pbr(
            light, (tint[n], tint[RUN + n], tint[2 * RUN + n]), metallic, roughness,
            (lane[X + n], lane[Y + n], lane[Z + n]), (vx * inverse, vy * inverse, vz * inverse),
        )  # fmt: skip
        tint[3 * RUN + n], tint[4 * RUN + n], tint[5 * RUN + n] = r + red, g + green, b + blue


@jit_inline
def _accumulate(sums, tint, lane, count, column, samples, kind):  # type: ignore[no-untyped-def]
    """Add a run to the pixels it is in: light, base colour, w, normal and the number of samples."""
    lit = 0 if kind == 0 else 3 * RUN
    n = 0
    while n < count:
        pixel = (column + n) // samples
        last = min(count, (pixel + 1) * samples - column)
        one = sums[pixel]
        one[10] += last - n
        for m in range(n, last):
            one[0] += tint[lit + m]
            one[1] += tint[lit + RUN + m]
            one[2] += tint[lit + 2 * RUN + m]
            one[3] += tint[m]
            one[4] += tint[RUN + m]
            one[5] += tint[2 * RUN + m]
            one[6] += lane[W + m]
            one[7] += lane[X + m]
            one[8] += lane[Y + m]
            one[9] += lane[Z + m]
        n = last


@jit_inline
def _encoded(encode, value):  # type: ignore[no-untyped-def]
    return encode[min(65535, max(0, int(value + 0.5)))]


@jit_kernel
def _write(y, first, last, sums, total, encode, images):  # type: ignore[no-untyped-def]
    """Turn the sums of the pixels ``first .. last`` into row ``y`` of the images."""
    rgba, depth, normal, albedo = images
    for x in range(first, last + 1):
        one = sums[x]
        count = one[10]
        if count == 0.0:
            continue
        scale = 65535.0 / count
        for c in range(3):
            rgba[y, x, c] = _encoded(encode, one[c] * scale)
            albedo[y, x, c] = _encoded(encode, one[3 + c] * scale)
        rgba[y, x, 3] = int(255.0 * count / total + 0.5)
        depth[y, x] = one[6] / count
        length = np.sqrt(one[7] * one[7] + one[8] * one[8] + one[9] * one[9])
        # Where opposite samples cancel, up is as good as another direction.
        normal[y, x, 1] = 1.0
        if length > 1e-6 * count:
            for c in range(3):
                normal[y, x, c] = one[7 + c] / length


@jit_kernel
def _resolve(band, samples, eye, light, view, geometry, materials, encode, scratch, images):  # type: ignore[no-untyped-def]
    """Shade the samples of a band and average them to pixels.

    A run is what one triangle shows of one row of samples; its steps are loops over plain arrays,
    which the compiler turns into vector instructions. ``band``: first row, columns and ids.
    """
    low, columns, ids = band
    tri, face_material, (sums, lane, tint) = geometry[1], geometry[6], scratch
    height, kind = view[4], int(light[8])
    left, right = columns[0] // samples, columns[1] // samples
    for row in range(min(ids.shape[0], height - low)):
        if row % samples == 0:
            sums[left : right + 1] = 0.0
        fy = (2 * (low + row) + 1) / height - 1.0
        column = columns[0]
        while column <= columns[1]:
            label = ids[row, column]
            begin, column = column, column + 1
            if label == 0:
                continue
            limit = min(columns[1] + 1, begin + RUN)
            while column < limit and ids[row, column] == label:
                column += 1
            t = label - 1
            run = (column - begin, t, tri[t, 0], tri[t, 1], tri[t, 2], face_material[t])
            _weights(lane, run, begin, fy, view, geometry)
            _normals(lane, run, view, geometry)
            _base_color(tint, lane, run, view, geometry, materials)
            if kind == 1:
                _lit(tint, lane, run[0], light)
            elif kind == 2:
                _physical(tint, lane, run, eye, light, view, geometry[0], materials)
            _accumulate(sums, tint, lane, run[0], begin, samples, kind)
        if row % samples == samples - 1:
            y = images[0].shape[0] - 1 - (low + row) // samples
            _write(y, left, right, sums, samples * samples, encode, images)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def draw_image(clip, eye, light, samples, geometry, materials, masked, textured, encode, images):  # type: ignore[no-untyped-def]
    """Draw one image.

    Args:
        clip: float32 ``[V, 4]``, the vertices in clip space.
        eye: float64 ``[3]``, the camera in the world.
        light: float32 ``[9]``, of :data:`.shading.LIGHTS`.
        samples: Per pixel, along each axis.
        geometry: vertices, tri, uvs, colors, normals, face_normals, face_material.
        materials: factors, cutoff, index, physical, extra, textures.
        masked: uint8 ``[T]``, 1 where samples must be alpha tested.
        textured: bool ``[T]``.
        encode: uint8 ``[65536]``, of :mod:`.mipmaps`.
        images: Filled (zeros): rgba uint8 ``[H, W, 4]``, depth float32 ``[H, W]``, normal float32
            ``[H, W, 3]``, albedo uint8 ``[H, W, 3]``; row 0 = top.
    """
    vertices, tri, uvs, colors, _, face_normals, face_material = geometry
    factors, cutoff, index, _, _, textures = materials
    height, width = images[0].shape[0] * samples, images[0].shape[1] * samples
    count, faces = clip.shape[0], tri.shape[0]
    facing, planes = np.zeros(faces, np.float32), np.zeros((faces, 9), np.float32)
    triangle_setup(clip, tri, uvs, vertices, face_normals, eye, textured, facing, planes)
    corner = (clip, tri, np.zeros((count, 2), np.int32), np.zeros(count), np.zeros(count, np.uint8))
    polygon, box = np.zeros((3, CORNERS, 4)), np.zeros((faces, 4), np.int32)
    project(corner, height, width)
    bounds(corner, height, width, polygon, box)
    rows = samples * min(images[0].shape[0], max(1, BAND_SAMPLES // (width * samples)))
    bands = (height + rows - 1) // rows
    start = np.zeros(2 * bands + 1, np.int64)
    count_by_band(box, masked, rows, start)
    order = np.zeros(start[2 * bands], np.int32)
    sort_by_band(box, masked, rows, start.copy(), order)
    ids, nearest = np.zeros((rows, width), np.int32), np.zeros((rows, width), np.uint32)
    scratch = (np.zeros((images[0].shape[1], SUMS)), np.zeros(8 * RUN, np.float32),
               np.zeros(6 * RUN))  # fmt: skip
    view = (clip, planes, facing, width, height)
    alpha = (clip, tri, uvs, colors, face_material, factors, index, cutoff, textures, planes)
    for band in range(bands):
        first, last = width, -1
        for n in range(start[2 * band], start[2 * band + 2]):
            first, last = min(first, box[order[n], 0]), max(last, box[order[n], 1])
        if last < 0:
            continue
        columns = (first // samples * samples, last // samples * samples + samples - 1)
        ids[:, columns[0] : columns[1] + 1] = 0
        nearest[:, columns[0] : columns[1] + 1] = FARTHEST
        frame = (height, width, band * rows, min(height, band * rows + rows))
        draw_band(start[2 * band : 2 * band + 3], order, corner, frame, polygon, (ids, nearest),
                  alpha)  # fmt: skip
        _resolve((band * rows, columns, ids), samples, eye, light, view, geometry, materials,
                 encode, scratch, images)  # fmt: skip
