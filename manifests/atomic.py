"""Writing a file so that it is there whole or not at all."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import DiskError

TEMP_MARK = ".tmp-"
"""Every unfinished file has this in its name; no finished file does."""


def disk_error(path: Path, error: OSError) -> DiskError:
    """The user's view of an operating system error while ``path`` was written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    what = "the disk is full" if full else (error.strerror or str(error))
    hint = (
        "make room and run the same command again: what is finished is kept"
        if full
        else "check the path and its permissions, or give another -o"
    )
    return DiskError(f"cannot write {path}: {what}", hint=hint)


@contextmanager
def atomic_file(path: Path, *, sync: bool = True) -> Iterator[BinaryIO]:
    """Open a file for writing that appears at ``path`` only when the block ends without an error.

    It is written beside its place, synced and renamed; after an error nothing of it is left.

    Args:
        path: Where it ends up; its folder is made if it is missing.
        sync: Force it to the disk before the rename. Needless for what can be made again.

    Raises:
        DiskError: The disk is full or the place cannot be written.
    """
    temp = path.with_name(f"{path.name}{TEMP_MARK}{uuid.uuid4().hex[:12]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temp.open("wb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        temp.replace(path)
        if sync:
            sync_folder(path.parent)
    except OSError as error:
        _discard(temp)
        raise disk_error(path, error) from error
    except BaseException:
        _discard(temp)
        raise


def write_atomic(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write ``data`` to ``path`` through :func:`atomic_file`.

    Raises:
        DiskError: The disk is full or the place cannot be written.
    """
    with atomic_file(path, sync=sync) as file:
        file.write(data)


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` durable, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return  # Windows cannot open a folder; its renames are durable in order
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_temporaries(folder: Path) -> None:
    """Delete what a killed process left unfinished in ``folder``."""
    if folder.is_dir():
        for path in folder.iterdir():
            if TEMP_MARK in path.name and path.is_file():
                _discard(path)


def _discard(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # the error that brought us here is the one to report
