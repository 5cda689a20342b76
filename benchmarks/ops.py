"""The rasteriser ops: numba beside the torch reference, other ray casters, a training step, CUDA.

    python benchmarks/ops.py                  # 20k and 60k triangles at 128 to 512 pixels
    python benchmarks/ops.py --quick          # under 3 minutes on 2 cores
    python benchmarks/ops.py --gpu-only       # only the CUDA part: parity and speed

The workload is what GET3D asks of a rasteriser: a batch of 4 bumpy spheres that cover about half
of the frame, rasterize -> interpolate 3 attributes -> antialias, and the gradients to vertices and
attributes. On the CPU all times are CPU time of one thread, the median of interleaved repeats, so
that a busy machine changes them little. Embree (package `embreex`) and Mitsuba 3 (`mitsuba`, an
LLVM that Dr.Jit takes: `DRJIT_LIBLLVM_PATH`) take part where they are installed: they only answer
which triangle a pixel sees. The share of a training step is measured in real steps of the `cpu`
preset with one thread.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from ops_scenes import DISTANCE, FOCAL, FREQUENCY, Scene, interleaved, soup, spheres, workload


def against_torch(quick: bool) -> Iterator[tuple[str, float]]:
    """Numba beside the torch reference on the CPU."""
    print("| triangles | size | numba f / f+b ms | torch f / f+b ms | ratio f+b |")
    print("| --- | --- | --- | --- | --- |")
    for mesh in ("20k",) if quick else FREQUENCY:
        scene = spheres(FREQUENCY[mesh])
        for size in (128, 256) if quick else (128, 256, 512):
            jobs = {
                (name, backward): workload(scene, size, name, backward=backward)
                for name in ("numba", "torch")
                for backward in (False, True)
            }
            ms = interleaved(jobs, 5)
            ratio = ms["torch", True] / ms["numba", True]
            print(
                f"| {len(scene.tri):,} | {size} | {ms['numba', False]:.1f} / "
                f"{ms['numba', True]:.1f} | {ms['torch', False]:.0f} / {ms['torch', True]:.0f} "
                f"| **{ratio:.1f}** |",
                flush=True,
            )
            suffix = f"{size}" if mesh == "20k" else f"{size}_{mesh}"
            yield f"numba_vs_torch_{suffix}", ratio
            yield f"numba_ms_{suffix}", ms["numba", True]
            yield f"torch_ms_{suffix}", ms["torch", True]


def rays(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Origins and directions of the pixels' rays, float32 ``[size^2, 3]``, row 0 = bottom."""
    ndc = (2 * np.arange(size) + 1) / size - 1
    x, y = np.meshgrid(ndc / FOCAL, ndc / FOCAL)
    directions = np.stack([x, y, -np.ones_like(x)], -1).reshape(-1, 3).astype(np.float32)
    return np.zeros_like(directions) + np.float32([0, 0, DISTANCE]), directions


def embree_ids(scene: Scene, size: int) -> np.ndarray:
    """One-based ids ``[B, H, W]`` by ray casting, the acceleration structure built anew."""
    from embreex import rtcore_scene
    from embreex.mesh_construction import TriangleMesh

    origins, directions = rays(size)
    ids = []
    for world in scene.world:
        tree = rtcore_scene.EmbreeScene()
        TriangleMesh(tree, world[scene.tri.numpy()].astype(np.float32))
        ids.append(tree.run(origins, directions).reshape(size, size) + 1)
    return np.stack(ids)


def mitsuba_ids(scene: Scene, size: int) -> np.ndarray:
    """The same by Mitsuba's LLVM variant."""
    import mitsuba as mi

    mi.set_variant("llvm_ad_rgb")
    import drjit as dr

    dr.set_thread_count(0)  # the calling thread works alone, as the others do here
    origins, directions = (mi.Vector3f(np.ascontiguousarray(a.T)) for a in rays(size))
    ids = []
    for world in scene.world:
        mesh = mi.Mesh("m", vertex_count=world.shape[0], face_count=len(scene.tri))
        parameters = mi.traverse(mesh)
        parameters["vertex_positions"] = world.astype(np.float32).ravel()
        parameters["faces"] = scene.tri.numpy().astype(np.uint32).ravel()
        parameters.update()
        tree = mi.load_dict({"type": "scene", "mesh": mesh})
        hit = tree.ray_intersect_preliminary(mi.Ray3f(mi.Point3f(origins), directions))
        found = dr.select(hit.is_valid(), hit.prim_index + 1, 0)
        ids.append(np.array(found).reshape(size, size))
    return np.stack(ids).astype(np.int64)


CASTERS = {"embree": ("embreex", embree_ids), "mitsuba": ("mitsuba", mitsuba_ids)}


def visibility(caster: str, quick: bool) -> dict[str, float]:
    """CPU time of a ray caster over that of our rasterize, forward, and the ids that agree."""
    from g3d.renderers.ops import rasterize

    results = {}
    cast = CASTERS[caster][1]
    for mesh in ("20k",) if quick else FREQUENCY:
        scene = spheres(FREQUENCY[mesh])
        for size in (256,) if quick else (128, 256, 512):
            found: dict[str, Any] = {}

            def ours(scene=scene, size=size, found=found) -> None:
                rast = rasterize(scene.pos, scene.tri, (size, size), backend="numba")[0]
                found["numba"] = rast[..., 3].long().numpy()

            def theirs(scene=scene, size=size, found=found) -> None:
                found[caster] = cast(scene, size)

            ms = interleaved({"numba": ours, caster: theirs}, 5)
            suffix = f"{size}" if mesh == "20k" else f"{size}_{mesh}"
            results[f"{caster}_vs_numba_{suffix}"] = ms[caster] / ms["numba"]
            results[f"{caster}_ms_{suffix}"] = ms[caster]
            results[f"{caster}_numba_ms_{suffix}"] = ms["numba"]
            results[f"{caster}_ids_equal_{suffix}"] = float(
                np.mean(found["numba"] == found[caster])
            )
    return results


def casters(quick: bool) -> Iterator[tuple[str, float]]:
    """Each ray caster in a process of its own: an LLVM that Dr.Jit dislikes ends the process."""
    for caster, (package, _) in CASTERS.items():
        if importlib.util.find_spec(package) is None:
            print(f"{caster}: skipped, the package {package} is not installed")
            continue
        command = [sys.executable, __file__, "--caster", caster, *(["--quick"] * quick)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            print(f"{caster}: skipped, it does not run here: {why}")
            continue
        results = json.loads(done.stdout.strip().splitlines()[-1])
        print(f"{caster}: {json.dumps({k: round(v, 4) for k, v in results.items()})}", flush=True)
        yield from results.items()


def share_of_a_step(quick: bool, data: Path | None) -> Iterator[tuple[str, float]]:
    """What the ops take of a training step of the `cpu` preset (CPU time, one thread)."""
    from g3d.renderers.ops import functional, numba_backend
    from g3d.trainer.config import preset_config
    from g3d.trainer.loop import Session
    from g3d.trainer.workers import Worker, cpu_settings

    spent: dict[str, float] = {}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.thread_time()
            result = function(*args, **kwargs)
            spent[name] = spent.get(name, 0.0) + time.thread_time() - start
            return result

        return call

    for name in ("rasterize", "interpolate", "antialias", "build_topology"):
        setattr(functional, name, timed(name, getattr(functional, name)))
    for name in ("Rasterize", "Interpolate", "Antialias"):
        op = getattr(numba_backend, f"_{name}")
        op.backward = staticmethod(timed(f"{name.lower()}_backward", op.backward))
    with tempfile.TemporaryDirectory() as place, cpu_settings(1):
        if data is None:
            data = Path(place) / "data"
            small = ["--limit", "48", "--views", "8", "--size", "32", "--workers", "0"]
            common.g3d("prepare", "procedural", "--category", "chair", *small, "-o", str(data))
        config = preset_config("cpu", run={"threads": 1})
        session = Session(Worker(), config, data, Path(place) / "run")
        before, steps, total = (100, 96, 5000) if quick else (1000, 400, 5000)
        for step in range(before):
            session.step(step, total)
        spent.clear()
        start = time.thread_time()
        for step in range(before, before + steps):
            session.step(step, total)
        seconds = time.thread_time() - start
    for name, value in spent.items():
        print(f"step: {name} {1000 * value / steps:.2f} ms, {value / seconds:.2%}")
        yield f"step_{name}_ms", 1000 * value / steps
    share = sum(spent.values()) / seconds
    print(f"step: {1000 * seconds / steps:.1f} ms, rasterising {share:.2%} of it", flush=True)
    yield "step_ms", 1000 * seconds / steps
    yield "raster_share_of_cpu_step", share


def gradients(
    scene: Scene, size: int, backend: str, rast: torch.Tensor, same: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Of each op by itself, on the ``rast`` of one backend, with equal weights.

    ``same`` bool ``[B, H, W]``: pixels where both backends see the same triangle; of rasterize only
    their gradient is compared.
    """
    from g3d.renderers.ops import antialias, interpolate, rasterize

    device = scene.pos.device
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn((*rast.shape[:3], 4), generator=generator).to(device)
    color = torch.rand((*rast.shape[:3], 3), generator=generator).to(device)
    rast = rast.detach().to(device)
    pos, attr, uv = (t.detach().clone().requires_grad_() for t in (scene.pos, scene.attr, rast))
    drawn = rasterize(pos, scene.tri, (size, size), backend=backend)[0]
    masked = weight * same[..., None].to(device)
    found = {"rasterize": torch.autograd.grad(drawn, pos, masked)[0]}
    out = interpolate(attr, uv, scene.tri, backend=backend)[0]
    grads = torch.autograd.grad(out, (attr, uv), weight[..., :3].contiguous())
    found["interpolate_attr"], found["interpolate_uv"] = grads
    color.requires_grad_()
    image = antialias(color, rast, pos, scene.tri, backend=backend)
    grads = torch.autograd.grad(image, (color, pos), weight[..., :3].contiguous())
    found["antialias_color"], found["antialias_pos"] = grads
    return {**{name: value.cpu() for name, value in found.items()}, "image": image.detach().cpu()}


def parity(scene: Scene, size: int, backend: tuple[str, str], name: str) -> dict[str, float]:
    """Figures of nvdiffrast against another backend: shares of pixels, errors of gradients."""
    from g3d.renderers.ops import rasterize

    places = {"nvdiffrast": "cuda", backend[0]: backend[1]}
    a, b = (
        rasterize(scene.to(place).pos, scene.tri.to(place), (size, size), backend=key)[0].cpu()
        for key, place in places.items()
    )
    same = a[..., 3] == b[..., 3]
    covered = same & (b[..., 3] > 0)
    uv = (a[covered][:, :2] - b[covered][:, :2]).abs().amax(-1)
    z = (a[covered][:, 2] - b[covered][:, 2]).abs()
    mine, other = (gradients(scene.to(place), size, key, a, same) for key, place in places.items())
    image = (mine.pop("image") - other.pop("image")).abs().amax(-1)
    results = {
        "ids_equal": float(same.double().mean()),
        "uv_within_1e-4": float((uv <= 1e-4).double().mean()),
        "uv_largest": float(uv.max()),
        "z_largest": float(z.max()),
        "antialias_within_1e-3": float((image <= 1e-3).double().mean()),
    }
    for key, value in mine.items():
        error = (value.double() - other[key].double()).norm() / other[key].double().norm()
        results[f"grad_{key}"] = float(error)
    print(f"{name} {size}, nvdiffrast against {backend[0]} on {backend[1]}:")
    print("  " + ", ".join(f"{key} {value:.6g}" for key, value in results.items()), flush=True)
    return results


def on_cuda(quick: bool) -> Iterator[tuple[str, float]]:
    """Parity and speed on a GPU, wall time with the device waited for."""
    from g3d.renderers.ops.nvdiffrast_backend import nvdiffrast_module

    if not torch.cuda.is_available():
        print("CUDA: skipped, torch sees no CUDA device")
        return
    print(f"CUDA: {torch.cuda.get_device_name()}, torch {torch.__version__}")
    names = ["torch", "nvdiffrast"]
    if nvdiffrast_module() is None:
        print("nvdiffrast: skipped, it is not installed or does not load")
        names.remove("nvdiffrast")
    else:
        scenes = {"sphere": spheres(32, 0.0), "bumpy sphere": spheres(32, 0.02), "soup": soup()}
        for name, scene in scenes.items():
            for other in (("torch", "cuda"), ("numba", "cpu")):
                figures = parity(scene, 256, other, name)
                prefix = f"parity_{name.replace(' ', '_')}_{other[0]}"
                yield from ((f"{prefix}_{key}", value) for key, value in figures.items())
    print("| triangles | size | " + " | ".join(f"{n} f / f+b ms" for n in (*names, "numba CPU")))
    for mesh in FREQUENCY:
        scene = spheres(FREQUENCY[mesh])
        there = scene.to("cuda")
        for size in (256,) if quick else (128, 256, 512, 1024):
            jobs = {
                (name, backward): _waited(workload(there, size, name, backward=backward))
                for name in names
                for backward in (False, True)
            }
            cpu = {
                ("numba", backward): workload(scene, size, "numba", backward=backward)
                for backward in (False, True)
            }
            ms = interleaved(jobs, 20, time.perf_counter)
            ms |= interleaved(cpu, 5, time.perf_counter)
            row = [f"{ms[n, False]:.2f} / {ms[n, True]:.2f}" for n in (*names, "numba")]
            print(f"| {len(scene.tri):,} | {size} | " + " | ".join(row), flush=True)
            for (name, backward), value in ms.items():
                kind = "fb" if backward else "f"
                yield f"cuda_section_{name}_{kind}_ms_{size}_{mesh}", value


def _waited(job: Callable[[], object]) -> Callable[[], object]:
    def run() -> None:
        job()
        torch.cuda.synchronize()

    return run


def main() -> None:
    """Run the sections and print the result line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--gpu-only", action="store_true")
    parser.add_argument("--data", type=Path, help="dataset of the training steps; made if absent")
    parser.add_argument("--caster", choices=CASTERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.gpu_only:
        torch.set_num_threads(1)
    if options.caster:
        print(json.dumps(visibility(options.caster, options.quick)))
        return
    results: dict[str, float] = {}
    if not options.gpu_only:
        results.update(against_torch(options.quick))
        results.update(casters(options.quick))
        results.update(share_of_a_step(options.quick, options.data))
    results.update(on_cuda(options.quick))
    try:
        common.report("ops", options.quick, results)
    except FileNotFoundError:  # a machine without git
        hardware = f"{os.cpu_count()} cores, {platform.machine()}"
        line = {"benchmark": "ops", "quick": options.quick, "commit": "", "hardware": hardware}
        print(json.dumps({**line, "results": results}))


if __name__ == "__main__":
    main()
