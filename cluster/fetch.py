"""The stage before the work: bringing what a job needs, ahead of its turn, a few at a time."""

from __future__ import annotations

import functools
import itertools
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic

from .outcome import Failure, J, Outcome, Try, answer_of, failure_of
from .watch import Watch


@dataclass
class Flight(Generic[J]):
    """A job that is being fetched: where, and until when it may take."""

    item: Try[J]
    node: str | None
    until: float


class Fetcher(Generic[J]):
    """Fetches by Ray tasks that claim no core, so that they never take a worker's place."""

    def __init__(
        self, call: Callable[[J], object], parallel: int, deadline_s: float, watch: Watch
    ) -> None:
        import ray

        self.parallel, self._deadline_s, self._watch = parallel, deadline_s, watch
        self._call = ray.put(call)
        # Ray would try again by itself, without telling.
        self._task = ray.remote(num_cpus=0, max_retries=0)(_fetch_there)
        self.flights: dict[Any, Flight[J]] = {}

    @property
    def has_room(self) -> bool:
        """Whether another may be begun."""
        return len(self.flights) < self.parallel

    def start(
        self, item: Try[J], slots: Mapping[str, int], fetched: Collection[str | None]
    ) -> None:
        """Begin to fetch, on a node that has workers and little to do yet.

        Args:
            item: The job.
            slots: Workers that there is room for, by node.
            fetched: Nodes of the jobs that wait for a worker.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        busy = [flight.node for flight in self.flights.values()] + list(fetched)
        load = {node: busy.count(node) / count for node, count in slots.items()}
        node = min(load, key=load.__getitem__, default=self._watch.here)
        item.tries += 1
        item.stage = "fetch"
        task = self._task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, True))
        reference = task.remote([self._call], item.job)
        self.flights[reference] = Flight(item, node, time.monotonic() + self._deadline_s)

    def overdue(self) -> list[tuple[Flight[J], Failure]]:
        """Take and stop what takes too long."""
        import ray

        now = time.monotonic()
        late = [reference for reference, flight in self.flights.items() if now > flight.until]
        for reference in late:
            ray.cancel(reference, force=True)
        text = f"took longer than {self._deadline_s:g} s"
        return [(self.flights.pop(one), Failure("timeout", text, "fetch")) for one in late]

    def stop(self) -> None:
        """Stop all."""
        import ray

        for reference in self.flights:
            ray.cancel(reference, force=True)
        self.flights.clear()


def _fetch_there(call: list[Any], job: Any) -> tuple[str, tuple[str, Any]]:
    """Node and answer. ``call`` is a reference in a list: Ray would load it for every task."""
    import ray

    kind, value = answer_of(_loaded(call[0]), job)
    return ray.get_runtime_context().get_node_id(), (kind, None if kind == "ok" else value)


@functools.lru_cache(maxsize=1)
def _loaded(reference: Any) -> Any:
    """Once in a process, so that a source may remember what it has read."""
    import ray

    return ray.get(reference)


class LocalFetcher(Generic[J]):
    """Fetches in threads of this process, for a pool without workers.

    The threads are daemons: an interrupted program does not wait for a server.
    """

    def __init__(self, call: Callable[[J], object], parallel: int) -> None:
        self._todo: queue.SimpleQueue[J | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[J, tuple[str, Any]]] = queue.SimpleQueue()
        self._call, self._parallel, self._threads = call, parallel, 0
        self._stopped = False

    def fetched(self, jobs: Iterator[J], ahead: int) -> Iterator[tuple[J, Outcome[J, Any] | None]]:
        """Every job once it is fetched, with an outcome if it cannot be.

        Args:
            jobs: Taken one by one.
            ahead: At most so many are fetched or being fetched and not yet taken.
        """
        under_way = 0
        try:
            while True:
                for job in itertools.islice(jobs, ahead - under_way):
                    self._begin(job)
                    under_way += 1
                if not under_way:
                    return
                job, answer = self._done.get()
                failure = failure_of(answer, "fetch")
                yield job, None if failure is None else Outcome(job, None, failure, 1)
                under_way -= 1
        finally:
            self._stopped = True
            for _ in range(self._threads):
                self._todo.put(None)

    def _begin(self, job: J) -> None:
        self._todo.put(job)
        if self._threads < self._parallel:
            self._threads += 1
            threading.Thread(target=self._run, name="g3d-fetch", daemon=True).start()

    def _run(self) -> None:
        while (job := self._todo.get()) is not None and not self._stopped:
            self._done.put((job, answer_of(self._call, job)))
