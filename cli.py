"""The commands: parse, resolve the config, import lazily, call one library function, report.

No logic lives here. Errors pass through to :func:`main`, which turns them into two lines and an
exit code: 0 done, 1 failed, 2 wrong usage or config, 3 finished with failures or findings, 4 the
environment lacks something, 130 interrupted.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from . import __version__, console
from .commands import (
    interrupts,
    prepare,  # noqa: F401  registered first, so that the help lists it first
)
from .commands.options import (
    CONFIG,
    INPUT,
    LOOK,
    RUN,
    SET_UP,
    WORKFLOW,
    Data,
    DryRun,
    Files,
    Out,
    Overwrite,
    Preset,
    RunPath,
    Sets,
    app,
    command,
    given,
    option,
    presets_app,
)  # fmt: skip
from .errors import DiskError, G3DError, MissingDependency


def _version(wanted: bool) -> None:
    if wanted:
        console.result({"version": __version__}, f"g3d {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


@command(
    "train",
    WORKFLOW,
    "g3d train",
    "g3d train --data datasets/procedural-chair --preset cpu --kimg 100",
    "g3d train --preset smoke --set run.seed=1 -o runs/mine",
    "g3d train --workers 2",
)
def train_command(
    data: Data = None,
    preset: Preset = "cpu",
    files: Files = None,
    kimg: Annotated[float | None, option(CONFIG, "--kimg", help="Thousands of images.")] = None,
    batch: Annotated[int | None, option(CONFIG, "--batch", help="Images a step.")] = None,
    seed: Annotated[int | None, option(CONFIG, "--seed", help="Of weights and batches.")] = None,
    sets: Sets = None,
    out: Out = None,
    overwrite: Overwrite = False,
    workers: Annotated[
        int | None, option(RUN, "--workers", help="Processes; 1: here, no Ray (default: 1).")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Train a generator on a dataset.

    The same command again goes on where it stopped. Ctrl-C saves a checkpoint; twice stops at once.

    Values: defaults < --preset < --config < named options < --set.
    """
    from .commands import places, reports
    from .config import dump, home, load_preset, resolve
    from .manifests.dataset import Dataset, newest_dataset
    from .trainer.config import PRESETS, TrainConfig

    name = preset or "default"
    base = {"preset": name, **(load_preset(PRESETS, preset) if preset else {})}
    flags = {"run": given(kimg=kimg, batch=batch, seed=seed, workers=workers)}
    config = resolve(TrainConfig, preset=base, files=files or (), flags=flags, sets=sets or ())
    dataset = Dataset.open(data or newest_dataset(home()))
    folder = Path(dataset.root) if data is None else data
    place = out or places.run_place(config, name, folder.resolve().name)
    console.say(
        f"g3d {__version__} train: {folder}, preset {name}, {config.run.kimg:g} kimg -> {place}"
    )
    from .trainer.memory import estimate

    console.say(estimate(config, views=len(dataset.views(config.data.split))).line())
    if dry_run:
        console.result({"config": config.model_dump(mode="json"), "out": place}, dump(config))
        return
    from .trainer.loop import train

    reports.trained(train(config, folder, place, overwrite=overwrite))


@command(
    "export",
    WORKFLOW,
    "g3d export",
    "g3d export builtin:chair --n 16",
    "g3d export --n 1000 --psi 0.8",
    "g3d export runs/00000-procedural-chair-cpu --seeds 0-9,42 -o chairs",
)
def export_command(
    run: RunPath = None,
    n: Annotated[
        int | None, option(INPUT, "--n", help="Meshes, seeds 0 to n-1 (default: 16).")
    ] = None,
    seeds: Annotated[str | None, option(INPUT, "--seeds", help="Seeds, like 0-9,42.")] = None,
    psi: Annotated[
        float | None,
        option(CONFIG, "--psi", help="0: the mean shape; 1: all variety (default: 0.7)."),
    ] = None,
    texture_size: Annotated[
        int | None, option(CONFIG, "--texture-size", help="Side of a texture (default: 512).")
    ] = None,
    files: Files = None,
    sets: Sets = None,
    out: Out = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Sample textured meshes of a run.

    Writes one GLB a seed, a contact sheet and a gallery page; what is there is kept.
    """
    from .commands import places, reports
    from .config import dump, home, resolve
    from .trainer.builtin import find_run
    from .trainer.checkpoint import newest_run
    from .trainer.export.driver import ExportConfig, parse_seeds
    from .trainer.trained import export_run

    flags = given(
        n=n, seeds=parse_seeds(seeds) if seeds else None, psi=psi, texture_size=texture_size
    )
    config = resolve(ExportConfig, files=files or (), flags=flags, sets=sets or ())
    source = find_run(run) if run else newest_run(home())
    place = out or places.export_place(source)
    count = len(config.seed_list())
    console.say(f"g3d {__version__} export: {count} meshes of {source} -> {place}")
    if dry_run:
        console.result({"config": config.model_dump(mode="json"), "out": place}, dump(config))
        return
    reports.exported(export_run(source, config, place, overwrite=overwrite))


@command("demo", WORKFLOW, "g3d demo", "g3d demo --category mug")
def demo_command(
    category: Annotated[
        str, option(INPUT, "--category", help="Of the procedural source (default: chair).")
    ] = "chair",
    limit: Annotated[
        int, option(INPUT, "--limit", help="Shapes to learn from (default: 500).")
    ] = 500,
    views: Annotated[int, option(CONFIG, "--views", help="Images of each (default: 24).")] = 24,
    preset: Annotated[
        str, option(CONFIG, "--preset", help="Of the training (default: cpu).")
    ] = "cpu",
    n: Annotated[int, option(RUN, "--n", help="Meshes to export (default: 16).")] = 16,
) -> None:
    """Prepare, train and export made shapes.

    Ten minutes on two cores. The same command again goes on where it stopped.
    """
    from .commands import reports
    from .commands.demo import demo
    from .config import home

    console.say(
        f"g3d {__version__} demo: {limit} {category} shapes x {views} views, preset {preset}, "
        f"{n} meshes -> {home().resolve()}"
    )
    reports.demonstrated(demo(category=category, limit=limit, views=views, preset=preset, n=n))


@command("eval", LOOK, "g3d eval", "g3d eval runs/00000-procedural-chair-cpu --n 64 --json")
def eval_command(
    run: RunPath = None,
    data: Annotated[
        Path | None, option(INPUT, "--data", help="Its dataset (default: found by name).")
    ] = None,
    n: Annotated[
        int, option(RUN, "--n", help="Held-out shapes to compare with (default: 64).")
    ] = 64,
) -> None:
    """Measure a run against held-out shapes.

    Beside three references: training shapes, the best single one, an untrained generator.
    """
    from .config import home
    from .trainer.builtin import find_run
    from .trainer.checkpoint import newest_run
    from .trainer.trained import evaluate

    source = find_run(run) if run else newest_run(home())
    console.say(f"g3d {__version__} eval: {source}")
    done = evaluate(source, data, n=n)
    facts = {"run": source, "file": done.path, "nimg": done.nimg, **done.table.to_dict()}
    console.result(facts, done.table.to_markdown())


@command("validate", LOOK, "g3d validate datasets/procedural-chair", "g3d validate cars --fix")
def validate_command(
    dataset: Annotated[str, typer.Argument(help="Folder, or its URL.", show_default=False)],
    fix: Annotated[
        bool, option(RUN, "--fix", help="Put damaged shards aside, to be prepared anew.")
    ] = False,
) -> None:
    """Check a dataset, byte for byte."""
    from .commands import reports
    from .manifests.repair import check_place

    reports.validated(check_place(dataset, fix=fix))


@command("inspect", LOOK, "g3d inspect datasets/procedural-chair", "g3d inspect chair.glb --json")
def inspect_command(
    path: Annotated[
        Path,
        typer.Argument(help="Dataset, run, export, snapshot, shard or mesh.", show_default=False),
    ],
) -> None:
    """Say what a path is and holds."""
    from .commands.describe import as_text, describe

    facts = describe(path)
    console.result(facts, as_text(facts))


@command("ls", SET_UP, "g3d presets ls", group=presets_app)
def presets_ls() -> None:
    """List the presets of train and of prepare."""
    from .commands import describe

    found = describe.list_presets()
    console.result({"presets": found}, describe.presets_as_text(found))


@command(
    "show", SET_UP, "g3d presets show cpu", "g3d presets show > all-defaults.yaml",
    group=presets_app,
)  # fmt: skip
def presets_show(
    name: Annotated[
        str | None,
        typer.Argument(help="Its name (default: the defaults of train).", show_default=False),
    ] = None,
) -> None:
    """Show a preset in full, every default written out."""
    from .commands import describe
    from .config import dump

    config = describe.preset(name)
    console.result({"config": config.model_dump(mode="json")}, dump(config).rstrip())


@command("doctor", SET_UP, "g3d doctor", "g3d doctor --json")
def doctor_command() -> None:
    """Check this machine; say how to mend it."""
    from .commands.doctor import examine

    report = examine()
    console.result(report.as_dict(), report.as_text())
    if report.missing:
        raise typer.Exit(MissingDependency.exit_code)


# Registered after the commands above, so that the help lists the workflow first.
from .commands import render, view  # noqa: E402, F401


def main() -> None:
    """Run the command line; the one place that catches errors and exits."""
    interrupts.install()
    try:
        app()
    except Exception as failure:
        known = _known(failure)
        if known is None or os.environ.get("G3D_DEBUG"):
            raise
        console.error(known)
        sys.exit(known.exit_code)


def _known(failure: Exception) -> G3DError | None:
    """The error as the user's to mend, or None for a defect of g3d."""
    if isinstance(failure, G3DError):
        return failure
    if isinstance(failure, OSError):
        place = failure.filename or "the disk"
        if failure.errno in {errno.ENOSPC, errno.EDQUOT}:
            hint = "free some space, or give another -o; the same command goes on"
            return DiskError(f"no space left while writing {place}", hint=hint)
        if failure.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            return DiskError(f"{place}: {failure.strerror}", hint="give another -o, or G3D_HOME")
    if isinstance(failure, ModuleNotFoundError) and not str(failure.name).startswith("g3d"):
        return MissingDependency(f"the package {failure.name} is not installed", hint="g3d doctor")
    return None
