"""Rendering only the part of the image that the asset can be in; the rest is empty anyway.

Most paths of a view of one asset miss it, and a flat look spends most of its time on those.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import bpy
import numpy as np

MARGIN = 4
"""Pixels around the box: more than a pixel filter reaches, and rounding."""
NEAREST = 1e-3
"""Corners of the box less far in front of the camera than this: no crop."""


def bounding_box() -> np.ndarray | None:
    """Corners ``[8, 3]`` of all that renders, in Blender's world; None if there is nothing."""
    found = []
    # The list below is of what the viewport shows.
    if any(item.hide_viewport and not item.hide_render for item in bpy.data.objects):
        return None
    for instance in bpy.context.evaluated_depsgraph_get().object_instances:
        item = instance.object
        if item.type not in ("EMPTY", "LIGHT", "CAMERA"):
            corners = np.array([tuple(corner) for corner in item.bound_box])
            matrix = np.array(instance.matrix_world)
            found.append(corners @ matrix[:3, :3].T + matrix[:3, 3])
    if not found:
        return None
    points = np.concatenate(found)
    low, high = points.min(axis=0), points.max(axis=0)
    pick = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    return np.where(pick, high, low)


@dataclass(frozen=True)
class Window:
    """Part of an image, in pixels, row 0 = top; ``bottom`` and ``right`` are not in it."""

    left: int
    top: int
    right: int
    bottom: int


def crop(scene: Any, corners: np.ndarray | None, c2w: np.ndarray, fov_y: float) -> Window:
    """Set the border of the render to where ``corners`` are seen, or take it off.

    Args:
        scene: Of Blender, with its resolution set.
        corners: ``[8, 3]``, Blender's world; None: the whole image.
        c2w: ``[4, 4]`` of the camera, Blender's world, OpenGL axes.
        fov_y: Radians.

    Returns:
        What is rendered.
    """
    render = scene.render
    width, height = render.resolution_x, render.resolution_y
    box = None if corners is None else _seen(corners, c2w, fov_y, render)
    render.use_border = box is not None
    if box is None:
        return Window(0, 0, width, height)
    size = np.array([width, height])
    low = np.clip(np.floor(box[0]) - MARGIN, 0, size - 1).astype(int)
    high = np.clip(np.ceil(box[1]) + MARGIN, 1, size).astype(int)
    # Blender cuts the fraction off: half a pixel more makes that safe.
    render.border_min_x, render.border_min_y = (low + 0.5) / size
    render.border_max_x, render.border_max_y = np.minimum((high + 0.5) / size, 1.0)
    return Window(int(low[0]), height - int(high[1]), int(high[0]), height - int(low[1]))


def paste(pixels: np.ndarray, window: Window, height: int, width: int) -> np.ndarray:
    """An image ``[H, W, C]`` with ``pixels`` in ``window`` and 0 around it.

    Raises:
        RuntimeError: ``pixels`` have neither the size of the window nor that of the image.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    if pixels.shape[:2] != (window.bottom - window.top, window.right - window.left):
        raise RuntimeError(f"a render of {pixels.shape[:2]} pixels for {window}")
    out = np.zeros((height, width, pixels.shape[2]), pixels.dtype)
    out[window.top : window.bottom, window.left : window.right] = pixels
    return out


def _seen(corners: np.ndarray, c2w: np.ndarray, fov_y: float, render: Any) -> np.ndarray | None:
    """Pixels, y up: the lowest and the highest ``[2, 2]``; None where it cannot be told."""
    local = (corners - c2w[:3, 3]) @ c2w[:3, :3]
    ahead = -local[:, 2]
    if not np.isfinite(local).all() or ahead.min() < NEAREST:
        return None
    size = np.array([render.resolution_x, render.resolution_y], np.float64)
    focal = 0.5 * size[1] / np.tan(0.5 * fov_y)
    pixels = 0.5 * size + focal * local[:, :2] / ahead[:, None]
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    if (high <= 0).any() or (low >= size).any():
        return None  # nothing to see: the whole image, which is empty
    return np.stack([low, high])
