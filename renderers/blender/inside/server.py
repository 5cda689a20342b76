"""The loop of the child process: one request, one answer, until the other side goes away."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import platform
import resource
import select
import signal
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from . import protocol
from .protocol import Arrays
from .refused import Refused

FAULTS = "G3D_TEST_BLENDER_FAULTS"
"""Variable of the tests: JSON, what is to go wrong by the stem of the file that is opened."""

Answer = tuple[dict[str, Any], Arrays]


def main(text: str) -> None:
    """Serve until the parent closes its end; never returns.

    Args:
        text: JSON of ``channel`` (a socket), ``lifeline`` (the read end of a pipe that nothing is
            written into), ``passes``, ``memory_bytes`` and ``threads``.
    """
    options = json.loads(text)
    _die_with_the_parent(options["lifeline"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    channel = options["channel"]
    try:
        server = Server(options)
    except ImportError as error:
        _send(channel, {"error": {"message": f"cannot import Blender: {error}"}})
        os._exit(1)
    _limit_memory(options["memory_bytes"])
    _send(channel, {**server.facts(), "mapped": _size(0), "resident": _size(1)})
    try:
        while True:
            request = protocol.decode(lambda count: protocol.read_exactly(channel, count))
            _send(channel, *_answer(server, request))
    except (EOFError, OSError):
        os._exit(0)  # Blender's own way out takes long, and may crash


def _die_with_the_parent(lifeline: int) -> None:
    """Have the kernel end this process when the other end of ``lifeline`` closes.

    By a signal, because a thread that waits would not run while an importer holds Python's lock;
    and not by PR_SET_PDEATHSIG, which goes off when the *thread* that started the child ends.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:  # it was closed before we listened
        os._exit(0)


def _limit_memory(more: int) -> None:
    """Let the address space grow by ``more`` bytes, as far as the system and its limits allow."""
    size = _size(0)
    if not size:
        return
    limit, hard = size + more, resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _size(column: int) -> int:
    """Bytes of this process: 0 mapped, 1 resident; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[column])
    except (OSError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _send(channel: int, header: dict[str, Any], arrays: Arrays | None = None) -> None:
    protocol.write_all(channel, protocol.encode(header, arrays))


def _answer(server: Server, request: protocol.Frame) -> Answer:
    """The answer to a request; an exception becomes an error in its header."""
    try:
        return server.do(request)
    except Refused as error:
        return _error(error.reason, error.message)
    except MemoryError as error:
        return _error("memory", str(error) or "Blender asked for more memory than it may have")
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f" ({Path(where.filename).name}:{where.lineno})"
        return _error("", f"{type(error).__name__}: {_one_line(error)}{place}")


def _error(reason: str, message: str) -> Answer:
    return {"error": {"reason": reason, "message": message}}, {}


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:400]


class Server:
    """Does what is asked, with the scene that was opened last."""

    def __init__(self, options: dict[str, Any]) -> None:
        """Load Blender and see how pixels come out of it.

        Raises:
            ImportError: There is no Blender.
        """
        from . import scene, selftest

        self._scene = scene
        scene.reset()
        route = options["passes"]
        self._passes = selftest.self_test() if route == "auto" else route
        self._threads = options["threads"]

    def facts(self) -> dict[str, Any]:
        """What the parent may want to know."""
        import bpy

        return {
            "blender": bpy.app.version_string.split()[0],
            "passes": self._passes,
            "numpy": np.__version__,
            "python": platform.python_version(),
        }

    def do(self, request: protocol.Frame) -> Answer:
        """Answer a request.

        Raises:
            Refused: The asset is at fault.
        """
        header, arrays = request.header, request.arrays
        actions = {"file": self._open_file, "mesh": self._open_mesh, "render": self._render}
        return actions[header["do"]](header, arrays)

    def _open_file(self, header: dict[str, Any], arrays: Arrays) -> Answer:
        from . import extract, importers

        path = Path(header["path"])
        _fault(path)
        self._scene.reset()
        importers.import_file(path)
        materials, arrays = extract.extract()
        return {"materials": materials}, arrays

    def _open_mesh(self, header: dict[str, Any], arrays: Arrays) -> Answer:
        from . import build

        self._scene.reset()
        build.build(arrays, header["materials"])
        return {}, {}

    def _render(self, header: dict[str, Any], arrays: Arrays) -> Answer:
        from . import looks

        images = self._scene.render(
            self._scene.Request(
                c2w=arrays["c2w"],
                fov_y=arrays["fov_y"],
                height=header["height"],
                width=header["width"],
                transform=arrays["transform"],
                look=looks.look_from(header["look"]),
                passes=self._passes,
            )
        )
        return {}, {
            "rgba": images.rgba,
            "depth": images.depth,
            "normal": images.normal,
            "albedo": images.albedo,
        }


def _fault(path: Path) -> None:
    """Do to this process what a bad file may do to it; only where a test asks for it."""
    wanted = json.loads(os.environ.get(FAULTS, "{}")).get(path.stem)
    if wanted == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif wanted == "abort":
        os.abort()
    elif wanted == "sleep":
        time.sleep(3600)
    elif wanted == "hang":
        ctypes.PyDLL(None).sleep(3600)  # holds Python's lock, as Blender's importers do
    elif wanted == "memory":
        np.ones(2**31).sum()
    elif wanted == "malloc":
        _malloc()


def _malloc() -> None:
    """Take memory in C until there is none, then abort, as a C++ importer does."""
    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    library.malloc.argtypes = [ctypes.c_size_t]
    while library.malloc(2**28):
        pass
    os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
    os.abort()
