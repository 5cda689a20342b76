"""What a pool is asked for, and what it gives back: plain values, without Ray."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from ..errors import AssetError, G3DError

J = TypeVar("J")
R = TypeVar("R")

Stage = Literal["fetch", "work"]


@dataclass(frozen=True)
class Failure:
    """Why a job gave no result.

    Attributes:
        reason: ``timeout``: longer than its deadline. ``crash``: its worker died. ``memory``: its
            worker was killed for using too much. ``asset``: it raised an
            :class:`~g3d.errors.AssetError`. ``error``: it raised another exception.
        message: What was seen.
        stage: In which of the two stages of the pool.
        log: The last lines that its worker wrote; None where they are not known.
        error: Of ``asset``: what was raised.
    """

    reason: Literal["timeout", "crash", "memory", "asset", "error"]
    message: str
    stage: Stage = "work"
    log: str | None = None
    error: AssetError | None = None


@dataclass(frozen=True)
class Outcome(Generic[J, R]):
    """The end of one job: a value or a failure.

    Attributes:
        job: As it was given.
        value: What the worker returned; None after a failure.
        failure: None after a success.
        attempts: How often it was tried, without the tries that a lost node cut short.
    """

    job: J
    value: R | None
    failure: Failure | None
    attempts: int


@dataclass(frozen=True)
class Needs:
    """What a worker takes of the node that it runs on.

    Attributes:
        cpus: Cores.
        gpus: GPUs; a share of one where several workers use it together.
        avoid_gpu_nodes: Leave nodes with a GPU alone, unless there are no others, or more workers
            are asked for by number than the others have room for.
        memory: Bytes, as Ray counts them; None: not counted.
        resources: Other resources of the cluster, by name.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    avoid_gpu_nodes: bool = False
    memory: int | None = None
    resources: Mapping[str, float] = field(default_factory=dict)

    def options(self) -> dict[str, Any]:
        """As Ray takes them."""
        return {
            "num_cpus": self.cpus,
            "num_gpus": self.gpus,
            "memory": self.memory,
            "resources": dict(self.resources) or None,
        }

    def fit(self, offered: Mapping[str, float]) -> int:
        """How many workers fit into the resources of a node, by Ray's names of them."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory or 0, **self.resources}
        room = [offered.get(name, 0.0) / n for name, n in wanted.items() if n > 0]
        # A tenth of a GPU goes into a GPU ten times, whatever the floating point says.
        return math.floor(min(room) + 1e-6) if room else 1

    def slots(self, nodes: Mapping[str, Mapping[str, float]], *, every: bool) -> dict[str, int]:
        """How many workers there is room for, by node.

        Args:
            nodes: Resources of each.
            every: Count the nodes that ``avoid_gpu_nodes`` leaves alone, too.
        """
        found = {node: self.fit(offered) for node, offered in nodes.items()}
        found = {node: count for node, count in found.items() if count}
        plain = {node: count for node, count in found.items() if not nodes[node].get("GPU")}
        return plain if self.avoid_gpu_nodes and plain and not every else found

    def __str__(self) -> str:
        parts = [f"{self.cpus:g} CPU" if self.cpus else "", f"{self.gpus:g} GPU" * bool(self.gpus)]
        parts += [f"{self.memory / 2**30:.1f} GiB memory" if self.memory else ""]
        parts += [f"{count:g} {name}" for name, count in self.resources.items()]
        return " and ".join(part for part in parts if part)


@dataclass
class Try(Generic[J]):
    """A job on its way.

    Attributes:
        job: As it was given.
        tries: How often its stage was begun.
        struck: Node and time of every try that ended with its worker, while the node seemed fine.
        losses: Tries that a lost node cut short.
        node: Where it was fetched; None: not yet, or there is nothing to fetch.
        stage: What it waits for or is in.
    """

    job: J
    tries: int = 0
    struck: list[tuple[str | None, float]] = field(default_factory=list)
    losses: int = 0
    node: str | None = None
    stage: Stage = "work"

    @property
    def attempts(self) -> int:
        """Tries that count."""
        return max(1, self.tries - self.losses)

    def strike(self, node: str | None) -> int:
        """Note a worker that was lost with it; returns how many were."""
        self.struck.append((node, time.monotonic()))
        return len(self.struck)

    def next_stage(self, node: str | None) -> None:
        """It is fetched: to be worked on, with a clean record."""
        self.node, self.stage = node, "work"
        self.tries, self.losses = 0, 0
        self.struck.clear()


def unwrap(answer: tuple[str, Any]) -> Any:
    """The value of a worker's answer; raises what is not the job's fault."""
    if answer[0] == "raise":
        raise answer[1]
    return answer[1]


def answer_of(call: Any, *arguments: Any) -> tuple[str, Any]:
    """Call; the value, or the exception in a form that travels."""
    try:
        return "ok", call(*arguments)
    except G3DError as error:
        return "raise", error
    except AssetError as error:
        return "asset", error
    except Exception as error:
        return "memory" if isinstance(error, MemoryError) else "error", _describe(error)


def failure_of(answer: tuple[Any, Any], stage: Stage) -> Failure | None:
    """What an answer tells of a failure; raises what is not the job's fault."""
    kind, value = answer[0], unwrap(answer)
    if kind == "ok":
        return None
    if isinstance(value, AssetError):
        return Failure("asset", value.message, stage, error=value)
    return Failure(kind, value, stage)


def outcome_of(item: Try[J], answer: tuple[Any, Any]) -> Outcome[J, Any]:
    """The end of a job whose worker answered."""
    failure = failure_of(answer, item.stage)
    value = answer[1] if failure is None else None
    return Outcome(item.job, value, failure, item.attempts)


def _describe(error: BaseException) -> str:
    """An exception in one line, with the place it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"
