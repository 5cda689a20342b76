"""Squared Chamfer distance between point sets, and what is computed from a matrix of it.

Conventions of GET3D's evaluation: *squared* distances, mean both ways, summed (not halved). MMD and
COV as in Achlioptas et al. 2018, 1-NNA as in Lopez-Paz and Oquab 2017 and PointFlow 2019.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np

from ...renderers.meshes import Mesh, normalise, sample_surface

POINTS = 2048
"""Points a shape, as in GET3D's evaluation."""


@numba.njit(cache=True, nogil=True, fastmath=True)
def _mean_nearest(p: np.ndarray, q: np.ndarray, best: np.ndarray) -> float:
    """Mean over the points of ``p`` ``[3, P]`` of the squared distance to the nearest of ``q``.

    The inner loop runs over ``p``, whose minima it keeps side by side: that is what lets the
    compiler use vector instructions (4 times a KD-tree's speed at 2,048 points).
    """
    px, py, pz = p[0], p[1], p[2]
    best[:] = np.float32(3e38)
    for j in range(q.shape[1]):
        x, y, z = q[0, j], q[1, j], q[2, j]
        for i in range(px.shape[0]):
            dx, dy, dz = px[i] - x, py[i] - y, pz[i] - z
            d = dx * dx + dy * dy + dz * dz
            best[i] = d if d < best[i] else best[i]
    total = 0.0
    for i in range(px.shape[0]):
        total += best[i]
    return total / px.shape[0]


@numba.njit(cache=True, nogil=True)
def _row(a: np.ndarray, b: np.ndarray, first: int, out: np.ndarray) -> None:
    """Chamfer distances of ``a`` ``[3, P]`` to ``b[first:]`` ``[M, 3, Q]`` into ``out`` ``[M]``."""
    best_a = np.zeros(a.shape[1], np.float32)
    best_b = np.zeros(b.shape[2], np.float32)
    for j in range(first, len(b)):
        out[j] = _mean_nearest(a, b[j], best_a) + _mean_nearest(b[j], a, best_b)


def pairwise_chamfer(
    a: np.ndarray, b: np.ndarray | None = None, *, workers: int | None = None
) -> np.ndarray:
    """Squared Chamfer distance of every set of ``a`` to every set of ``b``.

    Args:
        a: ``[N, P, 3]``, computed in float32.
        b: ``[M, Q, 3]``; None compares ``a`` with itself and computes each pair once.
        workers: Threads; by default the cores, at most 8.

    Returns:
        float64 ``[N, M]``, in squared units of the points.

    Raises:
        ValueError: A set has no point, another shape, or a value that is not finite.
    """
    first = _transposed(a)
    second = first if b is None else _transposed(b)
    out = np.zeros((len(first), len(second)))
    workers = workers or min(os.cpu_count() or 1, 8)

    def fill(i: int) -> None:
        _row(first[i], second, i + 1 if b is None else 0, out[i])

    if len(out) and len(second):
        fill(0)  # compiles once, before the threads
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(fill, range(1, len(first))))
    return out + out.T if b is None else out


def _transposed(sets: np.ndarray) -> np.ndarray:
    """Checked ``[N, P, 3]`` to contiguous float32 ``[N, 3, P]``."""
    sets = np.asarray(sets)
    if sets.ndim != 3 or sets.shape[2] != 3 or sets.shape[1] == 0:
        raise ValueError(f"point sets must be [N, P, 3] with P > 0, found {sets.shape}")
    if not np.isfinite(sets).all():
        raise ValueError("point sets hold values that are not finite")
    return np.ascontiguousarray(sets.transpose(0, 2, 1), dtype=np.float32)


def chamfer(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Chamfer distance of two sets ``[P, 3]`` and ``[Q, 3]``."""
    return float(pairwise_chamfer(a[None], b[None], workers=1)[0, 0])


def mmd(distances: np.ndarray) -> float:
    """Minimum matching distance of ``[G, R]``: mean over references of the nearest generated."""
    _check_matrix(distances)
    return float(distances.min(axis=0).mean())


def coverage(distances: np.ndarray) -> float:
    """Share (0..1) of the references that are the nearest one of some generated shape.

    Grows with the number generated: compare only equal sizes. ``distances`` is ``[G, R]``.
    """
    _check_matrix(distances)
    return len(np.unique(distances.argmin(axis=1))) / distances.shape[1]


def one_nna(generated: np.ndarray, between: np.ndarray, references: np.ndarray) -> float:
    """Leave-one-out accuracy (0..1) of a 1-nearest-neighbour classifier; 0.5 is ideal.

    Of equally near neighbours a reference wins, then the lower index.

    Args:
        generated: ``[N, N]`` distances among the generated shapes.
        between: ``[N, N]`` generated (rows) to references.
        references: ``[N, N]`` among the references.

    Raises:
        ValueError: The sets differ in size, where the accuracy would be biased.
    """
    count = len(between)
    for matrix in (generated, between, references):
        if matrix.shape != (count, count) or count == 0:
            raise ValueError("1-NNA needs as many generated shapes as references, at least one")
    joined = np.block([[references, between.T], [between, generated]]).astype(np.float64)
    np.fill_diagonal(joined, np.inf)
    nearest_is_reference = joined.argmin(axis=1) < count
    is_reference = np.arange(2 * count) < count
    return float((nearest_is_reference == is_reference).mean())


def _check_matrix(distances: np.ndarray) -> None:
    if distances.ndim != 2 or 0 in distances.shape:
        raise ValueError(f"a matrix [generated, references] is needed, found {distances.shape}")


def normalise_points(points: np.ndarray) -> np.ndarray:
    """Centre each set ``[..., P, 3]`` on its box and scale its longest side to 1: float32."""
    points = np.asarray(points, np.float64)
    low, high = points.min(axis=-2, keepdims=True), points.max(axis=-2, keepdims=True)
    side = np.maximum((high - low).max(axis=-1, keepdims=True), 1e-12)
    return ((points - 0.5 * (low + high)) / side).astype(np.float32)


def sample_points(mesh: Mesh, rng: np.random.Generator, count: int = POINTS) -> np.ndarray:
    """``count`` points uniform on the surface of ``mesh``, normalised: float32 ``[count, 3]``.

    Raises:
        AssetError: ``empty_mesh``: the mesh has no face, or none with an area.
    """
    return normalise_points(sample_surface(normalise(mesh, 1.0)[0], count, rng))
