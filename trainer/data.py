"""Views of a dataset as training batches, drawn without state: step and seed name the batch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from ..config import seed_for
from ..errors import ConfigError, DatasetError
from ..manifests.dataset import Dataset
from ..manifests.records import Split
from .config import DataConfig
from .method import Batch, DataContext, Part, draw_background
from .metrics.chamfer import chamfer


class ViewPool:
    """All views of one split in memory, at training size.

    Attributes:
        rgba: uint8 ``[N, 4, H, W]``, straight alpha.

    Args:
        dataset: Where the views are.
        config: Size, split, background.
        threads: Threads that decode.
        flip: Mirror a random half of every batch.
        device: Where the views are kept and batches come from.
    """

    def __init__(
        self,
        dataset: Dataset,
        config: DataConfig,
        threads: int = 2,
        *,
        flip: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.background, self.hard, self.flip = config.background, config.mask == "hard", flip
        views = dataset.views(config.split)
        if not len(views):
            raise DatasetError(
                f"{dataset.root} has no view in its {config.split} split",
                hint="prepare more assets: g3d prepare … --limit N",
            )
        if dataset.info.size % config.size:
            raise ConfigError(
                f"data.size {config.size} does not divide the dataset's image size "
                f"{dataset.info.size}",
                hint="give --set data.size=N, or prepare the dataset with another --size",
            )
        chunks = np.array_split(np.arange(len(views)), max(1, len(views) // 256))
        with ThreadPoolExecutor(threads) as pool:
            parts = pool.map(
                lambda rows: shrink(dataset.read_views(views.take(rows)), config.size), chunks
            )
            self.rgba = torch.from_numpy(np.concatenate(list(parts))).to(device)
        self.azimuth = torch.from_numpy(views.azimuth.astype(np.float32)).to(device)
        self.elevation = torch.from_numpy(views.elevation.astype(np.float32)).to(device)
        uids = np.unique(views.uid)
        order = np.argsort(np.searchsorted(uids, views.uid), kind="stable")
        counts = np.unique(views.uid, return_counts=True)[1]
        self._rows, self._starts, self._counts = order, np.cumsum(counts) - counts, counts

    def batch(
        self, count: int, rng: np.random.Generator, part: Part | None = None, views: int = 1
    ) -> Batch:
        """``count`` random views of random assets (uniform over assets, then over their views).

        Args:
            count: Images of the whole step.
            rng: All draws are made for the whole step.
            part: Return only its rows; None: all.
            views: In how many views a method will show each of its shapes; see :meth:`Part.rows`.
        """
        part = part or Part()
        mine = part.rows(count, views)
        asset = rng.integers(len(self._counts), size=count)
        view = (rng.random(count) * self._counts[asset]).astype(np.int64)
        drawn = self._rows[self._starts[asset] + view]
        rows = torch.from_numpy(drawn[mine]).to(self.rgba.device)
        rgba, azimuth = self.rgba[rows].float() / 255, self.azimuth[rows]
        if self.flip:
            mirrored = torch.from_numpy((rng.random(count) < 0.5)[mine]).to(rgba.device)
            rgba = torch.where(mirrored[:, None, None, None], rgba.flip(3), rgba)
            azimuth = torch.where(mirrored, -azimuth, azimuth)  # read through sine and cosine only
        alpha = (rgba[:, 3:] > 0).float() if self.hard else rgba[:, 3:]
        background = draw_background(self.background, count, rng, rgba.device, mine)
        rgb = rgba[:, :3] * alpha + background * (1 - alpha)
        return Batch(rgb, alpha, azimuth, self.elevation[rows], rng, part=part)


def step_rng(seed: int, step: int, retry: int = 0) -> np.random.Generator:
    """The randomness of one step, the same for every worker; a resumed run draws the same.

    Args:
        seed: Of the run.
        step: From 0.
        retry: How often the run was rolled back: it must not meet the same numbers again.
    """
    return np.random.default_rng(seed_for("step", seed, step, retry))


def shrink(rgba: np.ndarray, size: int) -> np.ndarray:
    """Average views down: uint8 ``[N, H, W, 4]`` -> ``[N, 4, size, size]``.

    Colours are weighted by alpha, so that an edge pixel keeps the colour of its covered part.
    """
    count, height = rgba.shape[:2]
    block = height // size
    blocks = rgba.reshape(count, size, block, size, block, 4).astype(np.float32)
    alpha = blocks[..., 3:]
    weight = alpha.sum(axis=(2, 4))
    rgb = (blocks[..., :3] * alpha).sum(axis=(2, 4)) / np.maximum(weight, 1e-6)
    out = np.concatenate([rgb, weight / block**2], axis=-1)
    return np.ascontiguousarray(np.rint(out).astype(np.uint8).transpose(0, 3, 1, 2))


def open_data(path: Path | str, split: Split) -> tuple[Dataset, DataContext]:
    """Open a dataset and read off what a method must know of it."""
    dataset = Dataset.open(path)
    info = dataset.info
    context = DataContext(
        name=info.name,
        category=info.category,
        extent=info.extent,
        camera=info.camera,
        mirror_share=mirror_share(dataset, split),
    )
    return dataset, context


def mirror_share(dataset: Dataset, split: Split, limit: int = 100) -> float:
    """Share of the first ``limit`` shapes of a split that are symmetric about the plane x = 0.

    A shape counts as symmetric if its surface samples are no further from their mirror image than
    one half of them is from the other half, which is the noise of sampling.
    """
    assets = dataset.assets(split)[:limit]
    if not assets:
        return 0.0
    flip = np.array([-1.0, 1.0, 1.0], np.float32)
    symmetric = 0
    for asset in assets:
        points = dataset.points(asset.uid)
        noise = chamfer(points[::2], points[1::2])
        symmetric += chamfer(points, points * flip) <= noise
    return symmetric / len(assets)
