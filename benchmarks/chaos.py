"""A worker, a whole node and the driver of a cluster are killed; the data set must be the same.

    python benchmarks/chaos.py               # 5 rounds of 300 assets
    python benchmarks/chaos.py --quick       # 1 round of 60 assets

A round makes a Ray cluster of three nodes on this machine (a head without cores, two nodes with
one each), starts `g3d prepare` there and kills, with SIGKILL at random moments and in this order,
one worker, one of the two nodes with all that runs on it, and the driver. Then the same command is
started again and left alone. Compared with an undisturbed run on one node are the bytes of all
shards, index.parquet, assets.jsonl (apart from seconds, attempts and log, which tell of the run)
and dataset.json (apart from the command line).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import report
from nodes import RayCluster, ray_cluster

RUN_FIELDS = ("seconds", "attempts", "log")
LIMIT_S = 900.0
"""A run that takes longer hangs."""
NOT_FINISHED = "the driver had finished before its moment came: take more assets"


def start(assets: int, out: Path, address: str | None) -> subprocess.Popen[bytes]:
    """``g3d prepare``, on the cluster at ``address`` or on workers of its own."""
    command = [
        sys.executable, "-m", "g3d", "prepare", "procedural", "--category", "chair",
        "--limit", str(assets), "--views", "4", "--size", "64", "--set", "render.supersample=2",
        "--set", "shard_size=16", "-o", str(out), "-q",
    ]  # fmt: skip
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    if address is not None:
        environment["RAY_ADDRESS"] = address
    with out.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )


def finish(process: subprocess.Popen[bytes], out: Path) -> None:
    """Wait for a command that is to succeed."""
    try:
        code = process.wait(LIMIT_S)
    except subprocess.TimeoutExpired:
        kill_driver(process)
        code = "no end"
    if code:
        raise SystemExit(f"{code}: {out.with_suffix('.log').read_text()[-2000:]}")


def kill_driver(process: subprocess.Popen[bytes]) -> None:
    """And all that is in its session; the cluster is not."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def ended(out: Path) -> int:
    """Assets that are finished on disk, in staging or in shards."""
    staged = len(list(out.glob(".staging/assets/*.json")))
    shards = [json.loads(path.read_text()) for path in out.glob(".staging/shards/*.json")]
    return staged + sum(len(shard["assets"]) for shard in shards)


def wait_until(out: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    """Until so many assets are finished."""
    limit = time.monotonic() + LIMIT_S
    while ended(out) < count:
        if process.poll() is not None:
            raise SystemExit(f"{NOT_FINISHED}; {out.with_suffix('.log').read_text()[-2000:]}")
        if time.monotonic() > limit:
            kill_driver(process)
            raise SystemExit(f"it hangs: {out.with_suffix('.log').read_text()[-2000:]}")
        time.sleep(0.01)


def content(out: Path) -> dict[str, str]:
    """Digests of a data set, without what may differ."""
    found = {str(p.relative_to(out)): _digest(p.read_bytes()) for p in out.glob("shards/*.tar")}
    found["index"] = _digest((out / "index.parquet").read_bytes())
    records = [json.loads(line) for line in (out / "assets.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in record.items() if k not in RUN_FIELDS} for record in records]
    found["assets"] = _digest(json.dumps(kept).encode())
    info = json.loads((out / "dataset.json").read_text())
    info.pop("command")
    found["dataset"] = _digest(json.dumps(info).encode())
    found["left"] = " ".join(sorted(path.name for path in out.iterdir()))
    return found


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def disturbed(cluster: RayCluster, assets: int, out: Path, rng: random.Random) -> dict[str, int]:
    """Kill a worker, a node and the driver, then let the command finish; what was killed when."""
    process = start(assets, out, cluster.address)
    # Of the assets that are finished; the rest of randomness is in the delays.
    moments = sorted(rng.randint(1, int(0.85 * assets)) for _ in range(3))
    killed: dict[str, int] = {}
    for kind, moment in zip(("worker", "node", "driver"), moments, strict=True):
        wait_until(out, moment, process)
        time.sleep(rng.uniform(0.0, 0.5))
        if kind == "worker":
            os.kill(rng.choice(_workers(cluster)), signal.SIGKILL)
        elif kind == "node":
            cluster.remove(rng.choice(cluster.nodes[1:]))
        else:
            kill_driver(process)
        killed[kind] = ended(out)
    finish(start(assets, out, cluster.address), out)
    return killed


def _workers(cluster: RayCluster) -> list[int]:
    """Waits for one: they may just be starting."""
    limit = time.monotonic() + 60.0
    while not (found := cluster.workers()) and time.monotonic() < limit:
        time.sleep(0.05)
    return found


def main() -> None:
    """All rounds against one undisturbed run; one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    rounds, assets = (1, 60) if args.quick else (args.rounds, 300)
    results = {"rounds": rounds, "identical": 0, "assets": assets}
    results |= {f"{kind}_kills": 0 for kind in ("worker", "node", "driver")}
    with tempfile.TemporaryDirectory(prefix="g3d-chaos-") as folder:
        places = [Path(folder) / name / "data" for name in ("whole", *map(str, range(rounds)))]
        for place in places:
            place.parent.mkdir()
        began = time.monotonic()
        finish(start(assets, places[0], None), places[0])
        results["undisturbed_s"] = round(time.monotonic() - began, 1)
        whole = content(places[0])
        for n, out in enumerate(places[1:]):
            began = time.monotonic()
            with ray_cluster(0, 1, 1) as cluster:
                killed = disturbed(cluster, assets, out, random.Random(f"{args.seed}-{n}"))
            found = content(out)
            same = found == whole
            results["identical"] += same
            for kind in killed:
                results[f"{kind}_kills"] += 1
            moments = ", ".join(f"{kind} at {count}" for kind, count in killed.items())
            print(f"round {n}: {moments} of {assets}; {time.monotonic() - began:.0f} s; "
                  f"{'identical' if same else 'DIFFERENT'}", flush=True)  # fmt: skip
            if not same:
                print({key for key in {*whole, *found} if whole.get(key) != found.get(key)})
    report("chaos", args.quick, results)
    sys.exit(0 if results["identical"] == rounds else 1)


if __name__ == "__main__":
    main()
