"""What a session runs with and on: versions, commit, device."""

from __future__ import annotations

import json
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from ... import __version__
from ...cluster import cores

EVENTS = "events.jsonl"
ROOT = Path(__file__).resolve().parents[2]


def environment() -> dict[str, str]:
    """Plain values; what cannot be found out is left out."""
    found = {
        "g3d": __version__,
        "commit": commit() or "",
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": device(),
    }
    return {key: value for key, value in found.items() if value}


def append_event(run: Path, nimg: int, kind: str, message: str) -> None:
    """Note something that happened to a run, for its report: a line of ``events.jsonl``."""
    line = json.dumps({"nimg": nimg, "kind": kind, "message": message})
    with (run / EVENTS).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def device() -> str:
    """The GPU that this process computes on, or the processor."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.get_device_name()
    return f"{_processor()}, {cores()} cores"


def commit() -> str | None:
    """Of the checkout that g3d is installed from, or of the repository pip took it from."""
    if (ROOT / ".git").exists():
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
        return head and head + (", with changes" if changed else "")
    try:
        text = metadata.distribution("g3d").read_text("direct_url.json")
        return json.loads(text or "{}").get("vcs_info", {}).get("commit_id")
    except (metadata.PackageNotFoundError, ValueError):
        return None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
