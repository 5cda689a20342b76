"""What benchmarks/ops.py works on: scenes, one pass of the ops, and how times are taken."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

BATCH = 4
FOCAL, DISTANCE = 2.2, 2.9
FREQUENCY = {"20k": 32, "60k": 55}  # 20 f^2 triangles: 20,480 and 60,500


class Scene(NamedTuple):
    """A batch of meshes that share their triangles.

    Attributes:
        world: float64 ``[B, V, 3]``; the camera is at (0, 0, DISTANCE), looking along -z.
        pos: float32 ``[B, V, 4]``, clip space.
        tri: int32 ``[T, 3]``.
        attr: float32 ``[B, V, 3]``.
    """

    world: np.ndarray
    pos: torch.Tensor
    tri: torch.Tensor
    attr: torch.Tensor

    def to(self, device: str) -> Scene:
        """The same on another device."""
        return Scene(self.world, *(t.to(device) for t in self[1:]))


def geodesic(frequency: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit sphere of ``20 f^2`` triangles of about the same size: vertices, faces."""
    from scipy.spatial import ConvexHull

    golden = (1 + 5**0.5) / 2
    corners = np.array(
        [np.roll([0, a, b * golden], k) for k in range(3) for a in (-1, 1) for b in (-1, 1)]
    )
    points, triangles = [], []
    steps = [(i, j) for i in range(frequency + 1) for j in range(frequency + 1 - i)]
    place = {step: n for n, step in enumerate(steps)}
    ij = np.array(steps) / frequency
    small = [[place[i, j], place[i + 1, j], place[i, j + 1]] for i, j in steps if i + j < frequency]
    small += [
        [place[i, j], place[i, j - 1], place[i - 1, j]] for i, j in steps if i > 0 and j > 0
    ]  # fmt: skip
    for face in ConvexHull(corners).simplices:
        a, b, c = corners[face]
        triangles.append(np.array(small) + len(points) * len(steps))
        points.append(a + ij[:, :1] * (b - a) + ij[:, 1:] * (c - a))
    vertices = np.concatenate(points)
    vertices /= np.linalg.norm(vertices, axis=1, keepdims=True)
    _, first, merged = np.unique(
        vertices.round(7) + 0.0, axis=0, return_index=True, return_inverse=True
    )
    return vertices[first], merged.reshape(-1)[np.concatenate(triangles)]


def spheres(frequency: int, bumps: float = 0.01, batch: int = BATCH) -> Scene:
    """Turned spheres with bumps, in perspective."""
    rng = np.random.default_rng(0)
    vertices, faces = geodesic(frequency)
    turns = [np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(batch)]
    world = np.stack([vertices * rng.normal(1, bumps, (len(vertices), 1)) @ t for t in turns])
    w = DISTANCE - world[..., 2:]
    pos = np.concatenate([world[..., :2] * FOCAL, (w - DISTANCE) * 1.05, w], axis=-1)
    attr = rng.uniform(size=world.shape)
    tri = torch.tensor(faces, dtype=torch.int32)
    return Scene(world, torch.tensor(pos).float(), tri, torch.tensor(attr).float())


def soup(batch: int = BATCH) -> Scene:
    """Large random triangles that cross one another and the borders of the frame."""
    rng = np.random.default_rng(1)
    w = rng.uniform(0.6, 3.0, (batch, 90, 1))
    pos = torch.tensor(np.concatenate([rng.uniform(-1.2, 1.2, (batch, 90, 3)) * w, w], -1))
    tri = torch.tensor(rng.permutation(90).reshape(30, 3), dtype=torch.int32)
    attr = torch.tensor(rng.uniform(size=(batch, 90, 3)))
    return Scene(np.zeros(0), pos.float(), tri, attr.float())


def workload(scene: Scene, size: int, backend: str, *, backward: bool) -> Callable[[], object]:
    """One pass of the three ops."""
    from g3d.renderers.ops import antialias, interpolate, rasterize

    weight = torch.ones((len(scene.pos), size, size, 3), device=scene.pos.device)

    def run() -> object:
        pos = scene.pos.detach().requires_grad_(backward)
        attr = scene.attr.detach().requires_grad_(backward)
        rast, _ = rasterize(pos, scene.tri, (size, size), backend=backend)
        out, _ = interpolate(attr, rast, scene.tri, backend=backend)
        image = antialias(out, rast, pos, scene.tri, backend=backend)
        if backward:
            image.backward(weight)
        return image

    return run


def interleaved(
    jobs: dict[str, Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, float]:
    """Median milliseconds of each job; the jobs take turns, after one unmeasured round."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(repeats + 1):
        for name, job in jobs.items():
            start = clock()
            job()
            if turn:
                times[name].append(1000 * (clock() - start))
    return {name: statistics.median(values) for name, values in times.items()}
