"""The table of backends by name, each loaded when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

from .backend import Backend


def _numba() -> Backend:
    from .numba_backend import NumbaBackend

    return NumbaBackend()


def _torch() -> Backend:
    from .torch_backend import TorchBackend

    return TorchBackend()


BACKENDS: dict[str, Callable[[], Backend]] = {"numba": _numba, "torch": _torch}


@cache
def _loaded(name: str) -> Backend:
    return BACKENDS[name]()


def get_backend(name: str | None, device: torch.device) -> Backend:
    """The backend called ``name``; by default ``numba`` for CPU tensors and ``torch`` elsewhere.

    Raises:
        ValueError: An unknown name, or ``numba`` for tensors that are not on the CPU.
    """
    if name is None:
        name = "numba" if device.type == "cpu" else "torch"
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {sorted(BACKENDS)}, not {name!r}")
    if name == "numba" and device.type != "cpu":
        raise ValueError(f"backend 'numba' works on CPU tensors, not on {device}")
    return _loaded(name)
