"""Trained runs that come with g3d, so that the first meshes need no training: ``builtin:chair``.

Each is a run folder without checkpoints, small enough to be packaged, made by `make builtin`.
"""

from __future__ import annotations

from pathlib import Path

from ...config import did_you_mean
from ...errors import CheckpointError

PREFIX = "builtin:"
FOLDER = Path(__file__).resolve().parent


def names() -> list[str]:
    """Names of the runs that are there."""
    return sorted(path.parent.name for path in FOLDER.glob("*/snapshot-*.safetensors"))


def find_run(path: Path) -> Path:
    """The folder of ``builtin:NAME``; any other path as it is.

    Raises:
        CheckpointError: There is no such run.
    """
    text = str(path)
    if not text.startswith(PREFIX):
        return path
    name = text.removeprefix(PREFIX)
    if name not in names():
        raise CheckpointError(
            f"there is no run {text}{did_you_mean(name, names())}",
            hint=f"one of: {', '.join(PREFIX + one for one in names())}",
        )
    return FOLDER / name
