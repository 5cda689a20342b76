"""What is done with a trained run: sample textured meshes from it, measure it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .. import console
from ..config import home
from ..errors import DatasetError

if TYPE_CHECKING:
    from ..renderers.meshes import Mesh
    from .asset import Sampler
    from .export.driver import ExportConfig, ExportReport
    from .metrics.table import LearningTable

PSI = 1.0
"""Metrics look at the whole variety, not at a truncated one."""


@dataclass(frozen=True)
class Evaluation:
    """The table and where it was written."""

    table: LearningTable
    path: Path
    nimg: int


def export_run(
    run: Path, config: ExportConfig, out: Path, *, overwrite: bool = False
) -> ExportReport:
    """Export meshes of a run's newest snapshot, or of a snapshot.

    Args:
        run: Run folder or ``snapshot-*.safetensors``.
        config: Which seeds, how.
        out: Folder.
        overwrite: Replace what another config or snapshot left there.

    Raises:
        CheckpointError: No run or snapshot.
        ConfigError: The folder holds the export of another config or snapshot.
    """
    from ..manifests.shards import sha256_file
    from .checkpoint import SNAPSHOT, numbered
    from .export.driver import export
    from .sampler import SnapshotSampler

    sampler = SnapshotSampler(run)
    snapshot, file = sampler.snapshot, numbered(run, SNAPSHOT)[-1] if run.is_dir() else run
    provenance = {
        "run": file.resolve().parent.name,
        "dataset": snapshot.context.name,
        "category": snapshot.context.category,
        "preset": snapshot.config.preset,
        "nimg": snapshot.nimg,
        "snapshot_sha256": sha256_file(file),
    }
    return export(sampler, out, config, provenance=provenance, overwrite=overwrite)


def evaluate(run: Path, data: Path | None = None, *, n: int = 64) -> Evaluation:
    """Compare ``n`` generated shapes with held-out ones, beside the references of the run.

    Args:
        run: Run folder or snapshot.
        data: Its dataset; None looks for it by name below the home.
        n: Held-out shapes, taken from ``test`` and then from ``val``; at most what is there.

    Returns:
        The table, also written into the run folder as ``learning.md`` and ``learning.json``.

    Raises:
        CheckpointError: No run or snapshot.
        DatasetError: No dataset, or one without held-out or training shapes.
    """
    import numpy as np

    from ..manifests.dataset import Dataset
    from .metrics.table import learning_table, shape_set
    from .sampler import SnapshotSampler, UntrainedSampler

    sampler = SnapshotSampler(run)
    snapshot = sampler.snapshot
    dataset = Dataset.open(data or home() / "datasets" / snapshot.context.name)
    held_out = [*dataset.assets("test"), *dataset.assets("val")][:n]
    training = dataset.assets("train")
    if not held_out or not training:
        raise DatasetError(
            f"{dataset.root} has {len(held_out)} held-out and {len(training)} training shapes",
            hint="prepare more assets, or give another --data",
        )
    count = len(held_out)
    with console.group():
        generated = shape_set(_meshes(sampler, count, "sampling"))
        untrained = UntrainedSampler(snapshot.config, snapshot.context)
        before = shape_set(_meshes(untrained, count, "sampling untrained"))
        with console.track("comparing"):
            table = learning_table(
                generated,
                np.stack([dataset.points(asset.uid) for asset in held_out]),
                np.stack([dataset.points(asset.uid) for asset in training]),
                before,
            )
    folder = run if run.is_dir() else run.parent
    path, _ = table.write(folder)
    return Evaluation(table, path, snapshot.nimg)


def _meshes(sampler: Sampler, count: int, description: str) -> Iterator[Mesh]:
    with console.track(description, total=count, unit="mesh") as task:
        for seed in range(count):
            yield sampler(seed, PSI).to_mesh()
            task.advance()
