"""Memory of one training step of every preset, measured on the CPU, beside its estimate.

    python benchmarks/memory.py            # presets whose estimate is below --limit-gb
    python benchmarks/memory.py --quick    # smoke and cpu only

Each preset is stepped in a process of its own, by the code of the training loop, on a few made
views of its own size: one step with all phases, then another, when gradients and optimisers have
their state. A preset that is too large is stepped with half the batch, a quarter, and so on to 4
(the share of one of the paper's 8 GPUs), then with images of half the size. Presets that differ in
numbers alone are measured once. Measured: the most resident memory during the steps, less what the
process held before it built its networks.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import report
from g3d.config import list_presets
from g3d.trainer.config import PRESETS, TrainConfig, preset_config
from g3d.trainer.memory import estimate
from g3d.trainer.networks.discriminator import DiscriminatorConfig

VIEWS = 4


def main() -> None:
    """Measure every preset and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("presets", nargs="*", help="default: all")
    parser.add_argument("--limit-gb", type=float, default=20.0, help="leave out what needs more")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--child", nargs=2, metavar=("CONFIG", "DATASET"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(Path(args.child[0]), Path(args.child[1]))))
        return
    names = args.presets or (["smoke", "cpu"] if args.quick else list_presets(PRESETS))
    results: dict[str, float] = {}
    print("| preset | estimate GB | measured at | estimate GB | measured GB | ratio | s/step |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    seen: dict[str, str] = {}
    for name in names:
        same = seen.setdefault(json.dumps(estimate(preset_config(name)).as_dict()), name)
        if same == name:
            results.update(row(name, args.limit_gb))
        else:
            print(f"| {name} | as {same} | | | | | |")
    report("memory", args.quick, results)


def row(name: str, limit_gb: float) -> dict[str, float]:
    """One line of the table, at the whole size or at what is left of it."""
    whole = preset_config(name)
    config, whole_gb = whole, estimate(whole).total / 1e9
    while estimate(config).total > limit_gb * 1e9:
        config = smaller(config)
    found = in_child(config)
    estimated = estimate(config, views=int(found["views"])).total
    ratio = found["bytes"] / estimated
    what = "whole" if config == whole else f"batch {config.run.batch}, {config.data.size} px"
    print(
        f"| {name} | {whole_gb:.3f} | {what} | {estimated / 1e9:.3f} "
        f"| {found['bytes'] / 1e9:.3f} | {ratio:.2f} | {found['seconds']:.1f} |",
        flush=True,
    )
    return {f"{name}_estimate_gb": whole_gb, f"{name}_measured_of_estimate": round(ratio, 3)}


def smaller(config: TrainConfig) -> TrainConfig:
    """Half the batch, or images of half the side."""
    if config.run.batch > 4:
        run = config.run.model_copy(update={"batch": config.run.batch // 2})
        return config.model_copy(update={"run": run})
    discriminator = config.get3d.discriminator
    if isinstance(discriminator, DiscriminatorConfig):
        discriminator = discriminator.model_copy(update={"channels": discriminator.channels[1:]})
    get3d = config.get3d.model_copy(update={"discriminator": discriminator})
    data = config.data.model_copy(update={"size": config.data.size // 2})
    return config.model_copy(update={"get3d": get3d, "data": data})


def in_child(config: TrainConfig) -> dict[str, float]:
    """Measure in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        place, data = Path(folder) / "config.json", Path(folder) / "data"
        place.write_text(config.model_dump_json(), encoding="utf-8")
        made_views(data, config.data.size)
        done = subprocess.run(
            [sys.executable, __file__, "--child", str(place), str(data)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return json.loads(done.stdout.splitlines()[-1])


def made_views(out: Path, size: int) -> None:
    """A few procedural shapes at the size of the preset."""
    from g3d.pipeline.config import PrepareConfig
    from g3d.pipeline.prepare import prepare
    from g3d.renderers.base import RenderSettings

    settings = RenderSettings(size=size, supersample=1)
    prepare(
        PrepareConfig(
            source="procedural", category="chair", limit=10, views=VIEWS, workers=0, render=settings
        ),
        out,
    )


def measure(config_file: Path, data: Path) -> dict[str, float]:
    """In the child: the most resident memory of two steps, above what was there before."""
    from g3d.trainer.loop import Session
    from g3d.trainer.workers import Worker, cpu_settings

    config = TrainConfig.model_validate_json(config_file.read_text(encoding="utf-8"))
    config = config.model_copy(
        update={"run": config.run.model_copy(update={"device": "cpu", "workers": 1})}
    )
    small = preset_config("smoke", data={"size": 8}, run={"device": "cpu"})
    with tempfile.TemporaryDirectory() as folder, cpu_settings(1):
        # Compiled kernels and libraries are loaded by a small step before.
        Session(Worker(), small, data, Path(folder) / "small").step(0, 2)
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
        session = Session(Worker(), config, data, Path(folder) / "run")
        start = time.monotonic()
        session.step(0, 1000)
        session.step(config.get3d.loss.r1_every, 1000)
        seconds = (time.monotonic() - start) / 2
        views = len(session.pool.rgba)
        return {"bytes": resident("VmHWM") - before, "seconds": seconds, "views": views}


def resident(key: str) -> int:
    """A figure of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


if __name__ == "__main__":
    main()
