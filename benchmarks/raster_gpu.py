"""Views a second of the raster renderer: numba on one CPU thread against torch on CUDA.

    python benchmarks/raster_gpu.py [--quick]

One textured mesh of 20,000 triangles, 16 samples a pixel; each figure is the best of some calls
that render many views, the texture's mip maps and the copy of the images to the host included. Both
sides are compiled and warm. Without a CUDA device there is nothing to compare: the result is empty.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import numpy as np
import torch
from common import report
from g3d.renderers.base import RenderSettings, Views
from g3d.renderers.cameras import Camera, orbit
from g3d.renderers.meshes import Material, Mesh, make_mesh, vertex_normals
from g3d.renderers.ops.registry import default_backend
from g3d.renderers.raster import RasterRenderer
from g3d.renderers.raster.torch_renderer import TorchRasterRenderer

RINGS = 71  # 2 * 71 * 142 triangles


def ball() -> Mesh:
    """A closed wavy ball with uvs, smooth normals and a texture of 1024 x 1024."""
    across = 2 * RINGS
    phi, theta = np.meshgrid(
        np.linspace(0, 2 * np.pi, across + 1), np.linspace(0, np.pi, RINGS + 1)
    )
    radius = 0.42 + 0.06 * np.sin(5 * phi) * np.sin(6 * theta)
    vertices = radius[..., None] * np.stack(
        [np.sin(theta) * np.sin(phi), np.cos(theta), np.sin(theta) * np.cos(phi)], axis=-1
    )
    row, column = np.meshgrid(np.arange(RINGS), np.arange(across), indexing="ij")
    a = (row * (across + 1) + column).reshape(-1)
    b, c = a + across + 1, a + across + 2
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, a + 1], 1)])
    vertices = vertices.reshape(-1, 3)
    texture = np.random.default_rng(0).integers(0, 256, (1024, 1024, 4), dtype=np.uint8)
    return make_mesh(
        vertices,
        faces,
        uvs=np.stack([phi / np.pi, -theta / np.pi], axis=-1).reshape(-1, 2),
        normals=vertex_normals(make_mesh(vertices, faces)),
        materials=[Material(texture=texture)],
    )


def ring(count: int) -> Camera:
    """Cameras around the mesh, at all heights."""
    turn = np.linspace(0, 4 * np.pi, count, endpoint=False)
    return orbit(turn, np.linspace(-1, 1, count), 1.3, np.deg2rad(49.134))


def speed(render: Callable[[Camera], Views], views: int, calls: int) -> float:
    """Views a second of the fastest of ``calls`` calls."""
    cameras = ring(views)
    best = np.inf
    for _ in range(calls):
        start = time.perf_counter()
        render(cameras)
        best = min(best, time.perf_counter() - start)
    return views / best


def measure(quick: bool) -> dict[str, float]:
    """Views a second of both sides at both sizes, and their ratios."""
    mesh = ball()
    found: dict[str, float] = {}
    for size, slow in ((128, 8 if quick else 16), (512, 2 if quick else 6)):
        look = RenderSettings(size=size)
        scene = RasterRenderer().open(mesh)
        scene.render(ring(1), look)
        numba = found[f"numba_{size}"] = speed(lambda c: scene.render(c, look), slow, 2)  # noqa: B023
        print(f"{size}: numba, 1 thread: {numba:.1f} views/s", flush=True)
        for batch in (1, 8, 64):
            torch.cuda.reset_peak_memory_stats()
            twin = TorchRasterRenderer("cuda", batch).open(mesh)
            views = max(batch, 8 if quick else 16)
            twin.render(ring(min(views, 2 * batch)), look)
            rate = speed(lambda c: twin.render(c, look), views, 2 if quick else 3)  # noqa: B023
            found[f"cuda_{size}_batch_{batch}"] = rate
            found[f"ratio_{size}_batch_{batch}"] = rate / numba
            peak = torch.cuda.max_memory_allocated() / 1e9
            line = f"{rate:.1f} views/s, {rate / numba:.1f} x, {peak:.2f} GB at most"
            print(f"{size}: cuda, batch {batch}: {line}", flush=True)
    return found


def main() -> None:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    results: dict[str, float] = {}
    if torch.cuda.is_available():
        backend = default_backend(torch.device("cuda"))
        print(f"{torch.cuda.get_device_name()}, ops: {backend}, torch {torch.__version__}")
        results = measure(args.quick)
    else:
        print("no CUDA device here")
    report("raster_gpu", args.quick, {key: round(value, 2) for key, value in results.items()})


if __name__ == "__main__":
    main()
