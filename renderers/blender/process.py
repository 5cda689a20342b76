"""The child process that Blender runs in, as its parent sees it: started, asked, killed.

Blender's importers and its renderer are C++ that neither returns to Python when it hangs nor
survives its own aborts, so the only way to bound them is a process that can be killed. The child is
killed when an answer is late, it ends by itself when this process does (however that ends), and
the next asset gets another one.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from ...errors import AssetError, G3DError, MissingDependency
from .cores import Cores
from .inside import protocol
from .settings import BlenderSettings

Stage = Literal["load", "render"]

START_DEADLINE_S = 180.0
_LOG_BYTES = 4096
_LOOK_S = 0.01
"""How often the child's size is looked at while it works."""
_NEAR = 0.4
"""A child that crashes with this share of its memory taken has crashed for want of memory."""
_PYTHON_VARIABLE = "G3D_BLENDER_PYTHON"
_HINT = (
    "pip install 'g3d[blender]' on Python 3.11, "
    f"or {_PYTHON_VARIABLE}=/path/to/python of an environment that has bpy"
)
_BOOT = (
    "import sys; sys.path.append(sys.argv[1]); from inside.server import main; main(sys.argv[2])"
)
_NOT_THE_CHILDS = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONSAFEPATH")
_REASON = {"load": "import", "render": "render_crash"}
_DOING = {"load": "importing", "render": "rendering"}
_OUT_OF_MEMORY = re.compile(
    r"[mc]alloc returns null|bad_alloc|out of memory|cannot allocate memory|failed to allocate",
    re.IGNORECASE,
)


def find_python(given: str | None = None) -> Path:
    """The interpreter that Blender runs in.

    Args:
        given: The setting ``blender.python``.

    Raises:
        MissingDependency: None has bpy, or the one that was named does not exist.
    """
    for origin, name in (("blender.python", given), (_PYTHON_VARIABLE, _from_environment())):
        if not name:
            continue
        path = Path(name).expanduser()
        if not os.access(path, os.X_OK) or path.is_dir():
            raise MissingDependency(f"{origin}: {path} is not an interpreter", hint=_HINT)
        return path.absolute()  # not resolved: a virtual environment's python is a link
    if importlib.util.find_spec("bpy") is not None:
        return Path(sys.executable)
    root = Path(__file__).resolve().parents[2]
    path = root / "third_party" / "blender" / "bin" / "python"
    if (root / "pyproject.toml").is_file() and os.access(path, os.X_OK):
        return path
    raise MissingDependency("Blender (the package bpy) is not installed", hint=_HINT)


def _from_environment() -> str | None:
    return os.environ.get(_PYTHON_VARIABLE)


@functools.lru_cache
def blender_version(python: Path) -> str:
    """Blender's version by the metadata of the wheel, without starting Blender where that is there.

    Raises:
        MissingDependency: The interpreter has no bpy.
    """
    code = (
        "import importlib.metadata as m\n"
        "try: v = m.version('bpy')\n"
        "except m.PackageNotFoundError: import bpy; v = bpy.app.version_string.split()[0]\n"
        "print('version', v)"
    )
    try:
        done = subprocess.run(
            [str(python), "-s", "-P", "-c", code],
            capture_output=True, text=True, timeout=START_DEADLINE_S, env=_environment(1),
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingDependency(f"{python} does not run: {error}", hint=_HINT) from error
    found = re.search(r"^version (\S+)$", done.stdout, re.MULTILINE)
    if found is None:
        raise MissingDependency(f"{python} has no bpy: {_last(done.stderr)}", hint=_HINT)
    return found.group(1)


def _environment(threads: int) -> dict[str, str]:
    """The child's variables: nothing of this interpreter's, nobody's Blender preferences."""
    out = {key: value for key, value in os.environ.items() if key not in _NOT_THE_CHILDS}
    out["OMP_NUM_THREADS"] = out["G3D_BLENDER_THREADS"] = str(threads)
    out["BLENDER_USER_RESOURCES"] = str(Path(tempfile.gettempdir()) / "g3d-no-blender-preferences")
    return out


class BlenderProcess:
    """One Blender, from its start to its end.

    Attributes:
        pid: Of the child, which leads a process group of its own.
        facts: What it said of itself: ``blender`` (version), ``passes``, ``numpy``, ``python``.
    """

    def __init__(self, settings: BlenderSettings) -> None:
        """Start Blender and wait until it is ready.

        Raises:
            MissingDependency: No interpreter with bpy.
            G3DError: It does not start.
        """
        python = find_python(settings.python)
        self._socket, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        # Appending, so that emptying it is enough to start anew.
        fcntl.fcntl(self._log.fileno(), fcntl.F_SETFL, os.O_APPEND)
        options = {
            "channel": theirs.fileno(), "lifeline": lifeline, "passes": settings.passes,
            "memory_bytes": int(settings.memory_gb * 2**30), "threads": settings.threads,
        }  # fmt: skip
        command = [str(python), "-s", "-P", "-c", _BOOT, str(Path(__file__).parent)]
        try:
            self._child = subprocess.Popen(
                [*command, json.dumps(options)],
                stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
                pass_fds=(theirs.fileno(), lifeline), start_new_session=True,
                env=_environment(settings.threads),
            )  # fmt: skip
        except OSError as error:
            raise MissingDependency(f"{python} does not run: {error}", hint=_HINT) from error
        finally:
            theirs.close()
            os.close(lifeline)
        self.pid, self._settings = self._child.pid, settings
        cores = Cores(settings.threads)
        cores.give(self.pid)  # before it has imported anything that starts threads
        self._mapped = 0
        self._end = weakref.finalize(
            self, _end, self._child, self._socket, self._lifeline, self._log, cores
        )
        self.facts = self._hello(python)

    def _hello(self, python: Path) -> dict[str, Any]:
        try:
            answer = protocol.decode(self._reader(time.monotonic() + START_DEADLINE_S))
        except (OSError, EOFError, protocol.ProtocolError) as error:
            said = self._tail() or type(error).__name__
            self.kill()
            raise G3DError(
                f"Blender does not start with {python}: {said}", hint="g3d doctor"
            ) from error
        if "error" in answer.header:
            self.kill()
            raise MissingDependency(f"{python}: {answer.header['error']['message']}", hint=_HINT)
        return answer.header

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._end.alive and self._child.poll() is None

    def request(
        self,
        header: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray] | None = None,
        *,
        stage: Stage,
        deadline_s: float,
    ) -> protocol.Frame:
        """Ask for something and wait for the answer.

        Args:
            header: Plain JSON values, ``do`` among them.
            arrays: By name.
            stage: For errors.
            deadline_s: Longest time for the whole exchange.

        Raises:
            AssetError: ``timeout``, ``memory``, ``import`` or ``render_crash``: Blender was too
                slow or died, and is gone; or what it refused, and why.
        """
        until = time.monotonic() + deadline_s
        os.ftruncate(self._log.fileno(), 0)
        self._mapped, killed_before = 0, _oom_kills()
        try:
            for buffer in protocol.encode(header, arrays):
                self._socket.settimeout(max(0.001, until - time.monotonic()))
                self._socket.sendall(buffer)
            answer = protocol.decode(self._reader(until))
        except TimeoutError as error:
            self.kill()
            message = f"{_DOING[stage]} took longer than {deadline_s:g} s: Blender was stopped"
            raise AssetError("timeout", message, stage=stage) from error
        except (OSError, EOFError, ValueError, protocol.ProtocolError) as error:
            raise self._death(stage, killed_before) from error
        except BaseException:
            self.kill()  # an answer that nobody took would be taken for the next one's
            raise
        problem = answer.header.get("error")
        if problem is None:
            return answer
        if problem["reason"] == "memory":
            self.kill()  # what it holds may be large, and in no order
        raise AssetError(problem["reason"] or _REASON[stage], problem["message"], stage=stage)

    def _reader(self, until: float) -> Callable[[int], bytearray]:
        """Reads exactly so many bytes, or raises TimeoutError or EOFError."""

        def read(count: int) -> bytearray:
            out = bytearray(count)
            view, done = memoryview(out), 0
            while done < count:
                left = until - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                self._socket.settimeout(min(left, _LOOK_S))
                try:
                    got = self._socket.recv_into(view[done:])
                except TimeoutError:
                    self._mapped = max(self._mapped, self._bytes(0))
                    continue
                if not got:
                    raise EOFError
                done += got
            return out

        return read

    def _death(self, stage: Stage, killed_before: int) -> AssetError:
        """The error for a child that went away, by what can still be known of it."""
        code, peak = _reap(self._child)
        said = self._tail()
        self.kill()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        killed = code == -signal.SIGKILL
        # C++ that is refused memory says so, or runs into a null pointer without a word.
        grown = max(self._mapped - self.facts["mapped"], peak - self.facts["resident"])
        full = grown > _NEAR * self._settings.memory_gb * 2**30
        short = _OUT_OF_MEMORY.search(said) or (full and not killed)
        if short or (killed and _oom_kills() > killed_before):
            reason, how = "memory", f"{how}, with a limit of {self._settings.memory_gb:g} GB"
        else:
            reason = _REASON[stage]
        message = f"Blender died while {_DOING[stage]} ({how})"
        return AssetError(reason, f"{message}: {said}" if said else message, stage=stage)

    def _tail(self) -> str:
        """The end of what Blender wrote to its standard output and error since the last request."""
        size = os.fstat(self._log.fileno()).st_size
        data = os.pread(self._log.fileno(), _LOG_BYTES, max(0, size - _LOG_BYTES))
        return _last(data.decode("utf-8", "replace"))

    def resident_bytes(self) -> int:
        """Memory of the child that is in RAM; 0 where the system does not tell."""
        return self._bytes(1)

    def _bytes(self, column: int) -> int:
        """A size of the child: 0 mapped, 1 resident."""
        try:
            text = Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii")
            pages = int(text.split()[column])
        except (OSError, IndexError, ValueError):
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    def kill(self) -> None:
        """End it now, with all processes that it started; does nothing the second time."""
        self._end()


def _end(
    child: subprocess.Popen[bytes],
    channel: socket.socket,
    lifeline: int,
    log: IO[bytes],
    cores: Cores,
) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    channel.close()
    os.close(lifeline)
    log.close()
    cores.free()


def _reap(child: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Exit code of a child that is about to end (negative: its signal), its peak memory (bytes)."""
    until = time.monotonic() + 5.0
    try:
        while time.monotonic() < until:
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if pid:
                child.returncode = os.waitstatus_to_exitcode(status)
                return child.returncode, usage.ru_maxrss * 1024
            time.sleep(0.005)
    except ChildProcessError:  # somebody else has waited for it
        pass
    return child.poll() or 0, 0


def _last(text: str, limit: int = 300) -> str:
    """The last lines of a log, in one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines)[-limit:]


def _oom_kills() -> int:
    """How many processes the system has killed for want of memory; 0 where it does not tell."""
    try:
        text = Path("/proc/vmstat").read_text(encoding="ascii")
    except OSError:
        return 0
    found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
    return int(found.group(1)) if found else 0
