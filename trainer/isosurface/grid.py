"""A tetrahedral grid made from its formula: the body-centred cubic (BCC) lattice in a cube.

Nodes are the corners of ``resolution^3`` cubes and their centres. Two neighbouring centres and an
edge of the face between them make a tetrahedron; at the hull, a centre and half a face make one.
The tetrahedra of a BCC lattice are all congruent and nearly regular (Labelle and Shewchuk,
"Isosurface Stuffing", 2007, section 3), so the surfaces carry no direction of a cubic grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

TET_EDGES = np.array([[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]])


@dataclass(frozen=True)
class TetGrid:
    """A tetrahedral grid in the cube [-1, 1]^3.

    Attributes:
        resolution: Cubes along an axis.
        vertices: float32 ``[V, 3]``; first the ``(n+1)^3`` corners, then the ``n^3`` centres, each
            in C order over (x, y, z).
        tets: int64 ``[T, 4]``, positively oriented.
        edges: int64 ``[E, 2]``, each once, first < second.
        tet_edges: int64 ``[T, 6]``, rows of ``edges`` in the order of ``TET_EDGES``.
        hull: bool ``[V]``, nodes on the boundary of the cube.
    """

    resolution: int
    vertices: np.ndarray
    tets: np.ndarray
    edges: np.ndarray
    tet_edges: np.ndarray
    hull: np.ndarray

    @property
    def cell(self) -> float:
        """Side of a cube."""
        return 2.0 / self.resolution

    @property
    def corner_axis(self) -> np.ndarray:
        """Coordinates of the corners along an axis ``[n + 1]``."""
        return np.linspace(-1.0, 1.0, self.resolution + 1)

    @property
    def center_axis(self) -> np.ndarray:
        """Coordinates of the centres along an axis ``[n]``."""
        return self.corner_axis[:-1] + 0.5 * self.cell


@lru_cache(maxsize=4)
def bcc_grid(resolution: int) -> TetGrid:
    """Build the grid of ``resolution`` cubes along an axis (at least 2)."""
    n = resolution
    corner = np.arange((n + 1) ** 3).reshape(n + 1, n + 1, n + 1)
    center = np.arange(n**3).reshape(n, n, n) + (n + 1) ** 3
    tets = np.concatenate([part for axis in range(3) for part in _tets_along(axis, corner, center)])

    axis = np.linspace(-1.0, 1.0, n + 1)
    middle = axis[:-1] + 1.0 / n
    vertices = np.concatenate(
        [
            np.stack(np.meshgrid(a, a, a, indexing="ij"), axis=-1).reshape(-1, 3)
            for a in (axis, middle)
        ]
    )
    p = vertices[tets]
    volume = np.einsum(
        "ij,ij->i", np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]), p[:, 3] - p[:, 0]
    )
    tets = np.where((volume < 0)[:, None], tets[:, [0, 1, 3, 2]], tets)

    pairs = np.sort(tets[:, TET_EDGES], axis=-1).reshape(-1, 2)
    # One number for a pair sorts several times faster than rows, in the same order.
    key, inverse = np.unique(pairs @ np.array([len(vertices), 1]), return_inverse=True)
    edges = np.stack([key // len(vertices), key % len(vertices)], axis=1)
    return TetGrid(
        resolution=n,
        vertices=vertices.astype(np.float32),
        tets=tets,
        edges=edges,
        tet_edges=inverse.reshape(-1, 6),
        hull=(np.abs(vertices) > 1.0 - 1e-9).any(axis=1),
    )


def _tets_along(axis: int, corner: np.ndarray, center: np.ndarray) -> list[np.ndarray]:
    """Tetrahedra around the faces that are perpendicular to ``axis``."""
    corner = np.moveaxis(corner, axis, 0)
    center = np.moveaxis(center, axis, 0)
    # The four corners of each face, in order around it: [n + 1, n, n, 4].
    face = np.stack(
        [corner[:, :-1, :-1], corner[:, 1:, :-1], corner[:, 1:, 1:], corner[:, :-1, 1:]], axis=-1
    )
    inner = face[1:-1]
    below, above = center[:-1], center[1:]
    out = [
        np.stack([below, above, inner[..., k], inner[..., (k + 1) % 4]], axis=-1).reshape(-1, 4)
        for k in range(4)
    ]
    for layer, cell in ((face[0], center[0]), (face[-1], center[-1])):
        out += [
            np.stack([cell, layer[..., 0], layer[..., k], layer[..., k + 1]], axis=-1).reshape(
                -1, 4
            )
            for k in (1, 2)
        ]
    return out
