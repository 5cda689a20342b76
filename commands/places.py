"""Where datasets, runs and exports go, and where they are found, when no path is given."""

from __future__ import annotations

import re
from pathlib import Path

from ..config import Config, home, load_yaml
from ..errors import ConfigError

RUN_NAME = re.compile(r"(\d{5})-(.+)")


def dataset_place(source: str, category: str) -> Path:
    """``datasets/<source>-<category>``, by the category's own name, below the home."""
    from ..manifests.categories import get_category

    return home() / "datasets" / f"{source}-{get_category(category).name}"


def run_place(config: Config, preset: str, dataset: str) -> Path:
    """``runs/<00000>-<dataset>-<preset>``: the run that this config goes on with, or a new one.

    A run goes on if it was started on the dataset of that name with exactly this config.

    Args:
        config: What would be trained.
        preset: Name for the folder.
        dataset: Name for the folder.
    """
    runs = home() / "runs"
    wanted = config.model_dump(mode="json")
    number = -1
    for path in sorted(runs.glob("*")) if runs.is_dir() else ():
        match = RUN_NAME.fullmatch(path.name)
        if not match:
            continue
        number = max(number, int(match[1]))
        if match[2] == f"{dataset}-{preset}" and _config_of(path) == wanted:
            return path
    return runs / f"{number + 1:05d}-{dataset}-{preset}"


def _config_of(run: Path) -> dict[str, object] | None:
    try:
        return load_yaml(run / "config.yaml")
    except ConfigError:
        return None


def export_place(run: Path) -> Path:
    """``exports/<run>`` below the home, for a run folder or a snapshot in it."""
    folder = run.parent if run.suffix == ".safetensors" else run
    return home() / "exports" / folder.resolve().name
