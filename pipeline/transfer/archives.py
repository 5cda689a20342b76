"""Zips that are here or behind a URL: reading single members, extracting some of them safely.

A zip is read through ranges: its directory at the end with two or three of them, then the members
that are asked for, neighbours with one. Nothing else of it is read, locally or remotely.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ...errors import AssetError
from .cache import new_folder
from .ranges import RangeFile, Ranges, Slice, ranges_of
from .web import Patience

log = logging.getLogger(__name__)

MIB = 1 << 20
TAIL = 64 * 1024 + 22
"""Bytes at the end that are read first: the longest end record that a zip can have."""
MOST_AT_ONCE = 64 * MIB
"""Neighbouring members are read with one range up to this many bytes."""
_CHUNK = MIB
_BAD_NAME = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL}
_LOCAL_HEADER = 30 + 2 * 0xFFFF  # the longest header before the data of a member


@dataclass(frozen=True)
class Limits:
    """What may come out of an archive for one asset.

    Attributes:
        bytes: Sum of the uncompressed sizes.
        ratio: Uncompressed to compressed, of all members together; text has about 5.
        free_bytes: No ratio is too high below this sum: a plain texture has several hundred.
        members: Number of files.
    """

    bytes: int = 2048 * MIB
    ratio: float = 100.0
    free_bytes: int = 64 * MIB
    members: int = 5000


@dataclass(frozen=True)
class Member:
    """One file of an archive, by its directory.

    Attributes:
        name: As it is written, with ``/`` between its parts.
        size: Uncompressed, bytes.
        compressed: In the archive, bytes.
        crc: CRC-32 of the uncompressed bytes.
        offset: Where its header begins.
    """

    name: str
    size: int
    compressed: int
    crc: int
    offset: int


class Archive:
    """A zip, opened for reading. Threads may share it.

    Args:
        location: A path, a URL, or something to read ranges of.
        name: What messages call it; the location if it is left out.
        gap: Members with at most so many other bytes between them are read with one range.
        patience: With the server of a URL.

    Raises:
        AssetError: ``gone`` or ``download``: it cannot be read; ``import``: it is not a zip, or it
            ends before its directory does.
    """

    def __init__(
        self,
        location: str | Path | Ranges,
        name: str | None = None,
        *,
        gap: int = 0,
        patience: Patience | None = None,
    ) -> None:
        ranges: Ranges
        if isinstance(location, str | Path):
            name = name or str(location)
            ranges = ranges_of(location, patience)
        else:
            ranges = location
        self.name, self.gap = name or "the archive", gap
        self._file = RangeFile(ranges, self.name)
        self._lock = threading.Lock()
        self._file.fetch(max(0, ranges.size - TAIL), ranges.size)
        with self._decoding("its directory"):
            self._zip = zipfile.ZipFile(self._file)  # type: ignore[arg-type]
        self._file.forget()
        self._infos = {i.filename.replace("\\", "/"): i for i in self._zip.infolist()}
        starts = sorted(i.header_offset for i in self._infos.values())
        self._next = dict(zip(starts, [*starts[1:], self._zip.start_dir], strict=True))
        self.members: dict[str, Member] = {
            name: Member(name, i.file_size, i.compress_size, i.CRC, i.header_offset)
            for name, i in self._infos.items()
            if not i.is_dir()
        }

    def read(self, name: str, limit: int = 64 * MIB) -> bytes:
        """The bytes of one member, checked by its CRC.

        Raises:
            AssetError: ``gone``: there is no such member; ``import``: it is larger than ``limit``,
                encrypted or no plain file; ``checksum``: it is damaged; ``download``.
        """
        self._check([name], Limits(bytes=limit))
        with (
            self._fetched([name]),
            self._decoding(name),
            self._zip.open(self._infos[name]) as stream,
        ):
            return stream.read()

    def nested(self, name: str) -> Archive:
        """A zip that is a member of this one, read in its place.

        Raises:
            AssetError: ``import``: it is compressed once more, or no zip.
        """
        with self._lock:
            self._check([name], Limits(bytes=1 << 62, free_bytes=1 << 62))
            info = self._infos[name]
            if info.compress_type != zipfile.ZIP_STORED:
                raise _refused(f"{name} in {self.name} is packed twice: unpack {self.name} first")
            self._file.seek(info.header_offset)
            header = self._file.read(30)
            if len(header) < 30 or not header.startswith(b"PK\x03\x04"):
                raise _damaged(f"{name} in {self.name} has no header")
            start = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
        return Archive(
            Slice(self._file.ranges, start, start + info.file_size),
            f"{self.name}/{name}",
            gap=self.gap,
        )

    def extract(
        self, wanted: Mapping[str, str] | Iterable[str], folder: Path, limits: Limits | None = None
    ) -> Path:
        """Unpack members into a new folder, which appears only when all of it is there and good.

        Args:
            wanted: Names of members, or where in the folder each goes (``/`` between the parts).
            folder: Where to; if it is there already it is left as it is.
            limits: How much may come out.

        Returns:
            ``folder``.

        Raises:
            AssetError: ``import``: a name that leads out of the folder, a link, an encrypted
                member, more than the limits; ``checksum``: a damaged member; ``gone``: no such
                member; ``download``: the archive cannot be read.
            DiskError: The disk is full or the place cannot be written.
        """
        places = dict(wanted) if isinstance(wanted, Mapping) else {n: n for n in wanted}
        if folder.is_dir():
            return folder
        with new_folder(folder) as temporary:
            targets = {name: safe_place(temporary, place) for name, place in places.items()}
            self._check(places, limits or Limits())
            for group in self._neighbours(places):
                with self._fetched(group):
                    for name in group:
                        self._extract_one(name, targets[name])
        return folder

    def _extract_one(self, name: str, target: Path) -> None:
        # Not ZipFile.extract: it makes a name harmless silently, and the model then lacks a file.
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            out = target.open("xb")
        except OSError as error:
            if error.errno in _BAD_NAME:
                raise _refused(f"{name} in {self.name} cannot be a file: {error}") from error
            raise
        with out, self._decoding(name):
            with self._zip.open(self._infos[name]) as stream:
                while data := stream.read(_CHUNK):
                    out.write(data)
            out.flush()
            os.fsync(out.fileno())

    def _check(self, names: Iterable[str], limits: Limits) -> None:
        """Whether these members are plain files of sizes that are allowed, by the directory."""
        total = compressed = count = 0
        for name in names:
            info = self._infos.get(name)
            if info is None:
                raise AssetError("gone", f"{self.name} has no {name}", stage="fetch")
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir() or kind not in (0, stat.S_IFREG):
                raise _refused(f"{name} in {self.name} is a link or no plain file")
            total, compressed, count = (
                total + info.file_size, compressed + info.compress_size, count + 1
            )  # fmt: skip
        if total > limits.bytes or count > limits.members:
            raise _refused(
                f"{count} files with {total / MIB:.0f} MiB in {self.name}; "
                f"allowed are {limits.members} with {limits.bytes / MIB:.0f} MiB"
            )
        if total > limits.free_bytes and total > limits.ratio * max(compressed, 1):
            raise _refused(
                f"{self.name} unpacks {compressed} bytes to {total}, more than "
                f"{limits.ratio:g} times as much"
            )

    def _span(self, name: str) -> tuple[int, int]:
        """First byte of a member's header, and the first after its data."""
        info = self._infos[name]
        end = min(self._next[info.header_offset],
                  info.header_offset + info.compress_size + _LOCAL_HEADER)  # fmt: skip
        return info.header_offset, end

    def _neighbours(self, names: Iterable[str]) -> list[list[str]]:
        """Members that stand side by side, together, in the order of the archive."""
        out: list[list[str]] = []
        first = last = 0
        for name in sorted(names, key=lambda n: self._infos[n].header_offset):
            start, end = self._span(name)
            if not out or start - last > self.gap or end - first > MOST_AT_ONCE:
                out.append([])
                first = start
            out[-1].append(name)
            last = end
        return out

    @contextmanager
    def _fetched(self, group: list[str]) -> Iterator[None]:
        """Hold the archive, with neighbouring members read by one range.

        What is too much to hold in memory is read in pieces as it is unpacked.
        """
        start, end = self._span(group[0])[0], self._span(group[-1])[1]
        data = None
        if 0 <= start < end <= start + MOST_AT_ONCE:
            # Not under the lock: threads may wait for a server side by side.
            data = self._file.range(start, min(end, self._file.ranges.size))
        with self._lock:
            if data is not None:
                self._file.keep(start, data)
            try:
                yield
            finally:
                self._file.forget()

    @contextmanager
    def _decoding(self, what: str) -> Iterator[None]:
        """Errors of zipfile as :class:`AssetError`."""
        try:
            yield
        except (zlib.error, EOFError) as error:
            raise _damaged(f"{what} in {self.name} is damaged: {error}") from error
        except zipfile.BadZipFile as error:
            if "CRC" in str(error) or "header" in str(error):
                raise _damaged(f"{what} in {self.name} is damaged: {error}") from error
            raise _refused(f"{self.name} is not a whole zip: {error}") from error
        except (RuntimeError, NotImplementedError, ValueError, struct.error) as error:
            # Encrypted, a compression that Python lacks, a name with broken characters.
            raise _refused(f"{what} in {self.name} cannot be read: {error}") from error


def _refused(message: str) -> AssetError:
    return AssetError("import", message, stage="fetch")


def _damaged(message: str) -> AssetError:
    return AssetError("checksum", message, stage="fetch")


def safe_place(folder: Path, name: str) -> Path:
    """The path of ``name`` below ``folder``.

    Raises:
        AssetError: ``import``: it is absolute, has a drive, or climbs out with ``..``.
    """
    text = name.replace("\\", "/")
    parts = PurePosixPath(text).parts
    drive = bool(parts) and ":" in parts[0]
    if not parts or text.startswith("/") or drive or ".." in parts or "\0" in text:
        raise _refused(f"the name {name!r} leads out of the folder that it is unpacked to")
    return folder.joinpath(*parts)
