"""What a backend of the differentiable ops offers, and which one serves a tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True)
class Topology:
    """Which triangles meet at the edges of a mesh.

    Attributes:
        opposite: int32 ``[T, 3]``: vertex across edge k, the edge that faces vertex k; -1 = open.
        native: The backend's own table of the same triangles, where it has one (nvdiffrast);
            a topology without it serves every backend.
    """

    opposite: torch.Tensor
    native: object | None = None


class Backend(Protocol):
    """The ops on checked, contiguous tensors; see :mod:`.functional` for their meaning.

    ``pos`` is ``[B, V, 4]``, or ``[V, 4]`` where the images share one buffer (range mode).
    """

    name: str

    def rasterize(
        self,
        pos: torch.Tensor,
        tri: torch.Tensor,
        resolution: tuple[int, int],
        ranges: torch.Tensor | None,
        want_db: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``rast [B, H, W, 4]`` and ``rast_db [B, H, W, 4 or 0]``."""
        ...

    def interpolate(
        self, attr: torch.Tensor, rast: torch.Tensor, tri: torch.Tensor
    ) -> torch.Tensor:
        """Return ``[B, H, W, C]``; ``attr`` is ``[A, V, C]`` with A = B, or 1 = shared."""
        ...

    def antialias(
        self,
        color: torch.Tensor,
        rast: torch.Tensor,
        pos: torch.Tensor,
        tri: torch.Tensor,
        topology: Topology,
        pos_gradient_boost: float,
    ) -> torch.Tensor:
        """Return the blended ``color [B, H, W, C]``."""
        ...

    def build_topology(self, tri: torch.Tensor) -> Topology:
        """Find the neighbours of every triangle."""
        ...
