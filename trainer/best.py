"""Keeping the best snapshot of a run, by one figure."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import DatasetError
from ..manifests.atomic import write_atomic
from ..manifests.dataset import Dataset
from .config import RunConfig
from .method import Method

BEST_SNAPSHOT, BEST_FILE = "best.safetensors", "best.json"

Score = Callable[[Method, nn.Module], float]
"""``(method, averaged generator) -> figure``, the less the better; a function of these alone."""


def make_score(run: RunConfig, dataset: Dataset) -> Score | None:
    """The figure that ``run.best`` names, None for none.

    Raises:
        DatasetError: It needs held-out shapes, and there are none.
    """
    if run.best == "none":
        return None
    held_out = dataset.assets("val")[: run.best_shapes]
    if not held_out:
        raise DatasetError(
            f"{dataset.root} has no shape in its val split, with which run.best compares",
            hint="prepare more assets, or --set run.best=none",
        )
    from .metrics.chamfer import normalise_points

    references = normalise_points(np.stack([dataset.points(asset.uid) for asset in held_out]))

    def score(method: Method, generator: nn.Module) -> float:
        return mmd_cd(method, generator, references, run.best_shapes)

    return score


@torch.no_grad()
def mmd_cd(method: Method, generator: nn.Module, references: np.ndarray, count: int) -> float:
    """Mean over references of the squared Chamfer distance to the nearest generated shape.

    Args:
        method: Samples.
        generator: The averaged one; in psi 1, of fixed seeds.
        references: ``[R, P, 3]``, normalised.
        count: Generated shapes; infinite is returned if all of them are empty.
    """
    from .metrics.chamfer import mmd, normalise_points, pairwise_chamfer
    from .metrics.table import shape_set

    meshes = (method.sample(generator, seed, 1.0).to_mesh() for seed in range(count))
    shapes = shape_set(meshes)
    if not len(shapes.points):
        return math.inf
    return mmd(pairwise_chamfer(normalise_points(shapes.points), references))


def read_best(folder: Path) -> dict[str, Any] | None:
    """What ``best.json`` says, None if there is none or it cannot be read."""
    try:
        found = json.loads((folder / BEST_FILE).read_text(encoding="utf-8"))
        return found if math.isfinite(found["value"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_best(folder: Path, figure: str, value: float, nimg: int) -> None:
    """Write ``best.json``, after the snapshot that it is about."""
    record = {"figure": figure, "value": value, "nimg": nimg, "snapshot": BEST_SNAPSHOT}
    write_atomic(folder / BEST_FILE, (json.dumps(record, indent=1) + "\n").encode())
