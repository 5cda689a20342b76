"""Bringing files over a network: retries, checksums, a cache that all runs share."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pydantic import Field

from ...config import Config
from ...errors import AssetError
from ...manifests.atomic import TEMP_MARK, disk_error, sync_folder, write_atomic
from .cache import cache_folder, check_free, locked, make_room, touch
from .ranges import UrlRanges
from .web import (
    Patience,
    Refused,
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
    import urllib3

log = logging.getLogger(__name__)

FILES = "files"
_PROGRESS = 1 << 18
"""Bytes that count: a server that sends a few and breaks off has failed."""
_STEP = 8 << 20
"""Bytes of one read through fsspec."""
_BY_CONTENT = "sha256"
"""In place of a mark of the version: a wrong rest is found by the checksum."""
_OFFLINE = "run once without --offline (fetch.offline=true)"


class FetchSettings(Config):
    """How files are brought over a network. None of it changes a pixel."""

    offline: bool = False
    """Take everything from the cache; what is not there is an error."""
    retries: int = Field(5, ge=0)
    """Further tries of a request that failed for a reason that may pass."""
    backoff_s: float = Field(1.0, ge=0)
    """Wait before the second try; it doubles with each, unless the server names a time."""
    timeout_s: float = Field(60.0, gt=0)
    """A server that says nothing for this long has failed."""
    max_bytes: int | None = Field(None, ge=1)
    """An asset with a larger download is not fetched; unset: no limit."""
    cache_bytes: int | None = Field(None, ge=1)
    """Most that the cache may hold; what was used longest ago goes first; unset: no limit."""
    parallel: int = Field(8, ge=1)
    """Assets that are fetched at the same time."""

    @property
    def patience(self) -> Patience:
        """How long a server is borne with."""
        return Patience(self.retries, self.backoff_s, self.timeout_s)

    def check_size(self, name: str, size: int | None) -> None:
        """Refuse what is larger than ``max_bytes``.

        Raises:
            AssetError: ``download``.
        """
        if self.max_bytes is not None and size is not None and size > self.max_bytes:
            raise AssetError(
                "download",
                f"{name} has {size} bytes, more than fetch.max_bytes={self.max_bytes}",
                stage="fetch",
            )

    def absent(self, name: str) -> AssetError:
        """What to say when something would have to be fetched and may not be."""
        return AssetError("download", f"{name} is not in the cache: {_OFFLINE}", stage="fetch")


@dataclass(frozen=True)
class Fetcher:
    """Brings files into the cache. It pickles; threads and processes may share a cache.

    Args:
        settings: Retries, limits, offline.
        cache: Folder; the shared cache if it is left out.
    """

    settings: FetchSettings = field(default_factory=FetchSettings)
    cache: Path | None = None

    def __post_init__(self) -> None:
        cache = cache_folder() if self.cache is None else self.cache.expanduser().resolve()
        object.__setattr__(self, "cache", cache)

    @property
    def folder(self) -> Path:
        """The cache."""
        assert self.cache is not None
        return self.cache

    def place(self, url: str, *, sha256: str | None = None, suffix: str = "") -> Path:
        """Where a file is in the cache, or would be: named by its content if that is known.

        Raises:
            ValueError: ``sha256`` is not 64 hex digits, or ``suffix`` leads elsewhere.
        """
        if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
            raise ValueError(f"{sha256!r} is no SHA-256")
        if not re.fullmatch(r"[\w.-]*", suffix):
            raise ValueError(f"{suffix!r} cannot end a file name")
        key = sha256.lower() if sha256 else hashlib.sha256(f"url {url}".encode()).hexdigest()
        return self.folder / FILES / key[:2] / f"{key}{suffix}"

    def cached(
        self, url: str, *, sha256: str | None = None, size: int | None = None, suffix: str = ""
    ) -> Path | None:
        """The file, if it is in the cache; it counts as used now."""
        path = self.place(url, sha256=sha256, suffix=suffix)
        if not touch(path) or (size is not None and path.stat().st_size != size):
            return None
        return path

    def download(
        self,
        url: str,
        *,
        sha256: str | None = None,
        size: int | None = None,
        headers: Mapping[str, str] | None = None,
        suffix: str = "",
    ) -> Path:
        """The file behind a URL, in the cache; fetched if it is not there yet.

        A file without ``sha256`` is known by its URL and not asked for again. A download that was
        cut off goes on where it stopped, also in a later run, if the file is still the same.

        Args:
            url: ``http(s)://``, or any address that fsspec knows.
            sha256: What it must be, 64 hex digits.
            size: What it must be, bytes.
            headers: Sent along, to the server that the URL names and no other.
            suffix: What the name in the cache ends with, as ``.glb``.

        Returns:
            Its path. It must not be changed.

        Raises:
            AssetError: ``gated`` (401, 403), ``gone`` (404, 410), ``checksum`` (another size or
                another content, twice), ``download`` (all else: offline, too large, a server that
                failed until the tries were used up).
            DiskError: The cache cannot be written.
        """
        found = self.cached(url, sha256=sha256, size=size, suffix=suffix)
        if found is not None:
            return found
        if self.settings.offline:
            raise self.settings.absent(shown(url))
        self.settings.check_size(shown(url), size)
        target = self.place(url, sha256=sha256, suffix=suffix)
        with locked(self.folder, target.name):
            found = self.cached(url, sha256=sha256, size=size, suffix=suffix)
            if found is not None:
                return found
            job = _Download(url, target, self.settings, sha256, size, dict(headers or {}))
            try:
                job.run()
            except OSError as error:
                raise disk_error(target, error) from error
        make_room(self.folder, self.settings.cache_bytes, target.stat().st_size)
        return target


class _Download:
    """One file on its way. Whoever runs it holds the lock of its target."""

    def __init__(
        self,
        url: str,
        target: Path,
        settings: FetchSettings,
        sha256: str | None,
        size: int | None,
        headers: dict[str, str],
    ) -> None:
        self.url, self.target, self.settings = url, target, settings
        self.sha256 = sha256.lower() if sha256 else None
        self.size, self.headers, self.name = size, headers, shown(url)
        self.part = target.with_name(f"{target.name}{TEMP_MARK}part")
        self.note = target.with_name(f"{target.name}{TEMP_MARK}etag")

    def run(self) -> None:
        """Fetch, check and rename it."""
        self.target.parent.mkdir(parents=True, exist_ok=True)
        attempt = self._web if is_web(self.url) else self._fsspec
        for again in (True, False):
            patiently(attempt, self.settings.patience)
            wrong = self._wrong()
            if wrong is None:
                break
            self._restart()
            if not again:
                raise AssetError("checksum", wrong, stage="fetch")
            log.info("%s: fetching it once more", wrong)
        with self.part.open("rb") as file:
            os.fsync(file.fileno())
        self.part.replace(self.target)
        self.note.unlink(missing_ok=True)
        sync_folder(self.target.parent)

    def _wrong(self) -> str | None:
        """What is wrong with the finished part; None: nothing."""
        there = self.part.stat().st_size
        if self.size is not None and there != self.size:
            return f"{self.name} has {there} bytes, and {self.size} were expected"
        if self.sha256 is None:
            return None
        with self.part.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found == self.sha256:
            return None
        return f"{self.name} has the SHA-256 {found}, and {self.sha256} was expected"

    def _restart(self) -> None:
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def _there(self) -> tuple[int, str]:
        """How much of it is here, and the mark of the version that it is of."""
        try:
            return self.part.stat().st_size, self.note.read_text(encoding="utf-8")
        except (OSError, ValueError):
            self._restart()
            return 0, ""

    def _web(self) -> None:
        """One request for all that is missing."""
        start, mark = self._there()
        headers = dict(self.headers)
        if start:
            headers["Range"] = f"bytes={start}-"
            if mark != _BY_CONTENT:
                headers["If-Range"] = mark
        try:
            response = get(self.url, headers, self.settings.patience)
        except Refused as error:
            if start and error.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                self._restart()  # it has become shorter, or all of it was here
                raise Transient("download", error.message, retry_after=0.0) from error
            raise
        with closing(response):
            span = content_range(response.headers.get("Content-Range"))
            if response.status == HTTPStatus.OK:
                start = 0
            elif not span or span[0] != start:
                self._restart()
                raise Transient("download", f"{self.name}: the server sends another range")
            self._take(response, start, span[2] if start and span else None)

    def _take(self, response: urllib3.BaseHTTPResponse, start: int, total: int | None) -> None:
        """Write what an answer brings, from ``start`` on."""
        import urllib3

        coded = response.headers.get("Content-Encoding", "identity") != "identity"
        length = response.headers.get("Content-Length") or ""
        if total is None and length.isdigit() and not coded:
            total = int(length)
        self._admit(total, start)
        self._keep_mark("" if coded else validator(response.headers))
        got = 0
        with self._appending(start) as file:
            try:
                for data in pieces(response):
                    got += self._write(file, data, start + got)
            except (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
                message = f"{self.name} was cut off: {broken(error)}"
                raise Transient("download", message, progress=got >= _PROGRESS) from error
        if total is not None and start + got != total:
            message = f"{self.name} was cut off: {start + got} of {total} bytes came"
            raise Transient("download", message, progress=got >= _PROGRESS)

    def _fsspec(self) -> None:
        """All that is missing, in steps."""
        try:
            source = UrlRanges(self.url)
        except AssetError as error:
            raise _maybe_passing(error) from error
        start, mark = self._there()
        stamp = source.stamp
        if mark != stamp:
            self._restart()
            start = 0
        self._admit(source.size, start)
        self._keep_mark(stamp)
        before = start
        with self._appending(start) as file:
            while start < source.size:
                try:
                    data = source.read(start, min(start + _STEP, source.size))
                except AssetError as error:
                    raise _maybe_passing(error, progress=start > before) from error
                if not data:
                    raise Transient("download", f"{self.name} was cut off", progress=start > before)
                start += self._write(file, data, start)

    def _admit(self, total: int | None, start: int) -> None:
        """Refuse what is too large, before any of it is read."""
        self.settings.check_size(self.name, total)
        if total is not None:
            if self.size is not None and total != self.size:
                message = f"{self.name} has {total} bytes, and {self.size} were expected"
                raise AssetError("checksum", message, stage="fetch")
            check_free(self.target.parent, total - start)

    def _keep_mark(self, mark: str) -> None:
        # Without a mark nothing tells whether the rest is of the same file, except its checksum.
        mark = mark or (_BY_CONTENT if self.sha256 else "")
        if mark:
            write_atomic(self.note, mark.encode(), sync=False)
        else:
            self.note.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _appending(self, start: int) -> Iterator[BinaryIO]:
        with self.part.open("r+b" if start else "wb") as file:
            file.seek(start)
            file.truncate()
            yield file

    def _write(self, file: BinaryIO, data: bytes, position: int) -> int:
        if self.settings.max_bytes is not None:
            self.settings.check_size(self.name, position + len(data))
        try:
            file.write(data)
        except OSError as error:
            raise disk_error(self.target, error) from error
        return len(data)


def _maybe_passing(error: AssetError, progress: bool = False) -> AssetError:
    """What fsspec found; it does not tell whether it may pass."""
    if error.reason != "download":
        return error
    return Transient(error.reason, error.message, progress=progress)
