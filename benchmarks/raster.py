"""CPU-seconds that the `raster` renderer takes for a view at 512 x 512, loading included.

    python benchmarks/raster.py            # 24 views, three rounds, one thread and all threads
    python benchmarks/raster.py --quick    # 6 views, one round

The model is a car of about 18 thousand triangles with 13 materials and two textures of 1024 x 1024,
made here and read from OBJ + MTL + PNG as a data set's would be. Every figure is the time of the
process (all threads) from opening the file to the last view, divided by the views; the rounds of
the configurations alternate, and the least of them is reported. Kernels are compiled beforehand.

`bar_share` is the time of a `rig` view divided by the bar, a hundredth of what a view cost with the
approach of GET3D's own script (11.35 CPU-seconds at 512 x 512, measured elsewhere; both sides in
one run: benchmarks/render.py).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import report
from g3d.renderers.base import RenderSettings
from g3d.renderers.cameras import orbit
from g3d.renderers.meshes import normalise
from g3d.renderers.raster import RasterRenderer
from PIL import Image

OFFICIAL_CPU_S = 11.35
FOV = np.deg2rad(49.134)
TILES = 1024


@dataclass
class ObjFile:
    """An OBJ file under construction: grids of points, each with a material."""

    lines: list[str]
    vertices: int = 0
    triangles: int = 0

    def grid(self, points: np.ndarray, uvs: np.ndarray, material: str) -> None:
        """Add a grid ``[rows, columns, 3]`` of points as triangles, normals smooth."""
        rows, columns = points.shape[:2]
        normals = np.cross(np.gradient(points, axis=1), np.gradient(points, axis=0))
        length = np.linalg.norm(normals, axis=-1, keepdims=True)
        normals = normals / np.where(length > 0, length, 1.0)
        for kind, values in (("v", points), ("vt", uvs), ("vn", normals)):
            flat = values.reshape(rows * columns, -1)
            self.lines += [f"{kind} " + " ".join(f"{x:.6f}" for x in row) for row in flat]
        self.lines.append(f"usemtl {material}")
        base = self.vertices + 1
        for j in range(rows - 1):
            for i in range(columns - 1):
                a = base + j * columns + i
                b, c, d = a + 1, a + columns + 1, a + columns
                self.lines += [f"f {x}/{x}/{x} {y}/{y}/{y} {z}/{z}/{z}"
                               for x, y, z in ((a, b, c), (a, c, d))]  # fmt: skip
        self.vertices += rows * columns
        self.triangles += 2 * (rows - 1) * (columns - 1)


def _rounded(
    centre: tuple[float, float, float],
    half: tuple[float, float, float],
    rows: int,
    columns: int,
    power: float = 0.35,
) -> tuple[np.ndarray, np.ndarray]:
    """Points and uvs of a box with round edges (a superellipsoid)."""
    v, u = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
    polar, around = np.pi * (v - 0.5), 2 * np.pi * u

    def shaped(x: np.ndarray) -> np.ndarray:
        return np.sign(x) * np.abs(x) ** power

    points = np.stack(
        [shaped(np.cos(polar)) * shaped(np.sin(around)), shaped(np.sin(polar)),
         shaped(np.cos(polar)) * shaped(np.cos(around))], axis=-1,
    )  # fmt: skip
    return points * half + centre, np.stack([u, v], axis=-1)


def _ring(
    centre: tuple[float, float, float], radius: float, tube: float, rows: int, columns: int
) -> tuple[np.ndarray, np.ndarray]:
    """Points and uvs of a wheel: a torus about the axis x."""
    v, u = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
    across, around = 2 * np.pi * v, 2 * np.pi * u
    reach = radius + tube * np.cos(across)
    points = np.stack(
        [tube * np.sin(across), reach * np.sin(around), reach * np.cos(around)], axis=-1
    )
    return points + centre, np.stack([u, v], axis=-1)


def _texture(seed: int) -> np.ndarray:
    """A checker with noise: hard on filters and on PNG."""
    rng = np.random.default_rng(seed)
    checker = (np.indices((TILES, TILES)) // 32).sum(axis=0) % 2
    colors = rng.integers(40, 230, (2, 3))
    noise = rng.integers(-25, 26, (TILES, TILES, 3))
    return np.clip(colors[checker] + noise, 0, 255).astype(np.uint8)


def write_car(folder: Path) -> Path:
    """Write the car; returns its OBJ file."""
    names = ["paint", "cabin", "glass", "tyre", "rim", "lamp", "tail", "grille", "mirror",
             "bumper", "plate", "sill", "rack"]  # fmt: skip
    rng = np.random.default_rng(0)
    text = []
    for n, name in enumerate(names):
        color = " ".join(f"{c:.3f}" for c in rng.uniform(0.05, 0.9, 3))
        text += [f"newmtl {name}", f"Kd {color}", "Ns 60"]
        if n < 2:
            Image.fromarray(_texture(n)).save(folder / f"{name}.png")
            text[-2:] = ["Kd 1 1 1", f"map_Kd {name}.png"]
    (folder / "car.mtl").write_text("\n".join(text) + "\n")
    out = ObjFile(["mtllib car.mtl"])
    out.grid(*_rounded((0, 0.85, 0), (1.0, 0.55, 2.2), 42, 84), "paint")
    out.grid(*_rounded((0, 1.65, -0.2), (0.85, 0.5, 1.4), 24, 48, 0.5), "cabin")
    for x in (-0.95, 0.95):
        for z in (-1.4, 1.4):
            out.grid(*_ring((x, 0.45, z), 0.32, 0.13, 14, 44), "tyre")
            out.grid(*_rounded((x, 0.45, z), (0.08, 0.25, 0.25), 8, 20, 0.9), "rim")
    small = {
        "glass": ((0, 1.7, 1.05), (0.65, 0.3, 0.2)), "grille": ((0, 0.85, 2.2), (0.5, 0.15, 0.05)),
        "bumper": ((0, 0.5, 2.2), (1.0, 0.12, 0.1)), "plate": ((0, 0.7, -2.2), (0.3, 0.1, 0.05)),
        "rack": ((0, 2.2, -0.2), (0.7, 0.03, 1.0)), "sill": ((0, 0.35, 0), (1.05, 0.06, 1.0)),
    }  # fmt: skip
    for name, (centre, half) in small.items():
        out.grid(*_rounded(centre, half, 10, 26), name)
    for name, centre in {"lamp": (0.7, 1.0, 2.15), "tail": (0.7, 1.0, -2.15),
                         "mirror": (1.1, 1.4, 0.8)}.items():  # fmt: skip
        for x in (-centre[0], centre[0]):
            out.grid(*_rounded((x, *centre[1:]), (0.12, 0.08, 0.08), 8, 16, 0.8), name)
    path = folder / "car.obj"
    path.write_text("\n".join(out.lines) + "\n")
    return path


@dataclass(frozen=True)
class Case:
    """One configuration."""

    light: str
    supersample: int = 4
    threads: int = 1


CASES = {
    "rig": Case("rig"),
    "rig_all_threads": Case("rig", threads=os.cpu_count() or 1),
    "rig_4_samples": Case("rig", supersample=2),
    "flat": Case("flat"),
    "pbr": Case("pbr"),
}


def render(path: Path, case: Case, views: int, size: int) -> float:
    """CPU-seconds of loading the model and drawing ``views`` views of it."""
    os.environ["OMP_NUM_THREADS"] = str(case.threads)
    cameras = orbit(
        np.linspace(0, 2 * np.pi, views, endpoint=False), np.linspace(0, np.pi / 6, views), 1.2, FOV
    )
    start = time.process_time()
    scene = RasterRenderer().open(path)
    _, transform = normalise(scene.mesh, 0.9)
    settings = RenderSettings(size=size, light=case.light, supersample=case.supersample)
    scene.render(cameras, settings, transform)
    return time.process_time() - start


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="fewer views, one round")
    parser.add_argument("--views", type=int, default=24, help="a model (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default %(default)s)")
    options = parser.parse_args()
    views, rounds = (6, 1) if options.quick else (options.views, options.rounds)
    times: dict[str, list[float]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as folder:
        path = write_car(Path(folder))
        start = time.process_time()
        loaded = RasterRenderer().open(path).mesh
        load = time.process_time() - start
        for case in CASES.values():
            render(path, case, 1, 16)  # compile
        for _ in range(rounds):
            for name, case in CASES.items():
                times[name].append(render(path, case, views, 512) / views)
    results = {f"{name}_cpu_s_per_view": round(min(found), 4) for name, found in times.items()}
    results["load_cpu_s"] = round(load, 4)
    results["triangles"] = len(loaded.faces)
    results["views"] = views
    results["bar_share"] = round(min(times["rig"]) / (OFFICIAL_CPU_S / 100), 3)
    for name, found in times.items():
        least = min(found)
        print(f"{name:16} {1000 * least:7.1f} ms a view   {OFFICIAL_CPU_S / least:6.0f} times less")
    report("raster", options.quick, results)


if __name__ == "__main__":
    main()
