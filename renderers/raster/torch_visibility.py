"""Which triangle each sample sees, for all views of a batch together.

Solid meshes go through :func:`.ops.rasterize` where a compiled backend is there (numba on the CPU,
nvdiffrast on CUDA). Masked ones cannot: a sample that the texture cuts out must hide nothing, so
every triangle at a sample is tested. Neither would the torch reference do on CUDA: it takes image
after image, and hundreds of bytes for every sample. Both get the loop below, which takes (triangle,
sample) pairs of all images at once and decides by the rules of :mod:`.ops.coverage` and
:mod:`.visibility`: solid triangles first, then masked ones where they are as near.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..ops import rasterize
from ..ops.registry import default_backend
from ..ops.torch_backend import pieces
from .torch_shading import SETUP, Projected, Surface, opacity, take

PAIRS = {"cuda": 1 << 22, "cpu": 1 << 18}
"""Pairs of a triangle and a sample looked at together, by kind of device."""
PAIR_BYTES = 320
"""Most bytes that a pair takes."""
_RANKS = (1 << 31) - 1
_NONE = torch.iinfo(torch.int64).max


def compiled(surface: Surface) -> str | None:
    """The backend of the ops that draws ``surface``, None for the loop of this module."""
    backend = default_backend(surface.tri.device)
    return None if len(surface.holes) or backend == "torch" else backend


def visible(surface: Surface, projected: Projected) -> torch.Tensor:
    """One-based triangle ids int32 ``[B, H, W]``, 0 where nothing is seen; row 0 = bottom."""
    if compiled(surface) is not None:
        rast, _ = rasterize(projected.clip, surface.tri.to(torch.int32), projected.size)
        return rast[..., 3].to(torch.int32)
    shape = (len(projected.clip), *projected.size)
    # Key: depth in the upper 32 bits, then the later triangle first; the smallest key wins.
    best = torch.full((shape[0] * shape[1] * shape[2],), _NONE, device=surface.tri.device)
    for faces, tested in ((surface.solid, False), (surface.holes, True)):
        total = len(projected.clip) * len(faces)
        for start in range(0, total, SETUP):
            span = torch.arange(start, min(start + SETUP, total), device=best.device)
            _draw(best, surface, projected, faces, span, tested)
    triangles = len(surface.tri)
    ids = (_RANKS - 1 - (best & _RANKS)) % triangles + 1
    return ids.masked_fill_(best == _NONE, 0).to(torch.int32).view(shape)


@dataclass(frozen=True)
class _Pieces:
    """Triangles on the screen, ``N`` of them, counter-clockwise.

    Attributes:
        edges: int64 ``[N, 3, 3]``: edge functions at sample (0, 0), their steps by column and row.
        shut: int64 ``[N, 3]``: 1 where samples on the edge belong to the neighbour.
        z: float64 ``[N, 3]``, z/w of the corners.
        area: int64 ``[N]``.
        low: int64 ``[N, 2]``, first column and row that it may cover.
        width: int64 ``[N]``, columns that it may cover.
        count: int64 ``[N]``, samples that it may cover.
        face: int64 ``[N]``.
        view: int64 ``[N]``.
    """

    edges: torch.Tensor
    shut: torch.Tensor
    z: torch.Tensor
    area: torch.Tensor
    low: torch.Tensor
    width: torch.Tensor
    count: torch.Tensor
    face: torch.Tensor
    view: torch.Tensor


def _setup(
    surface: Surface, projected: Projected, faces: torch.Tensor, span: torch.Tensor
) -> _Pieces:
    """Snap, clip and set up triangles; ``span`` numbers those of ``faces``, view after view."""
    rows, columns = projected.size
    view, face = span // len(faces), faces[span % len(faces)]
    corners = surface.tri[face] + view[:, None] * projected.clip.shape[1]
    own = torch.arange(3 * len(span), device=span.device, dtype=torch.int32).view(-1, 3)
    xy, z, index = pieces(projected.clip.view(-1, 4)[corners.view(-1)], own, projected.size)
    side, other = xy[:, 1] - xy[:, 0], xy[:, 2] - xy[:, 0]
    area = side[:, 0] * other[:, 1] - other[:, 0] * side[:, 1]
    clockwise = area < 0
    swapped = torch.tensor([0, 2, 1], device=xy.device)
    xy = torch.where(clockwise[:, None, None], xy[:, swapped], xy)
    z = torch.where(clockwise[:, None], z[:, swapped], z)
    centre = xy.new_tensor([8 - 8 * columns, 8 - 8 * rows])  # of sample (0, 0)
    low = ((xy.amin(1) - centre + 15) >> 4).clamp(min=0)
    high = torch.minimum((xy.amax(1) - centre) >> 4, xy.new_tensor([columns - 1, rows - 1]))
    box = (high - low + 1).clamp(min=0)
    one, two = xy[:, [1, 2, 0]], xy[:, [2, 0, 1]]  # edge k is opposite vertex k
    step = two - one
    start = centre - one
    value = step[..., 0] * start[..., 1] - step[..., 1] * start[..., 0]
    shut = (step[..., 1] > 0) | ((step[..., 1] == 0) & (step[..., 0] <= 0))
    return _Pieces(
        edges=torch.stack([value, -16 * step[..., 1], 16 * step[..., 0]], dim=-1),
        shut=shut.to(torch.int64),
        z=z,
        area=area.abs(),
        low=low,
        width=box[:, 0],
        count=box[:, 0] * box[:, 1] * (area != 0),
        face=face[index],
        view=view[index],
    )


def _draw(
    best: torch.Tensor,
    surface: Surface,
    projected: Projected,
    faces: torch.Tensor,
    span: torch.Tensor,
    tested: bool,
) -> None:
    """Put the keys of the triangles of ``span`` into ``best`` where they are nearer."""
    pieces = _setup(surface, projected, faces, span)
    ends = pieces.count.cumsum(0)
    borders = ends.cpu()
    limit = PAIRS.get(best.device.type, PAIRS["cpu"])
    start = 0
    while start < len(borders):
        done = int(borders[start - 1]) if start else 0
        stop = int(torch.searchsorted(borders, done + limit, right=True))
        stop = min(max(stop, start + 1), len(borders))
        total = int(borders[stop - 1]) - done
        if total:
            which = torch.repeat_interleave(
                torch.arange(start, stop, device=best.device),
                pieces.count[start:stop],
                output_size=total,
            )
            nth = torch.arange(done, done + total, device=best.device)
            nth -= (ends - pieces.count)[which]
            sample, depth, which = _covered(pieces, which, nth, projected.size)
            face = pieces.face[which]
            # Masked triangles come after all solid ones.
            rank = face + 1 + (len(surface.tri) if tested else 0)
            key = (depth << 31) | (_RANKS - rank)
            if tested:
                sample, key = _solid_enough(best, surface, projected, sample, key, face)
            best.scatter_reduce_(0, sample, key, "amin")
        start = stop


def _covered(
    pieces: _Pieces, which: torch.Tensor, nth: torch.Tensor, size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of the ``nth`` samples of the boxes of pieces ``which``, those inside the triangle.

    Returns:
        Number of the sample, z/w as 32-bit fixed point, and its piece; all int64 ``[n]``.
    """
    low, width = pieces.low[which], pieces.width[which]
    column, row = low[:, 0] + nth % width, low[:, 1] + nth // width
    edges = pieces.edges[which]
    value = edges[..., 0] + edges[..., 1] * column[:, None] + edges[..., 2] * row[:, None]
    chosen = (value >= pieces.shut[which]).all(1).nonzero()[:, 0]
    which, value = which[chosen], value[chosen]
    z = pieces.z[which]
    total = z[:, 0] * value[:, 0]
    total += z[:, 1] * value[:, 1]
    total += z[:, 2] * value[:, 2]
    depth = ((total / pieces.area[which] * 0.5 + 0.5) * 4294967295.0).to(torch.int64)
    line = pieces.view[which] * size[0] + row[chosen]
    # Snapping may carry a triangle that touches the near plane past it: it wraps, as in `uint32`.
    return line * size[1] + column[chosen], depth & 0xFFFFFFFF, which


def _solid_enough(
    best: torch.Tensor,
    surface: Surface,
    projected: Projected,
    sample: torch.Tensor,
    key: torch.Tensor,
    face: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The samples, and their keys, that are nearer than ``best`` and pass the alpha test."""
    nearer = (key < best[sample]).nonzero()[:, 0]
    sample, key, face = sample[nearer], key[nearer], face[nearer]
    solid = opacity(surface, projected, take(surface, projected, sample, face))
    kept = (solid >= surface.cutoff[surface.face_material[face]]).nonzero()[:, 0]
    return sample[kept], key[kept]
