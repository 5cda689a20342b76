"""The whole road by its commands: prepare, validate, train, export, and what comes out of it."""

import json
import os
import subprocess
import sys

import pytest
import trimesh
from g3d.renderers.meshes import bounds
from g3d.trainer.export.verify import color_error, khronos_issues, validator_modules
from g3d.trainer.sampler import SnapshotSampler


def g3d(home, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "g3d", *arguments, "--json"],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "G3D_HOME": str(home)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Three commands, without a path between them, as in the README."""
    place = tmp_path_factory.mktemp("home")
    size = ("--limit", "12", "--views", "4", "--size", "32", "--workers", "0")
    g3d(place, "prepare", "procedural", "--category", "chair", *size)
    g3d(place, "train", "--preset", "smoke")
    g3d(place, "export", "--n", "3", "--texture-size", "256")
    return place


def the_run(home):
    (run,) = (home / "runs").iterdir()
    (out,) = (home / "exports").iterdir()
    return run, out


def test_every_step_found_the_one_before(home):
    run, out = the_run(home)
    assert run.name == "00000-procedural-chair-smoke"
    assert out.name == run.name
    assert sorted(p.name for p in out.glob("*.glb")) == [f"{seed:06d}.glb" for seed in range(3)]
    assert (out / "index.html").is_file()


def test_dataset_is_valid(home):
    report = g3d(home, "validate", str(home / "datasets" / "procedural-chair"))
    assert report["findings"] == []


def test_meshes_carry_the_generators_colours(home):
    run, out = the_run(home)
    psi = json.loads((out / "export.json").read_text())["config"]["psi"]
    sampler = SnapshotSampler(run)
    for seed in range(3):
        path = out / f"{seed:06d}.glb"
        asset = sampler(seed, psi)
        error = color_error(path, asset)
        assert error.mean < 0.02
        assert error.p99 < 0.05
        loaded = trimesh.load(path, force="mesh")
        made = asset.to_mesh()
        assert loaded.bounds == pytest.approx(bounds(made), abs=1e-5)
        assert loaded.visual.material.baseColorTexture.size == (256, 256)
    # The check can fail: another seed's colours are not these.
    assert color_error(out / "000000.glb", sampler(2, psi)).mean > 0.02


@pytest.mark.skipif(validator_modules() is None, reason="needs node and npm's gltf-validator")
def test_meshes_pass_the_khronos_validator(home):
    for path in the_run(home)[1].glob("*.glb"):
        issues = khronos_issues(path)
        assert issues.errors == 0, issues.messages


def test_eval_fills_the_table(home):
    report = g3d(home, "eval", "--n", "3")
    names = [row["name"] for row in report["rows"]]
    assert names == ["ceiling", "single", "untrained", "generated"]
    assert all(row["mmd"] > 0 for row in report["rows"])
