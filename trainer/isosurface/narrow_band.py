"""A field on a fine grid at a cost that follows the surface: coarse first, then near the surface.

The field is evaluated on every ``factor``-th node; coarse cells that may hold surface are evaluated
node by node, and all other nodes get the interpolation of the coarse values, whose sign is that of
the cell's corners. A last step makes the result safe: wherever the surface runs between two nodes
of which one was only interpolated, both are evaluated, until no such edge is left. So every
vertex of the mesh comes from true values, and the surface is followed out of the marked cells.
What can be lost is a component, or a hole, that lies in unmarked cells as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F

from .cubes import CubeGrid
from .grid import TetGrid

Field = Callable[[torch.Tensor], torch.Tensor]
"""``points [B, P, 3] -> [B, P]``, or ``[B, P, K]`` with the signed distance first."""


@dataclass(frozen=True)
class NarrowBand:
    """A field on all nodes, true near the surface.

    Attributes:
        values: ``[B, V]`` or ``[B, V, K]``, differentiable.
        evaluated: bool ``[B, V]``, nodes whose values are true; the others are interpolated.
        share: Mean share of the nodes that the field was evaluated on.
    """

    values: torch.Tensor
    evaluated: torch.Tensor
    share: float


def narrow_band(
    evaluate: Field,
    grid: CubeGrid | TetGrid,
    factor: int = 4,
    margin: float = 1.0,
    *,
    batch: int = 1,
    device: torch.device | str = "cpu",
) -> NarrowBand:
    """Evaluate ``evaluate`` on ``grid`` where its surface may be.

    A coarse cell is marked if its corners differ in sign, or if the smallest of their values is at
    most ``margin * slope * d``: ``d`` is half the cell's diagonal, the farthest that a point can
    be from the nearest corner, and ``slope`` the largest that the coarse values show in the cell
    and its neighbours. A margin of 1 marks every cell that holds surface if ``slope`` bounds the
    gradient there.

    Args:
        evaluate: The field; a sample with fewer points than others gets repeated ones.
        grid: Cubes, or the corners and centres of the BCC grid.
        factor: Nodes along an axis for one coarse node (at least 2).
        margin: Of the bound; smaller is cheaper and may lose thin parts.
        batch: Samples.
        device: Where the points are made.

    Raises:
        ValueError: ``factor`` below 2 or not below the grid's resolution.
    """
    if not 2 <= factor < grid.resolution:
        raise ValueError(f"factor {factor} is not in 2..{grid.resolution - 1}")
    lattice = _Lattice(grid, factor, device)
    coarse_points = lattice.points(lattice.coarse_nodes)
    raw = evaluate(coarse_points.expand(batch, -1, -1))
    coarse = raw if raw.ndim == 3 else raw[..., None]  # [B, m^3, K]
    values = lattice.interpolate(coarse)  # [B, V, K]
    near = lattice.near(coarse[..., 0].detach(), margin)
    evaluated = torch.zeros(values.shape[:2], dtype=torch.bool, device=values.device)
    evaluated[:, lattice.coarse_nodes] = True
    wanted = lattice.nodes_of(near) & ~evaluated
    while wanted.any():
        values = _fill(evaluate, lattice, values, wanted)
        evaluated |= wanted
        wanted = lattice.unsafe(values[..., 0].detach() > 0, evaluated)
    return NarrowBand(
        values if raw.ndim == 3 else values[..., 0], evaluated, float(evaluated.float().mean())
    )


def _fill(
    evaluate: Field, lattice: _Lattice, values: torch.Tensor, wanted: torch.Tensor
) -> torch.Tensor:
    """``values`` with the ``wanted`` nodes evaluated, samples padded to the longest."""
    sample, node = torch.nonzero(wanted).unbind(1)
    count = wanted.sum(dim=1)
    slot = torch.arange(len(sample), device=node.device) - (torch.cumsum(count, 0) - count)[sample]
    table = torch.zeros(len(wanted), int(count.max()), dtype=torch.int64, device=node.device)
    table[sample, slot] = node
    fresh = evaluate(lattice.points(table))
    fresh = fresh if fresh.ndim == 3 else fresh[..., None]
    return values.index_put((sample, node), fresh[sample, slot])


class _Lattice:
    """The nodes of a grid as one or two cubic lattices, over a coarse lattice of corners."""

    def __init__(self, grid: CubeGrid | TetGrid, factor: int, device: torch.device | str) -> None:
        n = self.n = grid.resolution
        self.centers = isinstance(grid, TetGrid)
        axis = torch.from_numpy(grid.corner_axis)
        middle = axis[:-1] + 0.5 * grid.cell
        self.axis, self.middle = axis.float().to(device), middle.float().to(device)
        # The last coarse cell is smaller where the factor does not divide the resolution.
        self.coarse = torch.tensor(sorted({*range(0, n, factor), n}), device=device)
        self.width = (self.axis[self.coarse].diff()).to(device)
        self.cell_of = torch.bucketize(
            torch.arange(n, device=device), self.coarse[1:], right=True
        )  # [n]: coarse cell of a fine cell
        side = n + 1
        i, j, k = torch.meshgrid(self.coarse, self.coarse, self.coarse, indexing="ij")
        self.coarse_nodes = ((i * side + j) * side + k).flatten()
        self.to_corner = self._matrix(self.axis)
        self.to_center = self._matrix(self.middle)

    def _matrix(self, coordinates: torch.Tensor) -> torch.Tensor:
        """Linear interpolation from the coarse nodes of an axis: ``[len(coordinates), m]``."""
        at = self.axis[self.coarse]
        low = (torch.bucketize(coordinates, at, right=True) - 1).clamp(0, len(at) - 2)
        fraction = (coordinates - at[low]) / self.width[low]
        matrix = coordinates.new_zeros(len(coordinates), len(at))
        rows = torch.arange(len(coordinates), device=at.device)
        matrix[rows, low] = 1 - fraction
        matrix[rows, low + 1] = fraction
        return matrix

    def points(self, nodes: torch.Tensor) -> torch.Tensor:
        """Positions ``[..., 3]`` of nodes by number: the same as ``grid.vertices[nodes]``."""
        side = self.n + 1
        corner = nodes.clamp(max=side**3 - 1)
        index = (corner // (side * side), corner // side % side, corner % side)
        position = torch.stack([self.axis[i] for i in index], dim=-1)
        if not self.centers:
            return position
        center = (nodes - side**3).clamp(min=0)
        index = (center // self.n**2, center // self.n % self.n, center % self.n)
        other = torch.stack([self.middle[i] for i in index], dim=-1)
        return torch.where((nodes < side**3)[..., None], position, other)

    def interpolate(self, coarse: torch.Tensor) -> torch.Tensor:
        """``[B, m^3, K] -> [B, V, K]``."""
        m = len(self.coarse)
        volume = coarse.reshape(len(coarse), m, m, m, -1)
        parts = []
        for matrix in (self.to_corner, self.to_center) if self.centers else (self.to_corner,):
            matrix = matrix.to(coarse.dtype)
            fine = volume
            for _ in range(3):  # the first axis goes to the end: x, y, z in turn
                fine = torch.tensordot(fine, matrix, dims=([1], [1]))
            # Axes are now B, K, x, y, z.
            parts.append(fine.flatten(2).transpose(1, 2))
        return torch.cat(parts, dim=1)

    def near(self, coarse: torch.Tensor, margin: float) -> torch.Tensor:
        """Bool ``[B, m-1, m-1, m-1]``: coarse cells that may hold surface."""
        m = len(self.coarse)
        volume = coarse.reshape(-1, 1, m, m, m)
        square = torch.zeros_like(volume[:, :, 1:, 1:, 1:])
        for axis in range(3):
            width = self.width.reshape([-1 if a == axis else 1 for a in range(3)])
            slope = volume.diff(dim=axis + 2).abs() / width
            window = [1 if a == axis else 2 for a in range(3)]
            square = square + F.max_pool3d(slope, window, stride=1).square()
        slope = F.max_pool3d(square.sqrt(), 3, stride=1, padding=1)
        w = self.width
        half = 0.5 * (w[:, None, None] ** 2 + w[:, None] ** 2 + w**2).sqrt()
        smallest = -F.max_pool3d(-volume.abs(), 2, stride=1)
        positive = (volume > 0).to(volume.dtype)
        mixed = F.max_pool3d(positive, 2, stride=1) + F.max_pool3d(-positive, 2, stride=1) > 0
        return (mixed | (smallest <= margin * slope * half))[:, 0]

    def nodes_of(self, near: torch.Tensor) -> torch.Tensor:
        """Bool ``[B, V]``: fine nodes in the closure of marked coarse cells."""
        fine = near[:, self.cell_of][:, :, self.cell_of][:, :, :, self.cell_of]
        corner = fine
        for axis in (1, 2, 3):
            empty = torch.zeros_like(corner.narrow(axis, 0, 1))
            corner = torch.cat([corner, empty], axis) | torch.cat([empty, corner], axis)
        parts = [corner.flatten(1)] + ([fine.flatten(1)] if self.centers else [])
        return torch.cat(parts, dim=1)

    def unsafe(self, inside: torch.Tensor, evaluated: torch.Tensor) -> torch.Tensor:
        """Bool ``[B, V]``: nodes not evaluated on edges that the surface cuts."""
        wanted = torch.zeros_like(evaluated)
        views = zip(self._pairs(inside), self._pairs(~evaluated), self._pairs(wanted), strict=True)
        for (in_a, in_b), (open_a, open_b), (want_a, want_b) in views:
            cut = in_a != in_b
            want_a |= cut & open_a
            want_b |= cut & open_b
        return wanted

    def _pairs(self, nodes: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Views of the two ends of all inner edges, one direction after the other."""
        n, side = self.n, self.n + 1
        corner = nodes[:, : side**3].view(-1, side, side, side)
        for axis in (1, 2, 3):
            yield corner.narrow(axis, 0, n), corner.narrow(axis, 1, n)
        if not self.centers:
            return
        center = nodes[:, side**3 :].view(-1, n, n, n)
        for axis in (1, 2, 3):
            yield center.narrow(axis, 0, n - 1), center.narrow(axis, 1, n - 1)
        for i, j, k in product((0, 1), repeat=3):
            yield corner[:, i : i + n, j : j + n, k : k + n], center
