"""Configuration of a training run. Presets hold only what differs from these defaults."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..config import Config, load_preset, resolve
from .get3d.config import GET3DConfig

PRESETS = "g3d.trainer.presets"


class DataConfig(Config):
    """How the views of a dataset reach the loop."""

    size: int = Field(256, ge=8)
    """Side of the training images (pixels); stored views are averaged down to it."""
    split: Literal["train", "val", "test"] = "train"
    background: Annotated[float, Field(ge=0, le=1)] | Literal["random"] = 1.0
    """Grey that real and generated images are composited over, 1 is white; or `random`: a colour
    of its own for every image, real or generated."""
    mask: Literal["soft", "hard"] = "soft"
    """Alpha of real images: as it is, or 1 wherever it is not 0 (the paper)."""
    flip: bool | None = False
    """Show every other image as its mirror image, with the camera mirrored too; right where shapes
    are symmetric about the plane x = 0. None: if nearly all of the training shapes are."""


class GuardConfig(Config):
    """What is done about a loss or a gradient that is not finite: see ``trainer/guard.py``."""

    consecutive: int = Field(5, ge=1)
    """Steps left out one after the other that roll the run back to its last checkpoint."""
    window: int = Field(400, ge=1)
    """Steps among which the share is taken."""
    share: float = Field(0.05, gt=0, le=1)
    """Share of the window's steps that may be left out before the run is rolled back."""
    rollbacks: int = Field(3, ge=0)
    """How often at most; then the run ends with an error and health.json."""
    rate_factor: float = Field(0.5, gt=0, le=1)
    """All learning rates are multiplied by it at every roll-back."""


class RunConfig(Config):
    """Length, pace and bookkeeping of a run."""

    seed: int = 0
    kimg: float = Field(6000.0, gt=0)
    """Thousands of real images shown to the discriminators in all."""
    batch: int = Field(32, ge=1)
    """Images per step, over all workers."""
    workers: int = Field(1, ge=1)
    """Processes that share a step, started by Ray; gradients are averaged. 1: without Ray."""
    micro_batch: int | None = Field(None, ge=1)
    """Images of one backward pass of a worker; gradients are summed up to the batch. Less needs
    less memory. None: all at once."""
    max_restarts: int = Field(3, ge=0)
    """How often workers that died are started again, from the last checkpoint."""
    clip: float | None = Field(None, gt=0)
    """Longest gradient of a phase (norm over all its parameters); longer ones are scaled down."""
    guard: GuardConfig = GuardConfig()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; `auto`: on the GPU if one answers."""
    threads: int = Field(0, ge=0)
    """CPU threads of each worker; 0 = all cores divided by the workers."""
    ema_kimg: float = 10.0
    """Half-life of the generator's moving average."""
    ema_rampup: float = 0.05
    """The half-life is at most this share of the images shown so far."""
    decay_from: float = Field(1.0, ge=0, le=1)
    """Share of the run after which the learning rates fall linearly to 0."""
    tick_kimg: float = Field(4.0, gt=0)
    """Interval of a line in stats.jsonl."""
    snapshot_kimg: float = Field(200.0, gt=0)
    """Interval of snapshots and image grids."""
    checkpoint_kimg: float = Field(50.0, gt=0)
    """Interval of checkpoints: what a killed run loses at most."""
    keep_checkpoints: int = Field(2, ge=1)
    """The newest, all others are removed."""
    keep_snapshots: int | None = Field(None, ge=1)
    """The newest; None: all."""
    best: Literal["none", "mmd_cd"] = "none"
    """Keep the snapshot with the least figure as best.safetensors. `mmd_cd`: Chamfer distance from
    held-out (`val`) shapes to the nearest generated one."""
    best_shapes: int = Field(64, ge=1)
    """Shapes generated, and held-out ones compared with, at every snapshot."""


class TrainConfig(Config):
    """Everything that determines a run, apart from the dataset."""

    preset: str = "default"
    """Name of the preset it came from; for people."""
    data: DataConfig = DataConfig()
    get3d: GET3DConfig = GET3DConfig()
    run: RunConfig = RunConfig()


def preset_config(name: str, **overrides: object) -> TrainConfig:
    """The config of a preset, with nested overrides.

    Raises:
        ConfigError: There is no such preset, or an override does not fit.
    """
    return resolve(
        TrainConfig, preset={"preset": name, **load_preset(PRESETS, name)}, flags=overrides
    )
