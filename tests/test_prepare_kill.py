"""SIGKILL at random moments of a real process, then the same command: equal bytes. With Ray."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from g3d.manifests.dataset import Dataset
from g3d.manifests.validate import validate_dataset
from g3d.pipeline.config import PrepareConfig
from g3d.pipeline.prepare import prepare

OPTIONS = {
    "source": "procedural",
    "category": "chair",
    "limit": 24,
    "views": 6,
    "render": {"size": 64},
    "shard_size": 5,
}
CODE = (
    "import json, sys; from pathlib import Path\n"
    "from g3d.pipeline.config import PrepareConfig\n"
    "from g3d.pipeline.prepare import prepare\n"
    "prepare(PrepareConfig.model_validate(json.loads(sys.argv[1])), Path(sys.argv[2]))"
)


def start(out: Path, workers: int) -> subprocess.Popen[bytes]:
    options = json.dumps({**OPTIONS, "workers": workers})
    return subprocess.Popen(
        [sys.executable, "-c", CODE, options, str(out)], stderr=subprocess.DEVNULL
    )


def content(out: Path) -> dict[str, bytes]:
    files = [*sorted((out / "shards").iterdir()), out / "index.parquet"]
    return {str(f.relative_to(out)): f.read_bytes() for f in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole") / "chairs"
    prepare(PrepareConfig.model_validate({**OPTIONS, "workers": 0}), out)
    assert validate_dataset(out) == []
    return content(out)


def ended(out: Path) -> int:
    """Assets that are finished on disk, in staging or in shards."""
    staged = len(list(out.glob(".staging/assets/*.json")))
    shards = [json.loads(p.read_text()) for p in out.glob(".staging/shards/*.json")]
    return staged + sum(len(shard["assets"]) for shard in shards)


def kill_when(out: Path, process: subprocess.Popen[bytes], count: int, delay: float) -> int:
    """Kill the process a moment after ``count`` assets are ended; tells how many are."""
    end = time.monotonic() + 60
    while ended(out) < count and process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    time.sleep(delay)
    process.kill()
    process.wait()
    return ended(out)


@pytest.mark.slow
def test_killed_at_random_moments_without_ray(whole, tmp_path):
    rng = random.Random(os.environ.get("G3D_TEST_SEED", "7"))
    out = tmp_path / "chairs"
    before, kills = 0, 0
    while before < 22 and kills < 5:
        after = kill_when(out, start(out, 0), before + rng.randint(1, 6), rng.uniform(0, 0.08))
        if (out / "dataset.json").exists() and not (out / ".staging").exists():
            break
        assert after >= before, "a finished asset was lost"
        before, kills = after, kills + 1
    assert kills >= 2
    process = start(out, 0)
    assert process.wait(timeout=120) == 0
    assert content(out) == whole
    assert validate_dataset(out) == []
    assert not (out / ".staging").exists()


@pytest.mark.slow
def test_killed_with_ray_and_finished_by_another_number_of_workers(whole, tmp_path):
    out = tmp_path / "chairs"
    kept = kill_when(out, start(out, 2), 5, 0.05)
    assert 5 <= kept < 24
    process = start(out, 1)
    assert process.wait(timeout=120) == 0
    assert content(out) == whole
    data = Dataset.open(out)
    assert len(data.views()) == 24 * 6
    assert {record.attempts for record in data.assets()} == {1}


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_but_a_second_try(whole, tmp_path):
    out = tmp_path / "chairs"
    process = start(out, 2)
    while ended(out) < 3 and process.poll() is None:
        time.sleep(0.01)
    workers = [pid for pid in _descendants(process.pid) if _name(pid).startswith("ray::Worker")]
    assert workers
    os.kill(workers[0], 9)
    assert process.wait(timeout=120) == 0
    assert content(out) == whole
    assert sum(r.attempts for r in Dataset.open(out).assets()) in (24, 25)


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _descendants(pid: int) -> list[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found, frontier = [], {pid}
    while frontier:
        frontier = {child for child, parent in parents.items() if parent in frontier}
        found += sorted(frontier)
    return found
