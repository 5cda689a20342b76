"""Duplicates: equal files by hash, and nearly equal shapes by a descriptor and Chamfer distance.

Pure: nothing here reads or writes a dataset.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .sources.base import SourceAsset

THRESHOLD = 0.008
"""Shapes are duplicates up to this distance, a share of the longest side: see docs/gates.md."""
RADIUS = 60.0
"""Fingerprints of duplicates are at most this far apart (Euclidean, in steps of a byte)."""
NEAREST = 16
"""Shapes that one shape is compared with, point by point, at the most."""
CELL = 0.06
"""Points in a cube of this share of the longest side count as one: see :func:`fingerprint`."""
PAIRS = 4
"""Distances for each point among the distances of pairs."""
LEVELS, LEVEL_WIDTH = np.array([-1.0, -0.5, 0.0, 0.5, 1.0]), 0.3
"""Heights about which a fingerprint looks, in mean distances from the centre."""
RINGS, RING_WIDTH = np.array([0.3, 0.7, 1.1, 1.5]), 0.2
"""Distances from the vertical axis about which it looks."""
WEIGHTS = (85.0, 800.0, 1000.0)
"""Steps of a byte for a unit of the distances, the masses and the waves of a fingerprint."""
BLOCK = 1024
"""New shapes that are looked up together."""
COLUMNS = 8192
"""Shapes that they are compared with at a time: bounds memory."""
COARSE = 128
"""Points of a first, quick comparison."""
STRETCH = 0.03
"""Two copies of a shape are placed and scaled alike, but for this share of their size: normalising
looks at the longest side alone, and noise makes that longer."""


@dataclass(frozen=True)
class Duplicate:
    """A shape that is nearly the same as one that is kept.

    Attributes:
        uid: Of the shape.
        of: uid of the one that is kept.
        distance: RMS distance of the two surfaces, a share of the longest side.
    """

    uid: str
    of: str
    distance: float


def fingerprint(points: np.ndarray) -> np.ndarray:
    """Descriptor of a shape: uint8 ``[64]``, near in Euclidean distance for shapes that are alike.

    Made to change little when a shape is sampled, triangulated or turned in another way. Points
    weigh one by the number of points in their cube of space, so that the occupied space counts and
    not the area in it: a rough or doubled surface is where the plain one was. Lengths are in mean
    distances from the centre. The numbers are

    * 12: distances of pairs of points in rising order (D2 of Osada et al., 2002), as means of
      twelfths;
    * 20: share of the points about 5 heights and 4 distances from the vertical axis through the
      centre;
    * 32: size of the first, second and fourth wave about that axis at such places.

    A turn by a quarter about the vertical axis changes none of them.

    Args:
        points: Samples of the surface in random order, +Y up, box about the origin ``[P, 3]``.
    """
    p = np.asarray(points, np.float64)
    weight = _occupancy(p)
    p = p - weight @ p
    p = p / max(float(weight @ np.sqrt((p * p).sum(axis=1))), 1e-12)
    around = np.hypot(p[:, 0], p[:, 2])
    level = _windows(p[:, 1], LEVELS, LEVEL_WIDTH) * weight[:, None]
    ring = _windows(around, RINGS, RING_WIDTH)
    unit = (p[:, 2] + 1j * p[:, 0]) / np.maximum(around, 1e-12)
    waves = [
        np.abs((level[:, rows] * (unit**order)[:, None]).T @ ring).reshape(-1)
        for order, rows in ((1, (0, 2, 4)), (2, (0, 2, 4)), (4, (1, 3)))
    ]
    values = np.concatenate(
        [
            WEIGHTS[0] * _pair_distances(p, weight, 12),
            WEIGHTS[1] * (level.T @ ring).reshape(-1),
            WEIGHTS[2] * np.concatenate(waves),
        ]
    )
    return np.rint(np.clip(values, 0.0, 255.0)).astype(np.uint8)


def _occupancy(points: np.ndarray) -> np.ndarray:
    """One by the number of points in the same cube, float64 ``[P]`` that sums to 1."""
    side = CELL * max(float(np.ptp(points, axis=0).max()), 1e-12)
    cells = np.floor(points / side).astype(np.int64)
    cells -= cells.min(axis=0)
    key = (cells[:, 0] * 64 + cells[:, 1]) * 64 + cells[:, 2]
    _, inverse, count = np.unique(key, return_inverse=True, return_counts=True)
    weight = 1.0 / count[inverse]
    return np.asarray(weight / weight.sum())


def _windows(values: np.ndarray, centres: np.ndarray, width: float) -> np.ndarray:
    """How near ``values`` ``[P]`` are to each of ``centres`` ``[K]``: 0..1, ``[P, K]``."""
    return np.asarray(np.exp(-0.5 * ((values[:, None] - centres) / width) ** 2))


def _pair_distances(points: np.ndarray, weight: np.ndarray, count: int) -> np.ndarray:
    """Distances of every point to the :data:`PAIRS` that follow it: means of equal shares."""
    rows = np.arange(len(points))
    next_ones = np.concatenate([np.roll(rows, -step) for step in range(1, PAIRS + 1)])
    step = points[next_ones] - np.tile(points, (PAIRS, 1))
    distance = np.sqrt(step[:, 0] ** 2 + step[:, 1] ** 2 + step[:, 2] ** 2)
    mass = weight[next_ones] * np.tile(weight, PAIRS)
    order = np.argsort(distance, kind="stable")
    distance, mass = distance[order], mass[order]
    total = np.cumsum(mass)
    share = np.minimum((total / total[-1] * count).astype(np.int64), count - 1)
    sums = np.bincount(share, mass * distance, count)
    return np.asarray(sums / np.maximum(np.bincount(share, mass, count), 1e-300))


@dataclass(frozen=True)
class _Cloud:
    """Points ``[P, 3]`` of a shape, a tree of them, and how far apart they are."""

    points: np.ndarray
    tree: Any
    floor: float
    """Mean squared distance from a point to its nearest neighbour."""
    side: float

    @classmethod
    def of(cls, points: np.ndarray) -> _Cloud:
        points = np.asarray(points, np.float64)
        tree = _tree(points)
        floor = float((tree.query(points, k=2)[0][:, 1] ** 2).mean())
        return cls(points, tree, floor, float(np.ptp(points, axis=0).max()))


def shape_distance(one: np.ndarray, two: np.ndarray) -> float:
    """RMS distance of two surfaces, a share of the longest side, the least of four turns.

    Symmetric Chamfer distance of squared lengths, less what it would be for two samples of one
    surface: there the nearest point of the other sample is as far as the nearest of the own.
    Turns are by 0, 90, 180 and 270 degrees about +Y. In the best of them, as far as some of the
    points tell, one step of ICP places and scales the one like the other.

    Args:
        one: Points uniform on a surface ``[P, 3]``, box about the origin.
        two: Of another one ``[Q, 3]``.
    """
    return _distance(_Cloud.of(one), _Cloud.of(two), np.inf)


def _distance(one: _Cloud, two: _Cloud, threshold: float) -> float:
    """:func:`shape_distance`; infinite if it is clearly above ``threshold``."""
    side = max(one.side, two.side, 1e-12)
    floor = 0.5 * (one.floor + two.floor)
    # Of few points the mean is uncertain; where it is beyond this the rest need not be asked.
    hopeless = (2.0 * threshold * side) ** 2 + 1.5 * floor
    coarse = [
        float((two.tree.query(_turned(one.points[:COARSE], turn))[0] ** 2).mean())
        for turn in range(4)
    ]
    if min(coarse) > hopeless:
        return float("inf")
    points = _turned(one.points, int(np.argmin(coarse)))
    points = _fitted(points, two.points, two.tree.query(points)[1])
    there, back = two.tree.query(points)[0], _tree(points).query(two.points)[0]
    mean = 0.5 * float((there * there).mean() + (back * back).mean())
    return float(np.sqrt(max(0.0, mean - floor))) / side


def _fitted(points: np.ndarray, other: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """``points`` moved and scaled, at most by :data:`STRETCH`, to lie best on ``other``.

    Least squares over the pairs of nearest points in both directions (Besl and McKay, 1992).
    """
    back = _tree(points).query(other)[1]
    one = np.concatenate([points, points[back]])
    two = np.concatenate([other[nearest], other])
    middle, target = one.mean(axis=0), two.mean(axis=0)
    spread = float(((one - middle) ** 2).sum())
    scale = float(((one - middle) * (two - target)).sum()) / max(spread, 1e-300)
    move = np.clip(target - middle, -STRETCH * np.ptp(other), STRETCH * np.ptp(other))
    return (points - middle) * np.clip(scale, 1.0 - STRETCH, 1.0 + STRETCH) + middle + move


def _tree(points: np.ndarray) -> Any:
    from scipy.spatial import cKDTree

    return cKDTree(points)


def _turned(points: np.ndarray, quarters: int) -> np.ndarray:
    """``points`` turned about +Y by quarters of a circle, exactly."""
    x, y, z = points.T
    x, z = ((x, z), (z, -x), (-x, -z), (-z, x))[quarters % 4]
    return np.stack([x, y, z], axis=1)


def near_duplicates(
    uids: Sequence[str],
    fingerprints: Sequence[np.ndarray],
    points_of: Callable[[str], np.ndarray],
    threshold: float = THRESHOLD,
    settled: Collection[str] = (),
) -> list[Duplicate]:
    """Shapes that are nearly the same as one that is kept.

    In the order of their uids, those of ``settled`` first, every shape is compared with those kept
    so far whose fingerprints are nearest to its own, the nearest first. It is kept unless one of
    them is within ``threshold``. The result does not depend on the order of the arguments.

    Args:
        uids: All shapes, each once.
        fingerprints: Of each, uint8 ``[64]``: the hex digits of ``AssetRecord.fingerprint``.
        points_of: Gives the points of a shape ``[P, 3]``; called only for likely duplicates.
        threshold: Largest :func:`shape_distance` of duplicates.
        settled: uids among ``uids`` that are kept in any case.

    Returns:
        Sorted by uid.
    """
    if not uids:
        return []
    places = sorted(range(len(uids)), key=lambda n: (uids[n] not in settled, uids[n]))
    prints = np.asarray(fingerprints, np.float32)[places]
    names = [uids[n] for n in places]
    cloud = functools.lru_cache(maxsize=256)(lambda uid: _Cloud.of(points_of(uid)))
    fixed = sum(uid in settled for uid in names)
    kept = np.zeros(len(names), bool)
    kept[:fixed] = True
    found: list[Duplicate] = []
    for n, likely in _candidates(prints, kept, fixed):
        kept[n] = True
        for k in likely:  # the most alike first
            distance = _distance(cloud(names[n]), cloud(names[k]), threshold)
            if distance <= threshold:
                found.append(Duplicate(names[n], names[k], distance))
                kept[n] = False
                break
    return sorted(found, key=lambda duplicate: duplicate.uid)


def _candidates(
    prints: np.ndarray, kept: np.ndarray, start: int
) -> Iterator[tuple[int, list[int]]]:
    """Every shape from ``start`` on, with the kept ones before it of nearest fingerprint.

    Reads ``kept`` bool ``[N]`` as it goes; the caller sets it for each shape before the next.
    All pairs are looked at, as products of matrices: in 64 dimensions a tree is slower. Sums of
    products of bytes are exact in float32.
    """
    lengths = (prints * prints).sum(axis=1)
    for first in range(start, len(prints), BLOCK):
        block = np.arange(first, min(first + BLOCK, len(prints)))
        near: list[list[int]] = [[] for _ in block]
        for begin in range(0, int(block[-1]) + 1, COLUMNS):
            columns = np.arange(begin, min(begin + COLUMNS, int(block[-1]) + 1))
            columns = columns[kept[columns] | (columns >= first)]
            half = prints[block] @ prints[columns].T
            half -= 0.5 * lengths[columns]
            close = half >= 0.5 * (lengths[block] - RADIUS * RADIUS)[:, None]
            for row, column in np.argwhere(close).tolist():
                near[row].append(int(columns[column]))
        for row, n in enumerate(block.tolist()):
            before = np.array([k for k in near[row] if k < n and kept[k]], np.int64)
            gap = ((prints[before] - prints[n]) ** 2).sum(axis=1)
            yield n, before[np.lexsort((before, gap))[:NEAREST]].tolist()


def exact_duplicates(assets: Sequence[SourceAsset], known: Mapping[str, str]) -> dict[str, str]:
    """Assets whose files are equal to those of one that is kept.

    Args:
        assets: As their source lists them.
        known: From sha256 to the uid of an asset that is in the dataset already.

    Returns:
        From uid to the uid that is kept: the known one, else the smallest.
    """
    kept = dict(known)
    out: dict[str, str] = {}
    for asset in sorted(assets, key=lambda asset: asset.uid):
        first = kept.setdefault(asset.sha256, asset.uid)
        if first != asset.uid:
            out[asset.uid] = first
    return out
