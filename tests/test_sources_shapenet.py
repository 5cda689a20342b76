"""ShapeNetCore in both versions: places, digests, axes, textures, and a data set made of a zip."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from g3d.errors import AssetError, ConfigError, DatasetError
from g3d.manifests.categories import get_category, list_categories
from g3d.manifests.dataset import Dataset
from g3d.manifests.records import Get3dPrior
from g3d.manifests.shards import UID_PATTERN
from g3d.pipeline.config import PrepareConfig
from g3d.pipeline.prepare import prepare
from g3d.pipeline.sources.base import FileSource, Source, SourceAsset
from g3d.pipeline.sources.registry import categories_of, get_source
from g3d.pipeline.sources.shapenet import ShapenetSource, uid_of
from g3d.pipeline.sources.shapenet_layout import LAYOUTS, turn_obj
from g3d.pipeline.transfer.ranges import location_of
from g3d.renderers.base import RenderSettings
from g3d.renderers.cameras import sample_cameras
from g3d.renderers.meshes import Mesh, normalise
from g3d.renderers.raster import RasterRenderer
from g3d.tests.shapenet_files import BIKE, FRONT, UP, asset_files, collection, write_tree, write_zip
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("G3D_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    assert not list(tmp_path.rglob("*.tmp-*"))


def source(root: Path | str | None, **options: Any) -> ShapenetSource:
    found = get_source("shapenet", category="motorcycle", root=root, **options)
    assert isinstance(found, ShapenetSource)
    return found


def facts(assets: list[SourceAsset]) -> list[tuple[Any, ...]]:
    return [(a.uid, a.source_id, a.sha256, a.bytes, dict(a.spec)) for a in assets]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_every_place_gives_the_same_assets(tmp_path: Path, version: str) -> None:
    files = collection(version)
    other = collection(version, 1, "02958343")
    tree = write_tree(tmp_path / "tree", files | other)
    wrapped = {f"ShapeNetCore.{version}/{name}": data for name, data in (files | other).items()}
    nested = write_zip(tmp_path / "n" / f"{BIKE}.zip", files).read_bytes()
    with zipfile.ZipFile(tmp_path / "nested.zip", "w") as pack:
        pack.writestr(f"ShapeNetCore.{version}/{BIKE}.zip", nested)
    bare = {name.removeprefix(f"{BIKE}/"): data for name, data in files.items()}
    fsspec.filesystem("memory").pipe(f"/{version}/{BIKE}.zip", nested)
    both = write_tree(tmp_path / "both", files)
    shutil.copy(tmp_path / "n" / f"{BIKE}.zip", both)
    places = [
        tree, tree / BIKE, write_tree(tmp_path / "deep", wrapped), both,
        tmp_path / "n" / f"{BIKE}.zip", tmp_path / "n", tmp_path / "nested.zip",
        write_zip(tmp_path / "all" / "ShapeNetCore.zip", wrapped), tmp_path / "all",
        write_zip(tmp_path / "bare" / f"{BIKE}.zip", bare),
    ]  # fmt: skip
    expected = facts(source(tree).list())
    assert len(expected) == 4
    for place in places:
        assert facts(source(place).list()) == expected, place
    for url in (f"memory://{version}", Path(f"memory://{version}/{BIKE}.zip")):
        assert facts(source(url).list()) == expected


def test_a_record_says_what_shapenet_is(tmp_path: Path) -> None:
    found = source(write_zip(tmp_path / f"{BIKE}.zip", collection("v2", 2)))
    assert isinstance(found, Source)
    assert not isinstance(found, FileSource)
    assert found.default_camera is None
    asset = found.list()[1]
    assert asset.uid == f"{BIKE}-{1:032x}"
    assert UID_PATTERN.fullmatch(asset.uid)
    assert asset.source_id == f"{BIKE}/{1:032x}"
    assert (asset.category, asset.license) == ("motorbike", "LicenseRef-ShapeNet")
    assert (asset.author, asset.url) == ("", "")
    files = asset_files("v2", 1.1)
    used = ["images/texture0.png", "models/model_normalized.mtl", "models/model_normalized.obj"]
    assert asset.bytes == sum(len(files[name]) for name in used)
    assert json.loads(json.dumps(asset.spec)) == asset.spec
    assert [a.uid for a in source(tmp_path, limit=1).list()] == [f"{BIKE}-{0:032x}"]


def test_the_digest_is_of_what_the_model_uses(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", collection("v2", 1))
    folder = root / BIKE / f"{0:032x}"

    def digest() -> str:
        return source(root).list()[0].sha256

    seen = [digest()]
    (folder / "models" / "model_normalized.solid.binvox").write_bytes(b"other")
    (folder / "screenshots" / "a-0.png").unlink()
    assert digest() == seen[0]
    for name in ("images/texture0.png", "models/model_normalized.mtl", "images/texture1.jpg"):
        (folder / name).write_bytes(b"other " + name.encode())
        assert digest() not in seen
        seen.append(digest())


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("packed", [False, True])
def test_the_front_comes_to_plus_z(tmp_path: Path, version: str, packed: bool) -> None:
    files = collection(version, 1)
    root = write_zip(tmp_path / f"{BIKE}.zip", files) if packed else write_tree(tmp_path, files)
    found = source(root)
    (asset,) = found.list()
    mesh = found.load(asset)
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    np.testing.assert_allclose(high - low, [0.6, 1.3, 2.0], atol=1e-6)
    top = mesh.vertices[mesh.vertices[:, 1].argmax()]
    # Whoever looks along +Z has its right on -X: the model is turned, not mirrored.
    np.testing.assert_allclose(top, [-0.3, 0.8, 1.0], atol=1e-6)
    assert mesh.normals is not None
    names = [m.name for m in mesh.materials]
    right = mesh.faces[mesh.material_index == names.index("right")].reshape(-1)
    np.testing.assert_allclose(mesh.normals[right], np.tile([-1.0, 0, 0], (6, 1)), atol=1e-6)


def image_from(mesh: Mesh, azimuth: float) -> np.ndarray:
    prior = Get3dPrior(azimuth_deg=(azimuth, azimuth), elevation_deg=(10, 10), radius=(2.5, 2.5))
    camera = sample_cameras(prior, 1, np.random.default_rng(0))
    look = RenderSettings(size=48, supersample=2)
    scene = RasterRenderer().open(normalise(mesh, 0.8)[0])
    return scene.render(camera, look, np.eye(4)).rgba[0]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_camera_at_azimuth_0_sees_the_front(tmp_path: Path, version: str) -> None:
    found = source(write_tree(tmp_path, collection(version, 1)))
    mesh = found.load(found.list()[0])
    for azimuth, channel in ((0.0, 0), (270.0, 1), (180.0, 2)):
        image = image_from(mesh, azimuth)
        middle = image[22:30, 22:26, :3].astype(int).mean(axis=(0, 1))
        assert middle.argmax() == channel
        assert middle.max() > 2 * np.sort(middle)[1]


def test_only_the_used_files_reach_the_cache_and_the_tree_stays_as_it_is(
    tmp_path: Path, cache: Path
) -> None:
    files = collection("v2", 2)
    root = write_tree(tmp_path / "tree", files)
    for place in (root, write_zip(tmp_path / f"{BIKE}.zip", files)):
        found = source(place)
        asset = found.list()[1]
        path = found.file(asset)
        assert path.is_relative_to(cache)
        folder = path.parent.parent
        names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
        assert names == {
            "images/texture0.png", "models/model_normalized.mtl", "models/model_normalized.obj"
        }  # fmt: skip
        stamp = path.stat().st_mtime_ns
        assert found.file(asset) == path
        assert path.stat().st_mtime_ns == stamp
        shutil.rmtree(cache)
    assert {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*.*") if p.is_file()
            } == files  # fmt: skip


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_missing_textures_are_told(tmp_path: Path, version: str) -> None:
    files = collection(version, 3)
    names = [n for n in files if n.endswith("texture0.png") and "screenshots" not in n]
    del files[names[0]]
    files[names[1].replace("texture0.png", "TEXTURE0.PNG")] = files.pop(names[1])
    library = next(n for n in files if f"/{2:032x}/" in n and n.endswith(".mtl"))
    del files[library]
    said = {"v1": "./images/texture0.png", "v2": "../images/texture0.png"}[version]
    expected = [[said], [], [Path(library).name]]
    for root in (write_tree(tmp_path / "t", files), write_zip(tmp_path / f"{BIKE}.zip", files)):
        found = source(root)
        assets = found.list()
        assert [list(a.spec["missing"]) for a in assets] == expected
        assert len(found.load(assets[1]).faces)  # Windows does not care about upper case
        for asset in (assets[0], assets[2]):
            with pytest.raises(AssetError, match="missing_texture"):
                found.load(asset)
    fsspec.filesystem("memory").pipe(f"/m{version}.zip", (tmp_path / f"{BIKE}.zip").read_bytes())
    remote = source(f"memory://m{version}.zip").list()
    assert [list(a.spec["missing"]) for a in remote] == [[], [], [Path(library).name]]


def test_a_damaged_asset_is_its_own_trouble(tmp_path: Path) -> None:
    path = write_zip(tmp_path / f"{BIKE}.zip", collection("v1", 3))
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as pack:
        info = pack.getinfo(f"{BIKE}/{1:032x}/model.obj")
    at = info.header_offset + 30 + len(info.filename) + info.compress_size // 2
    data[at : at + 8] = b"\xff" * 8
    path.write_bytes(data)
    found = source(path)
    good, bad, also = found.list()
    with pytest.raises(AssetError) as caught:
        found.load(bad)
    assert (caught.value.reason, caught.value.stage) == ("checksum", "fetch")
    assert len(found.load(good).faces) == len(found.load(also).faces)


def test_a_hostile_name_is_its_own_trouble(tmp_path: Path) -> None:
    files = collection("v1", 2)
    files[f"{BIKE}/{1:032x}/images/../../../evil.png"] = b"evil"
    files[f"{BIKE}/../model.obj"] = b"evil"
    files[f"/abs/{BIKE}/x/model.obj"] = b"v 0 0 0\n"
    found = source(write_zip(tmp_path / f"{BIKE}.zip", files))
    by_id = {a.spec["model"]: a for a in found.list()}
    assert len(by_id) == 4
    assert all(UID_PATTERN.fullmatch(a.uid) for a in by_id.values())
    assert len(found.load(by_id[f"{0:032x}"]).faces)
    with pytest.raises(AssetError, match="leads out"):
        found.load(by_id[f"{1:032x}"])
    assert found.file(by_id[".."]).is_relative_to(tmp_path / "cache" / "shapenet" / by_id[".."].uid)
    assert not list(tmp_path.rglob("evil*"))


def test_an_asset_that_changed_after_it_was_listed(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "t", collection("v1", 2))
    found = source(root)
    one, two = found.list()
    with (root / one.source_id / "model.obj").open("a") as file:
        file.write("# more\n")
    shutil.rmtree(root / two.source_id)
    for asset in (one, two):
        with pytest.raises(AssetError, match="has changed") as caught:
            found.file(asset)
        assert caught.value.reason == "checksum"
    shutil.rmtree(root)
    with pytest.raises(AssetError, match="gone"):
        found.file(one)


def test_without_a_root_it_is_the_hub_s(tmp_path: Path) -> None:
    found = source(None)
    assert found.root == "hf://datasets/ShapeNet/ShapeNetCore"
    assert found.remote
    assert not source(tmp_path).remote
    for root in (None, "."):
        with pytest.raises(ConfigError, match="no category 'animal'"):
            get_source("shapenet", category="animal", root=root)


def test_places_that_hold_nothing_of_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        source(tmp_path / "no").list()
    (tmp_path / "x.obj").write_text("v 0 0 0")
    with pytest.raises(ConfigError, match="no zip"):
        source(tmp_path / "x.obj").list()
    (tmp_path / "e").mkdir()
    with pytest.raises(DatasetError, match="no models of motorbike") as caught:
        source(tmp_path / "e").list()
    assert "SYNSET/ID/model.obj" in (caught.value.hint or "")
    cars = collection("v1", 1, "02958343")
    write_tree(tmp_path / "c", cars)
    write_zip(tmp_path / "z" / "ShapeNetCore.v1.zip", cars)
    for place in (tmp_path / "c", tmp_path / "z"):
        with pytest.raises(DatasetError, match="no models of motorbike") as caught:
            source(place).list()
        assert caught.value.hint == "it holds car"
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / f"{BIKE}.zip").write_bytes(b"<html>you are not allowed</html>")
    with pytest.raises(DatasetError, match="not a whole zip"):
        source(tmp_path / "bad").list()
    for version in ("v1", "v2"):
        write_tree(tmp_path / "two" / version, collection(version, 1))
    with pytest.raises(ConfigError, match="2 times") as caught:
        source(tmp_path / "two").list()
    assert "--root" in (caught.value.hint or "")


def test_uids_are_key_safe() -> None:
    assert uid_of(BIKE, "a1B-2_c") == f"{BIKE}-a1B-2_c"
    ids = ["wss.1", "wss 1", "..", "ü", "x" * 200]
    uids = {uid_of(BIKE, name) for name in ids}
    assert len(uids) == len(ids)
    assert all(UID_PATTERN.fullmatch(uid) for uid in uids)


number = st.from_regex(r"[-+]?[0-9]{1,3}(\.[0-9]{1,6})?(e-?[0-9])?", fullmatch=True)


@given(st.lists(st.tuples(number, number, number), min_size=1, max_size=5),
       st.sampled_from(LAYOUTS), st.sampled_from(["\n", "\r\n"]))  # fmt: skip
@settings(deadline=None, max_examples=50)
def test_turning_is_a_rotation_of_the_numbers(rows: list[Any], layout: Any, end: str) -> None:
    text = end.join([f"v {' '.join(row)} 0.5 0.25 1" for row in rows] + ["vt 1 2", "f 1 1 1", ""])
    out = turn_obj(text.encode(), layout.turn).decode()
    lines = out.split(end)
    assert lines[len(rows) :] == ["vt 1 2", "f 1 1 1", ""]
    matrix = np.zeros((3, 3))
    for row, (axis, sign) in enumerate(layout.turn):
        matrix[row, axis] = sign
    assert np.linalg.det(matrix) == 1.0
    np.testing.assert_array_equal(matrix @ FRONT[layout.name], [0, 0, 1])
    np.testing.assert_array_equal(matrix @ UP, UP)
    for line, row in zip(lines, rows, strict=False):
        words = line.split()
        assert words[4:] == ["0.5", "0.25", "1"]
        assert [float(w) for w in words[1:4]] == (matrix @ [float(w) for w in row]).tolist()
    four = layout.turn
    for _ in range(3):
        out = turn_obj(out.encode(), four).decode()
    assert [line.replace("+", "") for line in text.split(end)] == out.replace("+", "").split(end)


def test_addresses_that_went_through_a_path() -> None:
    assert location_of(str(Path("s3://bucket/a.zip"))) == "s3://bucket/a.zip"
    assert location_of("https://x.org/a") == "https://x.org/a"
    assert location_of("file:///data/a") == "/data/a"
    assert location_of("/data/a") == "/data/a"
    assert Path(location_of("a")).is_absolute()


def test_the_categories_of_a_source() -> None:
    assert len(categories_of("shapenet")) == 55
    assert get_category("motorbike") in categories_of("shapenet")
    assert get_category("human") not in categories_of("shapenet")
    assert {c.name for c in categories_of("procedural")} == {
        "car", "chair", "motorbike", "table", "mug"
    }  # fmt: skip
    assert categories_of("folder") == list(list_categories())
    with pytest.raises(ConfigError, match="did you mean 'shapenet'"):
        categories_of("shapnet")


def test_a_data_set_from_a_zip(tmp_path: Path, cache: Path) -> None:
    files = collection("v2", 4)
    del files[f"{BIKE}/{3:032x}/images/texture0.png"]
    root = write_zip(tmp_path / "zips" / f"{BIKE}.zip", files)
    options: dict[str, Any] = {
        "source": "shapenet", "category": "motorbike", "views": 3, "workers": 0,
        "render": {"size": 32, "supersample": 2}, "splits": {"train": 1, "val": 0, "test": 0},
    }  # fmt: skip
    config = PrepareConfig.model_validate({**options, "root": root})
    report = prepare(config, tmp_path / "out")
    dataset = Dataset.open(tmp_path / "out")
    records = {r.uid: r for r in dataset.records()}
    assert sorted(records) == [f"{BIKE}-{n:032x}" for n in range(4)]
    bad = records.pop(f"{BIKE}-{3:032x}")
    assert (bad.status, bad.reason, bad.missing_textures) == ("failed", "missing_texture", 1)
    for record in records.values():
        assert record.status == "accepted", record.message
        assert (record.views, record.textures, record.license) == (3, 1, "LicenseRef-ShapeNet")
        assert record.pose_iou is not None
        assert record.pose_iou > 0.9
    assert dataset.info.camera == get_category("motorbike").camera
    assert "LicenseRef-ShapeNet" in dataset.info.licenses
    assert report.made == 4
    assert prepare(config, tmp_path / "out").made == 0
    # Who has it unpacked gets the same bytes.
    shutil.rmtree(cache)
    tree = write_tree(tmp_path / "tree", files)
    prepare(config.model_copy(update={"root": str(tree)}), tmp_path / "other")
    other = Dataset.open(tmp_path / "other")
    assert [s.sha256 for s in other.info.shards] == [s.sha256 for s in dataset.info.shards]
