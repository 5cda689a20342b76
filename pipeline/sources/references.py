"""The files that FBX, USD and DAE files refer to, read without a library for them."""

from __future__ import annotations

import posixpath
import re
import struct
from urllib.parse import unquote

from .trees import Tree

_BESIDE = {".png", ".jpg", ".jpeg", ".exr", ".hdr", ".tga", ".tif", ".tiff", ".bmp", ".webp",
           ".usd", ".usda", ".usdc"}  # fmt: skip
MOST_BESIDE = 500


def referenced(tree: Tree, name: str) -> list[str]:
    """Names of other files, relative to the folder of ``name``, as they are written in the file.

    The names in a binary USD file are compressed. All images and USD files in its folder and below
    (:data:`MOST_BESIDE` at the most) are taken for its own.

    Raises:
        OSError: The file cannot be read.
        AssetError: It cannot be read out of its archive.
    """
    with tree.open(name) as file:
        data = file.read()
    suffix = posixpath.splitext(name)[1].lower()
    if suffix == ".dae":
        found = re.findall(rb"<init_from>\s*(?:<ref>)?\s*([^<]+)", data)
        return [unquote(_text(one)).removeprefix("file://") for one in found if b"." in one]
    if suffix == ".fbx":
        return _fbx(data)
    if suffix == ".usda" or (suffix == ".usd" and data.startswith(b"#usda")):
        found = [_text(one) for one in re.findall(rb"@([^@\r\n]+)@", data)]
        return [one.partition("[")[0] for one in dict.fromkeys(found) if "://" not in one]
    if suffix in (".usd", ".usdc"):
        folder = posixpath.dirname(name)
        beside = [n for n in tree.below(folder) if posixpath.splitext(n)[1].lower() in _BESIDE]
        start = len(folder) + 1 if folder else 0
        return [n[start:] for n in beside if n != name][:MOST_BESIDE]
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
