"""A regular grid of cubes, and the tables of dual marching cubes derived by a program.

Corner ``k`` of a cube is at ``(k >> 2 & 1, k >> 1 & 1, k & 1)`` along (x, y, z); its code has bit
``k`` set where corner ``k`` is inside. Face ``2 * axis + side`` is perpendicular to ``axis``.

The surface inside a cube is made of *patches*: the cut edges of the cube are joined in pairs on
each of its faces, and every closed loop of joined edges bounds one patch, which gives one vertex of
the dual mesh (Nielson, "Dual Marching Cubes", 2004). A face with four cut edges can be joined in
two ways. As a rule its inside corners are kept apart; that depends on the face's signs only, so the
two cubes at a face agree. If on both sides of such a face *both* of its pairs lie on one and the
same loop, four quads of the dual mesh would meet in one edge. That face is then joined the other
way round, which splits both loops and makes the mesh a manifold (the cure is that of Wenger,
"Isosurfaces", 2013, for whole cubes; here it is a rule for a face).
Why that is enough is checked when the tables are made: no cube has more than one such face,
and joining it the other way leaves none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

CORNERS = np.array([[k >> 2 & 1, k >> 1 & 1, k & 1] for k in range(8)])
CUBE_EDGES = np.array(
    [(a, b) for a in range(8) for b in range(a + 1, 8) if (CORNERS[a] != CORNERS[b]).sum() == 1]
)
FACE_CORNERS = np.array(
    [[k for k in range(8) if CORNERS[k, axis] == side] for axis, side in np.ndindex(3, 2)]
)


@dataclass(frozen=True)
class CubeGrid:
    """A grid of ``resolution^3`` cubes in [-1, 1]^3.

    Only ``resolution`` is stored; the arrays are made when they are first asked for. The extraction
    needs none of the large ones, so a grid of 256 cubes along an axis costs nothing to hold.
    """

    resolution: int

    def __post_init__(self) -> None:
        if self.resolution < 2:
            raise ValueError(f"a grid has at least 2 cubes along an axis, not {self.resolution}")

    @property
    def cell(self) -> float:
        """Side of a cube."""
        return 2.0 / self.resolution

    @property
    def corner_axis(self) -> np.ndarray:
        """Coordinates of the nodes along an axis ``[n + 1]``."""
        return np.linspace(-1.0, 1.0, self.resolution + 1)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Nodes along (x, y, z)."""
        side = self.resolution + 1
        return side, side, side

    @cached_property
    def vertices(self) -> np.ndarray:
        """float32 ``[(n+1)^3, 3]`` in C order over (x, y, z): the corners of :func:`bcc_grid`."""
        axes = np.meshgrid(*[self.corner_axis] * 3, indexing="ij")
        return np.stack(axes, axis=-1).reshape(-1, 3).astype(np.float32)

    @cached_property
    def hull(self) -> np.ndarray:
        """Bool ``[(n+1)^3]``, nodes on the boundary of the grid."""
        return (np.abs(self.vertices) > 1.0 - 1e-6).any(axis=1)

    @property
    def corner_steps(self) -> np.ndarray:
        """int64 ``[8]``: node of corner ``k`` minus node of corner 0 of the same cube."""
        side = self.resolution + 1
        return CORNERS @ np.array([side * side, side, 1])

    @cached_property
    def cubes(self) -> np.ndarray:
        """int64 ``[n^3, 8]``: the nodes of each cube, cubes in C order over (x, y, z)."""
        n = self.resolution
        first = np.arange((n + 1) ** 3).reshape(self.shape)[:n, :n, :n]
        return first.reshape(-1, 1) + self.corner_steps

    @cached_property
    def edges(self) -> np.ndarray:
        """int64 ``[3 n (n+1)^2, 2]``: the edges along x, then y, then z; first < second."""
        node = np.arange((self.resolution + 1) ** 3).reshape(self.shape)
        parts = []
        for axis in range(3):
            along = np.moveaxis(node, axis, 0)
            low, high = (np.moveaxis(part, 0, axis) for part in (along[:-1], along[1:]))
            parts.append(np.stack([low.ravel(), high.ravel()], axis=1))
        return np.concatenate(parts)

    @cached_property
    def cube_edges(self) -> np.ndarray:
        """int64 ``[n^3, 12]``: rows of ``edges`` in the order of ``CUBE_EDGES``."""
        n = self.resolution
        place = np.stack(np.meshgrid(*[np.arange(n)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
        out = np.zeros((n**3, 12), dtype=np.int64)
        for index, (a, b) in enumerate(CUBE_EDGES):
            axis = int(np.flatnonzero(CORNERS[a] != CORNERS[b])[0])
            shape = [n + 1, n + 1, n + 1]
            shape[axis] = n
            low = place + CORNERS[a]
            out[:, index] = axis * n * (n + 1) ** 2 + np.ravel_multi_index(low.T, shape)
        return out


class DualTables(NamedTuple):
    """Dual marching cubes by the code of a cube.

    Attributes:
        patch: int64 ``[512, 12]``: the patch (0..3) that each of ``CUBE_EDGES`` belongs to, -1
            where it is not cut. Rows 256.. are the codes with their double face joined otherwise.
        patches: int64 ``[512]``, number of patches.
        double_face: int64 ``[256]``, the face both of whose pairs lie on one loop, or -1.
    """

    patch: np.ndarray
    patches: np.ndarray
    double_face: np.ndarray


def _loops(code: int, flipped: int) -> tuple[np.ndarray, list[int]]:
    """Loop of each edge ``[12]`` (-1 not cut) and the double faces of one code.

    Args:
        code: Bit ``k``: corner ``k`` is inside.
        flipped: A face whose outside corners are kept apart instead of its inside ones, or -1.
    """
    inside = code >> np.arange(8) & 1
    cut = np.flatnonzero(inside[CUBE_EDGES[:, 0]] != inside[CUBE_EDGES[:, 1]]).tolist()
    pairs: list[tuple[int, int, int]] = []  # (face, edge, edge)
    for face, corners in enumerate(FACE_CORNERS):
        here = [e for e in cut if np.isin(CUBE_EDGES[e], corners).all()]
        if len(here) == 2:
            pairs.append((face, here[0], here[1]))
        elif len(here) == 4:
            alone = corners[inside[corners] == (face != flipped)]
            for corner in alone:
                a, b = (e for e in here if corner in CUBE_EDGES[e])
                pairs.append((face, a, b))
    loop = np.full(12, -1)
    loop[cut] = cut
    for _ in cut:  # the smallest edge number travels once around each loop
        for _, a, b in pairs:
            loop[a] = loop[b] = min(loop[a], loop[b])
    names = np.unique(loop[cut])
    loop[cut] = np.searchsorted(names, loop[cut])
    double = []
    for face in range(6):
        mine = [loop[a] for where, a, _ in pairs if where == face]
        if len(mine) == 2 and mine[0] == mine[1]:
            double.append(face)
    return loop, double


def _dual_tables() -> DualTables:
    """Derive the tables and check the two facts that the cure relies on."""
    patch = np.full((512, 12), -1)
    double_face = np.full(256, -1)
    for code in range(256):
        patch[code], double = _loops(code, -1)
        patch[256 + code] = patch[code]
        if len(double) > 1:
            raise AssertionError(f"code {code} has several double faces")
        if double:
            double_face[code] = double[0]
            patch[256 + code], left = _loops(code, double[0])
            if left:
                raise AssertionError(f"code {code} keeps a double face")
    return DualTables(patch, patch.max(axis=1) + 1, double_face)


DUAL = _dual_tables()


def _around_edges() -> tuple[np.ndarray, np.ndarray]:
    """The four cubes around a grid edge, by its axis.

    Returns:
        ``(steps [3, 4, 3], edges [3, 4])``: steps from the cube that starts where the edge starts
        to each of the four, counter-clockwise seen from the edge's end, and which of its
        ``CUBE_EDGES`` the edge is there.
    """
    number = {tuple(edge): index for index, edge in enumerate(CUBE_EDGES.tolist())}
    weight = np.array([4, 2, 1])
    steps = np.zeros((3, 4, 3), dtype=np.int64)
    edges = np.zeros((3, 4), dtype=np.int64)
    for axis in range(3):
        b, c = (axis + 1) % 3, (axis + 2) % 3
        for turn, (at_b, at_c) in enumerate(((1, 1), (0, 1), (0, 0), (1, 0))):
            steps[axis, turn, b], steps[axis, turn, c] = -at_b, -at_c
            low = at_b * weight[b] + at_c * weight[c]
            edges[axis, turn] = number[(int(low), int(low + weight[axis]))]
    return steps, edges


AROUND_STEPS, AROUND_EDGES = _around_edges()


def mirrored(axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Which corner ``[8]`` and which edge ``[12]`` of the mirrored cube each one comes from.

    ``alpha[..., corners]`` and ``beta[..., edges]`` are the weights of a cube reflected along
    ``axis``.
    """
    corners = np.arange(8) ^ (4 >> axis)
    pairs = np.sort(corners[CUBE_EDGES], axis=1)
    edges = (pairs[:, None] == CUBE_EDGES[None]).all(axis=2).argmax(axis=1)
    return corners, edges
