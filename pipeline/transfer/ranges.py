"""Reading parts of a file that is here or behind a URL."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ...errors import AssetError, MissingDependency
from .web import (
    Patience,
    Transient,
    broken,
    content_range,
    get,
    is_web,
    patiently,
    pieces,
    shown,
    validator,
)

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

_PROGRESS = 1 << 16
"""Bytes that count: a server that sends a few and breaks off has failed."""


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
            if hasattr(os, "pread"):  # threads may share the file
                return os.pread(self.file.fileno(), end - start, start)
            self.file.seek(start)
            return self.file.read(end - start) or b""


class UrlRanges:
    """A file behind any URL that fsspec knows (``s3://``, ``gs://``, ``memory://`` ...)."""

    def __init__(self, url: str, **options: Any) -> None:
        import fsspec

        self.url = url
        with _reading(shown(url), far=True):
            try:
                self.system, self.path = fsspec.core.url_to_fs(url, **options)
            except (ImportError, ValueError) as error:
                raise MissingDependency(
                    f"{shown(url)} cannot be read: {error}",
                    hint="install the fsspec driver of this address, or download the file",
                ) from error
            info = self.system.info(self.path)
        self.size = int(info["size"] or 0)
        marks = [info.get(key) for key in ("ETag", "etag", "LastModified", "mtime", "created")]
        self.stamp = f"{self.size} {next((m for m in marks if m), '')}"
        """Changes when the file does, as far as its system tells."""

    def read(self, start: int, end: int) -> bytes:
        """The bytes ``start`` to ``end``, with one request."""
        with _reading(shown(self.url), far=True):
            return self.system.cat_file(self.path, start=start, end=end)


class HttpRanges:
    """A file behind ``http(s)://``, with one request for a range. Threads may share it.

    Args:
        url: Where it is.
        patience: With its server.
        headers: Sent along, to this server and no other.
        size: Bytes that there are; the server is asked if it is left out.
        name: What messages call it.

    Raises:
        AssetError: ``gated``, ``gone``; ``download``: the server fails, or sends no ranges.
    """

    def __init__(
        self,
        url: str,
        patience: Patience | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        size: int | None = None,
        name: str | None = None,
    ) -> None:
        self.url, self.name = url, name or shown(url)
        self.patience, self.headers = patience or Patience(), dict(headers or {})
        self.mark = ""
        self.size = size or 0
        if size is None:
            patiently(self._measure, self.patience)

    def _measure(self) -> None:
        response = get(self.url, {**self.headers, "Range": "bytes=0-0"}, self.patience, self.name)
        with closing(response):
            self.size = self._span(response, 0, 1)
            response.drain_conn()  # so that the connection can be used again

    def read(self, start: int, end: int) -> bytes:
        """The bytes ``start`` to ``end``; what was cut off is asked for again, the rest of it."""
        if end <= start:
            return b""
        data = bytearray()
        patiently(lambda: self._more(data, start, end), self.patience)
        return bytes(data)

    def _more(self, data: bytearray, start: int, end: int) -> None:
        import urllib3

        begin, had = start + len(data), len(data)
        wanted = {**self.headers, "Range": f"bytes={begin}-{end - 1}"}
        with closing(get(self.url, wanted, self.patience, self.name)) as response:
            total = self._span(response, begin, end)
            if total != self.size:
                raise self._changed(f"it had {self.size} bytes, and has {total}")
            try:
                for piece in pieces(response):
                    data += piece
            except (urllib3.exceptions.HTTPError, OSError) as error:
                message = f"{self.name} was cut off: {broken(error)}"
                raise Transient(
                    "download", message, progress=len(data) - had >= _PROGRESS
                ) from error
        if len(data) != end - start:
            message = f"{self.name} was cut off: {len(data)} of {end - start} bytes came"
            raise Transient("download", message, progress=len(data) - had >= _PROGRESS)

    def _span(self, response: BaseHTTPResponse, start: int, end: int) -> int:
        """The size of the whole, of an answer that is this range of the same file."""
        span = content_range(response.headers.get("Content-Range"))
        if response.status != HTTPStatus.PARTIAL_CONTENT or span is None:
            message = f"{self.name}: the server sends no parts of files; download it"
            raise AssetError("download", message, stage="fetch")
        if span[:2] != (start, end):
            raise Transient("download", f"{self.name}: the server sends another range")
        mark = validator(response.headers)
        if self.mark and mark and mark != self.mark:
            raise self._changed("it has another ETag")
        self.mark = self.mark or mark
        return span[2]

    def _changed(self, how: str) -> AssetError:
        message = f"{self.name} has changed since it was opened: {how}"
        return AssetError("checksum", message, stage="fetch")


def ranges_of(location: str | Path, patience: Patience | None = None) -> Ranges:
    """A file of this machine, or behind a URL.

    Raises:
        AssetError: ``gone``, ``gated`` or ``download``.
        MissingDependency: There is no driver for this kind of URL.
    """
    if isinstance(location, Path) or "://" not in location:
        return LocalRanges(Path(location))
    return HttpRanges(location, patience) if is_web(location) else UrlRanges(location)


class Slice:
    """The bytes ``start`` to ``end`` of something else, as a thing of its own."""

    def __init__(self, whole: Ranges, start: int, end: int) -> None:
        self.whole, self.start = whole, start
        self.size = end - start

    def read(self, start: int, end: int) -> bytes:
        """The bytes ``start`` to ``end`` of the slice."""
        return self.whole.read(self.start + start, min(self.start + end, self.start + self.size))


@contextmanager
def _reading(name: str, far: bool = False) -> Iterator[None]:
    """Errors of files and of the network as :class:`AssetError`."""
    try:
        yield
    except PermissionError as error:
        reason = "gated" if far else "download"
        raise AssetError(reason, f"{name}: access is denied", stage="fetch") from error
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
        self.kept[start] = self.range(start, min(end, self.ranges.size))

    def keep(self, start: int, data: bytes) -> None:
        """Answer from bytes that :meth:`range` gave until :meth:`forget`."""
        self.kept[start] = data

    def forget(self) -> None:
        """Drop what was fetched."""
        self.kept.clear()

    def range(self, start: int, end: int) -> bytes:
        """The bytes ``start`` to ``end``; nothing is remembered."""
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
        return self.range(start, end)
