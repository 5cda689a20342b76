"""The reference backend: vectorised torch on any device, differentiated by autograd.

It repeats the deciding arithmetic of the kernels operation by operation, so that both backends see
the same triangles; it is 10 to 50 times slower on a CPU. It is the oracle of the tests and the
fallback for devices that have no backend of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .backend import Topology
from .kernels import FLOAT_IDS, ID_BITS
from .torch_antialiasing import blend, opposite_vertices

MIN_W = 1e-30
HALF_DEPTH = 0.5 * 4294967295.0
CHUNK = 1 << 22  # pairs of (triangle, pixel) looked at together


def encode_ids(ids: torch.Tensor) -> torch.Tensor:
    """One-based triangle ids ``[...]`` as float32: values up to 2**24, bit patterns above."""
    large = (ids + ID_BITS).to(torch.int32).view(torch.float32)
    return torch.where(ids <= FLOAT_IDS, ids.to(torch.float32), large)


def decode_ids(channel: torch.Tensor) -> torch.Tensor:
    """Inverse of :func:`encode_ids`: float32 ``[...]`` to int64 ``[...]``."""
    channel = channel.detach().contiguous()
    large = channel.view(torch.int32).to(torch.int64) - ID_BITS
    is_large = channel > FLOAT_IDS
    return torch.where(is_large, large, channel.masked_fill(is_large, 0).to(torch.int64))


def _clip(polygon: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    # Triangles float64 [N, 3, 4] to polygons [N, K, 4] and their number of corners [N].
    count = torch.full((len(polygon),), 3, device=polygon.device)
    for plane in range(6):
        sign = 1.0 if plane & 1 == 0 else -1.0
        slots = torch.arange(polygon.shape[1], device=polygon.device)
        valid = slots < count[:, None]
        following = torch.where(slots + 1 < count[:, None], slots + 1, 0)
        nxt = torch.gather(polygon, 1, following[..., None].expand(-1, -1, 4))
        di = polygon[..., 3] + sign * polygon[..., plane >> 1]
        dj = nxt[..., 3] + sign * nxt[..., plane >> 1]
        inside = di >= 0
        cut = valid & (inside != (dj >= 0))
        p, q = (
            torch.where(inside[..., None], polygon, nxt),
            torch.where(inside[..., None], nxt, polygon),
        )
        dp, dq = torch.where(inside, di, dj), torch.where(inside, dj, di)
        crossing = p + (dp / (dp - dq))[..., None] * (q - p)
        # Each corner hands on itself, then the crossing after it; those kept move to the front.
        both = torch.stack([polygon, crossing], dim=2).flatten(1, 2)
        keep = torch.stack([valid & inside, cut], dim=2).flatten(1, 2)
        order = torch.argsort((~keep).to(torch.int8), dim=1, stable=True)
        count = keep.sum(1)
        kept = int(count.max()) if len(count) else 0
        polygon = torch.gather(both, 1, order[..., None].expand(-1, -1, 4))[:, :kept]
    return polygon, count


def _project(corners: torch.Tensor, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    # Clip-space [..., 4] to coordinates in 1/16 pixel [..., 2] and z/w [...].
    height, width = size
    single = corners.to(torch.float32)
    inverse = 1.0 / single[..., 3]
    scale = single.new_tensor([width * 8.0, height * 8.0])
    snapped = torch.round(single[..., :2] * inverse[..., None] * scale).to(torch.int64)
    return snapped, corners[..., 2] / corners[..., 3]


def pieces(
    pos: torch.Tensor, tri: torch.Tensor, size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Triangles to draw of one image, clipped to the frustum and snapped.

    Returns:
        xy int64 ``[N, 3, 2]``, z/w ``[N, 3]``, row of ``tri`` ``[N]``.
    """
    index = torch.arange(len(tri), device=tri.device)
    valid = ((tri >= 0) & (tri < len(pos))).all(1)
    index = index[valid]
    corners = pos.detach().to(torch.float64)[tri[valid].long()]
    x, w = corners[..., :3], corners[..., 3:]
    beyond = torch.cat([x < -w, x > w], dim=-1)
    broken = ~torch.isfinite(corners).all(-1)
    broken |= ~beyond.any(-1) & (w[..., 0] < MIN_W)
    draw = ~broken.any(1) & ~beyond.all(1).any(-1)
    whole = draw & ~beyond.any(-1).any(1)
    xy, z = _project(corners[whole], size)
    polygon, count = _clip(corners[draw & ~whole])
    part = index[draw & ~whole]
    fine = torch.ones_like(count, dtype=torch.bool)
    for i in range(polygon.shape[1]):
        fine &= (polygon[:, i, 3] >= MIN_W) | (i >= count)
    xys, zs, indices = [xy], [z], [index[whole]]
    for i in range(2, polygon.shape[1]):
        use = fine & (i < count)
        xy, z = _project(polygon[use][:, [0, i - 1, i]], size)
        xys.append(xy)
        zs.append(z.clamp(-1.0, 1.0))
        indices.append(part[use])
    return torch.cat(xys), torch.cat(zs), torch.cat(indices)


def _visible(
    pos: torch.Tensor, tri: torch.Tensor, first: int, size: tuple[int, int]
) -> torch.Tensor:
    # One-based ids int64 [H, W] of one image; `first` is the place of tri[0] in the whole buffer.
    height, width = size
    xy, z, index = pieces(pos, tri, size)
    d1, d2 = xy[:, 1] - xy[:, 0], xy[:, 2] - xy[:, 0]
    area = d1[:, 0] * d2[:, 1] - d2[:, 0] * d1[:, 1]
    turn = torch.where(area < 0, 1, 0)
    order = torch.stack([torch.zeros_like(turn), 1 + turn, 2 - turn], dim=1)
    xy = torch.gather(xy, 1, order[..., None].expand(-1, -1, 2))
    z = torch.gather(z, 1, order)
    centre = xy.new_tensor([8 - 8 * width, 8 - 8 * height])
    last = xy.new_tensor([width - 1, height - 1])
    low = ((xy.amin(1) - centre + 15) >> 4).clamp(min=0)
    high = torch.minimum((xy.amax(1) - centre) >> 4, last)
    box = (high - low + 1).clamp(min=0)
    pixels = box[:, 0] * box[:, 1] * (area != 0)
    # Key: depth in the upper 32 bits, then the later triangle first; the smallest key wins.
    none = torch.iinfo(torch.int64).max
    best = torch.full((height * width,), none, device=pos.device)
    ends = pixels.cumsum(0)
    start = 0
    while start < len(pixels):
        done = int(ends[start - 1]) if start else 0
        stop = int(torch.searchsorted(ends, ends.new_tensor(done + CHUNK), right=True))
        stop = min(max(stop, start + 1), len(pixels))
        which = torch.repeat_interleave(
            torch.arange(start, stop, device=pos.device), pixels[start:stop]
        )
        nth = torch.arange(len(which), device=pos.device) + done - (ends - pixels)[which]
        cell = low[which] + torch.stack([nth % box[which, 0], nth // box[which, 0]], dim=1)
        point = centre + 16 * cell
        inside = torch.ones_like(which, dtype=torch.bool)
        scale = HALF_DEPTH / area.abs()[which].to(torch.float64)
        total = torch.zeros_like(which, dtype=torch.float64)
        for k in range(3):
            a, b = xy[which, (k + 1) % 3], xy[which, (k + 2) % 3]
            side, rel = b - a, point - a
            value = side[:, 0] * rel[:, 1] - side[:, 1] * rel[:, 0]
            shut = (side[:, 1] > 0) | ((side[:, 1] == 0) & (side[:, 0] <= 0))
            inside &= (value > 0) | ((value == 0) & ~shut)
            total = total + z[which, k] * scale * value
        fixed = (total + HALF_DEPTH).to(torch.int64)
        key = (fixed << 31) | ((1 << 31) - 1 - (first + index[which] + 1))
        place = cell[:, 1] * width + cell[:, 0]
        best.scatter_reduce_(0, place[inside], key[inside], "amin")
        start = stop
    ids = (1 << 31) - 1 - (best & ((1 << 31) - 1))
    return torch.where(best == none, 0, ids).view(height, width)


def _corners(
    values: torch.Tensor, tri: torch.Tensor, ids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    # Vertex values [B or 1, V, C] (or [V, C]) of the triangle at each pixel: [B, H, W, 3, C],
    # and where that triangle exists and has these vertices: [B, H, W].
    if values.ndim == 2:
        values = values[None]
    if len(tri) == 0 or values.shape[1] == 0:
        zeros = values.new_zeros((*ids.shape, 3, values.shape[-1]))
        # The empty sum keeps the graph: the gradient of nothing is zero, not an error.
        return zeros + values[..., :0].sum(), torch.zeros_like(ids, dtype=torch.bool)
    covered = (ids > 0) & (ids <= len(tri))
    index = tri.to(torch.int64)[torch.where(covered, ids - 1, 0)]
    covered = covered & ((index >= 0) & (index < values.shape[1])).all(-1)
    index = torch.where(covered[..., None], index, 0)
    image = torch.arange(len(ids), device=ids.device).clamp(max=len(values) - 1)
    corners = values[image[:, None, None, None], index]
    # Zeros, not just masked later: a vertex that is not finite would make the gradient nan.
    return corners.masked_fill(~covered[..., None, None], 0.0), covered


@dataclass(frozen=True)
class _EdgeAreas:
    """Closed form of the barycentrics: area k over their sum is the weight of corner k.

    Attributes:
        areas: float64 ``[B, H, W, 3]``.
        by_x: Their derivatives by the pixel's x in normalised device coordinates.
        by_y: By its y.
        corners: float64 ``[B, H, W, 3, 4]``, clip-space vertices of the pixel's triangle.
        covered: bool ``[B, H, W]``, where there is a triangle.
    """

    areas: torch.Tensor
    by_x: torch.Tensor
    by_y: torch.Tensor
    corners: torch.Tensor
    covered: torch.Tensor


def _edge_areas(pos: torch.Tensor, tri: torch.Tensor, ids: torch.Tensor) -> _EdgeAreas:
    height, width = ids.shape[1:]
    corners, covered = _corners(pos.to(torch.float64), tri, ids)
    x = (2 * torch.arange(width, device=pos.device, dtype=torch.float64) + 1) / width - 1.0
    y = (2 * torch.arange(height, device=pos.device, dtype=torch.float64) + 1) / height - 1.0
    w = corners[..., 3]
    px, py = (
        corners[..., 0] - x[None, None, :, None] * w,
        corners[..., 1] - y[None, :, None, None] * w,
    )
    x1, y1, w1 = px.roll(-1, -1), py.roll(-1, -1), w.roll(-1, -1)
    x2, y2, w2 = px.roll(-2, -1), py.roll(-2, -1), w.roll(-2, -1)
    return _EdgeAreas(
        areas=x1 * y2 - y1 * x2,
        by_x=w2 * y1 - w1 * y2,
        by_y=w1 * x2 - w2 * x1,
        corners=corners,
        covered=covered,
    )


def _barycentrics(pos: torch.Tensor, tri: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    # rast without its id channel, float32 [B, H, W, 3]; u and v carry the gradient.
    edges = _edge_areas(pos, tri, ids)
    areas, corners, covered = edges.areas, edges.corners, edges.covered
    total = areas.sum(-1)
    hidden = ~covered | (total == 0)
    safe = total.masked_fill(hidden, 1.0)
    uv = (areas[..., :2] / safe[..., None]).masked_fill(hidden[..., None], 0.0).detach()
    uv = uv.clamp(0.0, 1.0)
    uv = uv / uv.sum(-1, keepdim=True).clamp(min=1.0)
    w = (areas * corners[..., 3]).sum(-1).detach()
    z = (areas * corners[..., 2]).sum(-1).detach() / torch.where(w == 0, 1.0, w)
    z = z.masked_fill(~covered | (w == 0), 0.0).clamp(-1.0, 1.0)
    # Values as above; gradient of the unclamped quotient, with the kernels' epsilon.
    inverse = 1.0 / (safe + torch.copysign(torch.full_like(safe, 1e-6), safe))
    smooth = areas[..., :2] * inverse[..., None]
    smooth = smooth.masked_fill(hidden[..., None], 0.0)
    return torch.cat([uv + (smooth - smooth.detach()), z[..., None]], dim=-1).to(torch.float32)


def barycentric_derivatives(
    pos: torch.Tensor, tri: torch.Tensor, rast: torch.Tensor
) -> torch.Tensor:
    """Screen derivatives of u and v, differentiable in ``pos``.

    Args:
        pos: float32 ``[B, V, 4]`` or ``[V, 4]``.
        tri: int32 ``[T, 3]``.
        rast: float32 ``[B, H, W, 4]``.

    Returns:
        float32 ``[B, H, W, 4]``: du/dX, du/dY, dv/dX, dv/dY per pixel; 0 where nothing is drawn.
    """
    ids = decode_ids(rast[..., 3])
    height, width = ids.shape[1:]
    edges = _edge_areas(pos, tri, ids)
    total = edges.areas.sum(-1)
    hidden = (~edges.covered | (total == 0))[..., None]
    total = total[..., None].masked_fill(hidden, 1.0)
    uv = edges.areas[..., :2] / total
    dx = (edges.by_x[..., :2] - uv * edges.by_x.sum(-1, keepdim=True)) / total * (2.0 / width)
    dy = (edges.by_y[..., :2] - uv * edges.by_y.sum(-1, keepdim=True)) / total * (2.0 / height)
    db = torch.stack([dx, dy], dim=-1).flatten(-2)
    return db.masked_fill(hidden, 0.0).to(torch.float32)


def attribute_derivatives(
    attr: torch.Tensor, rast: torch.Tensor, tri: torch.Tensor, rast_db: torch.Tensor
) -> torch.Tensor:
    """Screen derivatives of attributes, differentiable in ``attr`` and ``rast_db``.

    Args:
        attr: float32 ``[B or 1, V, C]``.
        rast: float32 ``[B, H, W, 4]``.
        tri: int32 ``[T, 3]``.
        rast_db: float32 ``[B, H, W, 4]``.

    Returns:
        float32 ``[B, H, W, 2C]``: dA/dX, dA/dY of each channel in turn, per pixel.
    """
    corners, covered = _corners(attr, tri, decode_ids(rast[..., 3]))
    du, dv = corners[..., 0, :] - corners[..., 2, :], corners[..., 1, :] - corners[..., 2, :]
    dx = du * rast_db[..., 0:1] + dv * rast_db[..., 2:3]
    dy = du * rast_db[..., 1:2] + dv * rast_db[..., 3:4]
    return torch.stack([dx, dy], dim=-1).flatten(-2).masked_fill(~covered[..., None], 0.0)


class TorchBackend:
    """Plain torch on any device."""

    name = "torch"

    def rasterize(
        self,
        pos: torch.Tensor,
        tri: torch.Tensor,
        resolution: tuple[int, int],
        ranges: torch.Tensor | None,
        want_db: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See :class:`.backend.Backend`."""
        spans = [(0, len(tri))] * len(pos) if ranges is None else ranges.tolist()
        images = [
            _visible(pos if pos.ndim == 2 else pos[b], tri[s : s + n], s, resolution)
            for b, (s, n) in enumerate(spans)
        ]
        empty = torch.zeros((0, *resolution), dtype=torch.int64, device=pos.device)
        ids = torch.stack(images) if images else empty
        rast = torch.cat([_barycentrics(pos, tri, ids), encode_ids(ids)[..., None]], dim=-1)
        if not want_db:
            return rast, rast.new_zeros((*rast.shape[:3], 0))
        return rast, barycentric_derivatives(pos, tri, rast)

    def interpolate(
        self, attr: torch.Tensor, rast: torch.Tensor, tri: torch.Tensor
    ) -> torch.Tensor:
        """See :class:`.backend.Backend`."""
        corners, covered = _corners(attr, tri, decode_ids(rast[..., 3]))
        u, v = rast[..., 0:1], rast[..., 1:2]
        out = u * corners[..., 0, :] + v * corners[..., 1, :] + (1 - u - v) * corners[..., 2, :]
        return out.masked_fill(~covered[..., None], 0.0)

    def antialias(
        self,
        color: torch.Tensor,
        rast: torch.Tensor,
        pos: torch.Tensor,
        tri: torch.Tensor,
        topology: Topology,
        pos_gradient_boost: float,
    ) -> torch.Tensor:
        """See :class:`.backend.Backend`."""
        ids = decode_ids(rast[..., 3])
        depth = rast[..., 2].detach()
        return blend(color, depth, ids, pos, tri, topology.opposite, pos_gradient_boost)

    def build_topology(self, tri: torch.Tensor) -> Topology:
        """See :class:`.backend.Backend`."""
        return Topology(opposite_vertices(tri))
