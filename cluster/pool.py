"""Jobs through a pool of workers that is watched over: deadlines, strikes, lost nodes."""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, Generic

from .connect import connected
from .crew import Crew, Slot
from .fetch import Fetcher, LocalFetcher
from .inquest import Inquest
from .outcome import Failure, J, Needs, Outcome, R, Try, failure_of, outcome_of, unwrap
from .watch import Watch, cluster_lost
from .worker import Worker

LOOK_S = 1.0
"""The longest that the pool waits before it looks at the cluster again."""
_NOTHING_S = 0.05


def run_pool(
    factory: Callable[[], Callable[[J], R]],
    jobs: Iterable[J],
    *,
    workers: int | None = None,
    deadline_s: float = 300.0,
    strikes: int = 2,
    recycle_after: int | None = None,
    needs: Needs | None = None,
    fetch: Callable[[J], object] | None = None,
    fetch_parallel: int = 8,
    fetch_deadline_s: float = 1800.0,
    ahead: int | None = None,
) -> Iterator[Outcome[J, R]]:
    """Run every job once in a pool of workers; outcomes come as they end, in no fixed order.

    A job that kills its worker or overruns its deadline is tried again in a new worker until it
    has ``strikes`` of them. A job that raises is not tried again: it would raise again. A try that
    ended because the node was lost does not count, up to five times.

    The pool grows and shrinks with the cluster. A worker that finds no room waits, without limit,
    for somebody else's to end.

    Args:
        factory: Makes, once in every worker, the function that is called for every job. It, the
            jobs and the results must be serialisable.
        jobs: Taken one by one, as workers become free.
        workers: Processes at most; 0 runs the jobs in this process without Ray, where deadlines
            and strikes do not hold; None takes as many as the cluster has room for.
        deadline_s: Longest time of one try.
        strikes: Tries of a job before it is given up.
        recycle_after: Replace a worker after this many jobs, against memory that creeps up.
        needs: What a worker takes of its node; None: a core.
        fetch: Called for every job before it is worked on, in another process (in a thread, if
            ``workers`` is 0), for what it leaves behind: a file in a cache. A worker on the node
            that fetched is preferred, but any may get the job. It is tried again if its process
            dies or overruns, and not if it raises.
        fetch_parallel: Jobs that are fetched at the same time.
        fetch_deadline_s: Longest time of one try to fetch.
        ahead: At most so many jobs are fetched, or being fetched, and not yet done; None: two a
            worker, and ``fetch_parallel``.

    Raises:
        G3DError: A job raised one: the fault is not the job's. Or workers do not start, the
            cluster never has room for one, or it is gone.
    """
    if workers == 0:
        here = LocalFetcher(fetch, fetch_parallel) if fetch else None
        yield from _run_here(factory, iter(jobs), here, ahead or 2 + fetch_parallel)
        return
    from ray.exceptions import LocalRayletDiedError, RpcError

    needs = needs or Needs()
    with connected(workers, needs) as local:
        watch = Watch()
        try:
            crew = Crew(factory, needs, watch, deadline_s, workers, local)
            fetcher = Fetcher(fetch, fetch_parallel, fetch_deadline_s, watch) if fetch else None
            pool: _Pool[J, R] = _Pool(crew, fetcher, Inquest(watch, strikes), recycle_after, ahead)
            if isinstance(jobs, Sized):
                pool.left = len(jobs)
            try:
                yield from pool.run(iter(jobs))
            except (LocalRayletDiedError, RpcError) as error:
                raise cluster_lost(str(error).splitlines()[0]) from error
            finally:
                pool.stop()
        finally:
            watch.stop()


def _run_here(
    factory: Any, jobs: Iterator[J], fetcher: LocalFetcher[J] | None, ahead: int
) -> Iterator[Outcome[J, Any]]:
    """All jobs in this process, fetched ahead in threads."""
    here = Worker(factory)
    unwrap(here.ready())
    fetched = fetcher.fetched(jobs, ahead) if fetcher else ((job, None) for job in jobs)
    for job, failed in fetched:
        yield failed or outcome_of(Try(job, 1), here.run(job))


class _Pool(Generic[J, R]):
    """Hands jobs to fetchers and workers, one at a time each, and sees to what becomes of them."""

    def __init__(
        self,
        crew: Crew[J],
        fetcher: Fetcher[J] | None,
        inquest: Inquest[J],
        recycle_after: int | None,
        ahead: int | None,
    ) -> None:
        import ray

        self._ray = ray
        self._crew, self._fetcher, self._inquest = crew, fetcher, inquest
        self._recycle_after, self._ahead = recycle_after, ahead
        self._unfetched: deque[Try[J]] = deque()
        self._waiting: deque[Try[J]] = deque()
        self.left: int | None = None
        """Jobs that have not ended; None: not known."""

    def run(self, jobs: Iterator[J]) -> Iterator[Outcome[J, R]]:
        """All jobs, as they end."""
        while True:
            self._crew.watch.check()
            self._crew.dismiss_lost()
            self._take(jobs)
            self._assign(jobs)
            if not self._under_way:
                return
            to_come = self._waiting or self._unfetched or (self._fetcher and self._fetcher.flights)
            if to_come and self._inquest.may_start(ready=self._crew.ready > 0):
                self._crew.grow(self.left)
            for outcome in self._wait():
                self.left = None if self.left is None else self.left - 1
                yield outcome

    @property
    def _under_way(self) -> int:
        """Jobs that were taken and have not ended."""
        flights = len(self._fetcher.flights) if self._fetcher else 0
        waiting = len(self._waiting) + len(self._unfetched) + len(self._inquest.open)
        return waiting + flights + self._crew.busy

    def _take(self, jobs: Iterator[J]) -> None:
        """Begin to fetch as many jobs as may be; without a fetcher :meth:`_assign` takes them."""
        if self._fetcher is None:
            return
        slots = self._crew.slots()
        workers = max(1, self._crew.size(self.left))
        most = self._ahead or 2 * workers + self._fetcher.parallel
        while self._fetcher.has_room:
            if not self._unfetched and self._under_way < most:
                self._unfetched.extend(Try(job) for job in itertools.islice(jobs, 1))
            if not self._unfetched:
                return
            nodes = [item.node for item in self._waiting]
            self._fetcher.start(self._unfetched.popleft(), slots, nodes)

    def _assign(self, jobs: Iterator[J]) -> None:
        """Give the idle workers something to do."""
        while True:
            if not self._waiting and self._fetcher is None:
                # One more than they can take, so that it is known whether more are needed.
                self._waiting.extend(Try(job) for job in itertools.islice(jobs, 1))
            if not self._waiting or not self._crew.idle:
                return
            slot, item = self._match()
            self._crew.submit(slot, item)

    def _match(self) -> tuple[Slot[J], Try[J]]:
        """An idle worker and a job for it: one that was fetched on its node, else the oldest."""
        here = {slot.node: slot for slot in self._crew.idle}
        for n, item in enumerate(self._waiting):
            if item.node is not None and item.node in here:
                del self._waiting[n]
                self._crew.idle.remove(here[item.node])
                return here[item.node], item
        return self._crew.idle.pop(), self._waiting.popleft()

    def _wait(self) -> list[Outcome[J, R]]:
        """Wait until something ends or is overdue, and deal with it."""
        slots = {slot.task: slot for slot in self._crew.slots_at_work}
        flights = dict(self._fetcher.flights) if self._fetcher else {}
        tasks = [*slots, *flights, *self._inquest.tasks]
        if not tasks:
            time.sleep(_NOTHING_S)
            return self._verdicts()
        ends = [slot.until for slot in slots.values()] + [f.until for f in flights.values()]
        left = min(ends, default=math.inf) - time.monotonic()
        self._ray.wait(tasks, num_returns=1, timeout=max(0.0, min(left, LOOK_S)))
        # All that ended, so that none is taken for overdue because this process was slow.
        done, _ = self._ray.wait(tasks, num_returns=len(tasks), timeout=0)
        out: list[Outcome[J, R]] = []
        for task in done:
            if task in slots:
                out += self._collect(slots[task])
            elif task in flights:
                out += self._landed(task)
        now = time.monotonic()
        for task, slot in slots.items():
            if task not in done and now > slot.until:
                out += self._lost(slot, self._crew.overdue(slot))
        for flight, failure in self._fetcher.overdue() if self._fetcher else ():
            out += self._end(self._inquest.failed(flight.item, failure, flight.node))
        return out + self._verdicts()

    def _verdicts(self) -> list[Outcome[J, R]]:
        return [one for found in self._inquest.verdicts() for one in self._end(found)]

    def _collect(self, slot: Slot[J]) -> list[Outcome[J, R]]:
        """Take the result of a worker's task that ended."""
        from ray.exceptions import RayError

        try:
            answer = self._ray.get(slot.task)
        except RayError as error:
            return self._lost(slot, error)
        item = self._crew.answered(slot, answer)
        if item is None:
            if slot in self._crew.idle:
                self._inquest.started()
            return []
        if slot.served == self._recycle_after:
            self._crew.discard(slot)
        else:
            self._crew.idle.append(slot)
        return [outcome_of(item, answer)]

    def _landed(self, task: Any) -> list[Outcome[J, R]]:
        """A job is fetched, or cannot be."""
        from ray.exceptions import RayError

        assert self._fetcher is not None
        flight = self._fetcher.flights.pop(task)
        item = flight.item
        try:
            node, answer = self._ray.get(task)
        except RayError as error:
            return self._end(self._inquest.failed(item, error, flight.node))
        failure = failure_of(answer, "fetch")
        if failure is not None:
            return [Outcome(item.job, None, failure, item.attempts)]
        item.next_stage(node)
        self._waiting.append(item)
        return []

    def _lost(self, slot: Slot[J], what: Exception | Failure) -> list[Outcome[J, R]]:
        """A worker died or is overdue: replace it, and see what becomes of its job."""
        if slot.current is None:
            self._inquest.failed_start(slot.node, what)
            self._crew.discard(slot)
            return []
        verdict = self._inquest.failed(slot.current, what, slot.node, slot.log)
        self._crew.discard(slot)
        return self._end(verdict)

    def _end(self, found: tuple[Try[J], Failure | None] | None) -> list[Outcome[J, R]]:
        """A verdict: give the job up, or, without a failure, try it again."""
        if found is None:
            return []
        item, failure = found
        if failure is not None:
            return [Outcome(item.job, None, failure, item.attempts)]
        if item.stage == "fetch":
            self._unfetched.append(item)
        else:
            self._waiting.append(item)
        return []

    def stop(self) -> None:
        """Stop all tasks and kill all workers."""
        if self._fetcher is not None:
            self._fetcher.stop()
        self._crew.stop()
