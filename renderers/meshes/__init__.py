"""The mesh value object: validating, normalising, joining and sampling it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ...errors import AssetError

AlphaMode = Literal["opaque", "mask", "blend"]


@dataclass(frozen=True)
class Material:
    """A surface of glTF's metallic-roughness model. Textures: uint8 ``[h, w, 4]``, row 0 = top.

    Attributes:
        name: Free text.
        base_color: Factor ``(r, g, b, a)``, *linear*, as glTF has it.
        texture: Base colour, sRGB, straight alpha, or None.
        alpha_mode: ``opaque``, ``mask`` or ``blend``.
        alpha_cutoff: Threshold of ``mask``.
        double_sided: Back faces are shaded too.
        metallic: 0..1, factor.
        roughness: 0..1, factor.
        metallic_roughness: Green = roughness, blue = metallic, linear, or None.
        emissive: Light that the surface sends out by itself, factor ``(r, g, b)``, *linear*.
        emissive_texture: sRGB, or None.
    """

    name: str = "default"
    base_color: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    texture: np.ndarray | None = None
    alpha_mode: AlphaMode = "opaque"
    alpha_cutoff: float = 0.5
    double_sided: bool = True
    metallic: float = 0.0
    roughness: float = 0.6
    metallic_roughness: np.ndarray | None = None
    emissive: tuple[float, float, float] = (0.0, 0.0, 0.0)
    emissive_texture: np.ndarray | None = None

    @property
    def textures(self) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
        """Base colour, metallic-roughness, emission."""
        return self.texture, self.metallic_roughness, self.emissive_texture

    def without_textures(self) -> Material:
        """The factors alone."""
        return replace(self, texture=None, metallic_roughness=None, emissive_texture=None)


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh with any number of materials. Build it with :func:`make_mesh` to check it.

    Attributes:
        vertices: float32 ``[V, 3]``.
        faces: int64 ``[F, 3]``, counter-clockwise = outside.
        uvs: float32 ``[V, 2]``, origin bottom-left, or None.
        colors: float32 ``[V, 4]`` vertex colours in 0..1, *linear*, or None.
        normals: float32 ``[V, 3]`` unit shading normals, or None (flat shading).
        materials: At least one.
        face_materials: int32 ``[F]``, index into ``materials``; None means all 0.
    """

    vertices: np.ndarray
    faces: np.ndarray
    uvs: np.ndarray | None = None
    colors: np.ndarray | None = None
    normals: np.ndarray | None = None
    materials: tuple[Material, ...] = (Material(),)
    face_materials: np.ndarray | None = None

    @property
    def material_index(self) -> np.ndarray:
        """``face_materials`` int32 ``[F]``, zeros where it is None."""
        if self.face_materials is None:
            return np.zeros(len(self.faces), np.int32)
        return self.face_materials


def make_mesh(
    vertices: np.ndarray,
    faces: np.ndarray,
    *,
    uvs: np.ndarray | None = None,
    colors: np.ndarray | None = None,
    normals: np.ndarray | None = None,
    materials: Sequence[Material] = (Material(),),
    face_materials: np.ndarray | None = None,
) -> Mesh:
    """Build a mesh with the dtypes of :class:`Mesh`, every array checked.

    Raises:
        AssetError: ``import``: a shape, an index or a value does not fit; the message says which.
    """
    vertices = _array("vertices", vertices, np.float32, (None, 3))
    faces = _array("faces", faces, np.int64, (None, 3))
    count = len(vertices)
    _check_range("faces", faces, count, "vertices")
    if not materials:
        raise AssetError("import", "a mesh needs at least one material")
    for material in materials:
        _check_material(material)
    if face_materials is not None:
        face_materials = _array("face_materials", face_materials, np.int32, (len(faces),))
        _check_range("face_materials", face_materials, len(materials), "materials")
    return Mesh(
        vertices=vertices,
        faces=faces,
        uvs=None if uvs is None else _array("uvs", uvs, np.float32, (count, 2)),
        colors=None if colors is None else _array("colors", colors, np.float32, (count, 4)),
        normals=None if normals is None else _array("normals", normals, np.float32, (count, 3)),
        materials=tuple(materials),
        face_materials=face_materials,
    )


def _array(name: str, value: np.ndarray, dtype: type, shape: tuple[int | None, ...]) -> np.ndarray:
    """``value`` as a contiguous finite array of ``dtype``; None in ``shape`` is any length."""
    array = np.asarray(value)
    fits = array.ndim == len(shape) and all(
        want is None or want == have for want, have in zip(shape, array.shape, strict=True)
    )
    if not fits:
        raise AssetError("import", f"{name} must have shape {shape}, found {array.shape}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise AssetError("import", f"{name} hold NaN or infinite values")
    return np.ascontiguousarray(array, dtype=dtype)


def _check_range(name: str, index: np.ndarray, count: int, of: str) -> None:
    if index.size and (index.min() < 0 or index.max() >= count):
        raise AssetError(
            "import", f"{name} hold index {index.min()} to {index.max()}, there are {count} {of}"
        )


def _check_material(material: Material) -> None:
    for image in material.textures:
        if image is None:
            continue
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 4 or not image.size:
            raise AssetError(
                "import",
                f"texture of {material.name!r} must be uint8 [h, w, 4], "
                f"found {image.dtype} {image.shape}",
            )


def bounds(mesh: Mesh) -> np.ndarray:
    """Bounding box of the vertices that faces use: float64 ``[2, 3]``, lowest and highest corner.

    Raises:
        AssetError: ``empty_mesh``: there is no face.
    """
    if not len(mesh.faces):
        raise AssetError("empty_mesh", "the mesh has no face")
    used = mesh.vertices[mesh.faces.reshape(-1)].astype(np.float64)
    return np.stack([used.min(axis=0), used.max(axis=0)])


def normalise(mesh: Mesh, extent: float) -> tuple[Mesh, np.ndarray]:
    """Centre the bounding box on the origin and scale its longest side to ``extent``.

    Returns:
        The mesh, and float64 ``[4, 4]`` that takes the old positions to the new ones.

    Raises:
        AssetError: ``empty_mesh``: no face, or a box without size.
    """
    low, high = bounds(mesh)
    side = float((high - low).max())
    if not side > 0.0:
        raise AssetError("empty_mesh", "all vertices are at one point")
    scale = extent / side
    transform = np.diag([scale, scale, scale, 1.0])
    transform[:3, 3] = -scale * 0.5 * (low + high)
    return transformed(mesh, transform), transform


def transformed(mesh: Mesh, transform: np.ndarray) -> Mesh:
    """``mesh`` under ``transform`` ``[4, 4]``: rotation, uniform scale and translation."""
    linear = np.asarray(transform, np.float64)[:3, :3]
    moved = mesh.vertices.astype(np.float64) @ linear.T + np.asarray(transform)[:3, 3]
    normals = mesh.normals
    if normals is not None:
        turned = normals.astype(np.float64) @ (linear / np.cbrt(abs(np.linalg.det(linear)))).T
        normals = turned.astype(np.float32)
    return replace(mesh, vertices=moved.astype(np.float32), normals=normals)


def bounding_radius(mesh: Mesh) -> float:
    """Radius of the smallest ball about the *origin* that holds every face; 0 without a face."""
    used = mesh.vertices[np.unique(mesh.faces)].astype(np.float64)
    return float(np.linalg.norm(used, axis=1).max(initial=0.0))


def face_normals(mesh: Mesh) -> np.ndarray:
    """Unit outward normals float64 ``[F, 3]``; zero for faces without area."""
    cross = _cross(mesh)
    length = np.linalg.norm(cross, axis=1, keepdims=True)
    return np.divide(cross, length, out=np.zeros_like(cross), where=length > 0)


def face_areas(mesh: Mesh) -> np.ndarray:
    """Areas float64 ``[F]``, in squared units of the vertices."""
    return 0.5 * np.linalg.norm(_cross(mesh), axis=1)


def _cross(mesh: Mesh) -> np.ndarray:
    a, b, c = (mesh.vertices[mesh.faces[:, k]].astype(np.float64) for k in range(3))
    return np.cross(b - a, c - a)


def vertex_normals(mesh: Mesh) -> np.ndarray:
    """Smooth unit normals float32 ``[V, 3]``: face normals weighted by the angle at the vertex.

    Vertices at the same position share a normal, so texture seams do not show. Zero where a vertex
    has no face with area. Formula: Thürmer and Wüthrich, 1998.
    """
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    normals = face_normals(mesh)
    _, group = np.unique(mesh.vertices, axis=0, return_inverse=True)
    group = group.reshape(-1)
    total = np.zeros((group.max(initial=-1) + 1, 3))
    for k in range(3):
        one = corners[:, (k + 1) % 3] - corners[:, k]
        two = corners[:, (k + 2) % 3] - corners[:, k]
        sine = np.linalg.norm(np.cross(one, two), axis=1)
        angle = np.arctan2(sine, (one * two).sum(axis=1))
        np.add.at(total, group[mesh.faces[:, k]], angle[:, None] * normals)
    length = np.linalg.norm(total, axis=1, keepdims=True)
    unit = np.divide(total, length, out=np.zeros_like(total), where=length > 1e-12)
    return unit[group].astype(np.float32)


def sample_surface(mesh: Mesh, count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` points uniform by area: float32 ``[count, 3]``.

    Raises:
        AssetError: ``empty_mesh``: no face has an area.
    """
    areas = face_areas(mesh)
    total = areas.sum()
    if not total > 0:
        raise AssetError("empty_mesh", "no triangle has an area")
    cumulative = np.cumsum(areas) / total
    face = np.searchsorted(cumulative, rng.random(count), side="right")
    face = np.minimum(face, np.flatnonzero(areas)[-1])
    # The square root makes the points uniform over the triangle (Turk, Graphics Gems, 1990).
    root, along = np.sqrt(rng.random((count, 1))), rng.random((count, 1))
    a, b, c = (mesh.vertices[mesh.faces[face, k]].astype(np.float64) for k in range(3))
    points = (1 - root) * a + root * (1 - along) * b + root * along * c
    return points.astype(np.float32)


def merge(mesh: Mesh) -> Mesh:
    """Weld vertices that are equal in position, uv, colour and normal; drop unused ones."""
    columns = [mesh.vertices]
    columns += [a for a in (mesh.uvs, mesh.colors, mesh.normals) if a is not None]
    used = np.unique(mesh.faces)
    rows = np.concatenate(columns, axis=1)[used] + np.float32(0)  # -0.0 becomes 0.0
    _, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    index = np.zeros(len(mesh.vertices), np.int64)
    index[used] = inverse.reshape(-1)
    keep = used[first]
    return replace(
        mesh,
        vertices=mesh.vertices[keep],
        faces=index[mesh.faces],
        uvs=None if mesh.uvs is None else mesh.uvs[keep],
        colors=None if mesh.colors is None else mesh.colors[keep],
        normals=None if mesh.normals is None else mesh.normals[keep],
    )


def concatenate(meshes: Sequence[Mesh]) -> Mesh:
    """Join meshes into one; equal materials become one row of the material table.

    A part without uvs gets zeros beside parts that have them, a part without colours white; a part
    without normals gets flat ones, its faces unwelded, so that every part looks as it did alone.

    Raises:
        AssetError: ``empty_mesh``: ``meshes`` is empty.
    """
    if not meshes:
        raise AssetError("empty_mesh", "nothing to join")
    if any(m.normals is not None for m in meshes):
        meshes = [m if m.normals is not None else _flat_normals(m) for m in meshes]
    table: list[Material] = []
    index: list[np.ndarray] = []
    for mesh in meshes:
        rows = [_material_row(table, material) for material in mesh.materials]
        index.append(np.asarray(rows, np.int32)[mesh.material_index])
    offsets = np.cumsum([0, *(len(m.vertices) for m in meshes[:-1])])
    return Mesh(
        vertices=np.concatenate([m.vertices for m in meshes]),
        faces=np.concatenate([m.faces + o for m, o in zip(meshes, offsets, strict=True)]),
        uvs=_join([m.uvs for m in meshes], [len(m.vertices) for m in meshes], 2, 0.0),
        colors=_join([m.colors for m in meshes], [len(m.vertices) for m in meshes], 4, 1.0),
        normals=_join([m.normals for m in meshes], [len(m.vertices) for m in meshes], 3, 0.0),
        materials=tuple(table),
        face_materials=np.concatenate(index),
    )


def _flat_normals(mesh: Mesh) -> Mesh:
    """The mesh with three vertices of its own for every face, each with the face's normal."""
    corner = mesh.faces.reshape(-1)
    return replace(
        mesh,
        vertices=mesh.vertices[corner],
        faces=np.arange(len(corner), dtype=np.int64).reshape(-1, 3),
        uvs=None if mesh.uvs is None else mesh.uvs[corner],
        colors=None if mesh.colors is None else mesh.colors[corner],
        normals=np.repeat(face_normals(mesh), 3, axis=0).astype(np.float32),
    )


def _material_row(table: list[Material], material: Material) -> int:
    """Index of ``material`` in ``table``, appended if it is new; textures compare by identity."""
    bare = material.without_textures()
    for row, other in enumerate(table):
        same = all(a is b for a, b in zip(other.textures, material.textures, strict=True))
        if same and other.without_textures() == bare:
            return row
    table.append(material)
    return len(table) - 1


def _join(
    parts: Sequence[np.ndarray | None], counts: Sequence[int], width: int, fill: float
) -> np.ndarray | None:
    if all(part is None for part in parts):
        return None
    return np.concatenate(
        [
            np.full((n, width), fill, np.float32) if part is None else part
            for part, n in zip(parts, counts, strict=True)
        ]
    )
