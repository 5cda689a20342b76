"""The loop: data, determinism, resume bit for bit, refusals, damaged files."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from g3d.errors import CheckpointError, ConfigError, DatasetError, MissingDependency
from g3d.pipeline.config import PrepareConfig
from g3d.pipeline.prepare import prepare
from g3d.renderers.base import RenderSettings
from g3d.trainer.checkpoint import (
    CHECKPOINT,
    latest_checkpoint,
    load_snapshot,
    newest_run,
    numbered,
)
from g3d.trainer.config import RunConfig, preset_config
from g3d.trainer.data import ViewPool, open_data, shrink, step_rng
from g3d.trainer.loop import train
from g3d.trainer.method import Part
from g3d.trainer.sampler import SnapshotSampler
from g3d.trainer.session import learning_rate_factor
from g3d.trainer.workers import choose_device, cpu_settings


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "procedural-chair"
    config = PrepareConfig(
        source="procedural",
        category="chair",
        limit=10,
        views=4,
        workers=0,
        render=RenderSettings(size=32, supersample=2),
    )
    assert prepare(config, out).accepted == 10
    return out


def test_parts_of_a_batch_are_the_whole(dataset):
    """Rows stand view by view; a part has its shapes in every view, and the step's own draws."""
    data, _ = open_data(dataset, "train")
    config = preset_config("smoke", data={"background": "random"}).data
    pool = ViewPool(data, config, flip=True)
    whole = pool.batch(12, step_rng(0, 3), views=2)
    for part in (Part(i, 3) for i in range(3)):
        batch = pool.batch(12, step_rng(0, 3), part, views=2)
        rows = part.rows(12, 2).tolist()
        assert rows == [2 * part.index, 2 * part.index + 1, 2 * part.index + 6, 2 * part.index + 7]
        for name in ("rgb", "alpha", "azimuth", "elevation"):
            assert torch.equal(getattr(batch, name), getattr(whole, name)[rows])
        # Both have drawn as much: what comes next is the same as well.
        expected = step_rng(0, 3)
        pool.batch(12, expected, views=2)
        first = batch.draws("fakes")
        assert first[1]
        assert first[0].random() == expected.random()
        again = batch.draws("fakes")
        assert not again[1]
        replayed = step_rng(0, 3)
        pool.batch(12, replayed, views=2)
        assert again[0].random() == replayed.random()


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "whole"
    report = train(preset_config("smoke"), dataset, out)
    assert report.nimg == 160
    return out


def weights(run):
    return torch.load(numbered(run, CHECKPOINT)[-1], weights_only=True)


def assert_same(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


def test_shrink_weights_colour_by_alpha():
    rgba = np.zeros((1, 2, 2, 4), np.uint8)
    rgba[0, 0, 0] = (200, 100, 50, 255)  # one covered pixel of four
    assert shrink(rgba, 1).ravel().tolist() == [200, 100, 50, 64]


def test_batches_are_composited_and_drawn_without_state(dataset):
    data, _ = open_data(dataset, "train")
    pool = ViewPool(data, preset_config("smoke").data)
    batch = pool.batch(16, step_rng(0, 5, 0))
    again = pool.batch(16, step_rng(0, 5, 0))
    other = pool.batch(16, step_rng(0, 5, 1))  # after a roll-back
    assert torch.equal(batch.rgb, again.rgb)
    assert not torch.equal(batch.rgb, other.rgb)
    empty = (batch.alpha == 0).expand(-1, 3, -1, -1)
    assert (batch.rgb[empty] == 1.0).all()  # white
    assert batch.rgb.min() >= 0
    # The pose of a row is that of the very view: find it again in the pool.
    flat = pool.rgba[:, 3:].float() / 255
    for image, azimuth in zip(batch.alpha, batch.azimuth, strict=True):
        match = (flat == image).flatten(1).all(dim=1)
        assert azimuth in pool.azimuth[match]


def test_a_flipped_view_is_the_mirror_image_from_the_mirrored_camera(dataset):
    data, _ = open_data(dataset, "train")
    pool = ViewPool(data, preset_config("smoke").data, flip=True)
    batch = pool.batch(32, step_rng(0, 1, 0))
    flat = pool.rgba[:, 3:].float() / 255
    flips = 0
    for image, azimuth in zip(batch.alpha, batch.azimuth, strict=True):
        plain = (flat == image).flatten(1).all(dim=1)
        mirrored = (flat.flip(3) == image).flatten(1).all(dim=1)
        flips += bool(azimuth <= 0)
        assert azimuth in (-pool.azimuth[mirrored] if azimuth <= 0 else pool.azimuth[plain])
    assert 8 <= flips <= 24


def test_a_missing_gpu_is_said_and_workers_do_not_share_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(RunConfig()).type == "cpu"
    with pytest.raises(MissingDependency, match="no CUDA device"):
        choose_device(RunConfig(device="cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device(RunConfig()).type == "cuda"
    assert choose_device(RunConfig(device="cpu")).type == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device(RunConfig(workers=2)).type == "cpu"
    with pytest.raises(ConfigError, match="a GPU each"):
        choose_device(RunConfig(device="cuda", workers=2))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device(RunConfig(workers=2)).type == "cuda"


def test_run_leaves_what_it_promises(finished):
    names = {p.name for p in finished.iterdir()}
    assert {"config.yaml", "run.json", "stats.jsonl", "tensorboard"} <= names
    assert {"fakes-000000000.png", "fakes-000000160.png", "snapshot-000000160.safetensors"} <= names
    assert not [n for n in names if "tmp" in n]
    lines = [json.loads(x) for x in (finished / "stats.jsonl").read_text().splitlines()]
    assert [x["nimg"] for x in lines] == [40, 80, 120, 160]
    assert all(np.isfinite(x["loss/d"]) and x["r1/rgb"] >= 0 for x in lines)
    assert len(numbered(finished, CHECKPOINT)) == 2


def test_same_seed_gives_the_same_weights(finished, dataset, tmp_path):
    train(preset_config("smoke"), dataset, tmp_path / "again")
    assert_same(weights(finished), weights(tmp_path / "again"))
    other = preset_config("smoke", run={"seed": 1})
    train(other, dataset, tmp_path / "other")
    a = weights(finished)["nets"]["generator"]["network.synthesis.constant"]
    assert not torch.equal(
        a, weights(tmp_path / "other")["nets"]["generator"]["network.synthesis.constant"]
    )


@pytest.mark.slow
def test_killed_and_continued_equals_uninterrupted(finished, dataset, tmp_path):
    """kill -9 at random moments, several times; the weights come out bit for bit."""
    out = tmp_path / "killed"
    script = (
        "import sys; from pathlib import Path; from g3d.trainer.loop import train\n"
        "from g3d.trainer.config import RunConfig, preset_config\n"
        "train(preset_config('smoke'), Path(sys.argv[1]), Path(sys.argv[2]))\n"
    )
    rng = np.random.default_rng(os.getpid())
    kills = 0
    for _ in range(2):
        before = {p.name for p in out.glob("checkpoint-*.pt")}
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(dataset), str(out)], stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 120
        while {p.name for p in out.glob("checkpoint-*.pt")} <= before:
            assert time.monotonic() < deadline
            if process.poll() is not None:
                break
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.2))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 1
    train(preset_config("smoke"), dataset, out)
    assert_same(weights(finished), weights(out))
    whole = (finished / "snapshot-000000160.safetensors").read_bytes()
    assert (out / "snapshot-000000160.safetensors").read_bytes() == whole
    lines = [json.loads(x) for x in (out / "stats.jsonl").read_text().splitlines()]
    assert [x["nimg"] for x in lines] == [40, 80, 120, 160]


def test_killed_before_the_last_snapshot(finished, dataset, tmp_path):
    """The checkpoint of the last step is there, its snapshot is not."""
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    last = "snapshot-000000160.safetensors"
    (out / last).unlink()
    assert train(preset_config("smoke"), dataset, out).snapshot.name == last
    assert (out / last).read_bytes() == (finished / last).read_bytes()
    assert_same(weights(finished), weights(out))


def test_a_damaged_checkpoint_is_passed_over(finished, dataset, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / "snapshot-000000160.safetensors").unlink()
    newest = numbered(out, CHECKPOINT)[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    assert latest_checkpoint(out) == numbered(out, CHECKPOINT)[-2]
    train(preset_config("smoke"), dataset, out)
    assert_same(weights(finished), weights(out))


def test_a_finished_run_is_left_alone(finished, dataset):
    stamp = (finished / "snapshot-000000160.safetensors").stat().st_mtime_ns
    report = train(preset_config("smoke"), dataset, finished)
    assert report.finished_before
    assert report.train_seconds > 0
    assert (finished / "snapshot-000000160.safetensors").stat().st_mtime_ns == stamp


def test_another_config_is_refused_with_the_difference(finished, dataset):
    config = preset_config("smoke", get3d={"optim": {"lr": 0.123}})
    with pytest.raises(CheckpointError, match=r"get3d.optim.lr +0.005 -> 0.123"):
        train(config, dataset, finished)


def test_overwrite_starts_again(finished, dataset, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    config = preset_config("smoke", run={"kimg": 0.04})
    assert train(config, dataset, out, overwrite=True).nimg == 40
    assert [p.name for p in numbered(out, CHECKPOINT)] == ["checkpoint-000000040.pt"]


def test_a_folder_that_is_no_run_is_refused(dataset, tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="not a run"):
        train(preset_config("smoke"), dataset, tmp_path, overwrite=True)
    assert (tmp_path / "letter.txt").exists()


def test_missing_dataset_leaves_nothing(tmp_path):
    with pytest.raises(DatasetError):
        train(preset_config("smoke"), tmp_path / "nowhere", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_batch_must_divide(dataset, tmp_path):
    with pytest.raises(ConfigError, match="multiple"):
        train(preset_config("smoke", run={"batch": 7}), dataset, tmp_path / "run")


def denormals_survive():
    small = torch.full((1 << 20,), 1e-40)  # large enough for all threads to take part
    return bool((small * 1 > 0).all())


def test_torch_is_left_as_it_was(finished, dataset, tmp_path):
    threads = torch.get_num_threads()
    seen = []

    def look(*arguments):
        seen.append(torch.get_num_threads())
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("g3d.trainer.session.Session.run", look)
        with pytest.raises(KeyboardInterrupt):
            train(preset_config("smoke", run={"threads": 3}), dataset, tmp_path / "run")
    assert seen == [3]
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    assert denormals_survive()


def test_new_threads_keep_denormals_after_a_run():
    """In a process of its own, where the block is the first to start threads."""
    script = (
        "import torch; from g3d.trainer.workers import choose_device, cpu_settings\n"
        "def kept(): return bool((torch.full((1 << 20,), 1e-40) * 1 > 0).all())\n"
        "with cpu_settings(2):\n    assert not kept()\n"
        "torch.set_num_threads(2)\nassert kept()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_sums_do_not_depend_on_which_thread_is_first():
    """Gradients of repeated rows: many threads add to the same few numbers."""
    values = torch.rand(400_000, 4)
    rows = torch.randint(3, (len(values),))
    with cpu_settings(4):
        sums = []
        for _ in range(5):
            table = torch.zeros(3, 4, requires_grad=True)
            (table[rows] * values).sum().backward()
            sums.append(table.grad)
    assert all(torch.equal(sums[0], other) for other in sums)


def test_learning_rate_falls_to_zero():
    assert learning_rate_factor(0.3, 0.5) == 1.0
    assert learning_rate_factor(0.75, 0.5) == pytest.approx(0.5)
    assert learning_rate_factor(1.0, 0.5) == 0.0
    assert learning_rate_factor(0.9, 1.0) == 1.0


def test_snapshot_round_trip(finished):
    sampler = SnapshotSampler(finished)
    assert sampler.snapshot.nimg == 160
    assert sampler.snapshot.config == preset_config("smoke")
    mesh = sampler(7).to_mesh()
    assert np.array_equal(mesh.vertices, SnapshotSampler(finished)(7).to_mesh().vertices)
    assert newest_run_of(finished) == finished


def newest_run_of(run):
    home = run.parent / "home"
    (home / "runs").mkdir(parents=True, exist_ok=True)
    link = home / "runs" / run.name
    if not link.exists():
        link.symlink_to(run)
    return newest_run(home).resolve()


def test_damaged_and_missing_snapshots(finished, tmp_path):
    with pytest.raises(CheckpointError, match="no run or snapshot"):
        load_snapshot(tmp_path / "nothing")
    cut = tmp_path / "snapshot-000000001.safetensors"
    cut.write_bytes((finished / "snapshot-000000160.safetensors").read_bytes()[:500])
    with pytest.raises(CheckpointError, match="damaged"):
        load_snapshot(Path(cut))
    with pytest.raises(CheckpointError, match="no trained run"):
        newest_run(tmp_path)


def test_symmetry_of_a_dataset_is_measured(dataset, tmp_path):
    """Procedural chairs are symmetric about x = 0, mugs have a handle on one side."""
    mugs = tmp_path / "mugs"
    config = PrepareConfig(
        source="procedural", category="mug", limit=12, views=1, workers=0,
        render=RenderSettings(size=16, supersample=1),
    )  # fmt: skip
    prepare(config, mugs)
    assert open_data(dataset, "train")[1].mirror_share == 1.0
    assert open_data(mugs, "train")[1].mirror_share < 0.5
