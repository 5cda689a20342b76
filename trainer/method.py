"""The boundary between the training loop and a method: four members, and the batch.

The loop knows phases, counters, logging and checkpoints and nothing of any method. A method knows
nothing of files, logging or distribution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import nn

from ..config import Config
from ..manifests.records import AnyCameraPrior
from .asset import Asset

SYMMETRIC_FROM = 0.95
"""Share of symmetric shapes from which a dataset counts as symmetric."""


class DataContext(Config):
    """What a method must know of the dataset; stored with every run and snapshot."""

    name: str
    category: str
    extent: float
    """Longest side of the normalised objects (world units)."""
    camera: AnyCameraPrior
    mirror_share: float = 0.0
    """Share of the training shapes that are symmetric about the plane x = 0."""
    labels: tuple[str, ...] = ()
    """Names of the classes, for training on several at once; none = no classes."""
    label_shares: tuple[float, ...] = ()
    """Share of each class among the training views; none = all the same."""

    @property
    def symmetric(self) -> bool:
        """Whether nearly all shapes are: what an open `mirror` or `flip` is decided by."""
        return self.mirror_share >= SYMMETRIC_FROM


Background = float | Literal["random"]
"""What images are composited over: a grey in [0, 1], or a colour of its own for every image."""


def draw_background(
    background: Background,
    count: int,
    rng: np.random.Generator,
    device: torch.device | str,
    rows: np.ndarray | None = None,
) -> torch.Tensor | float:
    """The grey, or ``count`` colours ``[N, 3, 1, 1]``, uniform in [0, 1]; of them, ``rows``."""
    if background != "random":
        return background
    drawn = rng.random((count, 3, 1, 1), dtype=np.float32)
    return torch.from_numpy(drawn if rows is None else drawn[rows]).to(device)


@dataclass(frozen=True)
class Part:
    """Which share of a step's images a batch holds: a worker's, or a micro-batch of it.

    A step draws for all its images and takes the rows of its part, so that the parts together are
    what one worker alone would have drawn.

    Attributes:
        index: From 0.
        count: Equal parts that make the step.
    """

    index: int = 0
    count: int = 1

    def rows(self, total: int, views: int = 1) -> np.ndarray:
        """Which of the step's ``total`` rows are this part's: its shapes, in each of ``views``.

        Rows stand view by view, ``[views, shapes]``; ``total`` is a multiple of views x parts.
        """
        return np.arange(total).reshape(views, self.count, -1)[:, self.index].ravel()


@dataclass(frozen=True)
class Batch:
    """Real views for one step, and the step's own randomness.

    Attributes:
        rgb: float32 ``[N, 3, H, W]`` in [0, 1], sRGB, composited over the run's background.
        alpha: float32 ``[N, 1, H, W]`` soft coverage.
        azimuth: float32 ``[N]`` (radians, any turn).
        elevation: float32 ``[N]`` (radians).
        rng: Seeded by run and step; every draw of the step comes from it, for the whole step, of
            which ``part.rows`` are kept.
        normal: float32 ``[N, 3, H, W]``, world space, unit length where alpha is not 0 and 0
            elsewhere; None = the dataset has none.
        label: int64 ``[N]``, rows of ``DataContext.labels``; None = no classes.
        part: The share of the step that these rows are.
    """

    rgb: torch.Tensor
    alpha: torch.Tensor
    azimuth: torch.Tensor
    elevation: torch.Tensor
    rng: np.random.Generator
    normal: torch.Tensor | None = None
    label: torch.Tensor | None = None
    part: Part = Part()
    _drawn: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False, compare=False)

    def draws(self, name: str) -> tuple[np.random.Generator, bool]:
        """The randomness for what a phase may have to make again, and whether it is made first.

        At first it is ``rng``; later, under the same name, one that repeats what ``rng`` gave. So
        a micro-batch whose fakes were given up to save memory gets the same fakes again.
        """
        state = self._drawn.get(name)
        if state is None:
            self._drawn[name] = dict(self.rng.bit_generator.state)
            return self.rng, True
        again = type(self.rng.bit_generator)(0)
        again.state = state
        return np.random.Generator(again), False


Logs = dict[str, torch.Tensor]
Loss = Callable[[Batch, int], tuple[torch.Tensor, Logs]]


@dataclass(frozen=True)
class Phase:
    """One optimiser step of the loop.

    Attributes:
        name: For logs and checkpoints.
        parameters: Those that the loss may move.
        optimizer: May be shared by phases.
        every: The phase runs when ``step % every == 0``.
        loss: ``(batch, step) -> (scalar, logged terms)``.
    """

    name: str
    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    every: int
    loss: Loss


class Method(Protocol):
    """What a method gives to the loop."""

    needs: Literal["views"]
    """Which samples the loop must deliver."""

    def nets(self) -> dict[str, nn.Module]:
        """Modules that are saved; ``generator`` is averaged (EMA) as well.

        Buffers named ``..._avg`` are means of what the batches showed: they are averaged over the
        workers after every step. All other buffers must not depend on the batch.
        """
        ...

    def phases(self) -> list[Phase]:
        """The phases of a step, in order."""
        ...

    def sample(self, generator: nn.Module, seed: int, psi: float) -> Asset:
        """One asset from a generator of this method (the averaged one, usually)."""
        ...
