"""``prepare`` with the Blender renderer: choice, hashes, gates, failures and resuming."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from g3d.errors import AssetError, ConfigError, DatasetError, MissingDependency
from g3d.manifests.dataset import Dataset
from g3d.manifests.records import AssetRecord
from g3d.manifests.validate import validate_dataset
from g3d.pipeline.config import (
    PrepareConfig,
    RenderParams,
    build_renderer,
    build_source,
    identity,
    resolve_params,
)
from g3d.pipeline.gates import GateSettings, check_magenta, check_mesh, is_worth_the_rest
from g3d.pipeline.prepare import prepare
from g3d.pipeline.sources.folder import FolderSource
from g3d.pipeline.sources.references import referenced
from g3d.pipeline.sources.trees import DiskTree
from g3d.renderers.base import Views
from g3d.renderers.blender.process import find_python
from g3d.renderers.blender.renderer import BlenderRenderer
from g3d.renderers.meshes import Material, make_mesh
from g3d.renderers.raster import RasterRenderer

FAULTS = "G3D_TEST_BLENDER_FAULTS"


def installed() -> bool:
    try:
        find_python()
    except MissingDependency:
        return False
    return True


def blender(test):
    test = pytest.mark.blender(test)
    return pytest.mark.skipif(not installed(), reason="bpy is not installed")(test)


FLAT = {"look": "flat", "samples": 1, "deadline_s": 5.0}
TRAIN = {"train": 1.0, "val": 0.0, "test": 0.0}


def config(root: Path | None = None, **changes: Any) -> PrepareConfig:
    base = {
        "source": "folder" if root else "procedural", "category": "chair", "root": root,
        "renderer": "blender", "views": 4, "render": {"size": 32}, "workers": 0, "splits": TRAIN,
        "blender": FLAT, "breaker_share": 1.0, "duplicates": "keep",
    }  # fmt: skip
    return PrepareConfig.model_validate({**base, **changes})


def box_obj(head: str = "") -> str:
    corners = [(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]
    quads = ["1 2 4 3", "5 7 8 6", "1 5 6 2", "3 4 8 7", "1 3 7 5", "2 6 8 4"]
    rows = [head, *(f"v {x} {y} {z}" for x, y, z in corners)]
    return "\n".join([*rows, *(f"f {quad}" for quad in quads)]) + "\n"


def put(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def records(out: Path) -> dict[str, AssetRecord]:
    lines = (out / "assets.jsonl").read_text().splitlines()
    return {Path(r.source_id).stem: r for r in map(AssetRecord.model_validate_json, lines)}


# --- what decides the pixels ----------------------------------------------------------------------


def params_of(made: PrepareConfig) -> RenderParams:
    source = build_source(made)
    return resolve_params(made, source, build_renderer(made, source))


@blender
@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"blender": {**FLAT, "python": str(find_python()) if installed() else None}}, True),
        ({"blender": {**FLAT, "deadline_s": 77, "memory_gb": 3, "threads": 2}}, True),
        ({"blender": {**FLAT, "recycle_after": 3, "passes": "exr"}}, True),
        ({"render": {"size": 32, "supersample": 2, "light": "flat"}}, True),
        ({"blender": {**FLAT, "samples": 2}}, False),
        ({"blender": {**FLAT, "look": "lit"}}, False),
        ({"render": {"size": 33}}, False),
        ({"seed": 1}, False),
    ],
)
def test_only_what_changes_a_pixel_is_in_the_hash(change, same):
    base, other = params_of(config()), params_of(config(**change))
    assert (base.params_hash == other.params_hash) is same
    assert base.renderer_version.count(".") == 1


def test_the_hash_of_the_rasteriser_knows_nothing_of_blender():
    made = [config(renderer="raster"), config(renderer="raster", blender={"look": "get3d"})]
    first, second = (params_of(one) for one in made)
    assert first.params_hash == second.params_hash
    assert "look" not in first.values()
    assert "look" not in identity(made[0], first)["params"]
    assert (
        first.params_hash
        != params_of(config(renderer="raster", render={"size": 32, "supersample": 2})).params_hash
    )


def test_the_sampler_is_said_with_its_version():
    assert params_of(config(renderer="raster")).sampler == "uniform_angles-1"
    ring = config(renderer="raster", camera={"sampler": "ring"})
    assert params_of(ring).sampler == "ring-1"


# --- which renderer, which files ------------------------------------------------------------------


def test_auto_is_the_rasteriser_where_it_can_read_anything(tmp_path, caplog):
    put(tmp_path / "a.obj", box_obj())
    put(tmp_path / "b.fbx", b"data")
    put(tmp_path / "c.usdz", b"data")
    made = config(tmp_path, renderer="auto")
    source = build_source(made)
    assert isinstance(build_renderer(made, source), RasterRenderer)
    assert isinstance(build_renderer(config(renderer="auto")), RasterRenderer)
    assert [a.source_id for a in source.list()] == ["a.obj"]
    assert "1 .fbx, 1 .usdz; --renderer blender reads them" in caplog.text


def test_without_blender_a_folder_for_blender_alone_says_what_is_there(tmp_path, monkeypatch):
    put(tmp_path / "models" / "b.fbx", b"data")
    with pytest.raises(DatasetError, match=r"but 1 \.fbx") as caught:
        prepare(config(tmp_path / "models", renderer="raster"), tmp_path / "out")
    assert caught.value.hint == "--renderer blender reads .fbx"
    monkeypatch.setenv("G3D_BLENDER_PYTHON", str(tmp_path / "none"))
    with pytest.raises(MissingDependency):
        prepare(config(tmp_path / "models", renderer="auto"), tmp_path / "out")


@blender
def test_auto_is_blender_where_blender_alone_can_read_the_files(tmp_path):
    put(tmp_path / "b.fbx", b"data")
    made = config(tmp_path, renderer="auto")
    source = build_source(made)
    renderer = build_renderer(made, source)
    assert isinstance(renderer, BlenderRenderer)
    reading = source.reading(renderer.imports)
    assert [a.source_id for a in reading.list()] == ["b.fbx"]


def test_side_files_of_formats_for_blender_change_the_digest(tmp_path):
    fbx = b"Kaydara FBX Binary  \0..RelativeFilenameS\x0c\0\0\0tex\\skin.pngI"
    put(tmp_path / "a.fbx", fbx)
    put(tmp_path / "b.usda", "#usda 1.0\nasset inputs:file = @./tex/skin.png@\n@http://x/y@\n")
    put(tmp_path / "c.dae", "<image><init_from>tex/sk%69n.png</init_from></image>")
    put(tmp_path / "d.usdc", b"PXR-USDC")
    put(tmp_path / "e.fbx", 'RelativeFilename: "none.png"')
    skin = put(tmp_path / "tex" / "skin.png", b"one")
    assert referenced(DiskTree(tmp_path), "a.fbx") == ["tex\\skin.png"]
    assert referenced(DiskTree(tmp_path), "b.usda") == ["./tex/skin.png"]
    assert referenced(DiskTree(tmp_path), "c.dae") == ["tex/skin.png"]
    assert "tex/skin.png" in referenced(DiskTree(tmp_path), "d.usdc")
    source = FolderSource("car", str(tmp_path)).reading({".fbx", ".usda", ".dae", ".usdc"})
    before = {a.source_id: a for a in source.list()}
    skin.write_bytes(b"two")
    after = {a.source_id: a for a in source.list()}
    changed = {name for name in before if before[name].sha256 != after[name].sha256}
    assert changed == {"a.fbx", "b.usda", "c.dae", "d.usdc"}
    assert before["e.fbx"].spec["missing"] == ["none.png"]


# --- gates ----------------------------------------------------------------------------------------


def test_the_first_views_decide_whether_the_rest_is_rendered():
    gates = GateSettings()
    assert is_worth_the_rest(np.array([0.3]), gates)
    assert not is_worth_the_rest(np.array([0.001]), gates)
    assert not is_worth_the_rest(np.array([1.0, 0.999]), gates)
    assert is_worth_the_rest(np.array([0.001, 1.0, 0.4]), gates)
    for covered, reason in (([0.001] * 4, "blank"), ([1.0] * 4, "out_of_frame"), ([0.0], "blank")):
        with pytest.raises(AssetError) as caught:
            is_worth_the_rest(np.array(covered), gates)
        assert (caught.value.reason, caught.value.stage) == (reason, "gate")


def solid(color: tuple[int, int, int], size: int = 8) -> Views:
    image = np.zeros((1, size, size, 4), np.uint8)
    image[0, 2:6, 2:6] = (*color, 255)
    lit = image // 2 + 100
    lit[..., 3] = image[..., 3]
    depth, normal = np.zeros((1, size, size)), np.zeros((1, size, size, 3))
    return Views(rgba=lit, depth=depth, normal=normal, albedo=image[..., :3])


TRIANGLE = (np.eye(3), np.array([[0, 1, 2]]))


def test_magenta_that_no_material_says_is_a_lost_texture():
    grey = make_mesh(*TRIANGLE)
    for shade in ((255, 0, 255), (196, 0, 190), (60, 0, 60)):
        with pytest.raises(AssetError, match="magenta") as caught:
            check_magenta(solid(shade), grey)
        assert caught.value.reason == "missing_texture"
    for shade in ((255, 105, 180), (200, 60, 200), (30, 0, 30), (128, 0, 255)):
        check_magenta(solid(shade), grey)
    pink = make_mesh(*TRIANGLE, materials=[Material(base_color=(1.0, 0.0, 1.0, 1.0))])
    check_magenta(solid((255, 0, 255)), pink)
    texture = np.full((4, 4, 4), 255, np.uint8)
    texture[..., 1] = 0
    check_magenta(solid((255, 0, 255)), make_mesh(*TRIANGLE, materials=[Material(texture=texture)]))
    colors = np.tile([1.0, 0.0, 1.0, 1.0], (3, 1))
    check_magenta(solid((255, 0, 255)), make_mesh(*TRIANGLE, colors=colors))
    nothing = solid((0, 0, 0))
    nothing.rgba[:] = 0
    check_magenta(nothing, grey)


def test_a_mesh_too_far_from_its_origin_is_refused():
    check_mesh(make_mesh(TRIANGLE[0] + 1000.0, TRIANGLE[1]), GateSettings())
    with pytest.raises(AssetError, match="rounded") as caught:
        check_mesh(make_mesh(TRIANGLE[0] * 4 + 1e7, TRIANGLE[1]), GateSettings())
    assert caught.value.reason == "import"


# --- whole runs -----------------------------------------------------------------------------------


@blender
def test_a_procedural_dataset_through_blender(tmp_path):
    out = tmp_path / "chairs"
    made = config(limit=3)
    report = prepare(made, out)
    assert validate_dataset(out) == []
    data = Dataset.open(out)
    assert data.info.renderer.name == "blender"
    assert data.info.renderer.settings["look"]["name"] == "flat"
    assert data.info.renderer.settings["look"]["samples"] == 1
    assert "light" not in data.info.renderer.settings
    assert data.info.params["look"] == data.info.renderer.settings["look"]
    assert len(data.views()) == 3 * 4
    for record in data.assets():
        assert record.status == "accepted"
        assert record.pose_iou is not None
        assert record.pose_iou > 0.7
    assert report is not None
    with pytest.raises(ConfigError, match="look"):
        prepare(config(limit=3, blender={**FLAT, "samples": 2}), out)
    assert not [p for p in _children(os.getpid()) if "inside.server" in _command(p)]


@blender
def test_every_accident_is_one_asset_and_the_run_goes_on(tmp_path, monkeypatch):
    faults = {"killed": "kill", "aborts": "abort", "hangs": "hang", "greedy": "memory",
              "hungry": "malloc"}  # fmt: skip
    monkeypatch.setenv(FAULTS, json.dumps(faults))
    root = tmp_path / "models"
    for name in [*faults, "good", "zgood"]:
        put(root / f"{name}.obj", box_obj())
    put(root / "broken.glb", b"glTF")
    put(root / "empty.obj", "# nothing\n")
    put(root / "unskinned.mtl", "newmtl m\nmap_Kd none.png\n")
    put(root / "unskinned.obj", box_obj(head="mtllib unskinned.mtl\nusemtl m"))
    out = tmp_path / "out"
    prepare(config(root), out)
    assert validate_dataset(out) == []
    found = {name: (r.status, r.reason, r.attempts) for name, r in records(out).items()}
    assert found == {
        "killed": ("failed", "import", 1),
        "aborts": ("failed", "import", 1),
        "hangs": ("failed", "timeout", 1),
        "greedy": ("failed", "memory", 1),
        "hungry": ("failed", "memory", 1),
        "broken": ("failed", "import", 1),
        "empty": ("failed", "empty_mesh", 1),
        "unskinned": ("failed", "missing_texture", 1),
        "good": ("accepted", None, 1),
        "zgood": ("accepted", None, 1),
    }
    assert all(r.message for r in records(out).values() if r.status == "failed")


OPTIONS = {
    "source": "procedural", "category": "chair", "limit": 10, "renderer": "blender", "views": 3,
    "render": {"size": 32}, "shard_size": 4, "splits": TRAIN,
    "blender": {"look": "flat", "samples": 4},
}  # fmt: skip
CODE = (
    "import json, sys; from pathlib import Path\n"
    "from g3d.pipeline.config import PrepareConfig\n"
    "from g3d.pipeline.prepare import prepare\n"
    "prepare(PrepareConfig.model_validate(json.loads(sys.argv[1])), Path(sys.argv[2]))"
)


def content(out: Path) -> dict[str, bytes]:
    files = [*sorted((out / "shards").iterdir()), out / "index.parquet"]
    return {str(f.relative_to(out)): f.read_bytes() for f in files}


def start(out: Path, workers: int) -> subprocess.Popen[bytes]:
    options = json.dumps({**OPTIONS, "workers": workers})
    command = [sys.executable, "-c", CODE, options, str(out)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def ended(out: Path) -> int:
    staged = len(list(out.glob(".staging/assets/*.json")))
    shards = [json.loads(p.read_text()) for p in out.glob(".staging/shards/*.json")]
    return staged + sum(len(shard["assets"]) for shard in shards)


def _children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == pid:
                found.append(int(entry.name))
    return found


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


@blender
@pytest.mark.slow
def test_killed_and_run_again_the_bytes_are_those_of_one_run(tmp_path):
    whole = tmp_path / "whole"
    assert start(whole, 0).wait(timeout=200) == 0
    assert len(Dataset.open(whole).views()) == 10 * 3
    out = tmp_path / "chairs"
    for count in (2, 5):
        process = start(out, 0)
        servers: list[int] = []
        end = time.monotonic() + 100
        while ended(out) < count and process.poll() is None and time.monotonic() < end:
            servers = [p for p in _children(process.pid) if "inside.server" in _command(p)]
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert count <= ended(out) < 10
        assert servers
        time.sleep(0.5)
        assert not [pid for pid in servers if "inside.server" in _command(pid)]
    # The rest by two workers of Ray.
    assert start(out, 2).wait(timeout=200) == 0
    assert content(out) == content(whole)
    assert validate_dataset(out) == []
    assert len(Dataset.open(out).views()) == 10 * 3
    assert not (out / ".staging").exists()
