"""Loading models: GLB, glTF, OBJ + MTL, PLY and STL to one :class:`Mesh` with its materials.

Axes and units are kept as they are in the file (glTF and OBJ: +Y up).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ...errors import AssetError
from . import Material, Mesh, concatenate, make_mesh
from .gltf import read_gltf
from .gltffile import has_animation
from .obj import linear_colors, read_obj

log = logging.getLogger(__name__)


def load_mesh(path: str | Path) -> Mesh:
    """Load a model file, all its parts in one mesh with a material table.

    Faces with a NaN or infinite vertex and faces without area are dropped. A broken colour becomes
    white, a broken uv 0, a broken normal flat.

    Raises:
        AssetError: ``import``: unreadable, unsupported or corrupt; ``empty_mesh``: no triangle
            with area remains; ``missing_texture``: a texture or MTL file is not there.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise AssetError(
            "import", f"format {path.suffix or '(none)'!r}, known are {', '.join(_READERS)}"
        )
    try:
        parts = reader(path)
    except OSError as error:
        raise AssetError("import", f"cannot read {path.name}: {error.strerror or error}") from error
    except MemoryError as error:
        raise AssetError("import", f"{path.name} asks for more memory than there is") from error
    kept = [part for part in map(_clean, parts) if len(part.faces)]
    if not kept:
        raise AssetError("empty_mesh", f"{path.name} has no triangle with an area")
    return concatenate(kept)


def _read_trimesh(path: Path) -> list[Mesh]:
    """PLY and STL through trimesh."""
    import trimesh

    try:
        with warnings.catch_warnings(), path.open("rb") as stream:
            warnings.simplefilter("ignore")
            kind = path.suffix.lower().removeprefix(".")
            scene = trimesh.load_scene(
                stream, file_type=kind, process=False,
                resolver=trimesh.resolvers.FilePathResolver(str(path)),
            )  # fmt: skip
            return [
                _from_trimesh(geometry)
                for geometry in scene.geometry.values()
                if isinstance(geometry, trimesh.Trimesh)
            ]
    except AssetError:
        raise
    # trimesh raises whatever its parsers run into; to the caller it is one thing.
    except Exception as error:
        log.debug("trimesh failed on %s", path, exc_info=True)
        raise AssetError("import", f"{path.name}: {type(error).__name__} {error}") from error


def _from_trimesh(geometry: object) -> Mesh:
    visual = geometry.visual  # type: ignore[attr-defined]
    vertices = np.asarray(geometry.vertices, np.float64)  # type: ignore[attr-defined]
    faces = np.asarray(geometry.faces, np.int64)  # type: ignore[attr-defined]
    colors, uvs, material = None, None, Material()
    if visual.kind == "vertex":
        colors = linear_colors(np.asarray(visual.vertex_colors))
    elif visual.kind == "face":
        colors = np.repeat(linear_colors(np.asarray(visual.face_colors)), 3, axis=0)
        vertices, faces = vertices[faces.reshape(-1)], np.arange(3 * len(faces)).reshape(-1, 3)
    elif visual.kind == "texture" and getattr(visual, "uv", None) is not None:
        image = getattr(visual.material, "image", None)
        if image is not None:
            uvs = np.asarray(visual.uv)
            material = Material(texture=np.array(image.convert("RGBA"), np.uint8))
    return Mesh(vertices=vertices, faces=faces, uvs=uvs, colors=colors, materials=(material,))


_READERS: dict[str, Callable[[Path], list[Mesh]]] = {
    ".glb": read_gltf,
    ".gltf": read_gltf,
    ".obj": read_obj,
    ".ply": _read_trimesh,
    ".stl": _read_trimesh,
}
FORMATS = tuple(_READERS)
"""Suffixes that :func:`load_mesh` reads."""


def is_animated(path: Path) -> bool | None:
    """Whether a model file holds an animation; None: the format may hold one, and is not read.

    Only the header of a glTF file is looked at.
    """
    suffix = path.suffix.lower()
    if suffix in (".glb", ".gltf"):
        return has_animation(path)
    return False if suffix in _READERS else None


def _clean(part: Mesh) -> Mesh:
    """Drop faces that cannot be drawn and vertices they leave unused; mend broken attributes.

    Raises:
        AssetError: ``import``: an index points nowhere.
    """
    faces, count = np.asarray(part.faces, np.int64), len(part.vertices)
    if faces.size and (faces.min() < 0 or faces.max() >= count):
        raise AssetError(
            "import", f"faces use vertices {faces.min()} to {faces.max()}, there are {count}"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        vertices = np.asarray(part.vertices, np.float32)
        corners = vertices[faces].astype(np.float64)
        span = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        drawn = np.isfinite(corners).all(axis=(1, 2)) & (np.abs(span).max(axis=1, initial=0) > 0)
    if not drawn.all():
        log.debug("dropped %d of %d faces", int((~drawn).sum()), len(faces))
    used, index = np.unique(faces[drawn], return_inverse=True)
    normals = None
    if part.normals is not None and len(part.normals) == count:
        normals = _finite(part.normals[used], 0.0)
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        normals = np.divide(normals, length, out=np.zeros_like(normals), where=length > 0)
    return make_mesh(
        vertices[used],
        index.reshape(-1, 3),
        uvs=None if part.uvs is None else _finite(part.uvs[used], 0.0),
        colors=None if part.colors is None else np.clip(_finite(part.colors[used], 1.0), 0, 1),
        normals=normals,
        materials=part.materials,
    )


def _finite(value: np.ndarray, instead: float) -> np.ndarray:
    """float32 ``value`` with ``instead`` for NaN and infinite entries."""
    with np.errstate(over="ignore"):
        value = np.asarray(value, np.float32)
    return np.where(np.isfinite(value), value, np.float32(instead))
