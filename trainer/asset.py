"""The second half of the method boundary: what a generated thing can do.

Export, metrics and galleries know :class:`Asset` and nothing of the method that made it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np

from ..renderers.cameras import Camera
from ..renderers.meshes import Mesh


@runtime_checkable
class Asset(Protocol):
    """One generated, textured shape. Equal seeds of one snapshot give equal assets."""

    seed: int
    """The seed whose latents made this asset."""

    def to_mesh(self) -> Mesh:
        """The surface: ``vertices`` and ``faces`` only, +Y up, counter-clockwise = outside.

        An empty shape is a mesh with no face, not an error.
        """
        ...

    def color(self, points: np.ndarray) -> np.ndarray:
        """The texture field at ``points`` float32 ``[P, 3]``: sRGB in 0..1, float32 ``[P, 3]``."""
        ...

    def render(self, cameras: Camera, size: int) -> np.ndarray:
        """Images from each of ``cameras`` (``[N]``).

        uint8 ``[N, size, size, 4]``, sRGB with straight alpha, row 0 = top.
        """
        ...


Sampler = Callable[[int, float], Asset]
"""``(seed, psi) -> Asset``: all that export and metrics ask of a trained method."""
