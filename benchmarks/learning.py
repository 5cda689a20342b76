"""How far the `cpu` preset gets, by seed and by length, beside the references of the same dataset.

    python benchmarks/learning.py                        # three seeds, the demo's length and 20 min
    python benchmarks/learning.py --data datasets/folder-car --seeds 0
    python benchmarks/learning.py --quick                # one short run, under 3 minutes

Every run is `g3d train` followed by `g3d eval`: squared Chamfer of 64 generated shapes against 64
held-out ones, with the training shapes as the ceiling, the best single training shape and an
untrained generator as references. A run is a function of (config, dataset), so several may share
the machine (`--jobs 2`): only their times change. The threads are part of the config, and the last
bits of a run depend on them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import report

KIMG = {"6min": None, "20min": 140.0}  # None: the preset's own length


def g3d(*arguments: str) -> dict:
    """Run a command with ``--json`` and return what it reports."""
    done = subprocess.run(
        [sys.executable, "-m", "g3d", *arguments, "--json"],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def learn(
    data: Path, out: Path, length: str, kimg: float | None, seed: int, extra: list[str]
) -> dict:
    """Train one run, measure it, return its figures."""
    run = out / f"{data.name}-{length}-seed{seed}"
    options = ["--seed", str(seed), "-o", str(run), *extra]
    if kimg is not None:
        options += ["--kimg", str(kimg)]
    trained = g3d("train", "--data", str(data), "--preset", "cpu", *options)
    table = g3d("eval", str(run), "--data", str(data))
    rows = {row["name"]: row for row in table["rows"]}
    found = {
        "length": length,
        "seed": seed,
        "nimg": table["nimg"],
        "train_seconds": trained["train_seconds"],
        "progress": table["progress"],
        **{f"{name}_mmd_e3": rows[name]["mmd"] * 1000 for name in rows},
        "coverage": rows["generated"]["coverage"],
        "one_nna": rows["generated"]["one_nna"],
        "empty": rows["generated"]["empty"],
        "pieces": rows["generated"]["components"],
    }
    print(json.dumps(found), flush=True)
    return found


def markdown(runs: list[dict]) -> Iterator[str]:
    """The runs as a table."""
    names = ["run", "kimg", "s", "MMD x10^3", "ceiling", "single", "untrained", "progress"]
    names += ["COV", "1-NNA", "empty", "pieces"]
    yield "| " + " | ".join(names) + " |"
    yield "| " + " | ".join(["---"] * len(names)) + " |"
    for r in runs:
        yield (
            f"| {r['length']} seed {r['seed']} | {r['nimg'] / 1000:.0f} | {r['train_seconds']:.0f} "
            f"| **{r['generated_mmd_e3']:.2f}** | {r['ceiling_mmd_e3']:.2f} "
            f"| {r['single_mmd_e3']:.2f} | {r['untrained_mmd_e3']:.1f} "
            f"| **{r['progress']:.0%}** | {r['coverage']:.0%} | {r['one_nna']:.0%} "
            f"| {r['empty']:.0%} | {r['pieces']:.2f} |"
        )


def main() -> None:
    """Run what was asked for and print the table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="dataset; made if missing [procedural chairs]")
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--lengths", default="6min,20min")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--threads", type=int, default=0, help="threads of a run, 0 = all cores")
    parser.add_argument("--quick", action="store_true", help="60 shapes, 2 kimg, one seed")
    args = parser.parse_args()
    lengths = {name: KIMG[name] for name in args.lengths.split(",")}
    seeds = [int(s) for s in args.seeds.split(",")]
    data = args.data or Path("datasets/procedural-chair")
    limit = "500"
    if args.quick:
        lengths, seeds, limit = {"quick": 2.0}, [0], "60"
        data = args.data or args.out / "data" / "quick-chair"
    if not (data / "dataset.json").exists():
        g3d("prepare", "procedural", "--category", "chair", "--limit", limit, "-o", str(data))
    extra = ["--set", f"run.threads={args.threads}"]
    with ThreadPoolExecutor(args.jobs) as pool:
        jobs = [
            pool.submit(learn, data, args.out, name, kimg, seed, extra)
            for name, kimg in lengths.items()
            for seed in seeds
        ]
        runs = [job.result() for job in jobs]
    print("\n".join(markdown(runs)))
    results = {}
    for name in lengths:
        progress = [r["progress"] for r in runs if r["length"] == name]
        results[f"progress_{name}_min"] = min(progress)
        results[f"progress_{name}_mean"] = sum(progress) / len(progress)
        results[f"empty_{name}"] = max(r["empty"] for r in runs if r["length"] == name)
    report("learning", args.quick, results)


if __name__ == "__main__":
    main()
