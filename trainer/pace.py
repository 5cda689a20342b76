"""Where the time of a run goes: its speed of late, what is left, seconds by phase, memory."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path

import torch

RECENT_STEPS = 200


class Pace:
    """Takes the time within steps; costs a few clock readings a step.

    Args:
        batch: Images a step.
        total: Images of the run.
        device: Whose memory counts.
    """

    def __init__(self, batch: int, total: int, device: torch.device) -> None:
        self._batch, self._total, self._device = batch, total, device
        self._ends: deque[float] = deque(maxlen=RECENT_STEPS + 1)
        self._spent: dict[str, float] = {}
        self._steps = 0
        self._mark = time.perf_counter()

    def begin(self) -> None:
        """A step begins."""
        self._mark = time.perf_counter()
        if not self._ends:
            self._ends.append(self._mark)

    def lap(self, name: str) -> None:
        """What was done since the last call was ``name``."""
        now = time.perf_counter()
        self._spent[name] = self._spent.get(name, 0.0) + now - self._mark
        self._mark = now

    def end(self) -> None:
        """A step is done."""
        self.lap("other")
        self._ends.append(self._mark)
        self._steps += 1

    @property
    def images_per_second(self) -> float:
        """Over the last steps, all that came between them included."""
        if len(self._ends) < 2:
            return 0.0
        spent = self._ends[-1] - self._ends[0]
        return self._batch * (len(self._ends) - 1) / max(spent, 1e-9)

    def terms(self, nimg: int) -> dict[str, torch.Tensor]:
        """Figures of the tick that ends now.

        ``time/<phase>`` are seconds a step, lazy phases spread over all steps, so that their sum is
        a step; ``speed/recent`` images per second; ``speed/eta_s`` seconds left; ``memory/...`` in
        megabytes.
        """
        steps = max(1, self._steps)
        figures = {f"time/{name}": spent / steps for name, spent in self._spent.items()}
        self._spent, self._steps = {}, 0
        rate = self.images_per_second
        figures["speed/recent"] = rate
        figures["speed/eta_s"] = (self._total - nimg) / rate if rate else 0.0
        figures["memory/rss_mb"] = resident_bytes() / 2**20
        if self._device.type == "cuda":
            figures["memory/cuda_peak_mb"] = torch.cuda.max_memory_allocated(self._device) / 2**20
        return {name: torch.tensor(value) for name, value in figures.items()}


def resident_bytes() -> int:
    """Memory of this process now; where the system does not say, the most it ever had."""
    import resource
    import sys

    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return pages * resource.getpagesize()
