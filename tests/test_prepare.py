"""Prepare: plan, job, gates, resume, refusal, and one bad asset among good ones. Without Ray."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from g3d.errors import AssetError, ConfigError, DatasetError, DiskError, MissingDependency
from g3d.manifests.dataset import Dataset
from g3d.manifests.records import CameraPrior, Get3dPrior
from g3d.manifests.splits import SplitFractions, split_of
from g3d.manifests.validate import validate_dataset
from g3d.pipeline.config import (
    PrepareConfig,
    RenderParams,
    build_renderer,
    build_source,
    resolve_params,
)
from g3d.pipeline.job import Job, asset_cameras
from g3d.pipeline.plan import Group, make_plan
from g3d.pipeline.poses import check_poses, project_saved
from g3d.pipeline.prepare import prepare
from g3d.pipeline.sources.base import Source, SourceAsset
from g3d.renderers.base import Views
from g3d.renderers.cameras import Camera, project, sample_cameras
from g3d.renderers.meshes import Mesh, make_mesh, normalise, sample_surface
from g3d.renderers.raster import RasterRenderer, RasterScene
from hypothesis import given, settings
from hypothesis import strategies as st

BASE: dict[str, Any] = {
    "source": "procedural",
    "category": "mug",
    "limit": 10,
    "views": 3,
    "render": {"size": 32, "supersample": 2},
    "shard_size": 3,
    "workers": 0,
}


def config(**changes: Any) -> PrepareConfig:
    return PrepareConfig.model_validate({**BASE, **changes})


@dataclass(frozen=True)
class Wrapped:
    """The procedural source with trouble: extra work, or another mesh, by position."""

    inner: Source
    trouble: dict[int, Callable[[Mesh], Mesh]] = field(default_factory=dict)
    name: str = "procedural"
    default_camera: CameraPrior | None = None
    remote: bool = False
    salt: str = ""

    def list(self) -> list[SourceAsset]:
        return list(self.inner.list())

    def file(self, asset: SourceAsset) -> None:
        return None

    def load(self, asset: SourceAsset) -> Mesh:
        position = [a.uid for a in self.inner.list()].index(asset.uid)
        mesh = self.inner.load(asset)
        return self.trouble.get(position, lambda m: m)(mesh)


def wrapped(trouble: dict[int, Callable[[Mesh], Mesh]], **changes: Any) -> Wrapped:
    inner = build_source(config(**changes))
    return Wrapped(inner, trouble, default_camera=inner.default_camera)


def content(out: Path) -> dict[str, bytes]:
    """What two runs of the same work must agree on, byte by byte."""
    files = [*sorted((out / "shards").iterdir()), out / "index.parquet"]
    return {str(f.relative_to(out)): f.read_bytes() for f in files}


def count_renders(monkeypatch) -> list[str]:
    """uids that are prepared from here on."""
    made: list[str] = []
    original = Job.__call__

    def call(self, asset):
        made.append(asset.uid)
        return original(self, asset)

    monkeypatch.setattr(Job, "__call__", call)
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("made") / "mugs"
    prepare(config(), out)
    return out


# --- plan -----------------------------------------------------------------------------------------


def _asset(uid: str, sha256: str = "0") -> SourceAsset:
    return SourceAsset(uid, uid, "mug", "CC0-1.0", "", "", sha256, 0)


@given(
    st.sets(st.integers(0, 300), max_size=40),
    st.sets(st.integers(0, 300), max_size=40),
    st.integers(1, 9),
)
@settings(deadline=None, max_examples=60)
def test_plan_places_every_asset_once_and_never_moves_one(first, more, size):
    fractions = SplitFractions(train=0.5, val=0.2, test=0.3)
    assets = [_asset(f"a-{n}") for n in first]
    plan = make_plan(assets, (), {}, {}, fractions, size)
    uids = [uid for group in plan.groups for uid in group.uids]
    assert sorted(uids) == sorted(a.uid for a in assets)
    assert [a.uid for a in plan.todo] == uids
    for group in plan.groups:
        assert 1 <= len(group.uids) <= size
        assert list(group.uids) == sorted(group.uids)
        assert {split_of(uid, fractions) for uid in group.uids} == {group.split}
    done = {g.file: dict.fromkeys(g.uids, "0") for g in plan.groups}
    grown = make_plan(
        [*assets, *(_asset(f"a-{n}") for n in more - first)],
        plan.groups, done, {}, fractions, size,
    )  # fmt: skip
    assert set(plan.groups) <= set(grown.groups)
    assert len({g.file for g in grown.groups}) == len(grown.groups)
    assert {a.uid for a in grown.todo} == {f"a-{n}" for n in more - first}


def test_plan_order_of_the_source_does_not_matter():
    assets = [_asset(f"a-{n:03d}") for n in range(50)]
    one = make_plan(assets, (), {}, {}, SplitFractions(), 8)
    assert make_plan(assets[::-1], (), {}, {}, SplitFractions(), 8) == one


def test_plan_redoes_the_shard_of_an_asset_that_changed_and_nothing_else():
    groups = (
        Group("shards/train-00000.tar", "train", ("a", "b")),
        Group("shards/train-00001.tar", "train", ("c",)),
    )
    done = {groups[0].file: {"a": "0", "b": "0"}, groups[1].file: {"c": "0"}}
    assets = [_asset("a"), _asset("b", "1"), _asset("c")]
    plan = make_plan(assets, groups, done, {"a": "0", "b": "0"}, SplitFractions(), 2)
    assert [a.uid for a in plan.todo] == ["b"]
    assert plan.left == {"a"}
    assert plan.done == {groups[1].file}


def test_plan_forgets_what_the_source_lost_before_it_was_made():
    groups = (Group("shards/train-00000.tar", "train", ("a", "b", "c")),)
    plan = make_plan([_asset("a")], groups, {}, {"b": "0"}, SplitFractions(), 3)
    assert plan.groups[0].uids == ("a", "b")
    assert [a.uid for a in plan.todo] == ["a"]


@pytest.mark.parametrize("uid", ["a.b", "a/b", "", "x" * 85, "-a", "ä"])
def test_a_uid_that_cannot_name_members_is_refused(uid, tmp_path):
    @dataclass(frozen=True)
    class Odd(Wrapped):
        def list(self) -> list[SourceAsset]:
            return [_asset(uid)]

    with pytest.raises(DatasetError, match="uid"):
        prepare(config(), tmp_path / "d", source=Odd(build_source(config())))
    assert not (tmp_path / "d").exists()


# --- params ---------------------------------------------------------------------------------------


def _params(**changes: Any) -> RenderParams:
    made = config(**changes)
    return resolve_params(made, build_source(made), build_renderer(made))


@pytest.mark.parametrize(
    "changes",
    [
        {"views": 4},
        {"seed": 1},
        {"extent": 0.5},
        {"render": {"size": 48, "supersample": 2}},
        {"render": {"size": 32, "supersample": 2, "light": "flat"}},
        {"camera": {"elevation_deg": [10, 20]}},
    ],
)
def test_params_hash_changes_with_what_changes_a_pixel(changes):
    assert _params(**changes).params_hash != _params().params_hash


@pytest.mark.parametrize(
    "changes", [{"workers": 3}, {"limit": 99}, {"deadline_s": 1.0}, {"shard_size": 9}]
)
def test_params_hash_does_not_change_with_anything_else(changes):
    assert _params(**changes).params_hash == _params().params_hash


def test_cameras_depend_on_uid_seed_and_prior_and_not_on_the_image_size():
    one = asset_cameras("a", _params())
    np.testing.assert_array_equal(one.c2w, asset_cameras("a", _params(render={"size": 64})).c2w)
    assert (one.c2w != asset_cameras("b", _params()).c2w).any()
    assert (one.c2w != asset_cameras("a", _params(seed=1)).c2w).any()


def test_unset_camera_is_the_sources_then_the_categorys():
    own = Get3dPrior(elevation_deg=(5, 6))
    made = config()
    renderer, inner = build_renderer(made), build_source(made)
    assert resolve_params(made, Wrapped(inner, default_camera=own), renderer).camera == own
    plain = resolve_params(made, Wrapped(inner), renderer)
    assert plain.camera.elevation_deg == (0, 30)


def test_the_blender_renderer_is_missing_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("G3D_BLENDER_PYTHON", str(tmp_path / "none"))
    with pytest.raises(MissingDependency, match="G3D_BLENDER_PYTHON"):
        prepare(config(renderer="blender"), tmp_path / "d")


# --- poses ----------------------------------------------------------------------------------------


def _views_of(cameras: Camera) -> list[dict[str, Any]]:
    return [
        {"c2w": c.c2w.tolist(), "fov_y_deg": float(np.rad2deg(c.fov_y))}
        for c in (cameras[n] for n in range(len(cameras)))
    ]


def test_the_documented_formula_agrees_with_the_projection_matrix():
    rng = np.random.default_rng(0)
    cameras = sample_cameras(Get3dPrior(radius=(1.0, 2.0)), 5, rng)
    points = rng.uniform(-0.4, 0.4, (50, 3))
    for n, view in enumerate(_views_of(cameras)):
        np.testing.assert_allclose(
            project_saved(points, view, 48, 64), project(points, cameras[n], 48, 64), atol=1e-9
        )


def _render(uid_number: int) -> tuple[Mesh, Camera, np.ndarray]:
    made = config(render={"size": 64, "supersample": 2}, category="chair", views=6)
    source, renderer = build_source(made), build_renderer(made)
    params = resolve_params(made, source, renderer)
    asset = source.list()[uid_number]
    mesh, _ = normalise(source.load(asset), params.extent)
    cameras = asset_cameras(asset.uid, params)
    return mesh, cameras, renderer.render(mesh, cameras, params.render).rgba


def test_true_poses_pass_the_self_test_with_a_high_iou():
    mesh, cameras, rgba = _render(0)
    check = check_poses(mesh, rgba, _views_of(cameras), np.random.default_rng(0))
    assert check.iou.min() > 0.9
    assert check.cover.min() == 1.0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: Camera(np.linalg.inv(c.c2w), c.fov_y),
        lambda c: Camera(c.c2w * np.array([1, 1, -1, 1.0])[:, None], c.fov_y),
        lambda c: Camera(c.c2w * np.array([1, -1, -1, 1.0]), c.fov_y),
        lambda c: Camera(c.c2w, 0.8 * c.fov_y),
        lambda c: c[np.roll(np.arange(len(c)), 1)],
    ],
    ids=["w2c", "mirrored", "opencv_axes", "wrong_fov", "wrong_view"],
)
def test_wrong_poses_do_not(spoil):
    mesh, cameras, rgba = _render(0)
    good = check_poses(mesh, rgba, _views_of(cameras), np.random.default_rng(0))
    bad = check_poses(mesh, rgba, _views_of(spoil(cameras)), np.random.default_rng(0))
    assert bad.iou.mean() < good.iou.mean() - 0.15


def test_an_asset_whose_images_belie_its_poses_is_rejected(tmp_path):
    class TurnedScene(RasterScene):
        def render(self, cameras, settings, transform=None) -> Views:
            turned = Camera(np.roll(cameras.c2w, 1, axis=0), cameras.fov_y)
            return super().render(turned, settings, transform)

    class Turned(RasterRenderer):
        def open(self, asset: Mesh) -> RasterScene:
            return TurnedScene(asset)

    with pytest.raises(DatasetError, match=r"no asset of 4 was accepted .4 gate/pose"):
        prepare(config(category="chair", limit=4, views=8), tmp_path / "d", renderer=Turned())


# --- whole runs -----------------------------------------------------------------------------------


def test_a_run_makes_a_valid_dataset_and_reports_it(made):
    data = Dataset.open(made)
    assert validate_dataset(made) == []
    assert sorted(p.name for p in made.iterdir()) == [
        "ATTRIBUTION.md", "assets.jsonl", "dataset.json", "index.parquet", "report.html", "shards",
    ]  # fmt: skip
    for record in data.assets():
        assert record.pose_iou > 0.85
        assert record.pose_cover > 0.99
        assert record.max_half_angle_deg > 0
        assert len(record.transform) == 16
        assert record.triangles > 100
    assert data.info.licenses == {data.assets()[0].license: 10}


def test_images_are_rendered_with_the_stored_cameras(made):
    data = Dataset.open(made)
    source, renderer = build_source(config()), build_renderer(config())
    record = data.assets()[3]
    asset = next(a for a in source.list() if a.uid == record.uid)
    mesh, transform = normalise(source.load(asset), data.info.extent)
    np.testing.assert_array_equal(np.array(record.transform).reshape(4, 4), transform)
    views = data.views()
    mine = views.take(views.uid == record.uid)
    again = renderer.render(mesh, Camera(mine.c2w, mine.fov_y), config().render)
    np.testing.assert_array_equal(again.rgba, data.read_views(mine))


def test_the_same_command_again_does_nothing(made, monkeypatch):
    before = {p: p.stat().st_mtime_ns for p in made.rglob("*") if p.is_file()}
    renders = count_renders(monkeypatch)
    report = prepare(config(), made)
    assert report.nothing_to_do
    assert (report.accepted, report.kept, report.made) == (10, 10, 0)
    assert renders == []
    assert {p: p.stat().st_mtime_ns for p in made.rglob("*") if p.is_file()} == before
    assert not (made / ".staging").exists()


def test_dry_run_writes_nothing(tmp_path, made):
    report = prepare(config(), tmp_path / "d", dry_run=True)
    assert (report.total, report.made, report.dry_run) == (10, 10, True)
    assert list(tmp_path.iterdir()) == []
    more = prepare(config(limit=12), made, dry_run=True)
    assert (more.total, more.made, more.kept) == (12, 2, 10)


def test_more_assets_keep_shards_splits_and_records(made, tmp_path, monkeypatch):
    out = Path(shutil.copytree(made, tmp_path / "mugs"))
    before = {name: data for name, data in content(out).items() if name.endswith("tar")}
    splits = {r.uid: r.split for r in Dataset.open(out).assets()}
    renders = count_renders(monkeypatch)
    report = prepare(config(limit=14), out)
    assert (report.total, report.made, len(renders)) == (14, 4, 4)
    after = content(out)
    assert {name: after[name] for name in before} == before
    assert validate_dataset(out) == []
    data = Dataset.open(out)
    assert {uid: data.asset(uid).split for uid in splits} == splits
    assert len(data.views()) == 42
    # Fewer than there are is nothing to do, not a deletion.
    assert prepare(config(limit=5), out).total == 14


def test_another_config_is_refused_with_the_difference(made):
    before = content(made)
    for changes, words in (
        ({"views": 5}, "params.views  3 -> 5"),
        ({"shard_size": 4}, "shard_size  3 -> 4"),
        ({"splits": {"train": 1, "val": 0, "test": 0}}, "splits.train"),
        ({"category": "chair"}, "category"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            prepare(config(**changes), made)
        assert "--overwrite" in caught.value.hint
    assert content(made) == before
    assert not (made / ".staging").exists()


def test_overwrite_makes_the_dataset_anew_and_touches_nothing_else(made, tmp_path):
    out = Path(shutil.copytree(made, tmp_path / "mugs"))
    (out / "notes.txt").write_text("mine")
    prepare(config(views=2, limit=6), out, overwrite=True)
    assert validate_dataset(out) == []
    assert len(Dataset.open(out).views()) == 12
    assert (out / "notes.txt").read_text() == "mine"


def test_overwrite_mends_a_dataset_that_cannot_be_read(made, tmp_path):
    out = Path(shutil.copytree(made, tmp_path / "mugs"))
    (out / "dataset.json").write_text("{ half")
    with pytest.raises(DatasetError, match="damaged"):
        prepare(config(), out)
    prepare(config(), out, overwrite=True)
    assert content(out) == content(made)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_not_ours_is_never_touched(tmp_path, overwrite):
    out = tmp_path / "thesis"
    (out / "shards").mkdir(parents=True)
    (out / "shards" / "a.tar").write_text("precious")
    (out / "dataset.json").write_text('{"name": "of another tool"}')
    with pytest.raises(ConfigError, match="not a dataset of g3d"):
        prepare(config(), out, overwrite=overwrite)
    assert (out / "shards" / "a.tar").read_text() == "precious"
    assert sorted(p.name for p in out.iterdir()) == ["dataset.json", "shards"]
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(ConfigError, match="is a file"):
        prepare(config(), file, overwrite=overwrite)


def test_an_empty_folder_is_used(tmp_path, made):
    out = tmp_path / "mugs"
    out.mkdir()
    prepare(config(), out)
    assert content(out) == content(made)


# --- bad assets -----------------------------------------------------------------------------------


def _raise(error: Exception) -> Callable[[Mesh], Mesh]:
    def fail(mesh: Mesh) -> Mesh:
        raise error

    return fail


def _speck(mesh: Mesh) -> Mesh:
    """A hair: its longest side is normalised, so it covers next to nothing."""
    return make_mesh(
        np.array([[0, 0, 0], [0, 1, 0], [1e-4, 0, 0]]), np.array([[0, 1, 2], [0, 2, 1]])
    )


TROUBLE: dict[int, Callable[[Mesh], Mesh]] = {
    0: _raise(AssetError("missing_texture", "wood.png is not there")),
    1: _raise(RuntimeError("parser ran into a wall")),
    2: lambda m: make_mesh(np.zeros((0, 3)), np.zeros((0, 3), int)),
    3: _speck,
    4: lambda m: Mesh(np.full_like(m.vertices, np.nan), m.faces),
    5: lambda m: Mesh(np.zeros_like(m.vertices), m.faces),
    6: _raise(MemoryError()),
}


def test_bad_assets_are_recorded_with_stage_and_reason_and_stop_nothing(made, tmp_path):
    out = tmp_path / "mugs"
    report = prepare(config(), out, source=wrapped(TROUBLE))
    assert (report.total, report.accepted, report.rejected, report.failed) == (10, 3, 4, 3)
    records = {r.uid: r for r in Dataset.open(out).records()}
    ends = [
        (records[a.uid].status, records[a.uid].stage, records[a.uid].reason)
        for a in build_source(config()).list()
    ]
    assert ends == [
        ("failed", "load", "missing_texture"),
        ("failed", "load", "import"),
        ("rejected", "gate", "empty_mesh"),
        ("rejected", "gate", "blank"),
        ("rejected", "gate", "import"),
        ("rejected", "gate", "empty_mesh"),
        ("failed", "load", "memory"),
        *[("accepted", None, None)] * 3,
    ]
    assert "parser ran into a wall" in records[build_source(config()).list()[1].uid].message
    assert report.reasons["gate/empty_mesh"] == 2
    assert validate_dataset(out) == []
    # The good ones are what they are without the bad ones beside them.
    good = {r.uid: r.members_sha256 for r in Dataset.open(made).assets()}
    assert all(good[r.uid] == r.members_sha256 for r in Dataset.open(out).assets())
    # And the end is final: nothing is tried again.
    assert prepare(config(), out, source=wrapped(TROUBLE)).nothing_to_do


def test_no_accepted_asset_is_an_error_with_the_records_on_disk(tmp_path):
    bad = _raise(AssetError("import", "no"))
    out = tmp_path / "mugs"
    with pytest.raises(
        DatasetError, match=r"no asset of 10 was accepted .10 load/import"
    ) as caught:
        prepare(config(), out, source=wrapped(dict.fromkeys(range(10), bad)))
    assert "assets.jsonl" in caught.value.hint
    lines = [json.loads(x) for x in (out / "assets.jsonl").read_text().splitlines()]
    assert [x["reason"] for x in lines] == ["import"] * 10
    assert list((out / "shards").glob("*")) == []
    with pytest.raises(DatasetError, match="no accepted asset"):
        Dataset.open(out)


def test_nothing_in_train_is_an_error_before_anything_is_made(tmp_path):
    fractions = {"train": 0, "val": 0, "test": 1}
    with pytest.raises(DatasetError, match="'train'"):
        prepare(config(splits=fractions), tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


def test_the_breaker_stops_a_run_whose_first_assets_fail_and_a_mended_one_goes_on(made, tmp_path):
    out = tmp_path / "mugs"
    bad = _raise(AssetError("import", "no such codec"))
    with pytest.raises(DatasetError, match=r"6 of the first 6 .* 6 of them for load/import"):
        prepare(config(breaker_after=6), out, source=wrapped(dict.fromkeys(range(10), bad)))
    failures = (out / ".staging" / "failures.jsonl").read_text().splitlines()
    assert len(failures) == 6
    assert prepare(config(breaker_after=6), out).accepted == 10
    assert content(out) == content(made)


def test_a_few_failures_do_not_trip_the_breaker(tmp_path):
    bad = {n: _raise(AssetError("import", "no")) for n in (1, 4)}
    report = prepare(config(breaker_after=6), tmp_path / "d", source=wrapped(bad))
    assert (report.accepted, report.failed) == (8, 2)


# --- interruption and damage ----------------------------------------------------------------------


class Killed(BaseException):
    """What stops a run at a place of the test's choosing, as a signal would."""


@pytest.mark.parametrize("after", [0, 1, 3, 4, 7, 9])
def test_an_interrupted_run_goes_on_where_it_stopped(made, tmp_path, monkeypatch, after):
    out = tmp_path / "mugs"
    original = Job.__call__
    calls: list[str] = []

    def call(self, asset):
        if len(calls) == after:
            raise Killed
        calls.append(asset.uid)
        return original(self, asset)

    with monkeypatch.context() as patch:
        patch.setattr(Job, "__call__", call)
        with pytest.raises(Killed):
            prepare(config(), out)
    with pytest.raises(DatasetError, match="not finished"):
        Dataset.open(out)
    renders = count_renders(monkeypatch)
    report = prepare(config(), out)
    assert (report.made, len(renders)) == (10 - after, 10 - after)
    assert not set(renders) & set(calls)
    assert content(out) == content(made)


@pytest.mark.parametrize("nth", [0, 1, 2, 3, 9, 10, 11, 12, 13, 21, 22, 23])
def test_a_disk_that_fills_up_at_any_write_loses_nothing_finished(made, tmp_path, monkeypatch, nth):
    out = tmp_path / "mugs"
    original = Path.replace
    count = 0

    def replace(self, target):
        nonlocal count
        count += 1
        if count > nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(DiskError, match="the disk is full") as caught:
            prepare(config(), out)
        assert caught.value.hint
    assert not [p for p in tmp_path.rglob("*") if ".tmp-" in p.name]
    prepare(config(), out)
    assert content(out) == content(made)
    assert not (out / ".staging").exists()


def test_damaged_shards_are_made_anew_from_what_is_good_in_them(made, tmp_path, monkeypatch):
    out = Path(shutil.copytree(made, tmp_path / "mugs"))
    data = Dataset.open(out)
    cut, flipped, lost = sorted((out / "shards").glob("train-*.tar"))[:3]
    first = min((r for r in data.assets() if r.shard.endswith(cut.name)), key=lambda r: r.offset)
    os.truncate(cut, first.length + 5000)
    second = next(r for r in data.assets() if r.shard.endswith(flipped.name))
    raw = bytearray(flipped.read_bytes())
    raw[second.offset + 700] ^= 1
    flipped.write_bytes(raw)
    gone = {r.uid for r in data.assets() if r.shard.endswith(lost.name)}
    lost.unlink()
    renders = count_renders(monkeypatch)
    prepare(config(), out)
    expected = {r.uid for r in data.assets() if r.shard.endswith(cut.name)} - {first.uid}
    assert set(renders) == expected | {second.uid} | gone
    assert content(out) == content(made)


def test_damaged_staged_bytes_are_not_trusted(made, tmp_path, monkeypatch):
    out = tmp_path / "mugs"

    def close_group(*args: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("g3d.pipeline.ledger.Ledger.close_group", close_group)
        with pytest.raises(Killed):
            prepare(config(), out)
    pieces = sorted((out / ".staging" / "assets").glob("*.tar"))
    pieces[0].write_bytes(pieces[0].read_bytes()[:-512])
    renders = count_renders(monkeypatch)
    prepare(config(), out)
    assert pieces[0].stem in renders
    assert content(out) == content(made)


def test_an_asset_that_changed_is_made_again_alone(made, tmp_path, monkeypatch):
    @dataclass(frozen=True)
    class Changed(Wrapped):
        def list(self) -> list[SourceAsset]:
            assets = list(self.inner.list())
            one = assets[4]
            assets[4] = SourceAsset(**{**one.__dict__, "sha256": "f" * 64})
            return assets

    out = Path(shutil.copytree(made, tmp_path / "mugs"))
    inner = build_source(config())
    source = Changed(
        inner,
        {4: lambda m: make_mesh(m.vertices * [1, 2, 1], m.faces)},
        default_camera=inner.default_camera,
    )
    uid = source.list()[4].uid
    renders = count_renders(monkeypatch)
    prepare(config(), out, source=source)
    assert renders == [uid]
    assert validate_dataset(out) == []
    new, old = Dataset.open(out), Dataset.open(made)
    assert new.asset(uid).sha256 == "f" * 64
    assert new.asset(uid).extent[1] == pytest.approx(2 * old.asset(uid).extent[1])


def test_two_runs_at_once_are_refused(tmp_path, made):
    fcntl = pytest.importorskip("fcntl")
    out = tmp_path / "mugs"
    (out / ".staging").mkdir(parents=True)
    with (out / ".staging" / "lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another `g3d prepare`"):
            prepare(config(), out)
    prepare(config(), out)
    assert content(out) == content(made)


def test_stored_points_sample_the_normalised_surface(made):
    data = Dataset.open(made)
    record = data.assets()[0]
    source = build_source(config())
    asset = next(a for a in source.list() if a.uid == record.uid)
    mesh, _ = normalise(source.load(asset), data.info.extent)
    other = sample_surface(mesh, 2048, np.random.default_rng(1))
    near = np.linalg.norm(data.points(record.uid)[:, None] - other[None], axis=-1).min(axis=1)
    assert near.mean() < 0.02


def test_the_rasteriser_draws_on_the_device_that_is_named(monkeypatch):
    import torch
    from g3d.renderers.raster.torch_renderer import TorchRasterRenderer

    assert type(build_renderer(config())) is RasterRenderer
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingDependency, match="CUDA device"):
        build_renderer(config(device="cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    there = build_renderer(config(device="cuda"))
    assert isinstance(there, TorchRasterRenderer)
    assert there.device.type == "cuda"
    # One dataset may be made by either: what is drawn is the same work.
    source = build_source(config())
    here = resolve_params(config(), source, build_renderer(config()))
    assert resolve_params(config(device="cuda"), source, there).params_hash == here.params_hash
