"""Checks of glTF and GLB files: what the header says, compared with what came in."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from .refused import Refused

_JSON_CHUNK = 0x4E4F534A
_SIZES = {5120: 1, 5121: 1, 5122: 2, 5123: 2, 5125: 4, 5126: 4}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_FLOAT = 5126
LEAST_SHARE = 0.5
"""Share of the triangles that a file lists which must come in; Blender drops doubled and
degenerate ones, and some models have many of those."""


def check_gltf(path: Path) -> Callable[[int], None]:
    """Index types, textures and positions are sound, and most triangles come in.

    Raises:
        Refused: ``import`` or ``missing_texture``.
    """
    try:
        file = _File(path)
        file.check_index_types()
        file.check_textures()
        file.check_positions()
        listed = file.triangles()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, struct.error,
            RecursionError) as error:  # fmt: skip
        raise Refused("import", f"broken glTF: {type(error).__name__} {error}") from error

    def compare(imported: int) -> None:
        if 0 < imported < LEAST_SHARE * listed:
            raise Refused("import", f"only {imported} of {listed} triangles came in")

    return compare


class _File:
    """The header of a file, and its buffers."""

    def __init__(self, path: Path) -> None:
        self._folder, self._blob = path.parent, b""
        data = path.read_bytes()
        if data[:4] == b"glTF":
            version, length, size, kind = struct.unpack_from("<4I", data, 4)
            if version != 2 or length > len(data) or kind != _JSON_CHUNK or size + 20 > length:
                raise ValueError(f"a wrong GLB header, or {len(data)} of {length} bytes")
            self._blob = data[28 + size :]
            data = data[20 : 20 + size]
        self._json = json.loads(data.decode("utf-8-sig"))
        if not isinstance(self._json, dict):
            raise ValueError("the header is no object")
        self._accessors = self._json.get("accessors", [])
        self._views = self._json.get("bufferViews", [])
        self._primitives = [p for m in self._json.get("meshes", []) for p in m["primitives"]]
        self._buffers: dict[int, bytes] = {}

    def check_index_types(self) -> None:
        """Indices of a wrong type fill half or less of the bytes that they are stored in."""
        ends: dict[int, int] = {}
        for item in self._accessors:
            view = item.get("bufferView")
            if view is not None:
                size = _SIZES[item["componentType"]] * _WIDTHS[item["type"]]
                stride = self._views[view].get("byteStride") or size
                end = item.get("byteOffset", 0) + stride * (item["count"] - 1) + size
                ends[view] = max(ends.get(view, 0), end)
        for primitive in self._primitives:
            index = primitive.get("indices")
            if index is None or "extensions" in primitive:
                continue
            view = self._accessors[index].get("bufferView")
            if view is None or "sparse" in self._accessors[index]:
                continue
            length = self._views[view]["byteLength"]
            if length >= 2 * ends[view] and length - ends[view] > 8:
                raise Refused(
                    "import",
                    f"the indices of accessor {index} end after {ends[view]} of {length} bytes: "
                    "their component type is wrong",
                )

    def check_textures(self) -> None:
        """A texture in a format that Blender has no decoder for would silently be white."""
        for number, item in enumerate(self._json.get("textures", [])):
            extensions = item.get("extensions", {})
            if "source" not in item and extensions and "EXT_texture_webp" not in extensions:
                names = ", ".join(extensions)
                raise Refused("missing_texture", f"texture {number} exists only as {names}")

    def check_positions(self) -> None:
        """Positions are finite, where they are plain floats."""
        for index in {p["attributes"].get("POSITION") for p in self._primitives} - {None}:
            item = self._accessors[index]
            view = item.get("bufferView")
            if view is None or item["componentType"] != _FLOAT or "sparse" in item:
                continue
            start = self._views[view].get("byteOffset", 0) + item.get("byteOffset", 0)
            stride = self._views[view].get("byteStride") or 12
            rows = np.ndarray(
                (item["count"], 3), "<f4", self._buffer(self._views[view]["buffer"]), start,
                (stride, 4),
            )  # fmt: skip
            if not np.isfinite(rows).all():
                raise Refused("import", "a position is NaN or infinite")

    def _buffer(self, index: int) -> bytes:
        if index not in self._buffers:
            uri = self._json["buffers"][index].get("uri")
            if uri is None:
                self._buffers[index] = self._blob
            elif uri.startswith("data:"):
                self._buffers[index] = base64.b64decode(uri.partition(",")[2])
            else:
                self._buffers[index] = (self._folder / unquote(uri)).read_bytes()
        return self._buffers[index]

    def triangles(self) -> int:
        """How many the meshes list, each mesh counted once."""
        total = 0
        for primitive in self._primitives:
            source = primitive.get("indices", primitive["attributes"].get("POSITION"))
            count = 0 if source is None else self._accessors[source]["count"]
            mode = primitive.get("mode", 4)
            total += max(0, {4: count // 3, 5: count - 2, 6: count - 2}.get(mode, 0))
        return total
