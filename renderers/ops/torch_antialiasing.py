"""Antialias in plain torch: the reference of :mod:`.antialiasing`, on any device."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class _Pairs:
    """Neighbouring pixels that see different triangles.

    Attributes:
        p0: int64 ``[N]``, flat index of the left or lower pixel.
        p1: int64 ``[N]``, of the other.
        first: bool ``[N]``, whether p0's triangle is in front.
        triangle: int64 ``[N]``, the one in front; may lie outside the buffer.
    """

    p0: torch.Tensor
    p1: torch.Tensor
    first: torch.Tensor
    triangle: torch.Tensor

    def take(self, where: torch.Tensor) -> _Pairs:
        """Those where the mask bool ``[N]`` is set."""
        return _Pairs(self.p0[where], self.p1[where], self.first[where], self.triangle[where])


@dataclass(frozen=True)
class _Blends:
    """Pairs of pixels to blend.

    Attributes:
        p0: int64 ``[N]``, flat index of the left or lower pixel.
        p1: int64 ``[N]``, of the other.
        alpha: float64 ``[N]``, weight; positive moves p0 towards p1.
        image: int64 ``[N]``.
        start: int64 ``[N]``, vertex of the silhouette edge.
        end: int64 ``[N]``, its other vertex.
    """

    p0: torch.Tensor
    p1: torch.Tensor
    alpha: torch.Tensor
    image: torch.Tensor
    start: torch.Tensor
    end: torch.Tensor


def opposite_vertices(tri: torch.Tensor) -> torch.Tensor:
    """Vertex across edge k of each triangle, int32 ``[T, 3]``; see :mod:`.antialiasing`."""
    faces = tri.to(torch.int64)
    a, b = faces.roll(-1, 1), faces.roll(-2, 1)
    sound = (faces >= 0).all(1) & (faces != a).all(1)
    keys = (torch.minimum(a, b) << 32) | torch.maximum(a, b)
    keys = keys[sound].flatten()
    own = faces[sound].flatten()
    edges, group = torch.unique(keys, return_inverse=True)
    place = torch.arange(len(keys), device=tri.device)
    none = len(keys)
    first = torch.full((len(edges),), none, device=tri.device)
    first.scatter_reduce_(0, group, place, "amin")
    other = own != own[first[group]]
    second = torch.full_like(first, none)
    second.scatter_reduce_(0, group[other], place[other], "amin")
    known = torch.cat([own, own.new_full((1,), -1)])  # the place `none` reads -1
    opposite = torch.full_like(faces, -1)
    partner = torch.where(other, known[first[group]], known[second[group]])
    opposite[sound] = partner.view(-1, 3)
    return opposite.to(torch.int32)


def _pairs(ids: torch.Tensor, depth: torch.Tensor, direction: int) -> _Pairs:
    # All of one direction: 0 right, 1 up.
    height, width = ids.shape[1:]
    flat = torch.arange(ids.numel(), device=ids.device).view(ids.shape)
    if direction == 0:
        p0, p1 = flat[:, :, : width - 1].flatten(), flat[:, :, 1:].flatten()
    else:
        p0, p1 = flat[:, : height - 1].flatten(), flat[:, 1:].flatten()
    labels, z = ids.flatten(), depth.flatten()
    differ = labels[p0] != labels[p1]
    p0, p1 = p0[differ], p1[differ]
    id0, id1 = labels[p0], labels[p1]
    first = (id1 == 0) | ((id0 != 0) & (z[p0] < z[p1]))
    return _Pairs(p0, p1, first, torch.where(first, id0, id1) - 1)


def _cross(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    # Twice the signed area of the triangle a, b, c [..., 2].
    d, e = b - a, c - a
    return d[..., 0] * e[..., 1] - d[..., 1] * e[..., 0]


def _silhouettes(
    screen: torch.Tensor, image: torch.Tensor, faces: torch.Tensor, across: torch.Tensor
) -> torch.Tensor:
    # Whether edge k is a silhouette, bool [N, 3]; screen [B, V, 2] is x/w, y/w.
    vertices = screen.shape[1]
    is_open = (across < 0) | (across >= vertices)
    own = screen[image[:, None], faces]
    far = screen[image[:, None], torch.where(is_open, 0, across)]
    a, b = own.roll(-1, 1), own.roll(-2, 1)
    return is_open | (torch.signbit(_cross(a, b, own)) == torch.signbit(_cross(a, b, far)))


def _find_blends(
    ids: torch.Tensor,
    depth: torch.Tensor,
    screen: torch.Tensor,
    tri: torch.Tensor,
    opposite: torch.Tensor,
    direction: int,
) -> _Blends:
    # Blends of one direction, their discrete choices made; screen is float64 [B, V, 2], x/w, y/w.
    height, width = ids.shape[1:]
    pairs = _pairs(ids, depth, direction)
    usable = (pairs.triangle >= 0) & (pairs.triangle < len(tri))
    faces = tri.to(torch.int64)[torch.where(usable, pairs.triangle, 0)]
    usable &= ((faces >= 0) & (faces < screen.shape[1])).all(1)
    pairs, faces = pairs.take(usable), faces[usable]
    image = pairs.p0 // (height * width)
    silhouette = _silhouettes(screen, image, faces, opposite.to(torch.int64)[pairs.triangle])
    owner = torch.where(pairs.first, pairs.p0, pairs.p1) % (height * width)
    half = screen.new_tensor([0.5 * width, 0.5 * height])
    centre = torch.stack([owner % width, owner // width], dim=1) + 0.5 - half
    corners = screen[image[:, None], faces] * half - centre[:, None]
    if direction == 1:
        corners = corners.flip(-1)
    a, b = corners.roll(-1, 1), corners.roll(-2, 1)
    dx, dy = (b - a).unbind(-1)
    ds = torch.where(pairs.first, 1.0, -1.0).to(screen.dtype)
    reach = ds[:, None] * (a[..., 0] * dy - a[..., 1] * dx) / dy
    meets = torch.signbit(a[..., 1]) != torch.signbit(b[..., 1])
    reach = torch.where(meets & ~torch.isnan(reach), reach, -torch.inf)
    dc, edge = reach.max(1)
    at = edge[:, None]
    steep = (dy.abs() >= dx.abs()).gather(1, at)[:, 0]
    blends = silhouette.gather(1, at)[:, 0] & steep & (dc > -0.0625) & (dc < 1.0625)
    alpha = ds * (0.5 - dc.clamp(0.0, 1.0))
    v1, v2 = faces.roll(-1, 1).gather(1, at)[:, 0], faces.roll(-2, 1).gather(1, at)[:, 0]
    every = (pairs.p0, pairs.p1, alpha, image, v1, v2)
    return _Blends(*(values[blends] for values in every))


def _attach(
    blends: _Blends,
    clip: torch.Tensor,
    size: tuple[int, int],
    direction: int,
    boost: float,
) -> torch.Tensor:
    # The weights, with their gradient in the vertices clip [B, V, 4].
    # alpha = const - X, where the edge (x1, y1)-(x2, y2) crosses y = 0 at
    # X = (x1 y2 - x2 y1) / (y2 - y1); dX/dx1 = y2/dy, dX/dx2 = -y1/dy, and moving an end point
    # by dy shifts X as moving it by -dy dx/dy would. 1/dy carries an epsilon of 1e-3 pixel.
    height, width = size
    half = clip.new_tensor([0.5 * width, 0.5 * height])
    cell = blends.p0 % (height * width)
    centre = torch.stack([cell % width, cell // width], dim=1) + 0.5 - half
    s1, s2 = (
        clip[blends.image, v, :2] / clip[blends.image, v, 3:] * half - centre
        for v in (blends.start, blends.end)
    )
    along, across = (0, 1) if direction == 0 else (1, 0)
    x1, y1, x2, y2 = s1[:, along], s1[:, across], s2[:, along], s2[:, across]
    dy = (y2 - y1).detach()
    inverse = 1.0 / (dy + torch.copysign(torch.full_like(dy, 1e-3), dy))
    c1, c2 = (y2 * inverse).detach(), (-y1 * inverse).detach()
    lean = ((x2 - x1) * inverse).detach()
    crossing = c1 * x1 + c2 * x2 - lean * (c1 * y1 + c2 * y2)
    moves = torch.where(blends.alpha.abs() < 0.5, boost, 0.0)
    return blends.alpha - moves * (crossing - crossing.detach())


def blend(
    color: torch.Tensor,
    depth: torch.Tensor,
    ids: torch.Tensor,
    pos: torch.Tensor,
    tri: torch.Tensor,
    opposite: torch.Tensor,
    boost: float,
) -> torch.Tensor:
    """Antialias ``color``.

    Args:
        color: float32 ``[B, H, W, C]``.
        depth: float32 ``[B, H, W]``, z/w.
        ids: int64 ``[B, H, W]``, one-based triangle ids.
        pos: float32 ``[B, V, 4]`` or ``[V, 4]``.
        tri: int32 ``[T, 3]``.
        opposite: int32 ``[T, 3]`` of :func:`opposite_vertices`.
        boost: Factor on the gradient of ``pos``.

    Returns:
        float32 ``[B, H, W, C]``, differentiable in ``color`` and ``pos``.
    """
    size = (ids.shape[1], ids.shape[2])
    if len(tri) == 0 or pos.shape[-2] == 0:
        return color + 0.0
    clip = (pos if pos.ndim == 3 else pos.expand(len(ids), -1, -1)).to(torch.float64)
    with torch.no_grad():
        screen = clip[..., :2] / clip[..., 3:]
    flat = color.flatten(0, 2)
    out = flat
    for direction in range(2):
        found = _find_blends(ids, depth, screen, tri, opposite, direction)
        alpha = _attach(found, clip, size, direction, boost)
        target = torch.where(alpha > 0, found.p0, found.p1)
        change = alpha[:, None].to(color.dtype) * (flat[found.p1] - flat[found.p0])
        out = out.index_add(0, target, change)
    return out.view(color.shape)
