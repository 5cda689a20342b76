"""``g3d demo``: prepare, train, export and a gallery, in one go, on nothing but this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from .. import console
from . import places


@dataclass(frozen=True)
class DemoReport:
    """What the demo made.

    Attributes:
        dataset: Its folder, with ``assets`` accepted shapes of ``views`` images.
        run: The run folder, after ``nimg`` images.
        out: The folder of the GLB files.
        gallery: The page that shows them.
        meshes: Number of GLB files.
        missing: Seeds that gave none.
        seconds: Wall time of this session.
    """

    dataset: Path
    assets: int
    views: int
    run: Path
    nimg: int
    out: Path
    gallery: Path | None
    meshes: int
    missing: int
    seconds: float


def demo(
    *, category: str = "chair", limit: int = 500, views: int = 24, preset: str = "cpu", n: int = 16
) -> DemoReport:
    """Make procedural shapes, learn them and export what was learnt.

    Every stage goes on where an earlier call stopped.

    Args:
        category: Of the procedural source.
        limit: How many shapes.
        views: Images of each.
        preset: Of the training.
        n: Meshes to export.
    """
    from ..pipeline.config import PrepareConfig
    from ..pipeline.prepare import prepare
    from ..trainer.config import preset_config
    from ..trainer.export.driver import ExportConfig
    from ..trainer.loop import train
    from ..trainer.trained import export_run

    start = time.monotonic()
    config = preset_config(preset)
    dataset = places.dataset_place("procedural", category)
    with console.group():
        prepared = prepare(
            PrepareConfig(source="procedural", category=category, limit=limit, views=views), dataset
        )
        trained = train(config, dataset, places.run_place(config, preset, dataset.name))
        exported = export_run(trained.run, ExportConfig(n=n), places.export_place(trained.run))
    return DemoReport(
        dataset=dataset,
        assets=prepared.accepted,
        views=views,
        run=trained.run,
        nimg=trained.nimg,
        out=exported.out,
        gallery=exported.gallery,
        meshes=exported.count("ok"),
        missing=n - exported.count("ok"),
        seconds=time.monotonic() - start,
    )
