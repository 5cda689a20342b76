"""Cost of a view by every renderer, against the approach of GET3D's data script, and fidelity.

    python benchmarks/render.py [--quick] [--views 24] [--size 512] [--out benchmarks/results]

One made car (17k triangles, 13 materials, two textures of 1024 squared), the same cameras for all.
Cost: CPU-seconds (user + system, all threads and children) a view. `official` is a fresh process
that imports, renders and writes PNG; ours is a worker that has started, and covers import, renders
and the way back to the parent. Fidelity: PSNR of the foreground, sRGB ("Standard") for both, each
to 512 samples a pixel of its own camera filter without a denoiser.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import json
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import report
from g3d.manifests.categories import get_category
from g3d.renderers.base import RenderSettings, Views
from g3d.renderers.blender.process import find_python
from g3d.renderers.blender.renderer import BlenderRenderer
from g3d.renderers.blender.settings import BlenderSettings
from g3d.renderers.cameras import Camera, sample_cameras
from g3d.renderers.raster import RasterRenderer
from PIL import Image
from render_asset import write_car

REFERENCE_SAMPLES = 512
OFFICIAL = Path(__file__).with_name("render_official.py")


@dataclass(frozen=True)
class Cost:
    """Of one row.

    Attributes:
        cpu: CPU-seconds a view.
        wall: Seconds a view; means little on a busy machine.
    """

    cpu: float
    wall: float


def official(asset: Path, cameras: Camera, size: int, out: Path, **options: object) -> None:
    """Render by the script of another process, one PNG a view in ``out``."""
    out.mkdir(parents=True)
    np.savez(out / "cameras.npz", c2w=cameras.c2w, size=size)
    subprocess.run(
        [str(find_python()), "-s", str(OFFICIAL), str(asset), str(out / "cameras.npz"), str(out),
         json.dumps(options)],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def cpu_seconds(pid: int | None = None) -> float:
    """Of this process and its ended children, and of a child that lives."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    total = sum(u.ru_utime + u.ru_stime for u in used)
    if pid is not None:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def measure(work: Callable[[], object], views: int, pid: int | None = None) -> Cost:
    """Do ``work`` once."""
    cpu, wall = cpu_seconds(pid), time.perf_counter()
    work()
    return Cost((cpu_seconds(pid) - cpu) / views, (time.perf_counter() - wall) / views)


def blender_cost(look: str, asset: Path, cameras: Camera, settings: RenderSettings) -> Cost:
    """In a worker that has rendered one view of the asset before."""
    renderer = BlenderRenderer(BlenderSettings(look=look))
    renderer.open(asset).render(cameras[:1], settings)
    pid = renderer.process.pid
    cost = measure(lambda: renderer.open(asset).render(cameras, settings), len(cameras), pid)
    renderer.close()
    return cost


def raster_cost(asset: Path, cameras: Camera, settings: RenderSettings) -> Cost:
    """With the kernels compiled."""
    renderer = RasterRenderer()
    renderer.open(asset).render(cameras[:1], settings)
    return measure(lambda: renderer.open(asset).render(cameras, settings), len(cameras))


def foreground_psnr(images: np.ndarray, reference: np.ndarray) -> float:
    """Mean over views, of the colours where the reference is more than half covered (dB)."""
    out = []
    for image, truth in zip(images, reference, strict=True):
        inside = truth[..., 3] > 127
        error = (image[..., :3][inside].astype(np.float64) - truth[..., :3][inside]) / 255
        out.append(-10 * np.log10(np.mean(error**2)))
    return float(np.mean(out))


def official_psnr(asset: Path, cameras: Camera, size: int, folder: Path, encoding: str) -> float:
    """Of the official approach to many samples of itself, both in ``encoding``."""
    found = []
    for name, options in (
        ("psnr", {}),
        ("reference", {"samples": REFERENCE_SAMPLES, "denoise": False}),
    ):
        out = folder / name
        if not out.exists():
            official(asset, cameras, size, out, encodings=["Standard"], **options)
        suffix = ".png" if encoding == "Filmic" else f".{encoding}.png"
        paths = [out / f"{n:03d}{suffix}" for n in range(len(cameras))]
        found.append(np.stack([np.asarray(Image.open(path)) for path in paths]))
    return foreground_psnr(*found)


def look_psnr(look: str, asset: Path, cameras: Camera, settings: RenderSettings) -> float:
    """Of a look to many samples of itself."""

    def render(samples: int | None) -> Views:
        given = BlenderSettings(look=look, samples=samples, deadline_s=3600, threads=2)
        renderer = BlenderRenderer(given)
        views = renderer.open(asset).render(cameras, settings)
        renderer.close()
        return views

    return foreground_psnr(render(None).rgba, render(REFERENCE_SAMPLES).rgba)


def table(costs: dict[str, Cost], psnr: dict[str, float]) -> list[str]:
    """Lines of Markdown."""
    base = costs["official"].cpu
    lines = ["| renderer | CPU-s / view | wall s / view | official / this | PSNR (dB) |"]
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    for name, cost in costs.items():
        quality = f"{psnr[name]:.2f}" if name in psnr else ""
        lines.append(
            f"| {name} | {cost.cpu:.4f} | {cost.wall:.4f} | {base / cost.cpu:.1f} | {quality} |"
        )
    return lines


def main() -> None:
    """Measure; print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="6 views at 256 squared")
    parser.add_argument("--views", type=int, default=24)
    parser.add_argument("--psnr-views", type=int, default=3)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--out", type=Path, help="folder for a dated table")
    args = parser.parse_args()
    views, size, compared = (6, 256, 1) if args.quick else (args.views, args.size, args.psnr_views)
    prior = get_category("car").camera
    cameras = sample_cameras(prior, views, np.random.default_rng(0))
    settings = RenderSettings(size=size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asset = folder / "car.glb"
        triangles = write_car(asset)
        costs = {
            "official": measure(lambda: official(asset, cameras, size, folder / "o"), views),
            "lit": blender_cost("lit", asset, cameras, settings),
            "flat": blender_cost("flat", asset, cameras, settings),
            "raster": raster_cost(asset, cameras, settings),
        }
        few = cameras[:compared]
        psnr = {
            "official": official_psnr(asset, few, size, folder, "Standard"),
            "lit": look_psnr("lit", asset, few, settings),
        }
        filmic = official_psnr(asset, few, size, folder, "Filmic")
    lines = [
        f"{triangles} triangles, {views} views at {size} squared, load {os.getloadavg()[0]:.1f}"
    ]
    lines += [f"PSNR of `official` in its own Filmic: {filmic:.2f} dB", "", *table(costs, psnr)]
    print("\n".join(lines))
    base = costs["official"].cpu
    results = {f"{n}_cpu_s_per_view": cost.cpu for n, cost in costs.items()}
    results |= {f"{n}_vs_official": base / costs[n].cpu for n in ("lit", "flat", "raster")}
    results |= {f"{n}_psnr_db": value for n, value in psnr.items()}
    results["lit_psnr_minus_official_db"] = psnr["lit"] - psnr["official"]
    with contextlib.redirect_stdout(io.StringIO()) as line:
        report("render", args.quick, results)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        today = datetime.date.today().isoformat()
        text = ["# Cost of a view", "", *lines, "", "```json", line.getvalue().strip(), "```", ""]
        (args.out / f"render-{today}.md").write_text("\n".join(text))
    print(line.getvalue().strip())


if __name__ == "__main__":
    main()
