"""What the gates measure on a mesh."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ...renderers.meshes import Mesh, bounds, face_areas

SAMPLES_A_CELL = 1
"""Points on large triangles for each area of a cell, see :func:`count_objects`."""
MOST_SAMPLES = 200_000
OPACITIES = 4096
"""Points at which :func:`see_through_area` looks."""
CLEAR, SOLID = 0.05, 0.95
"""Opacities between these are see-through; below there is nothing to see."""


@dataclass(frozen=True)
class MeshFacts:
    """A mesh as loaded, and what is known of its files.

    Attributes:
        mesh: Not normalised.
        missing: Textures that its files name and that are not there.
        animated: Its file holds an animation; None: not known.
    """

    mesh: Mesh
    missing: int = 0
    animated: bool | None = None
    _objects: dict[tuple[float, float], int] = field(default_factory=dict, repr=False)

    @cached_property
    def textures(self) -> int:
        """Base colour images that are there."""
        return len({id(m.texture) for m in self.mesh.materials if m.texture is not None})

    @cached_property
    def box(self) -> np.ndarray:
        """float64 ``[2, 3]``, lowest and highest corner."""
        return bounds(self.mesh)

    @cached_property
    def areas(self) -> np.ndarray:
        """float64 ``[F]``."""
        return face_areas(self.mesh)

    def objects(self, gap: float, least: float) -> int:
        """Things that stand apart, :func:`count_objects`; counted once."""
        if (gap, least) not in self._objects:
            self._objects[gap, least] = count_objects(self, gap, least)
        return self._objects[gap, least]

    @property
    def counted(self) -> int | None:
        """What :meth:`objects` gave last; None: it was not asked for."""
        return next(reversed(self._objects.values()), None)


def side_ratio(box: np.ndarray) -> float:
    """Shortest by longest side of a box ``[2, 3]``: 1 of a cube, 0 of a plate and of a needle."""
    sides = box[1] - box[0]
    return float(sides.min() / sides.max()) if sides.max() > 0 else 0.0


def count_objects(facts: MeshFacts, gap: float, least: float) -> int:
    """Things that stand apart from each other.

    Space is cut into cubes of ``gap`` times the longest side. Parts of the surface in the same
    cube, or in cubes that touch, are one thing; so are those that a triangle joins. Parts nearer
    than one cube are therefore always one thing, parts more than two apart along an axis never.

    Args:
        facts: Of a mesh with area.
        gap: Share of the longest side.
        least: Least area of a thing that counts, as a share of the largest one's.

    Returns:
        At least 1.
    """
    from scipy import ndimage, sparse

    grid = _Grid.over(facts.box, gap)
    faces, touching = facts.mesh.faces, np.ones((3, 3, 3), bool)
    places = grid.places(facts.mesh.vertices)
    corners = grid.numbers(places)[faces]
    filled = np.zeros(grid.shape, bool)
    filled.reshape(-1)[corners.reshape(-1)] = True
    if ndimage.label(filled, touching)[1] == 1:
        return 1
    # The inside of a large triangle is far from all vertices.
    wide = np.zeros(len(faces), bool)
    for axis in range(3):
        along = places[:, axis][faces]
        wide |= along.max(axis=1) - along.min(axis=1) > 1
    points, owner = _surface_points(facts, np.flatnonzero(wide), grid.side)
    inside = grid.numbers(grid.places(points))
    filled.reshape(-1)[inside] = True
    labels, count = ndimage.label(filled, touching)
    if count == 1:
        return 1
    label = labels.reshape(-1) - 1
    corner = label[corners]
    one = np.concatenate([corner[:, 0], corner[:, 0], corner[owner, 0]])
    two = np.concatenate([corner[:, 1], corner[:, 2], label[inside]])
    joined = np.unique((one * np.int64(count) + two)[one != two])
    graph = sparse.coo_matrix(
        (np.ones(len(joined), bool), (joined // count, joined % count)), (count, count)
    )
    thing = sparse.csgraph.connected_components(graph, directed=False)[1]
    area = np.bincount(thing[corner[:, 0]], weights=facts.areas)
    return int((area >= least * area.max()).sum())


@dataclass(frozen=True)
class _Grid:
    """Cubes of one size that fill a box."""

    low: np.ndarray
    side: float
    shape: tuple[int, int, int]

    @classmethod
    def over(cls, box: np.ndarray, gap: float) -> _Grid:
        side = gap * float((box[1] - box[0]).max())
        x, y, z = (int(length / side) + 1 for length in box[1] - box[0])
        return cls(box[0], side, (x, y, z))

    def places(self, points: np.ndarray) -> np.ndarray:
        """The cube that each of ``points`` ``[P, 3]`` is in: int32 ``[P, 3]``."""
        place = ((points - self.low) * (1.0 / self.side)).astype(np.int32)
        return np.clip(place, 0, np.array(self.shape, np.int32) - 1)

    def numbers(self, places: np.ndarray) -> np.ndarray:
        """Places ``[P, 3]`` counted row by row: int32 ``[P]``."""
        _, y, z = self.shape
        return np.asarray((places[:, 0] * y + places[:, 1]) * z + places[:, 2])


def _surface_points(
    facts: MeshFacts, wide: np.ndarray, side: float
) -> tuple[np.ndarray, np.ndarray]:
    """Points spread over the triangles ``wide`` and their faces; the same ones for the same mesh.

    Each triangle has at least one.
    """
    areas = facts.areas[wide]
    share = SAMPLES_A_CELL / (side * side)
    share = min(share, MOST_SAMPLES / max(float(areas.sum()), 1e-300))
    owner = np.repeat(wide, np.ceil(areas * share).astype(np.int64))
    rng = np.random.default_rng(0)
    root, along = np.sqrt(rng.random((len(owner), 1))), rng.random((len(owner), 1))
    a, b, c = (facts.mesh.vertices[facts.mesh.faces[owner, k]] for k in range(3))
    return (1 - root) * a + root * (1 - along) * b + root * along * c, owner


def see_through_area(facts: MeshFacts) -> float:
    """Share of the surface that a material blends with what is behind, 0..1.

    Opacity is that of the base colour times that of texture and vertices, looked up at
    :data:`OPACITIES` points. What is masked is either there or not, never see-through.
    """
    mesh = facts.mesh
    blends = np.array([m.alpha_mode == "blend" for m in mesh.materials])
    if not blends.any():
        return 0.0
    rng = np.random.default_rng(0)
    cumulative = np.cumsum(facts.areas)
    face = np.searchsorted(cumulative, rng.random(OPACITIES) * cumulative[-1], side="right")
    face = np.minimum(face, len(mesh.faces) - 1)
    weights = rng.dirichlet(np.ones(3), OPACITIES)
    corners, material = mesh.faces[face], mesh.material_index[face]
    opacity = np.array([m.base_color[3] for m in mesh.materials])[material]
    if mesh.colors is not None:
        opacity = opacity * (mesh.colors[corners, 3] * weights).sum(axis=1)
    if mesh.uvs is not None:
        uv = (mesh.uvs[corners] * weights[..., None]).sum(axis=1) % 1.0
        for number, entry in enumerate(mesh.materials):
            here = material == number
            if entry.texture is None or not here.any():
                continue
            height, width = entry.texture.shape[:2]
            row = np.minimum(((1.0 - uv[here, 1]) * height).astype(np.int64), height - 1)
            column = np.minimum((uv[here, 0] * width).astype(np.int64), width - 1)
            opacity[here] *= entry.texture[row, column, 3] / 255.0
    return float((blends[material] & (opacity > CLEAR) & (opacity < SOLID)).mean())
