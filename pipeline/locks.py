"""One process at a time in a folder, or one for each of its parts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ConfigError
from ..manifests.atomic import disk_error

LOCK = "lock"


@contextmanager
def held(folder: Path, name: str, part: str = "") -> Iterator[None]:
    """Hold a folder for this process, or a part of it beside those that hold other parts.

    Args:
        folder: Made if it is missing; the locks are files in it.
        name: What messages call what is made there.
        part: Which part; empty: all of it.

    Raises:
        ConfigError: Another process holds it.
        DiskError: The folder cannot be written.
    """
    try:
        import fcntl
    except ImportError:  # Windows: two runs at once are the user's to avoid
        yield
        return
    wanted = [(LOCK, fcntl.LOCK_SH if part else fcntl.LOCK_EX)]
    wanted += [(f"{LOCK}-{part}", fcntl.LOCK_EX)] if part else []
    with contextlib.ExitStack() as stack:
        for file, kind in wanted:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                handle = stack.enter_context((folder / file).open("wb"))
            except OSError as error:
                raise disk_error(folder, error) from error
            try:
                fcntl.flock(handle, kind | fcntl.LOCK_NB)
            except OSError as error:
                raise ConfigError(
                    f"another `g3d prepare` is making {name}",
                    hint="wait for it, or give another -o",
                ) from error
        yield
