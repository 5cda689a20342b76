"""The container of glTF 2.0 and GLB: header, buffers, accessors, image bytes.

Section numbers in comments are those of the glTF 2.0 specification.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np

from ...errors import AssetError
from . import Material
from .textures import decode_texture, read_beside

_DTYPES = {5120: np.int8, 5121: np.uint8, 5122: np.int16, 5123: np.uint16, 5125: np.uint32,
           5126: np.float32}  # fmt: skip
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


@dataclass
class GltfFile:
    """A parsed file: its JSON, where its neighbours are, and what was read from it so far."""

    header: dict[str, Any]
    folder: Path
    blob: bytes | None
    buffers: dict[int, bytes] = field(default_factory=dict)
    images: dict[int, np.ndarray] = field(default_factory=dict)
    materials: dict[int | None, tuple[Material, int, np.ndarray]] = field(default_factory=dict)


def open_gltf(path: Path) -> GltfFile:
    """Parse the header of a file.

    Raises:
        AssetError: ``import``: it is no glTF 2.0, or broken.
    """
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
    return GltfFile(header, path.parent, blob)


def has_animation(path: Path) -> bool | None:
    """Whether a file lists animations (3.11), by its header alone; None: there is no header."""
    try:
        with path.open("rb") as file:
            start = file.read(20)
            binary = start[:4] == b"glTF" and len(start) == 20
            length = struct.unpack_from("<I", start, 12)[0] if binary else -1
            text = file.read(length) if binary else start + file.read()
        if b'"animations"' not in text:  # saves parsing, for files that hold their buffers too
            return False
        header = json.loads(text)
    except (OSError, ValueError, RecursionError):
        return None
    return isinstance(header, dict) and bool(header.get("animations"))


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


def _uri_bytes(file: GltfFile, uri: str) -> bytes | None:
    """Decoded data URI, or None for the name of a file."""
    if not uri.startswith("data:"):
        return None
    head, _, body = uri.partition(",")
    try:
        return base64.b64decode(body) if head.endswith(";base64") else unquote_to_bytes(body)
    except binascii.Error as error:
        raise AssetError("import", f"broken data URI: {error}") from error


def _buffer(file: GltfFile, index: int) -> bytes:
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
    file: GltfFile, view_index: int, offset: int, dtype: np.dtype, width: int, count: int
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


def accessor(file: GltfFile, index: int) -> np.ndarray:
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


def image_bytes(file: GltfFile, index: int) -> bytes:
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


def read_texture(file: GltfFile, index: int) -> np.ndarray | None:
    """A texture's image, uint8 ``[h, w, 4]``; None where the file names no image.

    Raises:
        AssetError: ``import``: it cannot be decoded; ``missing_texture``: its file is not there.
    """
    item = file.header["textures"][index]
    webp = item.get("extensions", {}).get("EXT_texture_webp", {})
    source = webp.get("source", item.get("source"))
    if source is None:
        if item.get("extensions"):
            names = ", ".join(item["extensions"])
            raise AssetError("import", f"texture {index} exists only as {names}")
        return None
    if source not in file.images:
        name = file.header["images"][source].get("uri", f"image {source}")
        data = image_bytes(file, source)
        file.images[source] = decode_texture(data, name[:80])
    return file.images[source]
