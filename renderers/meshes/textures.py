"""Texture files: finding them beside a model, decoding them to RGBA."""

from __future__ import annotations

import io
from pathlib import Path
from urllib.parse import unquote

import numpy as np
from PIL import Image

from ...errors import AssetError


def find_beside(folder: Path, name: str) -> Path | None:
    """The file that a model in ``folder`` calls ``name``, or None.

    Percent escapes, backslashes and wrong upper or lower case are forgiven: models made on Windows
    have them.
    """
    if "://" in name:
        return None
    for text in dict.fromkeys((name, unquote(name))):
        relative = Path(text.replace("\\", "/"))
        exact = folder / relative
        if exact.is_file():
            return exact
        found = folder
        for part in relative.parts:
            found = found / part if (found / part).exists() else _ignoring_case(found, part)
        if found.is_file():
            return found
    return None


def _ignoring_case(folder: Path, name: str) -> Path:
    if folder.is_dir():
        for entry in sorted(folder.iterdir()):
            if entry.name.lower() == name.lower():
                return entry
    return folder / name


def read_beside(folder: Path, name: str) -> bytes:
    """Bytes of the texture ``name`` of a model in ``folder``.

    Raises:
        AssetError: ``missing_texture``: there is no such file.
    """
    path = find_beside(folder, name)
    if path is None:
        raise AssetError("missing_texture", f"texture {name!r} is not there")
    return path.read_bytes()


def decode_texture(data: bytes, name: str) -> np.ndarray:
    """Decode an image file to uint8 ``[h, w, 4]`` sRGB, row 0 = top.

    Raises:
        AssetError: ``import``: the bytes are no image, are truncated, or decode to too many pixels.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode.startswith("I") or image.mode == "F":
                # Pillow clips 16-bit grey to white instead of scaling it.
                grey = np.asarray(image, np.float64)
                grey = grey / (65535.0 if image.mode.startswith("I") else 1.0)
                plane = (np.clip(grey, 0, 1) * 255 + 0.5).astype(np.uint8)
                return np.stack([plane, plane, plane, np.full_like(plane, 255)], axis=-1)
            return np.array(image.convert("RGBA"), np.uint8)
    # Pillow's plugins raise many kinds of errors on bad bytes; each means the same here.
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, Image.DecompressionBombError,
            Image.DecompressionBombWarning) as error:  # fmt: skip
        raise AssetError("import", f"texture {name!r} cannot be read: {error}") from error
