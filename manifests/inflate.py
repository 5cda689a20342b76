"""Inflating (RFC 1951), compiled: into one buffer of known size, which also ends every attempt."""

from __future__ import annotations

import sys
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

_FAST = 11
"""Bits of a code that one look-up resolves."""
_LITERALS = 256 << 4
"""Entries of a table below this are bytes that stand for themselves."""
_LONGEST = 48
"""Bits of the longest match: 15 + 5 for its length, 15 + 13 for its distance."""

_LENGTH_BASE = np.array(
    [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131,
     163, 195, 227, 258], np.int64,
)  # fmt: skip
_LENGTH_BITS = np.array([0] * 8 + [n for n in range(1, 6) for _ in range(4)] + [0], np.int64)
_DIST_BITS = np.array([0, 0] + [n for n in range(14) for _ in range(2)], np.int64)
_DIST_BASE = 1 + np.cumsum(np.concatenate([[0], 1 << _DIST_BITS[:-1]]))
_ORDER = np.array(
    [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15], np.int64
)  # fmt: skip

_WORD = ir.IntType(64)


def address(context: Any, builder: Any, signature: Any, args: Any, kind: Any) -> Any:
    """Pointer to ``args[0][args[1]]``, an array of bytes and a place in it."""
    array = context.make_array(signature.args[0])(context, builder, args[0])
    place = builder.ptrtoint(array.data, _WORD)
    return builder.inttoptr(builder.add(place, args[1]), kind.as_pointer())


@intrinsic
def _eight_bytes(typing: Any, src: Any, at: Any) -> Any:
    """The eight bytes of ``src`` from ``at`` on, the first one lowest; wherever they lie."""

    def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = builder.load(address(context, builder, signature, args, _WORD), align=1)
        return word if sys.byteorder == "little" else builder.bswap(word)

    return types.uint64(src, types.int64), make


@numba.njit(cache=True, nogil=True)
def _table(lengths, count, fast, counts, symbols):  # type: ignore[no-untyped-def]
    """Tables of a canonical code: ``fast[low bits] = symbol << 4 | length``, 0 for longer codes."""
    counts[:] = 0
    for n in range(count):
        counts[lengths[n]] += 1
    counts[0] = 0
    firsts, places = np.zeros(16, np.int64), np.zeros(16, np.int64)
    left = 1
    for n in range(1, 16):
        left = (left << 1) - counts[n]
        if left < 0:
            return False
        firsts[n] = (firsts[n - 1] + counts[n - 1]) << 1
        places[n] = places[n - 1] + counts[n - 1]
    fast[:] = 0
    for n in range(count):
        size = lengths[n]
        if size == 0:
            continue
        symbols[places[size]] = n
        places[size] += 1
        code, turned = firsts[size], 0
        firsts[size] += 1
        if size <= _FAST:
            for _ in range(size):
                turned = turned << 1 | code & 1
                code >>= 1
            for place in range(turned, 1 << _FAST, 1 << size):
                fast[place] = n << 4 | size
    return True


@numba.njit(cache=True, nogil=True)
def _slow(bits, counts, symbols):  # type: ignore[no-untyped-def]
    """A code longer than the look-up, bit by bit: ``symbol << 4 | length``, or 0."""
    code = first = place = 0
    for size in range(1, 16):
        code |= bits & 1
        bits >>= np.uint64(1)
        count = counts[size]
        if code - count < first:
            return symbols[place + code - first] << 4 | size
        place += count
        first = (first + count) << 1
        code <<= 1
    return 0


@numba.njit(cache=True, nogil=True)
def _refill(src, at, bits, have):  # type: ignore[no-untyped-def]
    """(at, bits, have) with at least 56 bits, or all that are left."""
    if at + 8 <= len(src):
        # Bits above those that are counted come along; they are the same when they come again.
        bits |= _eight_bytes(src, at) << np.uint64(have)
        more = (63 - have) >> 3
        return at + more, bits, have + 8 * more
    while have <= 48 and at < len(src):
        bits |= np.uint64(src[at]) << np.uint64(have)
        at, have = at + 1, have + 8
    return at, bits, have


@numba.njit(cache=True, nogil=True)
def _lengths(src, at, bits, have, lengths, fast, counts, symbols):  # type: ignore[no-untyped-def]
    """Code lengths of a dynamic block: (place, bits, how many, literals, distances)."""
    bad = (at, bits, have, 0, 0)
    one = np.uint64(1)
    at, bits, have = _refill(src, at, bits, have)
    literals = int(bits & np.uint64(31)) + 257
    distances = int(bits >> np.uint64(5) & np.uint64(31)) + 1
    codes = int(bits >> np.uint64(10) & np.uint64(15)) + 4
    bits, have = bits >> np.uint64(14), have - 14
    lengths[:19] = 0
    for n in range(codes):
        if have < 3 and at < len(src):
            bits |= np.uint64(src[at]) << np.uint64(have)
            at, have = at + 1, have + 8
        lengths[_ORDER[n]] = int(bits & np.uint64(7))
        bits, have = bits >> np.uint64(3), have - 3
    if have < 0 or not _table(lengths, 19, fast, counts, symbols):
        return bad
    n, last = 0, 0
    while n < literals + distances:
        at, bits, have = _refill(src, at, bits, have)
        entry = fast[int(bits & ((one << np.uint64(_FAST)) - one))]
        if entry == 0:
            return bad
        symbol = entry >> 4
        bits, have = bits >> np.uint64(entry & 15), have - (entry & 15)
        if symbol < 16:
            lengths[n] = last = symbol
            n += 1
            continue
        extra = 2 if symbol == 16 else 3 if symbol == 17 else 7
        repeat = (11 if symbol == 18 else 3) + int(bits & ((one << np.uint64(extra)) - one))
        bits, have = bits >> np.uint64(extra), have - extra
        last = last if symbol == 16 else 0
        if n + repeat > literals + distances:
            return bad
        lengths[n : n + repeat] = last
        n += repeat
    if have < 0:
        return bad
    return at, bits, have, literals, distances


@numba.njit(cache=True, nogil=True)
def _repeat(out, place, back, run):  # type: ignore[no-untyped-def]
    """Copy ``run`` bytes from ``back`` bytes before; they may overlap."""
    # Views from 0 on: the compiler makes block moves of these loops.
    there, here = out[place - back : place - back + run], out[place : place + run]
    if back == 1:
        value = there[0]
        for n in range(run):
            here[n] = value
    else:
        for n in range(run):
            here[n] = there[n]


@numba.njit(cache=True, nogil=True)
def _symbols(src, at, bits, have, out, place, fast, counts, symbols, far, far_counts, far_symbols):  # type: ignore[no-untyped-def]
    """Literals and matches of one block: (at, bits, have, place), place -1 if it is damaged."""
    bad = (at, bits, have, -1)
    one, mask = np.uint64(1), (np.uint64(1) << np.uint64(_FAST)) - np.uint64(1)
    while True:
        at, bits, have = _refill(src, at, bits, have)
        entry = fast[bits & mask]
        # Literals mostly come in rows, and several fit into the bits that are there.
        while 0 < entry < _LITERALS and have >= _FAST and place < len(out):
            out[place] = entry >> 4
            place += 1
            bits, have = bits >> np.uint64(entry & 15), have - (entry & 15)
            entry = fast[bits & mask]
        if have < _LONGEST and at < len(src):
            continue
        if entry == 0:
            entry = _slow(bits, counts, symbols)
        size, symbol = entry & 15, entry >> 4
        bits, have = bits >> np.uint64(size), have - size
        if size == 0 or have < 0 or symbol > 285:
            return bad
        if symbol < 256:
            if place >= len(out):
                return bad
            out[place] = symbol
            place += 1
            continue
        if symbol == 256:
            return at, bits, have, place
        extra = _LENGTH_BITS[symbol - 257]
        run = _LENGTH_BASE[symbol - 257] + int(bits & ((one << np.uint64(extra)) - one))
        bits, have = bits >> np.uint64(extra), have - extra
        entry = far[bits & mask]
        if entry == 0:
            entry = _slow(bits, far_counts, far_symbols)
        size, symbol = entry & 15, entry >> 4
        bits, have = bits >> np.uint64(size), have - size
        if size == 0 or symbol > 29:
            return bad
        extra = _DIST_BITS[symbol]
        back = _DIST_BASE[symbol] + int(bits & ((one << np.uint64(extra)) - one))
        bits, have = bits >> np.uint64(extra), have - extra
        if have < 0 or back > place or place + run > len(out):
            return bad
        _repeat(out, place, back, run)
        place += run


@numba.njit(cache=True, nogil=True)
def inflate(src, at, out):  # type: ignore[no-untyped-def]
    """Inflate ``src`` from byte ``at``; True if it fills ``out`` exactly."""
    bits, have, place = np.uint64(0), 0, 0
    lengths = np.zeros(320, np.int64)
    fast, far = np.zeros(1 << _FAST, np.int32), np.zeros(1 << _FAST, np.int32)
    counts, far_counts = np.zeros(16, np.int64), np.zeros(16, np.int64)
    symbols, far_symbols = np.zeros(320, np.int64), np.zeros(32, np.int64)
    last = False
    while not last:
        at, bits, have = _refill(src, at, bits, have)
        last = bool(bits & np.uint64(1))
        kind = int(bits >> np.uint64(1) & np.uint64(3))
        bits, have = bits >> np.uint64(3), have - 3
        if kind == 0:
            at -= have >> 3
            bits, have = np.uint64(0), 0
            if at + 4 > len(src):
                return False
            size = int(src[at]) | int(src[at + 1]) << 8
            at += 4
            if at + size > len(src) or place + size > len(out):
                return False
            out[place : place + size] = src[at : at + size]
            at, place = at + size, place + size
            continue
        if kind == 1:
            lengths[:144], lengths[144:256], lengths[256:280], lengths[280:288] = 8, 9, 7, 8
            lengths[288:320] = 5
            literals, distances = 288, 30
        else:
            at, bits, have, literals, distances = _lengths(
                src, at, bits, have, lengths, fast, counts, symbols
            )
            if kind == 3 or literals == 0 or literals > 286 or distances > 30:
                return False
        if not _table(lengths, literals, fast, counts, symbols):
            return False
        if not _table(lengths[literals:], distances, far, far_counts, far_symbols):
            return False
        at, bits, have, place = _symbols(
            src, at, bits, have, out, place, fast, counts, symbols, far, far_counts, far_symbols
        )
        if place < 0:
            return False
    return place == len(out)
