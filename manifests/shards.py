"""Shards: USTAR archives that any WebDataset reader streams, writer and reader side by side.

An asset's members are adjacent and their key, the name up to the first dot, is its uid. The bytes
depend on the members alone: fixed time, owner, mode and order.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DatasetError
from .atomic import atomic_file

BLOCK = 512
END = b"\0" * (2 * BLOCK)
"""The two empty blocks that end an archive."""
UID_LIMIT = 84
"""Longest uid: USTAR holds names of 100 bytes and ``.0000.normal.png`` is the longest suffix."""
UID_PATTERN = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{UID_LIMIT - 1}}}")
"""What a uid may be: free of dots and slashes, because it is the key of shard members."""


@dataclass(frozen=True)
class Member:
    """A file inside a shard.

    Attributes:
        name: ``<uid>.<suffix>``.
        offset: Byte at which its content starts, from the start of the piece or the shard.
        length: Bytes of its content.
    """

    name: str
    offset: int
    length: int

    @property
    def uid(self) -> str:
        """The key: the name up to the first dot."""
        return self.name.partition(".")[0]


@dataclass(frozen=True)
class Piece:
    """The members of one asset as they stand in a shard, headers and padding included.

    Attributes:
        data: Whole blocks of a USTAR archive.
        members: Their offsets, from the start of ``data``.
    """

    data: bytes
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Written:
    """A finished shard: its size and its hash."""

    bytes: int
    sha256: str


def encode_piece(files: Sequence[tuple[str, bytes]]) -> Piece:
    """Lay ``files`` (name, content) out as consecutive members of a USTAR archive.

    Raises:
        ValueError: A name does not fit USTAR's 100 bytes.
    """
    out = bytearray()
    members = []
    for name, content in files:
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = len(content), 0o644, 0
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        out += info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
        members.append(Member(name, len(out), len(content)))
        out += content
        out += b"\0" * (-len(content) % BLOCK)
    return Piece(bytes(out), tuple(members))


def decode_members(data: bytes) -> tuple[Member, ...]:
    """The members of a piece, from its bytes.

    Raises:
        DatasetError: The bytes are not whole USTAR members.
    """
    members = []
    position = 0
    while position < len(data):
        try:
            info = tarfile.TarInfo.frombuf(data[position : position + BLOCK], "ascii", "strict")
        except tarfile.HeaderError as error:
            raise DatasetError(f"not a tar header at byte {position}: {error}") from error
        position += BLOCK
        members.append(Member(info.name, position, info.size))
        position += info.size + -info.size % BLOCK
    if position != len(data):
        raise DatasetError(f"the last member is cut: {len(data)} bytes of {position}")
    return tuple(members)


def write_shard(path: Path, pieces: Iterable[bytes]) -> Written:
    """Write one shard from pieces, in the order given; it appears at ``path`` whole or not at all.

    Raises:
        DiskError: The disk is full or the place cannot be written; nothing is left behind.
    """
    checksum, position = hashlib.sha256(), 0
    with atomic_file(path) as file:
        for data in itertools.chain(pieces, (END,)):
            file.write(data)
            checksum.update(data)
            position += len(data)
    return Written(position, checksum.hexdigest())


class ShardReader:
    """Reads a local shard: by offset, or all its members in order."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``.

        Raises:
            DatasetError: The shard is missing or shorter.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                data = file.read(length)
        except OSError as error:
            raise DatasetError(f"cannot read {self.path}: {error.strerror}") from error
        if len(data) != length:
            raise DatasetError(
                f"{self.path} is cut: {len(data)} of {length} bytes at {offset}",
                hint="run the same `g3d prepare` again: it makes the damaged shard anew",
            )
        return data

    def members(self) -> Iterator[Member]:
        """Every member with the offset of its content.

        Raises:
            DatasetError: The archive is missing, cut or not a tar.
        """
        try:
            with tarfile.open(self.path, "r:") as archive:
                for info in archive:
                    yield Member(info.name, info.offset_data, info.size)
        except (OSError, tarfile.TarError) as error:
            raise DatasetError(f"cannot read {self.path}: {error}") from error


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
