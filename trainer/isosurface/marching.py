"""Marching tetrahedra over a batch of signed distance fields, in one pass.

Positive is inside. A vertex lies on every grid edge whose ends differ in sign, where the linear
interpolation of the field is zero; a tetrahedron gives one or two triangles. Only *where* things
are is differentiable; *which* edges and triangles there are is integer work and has two
implementations with the same output: torch (any device) and numba (CPU).
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import torch
from torch import nn

from .grid import TET_EDGES, TetGrid


@dataclass(frozen=True)
class MeshBatch:
    """The meshes of a batch, packed one after the other.

    Attributes:
        vertices: ``[sum V, 3]``, differentiable.
        faces: int32 ``[sum F, 3]``, rows of ``vertices``; counter-clockwise = outside.
        vertex_sample: int64 ``[sum V]``, the sample that a vertex belongs to.
        face_ranges: int32 ``[B, 2]`` on the CPU, (start, count) of each sample's faces.
    """

    vertices: torch.Tensor
    faces: torch.Tensor
    vertex_sample: torch.Tensor
    face_ranges: torch.Tensor

    def __len__(self) -> int:
        return len(self.face_ranges)

    def sample(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """``(vertices [V, 3], faces [F, 3])`` of one sample, faces starting at 0."""
        start, count = self.face_ranges[index].tolist()
        rows = torch.nonzero(self.vertex_sample == index).flatten()
        first = int(rows[0]) if len(rows) else 0
        return self.vertices[rows], self.faces[start : start + count].long() - first


def _triangle_table() -> np.ndarray:
    """``[16, 2, 3]``: local edges of the triangles of each sign pattern, -1 where there is none.

    Derived, not typed in: for a positively oriented tetrahedron the triangles are ordered so that
    their normals point from the inside corners to the outside ones.
    """
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
    table = np.full((16, 2, 3), -1, dtype=np.int64)
    for code in range(1, 15):
        inside = [k for k in range(4) if code >> k & 1]
        cut = [e for e, (a, b) in enumerate(TET_EDGES) if (a in inside) != (b in inside)]
        middle = {e: corners[TET_EDGES[e]].mean(axis=0) for e in cut}
        outside = [k for k in range(4) if k not in inside]
        outward = corners[outside].mean(axis=0) - corners[inside].mean(axis=0)
        if len(cut) == 4:  # a quad: order it around, then split it on a diagonal
            first = cut[0]
            opposite = next(e for e in cut if not set(TET_EDGES[e]) & set(TET_EDGES[first]))
            side = [e for e in cut if e not in (first, opposite)]
            triangles = [(first, side[0], opposite), (first, opposite, side[1])]
        else:
            triangles = [(cut[0], cut[1], cut[2])]
        for row, (a, b, c) in enumerate(triangles):
            normal = np.cross(middle[b] - middle[a], middle[c] - middle[a])
            table[code, row] = (a, b, c) if normal @ outward > 0 else (a, c, b)
    return table


TRIANGLES = _triangle_table()


class MarchingTetrahedra(nn.Module):
    """``sdf [B, V], offsets [B, V, 3] -> MeshBatch`` on one grid."""

    vertices: torch.Tensor
    edges: torch.Tensor
    tets: torch.Tensor
    tet_edges: torch.Tensor
    table: torch.Tensor

    def __init__(self, grid: TetGrid) -> None:
        super().__init__()
        self.grid = grid
        for name, array in (
            ("vertices", grid.vertices),
            ("edges", grid.edges),
            ("tets", grid.tets.astype(np.int32)),
            ("tet_edges", grid.tet_edges.astype(np.int32)),
            ("table", TRIANGLES),
        ):
            self.register_buffer(name, torch.from_numpy(array.copy()), persistent=False)

    def forward(self, sdf: torch.Tensor, offsets: torch.Tensor | None = None) -> MeshBatch:
        """Extract the zero level sets.

        Args:
            sdf: ``[B, V]``, positive inside.
            offsets: ``[B, V, 3]`` added to the grid's vertices, or None.
        """
        topology = self._topology_numba if sdf.device.type == "cpu" else self._topology_torch
        crossing, faces, face_counts = topology((sdf > 0).detach())
        sample, edge = crossing.unbind(1)
        nodes = self.edges[edge]  # [N, 2]
        flat = sample[:, None] * sdf.shape[1] + nodes
        value = sdf.reshape(-1)[flat]  # [N, 2]
        position = self.vertices[nodes]  # [N, 2, 3]
        if offsets is not None:
            position = position + offsets.reshape(-1, 3)[flat]
        # The zero of the linear interpolation: weight of an end is the other end's share.
        weight = value.flip(1) / (value.flip(1) - value)
        vertices = (position * weight[..., None]).sum(dim=1)
        start = torch.cumsum(face_counts, 0) - face_counts
        ranges = torch.stack([start, face_counts], dim=1).int().cpu()
        return MeshBatch(vertices, faces, sample, ranges)

    def _topology_torch(
        self, inside: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Crossed edges ``[N, 2]`` (sample, edge), faces int32 ``[F, 3]``, face counts ``[B]``."""
        cut = inside[:, self.edges[:, 0]] != inside[:, self.edges[:, 1]]  # [B, E]
        crossing = torch.nonzero(cut)
        number = torch.cumsum(cut.reshape(-1), 0).reshape(cut.shape) - 1
        tets, table, tet_edges = self.tets.long(), self.table, self.tet_edges.long()
        bits = torch.tensor([1, 2, 4, 8], device=inside.device)
        code = (inside[:, tets] * bits).sum(dim=-1)  # [B, T]
        sample, tet = torch.nonzero((code > 0) & (code < 15)).unbind(1)
        local = table[code[sample, tet]]  # [M, 2, 3]
        edge = tet_edges[tet][:, None, :].expand(-1, 2, -1).gather(2, local.clamp(min=0))
        faces = number[sample[:, None, None], edge]
        exists = local[..., 0] >= 0
        counts = torch.bincount(sample[:, None].expand(-1, 2)[exists], minlength=len(inside))
        return crossing, faces[exists].int(), counts

    def _topology_numba(
        self, inside: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The same, by one pass of compiled loops over edges and one over tetrahedra."""
        crossing, faces, counts = _topology_kernel(
            inside.numpy(), self.edges.numpy(), self.tets.numpy(), self.tet_edges.numpy(), TRIANGLES
        )
        return torch.from_numpy(crossing), torch.from_numpy(faces), torch.from_numpy(counts)


@numba.njit(cache=True, nogil=True)
def _topology_kernel(
    inside: np.ndarray,
    edges: np.ndarray,
    tets: np.ndarray,
    tet_edges: np.ndarray,
    table: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # Crossed edges, faces and face counts; see MarchingTetrahedra._topology_torch.
    batch, edge_count = inside.shape[0], edges.shape[0]
    number = np.zeros(edge_count, np.int32)
    crossing_count = 0
    for b in range(batch):
        for e in range(edge_count):
            crossing_count += inside[b, edges[e, 0]] != inside[b, edges[e, 1]]
    crossing = np.zeros((crossing_count, 2), np.int64)
    faces = np.zeros((4 * crossing_count + 4, 3), np.int32)
    counts = np.zeros(batch, np.int64)
    vertex = 0
    face = 0
    for b in range(batch):
        for e in range(edge_count):
            if inside[b, edges[e, 0]] != inside[b, edges[e, 1]]:
                crossing[vertex, 0] = b
                crossing[vertex, 1] = e
                number[e] = vertex
                vertex += 1
        first = face
        for t in range(tets.shape[0]):
            code = 0
            for k in range(4):
                if inside[b, tets[t, k]]:
                    code |= 1 << k
            if code == 0 or code == 15:
                continue
            for row in range(2):
                if table[code, row, 0] < 0:
                    break
                if face == len(faces):
                    grown = np.zeros((2 * len(faces), 3), np.int32)
                    grown[:face] = faces
                    faces = grown
                for k in range(3):
                    faces[face, k] = number[tet_edges[t, table[code, row, k]]]
                face += 1
        counts[b] = face - first
    return crossing, faces[:face].copy(), counts
