"""From a config or a snapshot to a method, and to assets by seed."""

from __future__ import annotations

from pathlib import Path

import torch

from .asset import Asset
from .checkpoint import Snapshot, load_snapshot
from .config import TrainConfig
from .get3d.method import GET3D
from .method import DataContext, Method


def build_method(config: TrainConfig, context: DataContext) -> Method:
    """The method of a config, with freshly drawn weights (seeded by the run)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        return GET3D(
            config.get3d,
            context,
            config.data.size,
            config.data.background,
            batch=config.run.batch,
            kimg=config.run.kimg,
        )


class SnapshotSampler:
    """``(seed, psi) -> Asset`` of a snapshot.

    Attributes:
        snapshot: What was loaded.
        path: Where from: a run folder or a snapshot file.
    """

    def __init__(self, path: Path, device: str = "cpu") -> None:
        self.path = path
        self.snapshot: Snapshot = load_snapshot(path)
        self._method = build_method(self.snapshot.config, self.snapshot.context)
        self._generator = self._method.nets()["generator"]
        self._generator.load_state_dict(self.snapshot.tensors)
        self._generator.eval().requires_grad_(False).to(device)

    def __call__(self, seed: int, psi: float = 1.0) -> Asset:
        """The asset of a seed."""
        return self._method.sample(self._generator, seed, psi)


class UntrainedSampler:
    """The same for a generator that has not been trained: the lower reference of the metrics."""

    def __init__(self, config: TrainConfig, context: DataContext) -> None:
        self._method = build_method(config, context)
        self._generator = self._method.nets()["generator"].eval().requires_grad_(False)

    def __call__(self, seed: int, psi: float = 1.0) -> Asset:
        """The asset of a seed."""
        return self._method.sample(self._generator, seed, psi)
