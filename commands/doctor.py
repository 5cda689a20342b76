"""What ``g3d doctor`` finds: the machine, the packages and the places, and how to mend them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..cluster import cores
from ..config import home
from ..console import format_bytes

Status = Literal["ok", "low", "optional", "missing"]

MEMORY_BYTES = 4e9
"""What `g3d demo` stays below."""
DISK_BYTES = 2e9
"""The demo's dataset, run and exports, with room to spare."""


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        name: What was looked at.
        status: ``ok``; ``low`` (works, but little of it); ``optional`` (absent, some command
            needs it); ``missing`` (absent, g3d needs it).
        found: What is there.
        hint: The command that mends it, empty if nothing is to be mended.
    """

    name: str
    status: Status
    found: str
    hint: str = ""


@dataclass(frozen=True)
class Report:
    """All checks of one machine."""

    checks: tuple[Check, ...]

    @property
    def missing(self) -> list[Check]:
        """The checks without which g3d does not work."""
        return [check for check in self.checks if check.status == "missing"]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return {"ok": not self.missing, "checks": [asdict(check) for check in self.checks]}

    def as_text(self) -> str:
        """One line a check, the mending command below it."""
        width = max(len(check.name) for check in self.checks)
        lines = []
        for check in self.checks:
            lines.append(f"{check.status:<8}  {check.name:<{width}}  {check.found}")
            if check.hint:
                lines.append(f"{'':<8}  {'':<{width}}  -> {check.hint}")
        return "\n".join(lines)


def examine() -> Report:
    """Look at this machine. Imports torch, starts Blender if there is one, writes probe files."""
    return Report((*_machine(), *_packages(), *_devices(), *_extras(), *_places()))


def total_memory() -> float:
    """Memory that this process may use, in bytes: the machine's, or its container's limit."""
    try:
        total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return float("inf")
    for limit in (
        Path("/sys/fs/cgroup/memory.max"),
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
    ):
        try:
            total = min(total, float(limit.read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue
    return total


def _machine() -> Iterator[Check]:
    yield Check("python", "ok", f"{platform.python_version()} ({sys.executable})")
    yield Check("system", "ok", f"{platform.system()} {platform.release()} {platform.machine()}")
    yield Check("cores", "ok", str(cores()))
    memory = total_memory()
    if memory >= MEMORY_BYTES:
        yield Check("memory", "ok", format_bytes(memory))
    else:
        yield Check("memory", "low", format_bytes(memory), "g3d prepare ... --workers 1")


def _packages() -> Iterator[Check]:
    """Every package that g3d declares, from its own metadata."""
    try:
        requirements = importlib.metadata.requires("g3d") or []
    except importlib.metadata.PackageNotFoundError:
        yield Check("g3d", "missing", "not installed", "pip install -e .")
        return
    for requirement in requirements:
        if "extra ==" in requirement:
            continue
        match = re.match(r"[A-Za-z0-9._-]+", requirement)
        name = match.group() if match else requirement
        try:
            yield Check(name, "ok", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Check(name, "missing", "not installed", f"pip install '{requirement}'")


def _devices() -> Iterator[Check]:
    try:
        import torch
    except (ImportError, OSError) as failure:
        hint = "pip install --force-reinstall torch"
        yield Check("torch import", "missing", str(failure).splitlines()[0], hint)
        return
    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
        found = f"{torch.cuda.device_count()} x {', '.join(sorted(names))}"
        yield Check("cuda", "ok", f"{found}, CUDA {torch.version.cuda}")
    else:
        yield Check("cuda", "optional", "no device: the presets smoke and cpu do without")


def _extras() -> Iterator[Check]:
    yield _blender()
    yield _module(
        "nvdiffrast",
        "faster training on CUDA; non-commercial licence",
        "pip install --no-build-isolation git+https://github.com/NVlabs/nvdiffrast",
    )
    node = shutil.which("node")
    if node:
        yield Check("node", "ok", node)
    else:
        yield Check("node", "optional", "absent (the Khronos glTF validator in the tests)")


def _blender() -> Check:
    """Starts Blender in its own interpreter: an installation that does not start is none."""
    from ..errors import G3DError, MissingDependency
    from ..renderers.blender.process import BlenderProcess, find_python
    from ..renderers.blender.settings import BlenderSettings

    try:
        python = find_python()
        process = BlenderProcess(BlenderSettings())
    except MissingDependency as missing:
        return Check(
            "bpy", "optional", f"{missing.message} (--renderer blender)", missing.hint or ""
        )
    except G3DError as failure:
        return Check("bpy", "missing", failure.message, "pip install --force-reinstall bpy")
    facts = process.facts
    process.kill()
    found = f"{facts['blender']} in {python} (Python {facts['python']}, numpy {facts['numpy']})"
    return Check("bpy", "ok", f"{found}, pixels through {facts['passes']}")


def _module(name: str, use: str, hint: str) -> Check:
    if importlib.util.find_spec(name) is None:
        return Check(name, "optional", f"absent ({use})", hint)
    try:
        return Check(name, "ok", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Check(name, "ok", "present")


def _places() -> Iterator[Check]:
    place = home()
    if _is_writable(place):
        yield Check("G3D_HOME", "ok", str(place.resolve()))
    else:
        hint = "export G3D_HOME=/a/folder/you/can/write"
        yield Check("G3D_HOME", "missing", f"{place.resolve()} cannot be written", hint)
    free = float(shutil.disk_usage(_nearest(place)).free)
    if free >= DISK_BYTES:
        yield Check("disk", "ok", f"{format_bytes(free)} free")
    else:
        hint = "export G3D_HOME=/a/larger/disk"
        yield Check("disk", "low", f"{format_bytes(free)} free", hint)
    given = os.environ.get("NUMBA_CACHE_DIR")
    cache = (
        Path(given) if given else Path(__file__).parents[1] / "renderers" / "ops" / "__pycache__"
    )
    if _is_writable(cache):
        yield Check("numba cache", "ok", str(cache))
    else:
        hint = "export NUMBA_CACHE_DIR=/a/folder/you/can/write   (saves 10 s a start)"
        yield Check("numba cache", "low", f"{cache} cannot be written", hint)


def _nearest(place: Path) -> Path:
    """The place, or the nearest folder above it that exists."""
    place = place.resolve()
    return next(folder for folder in (place, *place.parents) if folder.is_dir())


def _is_writable(place: Path) -> bool:
    """Whether files can be made in the folder, or the folder itself."""
    try:
        with tempfile.TemporaryFile(dir=_nearest(place)):
            return True
    except OSError:
        return False
