"""Decoding the PNGs of a shard, compiled: two to three times as fast as a general library.

The images of a dataset are small, 8 bit RGBA, not interlaced, and mostly one long run of nothing.
Inflating (`inflate.py`) and undoing the row filters (PNG, section 9) into one fixed buffer needs no
intermediate objects. Whatever else a PNG may be is left to Pillow.
"""

from __future__ import annotations

import io
import zlib
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from .inflate import address, inflate

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGBA8 = b"\x08\x06\x00\x00\x00"
"""End of the header: 8 bit, RGBA, deflate, adaptive filters, not interlaced."""
_BLOCK = 64
"""Bytes of a row that are looked at together for being background."""


def decode_png(data: bytes) -> np.ndarray:
    """A PNG as uint8 ``[H, W, C]``, or ``[H, W]`` for one channel, as Pillow gives it.

    Raises:
        ValueError: It is not a PNG, or it is damaged.
    """
    if data[:8] != _SIGNATURE or data[12:16] != b"IHDR" or data[24:29] != _RGBA8:
        return _general(data)
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    packed = _idat(data)
    # A byte of deflate is at most 1032 bytes of image: a damaged header asks for no more memory.
    if not 0 < width * height * 4 <= len(packed) * 1100:
        raise ValueError(f"the header says {width} x {height}, which the data cannot hold")
    raw = np.zeros(height * (4 * width + 1), np.uint8)
    # Six bytes frame the deflate stream: two before it, a checksum after it. The checksums of
    # the chunks, over fewer bytes, have told already.
    if not inflate(np.frombuffer(packed, np.uint8), 2, raw):
        raise ValueError("the deflate stream is damaged")
    out = np.zeros((height, width, 4), np.uint8)
    if not _unfilter(raw, out):
        raise ValueError("a row has an unknown filter")
    return out


def _general(data: bytes) -> np.ndarray:
    from PIL import Image

    try:
        return np.array(Image.open(io.BytesIO(data), formats=["PNG"]))
    except (OSError, SyntaxError) as error:
        raise ValueError(str(error)) from error


def _idat(data: bytes) -> bytes:
    """The image data of all chunks; every one of them has its checksum looked at."""
    parts: list[bytes] = []
    place = 8
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4])
        kind = data[place + 4 : place + 8]
        if zlib.crc32(data[place + 4 : end]) != int.from_bytes(data[end : end + 4]):
            raise ValueError(f"the checksum of a chunk {kind!r} differs")
        if kind == b"IEND":
            return parts[0] if len(parts) == 1 else b"".join(parts)
        if kind == b"IDAT":
            parts.append(data[place + 8 : end])
        place = end + 4
    raise ValueError("the file is cut")


_BYTES, _LANES = ir.VectorType(ir.IntType(8), 4), ir.VectorType(ir.IntType(16), 4)
_WORD = ir.IntType(64)
"""A pixel in memory; its channels with room to count in; those as one number."""


@intrinsic
def _pixel(typing: Any, row: Any, at: Any) -> Any:
    """Four bytes of ``row`` from ``at`` on, each in 16 bits of a number."""

    def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        four = builder.load(address(context, builder, signature, args, _BYTES), align=1)
        return builder.bitcast(builder.zext(four, _LANES), _WORD)

    return types.uint64(row, types.int64), make


@intrinsic
def _put(typing: Any, row: Any, at: Any, pixel: Any) -> Any:
    """Write what :func:`_pixel` reads."""

    def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        four = builder.trunc(builder.bitcast(args[2], _LANES), _BYTES)
        builder.store(four, address(context, builder, signature, args, _BYTES), align=1)
        return context.get_dummy_value()

    return types.void(row, types.int64, types.uint64), make


def _low_bytes(builder: Any, lanes: Any) -> Any:
    return builder.bitcast(builder.and_(lanes, ir.Constant(_LANES, [255] * 4)), _WORD)


@intrinsic
def _plus(typing: Any, line: Any, left: Any) -> Any:
    """Channel by channel the sum, modulo 256."""

    def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        one, other = (builder.bitcast(arg, _LANES) for arg in args)
        return _low_bytes(builder, builder.add(one, other))

    return types.uint64(types.uint64, types.uint64), make


@intrinsic
def _paeth(typing: Any, line: Any, left: Any, up: Any, corner: Any) -> Any:
    """``line`` plus the neighbour that is nearest to ``left + up - corner``, modulo 256."""

    def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        line, left, up, corner = (builder.bitcast(arg, _LANES) for arg in args)
        zero = ir.Constant(_LANES, [0] * 4)

        def size(lanes: Any) -> Any:
            low = builder.icmp_signed("<", lanes, zero)
            return builder.select(low, builder.sub(zero, lanes), lanes)

        rise, run = builder.sub(up, corner), builder.sub(left, corner)
        far, wide, both = size(rise), size(run), size(builder.add(rise, run))
        upper = builder.icmp_signed("<", wide, far)
        near = builder.select(upper, up, left)
        least = builder.select(upper, wide, far)
        near = builder.select(builder.icmp_signed("<", both, least), corner, near)
        return _low_bytes(builder, builder.add(line, near))

    return types.uint64(types.uint64, types.uint64, types.uint64, types.uint64), make


@numba.njit(cache=True, nogil=True)
def _undo_sub(line, here):  # type: ignore[no-untyped-def]
    """Each byte is the difference to the pixel on its left."""
    left = np.uint64(0)
    for x in range(0, len(here), 4):
        left = _plus(_pixel(line, x), left)
        _put(here, x, left)


@numba.njit(cache=True, nogil=True)
def _undo_paeth(line, above, here):  # type: ignore[no-untyped-def]
    """Pixel by pixel, its channels side by side; background is skipped."""
    size = len(here)
    left = corner = np.uint64(0)
    for start in range(0, size, _BLOCK):
        end = min(start + _BLOCK, size)
        fresh = np.uint8(0)
        for x in range(start, end):
            fresh |= line[x] | above[x]
        if fresh == 0 and left == 0 and corner == 0:
            continue  # the image is made of zeros
        for x in range(start, end, 4):
            up = _pixel(above, x)
            left = _paeth(_pixel(line, x), left, up, corner)
            _put(here, x, left)
            corner = up


@numba.njit(cache=True, nogil=True)
def _unfilter(raw, image):  # type: ignore[no-untyped-def]
    """Undo the filters of all rows of RGBA; False if there is one that PNG does not have."""
    height, size = image.shape[0], image.shape[1] * 4
    out = image.reshape(height, size)
    above = np.zeros(size, np.uint8)
    place = 0
    for y in range(height):
        kind, line, here = raw[place], raw[place + 1 : place + 1 + size], out[y]
        if kind == 0:
            for x in range(size):
                here[x] = line[x]
        elif kind == 1:
            _undo_sub(line, here)
        elif kind == 2:
            for x in range(size):
                here[x] = line[x] + above[x]
        elif kind == 3:
            for x in range(size):
                left = np.int32(here[x - 4]) if x >= 4 else np.int32(0)
                here[x] = line[x] + (left + np.int32(above[x]) >> 1)
        elif kind == 4:
            _undo_paeth(line, above, here)
        else:
            return False
        above, place = here, place + 1 + size
    return True
