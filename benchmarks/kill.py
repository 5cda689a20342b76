"""kill -9 at random moments in prepare, train and export; the result must equal an undisturbed one.

    python benchmarks/kill.py               # 40 chairs, 4 kimg of `cpu`, 8 meshes; 3 kills a step
    python benchmarks/kill.py --quick       # 10 chairs, the smoke preset, 4 meshes; 1 kill a step

Each command is started in a process group of its own and the whole group is killed, Ray and all.
Compared are the bytes of all shards and of index.parquet, the bytes of the final snapshot and
every tensor of the final checkpoint, and the bytes of all GLB files.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import report


def start(arguments: list[str]) -> subprocess.Popen:
    """Run a g3d command in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "g3d", *arguments, "-q"],
        start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def undisturbed(arguments: list[str]) -> float:
    """Run to the end; returns the seconds it took."""
    began = time.monotonic()
    code = start(arguments).wait()
    if code:
        raise SystemExit(f"g3d {' '.join(arguments)} ended with {code}")
    return time.monotonic() - began


def disturbed(arguments: list[str], seconds: float, kills: int, rng: random.Random) -> int:
    """Kill the command at random moments of its work, then let it finish; returns the kills."""
    done = 0
    for _ in range(kills):
        process = start(arguments)
        try:
            process.wait(timeout=rng.uniform(0.2, 0.95) * seconds)
            break  # it had finished before its moment came
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            done += 1
    undisturbed(arguments)
    return done


def digests(folder: Path, *patterns: str) -> dict[str, str]:
    """SHA-256 of the files of a folder that match."""
    files = sorted(path for pattern in patterns for path in folder.glob(pattern))
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def same_checkpoint(a: Path, b: Path) -> bool:
    """Whether the newest checkpoints of two runs hold the same tensors, bit for bit."""
    import torch

    def flat(value: object, name: str = "") -> dict[str, object]:
        if isinstance(value, dict):
            items = value.items()
        elif isinstance(value, list):
            items = enumerate(value)
        else:
            return {name: value}
        return {k: v for key, item in items for k, v in flat(item, f"{name}.{key}").items()}

    newest = [sorted(folder.glob("checkpoint-*.pt"))[-1] for folder in (a, b)]
    one, two = (flat(torch.load(path, weights_only=True)) for path in newest)
    return newest[0].name == newest[1].name and one.keys() == two.keys() and all(
        torch.equal(v, two[k]) if isinstance(v, torch.Tensor) else v == two[k]
        for k, v in one.items()
    )  # fmt: skip


def main() -> None:
    """Run the three steps undisturbed and disturbed; compare; print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=3, help="of each step")
    parser.add_argument("--seed", type=int, default=None, help="of the moments")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    shapes, kills = ("10", 1) if args.quick else ("40", args.kills)
    length = ["--preset", "smoke"] if args.quick else ["--preset", "cpu", "--kimg", "4"]
    meshes = "4" if args.quick else "8"
    results: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        a, b = Path(folder) / "a", Path(folder) / "b"

        def steps(home: Path) -> list[list[str]]:
            data, run, out = (str(home / name) for name in ("data", "run", "out"))
            chairs = ["procedural", "--category", "chair", "--limit", shapes]
            return [
                ["prepare", *chairs, "-o", data],
                ["train", "--data", str(a / "data"), *length, "-o", run],
                ["export", str(a / "run"), "--n", meshes, "-o", out],
            ]

        for whole, killed in zip(steps(a), steps(b), strict=True):
            seconds = undisturbed(whole)
            results[f"{whole[0]}_kills"] = disturbed(killed, seconds, kills, rng)
            print(f"{whole[0]}: {seconds:.0f} s undisturbed, {results[f'{whole[0]}_kills']} kills",
                  flush=True)  # fmt: skip
        found = [digests(home / "data", "shards/*.tar", "index.parquet") for home in (a, b)]
        results["prepare_identical"] = int(found[0] == found[1] and len(found[0]) > 1)
        snapshots = [digests(home / "run", "snapshot-*.safetensors") for home in (a, b)]
        last = max(snapshots[0])
        same = snapshots[0][last] == snapshots[1].get(last)
        results["train_identical"] = int(same and same_checkpoint(a / "run", b / "run"))
        meshes_found = [digests(home / "out", "*.glb") for home in (a, b)]
        same = meshes_found[0] == meshes_found[1] and len(meshes_found[0]) == int(meshes)
        results["export_identical"] = int(same)
    report("kill", args.quick, results)
    identical = [value for key, value in results.items() if key.endswith("_identical")]
    sys.exit(0 if all(identical) else 1)


if __name__ == "__main__":
    main()
