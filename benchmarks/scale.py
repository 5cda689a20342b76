"""What `g3d prepare` costs beside rendering, on many small assets; and two workers against one.

    python benchmarks/scale.py              # 10,000 files; 32 procedural chairs in Blender
    python benchmarks/scale.py --quick      # 600 files; 12 chairs

Assets are files of a dozen random tetrahedra, 4 views at 64 px. The driver is a process of its
own: its peak memory and its CPU time (planning, hashing, staging, shards, records; rendering is
in the workers) are read when it ends. `resume_s` is the wall time of the same command on the
finished dataset, start of Python included. The throughput is that of the renderer blender, preset
`lit`, with 2 workers and with 1, start of Ray and Blender left out: by the wall time of a larger
and a smaller run.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import report

DRIVER = """
import json, resource, sys, time
from g3d.pipeline.config import PrepareConfig
from g3d.pipeline.prepare import prepare
config, out = json.loads(sys.argv[1]), sys.argv[2]
start, cpu = time.monotonic(), time.process_time()
done = prepare(PrepareConfig.model_validate(config), out)
usage = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"made": done.made, "accepted": done.accepted, "total": done.total,
    "seconds": time.monotonic() - start, "cpu_s": time.process_time() - cpu,
    "peak_mb": usage.ru_maxrss / 1024}))
"""


def drive(config: dict, out: Path) -> dict:
    """Run prepare in a process of its own; what it measured, and its whole wall time."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(config), str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout) | {"wall_s": time.monotonic() - began}


def clusters(folder: Path, count: int) -> Path:
    """``count`` OBJ files of a dozen tetrahedra each, at random."""
    rng = random.Random(0)
    faces = "".join(
        f"f {4 * n + a} {4 * n + b} {4 * n + c}\n"
        for n in range(12)
        for a, b, c in ((1, 3, 2), (1, 2, 4), (2, 3, 4), (3, 1, 4))
    )
    for n in range(count):
        lines = ""
        for _ in range(12):
            middle = [rng.uniform(-1, 1) for _ in range(3)]
            for _ in range(4):
                x, y, z = (m + rng.uniform(-0.4, 0.4) for m in middle)
                lines += f"v {x:.6f} {y:.6f} {z:.6f}\n"
        place = folder / f"{n // 1000:03d}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{n:05d}.obj").write_text(lines + faces)
    return folder


def bookkeeping(folder: Path, count: int) -> dict[str, float]:
    """The driver's cost on many assets, and that of finding them done."""
    root = str(clusters(folder / "clusters", count))
    config = {
        "source": "folder", "root": root, "category": "default", "views": 4,
        "render": {"size": 64, "supersample": 1}, "workers": 2,
    }  # fmt: skip
    first = drive(config, folder / "out")
    again = drive(config, folder / "out")
    print(f"{count} assets: {first}\nagain: {again}")
    if first["accepted"] < 0.99 * count or again["made"]:  # a thin one may miss the pose gate
        raise SystemExit("many assets were not accepted, or the second run made some again")
    return {
        "assets": count,
        "driver_peak_mb": round(max(first["peak_mb"], again["peak_mb"]), 1),
        "overhead_ms_per_asset": round(1000 * first["cpu_s"] / count, 3),
        "resume_s": round(again["wall_s"], 2),
        "assets_per_s": round(count / first["seconds"], 1),
    }


def throughput(folder: Path, many: int, few: int) -> dict[str, float]:
    """Assets a second of Blender `lit` with one worker and with two, from two runs each."""
    rates = {}
    for workers in (1, 2):
        spent = {}
        for limit in (few, many):
            config = {
                "source": "procedural", "category": "chair", "limit": limit, "views": 6,
                "renderer": "blender", "render": {"size": 128}, "workers": workers,
            }  # fmt: skip
            spent[limit] = drive(config, folder / f"lit-{workers}-{limit}")["seconds"]
        rates[workers] = (many - few) / (spent[many] - spent[few])
        print(f"{workers} workers: {spent} s, {rates[workers]:.3f} assets/s")
    return {
        "lit_assets_per_s_1": round(rates[1], 3),
        "lit_assets_per_s_2": round(rates[2], 3),
        "two_workers_vs_one": round(rates[2] / rates[1], 3),
    }


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="under 3 minutes")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = bookkeeping(folder, 600 if quick else 10_000)
        results |= throughput(folder, *((12, 4) if quick else (40, 8)))
    report("scale", quick, results)


if __name__ == "__main__":
    main()
