"""Image grids of a run: the same seeds and cameras every time, so that progress can be seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..manifests.atomic import atomic_file
from ..renderers.cameras import ring
from .method import DataContext, Method

SEEDS = range(16)
COLUMNS = 8
TILE = 96


def fake_grid(method: Method, generator: nn.Module, context: DataContext) -> np.ndarray:
    """uint8 ``[H, W, 3]``: fixed seeds, psi 1, one three-quarter view each, over white."""
    camera = ring(context.camera, 8)[1:2]
    tiles = [method.sample(generator, seed, 1.0).render(camera, TILE)[0] for seed in SEEDS]
    return tile_images(np.stack(tiles), COLUMNS)


REALS = "reals.png"
"""Of a run: some real images."""


def real_grid(rgba: torch.Tensor) -> np.ndarray:
    """The same for real views uint8 ``[N, 4, H, W]``, evenly picked: uint8 ``[.., .., 3]``."""
    rows = np.linspace(0, len(rgba) - 1, min(len(SEEDS), len(rgba))).astype(int)
    picked = rgba[torch.from_numpy(rows).to(rgba.device)].float()
    alpha = picked[:, 3:]
    # Colours are weighted by alpha: those behind the edge of an object mean nothing.
    weighted = F.interpolate(picked[:, :3] * alpha, (TILE, TILE), mode="area")
    alpha = F.interpolate(alpha, (TILE, TILE), mode="area")
    tiles = torch.cat([weighted / alpha.clamp(min=1e-6), alpha], dim=1).round().clamp(0, 255)
    return tile_images(tiles.byte().permute(0, 2, 3, 1).cpu().numpy(), COLUMNS)


def tile_images(rgba: np.ndarray, columns: int) -> np.ndarray:
    """Straight-alpha images ``[N, H, W, 4]`` over white, side by side: uint8 ``[.., .., 3]``."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    rgb = np.rint(rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    count, height, width = rgb.shape[:3]
    rows = -(-count // columns)
    sheet = np.full((rows * columns, height, width, 3), 255, np.uint8)
    sheet[:count] = rgb
    return (
        sheet.reshape(rows, columns, height, width, 3)
        .transpose(0, 2, 1, 3, 4)
        .reshape(rows * height, columns * width, 3)
    )


def save_grid(path: Path, image: np.ndarray) -> None:
    """Write a PNG, whole or not at all."""
    import imageio.v3 as iio

    with atomic_file(path, sync=False) as file:
        file.write(iio.imwrite("<bytes>", image, extension=".png"))
