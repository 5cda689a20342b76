"""Differentiable rendering of a batch of generated meshes: soft silhouettes and colour.

One rasterise call serves all shapes and views. Silhouettes are rasterised ``supersample`` times
larger and averaged down: at low resolution nvdiffrast's antialiasing rule passes almost no
gradient on dense meshes. Images come out view by view: row ``k * B + s`` is view k of shape s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F

from ...renderers import ops
from ..isosurface.marching import MeshBatch

Matte = Literal["alpha", "detached", "hard"]
ColorField = Callable[[torch.Tensor], torch.Tensor]


class Rendered(NamedTuple):
    """Images, row 0 = top.

    Attributes:
        rgb: ``[N, 3, H, W]`` sRGB in [0, 1], not yet composited; 0 where nothing is covered.
        alpha: ``[N, 1, H, W]`` soft coverage, differentiable in the vertices.
        hard: ``[N, 1, H, W]`` 1 where anything of a pixel is covered, else 0.
        normal: ``[N, 3, H, W]`` unit normals in world space, 0 where nothing is covered; None
            unless asked for.
    """

    rgb: torch.Tensor
    alpha: torch.Tensor
    hard: torch.Tensor
    normal: torch.Tensor | None = None

    def over(self, background: torch.Tensor | float, matte: Matte) -> torch.Tensor:
        """Composite over ``background``: a grey, or colours ``[N, 3, 1, 1]``.

        Args:
            background: Behind the object.
            matte: ``alpha``: true alpha, through which RGB moves silhouettes; ``detached``: the
                same without that gradient; ``hard``: a pixel is the object's or the background's,
                as in GET3D.
        """
        alpha = self._weight(matte)
        return self.rgb * alpha + background * (1.0 - alpha)

    def normals(self, matte: Matte) -> torch.Tensor:
        """Normals times coverage: the normal map over a background of zeros."""
        assert self.normal is not None
        return self.normal * self._weight(matte)

    def _weight(self, matte: Matte) -> torch.Tensor:
        if matte == "hard":
            return self.hard
        return self.alpha if matte == "alpha" else self.alpha.detach()


def render(
    meshes: MeshBatch,
    world_to_clip: torch.Tensor,
    colors: ColorField,
    size: int,
    *,
    supersample: int = 4,
    color_samples: int = 2,
    position_gradient: float = 0.0,
    normals: bool = False,
) -> Rendered:
    """Render every mesh from its cameras.

    Args:
        meshes: B meshes.
        world_to_clip: ``[K, B, 4, 4]``, K views of each.
        colors: Texture field, world points ``[B, P, 3] -> [B, P, 3]``.
        size: Side of the images (pixels).
        supersample: Rasterised samples per pixel along an axis, a multiple of ``color_samples``.
        color_samples: Colour queries per pixel along an axis; each looks at the mean position of
            the samples that it stands for.
        position_gradient: Scale of the gradient that colours pass into the positions where they
            are looked up, and so into the vertices; 0, as in GET3D, passes none.
        normals: Draw normals too, differentiable in the vertices.
    """
    views, batch = world_to_clip.shape[:2]
    flipped = world_to_clip.clone()
    flipped[..., 1, :] *= -1.0  # the ops' row 0 is the bottom; ours is the top
    clip, triangles, ranges = _to_clip(meshes, flipped)
    fine = size * supersample
    rast, _ = ops.rasterize(clip, triangles, (fine, fine), ranges)
    hard = (rast[..., 3:] > 0).float()
    soft = ops.antialias(hard, rast, clip, triangles, topology=_topology(meshes, views))
    alpha = F.avg_pool2d(soft.permute(0, 3, 1, 2), supersample)

    block = supersample // color_samples
    with torch.no_grad():
        coverage = F.avg_pool2d(hard.permute(0, 3, 1, 2), block)[:, 0]  # [N, h, w]
    with torch.set_grad_enabled(torch.is_grad_enabled() and position_gradient > 0):
        world = meshes.vertices if position_gradient > 0 else meshes.vertices.detach()
        position, _ = ops.interpolate(world.repeat(views, 1), rast, triangles)
        pooled = F.avg_pool2d(position.permute(0, 3, 1, 2), block)
        position = (pooled / coverage[:, None].clamp(min=1e-6)).permute(0, 2, 3, 1)
    if position_gradient > 0:  # the value as it is, the gradient scaled
        position = position.detach().lerp(position, position_gradient)
    rgb = _query(colors, position, coverage > 0, views, batch)  # [N, h, w, 3]
    weighted = F.avg_pool2d((rgb * coverage[..., None]).permute(0, 3, 1, 2), color_samples)
    share = F.avg_pool2d(coverage[:, None], color_samples)
    normal = _normals(meshes, rast, triangles, supersample) if normals else None
    return Rendered(weighted / share.clamp(min=1e-6), alpha, (share > 0).float(), normal)


def vertex_normals(vertices: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    """``[V, 3]``: sums of the area-weighted normals of the faces around, of unit length."""
    corners = vertices[faces.long()]  # [F, 3, 3]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total = torch.zeros_like(vertices)
    total = total.index_add(0, faces.reshape(-1), area.repeat_interleave(3, dim=0))
    return F.normalize(total, dim=1, eps=1e-12)


def _normals(
    meshes: MeshBatch, rast: torch.Tensor, triangles: torch.Tensor, supersample: int
) -> torch.Tensor:
    """Mean normal of the covered samples of a pixel, of unit length: ``[N, 3, H, W]``."""
    views = len(rast) // len(meshes)
    of_vertices = vertex_normals(meshes.vertices, meshes.faces)
    samples, _ = ops.interpolate(of_vertices.repeat(views, 1), rast, triangles)
    return F.normalize(F.avg_pool2d(samples.permute(0, 3, 1, 2), supersample), dim=1, eps=1e-6)


def _to_clip(
    meshes: MeshBatch, world_to_clip: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Clip positions ``[K * V, 4]``, triangles ``[K * F, 3]`` and their ranges ``[K * B, 2]``."""
    views = len(world_to_clip)
    vertices, faces = meshes.vertices, meshes.faces
    matrices = world_to_clip[:, meshes.vertex_sample]  # [K, V, 4, 4]
    clip = (matrices[..., :3] @ vertices[:, :, None]).squeeze(-1) + matrices[..., 3]
    steps = torch.arange(views, device=faces.device, dtype=torch.int32)
    triangles = (faces[None] + steps[:, None, None] * len(vertices)).reshape(-1, 3)
    starts = torch.arange(views, dtype=torch.int32)[:, None] * len(faces)
    ranges = meshes.face_ranges.repeat(views, 1)
    ranges[:, 0] += starts.repeat_interleave(len(meshes), 0)[:, 0]
    return clip.reshape(-1, 4), triangles.contiguous(), ranges


def _topology(meshes: MeshBatch, views: int) -> ops.Topology:
    """The neighbours of the triangles of :func:`_to_clip`: every view repeats the first one's."""
    opposite = ops.build_topology(meshes.faces).opposite
    steps = torch.arange(views, device=opposite.device, dtype=opposite.dtype)
    moved = opposite + steps[:, None, None] * len(meshes.vertices)
    return ops.Topology(torch.where(opposite < 0, opposite, moved).reshape(-1, 3))


def _query(
    colors: ColorField, position: torch.Tensor, covered: torch.Tensor, views: int, batch: int
) -> torch.Tensor:
    """Colour at the covered positions only; ``[N, h, w, 3]``, 0 elsewhere."""
    height, width = covered.shape[1:]
    by_shape = covered.reshape(views, batch, -1).transpose(0, 1).reshape(batch, -1)
    points = position.reshape(views, batch, -1, 3).transpose(0, 1).reshape(batch, -1, 3)
    sample, cell = torch.nonzero(by_shape).unbind(1)
    counts = by_shape.sum(dim=1)
    rank = torch.arange(len(sample), device=sample.device)
    rank = rank - (torch.cumsum(counts, 0) - counts)[sample]
    padded = points.new_zeros(batch, max(int(counts.max()), 1), 3)
    padded[sample, rank] = points[sample, cell]
    found = colors(padded)[sample, rank]
    out = found.new_zeros(batch, views * height * width, 3)
    out = out.index_put((sample, cell), found)
    return (
        out.reshape(batch, views, height, width, 3)
        .transpose(0, 1)
        .reshape(views * batch, height, width, 3)
    )
