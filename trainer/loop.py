"""The training loop: phases, counters, logs, checkpoints. It knows no method.

A run is a function of (config, dataset): every step draws its data and its noise from
(seed, step, rank), so a run that was killed goes on from its last checkpoint to the same weights.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

from .. import __version__, console
from ..cluster import cores
from ..config import diff, dump
from ..errors import CheckpointError, ConfigError
from ..manifests.atomic import write_atomic
from . import checkpoint
from .config import TrainConfig
from .data import ViewPool, open_data, step_rng
from .ema import averaged_copy, update_average
from .grids import fake_grid, save_grid
from .method import Batch, Phase
from .sampler import build_method
from .stats import Stats
from .workers import Worker, choose_device, device_settings, workers

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


def train(config: TrainConfig, data: Path, out: Path, *, overwrite: bool = False) -> TrainReport:
    """Train, or go on where the run in ``out`` stopped.

    Args:
        config: The whole configuration.
        data: Dataset folder.
        out: Run folder.
        overwrite: Start again if the run there has another config.

    Raises:
        DatasetError: The dataset is missing, damaged or has no view in the split.
        CheckpointError: The run was started with another config or dataset.
        DiskError: The disk is full; the last checkpoint stays.
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
    total = _steps(config) * config.run.batch
    done = checkpoint.numbered(out, checkpoint.SNAPSHOT)
    if done and int(checkpoint.SNAPSHOT.fullmatch(done[-1].name)[1]) == total:  # type: ignore[index]
        seconds = _train_seconds(out)
        return TrainReport(out, done[-1], total, time.monotonic() - start, seconds, True)
    arguments = (config, str(data), str(out))
    with workers(config.run.workers, _helper, arguments) as worker, _computing(config):
        session = Session(worker, config, data, out)
        with Stats(out, session.nimg) as stats:
            session.run(stats)
            seconds = stats.seconds
    snapshot = checkpoint.numbered(out, checkpoint.SNAPSHOT)[-1]
    return TrainReport(out, snapshot, total, time.monotonic() - start, seconds, False)


class Session:
    """One process's part of a run, from the last checkpoint (or the start) to the end.

    It computes with the threads that torch is set to, see :func:`.workers.device_settings`.
    """

    def __init__(self, worker: Worker, config: TrainConfig, data: Path, out: Path) -> None:
        self.worker, self.config, self.out = worker, config, out
        dataset, self.context = open_data(data, config.data.split)
        flip = self.context.symmetric if config.data.flip is None else config.data.flip
        device = choose_device(config.run)
        self.pool = ViewPool(
            dataset, config.data, torch.get_num_threads(), flip=flip, device=device
        )
        self.method = build_method(config, self.context)
        self.nets = {name: net.to(device) for name, net in self.method.nets().items()}
        self.average = averaged_copy(self.nets["generator"])
        self.phases = self.method.phases()
        self.base_rates = {id(p.optimizer): p.optimizer.param_groups[0]["lr"] for p in self.phases}
        self.nimg = 0
        latest = checkpoint.latest_checkpoint(out)
        if latest is not None:
            self.nimg = checkpoint.load_checkpoint(latest, self.nets, self.average, self.phases)

    def run(self, stats: Stats | None) -> None:
        """Step to the end; rank 0 reports and writes."""
        run, batch = self.config.run, self.config.run.batch
        steps = _steps(self.config)
        first = self.nimg // batch
        with console.track("training", total=steps * batch, unit="img") as task:
            task.update(completed=self.nimg)
            if stats is not None and self._owes_snapshot(first):
                self._snapshot(stats)
            for step in range(first, steps):
                terms = self.step(step, steps)
                self.nimg = (step + 1) * batch
                if stats is None:
                    continue
                stats.add(terms)
                last = step + 1 == steps
                task.advance(batch)
                if last or _due(step, run.tick_kimg, batch):
                    line = stats.tick(self.nimg)
                    task.update(note=_status(line))
                # The snapshot comes last: the one of the last step says that the run is whole.
                if last or _due(step, run.checkpoint_kimg, batch):
                    self._checkpoint()
                if last or _due(step, run.snapshot_kimg, batch):
                    self._snapshot(stats)

    def _owes_snapshot(self, done: int) -> bool:
        """Whether a snapshot is due where the run stands, and a kill kept it from being made."""
        run = self.config.run
        due = done in (0, _steps(self.config)) or _due(done - 1, run.snapshot_kimg, run.batch)
        there = [path.name for path in checkpoint.numbered(self.out, checkpoint.SNAPSHOT)]
        return due and checkpoint.snapshot_name(self.nimg) not in there

    def step(self, step: int, steps: int) -> dict[str, torch.Tensor]:
        """One step of all phases; returns the logged terms."""
        run = self.config.run
        batch = self.pool.batch(
            run.batch // self.worker.count, step_rng(run.seed, step, self.worker.rank)
        )
        rate = learning_rate_factor(step / steps, run.decay_from)
        terms: dict[str, torch.Tensor] = {}
        for phase in self.phases:
            if step % phase.every:
                continue
            for group in phase.optimizer.param_groups:
                group["lr"] = self.base_rates[id(phase.optimizer)] * rate
            terms.update(self._phase_step(phase, batch, step))
        self.worker.average_buffers(list(self.nets.values()))
        update_average(
            self.average,
            self.nets["generator"],
            batch=run.batch,
            nimg=(step + 1) * run.batch,
            half_life=run.ema_kimg * 1000,
            rampup=run.ema_rampup,
        )
        return terms

    def _phase_step(self, phase: Phase, batch: Batch, step: int) -> dict[str, torch.Tensor]:
        phase.optimizer.zero_grad(set_to_none=True)
        loss, terms = phase.loss(batch, step)
        loss.backward()
        self.worker.average_gradients(phase.parameters)
        phase.optimizer.step()
        return terms

    def _snapshot(self, stats: Stats) -> None:
        checkpoint.save_snapshot(self.out, self.average, self.config, self.context, self.nimg)
        image = fake_grid(self.method, self.average, self.context)
        save_grid(self.out / f"fakes-{self.nimg:09d}.png", image)
        stats.image("fakes", image, self.nimg)

    def _checkpoint(self) -> None:
        checkpoint.save_checkpoint(
            self.out,
            self.nets,
            self.average,
            self.phases,
            self.nimg,
            keep=self.config.run.keep_checkpoints,
        )


def learning_rate_factor(progress: float, decay_from: float) -> float:
    """1 until ``decay_from`` of the run, then linearly to 0 at its end."""
    if progress <= decay_from or decay_from >= 1:
        return 1.0
    return max(0.0, (1.0 - progress) / (1.0 - decay_from))


def _helper(worker: Worker, config: TrainConfig, data: str, out: str) -> None:
    """What ranks above 0 do: the same steps, no files."""
    console.setup("quiet")
    with _computing(config):
        Session(worker, config, Path(data), Path(out)).run(None)


def _computing(config: TrainConfig) -> AbstractContextManager[None]:
    threads = config.run.threads or max(1, cores() // config.run.workers)
    return device_settings(choose_device(config.run), threads)


def _steps(config: TrainConfig) -> int:
    return max(1, round(config.run.kimg * 1000 / config.run.batch))


def _due(step: int, kimg: float, batch: int) -> bool:
    """Whether ``step`` crosses a multiple of ``kimg``."""
    interval = kimg * 1000
    return int((step + 1) * batch // interval) > int(step * batch // interval)


def _status(line: dict[str, float]) -> str:
    return (
        f"{line['nimg'] / 1000:.1f} kimg · {line['images_per_second']:.0f} img/s · "
        f"D {line.get('loss/d', 0):.2f} · G {line.get('loss/g', 0):.2f} · "
        f"empty {line.get('empty', 0):.0%}"
    )


def _check(config: TrainConfig) -> None:
    per_worker, rest = divmod(config.run.batch, config.run.workers)
    if rest or per_worker % config.get3d.render.views:
        raise ConfigError(
            f"run.batch {config.run.batch} must be a multiple of run.workers "
            f"{config.run.workers} x get3d.render.views {config.get3d.render.views}"
        )
    if config.get3d.render.supersample % config.get3d.render.color_samples:
        raise ConfigError(
            "get3d.render.supersample must be a multiple of get3d.render.color_samples"
        )


def _claim(
    out: Path, config: TrainConfig, identity: Mapping[str, object], *, overwrite: bool
) -> None:
    """Start a run folder, or make sure that the one there is the same run."""
    path = out / RUN_FILE
    if path.exists():
        before = checkpoint.read_json(path).get("identity", {})
        lines = diff(before, identity)
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


def _clear(out: Path) -> None:
    """Remove what a run writes, and nothing else."""
    import shutil

    for pattern in ("checkpoint-*.pt", "snapshot-*.safetensors", "fakes-*.png", "stats.jsonl"):
        for path in out.glob(pattern):
            path.unlink()
    shutil.rmtree(out / "tensorboard", ignore_errors=True)


def _train_seconds(out: Path) -> float:
    try:
        lines = (out / Stats.FILE).read_text(encoding="utf-8").splitlines()
        return float(json.loads(lines[-1])["train_seconds"])
    except (OSError, ValueError, IndexError, KeyError):
        return 0.0
