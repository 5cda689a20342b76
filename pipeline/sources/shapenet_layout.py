"""The files of an asset of ShapeNetCore: which there are in each release, and how they lie."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tga", ".tif", ".tiff", ".dds", ".webp"}
_NOT_TEXTURES = "screenshots"


@dataclass(frozen=True)
class Layout:
    """One release of ShapeNetCore.

    Attributes:
        name: ``v1`` or ``v2``.
        model: The OBJ, from the folder of the asset.
        turn: The axis of the file, and its sign, that each of our axes is: +Y up, +Z front.
    """

    name: str
    model: str
    turn: tuple[tuple[int, int], ...]


LAYOUTS = (
    # Both READMEs: up is +Y. Front is -Z in v2: half a turn about Y. It is +X in v1: a quarter.
    Layout("v2", "models/model_normalized.obj", ((0, -1), (1, 1), (2, -1))),
    Layout("v1", "model.obj", ((2, -1), (1, 1), (0, 1))),
)


def turn_obj(data: bytes, turn: Sequence[tuple[int, int]]) -> bytes:
    """An OBJ file with its positions and normals in other axes; all else stays as it is.

    Axes are exchanged and negated as text, so no digit changes.
    """
    out = []
    for line in data.replace(b"\\\r\n", b" ").replace(b"\\\n", b" ").split(b"\n"):
        words = line.split()
        if len(words) >= 4 and words[0] in (b"v", b"vn"):
            turned = [_signed(words[1 + axis], sign) for axis, sign in turn]
            end = b"\r" if line.endswith(b"\r") else b""
            line = b" ".join([words[0], *turned, *words[4:]]) + end
        out.append(line)
    return b"\n".join(out)


def _signed(word: bytes, sign: int) -> bytes:
    if sign > 0:
        return word
    return word[1:] if word.startswith(b"-") else b"-" + word.removeprefix(b"+")


def used(names: Iterable[str], layout: Layout) -> list[str]:
    """Of the files of an asset, the model, the MTL files beside it and all textures; sorted.

    Not its voxels, its metadata and its screenshots.
    """
    beside = PurePosixPath(layout.model).parent
    out = []
    for name in names:
        path = PurePosixPath(name)
        suffix = path.suffix.lower()
        library = suffix == ".mtl" and path.parent == beside
        texture = suffix in IMAGES and _NOT_TEXTURES not in path.parts
        if name == layout.model or library or texture:
            out.append(name)
    return sorted(out)


def missing_textures(libraries: Sequence[tuple[str, bytes]], names: Iterable[str]) -> list[str]:
    """What MTL files ``(name, bytes)`` refer to and is not among ``names``, as it is written."""
    there = {os.path.normpath(name).lower() for name in names}
    out: dict[str, None] = {}
    for library, data in libraries:
        for line in data.decode("utf-8", "replace").splitlines():
            words = line.strip().split(None, 1)
            if len(words) < 2 or not re.fullmatch(r"map_\w+|bump|disp|decal|refl|norm", words[0],
                                                  re.IGNORECASE):  # fmt: skip
                continue
            name = words[1].split()[-1] if words[1].startswith("-") else words[1].strip()
            place = PurePosixPath(library).parent / unquote(name.replace("\\", "/"))
            if os.path.normpath(place).lower() not in there:
                out[name] = None
    return list(out)
