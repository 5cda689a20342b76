"""Differentiable rasterisation: ``rasterize``, ``interpolate``, ``antialias``, ``build_topology``.

The functions live in :mod:`.functional` and load torch when they are first asked for, so that
:mod:`.kernels` (plain NumPy arrays, used by light render workers) can be imported without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backend import Backend, Topology
    from .functional import antialias, build_topology, interpolate, rasterize

__all__ = ["Backend", "Topology", "antialias", "build_topology", "interpolate", "rasterize"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from . import functional

        return getattr(functional, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
