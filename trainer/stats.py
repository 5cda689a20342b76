"""Running figures of a run: ``stats.jsonl``, TensorBoard, the report, the status line.

The step of all of them is ``nimg``, images shown. A line of ``stats.jsonl`` has the means of the
logged terms since the line before, and:

    nimg               images shown
    time               when, seconds since 1970
    train_seconds      time in the loop, all sessions of the run together
    images_per_second  since the line before
    memory_mb          most resident memory of the process so far
    gpu_memory_mb      most memory of tensors on the GPU so far, where there is one
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from ..manifests.atomic import write_atomic
from .watch.build import RunReport


class Stats:
    """Collects logged terms and writes their means once a tick.

    Args:
        folder: The run's folder.
        nimg: Where the run goes on; later lines of an interrupted run are dropped.
    """

    FILE = "stats.jsonl"

    def __init__(self, folder: Path, nimg: int) -> None:
        self._path = folder / self.FILE
        kept = self._kept_lines(nimg)
        write_atomic(self._path, "".join(kept).encode())
        self._file = self._path.open("a", encoding="utf-8")
        self._tensorboard = _summary_writer(folder, nimg)
        self._terms: dict[str, list[torch.Tensor]] = {}
        self._report = RunReport(folder, nimg)
        self._start = self._before = time.monotonic()
        self._before_nimg = nimg
        before = json.loads(kept[-1])["train_seconds"] if kept else 0.0
        self._seconds_before = float(before)

    def __enter__(self) -> Stats:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        self._report.close()

    @property
    def seconds(self) -> float:
        """Training time so far, all sessions of the run together."""
        return self._seconds_before + time.monotonic() - self._start

    def add(self, terms: dict[str, torch.Tensor]) -> None:
        """Note terms of one step."""
        for name, value in terms.items():
            self._terms.setdefault(name, []).append(value.detach())

    def tick(self, nimg: int) -> dict[str, Any]:
        """Write one line with the means since the last tick."""
        now = time.monotonic()
        rate = (nimg - self._before_nimg) / max(now - self._before, 1e-9)
        self._before, self._before_nimg = now, nimg
        line: dict[str, Any] = {
            "nimg": nimg,
            "time": round(time.time(), 1),
            "train_seconds": round(self.seconds, 3),
            "images_per_second": round(rate, 2),
            **{name: round(size, 1) for name, size in _peak_memory_mb().items()},
        }
        means = {name: torch.stack(values).mean().item() for name, values in self._terms.items()}
        self._terms.clear()
        line.update({name: float(f"{value:.6g}") for name, value in sorted(means.items())})
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if self._tensorboard is not None:
            for name, value in means.items():
                self._tensorboard.add_scalar(name, value, nimg)
            self._tensorboard.add_scalar("speed/images_per_second", rate, nimg)
            for name, size in _peak_memory_mb().items():
                self._tensorboard.add_scalar(f"memory/{name}", size, nimg)
            self._tensorboard.flush()  # a checkpoint follows: what a resume keeps is on disk
        self._report.update()
        return line

    def image(self, name: str, image: Any, nimg: int) -> None:
        """Show an image ``[H, W, 3]`` uint8 in TensorBoard."""
        if self._tensorboard is not None:
            self._tensorboard.add_image(name, image, nimg, dataformats="HWC")
            self._tensorboard.flush()

    def _kept_lines(self, nimg: int) -> list[str]:
        if not self._path.exists():
            return []
        kept = []
        for line in self._path.read_text(encoding="utf-8").splitlines(keepends=True):
            try:
                if json.loads(line)["nimg"] <= nimg:
                    kept.append(line)
            except (ValueError, KeyError):
                break  # the line that a kill cut short
        return kept


def _summary_writer(folder: Path, nimg: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    # Readers drop what an earlier session wrote from this step on: the lines after `nimg`.
    return SummaryWriter(str(folder / "tensorboard"), purge_step=nimg + 1)


def _peak_memory_mb() -> dict[str, float]:
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {"memory_mb": peak / (1024**2 if sys.platform == "darwin" else 1024)}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 1024**2
    return found
