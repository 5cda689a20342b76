"""Two workers through Ray Train: the same weights as one, a signal, a death, data out of reach."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from g3d import cluster
from g3d.errors import ConfigError, DatasetError, G3DError
from g3d.pipeline.config import PrepareConfig
from g3d.pipeline.prepare import prepare
from g3d.renderers.base import RenderSettings
from g3d.trainer.checkpoint import CHECKPOINT, numbered
from g3d.trainer.config import preset_config
from g3d.trainer.loop import train

pytestmark = [pytest.mark.long, pytest.mark.slow]

STEPS = 20
SET = {
    "run.kimg": STEPS * 8 / 1000,
    "run.threads": 1,
    "run.checkpoint_kimg": 0.008,
    "run.snapshot_kimg": 0.016,  # pictures take time, in which signals arrive
    "run.keep_snapshots": 2,
    "data.background": "random",
    # See test_train_loop.EXACT.
    "get3d.discriminator.group_size": 2,
    "get3d.loss.sdf_weight": 0.0,
    "get3d.optim.eps": 1e-3,
    "get3d.optim.lr": 0.0005,
}


def config(workers):
    nested = {}
    for key, value in {**SET, "run.workers": workers}.items():
        *path, last = key.split(".")
        place = nested
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return preset_config("smoke", **nested)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "procedural-chair"
    render = RenderSettings(size=16, supersample=2)
    prepare(
        PrepareConfig(
            source="procedural", category="chair", limit=10, views=4, workers=0, render=render
        ),
        out,
    )
    return out


def weights(run):
    return torch.load(numbered(run, CHECKPOINT)[-1], weights_only=True)


def wait_for(condition, seconds=200):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def stop_the_command(dataset, run):
    """``g3d train --workers 2`` until its first checkpoint, then SIGTERM."""
    sets = [word for key, value in SET.items() for word in ("-s", f"{key}={value}")]
    command = [sys.executable, "-m", "g3d", "train", "--preset", "smoke", "--workers", "2"]
    process = subprocess.Popen(
        [*command, *sets, "--data", str(dataset), "-o", str(run)],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: numbered(run, CHECKPOINT) or process.poll() is not None)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143, err
    nimg = weights(run)["nimg"]
    assert f"saved a checkpoint at {nimg} images" in err
    assert nimg < 8 * STEPS
    return nimg


def descendants():
    """Process ids below this one, with their command lines."""
    parents, names = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            stat = (path / "stat").read_text()
            names[int(path.name)] = (path / "cmdline").read_text()
        except OSError:
            continue
        parents[int(path.name)] = int(stat.rpartition(")")[2].split()[1])
    found = {}
    for pid, name in names.items():
        above = pid
        while above not in (0, 1, os.getpid()):
            above = parents.get(above, 0)
        if above == os.getpid():
            found[pid] = name
    return found


def kill_a_worker(run, killed):
    """As soon as there is a checkpoint more than now, kill -9 one worker."""
    before = numbered(run, CHECKPOINT)[-1]
    wait_for(lambda: numbered(run, CHECKPOINT)[-1] != before)
    workers = [pid for pid, name in descendants().items() if "RayTrainWorker" in name]
    killed.append(len(workers))
    os.kill(max(workers), signal.SIGKILL)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_two_workers_stopped_and_killed_equal_one(dataset, tmp_path):
    run = tmp_path / "two"
    stopped_at = stop_the_command(dataset, run)
    killed = []
    killer = threading.Thread(target=kill_a_worker, args=(run, killed))
    killer.start()
    report = train(config(2), dataset, run)
    killer.join()
    assert killed == [2]
    assert report.nimg == 8 * STEPS
    (line,) = report.restarts
    assert re.match(r"worker [01] \(\S+, process \d+\) died: ", line)
    assert int(line.split("started again from ")[1].split()[0]) > stopped_at
    assert not (run / ".ray").exists()

    train(config(1), dataset, tmp_path / "one")
    one, two = weights(tmp_path / "one"), weights(run)
    for name in one["nets"]:
        assert_near(two["nets"][name], one["nets"][name])
    assert_near(two["average"], one["average"])


def assert_near(found, expected):
    for key, value in expected.items():
        scale = max(1.0, value.abs().max().item())
        assert torch.allclose(found[key], value, rtol=0, atol=1e-5 * scale), key


def test_what_workers_cannot_do_is_said(dataset, tmp_path, monkeypatch):
    """On one cluster: data that a worker does not reach; too many workers; a run that diverges."""
    from g3d.trainer import launch

    with cluster.connected(2):
        with pytest.raises(ConfigError, match="4 workers do not fit: the cluster has 2 CPUs"):
            train(config(4), dataset, tmp_path / "four")
        away = tmp_path / "away"
        shutil.copytree(dataset, away)
        real = launch.TorchTrainer

        def then_gone(*args, **kwargs):
            away.rename(tmp_path / "elsewhere")
            return real(*args, **kwargs)

        monkeypatch.setattr(launch, "TorchTrainer", then_gone)
        with pytest.raises(DatasetError, match=r"worker \d on .* cannot use") as error:
            train(config(2), away, tmp_path / "two")
        assert "all workers reach" in error.value.hint
        monkeypatch.undo()
        wild = preset_config("smoke", run={"workers": 2}, get3d={"optim": {"lr": 1e30}})
        with pytest.raises(G3DError, match="diverged"):
            train(wild, dataset, tmp_path / "wild")
        health = json.loads((tmp_path / "wild" / "health.json").read_text())
        assert (health["status"], health["rollbacks"]) == ("failed", 3)
