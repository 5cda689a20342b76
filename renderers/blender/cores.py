"""Cores of this machine, one Blender each.

Blender's denoiser starts a thread for every core that it may run on, whatever its settings say, and
these wait by spinning: two Blenders of one thread each then take turns on both cores. On cores of
their own they do not. Which are taken is told by locks on files, so runs of one user do not meet.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

log = logging.getLogger(__name__)


class Cores:
    """Cores that are held until :meth:`free`, or the end of this process.

    Attributes:
        numbers: Which; none if there are not enough free ones, or the system cannot tell.
    """

    def __init__(self, count: int, among: Sequence[int] | None = None) -> None:
        self.numbers: tuple[int, ...] = ()
        self._files: list[IO[bytes]] = []
        try:
            import fcntl

            allowed = sorted(os.sched_getaffinity(0)) if among is None else list(among)
            folder = Path(tempfile.gettempdir()) / f"g3d-cores-{os.getuid()}"
            folder.mkdir(exist_ok=True)
        except (ImportError, AttributeError, OSError) as error:  # not Linux, or no place
            log.debug("cores are not held: %s", error)
            return
        held: list[int] = []
        for core in allowed:
            if len(held) == count:
                break
            file = (folder / str(core)).open("wb")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.close()
                continue
            self._files.append(file)
            held.append(core)
        if len(held) < count:
            self.free()
        else:
            self.numbers = tuple(held)

    def give(self, pid: int) -> None:
        """Keep a process, and what it starts from now on, on these cores."""
        if self.numbers:
            try:
                os.sched_setaffinity(pid, self.numbers)
            except OSError as error:  # it has ended, or may not
                log.debug("process %d is not kept on cores: %s", pid, error)

    def free(self) -> None:
        """Let others have them."""
        for file in self._files:
            file.close()
        self._files.clear()
        self.numbers = ()
