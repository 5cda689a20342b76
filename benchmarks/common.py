"""What benchmarks share: the JSON line that each ends with, and a small run to work on."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def report(name: str, quick: bool, results: Mapping[str, float]) -> None:
    """Print the result line: benchmark, commit, hardware, figures by key."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE, text=True, check=False
    ).stdout.strip()
    line = {
        "benchmark": name,
        "quick": quick,
        "commit": commit,
        "hardware": f"{os.cpu_count()} cores, {_processor()}",
        "results": dict(results),
    }
    print(json.dumps(line))


def smoke_run(folder: Path) -> tuple[Path, Path]:
    """A few seconds' dataset and run, for ``--quick``: (dataset, run)."""
    data, run = folder / "data", folder / "smoke"
    small = ["--limit", "24", "--views", "4", "--size", "32", "--workers", "0"]
    g3d("prepare", "procedural", "--category", "chair", *small, "-o", str(data))
    g3d("train", "--data", str(data), "--preset", "smoke", "-o", str(run))
    return data, run


def g3d(*arguments: str) -> None:
    """Run a command, quietly, and expect it to succeed."""
    subprocess.run(
        [sys.executable, "-m", "g3d", *arguments, "-q"], check=True, stdout=subprocess.DEVNULL
    )


def _processor() -> str:
    """The processor's name, or at least its kind."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            names = [
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            ]
    except OSError:
        names = []
    return names[0] if names else platform.machine()
