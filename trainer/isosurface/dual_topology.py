"""Integer work of dual marching cubes over a batch: which cubes are cut, which vertices and quads.

Two implementations with the same output, as for marching tetrahedra: numba on the CPU and torch on
any device. Nothing here is differentiable and nothing depends on more than the signs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import torch
from torch import nn

from .cubes import AROUND_EDGES, AROUND_STEPS, DUAL, CubeGrid


@dataclass(frozen=True)
class CutCells:
    """The cubes that the surfaces pass through, samples one after the other.

    Attributes:
        sample: int64 ``[M]``, sample of each cut cube.
        cell: int64 ``[M]``, its row in ``CubeGrid.cubes``; ascending within a sample.
        crossing: int64 ``[I, 3]``: row (of ``cell``), edge (of ``CUBE_EDGES``) and dual vertex of
            every cut edge of every cut cube.
        vertex_row: int64 ``[D]``, the row of ``cell`` that each dual vertex lies in.
        quads: int64 ``[Q, 4]``, dual vertices, counter-clockwise = outside.
        batch: Number of samples.
    """

    sample: torch.Tensor
    cell: torch.Tensor
    crossing: torch.Tensor
    vertex_row: torch.Tensor
    quads: torch.Tensor
    batch: int

    def __len__(self) -> int:
        return len(self.cell)

    @property
    def vertex_sample(self) -> torch.Tensor:
        """int64 ``[D]``, the sample of each dual vertex."""
        return self.sample[self.vertex_row]

    @property
    def quad_sample(self) -> torch.Tensor:
        """int64 ``[Q]``, the sample of each quad."""
        return self.sample[self.vertex_row[self.quads[:, 0]]]


class DualTopology(nn.Module):
    """``inside bool [B, V] -> CutCells`` on one grid."""

    patch: torch.Tensor
    patches: torch.Tensor
    double_face: torch.Tensor
    around_steps: torch.Tensor
    around_edges: torch.Tensor

    def __init__(self, grid: CubeGrid) -> None:
        super().__init__()
        self.grid = grid
        for name, array in (
            ("patch", DUAL.patch),
            ("patches", DUAL.patches),
            ("double_face", DUAL.double_face),
            ("around_steps", AROUND_STEPS),
            ("around_edges", AROUND_EDGES),
        ):
            self.register_buffer(name, torch.from_numpy(array.copy()), persistent=False)

    def forward(self, inside: torch.Tensor) -> CutCells:
        """Find the cut cubes; compiled loops on the CPU, torch elsewhere."""
        if inside.device.type != "cpu":
            return self.by_torch(inside)
        volume = inside.numpy().reshape(-1, *self.grid.shape)
        parts = _topology_kernel(volume, *DUAL, AROUND_STEPS, AROUND_EDGES)
        sample, cell, crossing, vertex_row, quads = (torch.from_numpy(part) for part in parts)
        return CutCells(sample, cell, crossing, vertex_row, quads, len(inside))

    def by_torch(self, inside: torch.Tensor) -> CutCells:
        """The same on any device."""
        n = self.grid.resolution
        code = self._codes(inside)  # [B, n^3]
        sample, cell = torch.nonzero((code > 0) & (code < 255)).unbind(1)
        place = torch.stack([cell // (n * n), cell // n % n, cell % n], dim=1)
        own = code[sample, cell].long()
        case = own + 256 * self._flipped(code, own, sample, place)
        count = self.patches[case]
        first = torch.cumsum(count, 0) - count
        local = self.patch[case]  # [M, 12]
        row, edge = torch.nonzero(local >= 0).unbind(1)
        crossing = torch.stack([row, edge, first[row] + local[row, edge]], dim=1)
        vertex_row = torch.repeat_interleave(torch.arange(len(cell), device=cell.device), count)

        # A quad for every cut edge that has four cubes around it, found from the cube it starts in.
        surrounded = torch.stack([(place.roll(-a, 1)[:, 1:] > 0).all(dim=1) for a in range(3)], 1)
        row, axis = torch.nonzero((local[:, self.around_edges[:, 2]] >= 0) & surrounded).unbind(1)
        step = self.around_steps @ torch.tensor([n * n, n, 1], device=cell.device)  # [3, 4]
        row_of = torch.zeros(code.shape, dtype=torch.int32, device=cell.device)
        row_of[sample, cell] = torch.arange(len(cell), dtype=torch.int32, device=cell.device)
        around = row_of[sample[row][:, None], cell[row][:, None] + step[axis]].long()
        quads = first[around] + self.patch[case[around], self.around_edges[axis]]
        starts_inside = (own[row] & 1).bool()[:, None]
        quads = torch.where(starts_inside, quads, quads[:, [0, 3, 2, 1]])
        return CutCells(sample, cell, crossing, vertex_row, quads, len(inside))

    def _codes(self, inside: torch.Tensor) -> torch.Tensor:
        """uint8 ``[B, n^3]``."""
        volume = inside.reshape(-1, *self.grid.shape).to(torch.uint8)
        for axis, weight in ((1, 16), (2, 4), (3, 2)):
            size = volume.shape[axis] - 1
            volume = volume.narrow(axis, 0, size) + weight * volume.narrow(axis, 1, size)
        return volume.flatten(1)

    def _flipped(
        self, code: torch.Tensor, own: torch.Tensor, sample: torch.Tensor, place: torch.Tensor
    ) -> torch.Tensor:
        """Whether a cube's double face is also the double face of the neighbour behind it."""
        n = self.grid.resolution
        face = self.double_face[own]
        axis, side = face.clamp(min=0) // 2, face.clamp(min=0) % 2
        step = torch.zeros_like(place).scatter_(1, axis[:, None], (2 * side - 1)[:, None])
        other = place + step
        within = ((other >= 0) & (other < n)).all(dim=1)
        x, y, z = other.clamp(0, n - 1).unbind(1)
        neighbour = code[sample, (x * n + y) * n + z].long()
        return (face >= 0) & within & (self.double_face[neighbour] == (face ^ 1))


@numba.njit(cache=True, nogil=True)
def _codes_kernel(inside, code):  # type: ignore[no-untyped-def]
    # Codes of one sample's cubes [n, n, n]; returns how many are cut.
    n = code.shape[0]
    cut = 0
    for x in range(n):
        for y in range(n):
            low = 0
            for z in range(n + 1):
                high = (
                    inside[x, y, z]
                    + 4 * inside[x, y + 1, z]
                    + 16 * inside[x + 1, y, z]
                    + 64 * inside[x + 1, y + 1, z]
                )
                if z > 0:
                    own = low + 2 * high
                    code[x, y, z - 1] = own
                    cut += own > 0 and own < 255
                low = high
    return cut


@numba.njit(cache=True, nogil=True)
def _case_kernel(code, x, y, z, double_face):  # type: ignore[no-untyped-def]
    # Row of the patch table of one cube; see DualTopology._flipped.
    own = np.int64(code[x, y, z])
    face = double_face[own]
    if face < 0:
        return own
    place = np.array([x, y, z])
    place[face // 2] += 2 * (face % 2) - 1
    at = place[face // 2]
    if at < 0 or at >= code.shape[0]:
        return own
    other = double_face[code[place[0], place[1], place[2]]]
    return own + 256 if other == face ^ 1 else own


@numba.njit(cache=True, nogil=True)
def _cells_kernel(code, sample, patches, double_face, row, vertex, out):  # type: ignore[no-untyped-def]
    # Rows (sample, cell, case, first vertex) of one sample's cut cubes; the next row and vertex.
    n = code.shape[0]
    for x in range(n):
        for y in range(n):
            for z in range(n):
                if code[x, y, z] == 0 or code[x, y, z] == 255:
                    continue
                case = _case_kernel(code, x, y, z, double_face)
                out[row, 0] = sample
                out[row, 1] = (x * n + y) * n + z
                out[row, 2] = case
                out[row, 3] = vertex
                row += 1
                vertex += patches[case]
    return row, vertex


@numba.njit(cache=True, nogil=True)
def _quads_kernel(cells, start, end, n, row_of, patch, steps, edges, quads, quad):  # type: ignore[no-untyped-def]
    # Quads of one sample, whose cut cubes are the rows start..end; the next free quad.
    for row in range(start, end):
        row_of[cells[row, 1]] = row
    for row in range(start, end):
        cell, case = cells[row, 1], cells[row, 2]
        place = (cell // (n * n), cell // n % n, cell % n)
        for axis in range(3):
            b, c = place[(axis + 1) % 3], place[(axis + 2) % 3]
            if b == 0 or c == 0 or patch[case, edges[axis, 2]] < 0:
                continue
            for turn in range(4):
                step = steps[axis, turn]
                other = row_of[cell + (step[0] * n + step[1]) * n + step[2]]
                vertex = cells[other, 3] + patch[cells[other, 2], edges[axis, turn]]
                quads[quad, turn if case & 1 else (4 - turn) % 4] = vertex
            quad += 1
    return quad


@numba.njit(cache=True, nogil=True)
def _topology_kernel(inside, patch, patches, double_face, steps, edges):  # type: ignore[no-untyped-def]
    # sample, cell, crossing, vertex_row, quads of CutCells; see DualTopology.by_torch.
    batch, n = inside.shape[0], inside.shape[1] - 1
    code = np.zeros((batch, n, n, n), np.uint8)
    starts = np.zeros(batch + 1, np.int64)
    for b in range(batch):
        starts[b + 1] = starts[b] + _codes_kernel(inside[b], code[b])
    cells = np.zeros((starts[batch], 4), np.int64)
    vertices = 0
    row = 0
    for b in range(batch):
        row, vertices = _cells_kernel(code[b], b, patches, double_face, row, vertices, cells)
    total = 0
    for row in range(len(cells)):
        for edge in range(12):
            total += patch[cells[row, 2], edge] >= 0
    crossing = np.zeros((total, 3), np.int64)
    vertex_row = np.zeros(vertices, np.int64)
    at = 0
    for row in range(len(cells)):
        first = cells[row, 3]
        for edge in range(12):
            local = patch[cells[row, 2], edge]
            if local >= 0:
                crossing[at, 0] = row
                crossing[at, 1] = edge
                crossing[at, 2] = first + local
                vertex_row[first + local] = row
                at += 1
    # Every quad belongs to an edge that four cubes see.
    quads = np.zeros((total // 4, 4), np.int64)
    row_of = np.zeros(n * n * n, np.int64)
    quad = 0
    for b in range(batch):
        quad = _quads_kernel(
            cells, starts[b], starts[b + 1], n, row_of, patch, steps, edges, quads, quad
        )
    return cells[:, 0].copy(), cells[:, 1].copy(), crossing, vertex_row, quads[:quad].copy()
