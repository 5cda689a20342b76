"""What every generator network offers: codes in, a textured field out, wherever it is asked for.

Three networks have this interface: :class:`~.compact.CompactNetwork` (small, for a CPU),
:class:`~.shared.SharedNetwork` (GET3D appendix A.5) and :class:`~.separate.SeparateNetwork` (GET3D
section 3.1). All coordinates are in [-1, 1]: the cube of the grid. Outputs are raw: initial shape,
bounds of the offsets and hull belong to the caller.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from ..isosurface.grid import TetGrid
from .mapping import Codes
from .triplane import interpolation_matrix

CUBE_WEIGHTS = 21
"""FlexiCubes: 12 edge weights, 8 corner weights, 1 quad weight a cube."""
CORNERS = tuple((i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1))
"""Corners (x, y, z) of a cube in the order in which their features are joined."""


class FieldValues(NamedTuple):
    """Raw values of the geometry networks.

    Attributes:
        sdf: ``[B, V]``, positive inside.
        offsets: ``[B, V, 3]``.
        weights: ``[B, cubes, 21]`` for FlexiCubes, cubes in C order over (x, y, z); or None.
    """

    sdf: torch.Tensor
    offsets: torch.Tensor
    weights: torch.Tensor | None = None


class Lattices:
    """Nodes on one or more cubic lattices, each the product of one axis with itself.

    A field on such nodes is evaluated by a few matrix products, without visiting the nodes. Nodes
    are numbered lattice by lattice, each in C order over (x, y, z).

    Args:
        axes: Increasing coordinates ``[N]`` in [-1, 1] of each lattice.
    """

    def __init__(self, *axes: np.ndarray) -> None:
        self.axes = tuple(torch.as_tensor(axis, dtype=torch.float64, device="cpu") for axis in axes)
        self._matrices: dict[tuple[Any, ...], torch.Tensor] = {}

    @classmethod
    def of_tets(cls, grid: TetGrid) -> Lattices:
        """The nodes of a body-centred cubic grid, in its order."""
        return cls(grid.corner_axis, grid.center_axis)

    @classmethod
    def of_cubes(cls, resolution: int) -> Lattices:
        """The ``(resolution + 1)^3`` corners of cubes."""
        return cls(np.linspace(-1.0, 1.0, resolution + 1))

    def __len__(self) -> int:
        return sum(len(axis) ** 3 for axis in self.axes)

    @cached_property
    def points(self) -> torch.Tensor:
        """All nodes ``[V, 3]`` (float32, CPU)."""
        parts = [torch.stack(torch.meshgrid(a, a, a, indexing="ij"), dim=-1) for a in self.axes]
        return torch.cat([part.reshape(-1, 3) for part in parts]).float()

    def matrices(self, resolution: int, like: torch.Tensor) -> list[torch.Tensor]:
        """Interpolation matrix ``[N, resolution]`` of each lattice; device and dtype of ``like``.

        They are kept, so asking again costs nothing.
        """
        out = []
        for i, axis in enumerate(self.axes):
            key = (i, resolution, like.device, like.dtype)
            if key not in self._matrices:
                with torch.device("cpu"):
                    matrix = interpolation_matrix(axis, resolution)
                self._matrices[key] = matrix.to(like.device, like.dtype)
            out.append(self._matrices[key])
        return out


Where = Lattices | torch.Tensor
"""Where to evaluate: lattices (fast), or points ``[P, 3]`` or ``[B, P, 3]``."""


def as_points(where: Where, like: torch.Tensor) -> torch.Tensor:
    """``where`` as points ``[B, P, 3]`` on the device of ``like [B, ...]``."""
    points = where.points if isinstance(where, Lattices) else where
    points = points.to(like.device, like.dtype)
    return points if points.dim() == 3 else points.expand(len(like), -1, -1)


class FieldNetwork(Protocol):
    """A generator network. ``features`` is whatever its :meth:`planes` gave."""

    num_ws_geo: int
    num_ws_tex: int

    def map(
        self,
        z_geo: torch.Tensor,
        z_tex: torch.Tensor,
        psi: float = 1.0,
        label: torch.Tensor | None = None,
    ) -> Codes:
        """``z [B, z_dim]`` twice, truncation, one-hot ``label [B, label_dim]`` -> rows of w."""

    def track(self, codes: Codes, label: torch.Tensor | None = None) -> None:
        """Move the means of w towards those of a batch that was not truncated."""

    def planes(self, codes: Codes) -> Any:
        """Run the convolutions: feature planes and volumes of a batch."""

    def geometry(self, features: Any, codes: Codes, where: Where) -> FieldValues:
        """All that the isosurface needs at the nodes; weights on one lattice of cubes only."""

    def nodes(self, features: Any, codes: Codes, where: Where) -> tuple[torch.Tensor, torch.Tensor]:
        """Raw signed distances ``[B, V]`` and offsets ``[B, V, 3]``."""

    def sdf(self, features: Any, codes: Codes, where: Where) -> torch.Tensor:
        """Raw signed distances alone ``[B, V]``."""

    def offsets(self, features: Any, codes: Codes, where: Where) -> torch.Tensor:
        """Raw offsets alone ``[B, V, 3]``."""

    def cube_weights(
        self, features: Any, codes: Codes, where: Lattices | torch.Tensor
    ) -> torch.Tensor:
        """FlexiCubes weights ``[B, K, 21]`` of all cubes of a lattice, or of K cubes.

        K cubes are given by their corners ``[K, 8, 3]`` or ``[B, K, 8, 3]`` in the order of
        ``CORNERS``.
        """

    def colors(self, features: Any, codes: Codes, points: torch.Tensor) -> torch.Tensor:
        """SRGB ``[B, P, 3]``, nominally in [0, 1], at ``points [B, P, 3]``."""
