"""Random parameters: rounded, so that they read well and digest to the same text everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from ....config import seed_for
from .solids import hsv

T = TypeVar("T")
Params = dict[str, Any]
"""The parameters of one shape: plain JSON values."""


class Draw:
    """Draws the parameters of one shape from its own generator.

    Args:
        scope: What the seed is derived from (blake2), for example a uid.
    """

    def __init__(self, *scope: object) -> None:
        self.rng = np.random.Generator(np.random.PCG64(seed_for(*scope)))

    def share(self) -> float:
        """A number in [0, 1): all else is made of these, so only PCG64's own stream matters."""
        return float(self.rng.random())

    def between(self, low: float, high: float) -> float:
        """A number in [low, high), not rounded."""
        return low + (high - low) * self.share()

    def uniform(self, low: float, high: float) -> float:
        """A number in [low, high], rounded to 4 digits."""
        return round(self.between(low, high), 4)

    def chance(self, probability: float) -> bool:
        """True with ``probability``."""
        return self.share() < probability

    def integer(self, low: int, high: int) -> int:
        """A whole number in [low, high], both included."""
        return low + int(self.share() * (high + 1 - low))

    def choice(self, options: Sequence[T], weights: Sequence[float] | None = None) -> T:
        """One of ``options``, with relative ``weights``."""
        if weights is None:
            return options[self.integer(0, len(options) - 1)]
        edges = np.cumsum(weights) / np.sum(weights)
        return options[int(np.searchsorted(edges, self.share(), side="right"))]

    def hue_color(self, saturation: tuple[float, float], value: tuple[float, float]) -> list[int]:
        """A colour of any hue, 8-bit sRGB."""
        return hsv(self.share(), self.between(*saturation), self.between(*value))

    def wood(self) -> list[int]:
        """A brown, from walnut to beech."""
        return hsv(self.between(0.055, 0.105), self.between(0.42, 0.7),
                   self.between(0.28, 0.72))  # fmt: skip

    def grey(self, low: float = 0.08, high: float = 0.7) -> list[int]:
        """A grey with a hint of blue."""
        return hsv(0.62, self.between(0.0, 0.12), self.between(low, high))

    def frame(self) -> list[int]:
        """The colour of a frame: wood, nearly black, or grey."""
        kind = self.choice(("wood", "dark", "grey"), (0.55, 0.2, 0.25))
        if kind == "wood":
            return self.wood()
        return self.grey(0.09, 0.16) if kind == "dark" else self.grey(0.42, 0.66)
