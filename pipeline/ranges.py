"""Reading parts of a file that is here or behind a URL."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from ..errors import AssetError, MissingDependency


class Ranges(Protocol):
    """Something whose bytes can be read from anywhere."""

    @property
    def size(self) -> int:
        """Bytes that there are."""
        ...

    def read(self, start: int, end: int) -> bytes:
        """The bytes ``start`` to ``end``, all of them.

        Raises:
            AssetError: ``gone`` or ``download``.
        """
        ...


def location_of(root: str) -> str:
    """``root`` as a URL or an absolute path; a URL that went through ``Path`` is mended."""
    url = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", root)
    if url is None:
        return str(Path(root).expanduser().resolve())
    return f"/{url[2]}" if url[1].lower() == "file" else f"{url[1]}://{url[2]}"


class LocalRanges:
    """A file of this machine."""

    def __init__(self, path: Path) -> None:
        with _reading(str(path)):
            self.file = path.open("rb", buffering=0)
            self.size = path.stat().st_size

    def read(self, start: int, end: int) -> bytes:
        """The bytes ``start`` to ``end``; fewer at the end of the file."""
        with _reading(self.file.name):
            self.file.seek(start)
            return self.file.read(end - start) or b""


class UrlRanges:
    """A file behind any URL that fsspec knows (``https://``, ``s3://``, ``memory://`` ...)."""

    def __init__(self, url: str, **options: Any) -> None:
        import fsspec

        self.url = url
        with _reading(url):
            try:
                self.system, self.path = fsspec.core.url_to_fs(url, **options)
            except (ImportError, ValueError) as error:
                raise MissingDependency(
                    f"{url} cannot be read: {error}",
                    hint="install the fsspec driver of this address, or download the file",
                ) from error
            self.size = int(self.system.info(self.path)["size"] or 0)

    def read(self, start: int, end: int) -> bytes:
        """The bytes ``start`` to ``end``, with one request."""
        with _reading(self.url):
            return self.system.cat_file(self.path, start=start, end=end)


class Slice:
    """The bytes ``start`` to ``end`` of something else, as a thing of its own."""

    def __init__(self, whole: Ranges, start: int, end: int) -> None:
        self.whole, self.start = whole, start
        self.size = end - start

    def read(self, start: int, end: int) -> bytes:
        """The bytes ``start`` to ``end`` of the slice."""
        return self.whole.read(self.start + start, min(self.start + end, self.start + self.size))


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Errors of files and of the network as :class:`AssetError`."""
    try:
        yield
    except FileNotFoundError as error:
        raise AssetError("gone", f"{name} is not there", stage="fetch") from error
    except OSError as error:
        what = error.strerror or str(error)
        raise AssetError("download", f"{name} cannot be read: {what}", stage="fetch") from error


class RangeFile(io.RawIOBase):
    """A seekable file over :class:`Ranges` that remembers the ranges it was told to fetch."""

    def __init__(self, ranges: Ranges, name: str) -> None:
        self.ranges, self.filename = ranges, name
        self.position = 0
        self.kept: dict[int, bytes] = {}

    def fetch(self, start: int, end: int) -> None:
        """Read ``start`` to ``end`` and answer from it until :meth:`forget`."""
        self.kept[start] = self._range(start, min(end, self.ranges.size))

    def forget(self) -> None:
        """Drop what was fetched."""
        self.kept.clear()

    def _range(self, start: int, end: int) -> bytes:
        data = self.ranges.read(start, end)
        if len(data) != end - start:
            raise AssetError(
                "download",
                f"{self.filename}: bytes {start} to {end} were asked for, {len(data)} came",
                stage="fetch",
            )
        return data

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move there; nothing is read."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.ranges.size}[whence]
        if base + offset < 0:
            raise OSError("seek before the beginning")
        self.position = base + offset
        return self.position

    def read(self, size: int | None = -1) -> bytes:
        """The next ``size`` bytes; fewer at the end."""
        end = self.ranges.size if size is None or size < 0 else self.position + size
        end = min(end, self.ranges.size)
        start, self.position = self.position, max(end, self.position)
        if end <= start:
            return b""
        for begin, data in self.kept.items():
            if begin <= start and end <= begin + len(data):
                return data[start - begin : end - begin]
        return self._range(start, end)
