"""The cache that all runs share: fetched files and unpacked models.

An entry is ``KIND/GROUP/NAME``, a file or a folder, that appears when it is whole. It is touched
whenever it is used, and may be deleted at any time: whoever needs it again fetches it again.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ...config import home
from ...errors import DiskError
from ...manifests.atomic import TEMP_MARK, disk_error

log = logging.getLogger(__name__)

KINDS = ("files", "shapenet", "folder", "tars")
"""Folders whose entries may be dropped to make room."""
GRACE_S = 900.0
"""What was used this short a time ago is in use."""
_LOCKS = "locks"
_STALE_S = 3600.0
_ROOM = 0.9
_SHARE = 0.02
_added: dict[Path, int] = {}
_added_lock = threading.Lock()


def cache_folder() -> Path:
    """Where fetched and unpacked files are kept: ``$G3D_CACHE``, or ``cache`` in the home."""
    return Path(os.environ.get("G3D_CACHE") or home() / "cache").expanduser().resolve()


def touch(path: Path) -> bool:
    """Note that an entry is used now; False: it is not there."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    except OSError as error:  # somebody else's, or read-only: it can be used all the same
        log.debug("%s cannot be touched: %s", path, error)
    return True


@contextmanager
def locked(cache: Path, key: str) -> Iterator[None]:
    """Hold what belongs to ``key`` (hex digits), in all processes that share the cache.

    The locks are files that stay. There are 4096 of them, so two keys may have to wait for one
    another.

    Raises:
        DiskError: The cache cannot be written.
    """
    place = cache / _LOCKS / f"{key[:3]}.lock"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place)
        lock.acquire()
    except OSError as error:
        raise disk_error(place, error) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place ``folder`` only when the block ends without an error.

    Two processes may make the same folder: the first one counts.

    Raises:
        DiskError: The disk is full or the place cannot be written.
    """
    _remove_stale(folder)
    temporary = folder.with_name(f"{folder.name}{TEMP_MARK}{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
            log.debug("%s was made by another process meanwhile", folder)
    except OSError as error:
        raise disk_error(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_stale(folder: Path) -> None:
    """Delete what killed processes left of this folder."""
    for path in folder.parent.glob(f"{glob.escape(folder.name)}{TEMP_MARK}*"):
        try:
            if time.time() - path.stat().st_mtime > _STALE_S:
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue  # it was finished, or removed, meanwhile


@dataclass(frozen=True)
class Use:
    """One entry: where, how many bytes, when it was used last (seconds of the clock)."""

    path: Path
    size: int
    used: float


def entries(cache: Path) -> list[Use]:
    """All entries that may be dropped, the one that was used longest ago first."""
    out = []
    for kind in KINDS:
        for group in _scan(cache / kind):
            if group.is_dir(follow_symlinks=False):
                for item in _scan(Path(group.path)):
                    with contextlib.suppress(FileNotFoundError):
                        out.append(_use(item))
    return sorted(out, key=lambda use: (use.used, use.path))


def make_room(
    cache: Path, limit: int | None, added: int = 0, *, grace_s: float = GRACE_S
) -> list[Path]:
    """Drop what was used longest ago until the cache holds 0.9 of ``limit``, if it holds more.

    Looks at the cache at the first call, and then when this process has added a fiftieth of the
    limit. What was used within ``grace_s`` stays, so the cache may be larger for a while.

    Args:
        cache: Its folder.
        limit: Bytes; None: no limit.
        added: Bytes that were just added.
        grace_s: In seconds.

    Returns:
        What was dropped.
    """
    if limit is None:
        return []
    with _added_lock:
        total = _added.get(cache, limit) + added
        due = total >= _SHARE * limit
        _added[cache] = 0 if due else total
    if not due:
        return []
    lock = FileLock(cache / _LOCKS / "room.lock", timeout=0)
    try:
        (cache / _LOCKS).mkdir(parents=True, exist_ok=True)
        with lock:
            return _make_room(cache, limit, grace_s)
    except Timeout:
        return []  # another process is at it
    except OSError as error:
        raise disk_error(cache, error) from error


def _make_room(cache: Path, limit: int, grace_s: float) -> list[Path]:
    found = entries(cache)
    total, now = sum(use.size for use in found), time.time()
    if total <= limit:
        return []
    dropped = []
    for use in found:
        if total <= _ROOM * limit or now - use.used < grace_s:
            break
        if drop(use.path):
            dropped.append(use.path)
            total -= use.size
    if total > limit:
        log.warning(
            "the cache %s holds %d bytes, more than fetch.cache_bytes=%d: all of it is in use",
            cache, total, limit,
        )  # fmt: skip
    if dropped:
        log.info("dropped %d entries of the cache %s", len(dropped), cache)
    return dropped


def drop(path: Path) -> bool:
    """Delete an entry at once and whole; False: it was gone, or cannot be deleted."""
    try:
        if path.is_dir():
            # Renamed first: half an entry must not be taken for a whole one.
            grave = path.with_name(f"{path.name}{TEMP_MARK}{uuid.uuid4().hex[:8]}")
            path.rename(grave)
            shutil.rmtree(grave, ignore_errors=True)
        else:
            path.unlink()
    except OSError as error:
        log.debug("%s is not dropped: %s", path, error)
        return False
    return True


def check_free(folder: Path, size: int) -> None:
    """Refuse a download that the disk has no room for.

    Raises:
        DiskError: There is less room than ``size`` bytes.
    """
    free = shutil.disk_usage(folder).free
    if size > free:
        raise DiskError(
            f"{folder} has room for {free} bytes, and {size} are to be written",
            hint="make room, or set G3D_CACHE to a folder on another disk",
        )


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _use(item: os.DirEntry[str]) -> Use:
    stat = item.stat(follow_symlinks=False)
    size = stat.st_size
    if item.is_dir(follow_symlinks=False):
        size = sum(
            (Path(place) / name).lstat().st_size
            for place, _, names in os.walk(item.path)
            for name in names
        )
    return Use(Path(item.path), size, stat.st_mtime)
