"""Fixed seeds, turning: a small animation of how far a run is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import nn

from ...manifests.atomic import write_atomic
from ...renderers.animation import encode_animation
from ...renderers.cameras import ring
from ..grids import tile_images
from ..method import DataContext, Method

SEEDS = range(8)
COLUMNS = 4
FRAMES = 12
TILE = 96
SECONDS = 2.4
"""Of one turn."""


def turntable(method: Method, generator: nn.Module, context: DataContext) -> np.ndarray:
    """uint8 ``[FRAMES, H, W, 3]``: fixed seeds, psi 1, seen all around, over white."""
    cameras = ring(context.camera, FRAMES)
    shapes = np.stack(
        [method.sample(generator, seed, 1.0).render(cameras, TILE) for seed in SEEDS]
    )  # [S, FRAMES, TILE, TILE, 4]
    return np.stack([tile_images(frame, COLUMNS) for frame in shapes.swapaxes(0, 1)])


def save_turntable(
    folder: Path, method: Method, generator: nn.Module, context: DataContext, nimg: int
) -> Path:
    """Write ``turntable-<nimg>.webp`` into a run's folder, whole or not at all."""
    path = folder / f"turntable-{nimg:09d}.webp"
    frames = turntable(method, generator, context)
    write_atomic(path, encode_animation(frames, ".webp", SECONDS))
    return path
