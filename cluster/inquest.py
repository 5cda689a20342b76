"""Whose fault it was that a worker was lost: the job's, which counts, or its node's."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import Any, Generic

from ..errors import G3DError
from .connect import cause
from .outcome import Failure, J, Try
from .watch import Watch
from .worker import take_log

logger = logging.getLogger(__name__)

START_STRIKES = 3
LOSSES = 5
"""Tries that lost nodes may cut short before a job counts as their cause."""
GRACE_S = 30.0
"""How long a cluster may take to see that a node is lost: until then a dead worker on another node
is nobody's fault yet."""
PAUSE_S = 60.0
"""Where workers do start, how long to wait after some that did not."""
LOG_S = 15.0
"""How long the log of a worker on another node is waited for."""
_NODE_DIED = ("node has died", "node was terminated", "node died")


@dataclass(eq=False)
class _Case(Generic[J]):
    """A job with all its strikes, until it is known whether they stand."""

    item: Try[J]
    failure: Failure
    until: float
    log: Any = None
    log_until: float = 0.0


@dataclass(frozen=True)
class _BadStart:
    """A worker that was lost before it was ready; held against nobody until ``sure``."""

    node: str | None
    message: str
    when: float
    sure: float


class Inquest(Generic[J]):
    """Decides whether a job is tried again."""

    def __init__(self, watch: Watch, strikes: int) -> None:
        self._watch, self._strikes = watch, strikes
        self.open: list[_Case[J]] = []
        self._bad_starts: list[_BadStart] = []

    @property
    def tasks(self) -> list[Any]:
        """Of Ray, that a verdict waits for."""
        return [case.log for case in self.open if case.log is not None]

    def failed(
        self,
        item: Try[J],
        what: Exception | Failure,
        node: str | None,
        log: str | None = None,
    ) -> tuple[Try[J], Failure | None] | None:
        """A worker was lost with its job.

        Args:
            item: The job.
            what: Ray's error, or a failure that the pool has seen itself.
            node: Where.
            log: The worker's log there.

        Returns:
            The job with what ends it, or with None if it is to be tried again; None if that is not
            yet known.
        """
        failure = self._failure(item, what)
        if failure is None:
            item.losses += 1
            logger.info("a try was lost with its node (%d of %d)", item.losses, LOSSES)
            return item, self._too_many(item)
        logger.info("a worker was lost: %s (%s)", failure.reason, failure.message)
        if item.strike(node) < self._strikes:
            return item, None
        now = time.monotonic()
        case = _Case(item, failure, now + self._grace(node), log_until=now + LOG_S)
        if log is not None and node == self._watch.here:
            case.failure = replace(failure, log=take_log(log))
        elif log is not None and node is not None and not self._watch.is_lost(node):
            case.log = _take_log_there(log, node)
        self.open.append(case)
        return None

    def verdicts(self) -> list[tuple[Try[J], Failure | None]]:
        """Jobs of which it is known by now."""
        return [found for case in list(self.open) if (found := self._verdict(case)) is not None]

    def _verdict(self, case: _Case[J]) -> tuple[Try[J], Failure | None] | None:
        item, now = case.item, time.monotonic()
        guilty = [strike for strike in item.struck if not self._watch.is_lost(strike[0])]
        if len(guilty) < len(item.struck):
            item.losses += len(item.struck) - len(guilty)
            item.struck[:] = guilty
            self.open.remove(case)
            return item, self._too_many(item)
        self._read(case, now)
        if now < case.until or case.log is not None:
            return None
        self.open.remove(case)
        return item, case.failure

    def _read(self, case: _Case[J], now: float) -> None:
        """Take the log if it is there."""
        import ray
        from ray.exceptions import RayError

        if case.log is None:
            return
        ready, _ = ray.wait([case.log], timeout=0)
        if ready:
            try:
                case.failure = replace(case.failure, log=ray.get(case.log))
            except RayError as error:
                logger.debug("the log of a lost worker: %s", error)
        if ready or now > case.log_until:
            case.log = None

    def _failure(self, item: Try[J], what: Exception | Failure) -> Failure | None:
        """What Ray's error says of the job; None if the node was lost, or only its answer."""
        from ray import exceptions as e

        if isinstance(what, Failure):
            return what
        if isinstance(what, e.OutOfMemoryError):
            return Failure("memory", cause(what), item.stage)
        lost = (e.NodeDiedError, e.ObjectLostError, e.ObjectFetchTimedOutError)
        if isinstance(what, (*lost, e.ActorUnavailableError)) or _node_died(what):
            return None
        return Failure("crash", cause(what), item.stage)

    def _too_many(self, item: Try[J]) -> Failure | None:
        if item.losses <= LOSSES:
            return None
        text = f"{item.losses} tries of it ended with the loss of a node"
        return Failure("crash", text, item.stage)

    def _grace(self, node: str | None) -> float:
        """The node of this process is there, or the pool would have ended."""
        here = node == self._watch.here or (node is None and self._watch.is_alone)
        return 0.0 if here else GRACE_S

    def failed_start(self, node: str | None, what: Exception | Failure) -> None:
        """A worker was lost before it was ready."""
        if isinstance(what, Exception) and _node_died(what):
            return
        message = what.message if isinstance(what, Failure) else cause(what)
        logger.info("a worker did not start: %s", message)
        now = time.monotonic()
        # One that raised told so itself.
        grace = 0.0 if getattr(what, "actor_init_failed", False) else self._grace(node)
        self._bad_starts.append(_BadStart(node, message, now, now + grace))

    def may_start(self, ready: bool) -> bool:
        """Whether workers should be started, after some that did not.

        Args:
            ready: Whether there are workers that did start.

        Raises:
            G3DError: None ever starts.
        """
        now = time.monotonic()
        self._bad_starts = [
            start
            for start in self._bad_starts
            if now - start.when < PAUSE_S and not self._watch.is_lost(start.node)
        ]
        sure = [start for start in self._bad_starts if now >= start.sure]
        if len(sure) >= START_STRIKES and not ready:
            raise G3DError(
                f"workers do not start: {sure[-1].message}",
                hint="--workers 0 runs in one process and shows the cause",
            )
        return len(self._bad_starts) < START_STRIKES

    def started(self) -> None:
        """A worker got ready."""
        self._bad_starts.clear()


def _node_died(error: Exception) -> bool:
    return any(words in str(error) for words in _NODE_DIED)


def _take_log_there(path: str, node: str) -> Any:
    """Read a file on another node; a reference to the answer."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    place = NodeAffinitySchedulingStrategy(node, soft=False)
    task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=place)(take_log)
    return task.remote(path)
