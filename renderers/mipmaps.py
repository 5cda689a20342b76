"""Textures for the raster renderer: colour spaces and mip chains.

Chains are averaged in linear light, premultiplied by alpha, so that filtering never mixes in the
colour of transparent texels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from .meshes import Material

# A texel in a mip chain is uint16, linear: a step is 1/20 of the finest 8-bit sRGB step.
_FULL = 65535.0
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


def srgb_to_linear(value: np.ndarray) -> np.ndarray:
    """Decode sRGB 0..1 (IEC 61966-2-1)."""
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(value: np.ndarray) -> np.ndarray:
    """Encode linear light 0..1 as sRGB (IEC 61966-2-1)."""
    value = np.clip(value, 0.0, 1.0)
    return np.where(value <= 0.0031308, 12.92 * value, 1.055 * value ** (1 / 2.4) - 0.055)


_DECODE = (srgb_to_linear(np.arange(256) / 255.0)).astype(np.float32)
ENCODE = np.floor(linear_to_srgb(np.arange(65536) / _FULL) * 255.0 + 0.5).astype(np.uint8)
"""uint8 sRGB of every uint16 linear value."""


def alpha_cutoff(material: Material) -> float:
    """The opacity below which a sample of ``material`` is discarded; -1 keeps all."""
    if material.alpha_mode == "opaque":
        return -1.0
    return material.alpha_cutoff if material.alpha_mode == "mask" else BLEND_CUTOFF


def build_textures(materials: tuple[Material, ...], longest: int) -> tuple[Textures, np.ndarray]:
    """Mip chains of the materials' textures, equal ones shared.

    Args:
        materials: The material table.
        longest: Larger textures are averaged down to this many texels along their longer side.

    Returns:
        The chains, and int64 ``[M]`` the texture of each material or -1.
    """
    chains: list[np.ndarray] = []
    levels: list[tuple[int, int, int]] = []
    first: list[tuple[int, int]] = []
    known: dict[tuple[int, bool], int] = {}
    index = np.full(len(materials), -1, np.int64)
    offset = 0
    for m, material in enumerate(materials):
        if material.texture is None:
            continue
        use_alpha = alpha_cutoff(material) >= 0
        key = (id(material.texture), use_alpha)
        if key not in known:
            known[key] = len(first)
            chain = _mip_chain(material.texture, use_alpha, longest)
            first.append((len(levels), len(chain)))
            for level in chain:
                levels.append((offset, level.shape[0], level.shape[1]))
                chains.append(level.reshape(-1, 4))
                offset += len(chains[-1])
        index[m] = known[key]
    textures = Textures(
        np.concatenate(chains) if chains else np.zeros((1, 4), np.uint16),
        np.asarray(levels or [(0, 1, 1)], np.int64),
        np.asarray(first or [(0, 1)], np.int64),
    )
    return textures, index


def least_opacity(material: Material) -> float:
    """The smallest opacity that factor and texture of ``material`` give anywhere."""
    texture = material.texture
    return material.base_color[3] * (1.0 if texture is None else texture[..., 3].min() / 255.0)


def _mip_chain(texture: np.ndarray, use_alpha: bool, longest: int) -> list[np.ndarray]:
    """Area-averaged levels uint16 ``[h, w, 4]`` down to 1 x 1, linear and premultiplied."""
    image = np.ones(texture.shape, np.float32)
    image[..., :3] = _DECODE[texture[..., :3]]
    if use_alpha:
        image[..., 3] = texture[..., 3].astype(np.float32) / np.float32(255.0)
        image[..., :3] *= image[..., 3:]
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
    full, half = np.float32(_FULL), np.float32(0.5)
    return [np.floor(level * full + half).astype(np.uint16) for level in chain]


@numba.njit(nogil=True, cache=True)
def _area_resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Exact area average of ``[h, w, 4]`` to a smaller ``[height, width, 4]``."""
    rows, columns = image.shape[0], image.shape[1]
    out = np.zeros((height, width, 4), np.float32)
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
