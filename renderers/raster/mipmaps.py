"""Textures for the raster renderer: colour spaces and mip chains.

Chains are averaged in linear light, premultiplied by alpha, so that filtering never mixes in the
colour of transparent texels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numba
import numpy as np

from ..meshes import Material
from ..srgb import linear_to_srgb, srgb_to_linear

# A texel in a mip chain is uint16, linear: a step is 1/20 of the finest 8-bit sRGB step.
_FULL = 65535.0
_ONE = np.float32(1.0)
BLEND_CUTOFF = 0.1
"""`blend` surfaces are solid where their opacity reaches this: glass stays, empty decals go."""


@dataclass(frozen=True)
class Textures:
    """Mip chains of all textures in one array.

    Attributes:
        texels: uint16 ``[N, 4]``, linear, premultiplied; row 0 of an image = top.
        levels: int64 ``[L, 3]``: offset into ``texels``, height, width of every level.
        first: int64 ``[K, 2]``: first row in ``levels`` and number of levels of each texture.
    """

    texels: np.ndarray
    levels: np.ndarray
    first: np.ndarray


_DECODE = (srgb_to_linear(np.arange(256) / 255.0)).astype(np.float32)
_SCALE = (np.arange(256) / 255.0).astype(np.float32)
ENCODE = np.floor(linear_to_srgb(np.arange(65536) / _FULL) * 255.0 + 0.5).astype(np.uint8)
"""uint8 sRGB of every uint16 linear value."""


def alpha_cutoff(material: Material) -> float:
    """The opacity below which a sample of ``material`` is discarded; -1 keeps all."""
    if material.alpha_mode == "opaque":
        return -1.0
    return material.alpha_cutoff if material.alpha_mode == "mask" else BLEND_CUTOFF


@dataclass
class _Table:
    """Chains under construction; a texture used twice in the same way is stored once."""

    longest: int
    texels: list[np.ndarray] = field(default_factory=list)
    levels: list[tuple[int, int, int]] = field(default_factory=list)
    first: list[tuple[int, int]] = field(default_factory=list)
    known: dict[tuple[int, bool, bool], int] = field(default_factory=dict)
    size: int = 0

    def add(self, texture: np.ndarray | None, *, srgb: bool, use_alpha: bool) -> int:
        """The texture's number, -1 for None."""
        if texture is None:
            return -1
        key = (id(texture), srgb, use_alpha)
        if key not in self.known:
            self.known[key] = len(self.first)
            chain = _mip_chain(texture, srgb, use_alpha, self.longest)
            self.first.append((len(self.levels), len(chain)))
            for level in chain:
                self.levels.append((self.size, level.shape[0], level.shape[1]))
                self.texels.append(level.reshape(-1, 4))
                self.size += len(self.texels[-1])
        return self.known[key]


def build_textures(
    materials: tuple[Material, ...], longest: int, physical: bool = False
) -> tuple[Textures, np.ndarray]:
    """Mip chains of the materials' textures, equal ones shared.

    Args:
        materials: The material table.
        longest: Larger textures are averaged down to this many texels along their longer side.
        physical: Metallic-roughness and emission textures too.

    Returns:
        The chains, and int64 ``[M, 3]`` the base colour, metallic-roughness and emission texture of
        each material, -1 where it has none.
    """
    table = _Table(longest)
    index = np.full((len(materials), 3), -1, np.int64)
    for m, material in enumerate(materials):
        use_alpha = alpha_cutoff(material) >= 0
        index[m, 0] = table.add(material.texture, srgb=True, use_alpha=use_alpha)
        if physical:
            index[m, 1] = table.add(material.metallic_roughness, srgb=False, use_alpha=False)
            index[m, 2] = table.add(material.emissive_texture, srgb=True, use_alpha=False)
    textures = Textures(
        np.concatenate(table.texels) if table.texels else np.zeros((1, 4), np.uint16),
        np.asarray(table.levels or [(0, 1, 1)], np.int64),
        np.asarray(table.first or [(0, 1)], np.int64),
    )
    return textures, index


def least_opacity(material: Material) -> float:
    """The smallest opacity that factor and texture of ``material`` give anywhere."""
    texture = material.texture
    return material.base_color[3] * (1.0 if texture is None else texture[..., 3].min() / 255.0)


def _mip_chain(texture: np.ndarray, srgb: bool, use_alpha: bool, longest: int) -> list[np.ndarray]:
    """Area-averaged levels uint16 ``[h, w, 4]`` down to 1 x 1, linear and premultiplied."""
    image = _decoded(np.ascontiguousarray(texture), _DECODE if srgb else _SCALE, use_alpha)
    height, width = texture.shape[0], texture.shape[1]
    if max(height, width) > longest:
        scale = longest / max(height, width)
        height, width = max(1, round(height * scale)), max(1, round(width * scale))
        image = _area_resize(image, height, width)
    chain = [image]
    while height > 1 or width > 1:
        height, width = max(1, height // 2), max(1, width // 2)
        image = _area_resize(image, height, width)
        chain.append(image)
    return [_quantised(level) for level in chain]


@numba.njit(nogil=True, cache=True)
def _decoded(texture: np.ndarray, table: np.ndarray, use_alpha: bool) -> np.ndarray:
    """Linear float32 ``[h, w, 4]`` of bytes; premultiplied, or with alpha 1."""
    out = np.ones(texture.shape, np.float32)
    for y in range(texture.shape[0]):
        for x in range(texture.shape[1]):
            alpha = np.float32(texture[y, x, 3]) / np.float32(255.0) if use_alpha else _ONE
            for c in range(3):
                out[y, x, c] = table[texture[y, x, c]] * alpha
            out[y, x, 3] = alpha
    return out


@numba.njit(nogil=True, cache=True)
def _quantised(image: np.ndarray) -> np.ndarray:
    """Float 0..1 as uint16."""
    out = np.zeros(image.shape, np.uint16)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            for c in range(4):
                out[y, x, c] = np.uint16(image[y, x, c] * np.float32(_FULL) + np.float32(0.5))
    return out


@numba.njit(nogil=True, cache=True)
def _area_resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Exact area average of ``[h, w, 4]`` to a smaller ``[height, width, 4]``."""
    rows, columns = image.shape[0], image.shape[1]
    out = np.zeros((height, width, 4), np.float32)
    if rows == 2 * height and columns == 2 * width:
        for y in range(height):
            for x in range(width):
                for c in range(4):
                    above = np.float64(image[2 * y, 2 * x, c]) + image[2 * y, 2 * x + 1, c]
                    below = np.float64(image[2 * y + 1, 2 * x, c]) + image[2 * y + 1, 2 * x + 1, c]
                    out[y, x, c] = 0.25 * (above + below)
        return out
    step_y, step_x = rows / height, columns / width
    for y in range(height):
        y0, y1 = y * step_y, (y + 1) * step_y
        for x in range(width):
            x0, x1 = x * step_x, (x + 1) * step_x
            c0 = c1 = c2 = c3 = total = 0.0
            for j in range(int(y0), min(rows, int(np.ceil(y1)))):
                part = min(y1, j + 1.0) - max(y0, float(j))
                for i in range(int(x0), min(columns, int(np.ceil(x1)))):
                    weight = part * (min(x1, i + 1.0) - max(x0, float(i)))
                    c0 += weight * image[j, i, 0]
                    c1 += weight * image[j, i, 1]
                    c2 += weight * image[j, i, 2]
                    c3 += weight * image[j, i, 3]
                    total += weight
            out[y, x, 0], out[y, x, 1] = c0 / total, c1 / total
            out[y, x, 2], out[y, x, 3] = c2 / total, c3 / total
    return out
