"""Micro-batches, signals, what is kept of a run, a full disk, counters."""

import contextlib
import dataclasses
import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from g3d.errors import ConfigError, DiskError
from g3d.pipeline.config import PrepareConfig
from g3d.pipeline.prepare import prepare
from g3d.renderers.base import RenderSettings
from g3d.trainer import checkpoint, loop
from g3d.trainer import session as session_module
from g3d.trainer.best import make_score
from g3d.trainer.checkpoint import CHECKPOINT, SNAPSHOT, load_snapshot, numbered
from g3d.trainer.config import RunConfig, preset_config
from g3d.trainer.data import open_data
from g3d.trainer.loop import train
from g3d.trainer.pace import Pace
from g3d.trainer.session import Session
from g3d.trainer.signals import Stopped, stoppable
from g3d.trainer.workers import Worker, cpu_settings

EXACT = {
    # What couples the rows of a batch: groups of the minibatch deviation, which have to fit into a
    # micro-batch, and the mean over all edges where the SDF changes sign.
    "discriminator": {"group_size": 2},
    "loss": {"sdf_weight": 0.0},
    # Sums in another order differ by rounding. Adam makes whole steps of gradients that are nothing
    # else, unless eps is above them; and a pixel may then change its triangle, which no tolerance
    # covers. With small steps neither happened in 20 steps of any of ten seeds.
    "optim": {"eps": 1e-3, "lr": 0.0005},
}


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


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "whole"
    train(preset_config("smoke"), dataset, out)
    return out


def weights(run):
    return torch.load(numbered(run, CHECKPOINT)[-1], weights_only=True)


def tensors(state):
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, dict | list | tuple):
        for value in state.values() if isinstance(state, dict) else state:
            yield from tensors(value)


def assert_same(a, b):
    for name in ("nets", "average", "optimizers"):
        pairs = list(zip(tensors(a[name]), tensors(b[name]), strict=True))
        assert pairs
        assert all(torch.equal(x, y) for x, y in pairs)


def at_step(monkeypatch, wanted, action):
    """Do something in the middle of a step, once."""
    build, done = session_module.build_method, []

    def built(config, context):
        method = build(config, context)
        phases = method.phases()

        def loss(batch, step):
            if step == wanted and not done:
                done.append(step)
                action()
            return phases[0].loss(batch, step)

        method.phases = lambda: [dataclasses.replace(phases[0], loss=loss), *phases[1:]]
        return method

    monkeypatch.setattr(session_module, "build_method", built)


@pytest.mark.parametrize("adversarial", ["non_saturating", "relativistic"])
@pytest.mark.parametrize("micro", [4, 8])
def test_micro_batches_make_the_same_step(dataset, tmp_path, adversarial, micro):
    method = {**EXACT, "loss": {"sdf_weight": 0.0, "adversarial": adversarial, "r2": True}}
    states, logs = [], []
    with cpu_settings(1):
        for size in (None, micro):
            config = preset_config("smoke", run={"batch": 16, "micro_batch": size}, get3d=method)
            session = Session(Worker(), config, dataset, tmp_path / "none")
            assert len(session.parts) == (1 if size is None else 16 // size)
            logs.append(session.step(0, 20))
            for step in range(1, 20):
                session.step(step, 20)
            nets = session.nets.items()
            states.append({(n, k): v for n, net in nets for k, v in net.state_dict().items()})
    assert logs[0].keys() == logs[1].keys()
    for name, value in logs[0].items():
        if name in ("loss/sdf", "pieces") or name.startswith("logits_std"):
            continue  # a mean over edges, of some shapes, a deviation within a part
        assert logs[1][name].item() == pytest.approx(value.item(), rel=1e-4, abs=1e-6), name
    for name, value in states[0].items():  # weights, and the running means of w
        scale = max(1.0, value.abs().max().item())
        assert torch.allclose(states[1][name], value, rtol=0, atol=1e-5 * scale), name
    start = Session(Worker(), config, dataset, tmp_path / "none").nets["d_rgb"].stem.weight
    assert not torch.allclose(states[0]["d_rgb", "stem.weight"], start, atol=1e-3)  # it has moved


def test_a_batch_that_does_not_divide_is_refused(dataset, tmp_path):
    for run in ({"micro_batch": 3}, {"micro_batch": 1}, {"workers": 4, "micro_batch": 4}):
        with pytest.raises(ConfigError, match="multiple"):
            train(preset_config("smoke", run=run), dataset, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_run_resumes_bit_for_bit(
    finished, dataset, tmp_path, monkeypatch, number
):
    before = signal.getsignal(number)
    at_step(monkeypatch, 6, lambda: signal.raise_signal(number))
    with pytest.raises(KeyboardInterrupt) as stop:
        train(preset_config("smoke"), dataset, tmp_path / "run")
    assert stop.value.exit_code == 128 + number
    assert signal.getsignal(number) is before
    # After step 6, the seventh: no multiple of the 40 images between checkpoints.
    assert [p.name for p in numbered(tmp_path / "run", CHECKPOINT)][-1] == "checkpoint-000000056.pt"
    train(preset_config("smoke"), dataset, tmp_path / "run")
    assert_same(weights(finished), weights(tmp_path / "run"))
    last = "snapshot-000000160.safetensors"
    assert (tmp_path / "run" / last).read_bytes() == (finished / last).read_bytes()


def test_a_stopped_run_in_micro_batches_resumes_bit_for_bit(dataset, tmp_path, monkeypatch):
    config = preset_config("smoke", run={"micro_batch": 4, "kimg": 0.08, "clip": 1.0})
    train(config, dataset, tmp_path / "whole")
    at_step(monkeypatch, 3, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Stopped):
        train(config, dataset, tmp_path / "cut")
    assert weights(tmp_path / "cut")["nimg"] == 32
    train(config, dataset, tmp_path / "cut")
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


def test_a_second_signal_ends_at_once(dataset, tmp_path, monkeypatch):
    def twice():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)

    at_step(monkeypatch, 6, twice)
    with pytest.raises(Stopped) as stop:
        train(preset_config("smoke"), dataset, tmp_path / "run")
    assert stop.value.exit_code == 143
    assert weights(tmp_path / "run")["nimg"] == 40  # of step 5, the one under way is lost


def test_signals_are_left_alone_outside_the_main_thread():
    from threading import Thread

    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def look():
        with stoppable() as stop:
            seen.append((signal.getsignal(signal.SIGTERM), bool(stop)))

    thread = Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [(before, False)]


@pytest.mark.slow
def test_the_command_ends_with_143(dataset, tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "g3d", "train", "--data", dataset, "--preset", "smoke"]
    process = subprocess.Popen(
        [*map(str, command), "-s", "run.kimg=400", "-s", "run.snapshot_kimg=400", "-o", str(run)],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not list(run.glob("checkpoint-*.pt")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143
    nimg = weights(run)["nimg"]
    assert f"saved a checkpoint at {nimg} images" in err
    assert err.splitlines()[-1] == "interrupted; the same command goes on"


def test_only_the_newest_snapshots_and_the_best_are_kept(dataset, tmp_path):
    config = preset_config("smoke", run={"snapshot_kimg": 0.04, "keep_snapshots": 2})
    figures = iter([3.0, math.inf, 1.0, 2.0, 1.5])
    train(config, dataset, tmp_path / "run", score=lambda method, generator: next(figures))
    names = [path.name for path in numbered(tmp_path / "run", SNAPSHOT)]
    assert names == ["snapshot-000000120.safetensors", "snapshot-000000160.safetensors"]
    best = json.loads((tmp_path / "run" / "best.json").read_text())
    assert (best["nimg"], best["value"]) == (80, 1.0)
    assert load_snapshot(tmp_path / "run" / "best.safetensors").nimg == 80
    assert len(list((tmp_path / "run").glob("fakes-*.png"))) == 5
    with pytest.raises(StopIteration):
        next(figures)


def test_the_best_snapshot_is_the_one_nearest_to_held_out_shapes(dataset, tmp_path):
    config = preset_config("smoke", run={"best": "mmd_cd", "best_shapes": 3, "kimg": 0.04})
    train(config, dataset, tmp_path / "run")
    best = json.loads((tmp_path / "run" / "best.json").read_text())
    assert best["figure"] == "mmd_cd"
    assert 0 < best["value"] < 1
    lines = [json.loads(x) for x in (tmp_path / "run" / "stats.jsonl").read_text().splitlines()]
    # Snapshots at 0 and at 40; the tick after them holds the mean of both figures.
    assert lines[-1]["snapshot/mmd_cd"] >= best["value"] - 1e-6
    # The figure belongs to the file: computed again from what was saved, it is the same.
    from g3d.trainer.sampler import SnapshotSampler

    sampler = SnapshotSampler(tmp_path / "run" / "best.safetensors")
    score = make_score(config.run, open_data(dataset, "train")[0])
    assert score(sampler._method, sampler._generator) == pytest.approx(best["value"], rel=1e-5)
    assert make_score(RunConfig(), None) is None


class Filling:
    """A file on a disk that has room for so many bytes more."""

    def __init__(self, file, room):
        self._file, self._room = file, room

    def write(self, data):
        self._room -= len(data)
        if self._room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._file.write(data)

    def __getattr__(self, name):
        return getattr(self._file, name)


def test_a_disk_that_fills_up_leaves_the_last_checkpoint(finished, dataset, tmp_path, monkeypatch):
    real, calls = checkpoint.atomic_file, []

    @contextlib.contextmanager
    def full(path, **options):
        calls.append(path.name)
        with real(path, **options) as file:
            yield Filling(file, 20_000) if len(calls) == 2 else file

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "atomic_file", full)
        with pytest.raises(DiskError, match=r"checkpoint-000000080\.pt: the disk is full") as error:
            train(preset_config("smoke"), dataset, run)
    assert error.value.hint
    assert [path.name for path in numbered(run, CHECKPOINT)] == ["checkpoint-000000040.pt"]
    assert not [path for path in run.iterdir() if "tmp" in path.name]
    train(preset_config("smoke"), dataset, run)
    assert_same(weights(finished), weights(run))


@pytest.fixture
def tiny_disk(tmp_path):
    """A disk of 1 MB, where this process may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    command = [mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", place]
    if not mount or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a disk")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_real_disk_that_fills_up(dataset, tiny_disk):
    run = tiny_disk / "run"
    config = preset_config("smoke", run={"keep_checkpoints": 99, "kimg": 80.0})
    with pytest.raises(DiskError, match="the disk is full"):
        train(config, dataset, run)
    assert checkpoint.latest_checkpoint(run) == numbered(run, CHECKPOINT)[-1]
    assert not [path for path in run.iterdir() if "tmp" in path.name]


def test_counters(finished):
    lines = [json.loads(x) for x in (finished / "stats.jsonl").read_text().splitlines()]
    assert lines[-1]["speed/eta_s"] == 0
    for line in lines:
        spent = [line[f"time/{name}"] for name in ("data", "D", "D_r1", "G", "other")]
        assert all(value > 0 for value in spent)
        assert line["time/D_r1"] < line["time/D"]  # every fourth step
        assert line["memory/rss_mb"] > 50
        assert line["grad/D"] > 0
        # Eight images a step; the recent speed also counts what comes between steps.
        assert line["speed/recent"] <= 8 / sum(spent) * 2
    figures = [line["speed/eta_s"] for line in lines]
    assert figures == sorted(figures, reverse=True)


def test_the_recent_speed_forgets_what_was_slow(monkeypatch):
    clock = iter(np.concatenate([np.arange(0, 1000, 10.0), 1000 + np.arange(0, 900, 0.5)]))
    monkeypatch.setattr("g3d.trainer.pace.time.perf_counter", lambda: float(next(clock)))
    pace = Pace(8, 8000, torch.device("cpu"))
    for _ in range(30):
        pace.begin()
        pace.lap("data")
        pace.end()
    assert pace.images_per_second == pytest.approx(8 / 30, rel=0.05)
    for _ in range(400):
        pace.begin()
        pace.lap("data")
        pace.end()
    assert pace.images_per_second == pytest.approx(8 / 1.5, rel=0.01)
    terms = pace.terms(800)
    assert terms["speed/eta_s"].item() == pytest.approx(7200 / (8 / 1.5), rel=0.01)
    assert set(pace.terms(800)) == {"speed/recent", "speed/eta_s", "memory/rss_mb"}


def test_a_run_from_before_a_key_came_goes_on(finished, dataset, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    record = json.loads((run / loop.RUN_FILE).read_text())
    for key in ("guard", "clip", "micro_batch", "best"):
        del record["identity"]["config"]["run"][key]
    (run / loop.RUN_FILE).write_text(json.dumps(record))
    assert train(preset_config("smoke"), dataset, run).finished_before
