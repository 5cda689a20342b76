"""Many workers for one run: started, watched and started again by Ray Train.

The workers take steps together (see :mod:`.step`); the first of them writes all files. This process
shows the progress, passes signals on, and says when workers died. What goes back and forth between
it and them is in one actor, the mailbox.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.exceptions import RayActorError
from ray.train.torch import TorchConfig, TorchTrainer

from .. import console
from ..cluster import connected, cores
from ..errors import ConfigError, DatasetError, G3DError
from . import best
from .config import TrainConfig
from .data import open_data
from .session import Session, steps_of
from .signals import StopRequest, stoppable
from .workers import Worker, choose_device, device_settings

log = logging.getLogger(__name__)

SCRATCH = ".ray"
"""Folder within the run where Ray Train keeps what it needs; gone when the run ends."""
EXCHANGE_DEADLINE_S = 1800
"""The first worker draws pictures and writes files while the others wait for it."""
LOOK_S, PROGRESS_S = 0.2, 0.5
FIRST_WORKER_S = 3.0
"""What all workers meet is told by the first one, when it has written its report."""


@dataclass
class News:
    """What the workers have to say.

    Attributes:
        nimg: Images shown so far.
        line: Status line.
        error: The user's to mend; no restart helps.
        deaths: For every time that workers died: who and why.
        went_on: For each of these, the images from which the new ones went on.
        warnings: Of the first worker.
    """

    nimg: int = 0
    line: str = ""
    error: G3DError | None = None
    deaths: list[str] = field(default_factory=list)
    went_on: list[int] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class _Mailbox:
    """An actor: news of the workers for the driver, and its wish to stop for them."""

    def __init__(self) -> None:
        self._news, self._stop = News(), asyncio.Event()
        self._places: dict[int, str] = {}

    async def news(self) -> News:
        return self._news

    async def failed(self) -> bool:
        return self._news.error is not None

    async def fail(self, error: G3DError) -> None:
        self._news.error = self._news.error or error

    async def stop(self) -> None:
        self._stop.set()

    async def wait_for_stop(self) -> None:
        await self._stop.wait()

    async def here(self, rank: int, place: str) -> None:
        self._places[rank] = place

    async def begin(self, nimg: int) -> None:
        news = self._news
        news.nimg = nimg
        news.went_on += [nimg] * (len(news.deaths) - len(news.went_on))

    async def progress(self, nimg: int, line: str) -> None:
        self._news.nimg, self._news.line = nimg, line or self._news.line

    async def warn(self, text: str) -> None:
        self._news.warnings.append(text)

    async def died(self, causes: Mapping[int, str]) -> None:
        who = [f"worker {rank} ({self._places.get(rank, 'starting')})" for rank in sorted(causes)]
        self._news.deaths.append(f"{', '.join(who)} died: {causes[min(causes)]}")


class _Deaths(ray.train.UserCallback):
    """Runs in Ray Train's controller, before workers are started again."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        # Those that a dead worker's silence brought down are not to blame.
        dead = {rank for rank, error in worker_exceptions.items() if _is_death(error)}
        causes = {
            rank: _cause(error)
            for rank, error in worker_exceptions.items()
            if rank in dead or not dead
        }
        if causes:
            ray.get(self._mailbox.died.remote(causes))


def train_on_workers(
    config: TrainConfig, data: Path, out: Path, index_sha256: str, score: best.Score | None = None
) -> tuple[str, ...]:
    """Train with ``run.workers`` processes, on this machine or on the cluster of ``RAY_ADDRESS``.

    Args:
        config: Of the run.
        data: Dataset, where every worker reaches it.
        out: Run folder, where every worker reaches it.
        index_sha256: Of the dataset: all workers must see the same.
        score: See :class:`.session.Session`.

    Returns:
        One line for every time that workers died and were started again.

    Raises:
        G3DError: Any that a worker met; or the workers died too often.
        Stopped: A signal came, and a checkpoint is saved.
    """
    count = config.run.workers
    out = out.resolve()
    with connected(count):
        room = int(ray.cluster_resources().get("CPU", 1))
        if room < count:
            raise ConfigError(
                f"{count} workers do not fit: the cluster has {room} CPUs", hint=f"--workers {room}"
            )
        placed = _place(config)
        mailbox = ray.remote(num_cpus=0)(_Mailbox).remote()
        job = {
            "mailbox": mailbox,
            "config": config,
            "data": str(data.resolve()),
            "out": str(out),
            "index_sha256": index_sha256,
            "device": placed.device,
            "score": score,
        }
        trainer = TorchTrainer(
            _work,
            train_loop_config=job,
            torch_config=TorchConfig(placed.backend, timeout_s=EXCHANGE_DEADLINE_S),
            scaling_config=ray.train.ScalingConfig(num_workers=count, use_gpu=placed.use_gpu),
            run_config=ray.train.RunConfig(
                name="session",
                storage_path=str(out / SCRATCH),
                failure_config=ray.train.FailureConfig(max_failures=config.run.max_restarts),
                callbacks=[_Deaths(mailbox)],
                worker_runtime_env=_threads_of(config),
                logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            ),
        )
        try:
            news = _watch(trainer, mailbox, config)
        finally:
            shutil.rmtree(out / SCRATCH, ignore_errors=True)
    return _restarts(news)


@dataclass(frozen=True)
class _Place:
    """Where workers compute.

    Attributes:
        device: Its type.
        backend: Of their exchanges.
        use_gpu: Whether Ray gives each of them a GPU; on this machine they take theirs by number.
    """

    device: str
    backend: str
    use_gpu: bool


def _place(config: TrainConfig) -> _Place:
    run = config.run
    if os.environ.get("RAY_ADDRESS") and run.device != "cpu":
        gpus = int(ray.cluster_resources().get("GPU", 0))
        if gpus >= run.workers:
            return _Place("cuda", "nccl", True)
        if run.device == "cuda":
            raise ConfigError(
                f"run.workers {run.workers} need a GPU each, and the cluster has {gpus}",
                hint=f"--workers {max(1, gpus)}, or --set run.device=cpu",
            )
        return _Place("cpu", "gloo", False)
    device = choose_device(run).type
    return _Place(device, "nccl" if device == "cuda" else "gloo", False)


def _threads_of(config: TrainConfig) -> dict[str, Any]:
    """Environment of the workers: numba reads the number of its threads when it is imported."""
    threads = str(config.run.threads or max(1, cores() // config.run.workers))
    return {"env_vars": {"NUMBA_NUM_THREADS": threads}} if threads != "1" else {}


def _watch(trainer: TorchTrainer, mailbox: Any, config: TrainConfig) -> News:
    """Show what the workers do until they end; pass a signal on to them."""
    ended: list[BaseException | None] = []

    def fit() -> None:
        try:
            trainer.fit()
            ended.append(None)
        except BaseException as error:
            ended.append(error)

    # In a thread of its own: Ray would put its own answer to Ctrl-C into the main one.
    thread = threading.Thread(target=fit, daemon=True)
    total = steps_of(config) * config.run.batch
    said = told = False
    seen = News()
    with console.track("training", total=total, unit="img") as task, stoppable() as stop:
        thread.start()
        while not said:
            said = not thread.is_alive()
            thread.join(LOOK_S)
            if stop and not told:
                mailbox.stop.remote()
                told = True
            news = ray.get(mailbox.news.remote())
            if news.error is not None:
                raise news.error
            for text in news.warnings[len(seen.warnings) :]:
                log.warning("%s", text)
            for text in _restarts(news)[len(_restarts(seen)) :]:
                log.warning("%s", text)
            fields: dict[str, Any] = {"note": news.line} if news.line else {}
            task.update(completed=news.nimg, **fields)
            seen = news
        if ended[0] is not None:
            again = len(seen.went_on)
            raise G3DError(
                f"the workers failed, after {again} restarts: {_cause(ended[0])}",
                hint="the same command goes on from the last checkpoint; --workers 1 shows more",
            ) from ended[0]
        if stop:
            console.say(f"saved a checkpoint at {seen.nimg} images")
            raise stop.stopped()
    return seen


def _restarts(news: News) -> tuple[str, ...]:
    return tuple(
        f"{death}; started again from {nimg} images"
        for death, nimg in zip(news.deaths, news.went_on, strict=False)
    )


def _work(job: dict[str, Any]) -> None:
    """One worker, from its start to the end of the run."""
    context, mailbox = ray.train.get_context(), job["mailbox"]
    rank, host = context.get_world_rank(), socket.gethostname()
    if ray.get(mailbox.failed.remote()):
        return  # what another worker met will not go away
    ray.get(mailbox.here.remote(rank, f"{host}, process {os.getpid()}"))
    config: TrainConfig = job["config"]
    console.setup("quiet")
    stop = StopRequest()
    if rank == 0:
        logging.getLogger("g3d").addHandler(_Forward(mailbox))
        threading.Thread(target=_listen, args=(mailbox, stop), daemon=True).start()
    threads = config.run.threads or max(1, cores() // context.get_local_world_size())
    device = torch.device("cpu")
    if job["device"] == "cuda":
        device = ray.train.torch.get_device()
        if not ray.get_gpu_ids():
            device = torch.device("cuda", context.get_local_rank())
        torch.cuda.set_device(device)
    try:
        _same_data(config, job, f"worker {rank} on {host}")
        with device_settings(device, threads):
            session = Session(
                Worker(rank, context.get_world_size()),
                config,
                job["data"],
                Path(job["out"]),
                device=device,
                score=job["score"],
            )
            if rank == 0:
                ray.get(mailbox.begin.remote(session.nimg))
            session.run(_Report(mailbox) if rank == 0 else None, stop)
    except G3DError as error:
        if rank > 0:
            time.sleep(FIRST_WORKER_S)
        ray.get(mailbox.fail.remote(error))
        raise


def _same_data(config: TrainConfig, job: Mapping[str, Any], who: str) -> None:
    """Whether this worker reaches the dataset.

    Raises:
        DatasetError: It finds none there, or another one.
    """
    hint = "put the dataset where all workers reach it by the same path"
    try:
        dataset, _ = open_data(job["data"], config.data.split)
    except DatasetError as error:
        raise DatasetError(f"{who} cannot use {job['data']}: {error.message}", hint=hint) from error
    if dataset.info.index_sha256 != job["index_sha256"]:
        raise DatasetError(f"{who} finds another dataset at {job['data']}", hint=hint)


def _listen(mailbox: Any, stop: StopRequest) -> None:
    """Wait until the driver wants to stop; the step under way takes no time for it."""
    ray.get(mailbox.wait_for_stop.remote())
    if not stop:
        stop.note()


class _Report:
    """Tells the driver how far the run is, now and then."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox, self._next = mailbox, 0.0

    def __call__(self, nimg: int, line: str) -> None:
        now = time.monotonic()
        if line or now >= self._next:
            self._mailbox.progress.remote(nimg, line)
            self._next = now + PROGRESS_S


class _Forward(logging.Handler):
    """Warnings of the first worker, shown by the driver."""

    def __init__(self, mailbox: Any) -> None:
        super().__init__(logging.WARNING)
        self._mailbox = mailbox

    def emit(self, record: logging.LogRecord) -> None:
        self._mailbox.warn.remote(record.getMessage())


def _is_death(error: BaseException) -> bool:
    """Whether a worker's process is gone, rather than an exception raised in it."""
    return isinstance(getattr(error, "health_check_failure", error), RayActorError)


def _cause(error: BaseException) -> str:
    """What Ray's long report says of the cause, in one line."""
    failures = getattr(error, "worker_failures", None)
    if failures:
        return _cause(next((e for e in failures.values() if _is_death(e)), failures[min(failures)]))
    if _is_death(error):
        _, found, detail = " ".join(str(error).split()).partition("exit detail: ")
        return detail.partition(". ")[0][:200] if found else "its process is gone"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
