"""FlexiCubes over a batch: dual marching cubes with weights that gradients can move.

Shen et al., "Flexible Isosurface Extraction for Gradient-Based Mesh Optimization", SIGGRAPH 2023,
written from the paper. The mesh has a vertex for every patch of the surface in a cube
(:mod:`.cubes`), a weighted mean of the points where the field crosses the cube's edges, and a quad
for every cut grid edge. Positive is inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from .cubes import CUBE_EDGES, CubeGrid
from .dual_topology import CutCells, DualTopology
from .marching import MeshBatch


@dataclass(frozen=True)
class CubeWeights:
    """Weights of the cubes, all positive; None stands for ones.

    Either of every cube (``[B, cubes, ...]``) or of the cut cubes only (``[M, ...]``, the rows of
    :class:`CutCells`), which is what costs follow the surface with.

    Attributes:
        alpha: ``[..., 8]`` scales the field at the corners of ``CORNERS``: where along an edge
            this cube sees the crossing.
        beta: ``[..., 12]`` of the edges of ``CUBE_EDGES``: the share of a crossing in the vertex.
        gamma: ``[...]`` how quads are split; only products of opposite cubes count.
    """

    alpha: torch.Tensor | None = None
    beta: torch.Tensor | None = None
    gamma: torch.Tensor | None = None

    def at(self, cells: CutCells) -> CubeWeights:
        """The rows of the cut cubes, from weights of every cube."""
        picked = (
            None if weight is None else weight[cells.sample, cells.cell]
            for weight in (self.alpha, self.beta, self.gamma)
        )
        return CubeWeights(*picked)


class FlexiMesh(NamedTuple):
    """Meshes and their regulariser.

    Attributes:
        meshes: The surfaces.
        deviation: ``[B]``, L_dev of each sample; 0 where there is no surface.
    """

    meshes: MeshBatch
    deviation: torch.Tensor


class FlexiCubes(nn.Module):
    """``sdf [B, V], offsets [B, V, 3], weights -> MeshBatch`` on one grid of cubes.

    In training mode a quad becomes four triangles around a middle vertex, through which gradients
    reach ``gamma``; in eval mode two, along the diagonal whose product of gammas is larger.
    """

    vertices: torch.Tensor
    ends: torch.Tensor
    corner_steps: torch.Tensor

    def __init__(self, grid: CubeGrid) -> None:
        super().__init__()
        self.grid = grid
        self.topology = DualTopology(grid)
        for name, array in (
            ("vertices", grid.vertices),
            ("ends", CUBE_EDGES),
            ("corner_steps", grid.corner_steps),
        ):
            self.register_buffer(name, torch.from_numpy(array.copy()), persistent=False)

    def forward(
        self,
        sdf: torch.Tensor,
        offsets: torch.Tensor | None = None,
        weights: CubeWeights | None = None,
    ) -> MeshBatch:
        """Extract the zero level sets.

        Args:
            sdf: ``[B, V]``, positive inside; closed surfaces need the hull outside.
            offsets: ``[B, V, 3]`` added to the grid's vertices, or None.
            weights: Of every cube, ``[B, cubes, ...]``, or None for ones.
        """
        cells = self.cut_cells(sdf)
        return self.extract(cells, sdf, offsets, weights and weights.at(cells)).meshes

    def cut_cells(self, sdf: torch.Tensor) -> CutCells:
        """The cubes that the surfaces pass through: those whose weights are needed."""
        return self.topology((sdf > 0).detach())

    def corners(self, cells: CutCells) -> torch.Tensor:
        """int64 ``[M, 8]``: the nodes of the cut cubes."""
        n = self.grid.resolution
        x, y, z = cells.cell // (n * n), cells.cell // n % n, cells.cell % n
        return ((x * (n + 1) + y) * (n + 1) + z)[:, None] + self.corner_steps

    def extract(
        self,
        cells: CutCells,
        sdf: torch.Tensor,
        offsets: torch.Tensor | None = None,
        weights: CubeWeights | None = None,
    ) -> FlexiMesh:
        """Meshes and regulariser from cut cubes whose weights are known.

        Args:
            cells: Of :meth:`cut_cells` for the same ``sdf``.
            sdf: ``[B, V]``.
            offsets: ``[B, V, 3]`` or None.
            weights: Of the cut cubes only, ``[M, ...]``, or None for ones.
        """
        weights = weights or CubeWeights()
        row, edge, vertex = cells.crossing.unbind(1)
        point = self._crossings(cells, sdf, offsets, weights.alpha)
        share = point.new_ones(len(row)) if weights.beta is None else weights.beta[row, edge]
        total = point.new_zeros(len(cells.vertex_row)).index_add(0, vertex, share)
        share = share / total[vertex]
        dual = point.new_zeros(len(total), 3).index_add(0, vertex, share[:, None] * point)
        return FlexiMesh(
            self._triangulate(cells, dual, weights.gamma), _deviation(cells, point, dual)
        )

    def _crossings(
        self,
        cells: CutCells,
        sdf: torch.Tensor,
        offsets: torch.Tensor | None,
        alpha: torch.Tensor | None,
    ) -> torch.Tensor:
        """Zeros of ``alpha * sdf`` on the cut edges of each cut cube: ``[I, 3]``."""
        row, edge, _ = cells.crossing.unbind(1)
        ends = self.ends[edge]  # [I, 2]
        start = (cells.sample * sdf.shape[1])[:, None]
        corners = self.corners(cells)
        node = corners[row[:, None], ends]  # [I, 2]
        flat = start[row] + node
        value = sdf.reshape(-1)[flat]
        position = self.vertices[node]
        if offsets is not None:
            position = position + offsets.reshape(-1, 3)[flat]
        if alpha is not None:
            value = value * alpha[row[:, None], ends]
        a, b = value.unbind(1)
        at = (a / (a - b))[:, None]
        return position[:, 0] + at * (position[:, 1] - position[:, 0])

    def _triangulate(
        self, cells: CutCells, dual: torch.Tensor, gamma: torch.Tensor | None
    ) -> MeshBatch:
        """Quads to triangles."""
        quads = cells.quads
        corner = dual[quads]  # [Q, 4, 3]
        if gamma is None:
            weight = dual.new_ones(len(quads), 2)
        else:
            own = gamma[cells.vertex_row][quads]
            weight = torch.stack([own[:, 0] * own[:, 2], own[:, 1] * own[:, 3]], dim=1)
        quad_count = torch.bincount(cells.quad_sample, minlength=cells.batch)
        if not self.training:
            faces = _two_triangles(quads, corner.detach(), weight.detach())
            return _packed(dual, faces, cells.vertex_sample, 2 * quad_count)
        middle = 0.5 * torch.stack([corner[:, 0] + corner[:, 2], corner[:, 1] + corner[:, 3]], 1)
        middle = (middle * weight[..., None]).sum(dim=1) / weight.sum(dim=1, keepdim=True)
        # Middles come after the dual vertices of their own sample.
        sample = cells.vertex_sample
        dual_count = torch.bincount(sample, minlength=cells.batch)
        quads_before = torch.cumsum(quad_count, 0) - quad_count
        dual_row = torch.arange(len(dual), device=dual.device) + quads_before[sample]
        middle_row = (
            torch.arange(len(quads), device=dual.device)
            + torch.cumsum(dual_count, 0)[cells.quad_sample]
        )
        order = torch.cat([dual_row, middle_row])
        place = torch.zeros_like(order)
        place[order] = torch.arange(len(order), device=dual.device)
        vertices = torch.cat([dual, middle])[place]
        vertex_sample = torch.cat([sample, cells.quad_sample])[place]
        first = dual_row[quads]
        faces = torch.stack(
            [first, first.roll(-1, 1), middle_row[:, None].expand(-1, 4)], dim=-1
        ).reshape(-1, 3)
        return _packed(vertices, faces, vertex_sample, 4 * quad_count)


def _two_triangles(quads: torch.Tensor, corner: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Split quads ``[Q, 4]`` on the diagonal of more weight, on the shorter one if they tie."""
    across = (corner[:, :2] - corner[:, 2:]).square().sum(dim=-1)  # [Q, 2]: 0-2 and 1-3
    tie = weight[:, 0] == weight[:, 1]
    first = torch.where(tie, across[:, 0] <= across[:, 1] * (1 + 1e-5), weight[:, 0] > weight[:, 1])
    along = torch.where(first[:, None], quads, quads.roll(-1, 1))  # the diagonal is now 0-2
    return along[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)


def _packed(
    vertices: torch.Tensor,
    faces: torch.Tensor,
    vertex_sample: torch.Tensor,
    face_counts: torch.Tensor,
) -> MeshBatch:
    start = torch.cumsum(face_counts, 0) - face_counts
    ranges = torch.stack([start, face_counts], dim=1).int().cpu()
    return MeshBatch(vertices, faces.int(), vertex_sample, ranges)


def _deviation(cells: CutCells, point: torch.Tensor, dual: torch.Tensor) -> torch.Tensor:
    """L_dev of the paper: how unequal the distances of a vertex to its crossings are.

    The mean absolute deviation of the distances at each vertex, averaged over the vertices of a
    sample (grid units): ``[B]``.
    """
    vertex = cells.crossing[:, 2]
    # The square root has no gradient at 0, where a vertex sits on its crossing.
    distance = (point - dual[vertex]).square().sum(dim=1).clamp(min=1e-20).sqrt()
    count = torch.bincount(vertex, minlength=len(dual)).to(point.dtype)
    mean = point.new_zeros(len(dual)).index_add(0, vertex, distance) / count
    spread = (distance - mean[vertex]).abs() / count[vertex]
    sample = cells.vertex_sample
    total = point.new_zeros(cells.batch).index_add(0, sample[vertex], spread)
    return total / torch.bincount(sample, minlength=cells.batch).clamp(min=1)
