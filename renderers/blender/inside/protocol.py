"""Frames between a worker and its Blender: a JSON header and raw arrays, over a pair of pipes.

Used on both sides, so it needs nothing but the standard library and numpy.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MAGIC = b"g3dB"
_HEAD = struct.Struct("<4sIQ")
_DTYPES = ("|u1", "<i4", "<i8", "<f4", "<f8")

Arrays = dict[str, np.ndarray]


class ProtocolError(Exception):
    """What came is not a frame."""


@dataclass(frozen=True)
class Frame:
    """One request or answer.

    Attributes:
        header: Plain JSON values.
        arrays: By name; they may share memory, and cannot be written to.
    """

    header: dict[str, Any]
    arrays: Arrays = field(default_factory=dict)


def encode(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> list[Any]:
    """The buffers of a frame, in the order in which they are written."""
    packed = {name: np.asarray(array, order="C") for name, array in (arrays or {}).items()}
    for name, array in packed.items():
        if array.dtype.str not in _DTYPES:
            raise ProtocolError(f"array {name} has dtype {array.dtype}")
    table = [[name, array.dtype.str, list(array.shape)] for name, array in packed.items()]
    text = json.dumps({"header": dict(header), "arrays": table}).encode()
    size = sum(array.nbytes for array in packed.values())
    bodies = [array.reshape(-1).view(np.uint8).data for array in packed.values() if array.nbytes]
    return [_HEAD.pack(MAGIC, len(text), size), text, *bodies]


def decode(read: Callable[[int], bytearray]) -> Frame:
    """Read one frame.

    Args:
        read: Gives exactly as many bytes as it is asked for, or raises.

    Raises:
        ProtocolError: The stream holds something else.
    """
    magic, length, size = _HEAD.unpack(read(_HEAD.size))
    if magic != MAGIC:
        raise ProtocolError(f"a frame starts with {magic!r}")
    data = json.loads(read(length).decode())
    body, at = memoryview(read(size)).toreadonly(), 0
    arrays: Arrays = {}
    for name, dtype, shape in data["arrays"]:
        if dtype not in _DTYPES:
            raise ProtocolError(f"array {name} has dtype {dtype}")
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(body, np.dtype(dtype), count, at).reshape(shape)
        at += arrays[name].nbytes
    if at != size:
        raise ProtocolError(f"a body of {size} bytes holds arrays of {at}")
    return Frame(data["header"], arrays)


def read_exactly(descriptor: int, count: int) -> bytearray:
    """Block until ``count`` bytes have come.

    Raises:
        EOFError: The other side closed the pipe.
    """
    out = bytearray(count)
    view, done = memoryview(out), 0
    while done < count:
        got = os.readv(descriptor, [view[done : done + 2**20]])
        if not got:
            raise EOFError
        done += got
    return out


def write_all(descriptor: int, buffers: list[Any]) -> None:
    """Block until everything is written."""
    for buffer in buffers:
        view, done = memoryview(buffer), 0
        while done < len(view):
            done += os.write(descriptor, view[done : done + 2**20])
