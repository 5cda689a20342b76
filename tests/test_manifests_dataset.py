"""Reading a dataset, and finding what is wrong with one."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from g3d.errors import DatasetError
from g3d.manifests.dataset import Dataset, newest_dataset
from g3d.manifests.validate import validate_dataset
from g3d.pipeline.config import PrepareConfig
from g3d.pipeline.prepare import prepare
from g3d.renderers.cameras import Camera
from PIL import Image

CONFIG = PrepareConfig.model_validate(
    {
        "source": "procedural",
        "category": "table",
        "limit": 12,
        "views": 3,
        "render": {"size": 32, "supersample": 2},
        "shard_size": 4,
        "workers": 0,
        "splits": {"train": 0.6, "val": 0.1, "test": 0.3},
    }
)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("made") / "tables"
    prepare(CONFIG, out)
    return out


@pytest.fixture
def copy(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "tables"))


def test_info_and_counts(made):
    data = Dataset.open(made)
    assert (data.info.source, data.info.category, data.info.size) == ("procedural", "table", 32)
    assert data.info.schema_version == 1
    assert data.info.statuses == {"accepted": 12}
    assert len(data.assets()) == 12
    assert len(data.views()) == 36
    for split in ("train", "val", "test"):
        assert len(data.assets(split)) == data.info.splits[split].assets
        assert len(data.views(split)) == data.info.splits[split].views
    assert sum(len(data.views(s)) for s in ("train", "val", "test")) == 36


def test_one_ranged_read_gives_the_image_that_tar_holds(made):
    data = Dataset.open(made)
    views = data.views()
    images = {}
    for shard in (made / "shards").iterdir():
        with tarfile.open(shard) as archive:
            for member in archive:
                if member.name.endswith(".png"):
                    content = archive.extractfile(member).read()
                    images[member.name] = np.asarray(Image.open(io.BytesIO(content)))
    every = data.read_views(views)
    assert every.shape == (36, 32, 32, 4)
    assert every.dtype == np.uint8
    for number, row in enumerate(views):
        expected = images[f"{row.uid}.{row.view:03d}.rgba.png"]
        np.testing.assert_array_equal(data.read_view(row), expected)
        np.testing.assert_array_equal(every[number], expected)
        assert data.verify_view(row)
        assert views.coverage[number] == pytest.approx(expected[..., 3].mean() / 255)


def test_columns_agree_with_the_cameras(made):
    views = Dataset.open(made).views()
    cameras = Camera(views.c2w, views.fov_y)
    np.testing.assert_allclose(cameras.azimuth, views.azimuth, atol=1e-9)
    np.testing.assert_allclose(cameras.elevation, views.elevation, atol=1e-9)
    np.testing.assert_allclose(cameras.radius, views.radius, atol=1e-9)
    assert len(np.unique(views.azimuth)) == 36
    few = views.take(np.array([5, 1]))
    assert (few[0], few[1], len(few)) == (views[5], views[1], 2)


def test_points_lie_on_the_normalised_mesh(made):
    data = Dataset.open(made)
    for record in data.assets():
        points = data.points(record.uid)
        assert points.shape == (2048, 3)
        assert points.dtype == np.float32
        side = (points.max(axis=0) - points.min(axis=0)).max()
        assert 0.9 * data.info.extent < side <= data.info.extent + 1e-5
        assert np.linalg.norm(points, axis=1).max() <= record.bounding_radius + 1e-5
    with pytest.raises(DatasetError, match="no asset"):
        data.points("nothing")


def test_a_url_reads_the_same(made):
    far, near = Dataset.open(f"file://{made}"), Dataset.open(made)
    row = near.views()[7]
    np.testing.assert_array_equal(far.read_view(far.views()[7]), near.read_view(row))


def test_the_json_member_rebuilds_index_and_camera(made):
    data = Dataset.open(made)
    record = data.assets("train")[0]
    meta = json.loads(data.read_bytes(record.shard, record.meta_offset, record.meta_length))
    assert meta["asset"]["uid"] == record.uid
    assert "seconds" not in meta["asset"]
    views = data.views()
    mine = views.take(views.uid == record.uid)
    for number, view in enumerate(meta["views"]):
        np.testing.assert_array_equal(np.array(view["c2w"]), mine.c2w[number])
        assert view["fl_y"] == pytest.approx(16 / np.tan(mine.fov_y[number] / 2))


def test_reading_imports_no_torch_and_no_ray(made):
    code = (
        "import sys; from g3d.manifests.dataset import Dataset\n"
        f"d = Dataset.open({str(made)!r}); d.read_view(d.views()[0]); d.points(d.assets()[0].uid)\n"
        "assert not {'torch', 'ray', 'numba'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: shutil.rmtree(d), "not a dataset"),
        (lambda d: (d / "dataset.json").unlink(), "not a dataset"),
        (lambda d: (d / "dataset.json").write_text("{"), "not JSON"),
        (lambda d: _edit_info(d, schema=7), "schema 7"),
        (lambda d: _edit_info(d, statuses={"failed": 3}), "no accepted asset .3 failed"),
        (lambda d: _edit_info(d, size="big"), "does not fit"),
        (lambda d: os.truncate(_shard(d), 2000), "truncated"),
        (lambda d: _shard(d).unlink(), "lacks its shard"),
    ],
)
def test_a_bad_dataset_is_one_clear_error(copy, damage, words):
    damage(copy)
    with pytest.raises(DatasetError, match=words) as caught:
        Dataset.open(copy)
    assert "\n" not in caught.value.message or words == "does not fit"
    assert caught.value.hint or words == "does not fit"


@pytest.mark.parametrize("name", ["assets.jsonl", "index.parquet"])
def test_a_missing_or_damaged_table_is_one_clear_error(copy, name):
    data = Dataset.open(copy)
    (copy / name).write_bytes(b"nonsense")
    with pytest.raises(DatasetError, match=name):
        data.assets() if name == "assets.jsonl" else data.views()
    (copy / name).unlink()
    with pytest.raises(DatasetError, match="lacks"):
        data.assets() if name == "assets.jsonl" else data.views()


def test_a_damaged_image_is_one_clear_error(copy):
    data = Dataset.open(copy)
    row = data.views()[0]
    with (copy / row.shard).open("r+b") as file:
        file.seek(row.offset)
        file.write(b"\0" * row.length)
    with pytest.raises(DatasetError, match="damaged"):
        data.read_view(row)
    assert not data.verify_view(row)


def test_the_newest_dataset(made, tmp_path):
    with pytest.raises(DatasetError, match="no dataset") as caught:
        newest_dataset(tmp_path)
    assert "g3d prepare" in caught.value.hint
    for number, name in enumerate(("b", "a", "c")):
        folder = tmp_path / "datasets" / name
        folder.mkdir(parents=True)
        shutil.copy(made / "dataset.json", folder)
        os.utime(folder / "dataset.json", (1000 - number, 1000 - number))
    (tmp_path / "datasets" / "unfinished").mkdir()
    assert newest_dataset(tmp_path).name == "b"


def test_a_good_dataset_has_no_findings(made):
    assert validate_dataset(made) == []


def _flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 255
    path.write_bytes(data)


def _shard(folder: Path) -> Path:
    return sorted((folder / "shards").glob("train-*.tar"))[0]


def _edit_info(folder: Path, **changes: object) -> None:
    info = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**info, **changes}))


def _edit_asset(folder: Path, **changes: object) -> None:
    lines = (folder / "assets.jsonl").read_text().splitlines()
    first = {**json.loads(lines[0]), **changes}
    (folder / "assets.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")


def _edit_index(folder: Path, column: str, value: object) -> None:
    table = pq.read_table(folder / "index.parquet")
    values = table[column].to_pylist()
    values[0] = value
    place = table.schema.get_field_index(column)
    table = table.set_column(
        place, table.schema.field(place), pa.array(values, table.schema.field(place).type)
    )
    pq.write_table(table, folder / "index.parquet")
    digest = hashlib.sha256((folder / "index.parquet").read_bytes()).hexdigest()
    _edit_info(folder, index_sha256=digest)


@pytest.mark.parametrize(
    ("damage", "kinds"),
    [
        (lambda d: _flip(_shard(d), 700), {"hash"}),
        (lambda d: os.truncate(_shard(d), _shard(d).stat().st_size - 30_000), {"size"}),
        (lambda d: _shard(d).unlink(), {"missing"}),
        (lambda d: shutil.copy(_shard(d), d / "shards" / "train-00099.tar"), {"unlisted"}),
        (lambda d: _edit_asset(d, split="val"), {"split", "count"}),
        (lambda d: _edit_asset(d, members_sha256="0" * 64), {"hash"}),
        (lambda d: _edit_asset(d, points_offset=0), {"index"}),
        (lambda d: _edit_asset(d, status="failed"), {"count", "order"}),
        (lambda d: _edit_index(d, "offset", 512 * 3), {"index"}),
        (lambda d: _edit_index(d, "sha256", "0" * 64), {"hash"}),
        (lambda d: _edit_index(d, "fov_y_deg", 50.0), {"camera"}),
        (lambda d: _edit_index(d, "uid", "table-99999"), {"count"}),
        (lambda d: (d / "index.parquet").write_bytes(b""), {"unreadable"}),
        (lambda d: _edit_info(d, index_sha256="0" * 64), {"hash"}),
    ],
)
def test_validate_finds_damage_and_names_it(copy, damage, kinds):
    damage(copy)
    found = {finding.kind for finding in validate_dataset(copy)}
    assert kinds <= found, found
