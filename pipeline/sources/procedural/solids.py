"""Closed solids for the parametric shapes, and the assembly that makes a mesh of them.

Everything is a loft: rings of points, joined by bands, with a cap at each end (or joined head to
tail). Every solid is closed, consistently wound, with its normals outside.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from ....renderers.meshes import Material, Mesh

RGB = Sequence[int]
"""An 8-bit sRGB colour, as the parameters hold it."""


@dataclass(frozen=True)
class Solid:
    """A closed triangle surface.

    Attributes:
        vertices: float64 ``[V, 3]``.
        faces: int64 ``[F, 3]``, counter-clockwise = outside.
        bands: int64 ``[F]``: the band of the loft that a face belongs to; caps have the number of
            the band beside them.
    """

    vertices: np.ndarray
    faces: np.ndarray
    bands: np.ndarray

    @property
    def volume(self) -> float:
        """Signed volume, positive when the faces wind outwards."""
        a, b, c = (self.vertices[self.faces[:, k]] for k in range(3))
        return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6.0)

    def moved(self, offset: ArrayLike) -> Solid:
        """Translated by ``offset`` ``[3]``."""
        return Solid(self.vertices + np.asarray(offset, dtype=np.float64), self.faces, self.bands)

    def turned(self, axis: int, angle: float, pivot: ArrayLike = (0.0, 0.0, 0.0)) -> Solid:
        """Rotated about the line through ``pivot`` along coordinate ``axis``, right-handed."""
        u, v = (axis + 1) % 3, (axis + 2) % 3
        rotation = np.eye(3)
        rotation[u, u] = rotation[v, v] = np.cos(angle)
        rotation[u, v], rotation[v, u] = -np.sin(angle), np.sin(angle)
        origin = np.asarray(pivot, dtype=np.float64)
        return Solid((self.vertices - origin) @ rotation.T + origin, self.faces, self.bands)

    def mirrored(self) -> Solid:
        """Reflected in the plane x = 0."""
        return Solid(self.vertices * np.array([-1.0, 1.0, 1.0]), self.faces[:, ::-1], self.bands)


def loft(rings: ArrayLike, *, cyclic: bool = False) -> Solid:
    """Join ``rings`` ``[R, K, 3]`` by bands of triangles.

    Args:
        rings: R rings of K points each, all running the same way round. The first and the last
            must be convex and flat (they become caps), unless ``cyclic``.
        cyclic: Join the last ring to the first instead of capping both.
    """
    points = np.asarray(rings, dtype=np.float64)
    count, size = points.shape[:2]
    ids = np.arange(count * size).reshape(count, size)
    here = ids if cyclic else ids[:-1]
    there = np.roll(ids, -1, axis=0) if cyclic else ids[1:]
    a, b = here, np.roll(here, -1, axis=1)
    c, d = np.roll(there, -1, axis=1), there
    faces = np.stack([np.stack([a, b, c], -1), np.stack([a, c, d], -1)], axis=2).reshape(-1, 3)
    bands = np.repeat(np.arange(len(here)), 2 * size)
    if not cyclic:
        fan = np.stack(
            [np.zeros(size - 2, np.int64), np.arange(1, size - 1), np.arange(2, size)], -1
        )
        faces = np.concatenate([faces, ids[0][fan[:, ::-1]], ids[-1][fan]])
        bands = np.concatenate([bands, np.zeros(size - 2, int), np.full(size - 2, count - 2)])
    solid = Solid(points.reshape(-1, 3), faces, bands)
    return solid if solid.volume > 0 else Solid(solid.vertices, faces[:, ::-1], bands)


def box(low: ArrayLike, high: ArrayLike) -> Solid:
    """The axis-aligned box between two corners ``[3]``."""
    (x0, y0, z0), (x1, y1, z1) = np.asarray(low, float), np.asarray(high, float)
    corners = ((x0, z0), (x1, z0), (x1, z1), (x0, z1))
    return loft([[(x, y, z) for x, z in corners] for y in (y0, y1)])


def rounded_rectangle(half_u: float, half_v: float, radius: float, steps: int = 3) -> np.ndarray:
    """Outline ``[4 (steps + 1), 2]`` of a rectangle whose corners are arcs of ``radius``."""
    radius = min(radius, 0.98 * half_u, 0.98 * half_v)
    arc = np.linspace(0.0, np.pi / 2, steps + 1)
    out = []
    for turn, (su, sv) in enumerate(((1, 1), (-1, 1), (-1, -1), (1, -1))):
        angle = arc + turn * np.pi / 2
        centre = np.array([su * (half_u - radius), sv * (half_v - radius)])
        out.append(centre + radius * np.stack([np.cos(angle), np.sin(angle)], -1))
    return np.concatenate(out)


def circle(radius: float, sides: int, phase: float = 0.0) -> np.ndarray:
    """Outline ``[sides, 2]`` of a regular polygon."""
    angle = phase + np.arange(sides) * (2 * np.pi / sides)
    return radius * np.stack([np.cos(angle), np.sin(angle)], -1)


def lathe(profile: ArrayLike, sides: int, axis: int = 1) -> Solid:
    """Turn ``profile`` ``[P, 2]`` of (radius > 0, height along ``axis``); capped at both ends."""
    profile = np.asarray(profile, dtype=np.float64)
    unit = circle(1.0, sides)
    u, v = (axis + 1) % 3, (axis + 2) % 3
    rings = np.zeros((len(profile), sides, 3))
    rings[..., u] = profile[:, :1] * unit[:, 0]
    rings[..., v] = profile[:, :1] * unit[:, 1]
    rings[..., axis] = profile[:, 1:]
    return loft(rings)


def torus(
    major: float, minor: float, sides: int, tube: int, axis: int = 0, squash: float = 1.0
) -> Solid:
    """A ring about ``axis``; ``squash`` scales its section along the axis."""
    section = circle(minor, tube, np.pi / tube)
    section = section * np.array([1.0, squash])
    unit = circle(1.0, sides)
    u, v = (axis + 1) % 3, (axis + 2) % 3
    rings = np.zeros((sides, tube, 3))
    rings[..., u] = (major + section[:, 0]) * unit[:, :1]
    rings[..., v] = (major + section[:, 0]) * unit[:, 1:]
    rings[..., axis] = section[:, 1]
    return loft(rings, cyclic=True)


def sweep(path: ArrayLike, section: ArrayLike, side: ArrayLike = (1.0, 0.0, 0.0)) -> Solid:
    """Sweep an outline along a path.

    Args:
        path: ``[P, 3]``.
        section: ``[K, 2]`` or one for each point ``[P, K, 2]``: (along ``side``, across).
        side: The direction of the section's first axis, as far as the path leaves it free.
    """
    points = np.asarray(path, dtype=np.float64)
    outline = np.asarray(section, dtype=np.float64)
    if outline.ndim == 2:
        outline = np.broadcast_to(outline, (len(points), *outline.shape))
    step = np.diff(points, axis=0)
    step = step / np.linalg.norm(step, axis=1, keepdims=True)
    ahead = np.concatenate([step[:1], step[:-1] + step[1:], step[-1:]])
    ahead = ahead / np.linalg.norm(ahead, axis=1, keepdims=True)
    # A path that runs along `side` has no frame with it; any other direction will do there.
    hint = np.asarray(side, dtype=np.float64)
    if np.abs(ahead @ hint).max() > 0.99 * np.linalg.norm(hint):
        hint = np.roll(hint, 1)
    across = np.cross(ahead, hint)
    across = across / np.linalg.norm(across, axis=1, keepdims=True)
    along = np.cross(across, ahead)
    rings = points[:, None] + outline[..., :1] * along[:, None] + outline[..., 1:] * across[:, None]
    return loft(rings)


def _ends(start: ArrayLike, end: ArrayLike) -> np.ndarray:
    """A path ``[2, 3]``."""
    return np.stack([np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)])


def tube(path: ArrayLike, radius: float, sides: int = 8) -> Solid:
    """A round bar of ``radius`` along ``path`` ``[P, 3]``."""
    return sweep(path, circle(radius, sides, np.pi / sides))


def cylinder(start: ArrayLike, end: ArrayLike, radius: float, top: float | None = None,
             sides: int = 10) -> Solid:  # fmt: skip
    """A capped cylinder, or a cone frustum when ``top`` (the radius at ``end``) is given."""
    sections = [circle(radius, sides, np.pi / sides), circle(top or radius, sides, np.pi / sides)]
    return sweep(_ends(start, end), np.stack(sections))


def beam(start: ArrayLike, end: ArrayLike, width: float, depth: float) -> Solid:
    """A square bar: ``width`` along x as far as possible, ``depth`` across."""
    w, d = 0.5 * width, 0.5 * depth
    return sweep(_ends(start, end), [(-w, -d), (w, -d), (w, d), (-w, d)])


def linear(color: RGB) -> tuple[float, float, float, float]:
    """An 8-bit sRGB colour as glTF's linear base colour factor (IEC 61966-2-1)."""
    c = np.asarray(color, dtype=np.float64) / 255.0
    out = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return (round(float(out[0]), 6), round(float(out[1]), 6), round(float(out[2]), 6), 1.0)


def hsv(hue: float, saturation: float, value: float) -> list[int]:
    """An 8-bit sRGB colour from hue, saturation and value in 0..1."""
    return [round(255 * c) for c in colorsys.hsv_to_rgb(hue % 1.0, saturation, value)]


@dataclass
class Assembly:
    """Collects solids and their materials; :meth:`mesh` makes one mesh of them."""

    materials: dict[str, Material] = field(default_factory=dict)
    solids: list[tuple[Solid, np.ndarray]] = field(default_factory=list)

    def material(
        self, name: str, color: RGB, roughness: float = 0.6, metallic: float = 0.0
    ) -> None:
        """Declare a material; ``color`` is 8-bit sRGB."""
        self.materials[name] = Material(
            name, linear(color), double_sided=False, roughness=roughness, metallic=metallic
        )

    def add(self, material: str | Sequence[str], *solids: Solid) -> None:
        """Add solids of one material, or of one material for each band."""
        names = list(self.materials)
        for solid in solids:
            if isinstance(material, str):
                ids = np.full(len(solid.faces), names.index(material))
            else:
                ids = np.array([names.index(name) for name in material])[solid.bands]
            self.solids.append((solid, ids))

    def add_pair(self, material: str | Sequence[str], *solids: Solid) -> None:
        """Add solids and their reflections in x = 0."""
        for solid in solids:
            self.add(material, solid, solid.mirrored())

    def mesh(self) -> Mesh:
        """All solids as one mesh; materials that nothing uses are left out."""
        ids = np.concatenate([i for _, i in self.solids])
        used, index = np.unique(ids, return_inverse=True)
        starts = np.cumsum([0, *(len(s.vertices) for s, _ in self.solids[:-1])])
        table = list(self.materials.values())
        return Mesh(
            vertices=np.concatenate([s.vertices for s, _ in self.solids]).astype(np.float32),
            faces=np.concatenate(
                [s.faces + start for (s, _), start in zip(self.solids, starts, strict=True)]
            ).astype(np.int64),
            materials=tuple(table[i] for i in used),
            face_materials=index.reshape(-1).astype(np.int32),
        )
