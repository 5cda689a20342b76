"""Rasterise and interpolate plain NumPy arrays; no torch here, so render workers stay light."""

from __future__ import annotations

import numpy as np

from .coverage import KEY_PADDING, NOTHING, visible_image
from .parallel import each_image
from .pixels import barycentric_image, interpolate_image

FLOAT_IDS = 1 << 24
"""Triangle ids (one-based) up to this are stored as float values, larger ones as float bits."""
ID_BITS = 0x4A800000


def encode_ids(ids: np.ndarray) -> np.ndarray:
    """One-based triangle ids int32 ``[...]`` as float32, exact for any id below 889 million."""
    small = ids.astype(np.float32)
    if ids.size == 0 or ids.max() <= FLOAT_IDS:
        return small
    return np.where(ids <= FLOAT_IDS, small, (ids + np.int32(ID_BITS)).view(np.float32))


def decode_ids(channel: np.ndarray) -> np.ndarray:
    """Inverse of :func:`encode_ids`: float32 ``[...]`` to int32 ``[...]``."""
    channel = np.ascontiguousarray(channel, dtype=np.float32)
    if channel.size == 0 or channel.max() <= FLOAT_IDS:
        return channel.astype(np.int32)
    large = channel > FLOAT_IDS
    small = np.where(large, np.float32(0), channel).astype(np.int32)
    return np.where(large, channel.view(np.int32) - np.int32(ID_BITS), small)


def plain(array: np.ndarray, dtype: type) -> np.ndarray:
    """``array`` as a C-contiguous, writable array, the one layout that kernels are compiled for."""
    array = np.ascontiguousarray(array, dtype=dtype)
    return array if array.flags.writeable else array.copy()


def rasterize_numpy(
    pos: np.ndarray,
    tri: np.ndarray,
    height: int,
    width: int,
    ranges: np.ndarray | None = None,
    threads: int = 1,
) -> np.ndarray:
    """Rasterise without torch and without the GIL; semantics of ``g3d.renderers.ops.rasterize``.

    Args:
        pos: float32 ``[B, V, 4]``, clip-space vertices of each image; ``[V, 4]`` with ``ranges``.
        tri: int32 ``[T, 3]``, vertex indices.
        height: Rows of an image (pixels).
        width: Columns of an image (pixels).
        ranges: int32 ``[B, 2]``, first triangle and number of triangles of each image.
        threads: Images drawn at once; the result does not depend on it.

    Returns:
        float32 ``[B, H, W, 4]``: u, v, z/w, one-based triangle id; row 0 is the bottom.
    """
    pos, tri = plain(pos, np.float32), plain(tri, np.int32)
    shared = ranges is not None
    spans = [(0, len(tri))] * len(pos) if ranges is None else [(int(s), int(n)) for s, n in ranges]
    rast = np.zeros((len(spans), height, width, 4), dtype=np.float32)
    large = len(tri) > FLOAT_IDS

    def job(image: int) -> None:
        vertices = pos if shared else pos[image]
        keys = np.full((height, width + KEY_PADDING), NOTHING, dtype=np.int64)
        ids = np.zeros((height, width), dtype=np.int32)
        visible_image(vertices, tri, *spans[image], width, keys)
        barycentric_image(vertices, tri, keys, ids, rast[image])
        if large:
            rast[image, ..., 3] = encode_ids(ids)

    each_image(job, len(spans), threads)
    return rast


def interpolate_numpy(
    attr: np.ndarray, rast: np.ndarray, tri: np.ndarray, threads: int = 1
) -> np.ndarray:
    """Vertex attributes at the pixels, without torch.

    Args:
        attr: float32 ``[V, C]``, or ``[B, V, C]`` where they differ between images.
        rast: float32 ``[B, H, W, 4]`` of :func:`rasterize_numpy`.
        tri: int32 ``[T, 3]``.
        threads: Images at once.

    Returns:
        float32 ``[B, H, W, C]``, 0 where nothing is drawn.
    """
    attr, rast, tri = plain(attr, np.float32), plain(rast, np.float32), plain(tri, np.int32)
    out = np.zeros((*rast.shape[:3], attr.shape[-1]), dtype=np.float32)

    def job(image: int) -> None:
        one = attr if attr.ndim == 2 else attr[min(image, len(attr) - 1)]
        interpolate_image(one, rast[image], decode_ids(rast[image, ..., 3]), tri, out[image])

    each_image(job, len(rast), threads)
    return out
