"""Reading the uncompressed scanline EXR files that Blender writes, with numpy alone.

Layout: "OpenEXR File Layout", openexr.com: magic number, version, header attributes, one offset a
scanline, then scanlines, each with its channels one after the other in the order of the header.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

MAGIC = 20000630
NOT_PLAIN = 0x1A00
"""Version flags of tiles, deep data and several parts."""
PIXEL_TYPES: dict[int, np.dtype] = {0: np.dtype("<u4"), 1: np.dtype("<f2"), 2: np.dtype("<f4")}


def read_exr(path: Path) -> dict[str, np.ndarray]:
    """Channels by name, each float32 ``[H, W]``, row 0 = top.

    Raises:
        ValueError: Not an EXR file, or one with compression, tiles or several parts.
    """
    data = path.read_bytes()
    magic, version = struct.unpack_from("<ii", data, 0)
    if magic != MAGIC or version & NOT_PLAIN:
        raise ValueError(f"{path.name} is not a plain scanline EXR file (version {version:#x})")
    header, start = _header(data)
    if header["compression"][0] != 0:
        raise ValueError(f"{path.name} is compressed")
    left, top, right, bottom = struct.unpack("<4i", header["dataWindow"])
    height, width = bottom - top + 1, right - left + 1
    channels = _channels(header["channels"])
    row = np.dtype([("y", "<i4"), ("size", "<i4")] + [(n, t, (width,)) for n, t in channels])
    rows = np.frombuffer(data, row, count=height, offset=start + 8 * height)
    order = np.argsort(rows["y"])
    return {name: rows[name][order].astype(np.float32) for name, _ in channels}


def _header(data: bytes) -> tuple[dict[str, bytes], int]:
    """Attributes by name, and where the header ends."""
    out, at = {}, 8
    while data[at] != 0:
        name, at = _text(data, at)
        _, at = _text(data, at)
        (size,) = struct.unpack_from("<i", data, at)
        out[name] = data[at + 4 : at + 4 + size]
        at += 4 + size
    return out, at + 1


def _channels(data: bytes) -> list[tuple[str, np.dtype]]:
    """Name and pixel type of every channel, in the order of the file."""
    out, at = [], 0
    while data[at] != 0:
        name, at = _text(data, at)
        out.append((name, PIXEL_TYPES[struct.unpack_from("<i", data, at)[0]]))
        at += 16
    return out


def _text(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(b"\0", at)
    return data[at:end].decode("utf-8"), end + 1
