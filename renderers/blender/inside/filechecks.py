"""What a file says about itself, compared with what Blender made of it.

Blender's importers finish without a word over many broken files, and put zeros for NaN. These
checks read just enough of a file to notice. Each raises :class:`Refused`, or returns a function
that is called with the number of faces that came in, or None.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path
from xml.parsers import expat

import numpy as np

from .gltfcheck import check_gltf
from .refused import Refused

Compare = Callable[[int], None]
_PLY_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"), **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"), **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"), **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"), **dict.fromkeys(("double", "float64"), "f8"),
}  # fmt: skip
_PLY_ORDER = {"binary_little_endian": "<", "binary_big_endian": ">"}


def check_stl(path: Path) -> Compare | None:
    """A binary STL is as long as its count of triangles says; an ASCII one holds facets.

    Raises:
        Refused: ``import``.
    """
    data = path.read_bytes()
    if len(data) >= 84 and len(data) == 84 + 50 * struct.unpack_from("<I", data, 80)[0]:
        facet = np.dtype([("n", "<f4", 3), ("v", "<f4", 9), ("a", "<u2")])
        _check_finite(np.frombuffer(data, facet, -1, 84)["v"])
        return None
    if not data[:84].lstrip().lower().startswith(b"solid"):
        raise Refused("import", f"{len(data)} bytes are no whole STL: garbage, or truncated")
    if not re.search(rb"endsolid|endfacet", data, re.IGNORECASE):
        raise Refused("import", "an ASCII STL without a facet")
    if re.search(rb"vertex[^\n]*\b(?:nan|inf)", data, re.IGNORECASE):
        raise Refused("import", "a position is NaN or infinite")
    return None


def _check_finite(positions: np.ndarray) -> None:
    if not np.isfinite(positions).all():
        raise Refused("import", "a position is NaN or infinite")


def check_ply(path: Path) -> Compare | None:
    """The vertices that the header promises are there, and finite.

    A header that is not understood here is left to Blender.

    Raises:
        Refused: ``import``.
    """
    data = path.read_bytes()
    head, end, body = data.partition(b"end_header")
    lines = [line.split() for line in head.decode("ascii", "replace").splitlines()]
    body = body.partition(b"\n")[2]
    first = next((n for n, words in enumerate(lines) if words[:1] == ["element"]), None)
    if not end or first is None or lines[first][1:2] != ["vertex"]:
        return None
    kind = next((words[1] for words in lines if words[:1] == ["format"] and len(words) > 1), "")
    try:
        count = int(lines[first][2])
        columns = []
        for words in lines[first + 1 :]:
            if words[:1] == ["element"]:
                break
            if words[:1] == ["property"]:
                columns.append((words[-1], _PLY_TYPES[words[1]]))
        names = [name for name, _ in columns]
        if kind == "ascii":
            rows = np.array([r.split() for r in body.splitlines()[:count]], object)
            positions = np.stack([rows[:, names.index(n)].astype(np.float64) for n in "xyz"])
            have = len(rows)
        else:
            dtype = np.dtype([(n, _PLY_ORDER[kind] + t) for n, t in columns])
            have = min(count, len(body) // dtype.itemsize)
            table = np.frombuffer(body, dtype, have)
            positions = np.stack([table[n] for n in "xyz"])
    except (ValueError, KeyError, IndexError):
        return None
    if have < count:
        raise Refused("import", f"the file ends after {have} of {count} vertices")
    _check_finite(positions)
    return None


def check_xml(path: Path) -> Compare | None:
    """A DAE file is XML to its end.

    Raises:
        Refused: ``import``.
    """
    try:
        with path.open("rb") as file:
            expat.ParserCreate().ParseFile(file)
    except expat.ExpatError as error:
        raise Refused("import", f"broken XML: {error}") from error
    return None


def check_obj(path: Path) -> Compare:
    """Vertices are three finite numbers each, and all faces come in.

    Raises:
        Refused: ``import``; ``missing_texture``: a material library is not there.
    """
    data = path.read_bytes().replace(b"\\\r\n", b" ").replace(b"\\\n", b" ")
    bad = re.search(rb"^[ \t]*v[ \t]+(?:\S+[ \t]+){0,2}[-+]?(?:nan|inf)", data, re.M | re.I)
    # Blender puts 0 for what is missing of a vertex.
    bad = bad or re.search(rb"^[ \t]*v[ \t]+(?:\S+[ \t]*)?(?:\S+[ \t]*)?\r?$", data, re.M)
    if bad:
        text = bad.group().decode("utf-8", "replace").strip()
        raise Refused("import", f"vertex {text[:40]!r} is not three finite numbers")
    if re.search(rb"^[ \t]*usemtl[ \t]", data, re.MULTILINE):
        _check_libraries(data, path.parent)

    def compare(imported: int) -> None:
        lines = re.findall(rb"^[ \t]*f[ \t]+([^\r\n#]+)", data, re.MULTILINE)
        if imported >= len(lines):
            return
        count = len(re.findall(rb"^[ \t]*v[ \t]", data, re.MULTILINE))
        bad = sum(not _in_range(line, count) for line in lines)
        if bad:
            raise Refused("import", f"{bad} of {len(lines)} faces name vertices that are not there")

    return compare


def _check_libraries(data: bytes, folder: Path) -> None:
    for raw in re.findall(rb"^[ \t]*mtllib[ \t]+([^\r\n]+)", data, re.MULTILINE):
        whole = raw.decode("utf-8", "replace").strip()
        for name in [whole] if (folder / whole).is_file() else whole.split():
            if not (folder / name.replace("\\", "/")).is_file():
                raise Refused("missing_texture", f"material library {name!r} is not there")


def _in_range(line: bytes, count: int) -> bool:
    """Whether all corners of a face are among ``count`` vertices."""
    try:
        corners = [int(word.split(b"/")[0]) for word in line.split()]
    except ValueError:
        return False
    return all(0 < abs(corner) <= count for corner in corners)


CHECKS: dict[str, Callable[[Path], Compare | None]] = {
    ".stl": check_stl,
    ".ply": check_ply,
    ".dae": check_xml,
    ".obj": check_obj,
    ".glb": check_gltf,
    ".gltf": check_gltf,
}
