"""Reading glTF 2.0 and GLB: accessors, materials, nodes.

Written here rather than left to trimesh, which drops triangle fans, ``normalized`` integer
attributes, the choice of uv set and ``KHR_texture_transform``, and rounds factors to 8 bits.
Section numbers in comments are those of the glTF 2.0 specification.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np

from ..errors import AssetError
from .meshes import Material, Mesh
from .textures import decode_texture, read_beside

_DTYPES = {5120: np.int8, 5121: np.uint8, 5122: np.int16, 5123: np.uint16, 5125: np.uint32,
           5126: np.float32}  # fmt: skip
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
_REQUIRED_OK = {"KHR_texture_transform", "KHR_mesh_quantization", "EXT_texture_webp",
                "KHR_lights_punctual", "KHR_xmp_json_ld", "KHR_animation_pointer"}  # fmt: skip
_DRACO = "KHR_draco_mesh_compression"


@dataclass
class _File:
    """A parsed file: its JSON, where its neighbours are, and what was read from it so far."""

    header: dict[str, Any]
    folder: Path
    blob: bytes | None
    buffers: dict[int, bytes] = field(default_factory=dict)
    images: dict[int, np.ndarray] = field(default_factory=dict)
    materials: dict[int | None, tuple[Material, int, np.ndarray]] = field(default_factory=dict)


def read_gltf(path: Path) -> list[Mesh]:
    """All triangle primitives of the default scene, in world space, one mesh each.

    Raises:
        AssetError: ``import``: not glTF 2, broken, or compressed; ``missing_texture``: an image
            that the file refers to is not there.
    """
    file = _open(path)
    try:
        _check_extensions(file.header)
        for n in range(len(file.header.get("images", []))):
            _image_bytes(file, n)
        return [
            mesh
            for matrix, node in _walk(file.header)
            for primitive in file.header["meshes"][node["mesh"]]["primitives"]
            for mesh in _primitive(file, primitive, matrix)
        ]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, struct.error) as error:
        raise AssetError("import", f"broken glTF: {type(error).__name__} {error}") from error


def _open(path: Path) -> _File:
    data = path.read_bytes()
    blob = None
    if data[:4] == b"glTF":
        text, blob = _chunks(data)
    else:
        text = data
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AssetError("import", f"the glTF header is not JSON: {error}") from error
    asset = header.get("asset") if isinstance(header, dict) else None
    if not isinstance(asset, dict):
        raise AssetError("import", "the glTF header has no 'asset'")
    version = str(asset.get("minVersion", asset.get("version", "")))
    if not version.startswith("2.") or ("minVersion" in asset and version != "2.0"):
        raise AssetError("import", f"glTF version {version or '(none)'}, only 2.0 is supported")
    return _File(header, path.parent, blob)


def _chunks(data: bytes) -> tuple[bytes, bytes | None]:
    """JSON and binary chunk of a GLB (4.4)."""
    if len(data) < 20:
        raise AssetError("import", "the GLB is truncated")
    version, length = struct.unpack_from("<II", data, 4)
    if version != 2:
        raise AssetError("import", f"GLB container version {version}, only 2 is supported")
    if length > len(data):
        raise AssetError("import", f"the GLB is truncated: {len(data)} of {length} bytes")
    parts: dict[bytes, bytes] = {}
    at = 12
    while at + 8 <= length:
        size, kind = struct.unpack_from("<I4s", data, at)
        if at + 8 + size > length:
            raise AssetError("import", "a chunk of the GLB runs past its end")
        parts.setdefault(kind, data[at + 8 : at + 8 + size])
        at += 8 + size
    if b"JSON" not in parts:
        raise AssetError("import", "the GLB has no JSON chunk")
    return parts[b"JSON"], parts.get(b"BIN\0")


def _check_extensions(header: dict[str, Any]) -> None:
    for name in header.get("extensionsRequired", []):
        if name not in _REQUIRED_OK and not name.startswith("KHR_materials_"):
            raise AssetError("import", f"the file requires {name}, which is not supported")


def _uri_bytes(file: _File, uri: str) -> bytes | None:
    """Decoded data URI, or None for the name of a file."""
    if not uri.startswith("data:"):
        return None
    head, _, body = uri.partition(",")
    try:
        return base64.b64decode(body) if head.endswith(";base64") else unquote_to_bytes(body)
    except binascii.Error as error:
        raise AssetError("import", f"broken data URI: {error}") from error


def _buffer(file: _File, index: int) -> bytes:
    if index not in file.buffers:
        uri = file.header["buffers"][index].get("uri")
        if uri is None:
            if index != 0 or file.blob is None:
                raise AssetError("import", f"buffer {index} has no data")
            file.buffers[index] = file.blob
        else:
            data = _uri_bytes(file, uri)
            if data is None:
                try:
                    data = read_beside(file.folder, uri)
                except AssetError as error:
                    raise AssetError("import", f"buffer file {uri!r} is not there") from error
            file.buffers[index] = data
    return file.buffers[index]


def _rows(
    file: _File, view_index: int, offset: int, dtype: np.dtype, width: int, count: int
) -> np.ndarray:
    """``count`` elements of ``width`` numbers from a buffer view, interleaved or not (3.6.2)."""
    view = file.header["bufferViews"][view_index]
    data = _buffer(file, view["buffer"])
    start, size = view.get("byteOffset", 0) + offset, dtype.itemsize * width
    stride = view.get("byteStride") or size
    end = start + stride * (count - 1) + size
    limit = min(len(data), view.get("byteOffset", 0) + view["byteLength"])
    if count < 1 or start < 0 or stride < size or end > limit:
        raise AssetError("import", f"an accessor runs past the end of buffer view {view_index}")
    raw = np.frombuffer(data, np.uint8, end - start, start)
    shape, strides = (count, size), (stride, 1)
    packed = np.ascontiguousarray(np.lib.stride_tricks.as_strided(raw, shape, strides))
    return packed.view(dtype).reshape(count, width)


def _accessor(file: _File, index: int) -> np.ndarray:
    """An accessor's elements ``[count, width]``; ``normalized`` integers become floats (3.11)."""
    item = file.header["accessors"][index]
    dtype = np.dtype(_DTYPES[item["componentType"]]).newbyteorder("<")
    width, count = _WIDTHS[item["type"]], int(item["count"])
    if not 0 < count < 2**31:
        raise AssetError("import", f"accessor {index} has {count} elements")
    if "bufferView" in item:
        out = _rows(file, item["bufferView"], item.get("byteOffset", 0), dtype, width, count)
    else:
        out = np.zeros((count, width), dtype)
    if "sparse" in item:
        sparse = item["sparse"]
        where, values = sparse["indices"], sparse["values"]
        kind = np.dtype(_DTYPES[where["componentType"]]).newbyteorder("<")
        at = _rows(file, where["bufferView"], where.get("byteOffset", 0), kind, 1, sparse["count"])
        out = out.copy()
        out[at[:, 0]] = _rows(
            file, values["bufferView"], values.get("byteOffset", 0), dtype, width, sparse["count"]
        )
    if item.get("normalized") and item["componentType"] != 5126:
        largest = float(2 ** (8 * dtype.itemsize - (dtype.kind == "i")) - 1)
        return np.maximum(out.astype(np.float64) / largest, -1.0).astype(np.float32)
    return out


def _image_bytes(file: _File, index: int) -> bytes:
    """The encoded bytes of an image.

    Raises:
        AssetError: ``missing_texture``: its file is not there.
    """
    image = file.header["images"][index]
    if "uri" in image:
        data = _uri_bytes(file, image["uri"])
        return read_beside(file.folder, image["uri"]) if data is None else data
    view = file.header["bufferViews"][image["bufferView"]]
    return _rows(file, image["bufferView"], 0, np.dtype(np.uint8), 1, view["byteLength"]).tobytes()


def _texture(file: _File, index: int) -> np.ndarray | None:
    texture = file.header["textures"][index]
    webp = texture.get("extensions", {}).get("EXT_texture_webp", {})
    source = webp.get("source", texture.get("source"))
    if source is None:
        if texture.get("extensions"):
            names = ", ".join(texture["extensions"])
            raise AssetError("import", f"texture {index} exists only as {names}")
        return None
    if source not in file.images:
        name = file.header["images"][source].get("uri", f"image {source}")
        data = _image_bytes(file, source)
        file.images[source] = decode_texture(data, name[:80])
    return file.images[source]


def _material(file: _File, index: int | None) -> tuple[Material, int, np.ndarray]:
    """A material, the uv set of its texture, and the 3 x 3 transform of its (glTF) uvs."""
    if index in file.materials:
        return file.materials[index]
    item = {} if index is None else file.header["materials"][index]
    pbr = item.get("pbrMetallicRoughness", {})
    factor, info = pbr.get("baseColorFactor", [1, 1, 1, 1]), pbr.get("baseColorTexture")
    metallic, roughness = pbr.get("metallicFactor", 1.0), pbr.get("roughnessFactor", 1.0)
    old = item.get("extensions", {}).get("KHR_materials_pbrSpecularGlossiness")
    if old is not None:
        factor, info = old.get("diffuseFactor", [1, 1, 1, 1]), old.get("diffuseTexture")
        metallic, roughness = 0.0, 1.0 - old.get("glossinessFactor", 1.0)
    texture, uv_set, transform = None, 0, np.eye(3)
    if info is not None:
        texture = _texture(file, info["index"])
        extra = info.get("extensions", {}).get("KHR_texture_transform", {})
        uv_set = extra.get("texCoord", info.get("texCoord", 0))
        transform = _uv_transform(extra)
    red, green, blue, alpha = (float(value) for value in factor)
    mode = item.get("alphaMode", "OPAQUE").lower()
    if mode not in ("opaque", "mask", "blend"):
        raise AssetError("import", f"unknown alphaMode {mode!r}")
    material = Material(
        name=str(item.get("name", "default" if index is None else f"material_{index}")),
        base_color=(red, green, blue, alpha),
        texture=texture,
        alpha_mode=mode,
        alpha_cutoff=float(item.get("alphaCutoff", 0.5)),
        double_sided=bool(item.get("doubleSided", False)),
        metallic=float(metallic),
        roughness=float(roughness),
    )
    file.materials[index] = (material, uv_set, transform)
    return file.materials[index]


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


def _primitive(file: _File, primitive: dict[str, Any], matrix: np.ndarray) -> list[Mesh]:
    """The mesh of a primitive in world space; nothing for points and lines."""
    mode, attributes = primitive.get("mode", 4), primitive["attributes"]
    if mode not in (4, 5, 6) or "POSITION" not in attributes:
        return []
    plain = "bufferView" in file.header["accessors"][attributes["POSITION"]]
    if _DRACO in primitive.get("extensions", {}) and not plain:
        raise AssetError("import", f"{_DRACO} is not supported")
    position = _accessor(file, attributes["POSITION"]).astype(np.float64)
    if "indices" in primitive:
        order = _accessor(file, primitive["indices"]).reshape(-1).astype(np.int64)
    else:
        order = np.arange(len(position))
    faces = _triangles(order, mode)
    if np.linalg.det(matrix[:3, :3]) < 0:
        faces = faces[:, ::-1]  # A mirror turns the winding; outside must stay outside (3.7.4).
    material, uv_set, transform = _material(file, primitive.get("material"))
    uvs = None
    if f"TEXCOORD_{uv_set}" in attributes and material.texture is not None:
        raw = _accessor(file, attributes[f"TEXCOORD_{uv_set}"]).astype(np.float64)
        uvs = raw @ transform[:2, :2].T + transform[:2, 2]
        uvs[:, 1] = 1.0 - uvs[:, 1]
    else:
        material = replace(material, texture=None)
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


def _colors(file: _File, attributes: dict[str, int]) -> np.ndarray | None:
    if "COLOR_0" not in attributes:
        return None
    color = _accessor(file, attributes["COLOR_0"])
    if color.dtype.kind in "iu":
        # Integer colours must be `normalized`; where that is forgotten the meaning is clear.
        color = color.astype(np.float32) / np.iinfo(color.dtype).max
    if color.shape[1] == 3:
        color = np.concatenate([color, np.ones((len(color), 1), color.dtype)], axis=1)
    return color


def _normals(file: _File, attributes: dict[str, int], matrix: np.ndarray) -> np.ndarray | None:
    if "NORMAL" not in attributes or abs(np.linalg.det(matrix[:3, :3])) < 1e-30:
        return None
    normal = _accessor(file, attributes["NORMAL"]).astype(np.float64)
    return normal @ np.linalg.inv(matrix[:3, :3])
