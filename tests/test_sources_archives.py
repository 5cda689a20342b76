"""Folders of models in archives: the same assets as unpacked, and nothing hostile gets out."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from g3d.errors import AssetError, ConfigError, DatasetError
from g3d.pipeline.sources.base import SourceAsset
from g3d.pipeline.sources.folder import FolderSource
from g3d.pipeline.sources.registry import get_source
from g3d.pipeline.transfer.archives import Limits
from g3d.pipeline.transfer.tars import TarArchive, gunzipped

OBJ = (
    "mtllib body.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nusemtl a\n"
    "f 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"
)
PACKERS = ("zip", "tar", "tar.gz", "tgz")


def pack(archive: Path, files: dict[str, bytes]) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
            for name, data in files.items():
                out.writestr(name, data)
        return archive
    mode = "w:" if archive.suffix == ".tar" else "w:gz"
    with tarfile.open(archive, mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return archive


def put(path: Path, data: str | bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    put(root / "b" / "car.obj", OBJ)
    put(root / "b" / "body.mtl", "newmtl a\nKd 1 0 0\nmap_Kd -s 2 2 1 textures/red paint.png\n")
    put(root / "b" / "textures" / "red paint.png", b"png")
    gltf = {"asset": {"version": "2.0"}, "buffers": [{"uri": "car%20data.bin"}],
            "images": [{"uri": "../shared.png"}, {"uri": "no.png"}]}  # fmt: skip
    put(root / "a" / "car.gltf", json.dumps(gltf))
    put(root / "a" / "car data.bin", b"1234")
    put(root / "shared.png", b"png")
    put(root / "a b" / "scan.ply", b"ply")
    put(root / ".hidden" / "car.obj", OBJ)
    put(root / "__MACOSX" / "car.obj", OBJ)
    put(root / "notes.txt", "hello")
    return root


def listed(root: Path) -> dict[str, SourceAsset]:
    return {a.source_id: a for a in get_source("folder", category="car", root=root).list()}


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes()
            for p in sorted(folder.rglob("*")) if p.is_file()}  # fmt: skip


def facts(assets: dict[str, SourceAsset]) -> list[tuple[Any, ...]]:
    return [(a.uid, a.sha256, a.bytes, a.license, a.author, a.url, a.spec["missing"])
            for a in assets.values()]  # fmt: skip


@pytest.mark.parametrize("kind", PACKERS)
def test_a_packed_tree_gives_what_the_tree_gives(tree: Path, tmp_path: Path, kind: str) -> None:
    put(tree / "LICENSE.txt", "MIT License\nCopyright (c) 2020 Some Body")
    put(tree / "b" / "CREDITS.txt", "Cars by Anna\nCC0")
    archive = pack(tmp_path / f"models.{kind}", files_of(tree))
    unpacked, packed = listed(tree), listed(archive)
    assert list(packed) == list(unpacked)
    assert facts(packed) == facts(unpacked)
    assert packed["b/car.obj"].license == "CC0-1.0"
    for asset in packed.values():
        assert json.loads(json.dumps(asset.spec)) == asset.spec
    source = FolderSource("car", str(archive))
    for name, asset in packed.items():
        path = source.file(asset)
        assert path.name == Path(name).name
        assert path.read_bytes() == (tree / name).read_bytes()
    # What a model refers to comes along, and nothing else does.
    there = files_of(source.file(packed["b/car.obj"]).parent.parent)
    assert sorted(there) == ["b/body.mtl", "b/car.obj", "b/textures/red paint.png"]
    assert not source.remote


@pytest.mark.parametrize("kind", PACKERS)
def test_archives_below_the_root_are_folders_of_their_names(
    tree: Path, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "shop").mkdir()
    pack(tmp_path / "shop" / "in" / f"cars.v2.{kind}", files_of(tree))
    put(tmp_path / "shop" / "loose.obj", OBJ.replace("mtllib body.mtl\n", ""))
    put(tmp_path / "shop" / "in" / "LICENSE", "MIT License")
    packed = listed(tmp_path / "shop")
    inside = {name: a for name, a in packed.items() if name != "loose.obj"}
    assert len(packed) == len(inside) + 1
    assert all(name.startswith(f"in/cars.v2.{kind}/") for name in inside)
    assert {a.license for a in inside.values()} == {"MIT"}
    tree.rename(tmp_path / "shop" / "in" / "cars.v2")
    unpacked = listed(tmp_path / "shop")
    # Beside its own tree the archive is passed over, and the assets stay what they were.
    assert len(unpacked) == len(packed)
    assert facts(unpacked) == facts(packed)
    assert all(f".{kind}/" not in name for name in unpacked)


def test_an_archive_beside_a_folder_of_textures_is_read(tmp_path: Path, caplog: Any) -> None:
    pack(tmp_path / "car.zip", {"car.ply": b"ply"})
    pack(tmp_path / "car.tar", {"car.ply": b"ply"})
    put(tmp_path / "car" / "skin.png")
    assert len(listed(tmp_path)) == 1  # the two archives have one name
    assert "passed over car.zip" in caplog.text


def test_what_cannot_be_read_is_told_and_does_not_stop_the_rest(
    tmp_path: Path, caplog: Any
) -> None:
    pack(tmp_path / "good.zip", {"car.ply": b"ply", "more.zip": b"x", ".h.ply": b"", "h/.p": b""})
    put(tmp_path / "bad.zip", b"PK\x03\x04 not really")
    put(tmp_path / "bad.tar.gz", b"\x1f\x8b not really")
    put(tmp_path / "bad.tar", b"no tar" * 200)
    put(tmp_path / "closed.rar")
    assert list(listed(tmp_path)) == ["good.zip/car.ply"]
    for name in ("bad.zip", "bad.tar.gz", "bad.tar", "1 .rar", "1 .zip"):
        assert name in caplog.text
    with pytest.raises(DatasetError, match="cannot be listed"):
        listed(tmp_path / "bad.zip")
    put(tmp_path / "only" / "closed.rar")
    with pytest.raises(DatasetError, match=r"but 1 \.rar"):
        listed(tmp_path / "only")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_members_that_lead_out_are_not_written(tmp_path: Path, kind: str, caplog: Any) -> None:
    files = {"../evil.ply": b"1", "good.ply": b"2", "a.obj": b"mtllib ../evil.mtl\n",
             "../evil.mtl": b"newmtl a\n", "./here.ply": b"3", "/abs.ply": b"4",
             "C:/car.ply": b"5"}  # fmt: skip
    archive = pack(tmp_path / "sub" / f"models.{kind}", files)
    source = FolderSource("car", str(archive), cache=str(tmp_path / "cache"))
    assets = {a.source_id: a for a in source.list()}
    assert source.file(assets["good.ply"]).read_bytes() == b"2"
    assert sorted(assets) == ["C:/car.ply", "a.obj", "good.ply", "here.ply"]
    assert source.file(assets["here.ply"]).read_bytes() == b"3"
    assert assets["a.obj"].spec["missing"] == ["../evil.mtl"]
    assert source.file(assets["a.obj"]).read_bytes() == files["a.obj"]
    assert "3 names that lead out" in caplog.text
    with pytest.raises(AssetError) as caught:
        source.file(assets["C:/car.ply"])
    assert (caught.value.reason, caught.value.stage) == ("import", "fetch")
    assert not list(tmp_path.rglob("evil.*"))


def test_links_in_a_tar_are_not_followed(tmp_path: Path) -> None:
    secret = put(tmp_path / "secret.ply", b"secret")
    with tarfile.open(tmp_path / "m.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("real.ply"), io.BytesIO(b""))
        for name, kind in (("soft.ply", tarfile.SYMTYPE), ("hard.ply", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, str(secret)
            tar.addfile(info)
    archive = TarArchive(tmp_path / "m.tar")
    assert list(archive.members) == ["real.ply"]
    for name, reason in (("soft.ply", "import"), ("hard.ply", "import"), ("none", "gone")):
        for call in (lambda n: archive.read(n), lambda n: archive.extract([n], tmp_path / "out")):
            with pytest.raises(AssetError) as caught:
                call(name)
            assert caught.value.reason == reason
    assert not (tmp_path / "out").exists()


def test_limits_of_a_tar(tmp_path: Path) -> None:
    archive = TarArchive(pack(tmp_path / "m.tar", {"a": b"12345", "b": b"6", "c/d": b"7"}))
    assert archive.read("a", limit=5) == b"12345"
    with pytest.raises(AssetError, match="allowed are"):
        archive.read("a", limit=4)
    with pytest.raises(AssetError, match="allowed are"):
        archive.extract(["a", "b"], tmp_path / "out", Limits(members=1))
    with pytest.raises(AssetError, match="allowed are"):
        archive.extract(["a", "b"], tmp_path / "out", Limits(bytes=5))
    archive.extract({"c/d": "x/y", "b": "b"}, tmp_path / "out")
    assert files_of(tmp_path / "out") == {"x/y": b"7", "b": b"6"}
    with pytest.raises(AssetError, match="cannot be a file"):
        archive.extract({"a": "same", "b": "same"}, tmp_path / "twice")
    assert not (tmp_path / "twice").exists()


def test_a_bomb_in_a_compressed_tar(tmp_path: Path) -> None:
    packed = put(tmp_path / "bomb.tar.gz", gzip.compress(b"\0" * 4_000_000))
    with pytest.raises(AssetError, match="more than 100 times"):
        gunzipped(packed, tmp_path / "cache", Limits(free_bytes=1_000_000))
    assert files_of(tmp_path / "cache") == {}
    assert gunzipped(packed, tmp_path / "cache").stat().st_size == 4_000_000


def test_the_cache_may_be_emptied_at_any_time(tmp_path: Path) -> None:
    archive = pack(tmp_path / "m.tgz", {"a.ply": b"1", "b.ply": b"2"})
    source = FolderSource("car", str(archive))
    first, second = source.list()
    assert source.file(first).read_bytes() == b"1"
    shutil.rmtree(source.cache)
    assert source.file(second).read_bytes() == b"2"
    assert source.file(first).read_bytes() == b"1"


def test_a_cut_tar(tmp_path: Path) -> None:
    whole = pack(tmp_path / "m.tar", {"a.ply": b"1" * 5000, "b.ply": b"2" * 5000})
    archive = TarArchive(whole)
    data = whole.read_bytes()
    whole.write_bytes(data[:7000])
    with pytest.raises(AssetError) as caught:
        archive.read("b.ply")
    assert caught.value.reason == "checksum"
    with pytest.raises(AssetError) as caught:
        archive.extract(["b.ply"], tmp_path / "out")
    assert caught.value.reason == "checksum"
    with pytest.raises(AssetError):
        TarArchive(whole)
    packed = put(tmp_path / "m.tgz", gzip.compress(data)[:-20])
    with pytest.raises(AssetError) as caught:
        gunzipped(packed, tmp_path / "cache")
    assert caught.value.reason == "checksum"


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz"])
def test_an_archive_that_changed_after_it_was_listed(tmp_path: Path, kind: str) -> None:
    archive = pack(tmp_path / f"m.{kind}", {"a.obj": OBJ.encode(), "body.mtl": b"newmtl a\n"})
    source = FolderSource("car", str(archive))
    (asset,) = source.list()
    pack(archive, {"a.obj": OBJ.encode(), "body.mtl": b"newmtl b\n", "pad": b"1" * 999})
    with pytest.raises(AssetError) as caught:
        source.file(asset)
    assert caught.value.reason == "checksum"
    archive.unlink()
    with pytest.raises(AssetError) as caught:
        source.file(asset)
    assert (caught.value.reason, caught.value.stage) == ("gone", "fetch")
    assert not list((Path(source.cache) / "folder").rglob("*.obj"))


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_behind_a_url(tree: Path, tmp_path: Path, kind: str) -> None:
    import fsspec

    archive = pack(tmp_path / f"models.{kind}", files_of(tree))
    url = f"memory://shop/{kind}/models.{kind}"
    with fsspec.open(url, "wb") as out:
        out.write(archive.read_bytes())
    source = FolderSource("car", url)
    assert source.remote
    assert facts({a.source_id: a for a in source.list()}) == facts(listed(tree))
    assert source.file(source.list()[-1]).read_text() == OBJ
    for wrong in ("memory://shop/models.rar", "memory://shop/folder"):
        with pytest.raises(ConfigError, match="is not a folder"):
            FolderSource("car", wrong).list()
    with pytest.raises(DatasetError, match="cannot be listed"):
        FolderSource("car", "memory://shop/none.zip").list()


def test_archives_of_a_thousand_do_not_stay_open(tmp_path: Path) -> None:
    import resource

    for n in range(150):
        pack(tmp_path / "shop" / f"{n}.zip", {"car.ply": b"ply %d" % n})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    busy = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc").is_dir() else 64
    resource.setrlimit(resource.RLIMIT_NOFILE, (busy + 90, hard))
    try:
        assert len(listed(tmp_path / "shop")) == 150
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_same_shard_from_a_tree_and_its_archive(tmp_path: Path) -> None:
    from g3d.pipeline.config import PrepareConfig
    from g3d.pipeline.prepare import prepare

    for name in ("one", "two"):
        put(tmp_path / "models" / name / "car.obj", OBJ)
        put(tmp_path / "models" / name / "body.mtl", "newmtl a\nKd 1 0 0\n")
    archive = pack(tmp_path / "packed.tgz", files_of(tmp_path / "models"))
    shards = []
    for root in (tmp_path / "models", archive):
        config = PrepareConfig.model_validate({
            "source": "folder", "category": "car", "root": root, "views": 2, "workers": 0,
            "render": {"size": 32}, "splits": {"train": 1, "val": 0, "test": 0},
        })  # fmt: skip
        out = tmp_path / f"out-{root.name}"
        prepare(config, out)
        shards.append(files_of(out / "shards"))
    assert shards[0] == shards[1]
    assert shards[0]
