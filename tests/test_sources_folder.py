"""Folders of models: what is listed, in which order, with which digest, licence and uid."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from g3d.errors import AssetError, ConfigError, DatasetError
from g3d.manifests.shards import UID_PATTERN
from g3d.pipeline.sources.base import Source, SourceAsset
from g3d.pipeline.sources.folder import FolderSource, uid_of
from g3d.pipeline.sources.folder_files import BLENDER_FORMATS, RASTER_FORMATS
from g3d.pipeline.sources.folder_models import PREFERENCE, Group, Model
from g3d.pipeline.sources.licenses import recognise
from g3d.pipeline.sources.registry import get_source
from hypothesis import given
from hypothesis import strategies as st

OBJ = (
    "mtllib body.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nusemtl a\n"
    "f 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"
)
MTL = "newmtl a\nKd 1 0 0\nmap_Kd -s 2 2 1 textures/red paint.png\n"


def put(path: Path, data: str | bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def glb(document: dict[str, Any]) -> bytes:
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    size = 20 + len(text)
    return struct.pack("<5I", 0x46546C67, 2, size, len(text), 0x4E4F534A) + text


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    put(root / "b" / "car.obj", OBJ)
    put(root / "b" / "body.mtl", MTL)
    put(root / "b" / "textures" / "red paint.png", b"png")
    gltf = {"asset": {"version": "2.0"}, "buffers": [{"uri": "car%20data.bin"}],
            "images": [{"uri": "../shared.png"}, {"uri": "data:image/png,AA"}]}  # fmt: skip
    put(root / "a" / "car.gltf", json.dumps(gltf))
    put(root / "a" / "car data.bin", b"1234")
    put(root / "shared.png", b"png")
    put(root / "a" / "auto.GLB", glb({"asset": {}, "images": [{"uri": "no.png"}]}))
    put(root / "a b" / "scan.ply", b"ply")
    put(root / "a b" / "shell.stl", b"solid")
    put(root / ".hidden" / "car.obj", OBJ)
    put(root / "b" / ".car.obj", OBJ)
    put(root / "__MACOSX" / "car.obj", OBJ)
    put(root / "notes.txt", "hello")
    return root


def listed(root: Path, **options: Any) -> dict[str, SourceAsset]:
    source = get_source("folder", category="car", root=root, **options)
    return {a.source_id: a for a in source.list()}


def test_lists_model_files_only_in_the_order_of_their_paths(tree: Path) -> None:
    assets = FolderSource("car", str(tree)).list()
    assert [a.source_id for a in assets] == [
        "a/auto.GLB", "a/car.gltf", "a b/scan.ply", "a b/shell.stl", "b/car.obj"
    ]  # fmt: skip
    assert isinstance(FolderSource("car", str(tree)), Source)
    assert {a.category for a in assets} == {"car"}
    for asset in assets:
        assert json.loads(json.dumps(asset.spec)) == asset.spec


def test_limit_takes_the_first(tree: Path) -> None:
    assert list(listed(tree, limit=2)) == ["a/auto.GLB", "a/car.gltf"]


def test_uids_are_safe_and_tell_twins_apart(tree: Path) -> None:
    uids = [a.uid for a in listed(tree).values()]
    assert len(set(uids)) == len(uids)
    assert all(UID_PATTERN.fullmatch(u) for u in uids)
    assert uids[0].startswith("a-auto-")
    # The same file at the same relative path of another tree is the same asset.
    assert uid_of("b/car.obj") == listed(tree)["b/car.obj"].uid


@given(st.lists(st.text(min_size=1, max_size=120), min_size=2, max_size=8, unique=True))
def test_any_path_gives_a_key_of_its_own(names: list[str]) -> None:
    uids = [uid_of(f"{name}.obj") for name in names]
    assert all(UID_PATTERN.fullmatch(u) and len(u) <= 80 for u in uids)
    assert len(set(uids)) == len(names)


def test_a_name_that_is_not_utf8_has_a_record_that_can_be_written(tmp_path: Path) -> None:
    import os

    name = os.fsencode(tmp_path) + b"/caf\xe9.ply"
    try:
        with open(name, "wb") as file:  # noqa: PTH123
            file.write(b"ply")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    asset = FolderSource("car", str(tmp_path)).list()[0]
    assert asset.source_id.encode() == "caf\ufffd.ply".encode()
    assert UID_PATTERN.fullmatch(asset.uid)


def test_a_file_that_refers_to_nothing_has_its_plain_digest(tree: Path) -> None:
    asset = listed(tree)["a b/scan.ply"]
    assert asset.sha256 == hashlib.sha256(b"ply").hexdigest()
    assert asset.bytes == 3


@pytest.mark.parametrize(
    ("side", "changed"),
    [
        ("b/textures/red paint.png", {"b/car.obj"}),
        ("b/body.mtl", {"b/car.obj"}),
        ("a/car data.bin", {"a/car.gltf"}),
        ("shared.png", {"a/car.gltf"}),
        ("notes.txt", set()),
        ("a/no.png", {"a/auto.GLB"}),
        ("a/car.gltf", {"a/car.gltf"}),
    ],
)
def test_digest_covers_side_files(tree: Path, side: str, changed: set[str]) -> None:
    before = listed(tree)
    path = tree / side
    put(path, (path.read_bytes() if path.exists() else b"") + b" ")
    after = listed(tree)
    assert {name for name in before if before[name].sha256 != after[name].sha256} == changed
    assert [a.uid for a in before.values()] == [a.uid for a in after.values()]


def test_sizes_and_missing_files_are_recorded(tree: Path) -> None:
    assets = listed(tree)
    obj = assets["b/car.obj"]
    assert obj.bytes == len(OBJ) + len(MTL) + 3
    assert obj.spec["missing"] == []
    assert assets["a/auto.GLB"].spec["missing"] == ["no.png"]
    assert assets["a/car.gltf"].spec["missing"] == []


def test_digest_does_not_depend_on_where_the_tree_is(tree: Path, tmp_path: Path) -> None:
    before = {a.uid: a.sha256 for a in listed(tree).values()}
    moved = tree.rename(tmp_path / "elsewhere")
    assert {a.uid: a.sha256 for a in listed(moved).values()} == before


def test_a_model_cannot_name_files_outside_the_root(tree: Path, tmp_path: Path) -> None:
    put(tmp_path / "secret.bin", b"1")
    document = {"asset": {"version": "2.0"}, "buffers": [{"uri": "../../secret.bin"}]}
    put(tree / "a" / "car.gltf", json.dumps(document))
    before = listed(tree)["a/car.gltf"]
    assert before.spec["missing"] == ["../../secret.bin"]
    put(tmp_path / "secret.bin", b"2")
    assert listed(tree)["a/car.gltf"].sha256 == before.sha256


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"\xff\xfe\x00", b'{"buffers": 3}', b'{"images": [4]}']
)
def test_broken_files_are_listed_and_do_not_stop_the_others(tree: Path, data: bytes) -> None:
    put(tree / "a" / "car.gltf", data)
    put(tree / "a" / "auto.GLB", data)
    assets = listed(tree)
    assert len(assets) == 5
    assert assets["a/car.gltf"].sha256 == hashlib.sha256(data).hexdigest()


def test_missing_root_and_empty_root(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist") as caught:
        listed(tmp_path / "nowhere")
    assert caught.value.hint
    assert caught.value.exit_code == 2
    with pytest.raises(ConfigError, match="is not a folder"):
        listed(put(tmp_path / "file.txt"))
    with pytest.raises(ConfigError, match="needs --root"):
        get_source("folder", category="car")
    put(tmp_path / "empty" / "readme.md")
    with pytest.raises(DatasetError, match="no model files") as empty:
        listed(tmp_path / "empty")
    for suffix in (".glb", ".gltf", ".obj", ".ply", ".stl"):
        assert suffix in (empty.value.hint or "")


def test_a_file_that_went_away_is_an_asset_error(tree: Path) -> None:
    source = FolderSource("car", str(tree))
    asset = source.list()[-1]
    (tree / asset.source_id).unlink()
    with pytest.raises(AssetError) as caught:
        source.load(asset)
    assert (caught.value.reason, caught.value.stage) == ("gone", "fetch")


def test_loads_what_it_lists(tree: Path) -> None:
    from PIL import Image

    Image.new("RGB", (4, 4), (255, 0, 0)).save(tree / "b" / "textures" / "red paint.png")
    source = FolderSource("car", str(tree))
    asset = source.list()[-1]
    mesh = source.load(asset)
    assert mesh.faces.shape == (4, 3)
    assert mesh.vertices.max() == 1.0


# --- licences ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "license_"),
    [
        ("(Creative Commons Zero, CC0)\nhttp://creativecommons.org/publicdomain/zero/", "CC0-1.0"),
        ("licence: CC0 1.0", "CC0-1.0"),
        ("MIT License\n\nCopyright (c) 2020 A. Body", "MIT"),
        ("Permission is hereby granted, free of charge, to any person", "MIT"),
        ("Apache License\n   Version 2.0, January 2004", "Apache-2.0"),
        ("CC-BY-4.0 (http://creativecommons.org/licenses/by/4.0/)", "CC-BY-4.0"),
        ("Creative Commons Attribution 4.0 International", "CC-BY-4.0"),
        ("see http://creativecommons.org/licenses/by-nc-sa/3.0/", "CC-BY-NC-SA-3.0"),
        ("CC BY-NC 4.0", "CC-BY-NC-4.0"),
        ("CC BY-SA 4.0", "CC-BY-SA-4.0"),
        ("all rights reserved", "unknown"),
        ("models are CC0, code under the MIT License", "unknown"),
        ("", "unknown"),
    ],
)  # fmt: skip
def test_licences_are_recognised_or_unknown(text: str, license_: str) -> None:
    assert recognise(text) == license_


def test_licence_of_the_nearest_folder_wins(tree: Path) -> None:
    assert {a.license for a in listed(tree).values()} == {"unknown"}
    put(tree / "LICENSE.txt", "MIT License\nCopyright (c) 2020 Some Body")
    put(tree / "b" / "License.md", "Created/distributed by Anna (www.example.org)\nCC0")
    assets = listed(tree)
    assert (assets["b/car.obj"].license, assets["b/car.obj"].author) == ("CC0-1.0", "Anna")
    assert (assets["a/car.gltf"].license, assets["a/car.gltf"].author) == ("MIT", "Some Body")


def test_credits_and_the_file_itself_come_first(tree: Path) -> None:
    put(tree / "README_with_licence.md", "code: MIT License, models: CC0")
    put(tree / "ATTRIBUTION.txt", "Cars by Kenney (www.kenney.nl)\nlicence: CC0 1.0")
    extras = {
        "author": "Bob (https://example.org/bob)",
        "license": "CC-BY-4.0",
        "source": "https://x.org/1",
    }
    put(tree / "a" / "auto.GLB", glb({"asset": {"version": "2.0", "extras": extras}}))
    assets = listed(tree)
    car, own = assets["b/car.obj"], assets["a/auto.GLB"]
    assert (car.license, car.author) == ("CC0-1.0", "Kenney")
    assert (own.license, own.author, own.url) == ("CC-BY-4.0", "Bob", "https://x.org/1")


def test_a_licence_above_the_root_does_not_count(tree: Path) -> None:
    put(tree.parent / "LICENSE", "MIT License")
    assert {a.license for a in listed(tree).values()} == {"unknown"}


# --- formats of one model ------------------------------------------------------------------------


def test_the_formats_of_one_model_are_one_asset(tmp_path: Path, caplog: Any) -> None:
    for name in ("car.fbx", "car.obj", "car.stl", "other.obj", "lod/car.obj", "only.fbx",
                 "Car.obj", "car.lod0.obj"):  # fmt: skip
        put(tmp_path / name, OBJ)
    source = FolderSource("car", str(tmp_path))
    names = ["Car.obj", "car.lod0.obj", "car.obj", "lod/car.obj", "other.obj"]
    assert [a.source_id for a in source.list()] == names
    # The FBX that has an OBJ beside it is not passed over: its asset is there.
    assert "1 .fbx; --renderer blender" in caplog.text
    assert source.list()[2].uid == uid_of("car.obj")
    both = [a.source_id for a in source.reading({".fbx"}).list()]
    assert both == ["Car.obj", "car.lod0.obj", "car.obj", "lod/car.obj", "only.fbx", "other.obj"]
    put(tmp_path / "car.glb", glb({"asset": {}}))
    assert "car.glb" in listed(tmp_path)
    assert "car.obj" not in listed(tmp_path)


def test_every_format_has_its_place() -> None:
    assert sorted(PREFERENCE) == sorted(RASTER_FORMATS + BLENDER_FORMATS)
    # Rank by rank: whatever stands beside it, the first one is taken.
    group = Group(tuple(Model("", f"car{suffix}") for suffix in PREFERENCE))
    for n, suffix in enumerate(PREFERENCE):
        best = group.best(set(PREFERENCE[n:]))
        assert best is not None
        assert best.suffix == suffix
    assert group.best({".max"}) is None


def test_an_fbx_finds_a_texture_beside_it(tmp_path: Path) -> None:
    put(tmp_path / "car" / "car.fbx", r'RelativeFilename: "..\..\Users\me\skin.png"')
    source = FolderSource("car", str(tmp_path)).reading({".fbx"})
    (before,) = source.list()
    assert before.spec["missing"] == [r"..\..\Users\me\skin.png"]
    put(tmp_path / "car" / "skin.png", b"1")
    (after,) = source.list()
    assert after.spec["missing"] == []
    assert (after.uid, after.bytes) == (before.uid, before.bytes + 1)
    assert after.sha256 != before.sha256


def test_a_title_in_the_file(tmp_path: Path) -> None:
    put(tmp_path / "a.glb", glb({"asset": {"extras": {"title": "My car"}}}))
    assert [a.title for a in listed(tmp_path).values()] == ["My car"]
