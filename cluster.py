"""The one place that talks to Ray Core: start or join a cluster, run jobs in a supervised pool.

Ray sees to processes and transport; what it has no notion of is here: a deadline for every job, a
bounded number of jobs under way, and quarantine of the jobs that kill their worker.
"""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from .errors import G3DError, MissingDependency

logger = logging.getLogger(__name__)

J = TypeVar("J")
R = TypeVar("R")

START_DEADLINE_S = 300.0  # kernels may have to be compiled first
START_STRIKES = 3
OBJECT_STORE_BYTES = 200 * 2**20
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)
"""Environment of a worker: the pool is the parallelism."""
_QUIET = {
    "RAY_AUTH_MODE": "disabled",  # nobody else can reach the throw-away cluster
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_TEMP_PREFIX = "g3d-ray-"


@dataclass(frozen=True)
class Failure:
    """Why a job gave no result.

    Attributes:
        reason: ``timeout``: longer than its deadline. ``crash``: its worker died. ``memory``: its
            worker was killed for using too much. ``error``: it raised an exception.
        message: What was seen.
    """

    reason: Literal["timeout", "crash", "memory", "error"]
    message: str


@dataclass(frozen=True)
class Outcome(Generic[J, R]):
    """The end of one job: a value or a failure.

    Attributes:
        job: As it was given.
        value: What the worker returned; None after a failure.
        failure: None after a success.
        attempts: How often it was tried.
    """

    job: J
    value: R | None
    failure: Failure | None
    attempts: int


def run_pool(
    factory: Callable[[], Callable[[J], R]],
    jobs: Iterable[J],
    *,
    workers: int | None = None,
    deadline_s: float = 300.0,
    strikes: int = 2,
    recycle_after: int | None = None,
) -> Iterator[Outcome[J, R]]:
    """Run every job once in a pool of workers; outcomes come as they end, in no fixed order.

    A job that kills its worker or overruns its deadline is tried again in a new worker until it
    has ``strikes`` of them. A job that raises is not tried again: it would raise again.

    Args:
        factory: Makes, once in every worker, the function that is called for every job. It, the
            jobs and the results must be serialisable.
        jobs: Taken one by one, as workers become free.
        workers: Processes; 0 runs the jobs in this process without Ray, where deadlines and
            strikes do not hold; None takes one a core.
        deadline_s: Longest time of one try.
        strikes: Tries of a job before it is given up.
        recycle_after: Replace a worker after this many jobs, against memory that creeps up.

    Raises:
        G3DError: A job raised one: the fault is not the job's. Or workers do not start.
    """
    if workers == 0:
        here = _Worker(factory)
        _unwrap(here.ready())
        yield from (_outcome(_Try(job, 1), here.run(job)) for job in jobs)
        return
    with connected(workers) as available:
        size = available if workers is None else workers
        if isinstance(jobs, Sized):
            size = max(1, min(size, len(jobs)))
        pool: _Pool[J, R] = _Pool(factory, size, deadline_s, strikes, recycle_after)
        try:
            yield from pool.run(iter(jobs))
        finally:
            pool.stop()


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def connected(workers: int | None = None) -> Iterator[int]:
    """Join the cluster of ``RAY_ADDRESS``, or start a local one for the time of the block.

    Yields how many one-core workers fit; a local cluster has room for ``workers``, None is one a
    core.

    Raises:
        MissingDependency: Ray does not start, or cannot be reached.
    """
    import ray

    if ray.is_initialized():
        yield int(ray.cluster_resources().get("CPU", 1))
        return
    address = os.environ.get("RAY_ADDRESS")
    folder = None if address else _temp_folder()
    try:
        if folder is None:
            _init(address=address, runtime_env={"env_vars": ONE_THREAD})
        else:
            _start(workers or cores(), folder)
        yield int(ray.cluster_resources().get("CPU", 1))
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _start(workers: int, folder: Path) -> None:
    """Start a local cluster that lives as long as this process."""
    with _environment({**_QUIET, **ONE_THREAD}):
        _init(
            address="local",
            num_cpus=workers,
            num_gpus=0,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=str(folder),
        )


def _init(**options: Any) -> None:
    import ray

    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise MissingDependency(
            f"cannot start or join Ray (address {options['address']}): {_cause(error)}",
            hint="--workers 0 runs without Ray; `unset RAY_ADDRESS` starts one on this machine",
        ) from error
    # Ray has no public way to keep a lost worker off our stderr; the pool reports it.
    vars(importlib.import_module("ray._private.worker"))["_worker_logs_enabled"] = False


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables for processes started in the block, then put the old ones back."""
    old = {name: os.environ[name] for name in values if name in os.environ}
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            del os.environ[name]
        os.environ.update(old)


def _temp_folder() -> Path:
    """A folder for Ray's sockets and logs, with a short path: sockets allow 107 characters."""
    base = Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())
    for old in base.glob(f"{_TEMP_PREFIX}*"):
        owner = old.name.removeprefix(_TEMP_PREFIX).partition("-")[0]
        if owner.isdigit() and not _alive(int(owner)):
            shutil.rmtree(old, ignore_errors=True)  # of a run that was killed
    return Path(tempfile.mkdtemp(prefix=f"{_TEMP_PREFIX}{os.getpid()}-", dir=base))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


class _Worker:
    """Runs in a process of its own; made into a Ray actor by the pool."""

    def __init__(self, factory: Callable[[], Callable[[Any], Any]]) -> None:
        self._factory = factory
        self._call: Callable[[Any], Any] | None = None

    def ready(self) -> tuple[str, Any]:
        """Build the job function, so that its cost is not the first job's."""
        try:
            self._call = self._factory()
        except G3DError as error:
            return "raise", error
        return "ok", None

    def run(self, job: Any) -> tuple[str, Any]:
        """The value of a job, or its exception as text."""
        assert self._call is not None
        try:
            return "ok", self._call(job)
        except G3DError as error:
            return "raise", error
        except Exception as error:
            return "memory" if isinstance(error, MemoryError) else "error", _describe(error)


@dataclass
class _Try(Generic[J]):
    """A job on its way."""

    job: J
    attempts: int = 0


@dataclass
class _Slot(Generic[J]):
    """One worker: its actor, and what it is doing. Without a job it is starting."""

    actor: Any
    task: Any
    until: float
    current: _Try[J] | None = None
    served: int = 0


class _Pool(Generic[J, R]):
    """Hands jobs to actors, one at a time each, and watches over them."""

    def __init__(
        self, factory: Any, size: int, deadline_s: float, strikes: int, recycle_after: int | None
    ) -> None:
        import ray

        self._ray = ray
        self._factory = ray.put(factory)
        self._actor_class = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(_Worker)
        self._size, self._deadline, self._strikes = size, deadline_s, strikes
        self._slots: list[_Slot[J]] = []
        self._idle: list[_Slot[J]] = []
        self._waiting: deque[_Try[J]] = deque()
        self._failed_starts = 0
        self._recycle_after = recycle_after

    def run(self, jobs: Iterator[J]) -> Iterator[Outcome[J, R]]:
        """All jobs, as they end."""
        while True:
            while self._idle and self._pending(jobs):
                self._submit(self._idle.pop(), self._waiting.popleft())
            if not self._pending(jobs) and all(slot.current is None for slot in self._slots):
                return
            # A worker is started only while there is a job that none is free for.
            while self._waiting and len(self._slots) < self._size:
                self._spawn()
            yield from self._wait()

    def _pending(self, jobs: Iterator[J]) -> bool:
        """Whether a job waits; takes one from ``jobs`` only if none does."""
        if not self._waiting:
            for job in jobs:
                self._waiting.append(_Try(job))
                break
        return bool(self._waiting)

    def _spawn(self) -> None:
        actor = self._actor_class.remote(self._factory)
        until = time.monotonic() + START_DEADLINE_S
        self._slots.append(_Slot(actor, actor.ready.remote(), until))

    def _submit(self, slot: _Slot[J], item: _Try[J]) -> None:
        item.attempts += 1
        slot.current, slot.until = item, time.monotonic() + self._deadline
        slot.task = slot.actor.run.remote(item.job)

    def _wait(self) -> Iterator[Outcome[J, R]]:
        """Wait until something ends or is overdue, and deal with it."""
        tasks = {slot.task: slot for slot in self._slots if slot.task is not None}
        left = min(slot.until for slot in tasks.values()) - time.monotonic()
        self._ray.wait(list(tasks), num_returns=1, timeout=max(0.0, min(left, 5.0)))
        # All that ended, so that none is taken for overdue because this process was slow.
        done, _ = self._ray.wait(list(tasks), num_returns=len(tasks), timeout=0)
        for task in done:
            yield from self._collect(tasks[task])
        now = time.monotonic()
        for task, slot in tasks.items():
            if task not in done and now > slot.until:
                limit = START_DEADLINE_S if slot.current is None else self._deadline
                yield from self._lost(slot, Failure("timeout", f"took longer than {limit:g} s"))

    def _collect(self, slot: _Slot[J]) -> list[Outcome[J, R]]:
        """Take the result of a task that ended."""
        from ray.exceptions import OutOfMemoryError, RayError

        try:
            answer = self._ray.get(slot.task)
        except OutOfMemoryError as error:
            return self._lost(slot, Failure("memory", _cause(error)))
        except RayError as error:
            return self._lost(slot, Failure("crash", _cause(error)))
        item, slot.current, slot.task = slot.current, None, None
        if item is None:
            _unwrap(answer)
            self._failed_starts = 0
            self._idle.append(slot)
            return []
        slot.served += 1
        if slot.served == self._recycle_after:
            self._discard(slot)
        else:
            self._idle.append(slot)
        return [_outcome(item, answer)]

    def _lost(self, slot: _Slot[J], failure: Failure) -> list[Outcome[J, R]]:
        """A worker died or is overdue: replace it, and try its job again or give it up."""
        self._discard(slot)
        item = slot.current
        if item is None:
            self._failed_starts += 1
            if self._failed_starts >= START_STRIKES:
                raise G3DError(
                    f"workers do not start: {failure.message}",
                    hint="--workers 0 runs in one process and shows the cause",
                )
            return []
        logger.info("a worker was lost: %s (%s)", failure.reason, failure.message)
        if item.attempts < self._strikes:
            self._waiting.append(item)
            return []
        return [Outcome(item.job, None, failure, item.attempts)]

    def _discard(self, slot: _Slot[J]) -> None:
        self._slots.remove(slot)
        self._ray.kill(slot.actor, no_restart=True)

    def stop(self) -> None:
        """Kill all workers."""
        for slot in list(self._slots):
            self._discard(slot)
        self._idle.clear()


def _unwrap(answer: tuple[Any, Any]) -> Any:
    """The value of a worker's answer; raises what is not the job's fault."""
    if answer[0] == "raise":
        raise answer[1]
    return answer[1]


def _outcome(item: _Try[J], answer: tuple[Any, Any]) -> Outcome[J, Any]:
    kind, value = answer[0], _unwrap(answer)
    if kind == "ok":
        return Outcome(item.job, value, None, item.attempts)
    return Outcome(item.job, None, Failure(kind, value), item.attempts)


def _describe(error: BaseException) -> str:
    """An exception in one line, with the place it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


def _cause(error: BaseException) -> str:
    """What Ray's long report says of the cause, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    _, found, detail = text.partition("exit detail: ")
    return (detail if found else text).partition(". ")[0][:200]
