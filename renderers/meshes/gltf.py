"""Reading glTF 2.0 and GLB: materials, nodes, primitives; the container: :mod:`.gltffile`.

Written here rather than left to trimesh, which drops triangle fans, ``normalized`` integer
attributes, the choice of uv set and ``KHR_texture_transform``, and rounds factors to 8 bits.
Section numbers in comments are those of the glTF 2.0 specification.
"""

from __future__ import annotations

import logging
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import AssetError
from ..srgb import srgb_to_linear
from . import Material, Mesh
from .gltffile import GltfFile, accessor, image_bytes, open_gltf, read_texture

log = logging.getLogger(__name__)

_REQUIRED_OK = {"KHR_texture_transform", "KHR_mesh_quantization", "EXT_texture_webp",
                "KHR_lights_punctual", "KHR_xmp_json_ld", "KHR_animation_pointer"}  # fmt: skip
_DRACO = "KHR_draco_mesh_compression"


def read_gltf(path: Path) -> list[Mesh]:
    """All triangle primitives of the default scene, in world space, one mesh each.

    Raises:
        AssetError: ``import``: not glTF 2, broken, or compressed; ``missing_texture``: an image
            that the file refers to is not there.
    """
    file = open_gltf(path)
    try:
        _check_extensions(file.header)
        for n in range(len(file.header.get("images", []))):
            image_bytes(file, n)
        return [
            mesh
            for matrix, node in _walk(file.header)
            for primitive in file.header["meshes"][node["mesh"]]["primitives"]
            for mesh in _primitive(file, primitive, matrix)
        ]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, struct.error) as error:
        raise AssetError("import", f"broken glTF: {type(error).__name__} {error}") from error


def _check_extensions(header: dict[str, Any]) -> None:
    for name in header.get("extensionsRequired", []):
        if name not in _REQUIRED_OK and not name.startswith("KHR_materials_"):
            raise AssetError("import", f"the file requires {name}, which is not supported")


def _material(file: GltfFile, index: int | None) -> tuple[Material, int, np.ndarray]:
    """A material, the uv set of its textures, and the 3 x 3 transform of its (glTF) uvs."""
    if index in file.materials:
        return file.materials[index]
    item = {} if index is None else file.header["materials"][index]
    pbr, extensions = item.get("pbrMetallicRoughness", {}), item.get("extensions", {})
    factor, info = pbr.get("baseColorFactor", [1, 1, 1, 1]), pbr.get("baseColorTexture")
    gloss = (pbr.get("metallicFactor", 1.0), pbr.get("roughnessFactor", 1.0))
    gloss_info, emissive_info = pbr.get("metallicRoughnessTexture"), item.get("emissiveTexture")
    old = extensions.get("KHR_materials_pbrSpecularGlossiness")
    if old is not None:
        factor, info = old.get("diffuseFactor", [1, 1, 1, 1]), old.get("diffuseTexture")
        gloss, gloss_info = (0.0, 1.0 - old.get("glossinessFactor", 1.0)), None
    strength = extensions.get("KHR_materials_emissive_strength", {}).get("emissiveStrength", 1.0)
    uv_set, transform = _mapping(info or gloss_info or emissive_info)
    placing = (uv_set, transform)
    gloss_map, (_, green, blue) = _second(file, gloss_info, placing, (1.0, 1.0, 0.0), srgb=False)
    emissive_map, glow = _second(file, emissive_info, placing, (0.0, 0.0, 0.0), srgb=True)
    red, *rest = (float(value) for value in factor)
    mode = item.get("alphaMode", "OPAQUE").lower()
    if mode not in ("opaque", "mask", "blend"):
        raise AssetError("import", f"unknown alphaMode {mode!r}")
    emissive = [float(e) * strength * g for e, g in
                zip(item.get("emissiveFactor", [0, 0, 0]), glow, strict=True)]  # fmt: skip
    material = Material(
        name=str(item.get("name", "default" if index is None else f"material_{index}")),
        base_color=(red, rest[0], rest[1], rest[2]),
        texture=None if info is None else read_texture(file, info["index"]),
        alpha_mode=mode,
        alpha_cutoff=float(item.get("alphaCutoff", 0.5)),
        double_sided=bool(item.get("doubleSided", False)),
        metallic=float(gloss[0]) * blue,
        roughness=float(gloss[1]) * green,
        metallic_roughness=gloss_map,
        emissive=(emissive[0], emissive[1], emissive[2]),
        emissive_texture=emissive_map,
    )
    file.materials[index] = (material, uv_set, transform)
    return file.materials[index]


def _mapping(info: dict[str, Any] | None) -> tuple[int, np.ndarray]:
    """The uv set that a texture is laid out in, and the transform of its uvs."""
    info = info or {}
    extra = info.get("extensions", {}).get("KHR_texture_transform", {})
    return extra.get("texCoord", info.get("texCoord", 0)), _uv_transform(extra)


def _second(
    file: GltfFile,
    info: dict[str, Any] | None,
    placing: tuple[int, np.ndarray],
    instead: tuple[float, float, float],
    *,
    srgb: bool,
) -> tuple[np.ndarray | None, tuple[float, float, float]]:
    """A texture beside the base colour's, and what to multiply its factors by.

    A mesh here has one set of uvs, so a texture that is laid out in another way counts as its mean
    colour; one that cannot be read counts as ``instead``, for the surface can do without it.
    """
    if info is None:
        return None, (1.0, 1.0, 1.0)
    try:
        image = read_texture(file, info["index"])
    except AssetError as error:
        log.debug("a texture is left out: %s", error)
        image = None
    if image is None:
        return None, instead
    uv_set, transform = _mapping(info)
    if uv_set == placing[0] and np.array_equal(transform, placing[1]):
        return image, (1.0, 1.0, 1.0)
    values = np.arange(256) / 255.0
    table = srgb_to_linear(values) if srgb else values
    red, green, blue = (float(table[image[..., c]].mean()) for c in range(3))
    return None, (red, green, blue)


def _uv_transform(extra: dict[str, Any]) -> np.ndarray:
    """Offset x rotation x scale of KHR_texture_transform, for uvs with their origin at the top."""
    angle = extra.get("rotation", 0.0)
    cos, sin = np.cos(angle), np.sin(angle)
    out = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
    out = out @ np.diag([*extra.get("scale", [1.0, 1.0]), 1.0])
    out[:2, 2] = extra.get("offset", [0.0, 0.0])
    return out


def _walk(header: dict[str, Any]) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """World matrix and node of every node with a mesh, in the order of the scene (3.5)."""
    nodes = header.get("nodes", [])
    scenes = header.get("scenes", [])
    if scenes:
        roots = scenes[header.get("scene", 0)].get("nodes", [])
    else:
        children = {child for node in nodes for child in node.get("children", [])}
        roots = [n for n in range(len(nodes)) if n not in children]
    out, seen = [], set()
    stack = [(int(root), np.eye(4)) for root in reversed(roots)]
    while stack:
        index, parent = stack.pop()
        if index in seen or not 0 <= index < len(nodes):
            raise AssetError("import", f"node {index} does not exist or has two parents")
        seen.add(index)
        node = nodes[index]
        matrix = parent @ _local(node)
        if "mesh" in node:
            out.append((matrix, node))
        stack.extend((int(child), matrix) for child in reversed(node.get("children", [])))
    return out


def _local(node: dict[str, Any]) -> np.ndarray:
    """A node's own transform: ``matrix``, or translation x rotation x scale (3.5.3)."""
    if "matrix" in node:
        return np.asarray(node["matrix"], np.float64).reshape(4, 4).T
    out = np.eye(4)
    x, y, z, w = node.get("rotation", [0.0, 0.0, 0.0, 1.0])
    norm = x * x + y * y + z * z + w * w
    if norm > 0:
        s = 2.0 / norm
        out[:3, :3] -= s * np.array(
            [
                [y * y + z * z, w * z - x * y, -x * z - w * y],
                [-x * y - w * z, x * x + z * z, w * x - y * z],
                [w * y - x * z, -y * z - w * x, x * x + y * y],
            ]
        )
    out[:3, :3] *= np.asarray(node.get("scale", [1.0, 1.0, 1.0]), np.float64)
    out[:3, 3] = node.get("translation", [0.0, 0.0, 0.0])
    return out


def _primitive(file: GltfFile, primitive: dict[str, Any], matrix: np.ndarray) -> list[Mesh]:
    """The mesh of a primitive in world space; nothing for points and lines."""
    mode, attributes = primitive.get("mode", 4), primitive["attributes"]
    if mode not in (4, 5, 6) or "POSITION" not in attributes:
        return []
    plain = "bufferView" in file.header["accessors"][attributes["POSITION"]]
    if _DRACO in primitive.get("extensions", {}) and not plain:
        raise AssetError("import", f"{_DRACO} is not supported")
    position = accessor(file, attributes["POSITION"]).astype(np.float64)
    if "indices" in primitive:
        order = accessor(file, primitive["indices"]).reshape(-1).astype(np.int64)
    else:
        order = np.arange(len(position))
    faces = _triangles(order, mode)
    if np.linalg.det(matrix[:3, :3]) < 0:
        faces = faces[:, ::-1]  # A mirror turns the winding; outside must stay outside (3.7.4).
    material, uv_set, transform = _material(file, primitive.get("material"))
    uvs = None
    textured = any(image is not None for image in material.textures)
    if f"TEXCOORD_{uv_set}" in attributes and textured:
        raw = accessor(file, attributes[f"TEXCOORD_{uv_set}"]).astype(np.float64)
        uvs = raw @ transform[:2, :2].T + transform[:2, 2]
        uvs[:, 1] = 1.0 - uvs[:, 1]
    elif textured:
        # A lamp without its picture would glow all over.
        glow = (0.0, 0.0, 0.0) if material.emissive_texture is not None else material.emissive
        material = replace(material.without_textures(), emissive=glow)
    with np.errstate(over="ignore", invalid="ignore"):
        world = position @ matrix[:3, :3].T + matrix[:3, 3]
    return [
        Mesh(
            vertices=world,
            faces=faces,
            uvs=uvs,
            colors=_colors(file, attributes),
            normals=_normals(file, attributes, matrix),
            materials=(material,),
        )
    ]


def _triangles(order: np.ndarray, mode: int) -> np.ndarray:
    """Faces ``[F, 3]`` of a list (4), strip (5) or fan (6) of indices (3.7.2.1)."""
    if mode == 4:
        return order[: len(order) // 3 * 3].reshape(-1, 3)
    if len(order) < 3:
        return np.zeros((0, 3), np.int64)
    if mode == 6:
        return np.stack([order[1:-1], order[2:], np.full(len(order) - 2, order[0])], axis=1)
    faces = np.stack([order[:-2], order[1:-1], order[2:]], axis=1)
    faces[1::2] = faces[1::2][:, [0, 2, 1]]
    return faces


def _colors(file: GltfFile, attributes: dict[str, int]) -> np.ndarray | None:
    if "COLOR_0" not in attributes:
        return None
    color = accessor(file, attributes["COLOR_0"])
    if color.dtype.kind in "iu":
        # Integer colours must be `normalized`; where that is forgotten the meaning is clear.
        color = color.astype(np.float32) / np.iinfo(color.dtype).max
    if color.shape[1] == 3:
        color = np.concatenate([color, np.ones((len(color), 1), color.dtype)], axis=1)
    return color


def _normals(file: GltfFile, attributes: dict[str, int], matrix: np.ndarray) -> np.ndarray | None:
    if "NORMAL" not in attributes or abs(np.linalg.det(matrix[:3, :3])) < 1e-30:
        return None
    normal = accessor(file, attributes["NORMAL"]).astype(np.float64)
    return normal @ np.linalg.inv(matrix[:3, :3])
