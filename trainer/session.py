"""One process's part of a run: its steps, from the last checkpoint to the end."""

from __future__ import annotations

import errno
import logging
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from ..manifests.atomic import disk_error
from . import best, checkpoint
from .config import TrainConfig
from .data import ViewPool, open_data, step_rng
from .ema import averaged_copy, update_average
from .grids import REALS, fake_grid, real_grid, save_grid
from .guard import Guard, RollBack, diverged, write_health
from .method import Batch, Part
from .pace import Pace
from .sampler import build_method
from .signals import StopRequest
from .stats import Stats
from .step import LeftOut, PhaseStep
from .watch.environment import append_event
from .watch.turntable import save_turntable
from .workers import Worker, choose_device

log = logging.getLogger(__name__)

Terms = dict[str, torch.Tensor]
Progress = Callable[[int, str], None]
"""``(nimg, status line)``; an empty line leaves the last one."""


class Session:
    """One process's part of a run, from the last checkpoint (or the start) to the end.

    It computes with the threads that torch is set to, see :func:`.workers.device_settings`.

    Args:
        worker: This process's place; rank 0 writes all files.
        config: Of the run.
        data: Dataset.
        out: Run folder, the same for all workers.
        device: Where to compute; None: where the config says.
        score: Figure that the best snapshot has least of; None: what ``run.best`` names.
    """

    def __init__(
        self,
        worker: Worker,
        config: TrainConfig,
        data: Path | str,
        out: Path,
        *,
        device: torch.device | None = None,
        score: best.Score | None = None,
    ) -> None:
        self.worker, self.config, self.out = worker, config, out
        self.dataset, self.context = open_data(data, config.data.split)
        self.device = device or choose_device(config.run)
        flip = self.context.symmetric if config.data.flip is None else config.data.flip
        self.pool = ViewPool(
            self.dataset, config.data, torch.get_num_threads(), flip=flip, device=self.device
        )
        self._next_turntable = time.monotonic() + 100.0
        self.score = None
        if worker.rank == 0:
            self.score = score or best.make_score(config.run, self.dataset)
        self.guard = Guard(config.run.guard)
        run = config.run
        accumulate = micro_batches(config)
        self.parts = [
            Part(worker.rank * accumulate + i, worker.count * accumulate) for i in range(accumulate)
        ]
        self.pace = Pace(run.batch, steps_of(config) * run.batch, self.device)
        self.build()

    def build(self, before: int | None = None) -> None:
        """Networks and optimisers, as the last checkpoint has them or newly made.

        Args:
            before: Go back to less than so many images.
        """
        config, device = self.config, self.device
        self.method = build_method(config, self.context)
        self.nets = {name: net.to(device) for name, net in self.method.nets().items()}
        self.average = averaged_copy(self.nets["generator"])
        self.phases = self.method.phases()
        self.phase_step = PhaseStep(self.worker, self.nets, self.phases, config.run.clip)
        self.nimg = 0
        latest = checkpoint.latest_checkpoint(self.out, before)
        if latest is not None:
            self.nimg, guard = checkpoint.load_checkpoint(
                latest, self.nets, self.average, self.phases
            )
            self.guard.load(guard)
        what = f"the workers find different checkpoints in {self.out}"
        self.worker.agree(self.nimg, device, what)

    def run(self, progress: Progress | None = None, stop: StopRequest | None = None) -> float:
        """Step to the end, or until a stop is asked for; rank 0 writes.

        Returns:
            Training time in seconds, of all sessions of the run; 0 on other ranks.

        Raises:
            DiskError: The disk is full; the last checkpoint stays.
            G3DError: The run diverged, in spite of all roll-backs.
        """
        progress = progress or _silent
        stop = StopRequest() if stop is None else stop  # one without a signal is false
        while True:
            try:
                with ExitStack() as stack:
                    stats = None
                    if self.worker.rank == 0:
                        stats = stack.enter_context(Stats(self.out, self.nimg))
                    self._steps(stats, progress, stop)
                    return stats.seconds if stats is not None else 0.0
            except RollBack as wanted:
                reason = wanted
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise disk_error(Path(error.filename or self.out), error) from error
                raise
            self._roll_back(reason)

    def _steps(self, stats: Stats | None, progress: Progress, stop: StopRequest) -> None:
        run, batch = self.config.run, self.config.run.batch
        steps = steps_of(self.config)
        first = self.nimg // batch
        progress(self.nimg, "")
        if stats is not None and self._owes_snapshot(first):
            self._keep_best(stats)
            self._snapshot(stats)
        for step in range(first, steps):
            terms, stopping = self._guarded(step, steps, bool(stop))
            self.nimg = (step + 1) * batch
            last = step + 1 == steps
            # Several workers have to agree, which they did before the signal of just now.
            stopping = (stopping or (bool(stop) and self.worker.count == 1)) and not last
            # What comes amid steps that are left out is not to be gone back to.
            sound = not self.guard.consecutive
            save = last or stopping or (sound and due(step, run.checkpoint_kimg, batch))
            if save:
                self._check_weights(step)
            if stats is None:
                if stopping:
                    return
                continue
            stats.add(terms)
            show = last or due(step, run.snapshot_kimg, batch)
            if show:
                self._keep_best(stats)
            line = ""
            if last or stopping or due(step, run.tick_kimg, batch):
                stats.add(self.pace.terms(self.nimg))
                line = _status(stats.tick(self.nimg))
            progress(self.nimg, line)
            # The snapshot comes last: the one of the last step says that the run is whole.
            if save:
                self._checkpoint()
            if show:
                self._snapshot(stats)
            if stopping:
                return

    def step(self, step: int, steps: int) -> Terms:
        """One step of all phases; returns the logged terms."""
        return self._guarded(step, steps, False)[0]

    def _guarded(self, step: int, steps: int, stop: bool) -> tuple[Terms, bool]:
        """One step, and whether some worker was asked to stop.

        Raises:
            RollBack: Too much was not finite.
        """
        self.pace.begin()
        run = self.config.run
        batches = [self._batch(step, part) for part in self.parts]
        self.pace.lap("data")
        rate = self.guard.rate * learning_rate_factor(step / steps, run.decay_from)
        self.phase_step.begin(stop)
        terms: Terms = {}
        try:
            for phase in self.phases:
                if step % phase.every == 0:
                    terms.update(self.phase_step(phase, batches, step, rate))
                    self.pace.lap(phase.name)
        except LeftOut as left_out:
            finding = left_out.finding
            log.warning("step %d left out: %s is not finite", step, finding.phase)
            self.guard.bad(step, finding)
            terms = {}
        else:
            self.guard.good()
            self._average_weights(step)
        terms["guard/skipped"] = torch.tensor(float(self.guard.consecutive > 0))
        terms["guard/rollbacks"] = torch.tensor(float(self.guard.rollbacks))
        self.pace.end()
        return terms, self.phase_step.stopping

    def _batch(self, step: int, part: Part) -> Batch:
        run = self.config.run
        rng = step_rng(run.seed, step, self.guard.rollbacks)
        return self.pool.batch(run.batch, rng, part, self.config.get3d.render.views)

    def _average_weights(self, step: int) -> None:
        run = self.config.run
        self.worker.average_buffers(self.phase_step.buffers)
        update_average(
            self.average,
            self.nets["generator"],
            batch=run.batch,
            nimg=(step + 1) * run.batch,
            half_life=run.ema_kimg * 1000,
            rampup=run.ema_rampup,
        )

    def _check_weights(self, step: int) -> None:
        """A checkpoint is to be gone back to: it must be sound."""
        finding = self.phase_step.unsound_weights()
        if finding is not None:
            raise RollBack(finding, step)

    def _roll_back(self, reason: RollBack) -> None:
        """Go back to the last checkpoint, or end the run.

        Raises:
            G3DError: The run was rolled back often enough.
        """
        guard, nimg = self.guard, (reason.step + 1) * self.config.run.batch
        failed = guard.rollbacks >= self.config.run.guard.rollbacks
        if failed:
            if self.worker.rank == 0:
                write_health(self.out, guard, reason, nimg, failed=True)
            raise diverged(self.out, guard, reason)
        now = guard.state()  # not what the checkpoint says of it
        batch, last = self.config.run.batch, checkpoint.latest_checkpoint(self.out)
        # Back at the same checkpoint as last time: what is wrong is in it already.
        again = [checkpoint.checkpoint_name(step * batch) for step in guard.gone_back_to[-1:]]
        doomed = last is not None and last.name in again
        self.build(guard.gone_back_to[-1] * batch if doomed else None)
        guard.load(now)
        guard.roll_back(reason.step, self.nimg // batch)
        if self.worker.rank == 0:
            log.warning(
                "%s is not finite at step %d: back to %d images, learning rates times %g",
                reason.finding.phase,
                reason.step,
                self.nimg,
                guard.rate,
            )
            write_health(self.out, guard, reason, nimg, failed=False)
            message = f"{reason.finding.phase} is not finite: back to {self.nimg} images"
            append_event(self.out, nimg, "roll-back", message)
            self._checkpoint()  # a run killed now does not go the same way again
            for path in checkpoint.numbered(self.out, checkpoint.CHECKPOINT):
                if path.name > checkpoint.checkpoint_name(self.nimg):
                    path.unlink()

    def _owes_snapshot(self, done: int) -> bool:
        """Whether a snapshot is due where the run stands, and a kill kept it from being made."""
        run = self.config.run
        wanted = done in (0, steps_of(self.config)) or due(done - 1, run.snapshot_kimg, run.batch)
        there = [path.name for path in checkpoint.numbered(self.out, checkpoint.SNAPSHOT)]
        return wanted and checkpoint.snapshot_name(self.nimg) not in there

    def _keep_best(self, stats: Stats) -> None:
        """Comes before the snapshot: a run killed in between finds that one still owed."""
        if self.score is None:
            return
        value, figure = self.score(self.method, self.average), self.config.run.best
        if not math.isfinite(value):
            return
        stats.add({f"snapshot/{figure}": torch.tensor(value)})
        before = best.read_best(self.out)
        if before is None or value < before["value"]:
            self._save_snapshot(name=best.BEST_SNAPSHOT)
            best.write_best(self.out, figure, value, self.nimg)

    def _snapshot(self, stats: Stats) -> None:
        if not (self.out / REALS).exists():
            save_grid(self.out / REALS, real_grid(self.pool.rgba))
        image = fake_grid(self.method, self.average, self.context)
        save_grid(self.out / f"fakes-{self.nimg:09d}.png", image)
        self._turntable()
        stats.image("fakes", image, self.nimg)
        self._save_snapshot(keep=self.config.run.keep_snapshots)

    def _turntable(self) -> None:
        """At the end, and before it as often as it takes no more than a hundredth of the time."""
        now = time.monotonic()
        last = self.nimg == steps_of(self.config) * self.config.run.batch
        if last or now >= self._next_turntable:
            save_turntable(self.out, self.method, self.average, self.context, self.nimg)
            took = time.monotonic() - now
            self._next_turntable = time.monotonic() + 100 * took

    def _save_snapshot(self, **options: Any) -> None:
        checkpoint.save_snapshot(
            self.out, self.average, self.config, self.context, self.nimg, **options
        )

    def _checkpoint(self) -> None:
        checkpoint.save_checkpoint(
            self.out,
            self.nets,
            self.average,
            self.phases,
            self.nimg,
            keep=self.config.run.keep_checkpoints,
            guard=self.guard.state(),
        )


def learning_rate_factor(progress: float, decay_from: float) -> float:
    """1 until ``decay_from`` of the run, then linearly to 0 at its end."""
    if progress <= decay_from or decay_from >= 1:
        return 1.0
    return max(0.0, (1.0 - progress) / (1.0 - decay_from))


def steps_of(config: TrainConfig) -> int:
    """Steps of the whole run."""
    return max(1, round(config.run.kimg * 1000 / config.run.batch))


def micro_batches(config: TrainConfig) -> int:
    """Backward passes of one worker in one phase of a step."""
    share = config.run.batch // config.run.workers
    return share // (config.run.micro_batch or share)


def due(step: int, kimg: float, batch: int) -> bool:
    """Whether ``step`` crosses a multiple of ``kimg``."""
    interval = kimg * 1000
    return int((step + 1) * batch // interval) > int(step * batch // interval)


def _silent(nimg: int, line: str) -> None:
    """Show no progress."""


def _status(line: dict[str, Any]) -> str:
    return (
        f"{line['nimg'] / 1000:.1f} kimg · {line['speed/recent']:.0f} img/s · "
        f"{line['memory/rss_mb'] / 1000:.1f} GB · "
        f"D {line.get('loss/d', 0):.2f} · G {line.get('loss/g', 0):.2f} · "
        f"empty {line.get('empty', 0):.0%}"
    )
