"""A process's place among those that share a step, and how torch computes in it.

Each backward pass ends with one exchange: the mean of all gradients as one vector. Sums of two
numbers do not depend on their order, so two workers are as reproducible as one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from ..errors import ConfigError, G3DError, MissingDependency
from .config import RunConfig


def choose_device(run: RunConfig) -> torch.device:
    """Where a run computes; its workers take one GPU each, or share the CPU.

    Raises:
        MissingDependency: A GPU is asked for and there is none.
        ConfigError: There are fewer GPUs here than workers.
    """
    if run.device == "cpu":
        return torch.device("cpu")
    there = torch.cuda.is_available()
    if there and (run.workers == 1 or torch.cuda.device_count() >= run.workers):
        return torch.device("cuda")
    if run.device == "cuda" and there:
        raise ConfigError(
            f"run.workers {run.workers} need a GPU each, and there are {torch.cuda.device_count()}",
            hint="--workers 1, or --set run.device=cpu",
        )
    if run.device == "cuda":
        raise MissingDependency(
            "run.device is cuda, and torch sees no CUDA device",
            hint="g3d doctor shows what it sees; --set run.device=cpu",
        )
    return torch.device("cpu")


@contextmanager
def device_settings(device: torch.device, threads: int) -> Iterator[None]:
    """How torch computes within the block; on the CPU see :func:`cpu_settings`.

    On a GPU sums are not in a fixed order, so a run cannot be repeated bit for bit there.
    """
    if device.type == "cpu":
        with cpu_settings(threads):
            yield
        return
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True  # the shapes of a step are always the same
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def cpu_settings(threads: int) -> Iterator[None]:
    """How torch computes within the block, for a run that can be repeated bit for bit.

    It uses ``threads`` threads; sums do not depend on which thread comes first; denormal numbers,
    through which unused weights decay and which are many times slower, are taken for zero.
    """
    before = torch.get_num_threads()
    mode = torch.get_deterministic_debug_mode()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    flushed = bool((torch.tensor([1e-40]) * 1 == 0).item())  # torch has no way to ask
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("error")
    # Nothing here reads memory before it is written: filling it would gain nothing.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # A thread that starts while the mode is on keeps it for ever: start them all before.
    torch.ones(1 << 20).mul_(1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
        torch.set_deterministic_debug_mode(mode)
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Worker:
    """This process's place among the workers."""

    rank: int = 0
    count: int = 1

    @torch.no_grad()
    def average_gradients(
        self, parameters: Sequence[nn.Parameter], *figures: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Replace every gradient by the mean over workers.

        Args:
            parameters: The same on every worker.
            figures: Scalars that are averaged in the same exchange.

        Returns:
            The norm of all gradients as one vector, and the means of ``figures``. A value that is
            not finite, on whichever worker, shows in them on all.
        """
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.count == 1:
            return _norm(torch._foreach_norm(gradients), parameters), list(figures)
        pieces = [g.reshape(-1) for g in gradients]
        device = pieces[0].device
        flat = torch.cat([*pieces, torch.stack(figures).to(device, torch.float32)])
        dist.all_reduce(flat)
        flat /= self.count
        size = len(flat) - len(figures)
        parts = flat[:size].split([g.numel() for g in gradients])
        torch._foreach_copy_(
            gradients, [p.view_as(g) for p, g in zip(parts, gradients, strict=True)]
        )
        return torch.linalg.vector_norm(flat[:size]), list(flat[size:])

    @torch.no_grad()
    def average_buffers(self, buffers: Sequence[torch.Tensor]) -> None:
        """Give all workers the mean of every buffer."""
        if self.count == 1 or not buffers:
            return
        flat = torch.cat([b.reshape(-1) for b in buffers])
        dist.all_reduce(flat)
        flat /= self.count
        parts = flat.split([b.numel() for b in buffers])
        for part, buffer in zip(parts, buffers, strict=True):
            buffer.copy_(part.view_as(buffer))

    def agree(self, number: int, device: torch.device, what: str) -> None:
        """Make sure that all workers have the same number.

        Raises:
            G3DError: They have not; ``what`` says what it means.
        """
        if self.count == 1:
            return
        # float32 on some backends: two halves are exact.
        low, high = number % 2**20, number // 2**20
        mine = torch.tensor([low, -low, high, -high], dtype=torch.float32, device=device)
        most = mine.clone()
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        if not torch.equal(most, mine):
            raise G3DError(what, hint="put the run folder on storage that all workers reach")


def _norm(norms: Sequence[torch.Tensor], parameters: Sequence[nn.Parameter]) -> torch.Tensor:
    if not norms:
        return torch.zeros((), device=parameters[0].device if parameters else None)
    return torch.linalg.vector_norm(torch.stack(tuple(norms)))
