"""Learning curves: the minimum matching distance at every snapshot of some runs, as a picture.

    python benchmarks/curves.py docs/experiments/chairs.png DATASET RUN [RUN ...]
    python benchmarks/curves.py --quick      # a smoke run made for the purpose

Squared Chamfer of 64 generated shapes (psi 1) against 64 held-out ones, as in `g3d eval`; the
dotted lines are the ceiling (training shapes) and the best single training shape. The curves are
drawn over images seen, because a run is a function of them and not of the clock.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from pathlib import Path

import numpy as np
from common import g3d, report, smoke_run
from g3d.manifests.dataset import Dataset
from g3d.trainer.checkpoint import SNAPSHOT, numbered
from g3d.trainer.metrics.chamfer import mmd, normalise_points, pairwise_chamfer
from g3d.trainer.metrics.table import shape_set
from g3d.trainer.sampler import SnapshotSampler


def distances(run: Path, references: np.ndarray) -> dict[int, float]:
    """MMD (times 1000) at each snapshot, by images seen."""
    found = {}
    for path in numbered(run, SNAPSHOT):
        sampler = SnapshotSampler(path)
        shapes = shape_set(sampler(seed, 1.0).to_mesh() for seed in range(len(references)))
        found[sampler.snapshot.nimg] = 1000 * mmd(pairwise_chamfer(shapes.points, references))
    return found


def draw(path: Path, curves: dict[str, dict[int, float]], levels: dict[str, float]) -> None:
    """Write the picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, curve in curves.items():
        axis.plot([n / 1000 for n in curve], list(curve.values()), marker=".", label=name)
    for name, level in levels.items():
        axis.axhline(level, linestyle=":", color="grey")
        axis.annotate(name, (0, level), va="bottom", color="grey")
    axis.set(xlabel="kimg", ylabel="MMD-CD × 10³", yscale="log")
    axis.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, draw, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("picture", type=Path, nargs="?", help="PNG to write")
    parser.add_argument("dataset", type=Path, nargs="?")
    parser.add_argument("runs", type=Path, nargs="*", help="run folders that `g3d eval` has seen")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        picture, runs, data = args.picture, args.runs, args.dataset
        if args.quick:
            data, run = smoke_run(Path(folder))
            g3d("eval", str(run), "--data", str(data))
            picture, runs = Path(folder) / "curve.png", [run]
        if data is None or not runs:
            parser.error("give PICTURE, DATASET and RUN, or --quick")
        dataset = Dataset.open(data)
        held_out = [*dataset.assets("test"), *dataset.assets("val")][:64]
        references = normalise_points(np.stack([dataset.points(a.uid) for a in held_out]))
        curves = {run.name: distances(run, references) for run in runs}
        table = json.loads((runs[0] / "learning.json").read_text())
        levels = {r["name"]: 1000 * r["mmd"] for r in table["rows"] if r["name"] in LEVELS}
        draw(picture, curves, levels)
    for name, curve in curves.items():
        print(name, {n: round(value, 2) for n, value in curve.items()})
    results = {re.sub(r"\W", "_", name): list(c.values())[-1] for name, c in curves.items()}
    report("curves", args.quick, results)


LEVELS = ("ceiling", "single")

if __name__ == "__main__":
    main()
