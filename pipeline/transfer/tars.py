"""Tars on this machine: reading single members, extracting some of them safely.

The counterpart of :class:`.archives.Archive` with the same rules. A tar has no directory, so its
headers are read once, from one to the next, and no content. A compressed tar cannot be read from
the middle: it is uncompressed once, into the cache.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ...errors import AssetError
from ...manifests.atomic import atomic_file
from .archives import MIB, Limits, Member, safe_place
from .cache import new_folder

_CHUNK = MIB
_UNPACKING = threading.Lock()  # threads of a process write to the same temporary file


class TarArchive:
    """An uncompressed tar, opened for reading. Threads may share it.

    Args:
        path: The file.
        name: What messages call it; the path if it is left out.

    Raises:
        AssetError: ``gone``: it cannot be read; ``import``: it is not a tar, or it is cut.
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.path, self.name = path, name or str(path)
        self.members: dict[str, Member] = {}
        self._refused: set[str] = set()
        try:
            with tarfile.open(path, "r:") as archive:
                for info in archive:
                    self._add(info)
        except tarfile.TarError as error:
            raise _refused(f"{self.name} is not a whole tar: {error}") from error
        except OSError as error:
            raise _unreadable(self.name, error) from error

    def _add(self, info: tarfile.TarInfo) -> None:
        name = info.name.removeprefix("./")
        if info.isdir():
            return
        # What comes last counts, as where a tar is unpacked.
        self.members.pop(name, None)
        self._refused.discard(name)
        if info.isreg() and not info.issparse():
            self.members[name] = Member(name, info.size, info.size, 0, info.offset_data)
        else:
            self._refused.add(name)

    def read(self, name: str, limit: int = 64 * MIB) -> bytes:
        """The bytes of one member.

        Raises:
            AssetError: ``gone``: there is no such member; ``import``: it is larger than ``limit``
                or no plain file; ``checksum``: the tar is shorter than it was.
        """
        self._check([name], Limits(bytes=limit))
        member = self.members[name]
        try:
            with self.path.open("rb") as file:
                file.seek(member.offset)
                data = file.read(member.size)
        except OSError as error:
            raise _unreadable(self.name, error) from error
        if len(data) != member.size:
            raise self._cut(name)
        return data

    def extract(
        self, wanted: Mapping[str, str] | Iterable[str], folder: Path, limits: Limits | None = None
    ) -> Path:
        """Unpack members into a new folder, which appears only when all of it is there.

        Args:
            wanted: Names of members, or where in the folder each goes (``/`` between the parts).
            folder: Where to; if it is there already it is left as it is.
            limits: How much may come out.

        Returns:
            ``folder``.

        Raises:
            AssetError: ``import``: a name that leads out of the folder, a link, more than the
                limits; ``gone``: no such member; ``checksum``: the tar is shorter than it was.
            DiskError: The disk is full or the place cannot be written.
        """
        places = dict(wanted) if isinstance(wanted, Mapping) else {n: n for n in wanted}
        if folder.is_dir():
            return folder
        with new_folder(folder) as temporary:
            targets = {name: safe_place(temporary, place) for name, place in places.items()}
            self._check(places, limits or Limits())
            for name, target in targets.items():
                self._extract_one(name, target)
        return folder

    def _extract_one(self, name: str, target: Path) -> None:
        member = self.members[name]
        try:
            source = self.path.open("rb")
        except OSError as error:
            raise _unreadable(self.name, error) from error
        with source:
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                out = target.open("xb")
            except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
                raise _refused(f"{name} in {self.name} cannot be a file: {error}") from error
            with out:
                source.seek(member.offset)
                left = member.size
                while left and (data := source.read(min(left, _CHUNK))):
                    out.write(data)
                    left -= len(data)
                if left:
                    raise self._cut(name)
                out.flush()
                os.fsync(out.fileno())

    def _check(self, names: Iterable[str], limits: Limits) -> None:
        """Whether these members are plain files of sizes that are allowed."""
        total = count = 0
        for name in names:
            if name in self._refused:
                raise _refused(f"{name} in {self.name} is a link or no plain file")
            if name not in self.members:
                raise AssetError("gone", f"{self.name} has no {name}", stage="fetch")
            total, count = total + self.members[name].size, count + 1
        if total > limits.bytes or count > limits.members:
            raise _refused(
                f"{count} files with {total / MIB:.0f} MiB in {self.name}; "
                f"allowed are {limits.members} with {limits.bytes / MIB:.0f} MiB"
            )

    def _cut(self, name: str) -> AssetError:
        return AssetError("checksum", f"{self.name} ends within {name}", stage="fetch")


def gunzipped(path: Path, cache: Path, limits: Limits | None = None) -> Path:
    """A compressed tar without its compression, in ``cache``: made once for each state of ``path``.

    Raises:
        AssetError: ``import``: not gzip, or more than ``limits.ratio`` times as much comes out;
            ``checksum``: it is damaged or cut; ``gone``: it cannot be read.
        DiskError: The disk is full or the cache cannot be written.
    """
    limits = limits or Limits()
    try:
        stat = path.stat()
    except OSError as error:
        raise _unreadable(str(path), error) from error
    key = hashlib.sha256(f"{path}\n{stat.st_size}\n{stat.st_mtime_ns}".encode()).hexdigest()[:20]
    place = cache / "tars" / key[:2] / f"{key}.tar"
    if place.is_file():
        return place
    most = max(limits.free_bytes, limits.ratio * stat.st_size)
    with _UNPACKING:
        if place.is_file():
            return place
        with atomic_file(place, sync=False) as out:
            total = 0
            for data in _uncompressed(path):
                total += len(data)
                if total > most:
                    raise _refused(f"{path} holds more than {limits.ratio:g} times its size")
                out.write(data)
    return place


def _uncompressed(path: Path) -> Iterator[bytes]:
    # Its errors are typed here: outside, an OSError is one of the cache that is written to.
    try:
        with gzip.open(path) as source:
            while data := source.read(_CHUNK):
                yield data
    except gzip.BadGzipFile as error:
        raise _refused(f"{path} is not a compressed tar: {error}") from error
    except (EOFError, zlib.error) as error:
        raise AssetError("checksum", f"{path} is damaged: {error}", stage="fetch") from error
    except OSError as error:
        raise _unreadable(str(path), error) from error


def _refused(message: str) -> AssetError:
    return AssetError("import", message, stage="fetch")


def _unreadable(name: str, error: OSError) -> AssetError:
    return AssetError("gone", f"{name} cannot be read: {error.strerror or error}", stage="fetch")
