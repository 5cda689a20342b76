"""The workers of a pool: how many there can be, what each is doing, where it is."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from ..errors import MissingDependency
from .outcome import Failure, J, Needs, Try, unwrap
from .watch import Watch
from .worker import Place, Worker

logger = logging.getLogger(__name__)

START_DEADLINE_S = 300.0  # kernels may have to be compiled first
ROOM_DEADLINE_S = 600.0
"""How long a cluster may have no node that a worker fits on: one may be on its way."""
ROOM_NOTICE_S, BUSY_NOTICE_S = 10.0, 60.0
"""When it is said that there is no such node, or that nobody has made room."""


@dataclass(eq=False)
class Slot(Generic[J]):
    """One worker: its actor, and what it is doing.

    It first waits for a place (``node`` is None, without limit), then gets ready (without a job,
    until ``until``), then takes jobs.
    """

    actor: Any
    task: Any
    until: float = math.inf
    node: str | None = None
    log: str | None = None
    current: Try[J] | None = None
    served: int = 0


class Crew(Generic[J]):
    """Starts workers where the cluster has room, hands them jobs, kills them."""

    def __init__(
        self,
        factory: Callable[[], Callable[[J], Any]],
        needs: Needs,
        watch: Watch,
        deadline_s: float,
        workers: int | None,
        local: bool,
    ) -> None:
        import ray

        self._ray = ray
        self.watch = watch
        self._factory = ray.put(factory)
        options = {**needs.options(), "max_restarts": 0, "max_task_retries": 0}
        self._actor_class = ray.remote(**options)(Worker)
        self._needs, self._deadline_s = needs, deadline_s
        self._workers, self._local = workers, local
        self._slots: list[Slot[J]] = []
        self.idle: list[Slot[J]] = []
        self._no_room_since: float | None = None
        self._room = self._noticed = False

    @property
    def busy(self) -> int:
        """How many have a job."""
        return sum(slot.current is not None for slot in self._slots)

    @property
    def slots_at_work(self) -> list[Slot[J]]:
        """Those that something is expected of."""
        return [slot for slot in self._slots if slot.task is not None]

    @property
    def ready(self) -> int:
        """How many have a job or could take one."""
        return self.busy + len(self.idle)

    def slots(self) -> dict[str, int]:
        """How many workers the cluster has room for, by node, if nobody else uses it."""
        return self._needs.slots(self.watch.nodes, every=self._workers is not None)

    def size(self, left: int | None) -> int:
        """How many workers there should be, for so many jobs (None: not known)."""
        limits = [sum(self.slots().values()), self._workers, left]
        return min(limit for limit in limits if limit is not None)

    def grow(self, left: int | None) -> None:
        """Start workers unless some are idle; call off those that have become too many.

        Raises:
            G3DError: No node of the cluster has, for a long time, what a worker needs.
        """
        self._see_room()
        # At least one asks for a place, so that a cluster that can grow knows to.
        size = max(1, self.size(left))
        for slot in [slot for slot in self._slots if slot.node is None]:
            if len(self._slots) > size:
                self.discard(slot)
        while not self.idle and len(self._slots) < size:
            actor = self._actor_class.remote(self._factory, self._deadline_s)
            self._slots.append(Slot(actor, actor.place.remote()))

    def _see_room(self) -> None:
        now = time.monotonic()
        room = bool(self.slots())
        if room and (self.ready or any(slot.node for slot in self._slots)):
            self._no_room_since = None
            return
        if self._no_room_since is None or room != self._room:
            self._no_room_since, self._noticed, self._room = now, False, room
        waited = now - self._no_room_since
        if not room and (self._local or waited > ROOM_DEADLINE_S):
            where = "this machine" if self._local else "no node of the Ray cluster"
            raise MissingDependency(
                f"a worker needs {self._needs}: {where} has {'less' if self._local else 'that'}",
                hint="choose a renderer and a device that fit, or join a cluster with such a node",
            )
        if waited > (BUSY_NOTICE_S if room else ROOM_NOTICE_S) and not self._noticed:
            self._noticed = True
            why = "is in use" if room else f"is on no node; giving up after {ROOM_DEADLINE_S:g} s"
            logger.warning("waiting: a worker needs %s of the Ray cluster, which %s",
                           self._needs, why)  # fmt: skip

    def submit(self, slot: Slot[J], item: Try[J]) -> None:
        """Give a job to a worker, which is idle no more."""
        item.tries += 1
        slot.current, slot.until = item, time.monotonic() + self._deadline_s
        slot.task = slot.actor.run.remote(item.job)

    def answered(self, slot: Slot[J], answer: Any) -> Try[J] | None:
        """A worker's task has ended; returns its job, if it was one."""
        item, slot.current, slot.task = slot.current, None, None
        if item is not None:
            slot.served += 1
            slot.until = math.inf
            return item
        if isinstance(answer, Place):
            slot.node, slot.log = answer
            slot.task = slot.actor.ready.remote()
            slot.until = time.monotonic() + START_DEADLINE_S
            return None
        unwrap(answer)
        slot.until = math.inf
        self.idle.append(slot)
        return None

    def overdue(self, slot: Slot[J]) -> Failure:
        """What is to be said of a worker that took too long."""
        limit = START_DEADLINE_S if slot.current is None else self._deadline_s
        return Failure("timeout", f"took longer than {limit:g} s")

    def dismiss_lost(self) -> None:
        """Forget idle workers whose node is gone."""
        for slot in [slot for slot in self.idle if self.watch.is_lost(slot.node)]:
            self.discard(slot)

    def discard(self, slot: Slot[J]) -> None:
        """Kill a worker."""
        self._slots.remove(slot)
        if slot in self.idle:
            self.idle.remove(slot)
        self._ray.kill(slot.actor, no_restart=True)
        if slot.log is not None and slot.node == self.watch.here:
            Path(slot.log).unlink(missing_ok=True)

    def stop(self) -> None:
        """Kill all workers."""
        for slot in list(self._slots):
            self.discard(slot)
