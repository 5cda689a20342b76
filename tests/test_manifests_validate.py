"""Damage of every kind is found, names its file and its asset, and is mended."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from g3d.errors import ConfigError
from g3d.manifests.dataset import Dataset
from g3d.manifests.repair import check_dataset
from g3d.manifests.validate import validate_dataset
from g3d.pipeline.config import PrepareConfig
from g3d.pipeline.prepare import prepare

CONFIG = PrepareConfig.model_validate(
    {
        "source": "procedural",
        "category": "chair",
        "limit": 10,
        "views": 3,
        "render": {"size": 32, "supersample": 2},
        "shard_size": 3,
        "workers": 0,
    }
)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("made") / "chairs"
    prepare(CONFIG, out)
    return out


@pytest.fixture
def copy(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "chairs"))


def files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "quarantine" not in path.parts
    }


def edit_index(folder: Path, row: int, column: str, value: object) -> None:
    table = pq.read_table(folder / "index.parquet")
    values = table[column].to_pylist()
    values[row] = value
    place = table.schema.get_field_index(column)
    field = table.schema.field(place)
    pq.write_table(
        table.set_column(place, field, pa.array(values, field.type)), folder / "index.parquet"
    )


def test_a_good_dataset_needs_no_fix(made):
    before = files(made)
    report = check_dataset(made, fix=True)
    assert (report.findings, report.fixes, report.left) == ((), (), ())
    assert files(made) == before


def flip(folder: Path) -> tuple[str, str, int]:
    view = Dataset.open(folder).views()[4]
    with (folder / view.shard).open("r+b") as file:
        file.seek(view.offset + view.length // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    return view.shard, view.uid, view.view


def test_a_flipped_byte_names_shard_asset_and_view(copy):
    shard, uid, view = flip(copy)
    findings = validate_dataset(copy)
    whole = next(one for one in findings if one.place == shard)
    assert (whole.kind, whole.uids) == ("hash", (uid,))
    member = [one for one in findings if one.place == f"{uid}.{view:03d}.rgba.png"]
    assert {one.kind for one in member} >= {"hash"}
    assert all(one.file == shard and one.uids == (uid,) for one in member)
    assert str(member[0]).startswith(f"{shard}: {uid}.{view:03d}.rgba.png: ")
    assert {one.uids for one in findings} == {(uid,)}  # and nobody else


def test_a_flipped_tar_header_names_the_asset(copy):
    data = Dataset.open(copy)
    shard = max(data.info.shards, key=lambda one: one.assets)
    second = [r for r in data.assets() if r.shard == shard.file][1]
    with (copy / shard.file).open("r+b") as file:
        file.seek(second.offset + 3)
        file.write(b"\xff")
    assert any(
        one.kind == "hash" and one.file == shard.file and one.uids == (second.uid,)
        for one in validate_dataset(copy)
    )


def test_a_truncated_tar_names_what_was_cut_off(copy):
    data = Dataset.open(copy)
    shard = max(data.info.shards, key=lambda one: one.assets)
    last = [r for r in data.assets() if r.shard == shard.file][-1]
    os.truncate(copy / shard.file, last.offset + 600)
    findings = validate_dataset(copy)
    size = next(one for one in findings if one.kind == "size")
    assert (size.file, size.uids) == (shard.file, (last.uid,))
    assert last.uid in str(size)


def test_a_missing_shard_names_its_assets(copy):
    shard = Dataset.open(copy).info.shards[0]
    uids = {r.uid for r in Dataset.open(copy).assets() if r.shard == shard.file}
    (copy / shard.file).unlink()
    (one,) = validate_dataset(copy)
    assert (one.kind, one.file, set(one.uids)) == ("missing", shard.file, uids)


@pytest.mark.parametrize(
    ("column", "value", "kind"),
    [
        ("offset", 512, "index"),
        ("sha256", "0" * 64, "hash"),
        ("azimuth", 1.0, "camera"),
        ("radius", 3.0, "camera"),
        ("coverage", 0.5, "image"),
        ("fov_y_deg", 20.0, "camera"),
        ("uid", "nobody", "index"),
        ("c2w", np.eye(4).reshape(-1).tolist(), "camera"),
    ],
)
def test_an_edited_index_names_the_asset_and_is_restored(copy, made, column, value, kind):
    uid = Dataset.open(copy).views()[4].uid
    edit_index(copy, 4, column, value)
    findings = validate_dataset(copy)
    assert any(one.place == "index.parquet" and one.kind == "hash" for one in findings)
    row = [one for one in findings if one.kind == kind and one.file.startswith("shards/")]
    assert row
    assert all(one.uids in ((uid,), ("nobody",)) for one in row)
    report = check_dataset(copy, fix=True)
    assert [(fix.file, fix.action) for fix in report.fixes] == [("index.parquet", "rewritten")]
    assert (report.left, report.remake) == ((), ())
    assert files(copy) == files(made)
    assert validate_dataset(copy) == []


@pytest.mark.parametrize("how", ["missing", "garbage"])
def test_an_index_that_is_gone_is_restored(copy, made, how):
    (copy / "index.parquet").unlink()
    if how == "garbage":
        (copy / "index.parquet").write_bytes(b"PAR1 nonsense")
    assert any(one.file == "index.parquet" for one in validate_dataset(copy))
    check_dataset(copy, fix=True)
    assert files(copy) == files(made)


def swap_cameras(folder: Path, keys: tuple[str, ...]) -> str:
    """Turn one asset's cameras, in its JSON, with every hash, the index and all offsets right."""
    data = Dataset.open(folder)
    record = data.assets()[0]
    shard = folder / record.shard
    with tarfile.open(shard) as archive:
        member = archive.getmember(f"{record.uid}.json")
        meta = json.loads(archive.extractfile(member).read())
    views = meta["views"]
    old = [dict(view) for view in views]
    for n, view in enumerate(views):
        view.update({key: old[n - 1][key] for key in keys})
    text = json.dumps(meta).encode()
    packed = json.dumps(meta, separators=(",", ":"), sort_keys=True).encode()
    text = packed if len(packed) <= record.meta_length else text
    text += b" " * (record.meta_length - len(text))
    assert len(text) == record.meta_length
    raw = bytearray(shard.read_bytes())
    raw[record.meta_offset : record.meta_offset + record.meta_length] = text
    shard.write_bytes(raw)
    piece = bytes(raw[record.offset : record.offset + record.length])
    lines = []
    for line in (folder / "assets.jsonl").read_text().splitlines():
        one = json.loads(line)
        if one["uid"] == record.uid:
            one["members_sha256"] = hashlib.sha256(piece).hexdigest()
        lines.append(json.dumps(one) + "\n")
    (folder / "assets.jsonl").write_text("".join(lines))
    rows = [n for n, row in enumerate(data.views()) if row.uid == record.uid]
    for row, view in zip(rows, views, strict=True):
        edit_index(folder, row, "c2w", np.array(view["c2w"]).reshape(-1).tolist())
        for name in ("azimuth", "elevation"):
            edit_index(folder, row, name, float(np.deg2rad(view[f"{name}_deg"])))
        edit_index(folder, row, "radius", view["radius"])
    info = json.loads((folder / "dataset.json").read_text())
    info["index_sha256"] = hashlib.sha256((folder / "index.parquet").read_bytes()).hexdigest()
    for one in info["shards"]:
        if one["file"] == record.shard:
            one["sha256"] = hashlib.sha256(raw).hexdigest()
    (folder / "dataset.json").write_text(json.dumps(info))
    return record.uid


def test_a_matrix_that_its_angles_contradict_is_found_though_every_hash_is_right(copy):
    uid = swap_cameras(copy, ("c2w",))
    findings = validate_dataset(copy)
    assert {(one.kind, one.uids) for one in findings} == {("camera", (uid,))}
    assert "not those of the matrix" in findings[0].message


def test_a_camera_that_does_not_see_the_object_is_found_though_all_agree(copy):
    data = Dataset.open(copy)
    uid = data.assets()[0].uid
    swap_cameras(copy, ())  # only rewrites: nothing is wrong
    assert validate_dataset(copy) == []
    views = data.views()
    c2w = views.c2w[0].copy()
    c2w[:3, [0, 2]] *= -1  # the same place, looking away
    record = data.assets()[0]
    from g3d.manifests.validate import _hits

    alpha = data.read_view(views[0])[..., 3]
    points = data.points(record.uid)
    assert _hits(points, views.c2w[0], float(views.fov_y[0]), alpha) > 0.95
    assert _hits(points, c2w, float(views.fov_y[0]), alpha) == 0
    shifted = views.c2w[0].copy()
    shifted[:3, 3] += 0.5 * shifted[:3, 0]
    assert _hits(points, shifted, float(views.fov_y[0]), alpha) < 0.5
    assert uid == record.uid


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_fix_puts_the_shard_aside_and_prepare_makes_exactly_it_again(copy, made, damage):
    if damage == "flip":
        shard, _, _ = flip(copy)
    else:
        shard = Dataset.open(copy).info.shards[0].file
        os.truncate(copy / shard, 4000) if damage == "truncate" else (copy / shard).unlink()
    uids = {r.uid for r in Dataset.open(copy, check=False).assets() if r.shard == shard}
    report = check_dataset(copy, fix=True)
    assert [(fix.file, fix.action) for fix in report.fixes] == [(shard, "quarantined")]
    assert set(report.remake) == uids
    assert report.left == ()
    assert not (copy / shard).exists()
    assert (copy / "quarantine" / Path(shard).name).exists() == (damage != "delete")
    times = {p.name: p.stat().st_mtime_ns for p in (copy / "shards").iterdir()}
    again = prepare(CONFIG, copy)
    assert again.made == len(uids)
    for name, time in times.items():
        assert (copy / "shards" / name).stat().st_mtime_ns == time
    made_files, copy_files = files(made), files(copy)
    for name in made_files:
        if name not in ("dataset.json", "assets.jsonl"):  # these hold seconds and the name
            assert copy_files[name] == made_files[name], name
    assert validate_dataset(copy) == []


def test_a_second_damage_of_the_same_shard_is_kept_beside_the_first(copy):
    for _ in range(2):
        shard, _, _ = flip(copy)
        check_dataset(copy, fix=True)
        prepare(CONFIG, copy)
    kept = sorted(path.name for path in (copy / "quarantine").iterdir())
    stem = Path(shard).stem
    assert kept == [f"{stem}.1.tar", f"{stem}.tar"]


def test_a_stray_file_goes_aside_but_not_during_a_run(copy):
    (copy / "shards" / "train-00077.tar").write_bytes(b"x")
    (copy / ".staging").mkdir()
    (copy / ".staging" / "plan.json").write_text("{}")
    with pytest.raises(ConfigError, match="not finished"):
        check_dataset(copy, fix=True)
    assert (copy / "shards" / "train-00077.tar").exists()
    shutil.rmtree(copy / ".staging")
    report = check_dataset(copy, fix=True)
    assert [fix.kept for fix in report.fixes] == ["quarantine/train-00077.tar"]
    assert report.left == ()
    assert validate_dataset(copy) == []


def test_what_cannot_be_mended_is_left_and_said(copy):
    info = json.loads((copy / "dataset.json").read_text())
    info["statuses"] = {"accepted": 3}
    (copy / "dataset.json").write_text(json.dumps(info))
    report = check_dataset(copy, fix=True)
    assert report.fixes == ()
    assert [one.kind for one in report.left] == ["count"]


def test_an_image_of_another_size_is_found(copy):
    from g3d.manifests.validate import _view
    from PIL import Image

    data = Dataset.open(copy)
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 4), np.uint8)).save(buffer, "PNG")
    record, views = data.assets()[0], data.views()
    meta = json.loads(data.read_bytes(record.shard, record.meta_offset, record.meta_length))

    class Fake:
        def read(self, offset: int, length: int) -> bytes:
            return buffer.getvalue()

    class Place:
        offset, length = views[0].offset, views[0].length

    found = dict(_view(Fake(), views, 0, meta["views"][0], Place(), data.points(record.uid)))
    assert found["image"] == "uint8 (8, 8, 4)"
