"""The cache of the package ``objaverse``: read here, filled by the package, one call a process.

The package says where things are and how they are brought; this module gives its calls a time
limit, retries and a byte limit, and puts what came into the cache only when it is whole.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import json
import logging
import os
import shutil
import struct
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ...config import canonical_json, digest
from ...errors import AssetError, ConfigError, DatasetError, DiskError, MissingDependency
from ...manifests.atomic import TEMP_MARK, disk_error, write_atomic
from ..transfer.archives import safe_place
from ..transfer.cache import cache_folder
from ..transfer.fetch import FetchSettings
from .objaverse_calls import CallFailure, run_call, too_large

log = logging.getLogger(__name__)

VERSIONED = "hf-objaverse-v1"
COLLECTIONS = ("github", "thingiverse", "smithsonian", "sketchfab")
LONGEST_WAIT_S = 120.0
"""A server that asks for a longer pause is asked again after this one."""
_STALE_S = 24 * 3600.0
_FACTS_VERSION = 1

T = TypeVar("T")


def require_package() -> None:
    """Check that the package is installed, without importing it.

    Raises:
        MissingDependency: It is not.
    """
    if importlib.util.find_spec("objaverse") is None:
        raise MissingDependency(
            "the package objaverse is not installed", hint="pip install 'g3d[objaverse]'"
        )


def base_folder(root: str | None, offline: bool) -> Path:
    """The folder that holds ``hf-objaverse-v1``: of ``--root``, or the package's own.

    Raises:
        ConfigError: ``root`` is not a folder, or holds other things than the package's cache.
        MissingDependency: There is no ``root`` and no package to ask.
    """
    if root is None:
        require_package()
        import objaverse

        return Path(objaverse.BASE_PATH).expanduser().resolve()
    if "://" in root:
        raise ConfigError(
            f"--root {root} is a URL, and the package objaverse keeps its cache on a disk",
            hint="give the folder that holds hf-objaverse-v1, or leave --root out",
        )
    folder = Path(root)
    if not folder.is_dir():
        raise ConfigError(
            f"--root {folder} is not a folder",
            hint="give the folder that holds hf-objaverse-v1, or an empty one",
        )
    if folder.name == VERSIONED:
        return folder.parent
    known = any((folder / name).is_dir() for name in (VERSIONED, *COLLECTIONS))
    if not known and (offline or any(folder.iterdir())):
        raise ConfigError(
            f"--root {folder} holds no {VERSIONED}",
            hint="give the folder that the package objaverse keeps its files in, usually "
            "~/.objaverse, or an empty one",
        )
    return folder


def glb_problem(path: Path) -> str:
    """What is wrong with a GLB by its first 12 bytes and its length; an empty string: nothing."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
    if len(head) < 12 or head[:4] != b"glTF":
        return "it is no GLB"
    (declared,) = struct.unpack("<I", head[8:12])
    return f"it has {size} of its {declared} bytes" if size < declared else ""


@dataclass(frozen=True)
class Store:
    """The cache below ``base``, and the way to fill it."""

    base: Path
    fetch: FetchSettings

    @property
    def versioned(self) -> Path:
        """Where Objaverse 1.0 is."""
        return self.base / VERSIONED

    def read(self, name: str, call: str, **values: Any) -> Any:
        """The JSON of a packed file of Objaverse 1.0; fetched if it is missing or damaged.

        Raises:
            ConfigError: It is not in the cache, and nothing is fetched.
            DatasetError: It cannot be fetched, or is damaged.
        """
        path = self.versioned / name
        if path.is_file():
            try:
                return _json(path)
            except (OSError, EOFError, ValueError, zlib.error) as error:
                if self.fetch.offline:
                    raise DatasetError(
                        f"{path} is damaged: {error}", hint="run once without fetch.offline"
                    ) from error
                log.warning("%s is damaged (%s): it is fetched again", path, error)
        self.bring(path, call, f"{VERSIONED}/{name}", _json, **values)
        return _json(path)

    def bring(
        self, path: Path, call: str, place: str, check: Callable[[Path], Any], /, **values: Any
    ) -> None:
        """Have the package fetch a file of annotations to ``path``.

        Args:
            path: Where it belongs.
            call: Of ``objaverse_child``.
            place: Where the package puts it, in the folder of the call.
            check: Fails on a file that is not whole.
            values: Of the call.
        """
        if self.fetch.offline:
            raise ConfigError(
                f"{path} is not in the cache, and fetch.offline forbids to fetch it",
                hint="run once without fetch.offline, or give --root the folder that has it",
            )

        def attempt(folder: Path) -> None:
            run_call(folder, call, self.fetch.timeout_s, None, **values)
            try:
                check(folder / place)
            except (OSError, EOFError, ValueError, zlib.error) as error:
                message = f"what came for {path.name} is damaged: {error}"
                raise CallFailure(AssetError("download", message, stage="fetch"), 0.0) from error
            path.parent.mkdir(parents=True, exist_ok=True)
            (folder / place).replace(path)

        log.info("fetching %s", path.name)
        try:
            self.retried(attempt)
        except AssetError as error:
            raise DatasetError(
                f"{path.name} cannot be fetched: {error.message}",
                hint="run the same command again: what was fetched is kept",
            ) from error

    def retried(self, attempt: Callable[[Path], T]) -> T:
        """Try ``attempt`` in a new folder as often as the settings say.

        Raises:
            AssetError: Of the last try.
            DiskError: The cache cannot be written.
        """
        require_package()
        for number in range(self.fetch.retries + 1):
            try:
                with self._folder() as folder:
                    return attempt(folder)
            except CallFailure as failure:
                if failure.wait_s is None or number == self.fetch.retries:
                    raise failure.error from failure
                wait = failure.wait_s or self.fetch.backoff_s * 2**number
                log.info("%s; again in %.1f s", failure.error.message, wait)
                time.sleep(min(wait, LONGEST_WAIT_S))
        raise AssertionError("the loop above returns or raises")

    def glb(self, uid: str, path: str) -> Path:
        """An object of Objaverse 1.0, fetched if it is not in the cache or not whole there.

        Args:
            uid: Of the object.
            path: Of the object, below ``hf-objaverse-v1``.

        Raises:
            AssetError: ``gone``, ``gated``, ``download`` or ``checksum``.
            DiskError: The cache cannot be written.
            MissingDependency: The package is needed and not there.
        """
        place = safe_place(self.versioned, path)
        if place.is_file():
            problem = glb_problem(place)
            if not problem:
                return place
            if self.fetch.offline:
                message = f"{place} is damaged, {problem}, and fetch.offline forbids to fetch it"
                raise AssetError("checksum", message, stage="fetch")
            log.warning("%s is damaged, %s: it is fetched again", place, problem)
            place.unlink(missing_ok=True)
        self.refuse_offline(uid)

        def attempt(folder: Path) -> Path:
            self.keep(self.fetch_object(folder, "object", uid=uid, path=path), place)
            return place

        return self.retried(attempt)

    def refuse_offline(self, name: str) -> None:
        """The error for an object that would have to be fetched, if nothing may be."""
        if self.fetch.offline:
            message = f"{name} is not in the cache, and fetch.offline forbids to fetch it"
            raise AssetError("download", message, stage="fetch")

    def keep(self, came: Path, place: Path) -> None:
        """Move a GLB that was fetched to its place in the cache, if it is whole."""
        if self.fetch.max_bytes is not None and came.stat().st_size > self.fetch.max_bytes:
            raise too_large(place.stem, self.fetch.max_bytes)
        problem = glb_problem(came)
        if problem:
            # An error page that came with status 200 may pass as well as a cut connection.
            message = f"{place.stem} was not fetched whole: {problem}"
            raise CallFailure(AssetError("download", message, stage="fetch"), 0.0)
        place.parent.mkdir(parents=True, exist_ok=True)
        came.replace(place)

    def fetch_object(self, folder: Path, call: str, **values: Any) -> Path:
        """One try to fetch an object into ``folder``."""
        settings = self.fetch
        answer = run_call(folder, call, settings.timeout_s, settings.max_bytes, **values)
        return Path(answer["path"] or folder / "nothing")

    def extract(self, files: tuple[Path, ...], what: Any, make: Callable[[], T]) -> T:
        """``make()``, kept in g3d's cache as JSON for as long as ``files`` do not change."""
        stats = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()]
        key = digest([_FACTS_VERSION, stats, what])
        path = cache_folder() / "objaverse" / f"{key}.json"
        if len(stats) == len(files):
            with contextlib.suppress(OSError, ValueError):
                return json.loads(path.read_text(encoding="utf-8"))
        value = make()
        if len(stats) == len(files):
            with contextlib.suppress(DiskError):
                write_atomic(path, canonical_json(value).encode(), sync=False)
        return value

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        """A folder for one call, beside the cache so that files can be moved from one to other."""
        parent = self.base / ".g3d"
        folder = parent / f"call{TEMP_MARK}{os.getpid()}-{uuid.uuid4().hex[:8]}"
        try:
            folder.mkdir(parents=True)
            _remove_stale(parent)
            yield folder
        except OSError as error:
            raise disk_error(self.base, error) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _json(path: Path) -> Any:
    with gzip.open(path, "rb") as file:
        return json.load(file)


def _remove_stale(parent: Path) -> None:
    """Delete what killed processes left."""
    for path in parent.glob(f"*{TEMP_MARK}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE_S:
                shutil.rmtree(path, ignore_errors=True)
