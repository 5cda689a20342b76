"""To other layouts and back: the same bytes of images, the same cameras."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from g3d.errors import ConfigError, DatasetError
from g3d.manifests.convert import (
    export_get3d,
    export_transforms,
    import_get3d,
    import_transforms,
)
from g3d.manifests.convert.get3d import FOV_Y, angles_of, cameras_of
from g3d.manifests.convert.transforms import to_y_up, to_z_up
from g3d.manifests.dataset import Dataset
from g3d.pipeline.config import PrepareConfig
from g3d.pipeline.prepare import prepare
from g3d.renderers.cameras import orbit
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

BASE = {
    "source": "procedural",
    "category": "chair",
    "limit": 4,
    "views": 4,
    "render": {"size": 32, "supersample": 2},
    "workers": 0,
}
GET3D = {**BASE, "camera": {"sampler": "get3d", "radius": 1.2, "fov_y_deg": 49.134}}
LRM = {**BASE, "camera": {"sampler": "lrm", "fov_y_deg": [40, 60]}}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("made") / "chairs"
    prepare(PrepareConfig.model_validate(GET3D), out)
    return out


@pytest.fixture(scope="module")
def free(tmp_path_factory) -> Path:
    """Cameras of every distance and lens, which two angles cannot hold."""
    out = tmp_path_factory.mktemp("free") / "chairs"
    prepare(PrepareConfig.model_validate(LRM), out)
    return out


def assert_same(data: Dataset, loose, exact: bool = True) -> None:
    views = data.views()
    assert len(loose) == len(views)
    rows = {(u, v): n for n, (u, v) in enumerate(zip(loose.uid.tolist(), loose.view, strict=True))}
    assert len(rows) == len(views)
    for number, view in enumerate(views):
        row = rows[view.uid, view.view]
        assert loose.read_bytes(row) == data.read_bytes(view.shard, view.offset, view.length)
        np.testing.assert_array_equal(loose.read_view(row), data.read_view(view))
        assert loose.split[row] == views.split[number]
        if exact:
            np.testing.assert_array_equal(loose.c2w[row], views.c2w[number])
            assert loose.fov_y[row] == views.fov_y[number]
        else:
            np.testing.assert_allclose(loose.c2w[row], views.c2w[number], atol=1e-12)
            assert loose.fov_y[row] == pytest.approx(views.fov_y[number], abs=2e-4)


@pytest.mark.parametrize("up", ["z", "y"])
def test_transforms_round_trip_is_exact(made, free, tmp_path, up):
    for name, place in (("made", made), ("free", free)):
        data = Dataset.open(place)
        report = export_transforms(data, tmp_path / name, up=up)
        assert (report.assets, report.views, report.lost) == (4, 16, ())
        assert_same(data, import_transforms(tmp_path / name))
    uid = data.assets()[0].uid
    assert len(import_transforms(tmp_path / name / uid)) == 4


def test_the_file_is_what_nerfstudio_and_instant_ngp_expect(made, tmp_path):
    """Written out here by the formulas of those programs, without code of the exporter."""
    data = Dataset.open(made)
    export_transforms(data, tmp_path / "out")
    record, views = data.assets()[0], data.views()
    mine = views.take(views.uid == record.uid)
    file = json.loads((tmp_path / "out" / record.uid / "transforms.json").read_text())
    assert file["camera_model"] == "OPENCV"
    assert file["camera_angle_x"] == math.radians(49.134)
    assert 2 * math.atan(16 / file["fl_x"]) == pytest.approx(math.radians(49.134), rel=1e-12)
    assert (file["w"], file["h"], file["cx"], file["cy"]) == (32, 32, 16, 16)
    points = data.points(record.uid).astype(np.float64)
    z_up = points[:, [0, 2, 1]] * [1, -1, 1]
    for number, frame in enumerate(file["frames"]):
        image = np.array(Image.open(tmp_path / "out" / record.uid / frame["file_path"]))
        c2w = np.array(frame["transform_matrix"])
        # Elevation shows in z, and the points land on the image.
        assert c2w[2, 3] == pytest.approx(1.2 * math.sin(mine.elevation[number]))
        seen = (np.linalg.inv(c2w) @ np.c_[z_up, np.ones(len(z_up))].T)[:3]
        x = (file["cx"] - file["fl_x"] * seen[0] / seen[2]).astype(int)
        y = (file["cy"] + file["fl_y"] * seen[1] / seen[2]).astype(int)
        inside = (x >= 0) & (x < 32) & (y >= 0) & (y < 32)
        assert (image[y[inside], x[inside], 3] > 0).mean() > 0.9


def test_files_of_other_programs_are_read(tmp_path):
    """NeRF's synthetic scenes: no suffix, one horizontal angle; or focal lengths, not square."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (30, 40, 3), np.uint8)
    for name in ("r_0.png", "7.png"):
        Image.fromarray(pixels).save(tmp_path / name)
    c2w = cameras_of(np.array([30.0]), np.array([10.0]))[0]
    frame = {"file_path": "./r_0", "transform_matrix": to_z_up(c2w).tolist()}
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps({"camera_angle_x": 0.9, "frames": [frame]}))
    loose = import_transforms(tmp_path)
    assert loose.fov_y[0] == pytest.approx(2 * math.atan(30 / 40 * math.tan(0.45)))
    np.testing.assert_array_equal(loose.c2w[0], c2w)
    assert (loose.view[0], loose.split[0], loose.uid[0]) == (0, None, tmp_path.name)
    assert (loose.read_view(0)[..., 3] == 255).all()
    np.testing.assert_array_equal(loose.read_view(0)[..., :3], pixels)
    frame |= {"file_path": "7.png", "fl_x": 50, "w": 40, "h": 30}
    path.write_text(json.dumps({"frames": [frame]}))
    loose = import_transforms(tmp_path, up="y")
    assert loose.fov_y[0] == pytest.approx(2 * math.atan(15 / 50))
    np.testing.assert_array_equal(loose.c2w[0], to_z_up(c2w))
    for bad, words in (({"k1": 0.1, "fl_x": 1}, "distorted"), ({}, "camera_angle_x")):
        path.write_text(json.dumps({"frames": [{**frame, "fl_x": None, **bad}]}))
        with pytest.raises(DatasetError, match=r"transforms.json: frame 0") as caught:
            import_transforms(tmp_path)
        assert words in caught.value.message + caught.value.hint
    path.unlink()
    with pytest.raises(DatasetError, match=r"no transforms.json"):
        import_transforms(tmp_path)


def test_get3d_round_trip_is_exact_and_by_angles_alone_to_1e_12(made, tmp_path):
    data = Dataset.open(made)
    report = export_get3d(data, tmp_path / "out", synset="03001627")
    assert (report.assets, report.views, report.lost) == (4, 16, ())
    assert_same(data, import_get3d(tmp_path / "out"))
    for file in tmp_path.rglob("transforms.json"):
        file.unlink()
    assert_same(data, import_get3d(tmp_path / "out", synset="03001627"), exact=False)


def test_the_layout_is_what_get3d_reads(made, tmp_path):
    """Its loader's rules: path to synset, id and number; eye from polar angle and rotation."""
    data = Dataset.open(made)
    export_get3d(data, tmp_path / "out", synset="03001627")
    views = data.views()
    images = sorted((tmp_path / "out" / "img" / "03001627").rglob("*.png"))
    assert len(images) == len(views)
    for image in images:
        synset, uid, number = image.parts[-3], image.parts[-2], int(image.stem)
        camera = tmp_path / "out" / "camera" / synset / uid
        theta = math.radians(np.load(camera / "rotation.npy")[number])
        phi = math.radians(90 - np.load(camera / "elevation.npy")[number])
        eye = 1.2 * np.array(
            [-math.sin(phi) * math.sin(theta), math.cos(phi), -math.sin(phi) * math.cos(theta)]
        )
        (row,) = np.flatnonzero((views.uid == uid) & (views.view == number))
        np.testing.assert_allclose(eye, views.c2w[row, :3, 3], atol=1e-12)
    lists = tmp_path / "out" / "split" / "03001627"
    for split in ("train", "val", "test"):
        uids = (lists / f"{split}.txt").read_text().split()
        assert uids == sorted(record.uid for record in data.assets(split))


@given(st.floats(0, 2 * math.pi), st.floats(-math.pi / 2, math.pi / 2))
def test_angles_rebuild_the_camera_poles_included(azimuth, elevation):
    c2w = orbit(azimuth, elevation, 1.2, FOV_Y).c2w[None]
    np.testing.assert_allclose(cameras_of(*angles_of(c2w)), c2w, atol=1e-7)
    np.testing.assert_array_equal(to_y_up(to_z_up(c2w)), c2w)


def test_what_the_layout_cannot_hold_is_refused_with_the_reason(free, made, tmp_path):
    data = Dataset.open(free)
    with pytest.raises(ConfigError, match=r"16 views are .* away, the layout has 1.2.*fov_y"):
        export_get3d(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    report = export_get3d(data, tmp_path / "out", force=True)
    assert len(report.lost) == 2
    assert_same(data, import_get3d(tmp_path / "out"))  # the exact cameras are kept beside
    with pytest.raises(ConfigError, match="not the name of a folder"):
        export_get3d(made, tmp_path / "other", synset="../x")


def test_a_rolled_camera_is_refused(made):
    from g3d.manifests.convert.get3d import unheld

    views = Dataset.open(made).views().take(slice(0, 2))
    assert unheld(views) == []
    views.c2w[1, :3, :2] = views.c2w[1, :3, 1::-1] * [1, -1]
    assert unheld(views) == ["1 cameras are rolled, or do not look at the origin"]


def test_missing_and_contradicting_cameras_are_errors(made, tmp_path):
    out = tmp_path / "out"
    export_get3d(made, out)
    camera = sorted((out / "camera" / "chair").iterdir())[0]
    rotation = np.load(camera / "rotation.npy")
    np.save(camera / "rotation.npy", rotation + 1)
    with pytest.raises(DatasetError, match=camera.name):
        import_get3d(out)
    np.save(camera / "rotation.npy", rotation[:2])
    with pytest.raises(DatasetError, match="2 rotations and 4 elevations"):
        import_get3d(out)
    (camera / "rotation.npy").unlink()
    with pytest.raises(DatasetError, match=r"cameras of .* are not readable"):
        import_get3d(out)
    with pytest.raises(DatasetError, match="no view"):
        import_get3d(out, synset="nothing")


def test_an_export_goes_on_and_never_writes_into_something_else(made, free, tmp_path):
    out = tmp_path / "out"
    export_transforms(made, out)
    files = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    victim = sorted(out.rglob("*.png"))[0]
    victim.unlink()
    export_transforms(made, out)
    assert victim.is_file()
    again = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    assert {p: t for p, t in again.items() if p != victim} == {
        p: t for p, t in files.items() if p != victim
    }
    for export in (lambda: export_transforms(free, out), lambda: export_get3d(made, out)):
        with pytest.raises(ConfigError, match="something else"):
            export()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(ConfigError, match="something else"):
        export_transforms(made, tmp_path / "mine")


def test_a_damaged_view_is_not_exported(made, tmp_path):
    place = Path(shutil.copytree(made, tmp_path / "chairs"))
    view = Dataset.open(place).views()[2]
    with (place / view.shard).open("r+b") as file:
        file.seek(view.offset + 60)
        file.write(b"\0\1\2")
    os.utime(place / view.shard)
    with pytest.raises(DatasetError, match=f"view {view.view} of {view.uid} is damaged"):
        export_transforms(place, tmp_path / "out")
