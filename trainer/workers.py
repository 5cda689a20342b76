"""Several processes that share every step of a run on one machine (gloo on the CPU).

The calling process is rank 0 and owns all files. Gradients are averaged after every backward
pass; sums of two numbers do not depend on their order, so two workers are as reproducible as one.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ..errors import ConfigError, MissingDependency
from .config import RunConfig

TIMEOUT = timedelta(minutes=10)


def choose_device(run: RunConfig) -> torch.device:
    """Where a run computes.

    Raises:
        ConfigError: A GPU is asked for and there is none, or workers are to share one.
    """
    if run.device == "cpu" or (run.device == "auto" and run.workers > 1):
        return torch.device("cpu")
    if torch.cuda.is_available():
        if run.workers > 1:
            raise ConfigError(
                f"run.workers {run.workers} share the CPU; a GPU takes one process",
                hint="--set run.workers=1",
            )
        return torch.device("cuda")
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
    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace every gradient by the mean over workers; NaN and inf become finite."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not gradients:
            return
        if self.count == 1:
            for gradient in gradients:
                torch.nan_to_num_(gradient, nan=0.0, posinf=1e5, neginf=-1e5)
            return
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        flat /= self.count
        torch.nan_to_num_(flat, nan=0.0, posinf=1e5, neginf=-1e5)
        parts = flat.split([g.numel() for g in gradients])
        torch._foreach_copy_(
            gradients, [p.view_as(g) for p, g in zip(parts, gradients, strict=True)]
        )

    def average_buffers(self, nets: Sequence[nn.Module]) -> None:
        """Give all workers the mean of every floating-point buffer that is saved."""
        if self.count == 1:
            return
        for net in nets:
            for name, buffer in net.named_buffers():
                if name.endswith("w_avg"):
                    dist.all_reduce(buffer)
                    buffer /= self.count


@contextmanager
def workers(
    count: int, target: Callable[..., None], arguments: tuple[Any, ...]
) -> Iterator[Worker]:
    """Start ``count - 1`` helpers running ``target(worker, *arguments)`` and join their group.

    The helpers end with the block, and by themselves if this process dies: their next exchange
    fails.
    """
    if count == 1:
        yield Worker()
        return
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="g3d-") as folder:
        store = str(Path(folder) / "store")
        here, there = context.Pipe()
        helpers = [
            context.Process(
                target=_run_helper, args=(rank, count, store, there, target, arguments), daemon=True
            )
            for rank in range(1, count)
        ]
        for helper in helpers:
            helper.start()
        there.close()
        try:
            _join(0, count, store)
            yield Worker(0, count)
            here.close()
            for helper in helpers:
                helper.join(timeout=60)
        finally:
            here.close()
            if dist.is_initialized():
                dist.destroy_process_group()
            for helper in helpers:
                if helper.is_alive():
                    helper.terminate()
                    helper.join()


def _run_helper(
    rank: int,
    count: int,
    store: str,
    rank_0: Connection,
    target: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 decides when to stop
    _join(rank, count, store)
    target(Worker(rank, count), *arguments)
    # Rank 0 may still be reading the last sum: leave only when it closes its end, or is gone.
    with suppress(EOFError):
        rank_0.recv()
    dist.destroy_process_group()


def _join(rank: int, count: int, store: str) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=count, timeout=TIMEOUT
    )
