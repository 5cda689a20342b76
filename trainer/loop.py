"""The training loop: a run from its config to its last snapshot. It knows no method.

A run is a function of (config, dataset): every step draws its data and its noise from
(seed, step), so a run that was killed goes on from its last checkpoint to the same weights.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import __version__, console
from ..cluster import cores
from ..config import diff, dump
from ..errors import CheckpointError, ConfigError
from ..manifests.atomic import write_atomic
from . import best, checkpoint
from .config import TrainConfig
from .data import open_data
from .grids import REALS
from .guard import HEALTH_FILE
from .session import Session, micro_batches, steps_of
from .signals import stoppable
from .stats import Stats
from .workers import Worker, choose_device, device_settings

log = logging.getLogger(__name__)

RUN_FILE = "run.json"
CONFIG_FILE = "config.yaml"


@dataclass(frozen=True)
class TrainReport:
    """What a run left behind."""

    run: Path
    snapshot: Path
    nimg: int
    seconds: float
    """Wall time of this session."""
    train_seconds: float
    """Time in the loop, all sessions of the run together."""
    finished_before: bool
    restarts: tuple[str, ...] = ()
    """One line for every time that workers died in this session and were started again."""


def train(
    config: TrainConfig,
    data: Path,
    out: Path,
    *,
    overwrite: bool = False,
    score: best.Score | None = None,
) -> TrainReport:
    """Train, or go on where the run in ``out`` stopped.

    SIGTERM and Ctrl-C save a checkpoint after the step under way; a second one ends at once.

    Args:
        config: The whole configuration.
        data: Dataset folder.
        out: Run folder.
        overwrite: Start again if the run there has another config.
        score: Figure that the best snapshot has least of, in place of the one that ``run.best``
            names. With several workers it has to be serialisable.

    Raises:
        DatasetError: The dataset is missing, damaged or has no view in the split.
        CheckpointError: The run was started with another config or dataset.
        DiskError: The disk is full; the last checkpoint stays.
        G3DError: The run diverged, or its workers died too often.
        Stopped: A signal came, and a checkpoint is saved.
    """
    start = time.monotonic()
    _check(config)
    dataset, context = open_data(data, config.data.split)
    identity = {
        "config": config.model_dump(mode="json"),
        "context": context.model_dump(mode="json"),
        "params_hash": dataset.info.params_hash,
        "index_sha256": dataset.info.index_sha256,
    }
    _claim(out, config, identity, overwrite=overwrite)
    total = steps_of(config) * config.run.batch
    done = checkpoint.numbered(out, checkpoint.SNAPSHOT)
    if done and int(checkpoint.SNAPSHOT.fullmatch(done[-1].name)[1]) == total:  # type: ignore[index]
        seconds = _train_seconds(out)
        return TrainReport(out, done[-1], total, time.monotonic() - start, seconds, True)
    restarts: tuple[str, ...] = ()
    if config.run.workers == 1:
        seconds = _train_here(config, data, out, score)
    else:
        from .launch import train_on_workers

        restarts = train_on_workers(config, data, out, dataset.info.index_sha256, score)
        seconds = _train_seconds(out)
    snapshot = checkpoint.numbered(out, checkpoint.SNAPSHOT)[-1]
    spent = time.monotonic() - start
    return TrainReport(out, snapshot, total, spent, seconds, False, restarts)


def _train_here(config: TrainConfig, data: Path, out: Path, score: best.Score | None) -> float:
    """In this process; returns the training time in seconds."""
    with device_settings(choose_device(config.run), config.run.threads or cores()):
        session = Session(Worker(), config, data, out, score=score)
        total = steps_of(config) * config.run.batch
        with console.track("training", total=total, unit="img") as task, stoppable() as stop:

            def progress(nimg: int, line: str) -> None:
                fields: dict[str, Any] = {"note": line} if line else {}
                task.update(completed=nimg, **fields)

            seconds = session.run(progress, stop)
            if stop:
                console.say(f"saved a checkpoint at {session.nimg} images")
                raise stop.stopped()
    return seconds


def _check(config: TrainConfig) -> None:
    """Whether the numbers of a config fit together.

    Raises:
        ConfigError: They do not.
    """
    run, render = config.run, config.get3d.render
    per_worker, rest = divmod(run.batch, run.workers)
    micro = run.micro_batch or per_worker
    if rest or per_worker % micro or micro % render.views:
        raise ConfigError(
            f"run.batch {run.batch} must be a multiple of run.workers {run.workers} x "
            f"run.micro_batch {micro}, and that of get3d.render.views {render.views}"
        )
    if render.supersample % render.color_samples:
        raise ConfigError(
            "get3d.render.supersample must be a multiple of get3d.render.color_samples"
        )
    group = config.get3d.discriminator.group_size
    shapes = micro // render.views
    if run.workers * micro_batches(config) > 1 and shapes % group:
        log.info(
            "groups of the minibatch deviation hold %d images; %d shapes a backward pass are no "
            "multiple of that, so groups differ from those of the whole batch",
            group,
            shapes,
        )


def _claim(
    out: Path, config: TrainConfig, identity: Mapping[str, object], *, overwrite: bool
) -> None:
    """Start a run folder, or make sure that the one there is the same run."""
    path = out / RUN_FILE
    if path.exists():
        before = checkpoint.read_json(path).get("identity", {})
        lines = diff({**before, "config": _whole(before.get("config", {}))}, identity)
        if not lines:
            return
        if not overwrite:
            raise CheckpointError(
                f"{out} was started with another config or dataset:\n         "
                + "\n         ".join(lines[:12]),
                hint="restore the values above to go on, or choose another -o, or --overwrite",
            )
        _clear(out)
    elif out.exists() and any(out.iterdir()):
        raise CheckpointError(f"{out} is not empty and not a run of g3d", hint="choose another -o")
    record = {"g3d_version": __version__, "torch_version": torch.__version__, "identity": identity}
    write_atomic(out / CONFIG_FILE, dump(config).encode())
    write_atomic(path, (json.dumps(record, indent=1) + "\n").encode())


def _whole(config: Mapping[str, object]) -> Mapping[str, object]:
    """A config of an earlier version with the keys that have come since, at their defaults."""
    try:
        return TrainConfig.model_validate(config).model_dump(mode="json")
    except ValueError:
        return config


def _clear(out: Path) -> None:
    """Remove what a run writes, and nothing else."""
    import shutil

    patterns: tuple[str, ...] = (
        "checkpoint-*.pt",
        "snapshot-*.safetensors",
        "fakes-*.png",
        Stats.FILE,
    )
    patterns += ("turntable-*.webp", "report.html", "events.jsonl", "environment.json", REALS)
    for pattern in (*patterns, best.BEST_SNAPSHOT, best.BEST_FILE, HEALTH_FILE):
        for path in out.glob(pattern):
            path.unlink()
    shutil.rmtree(out / "tensorboard", ignore_errors=True)


def _train_seconds(out: Path) -> float:
    try:
        lines = (out / Stats.FILE).read_text(encoding="utf-8").splitlines()
        return float(json.loads(lines[-1])["train_seconds"])
    except (OSError, ValueError, IndexError, KeyError):
        return 0.0
