"""The table of backends by name, each loaded when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch

from ...errors import MissingDependency
from .backend import Backend


def _numba() -> Backend:
    from .numba_backend import NumbaBackend

    return NumbaBackend()


def _nvdiffrast() -> Backend:
    from .nvdiffrast_backend import NvdiffrastBackend, nvdiffrast_module

    module = nvdiffrast_module()
    if module is None:
        raise MissingDependency(
            "the backend 'nvdiffrast' needs the package nvdiffrast, which is not installed here",
            hint="install it from its repository (non-commercial licence), or use backend 'torch'",
        )
    return NvdiffrastBackend(module)


def _torch() -> Backend:
    from .torch_backend import TorchBackend

    return TorchBackend()


def _shapes() -> Backend:
    from .shapes_backend import ShapesBackend

    return ShapesBackend()


class Entry(NamedTuple):
    """A backend of the table.

    Attributes:
        load: Makes it, importing what it needs.
        device: The kind of device whose tensors it takes; None = any.
    """

    load: Callable[[], Backend]
    device: str | None


BACKENDS: dict[str, Entry] = {
    "numba": Entry(_numba, "cpu"),
    "nvdiffrast": Entry(_nvdiffrast, "cuda"),
    "torch": Entry(_torch, None),
    "shapes": Entry(_shapes, "meta"),
}


FIXED = {"cpu": "numba", "meta": "shapes"}
"""Backends of devices that have no choice."""


@cache
def _loaded(name: str) -> Backend:
    return BACKENDS[name].load()


def default_backend(device: torch.device) -> str:
    """``numba`` on the CPU, ``nvdiffrast`` on CUDA where that is installed, ``torch`` elsewhere.

    Tensors without data (device ``meta``) go to ``shapes``, which computes nothing.
    """
    if device.type in FIXED:
        return FIXED[device.type]
    if device.type == "cuda":
        from .nvdiffrast_backend import nvdiffrast_module

        return "nvdiffrast" if nvdiffrast_module() is not None else "torch"
    return "torch"


def get_backend(name: str | None, device: torch.device) -> Backend:
    """The backend called ``name``; by default :func:`default_backend` of the device.

    Raises:
        ValueError: An unknown name, or a backend that does not work on ``device``.
        MissingDependency: The backend's package is not installed.
    """
    if name is None:
        name = default_backend(device)
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {sorted(BACKENDS)}, not {name!r}")
    wanted = BACKENDS[name].device
    if wanted is not None and device.type != wanted:
        raise ValueError(f"backend {name!r} works on {wanted} tensors, not on {device}")
    return _loaded(name)
