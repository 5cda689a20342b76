"""The files that FBX, USD and DAE files refer to, read without a library for them."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from urllib.parse import unquote

_BESIDE = {".png", ".jpg", ".jpeg", ".exr", ".hdr", ".tga", ".tif", ".tiff", ".bmp", ".webp",
           ".usd", ".usda", ".usdc"}  # fmt: skip
MOST_BESIDE = 500


def referenced(path: Path) -> list[str]:
    """Names of other files, relative to ``path``'s folder, as they are written in the file.

    The names in a binary USD file are compressed. All images and USD files in its folder and below
    (:data:`MOST_BESIDE` at the most) are taken for its own.

    Raises:
        OSError: The file cannot be read.
    """
    data = path.read_bytes()
    suffix = path.suffix.lower()
    if suffix == ".dae":
        found = re.findall(rb"<init_from>\s*(?:<ref>)?\s*([^<]+)", data)
        return [unquote(_text(name)).removeprefix("file://") for name in found if b"." in name]
    if suffix == ".fbx":
        return _fbx(data)
    if suffix == ".usda" or (suffix == ".usd" and data.startswith(b"#usda")):
        found = [_text(name) for name in re.findall(rb"@([^@\r\n]+)@", data)]
        return [name.partition("[")[0] for name in dict.fromkeys(found) if "://" not in name]
    if suffix in (".usd", ".usdc"):
        beside = sorted(p for p in path.parent.rglob("*") if p.suffix.lower() in _BESIDE)
        names = [p.relative_to(path.parent).as_posix() for p in beside if p != path]
        return names[:MOST_BESIDE]
    return []


def _fbx(data: bytes) -> list[str]:
    """Values of ``RelativeFilename`` in a binary or an ASCII file."""
    out = [_text(name) for name in re.findall(rb'RelativeFilename:\s*"([^"]*)"', data)]
    for found in re.finditer(rb"RelativeFilenameS", data):
        start = found.end() + 4
        (length,) = struct.unpack("<I", data[found.end() : start].ljust(4, b"\0"))
        out.append(_text(data[start : start + min(length, 4096)]))
    return [name for name in dict.fromkeys(out) if name]


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace").strip()
