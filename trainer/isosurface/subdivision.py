"""Volume subdivision: finer tetrahedra where the surface is, on a sparse grid per sample.

DMTet (Shen et al., 2021) and GET3D's supplement: tetrahedra that the surface crosses, and rings of
their neighbours, are split 1 -> 8 at the midpoints of their edges; a midpoint starts with the mean
of its ends and may get a residual. The others are dropped, since no surface is in them, and
marching goes on over what is left.

What keeps the surface closed: a face between a split tetrahedron and one that is not has three
corners of one sign, so before residuals no surface meets it. A residual could turn a midpoint of
such a face, and the surface would end there. So a midpoint on the rim, the boundary of what was
split, keeps the sign of its ends whatever its residual. With one ring (the default) the rim is at
least one tetrahedron away from the surface and the clamp binds only where the surface tries to
leave the band.

Red refinement of the BCC grid, with the octahedron in the middle cut at the right diagonal, gives
the BCC grid of twice the resolution (up to the tetrahedra at the hull). So with the residual
``field(midpoint) - mean`` this is also narrow-band extraction at 2x, 4x ... of the training grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from .grid import TET_EDGES, TetGrid
from .marching import TRIANGLES, MeshBatch


@dataclass(frozen=True)
class SparseTets:
    """Tetrahedra around the surfaces of a batch, samples packed one after the other.

    Attributes:
        positions: ``[N, 3]``, differentiable.
        sdf: ``[N]``, positive inside, differentiable.
        sample: int64 ``[N]``, ascending.
        rim: bool ``[N]``, nodes on the boundary of the set; an edge between two of them is taken
            for a part of the boundary.
        tets: int64 ``[T, 4]``, positively oriented, samples ascending.
        batch: Number of samples.
    """

    positions: torch.Tensor
    sdf: torch.Tensor
    sample: torch.Tensor
    rim: torch.Tensor
    tets: torch.Tensor
    batch: int


@dataclass(frozen=True)
class Midpoints:
    """New nodes, before their residuals.

    Attributes:
        positions: ``[N, 3]``, means of the ends.
        sdf: ``[N]``, means of the ends.
        sample: int64 ``[N]``.
    """

    positions: torch.Tensor
    sdf: torch.Tensor
    sample: torch.Tensor


Residual = Callable[[Midpoints], torch.Tensor]
"""What is added at midpoints: ``[N]`` (sdf), or ``[N, 4]`` (sdf and position)."""


def surface_tets(
    grid: TetGrid, sdf: torch.Tensor, offsets: torch.Tensor | None = None, rings: int = 1
) -> SparseTets:
    """The tetrahedra that the surfaces cross, and rings of neighbours that share a node.

    Args:
        grid: The grid.
        sdf: ``[B, V]``, positive inside.
        offsets: ``[B, V, 3]`` or None.
        rings: Of neighbours; 0 keeps the crossed ones only.
    """
    tets = torch.from_numpy(grid.tets).to(sdf.device)
    hull = torch.from_numpy(grid.hull).to(sdf.device)
    inside = (sdf > 0).detach()
    bits = inside[:, tets].sum(dim=-1)  # [B, T]
    keep = (bits > 0) & (bits < 4)
    touched = torch.zeros_like(inside)
    for _ in range(rings):
        touched.zero_()
        sample, tet = torch.nonzero(keep).unbind(1)
        touched[sample[:, None], tets[tet]] = True
        keep = touched[:, tets].any(dim=-1)
    sample, tet = torch.nonzero(keep).unbind(1)
    flat = sample[:, None] * sdf.shape[1] + tets[tet]
    node, rows = torch.unique(flat, return_inverse=True)
    left = torch.nonzero(~keep)
    rim = hull.expand_as(inside).clone()
    rim[left[:, 0, None], tets[left[:, 1]]] = True
    sample, own = node // sdf.shape[1], node % sdf.shape[1]
    positions = torch.from_numpy(grid.vertices).to(sdf)[own]
    if offsets is not None:
        positions = positions + offsets.reshape(-1, 3)[node]
    return SparseTets(
        positions, sdf.reshape(-1)[node], sample, rim.reshape(-1)[node], rows, len(sdf)
    )


def crossed(tets: SparseTets, rings: int = 1) -> SparseTets:
    """The same selection from tetrahedra that are sparse already."""
    count = len(tets.sdf)
    bits = (tets.sdf > 0)[tets.tets].sum(dim=1)
    keep = (bits > 0) & (bits < 4)
    for _ in range(rings):
        touched = torch.zeros(count, dtype=torch.bool, device=keep.device)
        touched[tets.tets[keep].flatten()] = True
        keep = touched[tets.tets].any(dim=1)
    rim = tets.rim.clone()
    rim[tets.tets[~keep].flatten()] = True
    node, rows = torch.unique(tets.tets[keep], return_inverse=True)
    return SparseTets(
        tets.positions[node], tets.sdf[node], tets.sample[node], rim[node], rows, tets.batch
    )


def subdivide(tets: SparseTets, residual: Residual | None = None) -> SparseTets:
    """Split every tetrahedron 1 -> 8.

    Args:
        tets: Of :func:`surface_tets`, or of this function through :func:`crossed`.
        residual: Added at the midpoints. On the rim its position part is dropped and its
            distance part stops before the sign would change.
    """
    count = len(tets.sdf)
    local = torch.from_numpy(TET_EDGES).to(tets.tets.device)
    pairs = tets.tets[:, local].sort(dim=-1).values  # [T, 6, 2]
    key, inverse = torch.unique(pairs[..., 0] * count + pairs[..., 1], return_inverse=True)
    a, b = key // count, key % count
    middle = Midpoints(
        0.5 * (tets.positions[a] + tets.positions[b]),
        0.5 * (tets.sdf[a] + tets.sdf[b]),
        tets.sample[a],
    )
    rim = tets.rim[a] & tets.rim[b]
    positions, sdf = middle.positions, middle.sdf
    if residual is not None:
        # Only ends of one sign: on the rim of the selection itself there are no others.
        same = (tets.sdf[a] > 0) == (tets.sdf[b] > 0)
        positions, sdf = _add(middle, residual(middle), rim & same)
    # Nodes of a sample stay together: old ones, then its midpoints.
    sample = torch.cat([tets.sample, middle.sample])
    order = torch.argsort(sample, stable=True)
    place = torch.zeros_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    nodes = torch.cat([tets.tets, count + inverse], dim=1)  # [T, 10]
    children = torch.from_numpy(_children()).to(order.device)
    return SparseTets(
        torch.cat([tets.positions, positions])[order],
        torch.cat([tets.sdf, sdf])[order],
        sample[order],
        torch.cat([tets.rim, rim])[order],
        place[nodes[:, children]].reshape(-1, 4),
        tets.batch,
    )


def _add(
    middle: Midpoints, extra: torch.Tensor, bound: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions and distances with residuals; ``bound`` midpoints keep their place and sign."""
    positions = middle.positions
    if extra.ndim == 2:
        positions = positions + torch.where(bound[:, None], 0.0, extra[:, 1:])
        extra = extra[:, 0]
    # At most 0.9 of the way to zero.
    limit = 0.9 * middle.sdf.abs()
    inner = torch.where(middle.sdf > 0, extra.maximum(-limit), extra.minimum(limit))
    return positions, middle.sdf + torch.where(bound, inner, extra)


@lru_cache(maxsize=1)
def _children() -> np.ndarray:
    """``[8, 4]``: the parts of a tetrahedron with nodes 0..3 and midpoints 4 + edge.

    Four at the corners, copies of the whole at half the size, and four around the diagonal of the
    octahedron that joins the middles of edges 0-1 and 2-3. Those are the long edges of every
    tetrahedron of :func:`bcc_grid` away from the hull, and the diagonal between them the shortest;
    the children's first and last edges are long again, so the rule holds at every level.
    """
    nodes = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
    nodes = np.concatenate([nodes, nodes[TET_EDGES].mean(axis=1)])
    middle = np.diag(np.arange(4))  # a corner stands for itself
    for edge, (a, b) in enumerate(TET_EDGES):
        middle[a, b] = middle[b, a] = 4 + edge
    rows = [middle[corner].tolist() for corner in range(4)]
    ring = [middle[0, 2], middle[1, 2], middle[1, 3], middle[0, 3]]
    for turn in range(4):
        rows.append([middle[0, 1], middle[2, 3], ring[turn], ring[(turn + 1) % 4]])
    out = np.array(rows)
    p = nodes[out]
    volume = np.linalg.det(p[:, 1:] - p[:, :1])
    return np.where((volume > 0)[:, None], out, out[:, [0, 1, 3, 2]])


def march(tets: SparseTets) -> MeshBatch:
    """Marching tetrahedra over a sparse set; the same tables as :class:`MarchingTetrahedra`."""
    device, count = tets.sdf.device, len(tets.sdf)
    inside = (tets.sdf > 0).detach()
    code = (inside[tets.tets] * torch.tensor([1, 2, 4, 8], device=device)).sum(dim=1)
    cut = torch.nonzero((code > 0) & (code < 15)).flatten()
    table = torch.from_numpy(TRIANGLES).to(device)[code[cut]]  # [M, 2, 3]
    local = torch.from_numpy(TET_EDGES).to(device)
    exists = table[..., 0] >= 0
    ends = tets.tets[cut][:, None, None, :].expand(-1, 2, 3, -1)
    pair = ends.gather(3, local[table.clamp(min=0)])[exists].sort(dim=-1).values  # [F, 3, 2]
    key, faces = torch.unique(pair[..., 0] * count + pair[..., 1], return_inverse=True)
    nodes = torch.stack([key // count, key % count], dim=1)
    value = tets.sdf[nodes]
    weight = value.flip(1) / (value.flip(1) - value)
    vertices = (tets.positions[nodes] * weight[..., None]).sum(dim=1)
    sample = tets.sample[nodes[:, 0]]
    counts = torch.bincount(sample[faces[:, 0]], minlength=tets.batch)
    start = torch.cumsum(counts, 0) - counts
    ranges = torch.stack([start, counts], dim=1).int().cpu()
    return MeshBatch(vertices, faces.int(), sample, ranges)
