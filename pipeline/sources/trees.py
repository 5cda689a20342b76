"""Folders of files: on the disk, and inside archives that are read where they are."""

from __future__ import annotations

import io
import logging
import os
import posixpath
import threading
from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import BinaryIO, Protocol

from ...errors import AssetError
from ..transfer.archives import Archive, Limits
from ..transfer.tars import TarArchive, gunzipped

log = logging.getLogger(__name__)

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
"""Endings of archives whose members are listed."""
MOST_READ = Limits().bytes
"""A larger member of an archive is not read while it is listed."""
_SKIPPED = {"__MACOSX"}
_OPENING = threading.Lock()


class Tree(Protocol):
    """Files by their names below a root, with ``/`` between the parts."""

    name: str
    """What messages call it."""

    def files(self) -> Iterable[str]:
        """All files, without hidden ones and those in hidden folders."""
        ...

    def below(self, folder: str) -> Iterable[str]:
        """All files in ``folder`` (empty: the root) and below it, sorted."""
        ...

    def within(self, folder: str) -> Iterable[str]:
        """Names of the files in ``folder`` itself."""
        ...

    def resolve(self, folder: str, name: str) -> str | None:
        """The file that ``name`` means in ``folder``; None: it is not there, or not in the tree."""
        ...

    def open(self, name: str) -> BinaryIO:
        """The bytes of a file.

        Raises:
            OSError: It cannot be read.
            AssetError: It cannot be read out of its archive.
        """
        ...


class DiskTree:
    """A folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.name = root, str(root)

    def files(self) -> Iterator[str]:
        """All files, without hidden ones and those in hidden folders."""
        for folder, names, files in os.walk(self.root):
            names[:] = sorted(n for n in names if _is_shown(n))
            place = Path(folder).relative_to(self.root)
            yield from ((place / file).as_posix() for file in sorted(files) if _is_shown(file))

    def below(self, folder: str) -> list[str]:
        """All files in ``folder`` and below it, sorted."""
        found = (self.root / folder).rglob("*")
        return sorted(p.relative_to(self.root).as_posix() for p in found if p.is_file())

    def within(self, folder: str) -> list[str]:
        """Names of the files in ``folder`` itself."""
        try:
            return [p.name for p in (self.root / folder).iterdir() if p.is_file()]
        except OSError:  # it cannot be listed; its models are found to be unreadable by themselves
            return []

    def resolve(self, folder: str, name: str) -> str | None:
        """The file that ``name`` means in ``folder``; None: it is not there, or not in the tree."""
        path = Path(os.path.normpath(self.root / folder / name))
        if path.is_relative_to(self.root) and path.is_file():
            return path.relative_to(self.root).as_posix()
        return None

    def open(self, name: str) -> BinaryIO:
        """The bytes of a file."""
        return (self.root / name).open("rb")


class ArchiveTree:
    """The members of an archive."""

    def __init__(self, archive: Archive | TarArchive) -> None:
        self.archive, self.name = archive, archive.name
        names = {posixpath.normpath(name): name for name in archive.members}
        out = {name for name in names if name.startswith(("/", "../"))}
        if out:
            log.warning("%s: passed over %d names that lead out of it", self.name, len(out))
        self._written = {name: names[name] for name in names if name not in out}

    def files(self) -> Iterator[str]:
        """All members, without hidden ones and those in hidden folders."""
        for name in sorted(self._written):
            if all(_is_shown(part) for part in name.split("/")):
                yield name

    def below(self, folder: str) -> list[str]:
        """All members in ``folder`` and below it, sorted."""
        start = f"{folder}/" if folder else ""
        return sorted(name for name in self._written if name.startswith(start))

    def within(self, folder: str) -> list[str]:
        """Names of the members in ``folder`` itself."""
        return self._within.get(folder, [])

    @cached_property
    def _within(self) -> dict[str, list[str]]:
        out: dict[str, list[str]] = {}
        for name in self._written:
            folder, _, file = name.rpartition("/")
            out.setdefault(folder, []).append(file)
        return out

    def resolve(self, folder: str, name: str) -> str | None:
        """The member that ``name`` means in ``folder``."""
        path = posixpath.normpath(posixpath.join(folder, name))
        return path if path in self._written else None

    def open(self, name: str) -> BinaryIO:
        """The bytes of a member, in memory."""
        return io.BytesIO(self.archive.read(self._written.get(name, name), MOST_READ))

    def extract(self, names: Iterable[str], folder: Path) -> None:
        """Unpack members into a new folder.

        Raises:
            AssetError: ``import``, ``checksum``, ``gone`` or ``download``: see the archive.
            DiskError: ``folder`` cannot be written.
        """
        self.archive.extract({self._written.get(name, name): name for name in names}, folder)


def _is_shown(name: str) -> bool:
    return not name.startswith(".") and name not in _SKIPPED


def archive_ending(name: str) -> str | None:
    """Which of :data:`ARCHIVES` a name ends with."""
    return next((e for e in ARCHIVES if name.lower().endswith(e) and len(name) > len(e)), None)


def open_archive(path: Path, cache: Path) -> ArchiveTree:
    """The archive ``path``, opened once for as long as the file does not change.

    Args:
        path: Its name ends with one of :data:`ARCHIVES`.
        cache: Where a compressed tar is uncompressed to.

    Raises:
        AssetError: ``gone``, ``import`` or ``checksum``: it cannot be read.
        DiskError: The cache cannot be written.
    """
    plain = path if archive_ending(path.name) in (".zip", ".tar") else gunzipped(path, cache)
    try:
        stat = plain.stat()
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror or error}"
        raise AssetError("gone", message, stage="fetch") from error
    with _OPENING:
        return _opened(plain, str(path), (stat.st_size, stat.st_mtime_ns))


@lru_cache(maxsize=64)  # the directory of an archive stays in memory, and a zip stays open
def _opened(path: Path, name: str, state: tuple[int, int]) -> ArchiveTree:
    archive = Archive(path) if archive_ending(path.name) == ".zip" else TarArchive(path, name)
    return ArchiveTree(archive)
