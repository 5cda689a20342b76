"""What runs in the processes of a pool, and the file that keeps what such a process wrote."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import G3DError
from .outcome import answer_of

LOG_LINES, LOG_BYTES = 40, 4096
_LOG_NAME = "g3d-worker-"
_LOG_AGE_S = 3600.0
_NEARLY = 0.9
"""Of its deadline: a job that takes longer has its stack written to the log."""


class Place(NamedTuple):
    """Where a worker is: the id of its node, and its log there."""

    node: str
    log: str


class Worker:
    """Runs in a process of its own; made into a Ray actor by the pool."""

    def __init__(self, factory: Callable[[], Callable[[Any], Any]], deadline_s: float = 0) -> None:
        """``deadline_s`` only decides when a job is thought to hang; 0: never."""
        self._factory, self._deadline_s = factory, deadline_s
        self._call: Callable[[Any], Any] | None = None
        self._log: _Log | None = None

    def place(self) -> Place:
        """Begin to keep a log; called once, as soon as the process is there."""
        import ray

        self._log = _Log()
        return Place(ray.get_runtime_context().get_node_id(), str(self._log.path))

    def ready(self) -> tuple[str, Any]:
        """Build the job function, so that its cost is not the first job's."""
        try:
            self._call = self._factory()
        except G3DError as error:
            return "raise", error
        return "ok", None

    def run(self, job: Any) -> tuple[str, Any]:
        """The value of a job, or its exception in a form that travels."""
        assert self._call is not None
        if self._log is None:
            return answer_of(self._call, job)
        self._log.restart(self._deadline_s)
        try:
            return answer_of(self._call, job)
        finally:
            faulthandler.cancel_dump_traceback_later()


class _Log:
    """A file that takes the place of stdout and stderr of this process, C and children included.

    It holds what was written since the current job began, so it stays small and its end is about
    that job.
    """

    def __init__(self) -> None:
        folder = _log_folder()
        _sweep(folder)
        self.path = folder / f"{_LOG_NAME}{os.getpid()}-{uuid.uuid4().hex[:8]}.log"
        # Appending, so that emptying it is enough to start anew.
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(self._file, 1)
        os.dup2(self._file, 2)
        faulthandler.enable(2)

    def restart(self, deadline_s: float) -> None:
        os.ftruncate(self._file, 0)
        if deadline_s:
            faulthandler.dump_traceback_later(_NEARLY * deadline_s, file=2)


def _log_folder() -> Path:
    """Among Ray's own logs, where its tools find it; else a place for temporary files."""
    try:
        node = vars(importlib.import_module("ray._private.worker"))["_global_node"]
        return Path(node.get_logs_dir_path())
    except (AttributeError, KeyError):
        return Path(tempfile.gettempdir())


def _sweep(folder: Path) -> None:
    """Delete logs of workers that ended long ago."""
    for path in folder.glob(f"{_LOG_NAME}*.log"):
        with contextlib.suppress(OSError):
            pid = int(path.name.removeprefix(_LOG_NAME).split("-")[0])
            if time.time() - path.stat().st_mtime > _LOG_AGE_S and not alive(pid):
                path.unlink()


def take_log(path: str) -> str | None:
    """The end of a dead worker's log, which is deleted; None if there is nothing."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_BYTES))
            text = file.read().decode(errors="replace")
        Path(path).unlink()
    except OSError:
        return None
    return "\n".join(text.strip().splitlines()[-LOG_LINES:]) or None


def alive(pid: int) -> bool:
    """Whether a process of this machine is there."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True
