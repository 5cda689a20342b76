"""Preparing together and in parts: shares, several sources, licences, duplicates, buckets."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from g3d.errors import AssetError, ConfigError, DatasetError
from g3d.manifests.dataset import Dataset
from g3d.manifests.place import RemotePlace, open_place
from g3d.manifests.repair import check_place
from g3d.manifests.splits import SplitFractions, split_of
from g3d.manifests.validate import validate_dataset
from g3d.pipeline.config import PrepareConfig, build_source
from g3d.pipeline.ledger import Ledger
from g3d.pipeline.plan import Group, Share, make_plan
from g3d.pipeline.prepare import prepare
from g3d.pipeline.sources.base import Source, SourceAsset
from g3d.renderers.meshes import Mesh

BASE: dict[str, Any] = {
    "source": "procedural", "category": "mug", "limit": 12, "views": 2, "shard_size": 2,
    "render": {"size": 32, "supersample": 1}, "workers": 0,
}  # fmt: skip


def config(**changes: Any) -> PrepareConfig:
    return PrepareConfig.model_validate({**BASE, **changes})


def content(out: Path) -> dict[str, bytes]:
    """What two runs of the same work must agree on, byte by byte."""
    files = [*sorted((out / "shards").iterdir()), out / "index.parquet", out / "ATTRIBUTION.md"]
    found = {str(f.relative_to(out)): f.read_bytes() for f in files}
    info = json.loads((out / "dataset.json").read_text())
    del info["command"]
    return found | {"dataset.json": json.dumps(info).encode()}


@dataclass(frozen=True)
class Changed:
    """The procedural mugs, with other facts."""

    inner: Source
    facts: dict[str, dict[str, Any]]
    meshes: dict[str, str]
    name: str = "procedural"
    default_camera: Any = None
    remote: bool = False

    def list(self) -> list[SourceAsset]:
        return [replace(a, **self.facts.get(a.uid, {})) for a in self.inner.list()]

    def file(self, asset: SourceAsset) -> None:
        return None

    def load(self, asset: SourceAsset) -> Mesh:
        wanted = self.meshes.get(asset.uid, asset.uid)
        return self.inner.load(next(a for a in self.inner.list() if a.uid == wanted))


def changed(facts: dict[str, dict[str, Any]], meshes: dict[str, str] | None = None) -> Changed:
    inner = build_source(config())
    return Changed(inner, facts, meshes or {}, default_camera=inner.default_camera)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "mugs"
    prepare(config(), out)
    return out


UIDS = [asset.uid for asset in build_source(config()).list()]


# --- shares ---------------------------------------------------------------------------------------


def test_shares_partition_the_shards() -> None:
    assets = [SourceAsset(f"a-{n}", "", "mug", "", "", "", "0", 0) for n in range(200)]
    whole = make_plan(assets, (), {}, {}, SplitFractions(), 3)
    parts = [make_plan(assets, (), {}, {}, SplitFractions(), 3, Share(i, 4)) for i in range(4)]
    assert all(part.groups == whole.groups for part in parts)
    files = [group.file for part in parts for group in part.open]
    assert sorted(files) == [group.file for group in whole.groups]
    assert max(len(part.open) for part in parts) - min(len(part.open) for part in parts) <= 3
    assert sorted(a.uid for part in parts for a in part.todo) == sorted(a.uid for a in assets)


@pytest.mark.parametrize("text", ["3/3", "-1/3", "1", "a/b", "0/0", ""])
def test_a_wrong_share_is_told(text: str) -> None:
    with pytest.raises(ConfigError, match="i from 0 to n - 1"):
        Share.parse(text)


def test_runs_beside_each_other_give_the_same_bytes(tmp_path: Path, made: Path) -> None:
    out = tmp_path / "mugs"
    first = prepare(config(), out, share=Share.parse("1/3"))
    assert first.waiting
    assert not (out / "dataset.json").exists()
    again = prepare(config(), out, share=Share(1, 3))
    assert again.made == 0
    assert prepare(config(), out, share=Share(0, 3)).waiting
    last = prepare(config(), out, share=Share(2, 3))
    assert last.waiting == 0
    assert last.accepted == 12
    assert content(out) == content(made)
    assert not (out / ".staging").exists()
    assert validate_dataset(out) == []
    assert prepare(config(), out, share=Share(0, 3)).nothing_to_do


def test_shares_run_at_the_same_time(tmp_path: Path, made: Path) -> None:
    out = tmp_path / "mugs"
    errors: list[BaseException] = []

    def run(index: int) -> None:
        try:
            prepare(config(), out, share=Share(index, 3))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert content(out) == content(made)
    assert not (out / ".staging").exists()


def test_a_share_does_not_meet_the_whole_nor_itself(tmp_path: Path) -> None:
    ledger = Ledger(open_place(tmp_path / "d"))
    with ledger.lock("0"):
        with ledger.lock("1"):
            pass
        for part in ("0", ""):
            with pytest.raises(ConfigError, match="another"), ledger.lock(part):
                pass
    with pytest.raises(ConfigError, match="duplicates=drop"):
        prepare(config(duplicates="drop"), tmp_path / "e", share=Share(0, 2))
    with pytest.raises(ConfigError, match="--overwrite"):
        prepare(config(), tmp_path / "e", share=Share(0, 2), overwrite=True)


# --- another source -------------------------------------------------------------------------------


def models(folder: Path, uids: list[str]) -> Path:
    """Files of some of the mugs."""
    import trimesh

    source = build_source(config())
    folder.mkdir()
    for asset in source.list():
        if asset.uid in uids:
            mesh = source.load(asset)
            trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).export(
                folder / f"{asset.uid}.ply"
            )
    return folder


def test_adding_a_source_moves_nothing(tmp_path: Path, made: Path) -> None:
    out = tmp_path / "mugs"
    shutil.copytree(made, out)
    before = {r.uid: (r.split, r.shard) for r in Dataset.open(out).records()}
    shards = {p.name: p.read_bytes() for p in (out / "shards").iterdir()}
    more = config(source="folder", root=models(tmp_path / "more", UIDS[:5]), limit=None,
                  camera=Dataset.open(out).info.camera, duplicates="report")  # fmt: skip
    with pytest.raises(ConfigError, match="another config") as refused:
        prepare(more, out)
    assert "--add" in str(refused.value.hint)
    report = prepare(more, out, add=True)
    assert (report.total, report.made) == (17, 5)
    data = Dataset.open(out)
    after = {r.uid: (r.split, r.shard) for r in data.records()}
    assert {uid: after[uid] for uid in before} == before
    assert {name: (out / "shards" / name).read_bytes() for name in shards} == shards
    assert data.info.source == "procedural+folder"
    assert [one["source"] for one in data.info.config["sources"]] == ["procedural", "folder"]
    assert {r.origin for r in data.records() if r.source == "folder"} == {1}
    assert validate_dataset(out) == []
    # Either command again finds nothing to do, and more assets of the first source are still added.
    assert prepare(config(), out).nothing_to_do
    assert prepare(more, out).nothing_to_do
    grown = prepare(config(limit=15), out)
    assert grown.made == 3
    assert {r.uid: (r.split, r.shard) for r in Dataset.open(out).records()}.items() >= after.items()


def test_adding_refuses_what_would_change_the_images_or_the_names(
    tmp_path: Path, made: Path
) -> None:
    out = tmp_path / "mugs"
    shutil.copytree(made, out)
    other = config(source="folder", root=models(tmp_path / "more", UIDS[:2]), limit=None)
    with pytest.raises(ConfigError, match="camera"):  # the folder source's own cameras
        prepare(other, out, add=True)
    table = tmp_path / "m"
    table.mkdir()

    class Same(Changed):
        name = "folder"

    source = Same(build_source(config()), {}, {}, default_camera=None)
    same = config(source="folder", root=table, camera=Dataset.open(out).info.camera)
    with pytest.raises(ConfigError, match="12 uids are already there from procedural"):
        prepare(same, out, add=True, source=source)


def test_a_set_of_an_older_version_is_known_again(tmp_path: Path, made: Path) -> None:
    out = tmp_path / "mugs"
    shutil.copytree(made, out)
    info = json.loads((out / "dataset.json").read_text())
    origin = info["config"].pop("sources")[0]
    info["config"] |= {"source": origin["source"], "root": origin["root"]}
    del info["config"]["duplicates"], info["config"]["gates"]["max_objects"]
    (out / "dataset.json").write_text(json.dumps(info))
    assert prepare(config(), out).nothing_to_do
    with pytest.raises(ConfigError, match="max_objects"):
        prepare(config(gates={"max_objects": 1}), out)


def test_nothing_is_added_to_an_unfinished_set(tmp_path: Path, made: Path) -> None:
    out = tmp_path / "mugs"
    prepare(config(), out, share=Share(0, 2))
    more = config(source="folder", root=models(tmp_path / "more", UIDS[:2]), limit=None,
                  camera=Dataset.open(made).info.camera)  # fmt: skip
    with pytest.raises(ConfigError, match="not finished"):
        prepare(more, out, add=True)


# --- licences, splits, duplicates -----------------------------------------------------------------


def test_licences_are_filtered_counted_and_credited(tmp_path: Path) -> None:
    facts = {
        UIDS[0]: {"license": "CC-BY-4.0", "author": "Ada", "title": "A mug"},
        UIDS[1]: {"license": "unknown"},
        UIDS[2]: {"license": "CC-BY-NC-4.0"},
    }
    out = tmp_path / "mugs"
    report = prepare(config(license="cc0,by"), out, source=changed(facts))
    assert report.total == 10
    assert report.excluded == {"license unknown": 1, "license CC-BY-NC-4.0": 1}
    info = Dataset.open(out).info
    assert info.licenses == {"CC-BY-4.0": 1, "CC0-1.0": 9}
    assert info.excluded == {"license CC-BY-NC-4.0": 1, "license unknown": 1}
    text = (out / "ATTRIBUTION.md").read_text()
    assert "Ada" in text
    assert "A mug" in text
    with pytest.raises(ConfigError, match="license"):
        prepare(config(license="cc0"), out, source=changed(facts))
    with pytest.raises(DatasetError, match=r"no asset is under mit: .*CC0-1\.0"):
        prepare(config(license="mit"), tmp_path / "none", source=changed(facts))


def test_a_source_may_say_the_split(tmp_path: Path) -> None:
    fractions = SplitFractions()
    mine = {uid: "test" if split_of(uid, fractions) == "train" else "train" for uid in UIDS[:3]}
    facts = {uid: {"split": split} for uid, split in mine.items()}
    out = tmp_path / "mugs"
    prepare(config(), out, source=changed(facts))
    records = {r.uid: r for r in Dataset.open(out).records()}
    assert {uid: records[uid].split for uid in mine} == mine
    assert {records[uid].split_by for uid in mine} == {"source"}
    assert records[UIDS[5]].split_by == "uid"
    assert validate_dataset(out) == []
    # What the source says later does not move it.
    assert prepare(config(), out).nothing_to_do
    (out / records[UIDS[0]].shard).unlink()
    prepare(config(), out)
    assert {r.uid: r.split for r in Dataset.open(out).records()}[UIDS[0]] == mine[UIDS[0]]


def test_equal_files_are_prepared_once(tmp_path: Path) -> None:
    assets = build_source(config()).list()
    facts = {UIDS[7]: {"sha256": assets[3].sha256}, UIDS[1]: {"sha256": assets[3].sha256}}
    source = changed(facts, {UIDS[7]: UIDS[3], UIDS[1]: UIDS[3]})
    out = tmp_path / "mugs"
    report = prepare(config(), out, source=source)
    assert report.reasons == {"gate/duplicate": 2}
    records = {r.uid: r for r in Dataset.open(out).records()}
    kept = min(UIDS[1], UIDS[3], UIDS[7])
    assert records[kept].status == "accepted"
    gone = {UIDS[1], UIDS[3], UIDS[7]} - {kept}
    assert {records[uid].duplicate_of for uid in gone} == {kept}
    assert validate_dataset(out) == []
    assert prepare(config(), out, source=source).nothing_to_do
    keeping = prepare(config(duplicates="keep"), tmp_path / "kept", source=source)
    assert keeping.accepted == 12


def test_many_equal_files_do_not_stop_a_run(tmp_path: Path) -> None:
    assets = build_source(config()).list()
    facts = {uid: {"sha256": assets[0].sha256} for uid in UIDS[1:9]}
    source = changed(facts, dict.fromkeys(UIDS[1:9], UIDS[0]))
    report = prepare(config(breaker_after=4), tmp_path / "mugs", source=source)
    assert (report.accepted, report.reasons) == (4, {"gate/duplicate": 8})


def test_equal_shapes_are_named_and_dropped_on_request(tmp_path: Path) -> None:
    twins = {UIDS[4]: UIDS[2], UIDS[9]: UIDS[2]}  # other files, the same shape
    source = changed({}, twins)
    out = tmp_path / "named"
    report = prepare(config(), out, source=source)
    assert (report.accepted, report.duplicates) == (12, 2)
    kept = min(UIDS[4], UIDS[9], UIDS[2])
    named = {r.uid: r.duplicate_of for r in Dataset.open(out).records() if r.duplicate_of}
    assert named == dict.fromkeys(sorted({UIDS[4], UIDS[9], UIDS[2]} - {kept}), kept)
    dropped = tmp_path / "dropped"
    report = prepare(config(duplicates="drop"), dropped, source=source)
    assert (report.accepted, report.reasons) == (10, {"gate/duplicate": 2})
    assert validate_dataset(dropped) == []
    # What comes later gives way to what is there.
    grown = tmp_path / "grown"
    some = {u: {"license": "MIT"} for u in (kept, UIDS[0])}
    half = changed(some, twins)
    prepare(config(duplicates="drop", limit=6), grown, source=half)
    prepare(config(duplicates="drop"), grown, source=half)
    assert {r.uid: r.duplicate_of for r in Dataset.open(grown).records() if r.duplicate_of} == named


@dataclass(frozen=True)
class Unsteady(Changed):
    """Of which some assets cannot be fetched today."""

    away: tuple[str, ...] = ()
    reason: str = "download"

    def load(self, asset: SourceAsset) -> Mesh:
        if asset.uid in self.away:
            raise AssetError(self.reason, "the server is away", stage="fetch")
        return super().load(asset)


@pytest.mark.parametrize("reason", ["download", "gated"])
def test_what_could_not_be_fetched_is_tried_again(tmp_path: Path, made: Path, reason: str) -> None:
    out = tmp_path / "mugs"
    good = changed({})
    bad = Unsteady(good.inner, {}, {}, default_camera=good.default_camera,
                   away=(UIDS[3], UIDS[8]), reason=reason)  # fmt: skip
    first = prepare(config(), out, source=bad)
    assert (first.failed, first.reasons) == (2, {f"fetch/{reason}": 2})
    assert validate_dataset(out) == []
    again = prepare(config(), out, source=bad)
    assert (again.made, again.failed) == (2, 2)
    last = prepare(config(), out, source=good)
    assert (last.made, last.failed, last.accepted) == (2, 0, 12)
    assert content(out) == content(made)
    assert prepare(config(), out, source=good).nothing_to_do


def test_what_is_gone_is_not_tried_again(tmp_path: Path) -> None:
    good = changed({})
    bad = Unsteady(good.inner, {}, {}, default_camera=good.default_camera,
                   away=(UIDS[3],), reason="gone")  # fmt: skip
    assert prepare(config(), tmp_path / "mugs", source=bad).failed == 1
    assert prepare(config(), tmp_path / "mugs", source=bad).nothing_to_do


# --- dry run --------------------------------------------------------------------------------------


def test_a_dry_run_measures(tmp_path: Path) -> None:
    report = prepare(config(), tmp_path / "mugs", dry_run=True)
    found = report.estimate
    assert found is not None
    assert not (tmp_path / "mugs").exists()
    assert (found.tried, found.accepted, found.workers, found.download) == (4, 4, 1, 0)
    assert found.seconds > 0
    real = prepare(config(), tmp_path / "mugs")
    assert 0.7 * real.bytes < found.bytes < 1.3 * real.bytes
    assert prepare(config(), tmp_path / "mugs", dry_run=True).estimate is None


# --- buckets --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of an S3 on this machine."""
    from moto.server import ThreadedMotoServer

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop()


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    import boto3
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL": s3, "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    client = boto3.client("s3", endpoint_url=s3)
    client.create_bucket(Bucket="shapes")
    old = client.list_objects_v2(Bucket="shapes").get("Contents", ())
    for one in old:
        client.delete_object(Bucket="shapes", Key=one["Key"])
    return "s3://shapes/mugs"


def fetched(url: str, folder: Path) -> Path:
    """A copy of a dataset in a bucket."""
    open_place(url).copy_to(folder)
    return folder


def test_a_bucket_holds_the_same_bytes(bucket: str, tmp_path: Path, made: Path) -> None:
    report = prepare(config(), bucket)
    assert report.path == bucket
    copy = fetched(bucket, tmp_path / "copy")
    assert content(copy) == content(made)
    assert not (copy / ".staging").exists()
    assert validate_dataset(copy) == []
    assert Dataset.open(bucket).read_view(Dataset.open(bucket).views()[0]).shape == (32, 32, 4)
    assert prepare(config(), bucket).nothing_to_do
    assert prepare(config(limit=14), bucket).made == 2
    with pytest.raises(ConfigError, match="another config"):
        prepare(config(views=3), bucket)
    assert prepare(config(views=3, limit=4), bucket, overwrite=True).total == 4
    names = {p.name for p in (fetched(bucket, tmp_path / "c") / "shards").iterdir()}
    assert names == {s.file.split("/")[1] for s in Dataset.open(bucket).info.shards}


def test_a_bucket_survives_the_loss_of_the_machine(
    bucket: str, tmp_path: Path, made: Path, own_home: Path
) -> None:
    """What is uploaded is kept; what waited on the lost disk is made again."""
    for index in (0, 1):
        prepare(config(), bucket, share=Share(index, 3))
        shutil.rmtree(own_home / "staging", ignore_errors=True)
    report = prepare(config(), bucket)
    assert 0 < report.made < 12
    assert content(fetched(bucket, tmp_path / "copy")) == content(made)


def test_a_bucket_is_validated(bucket: str) -> None:
    prepare(config(limit=6), bucket)
    assert check_place(bucket).findings == ()
    shard = Dataset.open(bucket).info.shards[0].file
    data = bytearray(open_place(bucket).read(shard) or b"")
    data[len(data) // 2] ^= 1
    open_place(bucket).write(shard, bytes(data))
    found = check_place(bucket)
    assert found.dataset == bucket
    assert {one.file for one in found.findings} == {shard}
    with pytest.raises(ConfigError, match="not on this machine"):
        check_place(bucket, fix=True)


def test_a_damaged_shard_of_a_bucket_is_made_anew(bucket: str, tmp_path: Path, made: Path) -> None:
    prepare(config(), bucket)
    place = open_place(bucket)
    shard = Dataset.open(bucket).info.shards[0]
    place.write(shard.file, (place.read(shard.file) or b"")[:-1000])
    assert prepare(config(), bucket).made <= shard.assets
    assert content(fetched(bucket, tmp_path / "copy")) == content(made)


def test_a_bucket_that_is_not_there_is_told_in_two_lines(bucket: str) -> None:
    from g3d.errors import DiskError

    with pytest.raises(DiskError, match="s3://nowhere"):
        prepare(config(limit=2), "s3://nowhere/mugs")


def test_a_foreign_folder_of_a_bucket_is_left_alone(bucket: str) -> None:
    open_place(bucket).write("thesis.tex", b"x")
    with pytest.raises(ConfigError, match="not a dataset"):
        prepare(config(), bucket, overwrite=True)
    assert open_place(bucket).read("thesis.tex") == b"x"


def test_an_unknown_kind_of_address_is_told() -> None:
    from g3d.errors import G3DError

    with pytest.raises(G3DError, match="cannot be written"):
        open_place("nosuch://bucket/mugs")


def test_the_manifest_of_a_bucket_comes_last(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    original = RemotePlace.write

    def write(self: RemotePlace, name: str, data: bytes) -> None:
        written.append(name)
        original(self, name, data)

    monkeypatch.setattr(RemotePlace, "write", write)
    prepare(config(limit=4), bucket)
    # The page is made from the finished dataset.
    assert written[-2:] == ["dataset.json", "report.html"]
    assert json.loads((open_place(bucket).read("dataset.json") or b"").decode())["name"] == "mugs"


def test_groups_name_their_number() -> None:
    group = Group("shards/val-00007.tar", "val", ("a",))
    assert [i for i in range(3) if Share(i, 3).has(group.file)] == [(7 + 1) % 3]
