"""What is done about losses and gradients that are not finite.

A phase whose loss or gradient is not finite moves nothing, and neither does the rest of its step.
Where that happens too often, the run goes back to its last checkpoint with lower learning rates and
other random numbers; where that does not help either, it ends with an error and a report.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import G3DError
from ..manifests.atomic import write_atomic
from .config import GuardConfig

HEALTH_FILE = "health.json"
MOST_EVENTS = 200


@dataclass(frozen=True)
class Finding:
    """A phase that was left out.

    Attributes:
        phase: Its name; ``weights`` if the weights themselves were found not finite.
        loss: As text, for it is no number that JSON has.
        gradient_norm: Likewise.
        parameters: Names of those whose gradient (or value) is not finite.
        terms: Logged terms of the phase, as text.
    """

    phase: str
    loss: str
    gradient_norm: str
    parameters: list[str]
    terms: dict[str, str]


class RollBack(Exception):
    """The run must go back to its last checkpoint. Raised and caught within the trainer."""

    def __init__(self, finding: Finding, step: int) -> None:
        super().__init__(finding.phase)
        self.finding, self.step = finding, step


@dataclass
class Guard:
    """Counts steps that were left out and decides; its state is part of every checkpoint.

    It is a function of the steps alone, so that workers which see the same agree.
    """

    config: GuardConfig
    skipped: int = 0
    consecutive: int = 0
    rollbacks: int = 0
    recent: list[int] = field(default_factory=list)
    """Steps that were left out, of the window that ends now."""
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def gone_back_to(self) -> list[int]:
        """Steps from which the run went on, roll-back by roll-back."""
        return [event["to_step"] for event in self.events if "to_step" in event]

    @property
    def rate(self) -> float:
        """What all learning rates are multiplied by."""
        return self.config.rate_factor**self.rollbacks

    def good(self) -> None:
        """A step went well."""
        self.consecutive = 0

    def bad(self, step: int, finding: Finding) -> None:
        """A step was left out.

        Raises:
            RollBack: There were too many.
        """
        self.skipped += 1
        self.consecutive += 1
        self.recent = [past for past in self.recent if past > step - self.config.window] + [step]
        self._note({"event": "skipped", "step": step, "phase": finding.phase})
        often = len(self.recent) > self.config.share * self.config.window
        if often or self.consecutive >= self.config.consecutive:
            raise RollBack(finding, step)

    def roll_back(self, step: int, to_step: int) -> None:
        """The run goes back from ``step`` to ``to_step``."""
        self.rollbacks += 1
        self.consecutive, self.recent = 0, []
        self._note({"event": "rolled back", "step": step, "to_step": to_step})

    def state(self) -> dict[str, Any]:
        """Numbers and strings, for a checkpoint."""
        state = asdict(self)
        del state["config"]
        return state

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over :meth:`state`."""
        for name, value in state.items():
            setattr(self, name, value)

    def _note(self, event: dict[str, Any]) -> None:
        self.events = [*self.events[1 - MOST_EVENTS :], event]


def not_finite(
    named: Iterable[tuple[str, nn.Parameter]], *, gradients: bool, limit: int = 20
) -> list[str]:
    """Names of the parameters whose gradient (or value) is not finite, at most ``limit``."""
    found = []
    for name, parameter in named:
        tensor = parameter.grad if gradients else parameter
        if tensor is not None and not bool(torch.isfinite(tensor).all()):
            found.append(name)
    more = len(found) - limit
    return [*found[:limit], f"and {more} more"] if more > 0 else found


def write_health(folder: Path, guard: Guard, stopped: RollBack, nimg: int, *, failed: bool) -> Path:
    """Write ``health.json``: what was found, and everything that was done about it."""
    path = folder / HEALTH_FILE
    record = {
        "status": "failed" if failed else "rolled back",
        "step": stopped.step,
        "nimg": nimg,
        "finding": asdict(stopped.finding),
        "skipped_steps": guard.skipped,
        "rollbacks": guard.rollbacks,
        "learning_rate_factor": guard.rate,
        "events": guard.events,
    }
    write_atomic(path, (json.dumps(record, indent=1) + "\n").encode())
    return path


def diverged(folder: Path, guard: Guard, stopped: RollBack) -> G3DError:
    """The error that ends a run."""
    finding = stopped.finding
    return G3DError(
        f"training diverged: {finding.phase} is not finite at step {stopped.step} (loss "
        f"{finding.loss}, gradient norm {finding.gradient_norm}), after {guard.rollbacks} "
        f"roll-backs and {guard.skipped} steps left out",
        hint=f"{folder / HEALTH_FILE} says where; lower the learning rate, raise the R1 weight, or "
        "set run.clip, in a new run",
    )


def as_text(value: float | torch.Tensor) -> str:
    """A number that may be NaN or infinite."""
    number = float(value)
    return f"{number:.6g}" if math.isfinite(number) else str(number)
