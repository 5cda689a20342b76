"""The pose self-test: does the mesh, seen through the matrices that were saved, give the images?

It reads the camera as a stranger would, from the JSON that goes into the shard, and projects with
the pinhole formula of ``docs/conventions.md`` alone. It shares no code with the renderers, so an
error in theirs shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..renderers.meshes import Mesh, sample_surface
from .gates import VISIBLE

CELLS = 64
"""The images are compared on a grid of at most about this many cells a side."""
SAMPLES = 24_000


@dataclass(frozen=True)
class PoseCheck:
    """How well the projected mesh and the saved alpha agree.

    Attributes:
        iou: Float64 ``[N]``, intersection over union of the cells that either touches.
        cover: Float64 ``[N]``, share of the cells with alpha that lie on the projected mesh, or
            next to it.
    """

    iou: np.ndarray
    cover: np.ndarray


def project_saved(
    points: np.ndarray, view: Mapping[str, Any], height: int, width: int
) -> np.ndarray:
    """Pixel positions ``[P, 2]`` (x right, y down) of ``points`` ``[P, 3]`` in one saved view.

    With ``p`` in camera axes (x right, y up, looks along -z) and ``f`` the focal length in pixels:
    ``x = width / 2 - f p.x / p.z``, ``y = height / 2 + f p.y / p.z``. Points behind the camera
    give NaN.
    """
    c2w = np.asarray(view["c2w"], np.float64).reshape(4, 4)
    focal = 0.5 * height / np.tan(0.5 * np.deg2rad(view["fov_y_deg"]))
    local = (points - c2w[:3, 3]) @ c2w[:3, :3]
    scale = np.divide(
        focal, -local[:, 2], out=np.full(len(local), np.nan), where=local[:, 2] < -1e-9
    )
    return np.stack([width / 2 + scale * local[:, 0], height / 2 - scale * local[:, 1]], axis=1)


def check_poses(
    mesh: Mesh, rgba: np.ndarray, views: Sequence[Mapping[str, Any]], rng: np.random.Generator
) -> PoseCheck:
    """Compare the alpha of ``rgba`` uint8 ``[N, H, W, 4]`` with the mesh as ``views`` see it."""
    count, height, width = rgba.shape[:3]
    block = max(1, min(height, width) // CELLS)
    rows, columns = -(-height // block), -(-width // block)
    points = np.concatenate([sample_surface(mesh, SAMPLES, rng), mesh.vertices[:SAMPLES]])
    points = points.astype(np.float64)
    alpha = np.zeros((count, rows * block, columns * block), np.uint8)
    alpha[:, :height, :width] = rgba[..., 3]
    seen = alpha.reshape(count, rows, block, columns, block).max(axis=(2, 4)) >= VISIBLE
    iou, cover = np.zeros(count), np.zeros(count)
    for n, view in enumerate(views):
        x, y = project_saved(points, view, height, width).T
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        hit = np.zeros((rows, columns), bool)
        hit[y[inside].astype(np.int64) // block, x[inside].astype(np.int64) // block] = True
        union = int((hit | seen[n]).sum())
        iou[n] = (hit & seen[n]).sum() / union if union else 1.0
        near = _grown(hit)
        total = int(seen[n].sum())
        cover[n] = (near & seen[n]).sum() / total if total else 1.0
    return PoseCheck(iou, cover)


def _grown(mask: np.ndarray) -> np.ndarray:
    """``mask`` ``[R, C]`` with its eight neighbours."""
    padded = np.pad(mask, 1)
    rows = padded[:-2] | padded[1:-1] | padded[2:]
    return rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]
