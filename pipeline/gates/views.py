"""What the gates measure on images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...renderers.base import Views
from ...renderers.meshes import Material, Mesh

VISIBLE = 8
"""Alpha (of 255) from which a pixel counts as touched by the object."""
CLEAR, SOLID = 13, 242
"""Alpha (of 255) up to which a pixel is empty, and from which it is solid: 0.05 and 0.95."""
EDGE = 2
"""Pixels from the silhouette inwards whose alpha tells of the edge, not of the material."""
LUMA = (0.2126, 0.7152, 0.0722)
"""Weights of red, green and blue in brightness: ITU-R BT.709."""


def coverage(rgba: np.ndarray) -> np.ndarray:
    """Mean alpha of every view: float64 ``[N]`` in 0..1, from uint8 ``[N, H, W, 4]``."""
    alpha = rgba[..., 3]
    return alpha.sum(axis=(1, 2), dtype=np.uint64) / np.float64(alpha[0].size) / 255.0


def touches_border(rgba: np.ndarray) -> np.ndarray:
    """Whether the object reaches the edge of the image: bool ``[N]``."""
    alpha = rgba[..., 3]
    edge = np.concatenate([alpha[:, 0], alpha[:, -1], alpha[:, :, 0], alpha[:, :, -1]], axis=1)
    return np.asarray((edge >= VISIBLE).any(axis=1))


def see_through(rgba: np.ndarray, enough: float = 0.0) -> float:
    """Share of the object's pixels that are neither solid nor part of its edge, 0..1.

    Such pixels are see-through if no pixel within :data:`EDGE` of them is empty.

    Args:
        rgba: uint8 ``[N, H, W, 4]``.
        enough: A share up to which it need not be told from 0; saves the work in most cases.
    """
    alpha = np.ascontiguousarray(rgba[..., 3])
    solid = np.count_nonzero(alpha >= SOLID)
    between = np.count_nonzero(alpha > CLEAR) - np.count_nonzero(alpha >= SOLID)
    if not between or between <= enough * (between + solid):
        return 0.0
    inside = alpha >= VISIBLE
    for axis in (1, 2):
        eroded = inside.copy()
        for step in range(1, EDGE + 1):
            for sign in (step, -step):
                eroded &= _shifted(inside, sign, axis)
        inside = eroded
    through = np.count_nonzero(inside & (alpha > CLEAR) & (alpha < SOLID))
    return through / (through + solid) if through else 0.0


def _shifted(mask: np.ndarray, step: int, axis: int) -> np.ndarray:
    """``mask`` moved along an axis; beyond the image it goes on as at the border."""
    index = np.clip(np.arange(mask.shape[axis]) + step, 0, mask.shape[axis] - 1)
    return np.take(mask, index, axis=axis)


def luminance(rgba: np.ndarray) -> float:
    """Mean brightness of the object, 0..1: sRGB values with the weights of BT.709, by alpha."""
    weight = rgba[..., 3].astype(np.float64)
    value = rgba[..., :3] @ np.asarray(LUMA)
    total = weight.sum()
    return float((value * weight).sum() / total / 255.0) if total else 0.0


class Colours:
    """Standard deviation of the base colours that views show, gathered view by view."""

    def __init__(self) -> None:
        self._count, self._sum, self._squares = 0, np.zeros(3), np.zeros(3)

    def add(self, views: Views) -> None:
        """Look at the solid pixels of some more views."""
        solid = views.albedo[views.rgba[..., 3] >= SOLID].astype(np.float64)
        self._count += len(solid)
        self._sum += solid.sum(axis=0)
        self._squares += (solid * solid).sum(axis=0)

    @property
    def spread(self) -> float:
        """Root of the summed variances of red, green and blue (sRGB, 0..1); 0: one colour."""
        if not self._count:
            return 0.0
        mean = self._sum / self._count
        variance = np.maximum(self._squares / self._count - mean * mean, 0.0)
        return float(np.sqrt(variance.sum())) / 255.0


@dataclass(frozen=True)
class ViewFacts:
    """All views of an asset.

    Attributes:
        rgba: uint8 ``[N, H, W, 4]``.
        colours: Of their albedo, if a rule asks for it.
    """

    rgba: np.ndarray
    colours: Colours | None = None

    @cached_property
    def covered(self) -> np.ndarray:
        """Share of covered pixels float64 ``[N]``."""
        return coverage(self.rgba)

    @cached_property
    def border(self) -> np.ndarray:
        """Views that the object leaves, bool ``[N]``."""
        return touches_border(self.rgba)


def magenta_share(views: Views, mesh: Mesh, enough: float = 0.0) -> float:
    """Share of solid pixels in the colour by which Blender shows that a texture is not there.

    Args:
        views: Their albedo counts, which no light has changed.
        mesh: Of the images; one with magenta in its own colours gives 0.
        enough: A share up to which it need not be told from 0; saves the work in most cases.
    """
    solid = views.rgba[..., 3] == 255
    count = np.count_nonzero(solid)
    # Magenta has next to no green, at any brightness: see :func:`_is_magenta`.
    if not count or np.count_nonzero(solid & (views.albedo[..., 1] < 13)) <= enough * count:
        return 0.0
    share = float(_is_magenta(views.albedo[solid]).mean())
    if share <= enough or any(_has_magenta(m) for m in mesh.materials):
        return 0.0
    if mesh.colors is not None and _is_magenta(mesh.colors * 255.0).any():
        return 0.0
    return share


def _is_magenta(rgb: np.ndarray) -> np.ndarray:
    """Whether pixels ``[..., 3+]`` (0..255) are (1, 0, 1) at any brightness that can be told."""
    red, green, blue = (rgb[..., k].astype(np.float32) for k in range(3))
    most = np.maximum(red, blue)
    return np.asarray(
        (most > 40) & (green < 0.05 * most) & (np.abs(red - blue) < 0.1 * most), dtype=bool
    )


def _has_magenta(material: Material) -> bool:
    if _is_magenta(np.asarray(material.base_color) * 255.0):
        return True
    return material.texture is not None and bool(_is_magenta(material.texture).any())
