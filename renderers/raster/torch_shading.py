"""Torch side of the raster renderer: surfaces on a device, samples of them, and their colours.

Where the kernels of :mod:`.sampling` and :mod:`.resolve` walk over samples one by one, these
functions take those that hit something as flat lists, on any device, so that cost and memory follow
the covered area. Geometry is float64 up to the barycentrics, as it is there; colours are float32
here and float64 there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from .renderer import PackedMesh

SETUP = 1 << 20
"""Triangles (of all views together) that are set up at once."""
SETUP_BYTES = 1200
"""Most bytes that a triangle takes meanwhile."""


@dataclass(frozen=True)
class Surface:
    """A packed mesh on a device, the arrays of the numba renderer as tensors.

    Attributes:
        vertices: float32 ``[V, 3]``.
        tri: int64 ``[T, 3]``.
        uvs: float32 ``[V, 2]``.
        colors: float32 ``[V, 4]``, or ``[0, 4]``.
        normals: float32 ``[V, 3]``, or ``[0, 3]``.
        face_normals: float32 ``[T, 3]``.
        face_material: int64 ``[T]``.
        factors: float32 ``[M, 4]``.
        cutoff: float32 ``[M]``; -1 keeps every sample.
        physical: float32 ``[M, 5]``: metallic, roughness, emission.
        index: int64 ``[M, 3]``: base colour, metallic-roughness, emission texture; -1 = none.
        texels: int16 ``[N, 4]``, the bits of uint16: torch indexes no unsigned 16 bits everywhere.
        levels: int64 ``[L, 3]``: offset, height, width.
        first: int64 ``[K, 2]``: first row in ``levels``, number of levels.
        uses: For each column of ``index``, whether some material has such a texture.
        holes: int64, triangles that may be transparent somewhere.
        solid: int64, the others.
    """

    vertices: torch.Tensor
    tri: torch.Tensor
    uvs: torch.Tensor
    colors: torch.Tensor
    normals: torch.Tensor
    face_normals: torch.Tensor
    face_material: torch.Tensor
    factors: torch.Tensor
    cutoff: torch.Tensor
    physical: torch.Tensor
    index: torch.Tensor
    texels: torch.Tensor
    levels: torch.Tensor
    first: torch.Tensor
    uses: tuple[bool, ...]
    holes: torch.Tensor
    solid: torch.Tensor


def upload(packed: PackedMesh, device: torch.device) -> Surface:
    """Copy a packed mesh to ``device``."""

    def tensor(array: np.ndarray, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        # `torch.tensor` copies; others warn of arrays that must not be written.
        return torch.tensor(array, dtype=dtype, device=device)

    whole = torch.int64
    texels, levels, first = packed.textures
    index = np.column_stack([packed.texture_index, packed.physical_index])
    return Surface(
        vertices=tensor(packed.vertices),
        tri=tensor(packed.tri, whole),
        uvs=tensor(packed.uvs),
        colors=tensor(packed.colors),
        normals=tensor(packed.normals),
        face_normals=tensor(packed.face_normals),
        face_material=tensor(packed.face_material, whole),
        factors=tensor(packed.factors),
        cutoff=tensor(packed.cutoff),
        physical=tensor(packed.physical),
        index=tensor(index, whole),
        texels=tensor(texels.view(np.int16), torch.int16),
        levels=tensor(levels, whole),
        first=tensor(first, whole),
        uses=tuple(bool((index[:, kind] >= 0).any()) for kind in range(index.shape[1])),
        holes=tensor(np.flatnonzero(packed.holes), whole),
        solid=tensor(np.flatnonzero(~packed.holes), whole),
    )


@dataclass(frozen=True)
class Projected:
    """A surface as ``B`` cameras see it.

    Attributes:
        clip: float32 ``[B, V, 4]``.
        facing: float32 ``[B, T]``: 1 seen from outside, -1 from behind.
        planes: float32 ``[B, T, 6]``: derivatives in NDC x and y of u/w, v/w and 1/w, which are
            constant on a triangle (Olano and Greer, 1997); ``[B, 0, 6]`` without textures.
        eye: float32 ``[B, 3]``.
        size: Rows and columns of samples of an image.
    """

    clip: torch.Tensor
    facing: torch.Tensor
    planes: torch.Tensor
    eye: torch.Tensor
    size: tuple[int, int]


def project(
    surface: Surface, matrices: np.ndarray, eyes: np.ndarray, size: tuple[int, int]
) -> Projected:
    """Set up the triangles for each camera.

    Args:
        surface: The mesh.
        matrices: float64 ``[B, 4, 4]``, world to clip.
        eyes: float64 ``[B, 3]``, positions of the cameras.
        size: Rows and columns of samples of an image.
    """
    device = surface.vertices.device
    matrix = torch.tensor(matrices, dtype=torch.float64, device=device)
    eye = torch.tensor(eyes, dtype=torch.float64, device=device)
    points = surface.vertices.to(torch.float64)
    # Term by term, since a matrix product may round in another way in a batch of another size.
    clip = torch.stack([_affine(points, matrix[:, c]).to(torch.float32) for c in range(4)], dim=-1)
    outward, corner = surface.face_normals.to(torch.float64), points[surface.tri[:, 0]]
    side = torch.zeros((len(eye), len(corner)), dtype=torch.float64, device=device)
    for axis in range(3):
        side += outward[:, axis] * (eye[:, axis : axis + 1] - corner[:, axis])
    triangles = len(surface.tri) if any(surface.uses) else 0
    planes = clip.new_zeros((len(clip), triangles, 6))
    together = max(1, SETUP // max(1, triangles))
    for start in range(0, len(clip) if triangles else 0, together):
        planes[start : start + together] = _planes(surface, clip[start : start + together])
    facing = torch.where(side >= 0, 1.0, -1.0).to(torch.float32)
    return Projected(clip, facing, planes, eye.to(torch.float32), size)


def _affine(points: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    """``row`` ``[B, 4]`` applied to ``points`` ``[V, 3]``: ``[B, V]``."""
    out = points[:, 0] * row[:, 0:1]
    out += points[:, 1] * row[:, 1:2]
    out += points[:, 2] * row[:, 2:3]
    return out.add_(row[:, 3:4])


def _planes(surface: Surface, clip: torch.Tensor) -> torch.Tensor:
    """``planes`` ``[B, T, 6]`` of :class:`Projected`; zero for triangles seen edge on."""
    x, y, w = (clip[..., c].to(torch.float64)[:, surface.tri] for c in (0, 1, 3))
    (x0, x1, x2), (y0, y1, y2), (w0, w1, w2) = (a.unbind(-1) for a in (x, y, w))
    # Rows of the inverse of [[x0, x1, x2], [y0, y1, y2], [w0, w1, w2]].
    by_x = torch.stack([y1 * w2 - y2 * w1, y2 * w0 - y0 * w2, y0 * w1 - y1 * w0], dim=-1)
    by_y = torch.stack([x2 * w1 - x1 * w2, x0 * w2 - x2 * w0, x1 * w0 - x0 * w1], dim=-1)
    det = x0 * by_x[..., 0] + y0 * by_y[..., 0] + w0 * (x1 * y2 - x2 * y1)
    det = det.masked_fill(det.abs() < 1e-12, torch.inf)[..., None]
    uv = surface.uvs.to(torch.float64)[surface.tri]
    slopes = []
    for column in (uv[..., 0], uv[..., 1], torch.ones_like(uv[..., 0])):
        for by in (by_x / det, by_y / det):
            a, b, c = (by * column).unbind(-1)
            slopes.append(a + b + c)
    return torch.stack(slopes, dim=-1).to(torch.float32)


@dataclass(frozen=True)
class Samples:
    """``n`` points of the surface that cameras see.

    Attributes:
        view: int64 ``[n]``, which camera.
        face: int64 ``[n]``.
        corners: int64 ``[n, 3]``, vertices of the face.
        weights: float32 ``[n, 3]``, perspective-correct barycentrics.
        w: float32 ``[n]``, clip w, the planar depth.
    """

    view: torch.Tensor
    face: torch.Tensor
    corners: torch.Tensor
    weights: torch.Tensor
    w: torch.Tensor

    def at(self, values: torch.Tensor) -> torch.Tensor:
        """Vertex values ``[V, C]`` at the samples: ``[n, C]``."""
        return _blend(self.weights, values, self.corners)

    def part(self, chosen: torch.Tensor) -> Samples:
        """The samples ``chosen`` int64 ``[m]``."""
        return Samples(
            self.view[chosen], self.face[chosen], self.corners[chosen], self.weights[chosen],
            self.w[chosen],
        )  # fmt: skip


def _blend(weights: torch.Tensor, values: torch.Tensor, corners: torch.Tensor) -> torch.Tensor:
    out = weights[:, 0:1] * values[corners[:, 0]]
    out += weights[:, 1:2] * values[corners[:, 1]]
    out += weights[:, 2:3] * values[corners[:, 2]]
    return out


def take(
    surface: Surface, projected: Projected, sample: torch.Tensor, face: torch.Tensor
) -> Samples:
    """The samples numbered ``sample`` int64 ``[n]``, on triangles ``face`` int64 ``[n]``.

    Samples are counted along rows, row 0 at the bottom, image after image.
    """
    rows, columns = projected.size
    line = sample // columns
    view = line // rows
    x = (2 * (sample % columns) + 1).to(torch.float64) / columns - 1.0
    y = (2 * (line % rows) + 1).to(torch.float64) / rows - 1.0
    corners = surface.tri[face]
    placed = corners + view[:, None] * projected.clip.shape[1]
    clip = projected.clip.view(-1, 4)
    weights = _barycentrics(clip[:, [0, 1, 3]][placed].to(torch.float64), x, y)
    w = _blend(weights, clip[:, 3:], placed)[:, 0]
    return Samples(view, face, corners, weights, w)


def _barycentrics(corner: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Weights float32 ``[n, 3]`` at NDC (x, y) of corners float64 ``[n, 3, 3]`` (x, y, w)."""
    w = corner[..., 2]
    (x0, x1, x2) = (corner[..., 0] - x[:, None] * w).unbind(1)
    (y0, y1, y2) = (corner[..., 1] - y[:, None] * w).unbind(1)
    a0, a1 = x1 * y2 - y1 * x2, x2 * y0 - y2 * x0
    total = a0 + a1 + (x0 * y1 - y0 * x1)
    total = total.masked_fill(total == 0.0, torch.inf)
    u, v = (a0 / total).clamp(0.0, 1.0), (a1 / total).clamp(0.0, 1.0)
    both = (u + v).clamp(min=1.0)
    u, v = (u / both).to(torch.float32), (v / both).to(torch.float32)
    return torch.stack([u, v, (1.0 - u) - v], dim=1)


def base_color(surface: Surface, projected: Projected, samples: Samples) -> torch.Tensor:
    """Linear straight colour float32 ``[n, 3]``: factor x vertex colour x texture."""
    material = surface.face_material[samples.face]
    color = surface.factors[material, :3]
    if len(surface.colors):
        color = color * samples.at(surface.colors[:, :3])
    texel = textured(surface, projected, samples, 0)
    if texel is None:
        return color
    opacity = texel[:, 3:]
    # Where nothing is seen there is no colour either: only the factor's stays.
    clear = opacity <= 0
    return color * (texel[:, :3] / opacity.masked_fill(clear, 1.0)).masked_fill(clear, 1.0)


def opacity(surface: Surface, projected: Projected, samples: Samples) -> torch.Tensor:
    """Opacity float64 ``[n]``, to the last bit as the kernels have it for the alpha test."""
    out = surface.factors[surface.face_material[samples.face], 3].to(torch.float64)
    if len(surface.colors):
        out = out * samples.at(surface.colors[:, 3:])[:, 0]
    texel = textured(surface, projected, samples, 0, torch.float64)
    return out if texel is None else out * texel[:, 3]


def textured(
    surface: Surface,
    projected: Projected,
    samples: Samples,
    kind: int,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor | None:
    """Texels ``[n, 4]`` (linear, premultiplied) of the texture ``kind``, a column of ``index``.

    Ones for materials that have none; None if none has.
    """
    if not surface.uses[kind]:
        return None
    texture = surface.index[surface.face_material[samples.face], kind]
    chosen = (texture >= 0).nonzero()[:, 0]
    if len(chosen) == len(texture):
        return _lookup(surface, projected, samples, texture, dtype)
    out = torch.ones((len(texture), 4), dtype=dtype, device=texture.device)
    out[chosen] = _lookup(surface, projected, samples.part(chosen), texture[chosen], dtype)
    return out


def _lookup(
    surface: Surface,
    projected: Projected,
    samples: Samples,
    texture: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Trilinear texels ``[n, 4]`` of ``texture`` int64 ``[n]``."""
    uv = samples.at(surface.uvs)
    first, count = surface.first[texture].unbind(-1)
    footprint = _footprint(surface, projected, samples, uv, first, dtype)
    lod = torch.minimum(0.5 * torch.log2(footprint.clamp(min=1.0)), (count - 1).to(dtype))
    low = torch.minimum(lod.to(torch.int64), (count - 2).clamp(min=0))
    blend = lod - low
    level = first + low
    inside = (uv - torch.floor(uv)).to(dtype)
    texel = _bilinear(surface, level, inside)
    between = (blend > 0).nonzero()[:, 0]  # magnified textures need no second level
    if len(between):
        above = _bilinear(surface, level[between] + 1, inside[between])
        below = texel[between]
        texel[between] = below + blend[between, None] * (above - below)
    return texel


def _footprint(
    surface: Surface,
    projected: Projected,
    samples: Samples,
    uv: torch.Tensor,
    first: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Squared width ``[n]`` of a sample in texels of level 0."""
    triangles = projected.planes.shape[1]
    plane = projected.planes.view(-1, 6)[samples.view * triangles + samples.face]
    extent = surface.levels[first][:, [2, 1]].to(dtype)  # width, height
    slopes = []
    for axis, samples_across in enumerate(projected.size[::-1]):
        slope = (plane[:, [axis, 2 + axis]] - uv * plane[:, 4 + axis, None]).to(dtype)
        slope = slope * extent * (2.0 / samples_across * samples.w.to(dtype))[:, None]
        slopes.append((slope * slope).sum(-1))
    return torch.maximum(slopes[0], slopes[1])


def _bilinear(surface: Surface, level: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Texels ``[n, 4]`` of row ``level`` at ``inside`` (0..1), v upwards, both wrapped."""
    offset, height, width = surface.levels[level].unbind(-1)
    x0, x1, fx = _neighbours(inside[:, 0], width)
    y0, y1, fy = _neighbours(1.0 - inside[:, 1], height)
    top, bottom = offset + y0 * width, offset + y1 * width
    gx, gy = 1.0 - fx, 1.0 - fy
    out = (gx * gy)[:, None] * _texels(surface, top + x0)
    out += (fx * gy)[:, None] * _texels(surface, top + x1)
    out += (gx * fy)[:, None] * _texels(surface, bottom + x0)
    out += (fx * fy)[:, None] * _texels(surface, bottom + x1)
    return out.mul_(1.0 / 65535.0)


def _neighbours(
    place: torch.Tensor, size: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The two texels about ``place`` (0..1) of ``size`` wrapped ones, and how far it is between."""
    position = place * size - 0.5
    whole = torch.floor(position)
    low = whole.to(torch.int64)
    high = low + 1
    low, high = torch.where(low < 0, low + size, low), torch.where(high >= size, high - size, high)
    return low, high, position - whole


def _texels(surface: Surface, index: torch.Tensor) -> torch.Tensor:
    """Texels float32 ``[n, 4]``, 0..65535."""
    return surface.texels[index].to(torch.int32).bitwise_and_(0xFFFF).to(torch.float32)


def shading_normal(surface: Surface, projected: Projected, samples: Samples) -> torch.Tensor:
    """Unit normals float32 ``[n, 3]``, turned to the viewer's side of the face."""
    normal = surface.face_normals[samples.face]
    if len(surface.normals):
        smooth = samples.at(surface.normals)
        length = torch.linalg.vector_norm(smooth, dim=1, keepdim=True)
        normal = torch.where(length > 1e-6, smooth / length.clamp(min=1e-6), normal)
    facing = projected.facing.view(-1)[samples.view * len(surface.tri) + samples.face]
    return normal * facing[:, None]
