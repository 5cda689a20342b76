"""Where a dataset is written: a folder of this machine, or one behind a URL of fsspec.

A file appears in either whole or not at all: here it is written beside its place and renamed,
object stores show an object only when its upload is complete.
"""

from __future__ import annotations

import posixpath
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from ..config import digest, home
from ..errors import DatasetError, DiskError, G3DError, MissingDependency
from .atomic import disk_error, remove_temporaries, sync_folder, write_atomic
from .dataset import STAGING
from .shards import sha256_file


class Place(Protocol):
    """The folder of a dataset that is being made. Names of files are relative to it."""

    url: str | None
    """None for a folder of this machine."""
    work: Path
    """Folder of this machine for what is not finished."""

    def __str__(self) -> str:
        """What messages call it."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all.

        Raises:
            DiskError: The place is full or cannot be written.
        """
        ...

    def move_in(self, name: str, file: Path) -> None:
        """Put a finished file of this machine in its place; it is gone from where it was.

        Raises:
            DiskError: The place is full or cannot be written.
        """
        ...

    def read(self, name: str) -> bytes | None:
        """The bytes of a file, None if it is not there.

        Raises:
            DatasetError: It is there and cannot be read.
        """
        ...

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        """``length`` bytes of a file from ``offset``; fewer at its end, none if it is not there."""
        ...

    def names(self, folder: str = "") -> list[str]:
        """Names of the files and folders in a folder, sorted; none if it is not there."""
        ...

    def holds(self, name: str, size: int, sha256: str) -> bool:
        """Whether a file is there with this size and, where reading is cheap, this hash."""
        ...

    def remove(self, name: str) -> None:
        """Delete a file or a folder with all that is in it, if it is there.

        Raises:
            DiskError: It cannot be deleted.
        """
        ...

    def clean(self) -> None:
        """Delete what killed processes left half-written on this machine."""
        ...

    def copy_to(self, folder: Path) -> None:
        """Copy all files into a folder of this machine.

        Raises:
            DatasetError: There are none.
            DiskError: They cannot be read, or the disk is full.
        """
        ...


def open_place(out: Path | str) -> Place:
    """The place that a path or a URL names; nothing is made.

    Raises:
        DiskError: The URL cannot be reached.
        MissingDependency: The driver of its kind is not installed.
    """
    text = str(out)
    return RemotePlace(text) if "://" in text else LocalPlace(Path(text))


class LocalPlace:
    """A folder of this machine, or of a file system that it has mounted."""

    url: str | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        self.work = path / STAGING

    def __str__(self) -> str:
        return str(self.path)

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all."""
        write_atomic(self.path / name, data)

    def move_in(self, name: str, file: Path) -> None:
        """Put a finished file of this folder's file system in its place."""
        target = self.path / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
            sync_folder(target.parent)
        except OSError as error:
            raise disk_error(target, error) from error

    def read(self, name: str) -> bytes | None:
        """The bytes of a file, None if it is not there."""
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise DatasetError(f"cannot read {self.path / name}: {error.strerror}") from error

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        """``length`` bytes of a file from ``offset``; fewer at its end, none if it is not there."""
        try:
            with (self.path / name).open("rb") as file:
                file.seek(offset)
                return file.read(length)
        except OSError:
            return b""

    def names(self, folder: str = "") -> list[str]:
        """Names of the files and folders in a folder, sorted; none if it is not there."""
        path = self.path / folder
        return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []

    def holds(self, name: str, size: int, sha256: str) -> bool:
        """Whether a file is there with this size and this hash."""
        path = self.path / name
        try:
            return path.stat().st_size == size and sha256_file(path) == sha256
        except OSError:
            return False

    def remove(self, name: str) -> None:
        """Delete a file or a folder with all that is in it, if it is there."""
        path = self.path / name
        try:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise disk_error(path, error) from error

    def clean(self) -> None:
        """Delete what killed processes left half-written."""
        folders = (p for p in (self.path, *self.path.glob("*"), *self.work.glob("*")) if p.is_dir())
        for folder in folders:
            remove_temporaries(folder)

    def copy_to(self, folder: Path) -> None:
        """Copy all files into a folder of this machine."""
        if not self.path.is_dir():
            raise DatasetError(f"{self.path} is not there")
        shutil.copytree(self.path, folder, dirs_exist_ok=True)


class RemotePlace:
    """A folder behind a URL (``s3://bucket/chairs``): unfinished work stays on this machine.

    What a bucket holds is trusted by its size: hashing it would mean reading all of it back.
    `g3d validate` does that.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.url: str | None = url.rstrip("/")
        with self._reaching(url):
            try:
                self.system, self.root = fsspec.core.url_to_fs(self.url)
            except (ImportError, ValueError) as error:
                raise MissingDependency(
                    f"{url} cannot be written: {error}",
                    hint="pip install s3fs (s3://), gcsfs (gs://) or the driver of this address",
                ) from error
        self.system.use_listings_cache = False
        self.work = home() / "staging" / f"{posixpath.basename(self.root)}-{digest(self.url)}"

    def __str__(self) -> str:
        return str(self.url)

    @contextmanager
    def _reaching(self, name: str) -> Iterator[None]:
        """Whatever a driver raises as a :class:`DiskError`: each has its own kinds."""
        try:
            yield
        except G3DError:
            raise
        except Exception as error:
            what = str(error) or type(error).__name__
            raise DiskError(
                f"cannot reach {name}: {what}",
                hint="check the address and its credentials; the same command goes on",
            ) from error

    def _path(self, name: str) -> str:
        return posixpath.join(self.root, name) if name else self.root

    def write(self, name: str, data: bytes) -> None:
        """Write an object; it is seen when its upload is complete."""
        with self._reaching(f"{self.url}/{name}"):
            self.system.pipe_file(self._path(name), data)

    def move_in(self, name: str, file: Path) -> None:
        """Upload a finished file, then delete it here."""
        with self._reaching(f"{self.url}/{name}"):
            self.system.put_file(str(file), self._path(name))
        file.unlink(missing_ok=True)

    def read(self, name: str) -> bytes | None:
        """The bytes of an object, None if it is not there."""
        with self._reaching(f"{self.url}/{name}"):
            try:
                return bytes(self.system.cat_file(self._path(name)))
            except FileNotFoundError:
                return None

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``; fewer at the end, none if it is not there."""
        path = self._path(name)
        with self._reaching(f"{self.url}/{name}"):
            try:
                return bytes(self.system.cat_file(path, start=offset, end=offset + length))
            except FileNotFoundError:
                return b""

    def names(self, folder: str = "") -> list[str]:
        """Names of what is in a folder, sorted; none if it is not there."""
        self._forget()
        with self._reaching(f"{self.url}/{folder}"):
            try:
                found = self.system.ls(self._path(folder), detail=False)
            except FileNotFoundError:
                return []
        return sorted({posixpath.basename(str(one).rstrip("/")) for one in found} - {""})

    def holds(self, name: str, size: int, sha256: str) -> bool:
        """Whether an object is there with this size."""
        del sha256
        self._forget()
        with self._reaching(f"{self.url}/{name}"):
            try:
                return bool(self.system.size(self._path(name)) == size)
            except FileNotFoundError:
                return False

    def remove(self, name: str) -> None:
        """Delete an object or all below a folder, if it is there."""
        self._forget()
        with self._reaching(f"{self.url}/{name}"):
            try:
                self.system.rm(self._path(name), recursive=True)
            except FileNotFoundError:
                return

    def clean(self) -> None:
        """Delete what killed processes left half-written on this machine."""
        for folder in (self.work, *(p for p in self.work.glob("*") if p.is_dir())):
            remove_temporaries(folder)

    def copy_to(self, folder: Path) -> None:
        """Copy all objects into a folder of this machine."""
        self._forget()
        with self._reaching(str(self.url)):
            names = self.system.find(self.root)
            if not names:
                raise DatasetError(f"{self.url} is not there, or empty")
            for name in names:
                target = folder / name[len(self.root) :].lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                self.system.get_file(name, str(target))

    def _forget(self) -> None:
        """Another machine may have written since the driver last listed."""
        cache: Any = getattr(self.system, "invalidate_cache", None)
        if cache is not None:
            cache()
