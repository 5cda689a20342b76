"""``g3d render`` and ``g3d view``: what is on the sheets, and what is left when it goes wrong."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from g3d import cli
from g3d.commands import overview, pictures
from g3d.manifests.dataset import Dataset
from g3d.renderers import animation, sheets
from g3d.renderers.base import Views
from g3d.renderers.cameras import orbit, sample_cameras, sphere_in_frame
from g3d.renderers.sheets import Tile
from PIL import Image


class Done(NamedTuple):
    code: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        return json.loads(self.out)


Run = Callable[..., Done]


@pytest.fixture
def g3d(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process."""

    def run(*words: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["g3d", *map(str, words)])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            os.environ.pop("G3D_DEBUG", None)
        return Done(code, *capsys.readouterr())

    return run


def write_box(path: Path, sides: tuple[float, float, float] = (2.0, 1.0, 1.0)) -> Path:
    """A box from the origin on: 12 triangles."""
    corners = [(x, y, z) for x in (0, sides[0]) for y in (0, sides[1]) for z in (0, sides[2])]
    quads = ["1 2 4 3", "5 7 8 6", "1 5 6 2", "3 4 8 7", "1 3 7 5", "2 6 8 4"]
    lines = [f"v {x} {y} {z}" for x, y, z in corners] + [f"f {quad}" for quad in quads]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def box(tmp_path: Path) -> Path:
    return write_box(tmp_path / "models" / "box.obj")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five procedural chairs of three small views."""
    from g3d.pipeline.config import PrepareConfig
    from g3d.pipeline.prepare import prepare

    out = tmp_path_factory.mktemp("data") / "procedural-chair"
    values = {"limit": 5, "views": 3, "render": {"size": 32}, "workers": 0}
    prepare(PrepareConfig(source="procedural", category="chair", **values), out)
    return out


def pixels(path: object) -> np.ndarray:
    with Image.open(str(path)) as image:
        return np.asarray(image.convert("RGB"))


def holds(sheet: np.ndarray, part: np.ndarray) -> bool:
    """Whether ``part`` is somewhere on the sheet, pixel for pixel."""
    height, width = part.shape[:2]
    # A row in the middle, where the object is, is unlike most others.
    row = part[height // 2]
    windows = np.lib.stride_tricks.sliding_window_view(sheet, (1, width, 3))[:, :, 0, 0]
    for y, x in np.argwhere((windows == row).all(axis=(2, 3))):
        top = y - height // 2
        if top >= 0 and np.array_equal(sheet[top : top + height, x : x + width], part):
            return True
    return False


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --- pictures -------------------------------------------------------------------------------------


def test_straight_alpha_is_composited() -> None:
    rgba = np.zeros((20, 20, 4), np.uint8)
    rgba[..., 0] = 200
    rgba[:, 10:, 3] = 255
    on_checker, on_white = sheets.over_checker(rgba, cell=5), sheets.over_plain(rgba)
    np.testing.assert_array_equal(on_checker[:, 10:], np.broadcast_to([200, 0, 0], (20, 10, 3)))
    assert len(np.unique(on_checker[:, :10])) == 2, "two greys where nothing is"
    assert (on_white[:, :10] == 255).all()
    rgba[..., 3] = 51
    np.testing.assert_array_equal(sheets.over_plain(rgba)[0, 0], [244, 204, 204])


def test_masks_normals_and_depths_as_colours() -> None:
    alpha = np.array([[0, 128, 255]], np.uint8)
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[..., 3] = alpha
    grey = sheets.mask_picture(rgba)[0, :, 0].astype(int)
    assert grey[0] < grey[1] < grey[2] == 255
    normal = np.array([[[1, 0, 0], [0, -1, 0], [0, 0, 1]]], np.float32)
    colours = sheets.normal_picture(normal, np.full((1, 3), 255, np.uint8))[0].tolist()
    assert colours == [[255, 128, 128], [128, 0, 128], [128, 128, 255]]
    depth = np.array([[1.0, 1.5, 2.0, 0.0]], np.float32)
    full = np.full((1, 4), 255, np.uint8)
    shades = sheets.depth_picture(depth, full, *sheets.depth_range(depth))[0].astype(float)
    brightness = shades @ [0.2126, 0.7152, 0.0722]
    assert brightness[0] > brightness[1] > brightness[2], "near is bright"
    np.testing.assert_array_equal(shades[3], sheets.PLAIN)
    assert sheets.depth_range(np.zeros((2, 2))) == (0.0, 1.0)


@pytest.mark.parametrize(("count", "blocks"), [(1, 1), (8, 1), (9, 2), (24, 3)])
def test_every_picture_of_every_view_is_on_the_sheet(count: int, blocks: int) -> None:
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (count, 24, 40, 4), dtype=np.uint8)
    depth = rng.uniform(1, 2, (count, 24, 40)).astype(np.float32)
    normal = rng.normal(size=(count, 24, 40, 3)).astype(np.float32)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    views = Views(rgba, depth, normal, rgba[..., :3])
    camera = orbit(np.linspace(0, 6, count), 0.2, 1.5, 0.8)
    sheet = sheets.views_sheet(views, camera, "a name × and more", ["a fact", "another"])
    assert sheet.dtype == np.uint8
    assert (sheet.shape[1] - 2 * sheets.MARGIN) // (sheets.GUTTER + 4 * 40) == blocks or count < 9
    near, far = sheets.depth_range(depth)
    for n in range(count):
        for part in (
            sheets.over_checker(rgba[n]),
            sheets.mask_picture(rgba[n]),
            sheets.depth_picture(depth[n], rgba[n, ..., 3], near, far),
            sheets.normal_picture(normal[n], rgba[n, ..., 3]),
        ):
            assert holds(sheet, part)


def test_a_grid_keeps_a_place_for_what_is_missing() -> None:
    tiles = [Tile(np.full((30, 60, 3), 9 * n, np.uint8), f"tile {n}") for n in range(5)]
    full = sheets.grid_sheet(tiles, "title", [], columns=3)
    gone = [*tiles[:4], Tile(None, "tile 4", "empty_mesh: there is no face in this file")]
    holed = sheets.grid_sheet(gone, "title", [], columns=3)
    assert full.shape == holed.shape
    assert all(holds(full, tile.image) for tile in tiles if tile.image is not None)
    assert not holds(holed, np.full((30, 60, 3), 36, np.uint8))
    assert (full != holed).any(axis=-1).mean() < 0.2
    nothing = sheets.grid_sheet([Tile(None, "a", "b")], "title", ["fact"])
    assert nothing.shape[2] == 3


def test_spread_and_shrink() -> None:
    assert overview.spread(10, 5).tolist() == [0, 2, 4, 6, 8]
    assert overview.spread(3, 24).tolist() == [0, 1, 2]
    assert overview.spread(0, 4).tolist() == []
    picture = np.zeros((40, 20, 3), np.uint8)
    assert sheets.shrink(picture, 10).shape == (10, 5, 3)
    assert sheets.shrink(picture, 40) is picture


# --- animations -----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".apng"])
def test_animations_hold_their_frames_and_loop(suffix: str, tmp_path: Path) -> None:
    frames = np.zeros((5, 16, 20, 3), np.uint8)
    for n in range(5):
        frames[n, :, 4 * n : 4 * n + 4] = 250
    path = tmp_path / f"a{suffix}"
    path.write_bytes(animation.encode_animation(frames, suffix, seconds=1.0))
    with Image.open(path) as image:
        assert image.n_frames == 5
        assert image.info["loop"] == 0, "for ever"
        for n in range(5):
            image.seek(n)
            got = np.asarray(image.convert("RGB")).astype(int)
            assert np.abs(got - frames[n]).mean() < 6
            if suffix != ".webp":
                assert image.info["duration"] == 200


def test_mp4_needs_an_encoder(g3d: Run, box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(animation, "_video_plugin", lambda: None)
    done = g3d("render", box, "-o", box.parent / "box.mp4")
    assert done.code == 4
    assert "pip install imageio-ffmpeg" in done.err
    assert files_below(box.parent) == ["box.obj"]


@pytest.mark.skipif(animation._video_plugin() is None, reason="no encoder")
def test_mp4_of_odd_sides() -> None:
    data = animation.encode_animation(np.zeros((4, 33, 31, 3), np.uint8), ".mp4", 1.0)
    assert data[4:8] == b"ftyp"


# --- g3d render -----------------------------------------------------------------------------------


def test_render_makes_a_sheet_by_default(g3d: Run, box: Path, own_home: Path) -> None:
    done = g3d("render", box, "--views", 2, "--size", 32, "--json")
    assert done.code == 0, done.err
    facts = done.json()
    assert facts["path"] == facts["sheet"] == str(own_home / "renders" / "box.png")
    assert files_below(own_home) == ["renders/box.png"]
    assert facts["size"] == list(pixels(facts["path"]).shape[1::-1])
    assert (facts["views"], facts["triangles"], facts["extent"]) == (2, 12, 1.0)
    assert facts["bounding_radius"] == pytest.approx(0.5 * 1.5**0.5, rel=1e-6)
    assert facts["turntable"] is None
    assert facts["seconds"] > 0
    plain = g3d("render", box, "--views", 2, "--size", 32, "-q")
    assert (plain.code, plain.out, plain.err) == (0, facts["path"] + "\n", "")


def test_the_sheet_shows_what_the_renderer_gives(g3d: Run, box: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    words = "--views 3 --size 40 --light flat --extent 0.6 --camera hemisphere -s seed=5"
    assert g3d("render", box, *words.split(), "-o", out).code == 0
    flags = {"views": 3, "render": {"size": 40, "light": "flat"}}
    config = pictures.render_config({**flags, "camera": {"sampler": "hemisphere"}}, ["seed=5"])
    from g3d.renderers.meshes import normalise
    from g3d.renderers.meshes.load import load_mesh
    from g3d.renderers.raster import RasterRenderer

    mesh, transform = normalise(load_mesh(box), 0.6)
    radius = 1.02 * float(np.linalg.norm(mesh.vertices, axis=1).max())
    cameras = sample_cameras(config.camera, 3, np.random.default_rng(5), radius)
    views = RasterRenderer().open(load_mesh(box)).render(cameras, config.render, transform)
    sheet = pixels(out)
    for n in range(3):
        assert holds(sheet, sheets.over_checker(views.rgba[n]))
        assert holds(sheet, sheets.mask_picture(views.rgba[n]))


@pytest.mark.parametrize("sampler", ["get3d", "sphere", "hemisphere", "ring", "fibonacci", "lrm"])
def test_everything_is_in_frame_unless_told_otherwise(sampler: str) -> None:
    flags = {"camera": {"sampler": sampler}}
    near = ["camera.radius=[0.2, 0.3]"]
    config = pictures.render_config(flags, near)
    cameras = sample_cameras(config.camera, 9, np.random.default_rng(0), 0.86)
    assert sphere_in_frame(np.zeros(3), 0.86, cameras).all()
    free = pictures.render_config(flags, [*near, "camera.fit=false"])
    cameras = sample_cameras(free.camera, 9, np.random.default_rng(0), 0.86)
    assert not sphere_in_frame(np.zeros(3), 0.86, cameras).any()


def test_turntables(g3d: Run, box: Path, tmp_path: Path) -> None:
    both = g3d("render", box, *["--views", "1", "--size", "24", "--turntable", "5", "--json", "-o"],
               tmp_path / "out" / "both.png").json()  # fmt: skip
    assert files_below(tmp_path / "out") == ["both.gif", "both.png"]
    assert both["turntable"] == str(tmp_path / "out" / "both.gif")
    alone = g3d(
        "render", box, *["--size", "24", "--turntable", "4", "--json", "-o"], tmp_path / "a.webp"
    )
    facts = alone.json()
    assert facts["path"] == facts["turntable"] == str(tmp_path / "a.webp")
    assert (facts["sheet"], facts["size"], facts["views"]) == (None, [24, 24], 4)
    for path, count in ((both["turntable"], 5), (facts["path"], 4)):
        with Image.open(path) as image:
            assert image.n_frames == count
            first = np.asarray(image.convert("RGB")).astype(int)
            image.seek(1)
            second = np.asarray(image.convert("RGB")).astype(int)
        assert (first[0] > 250).all(), "on white, and in frame"
        assert np.abs(first - second).mean() > 1, "it turns"


def test_an_asset_of_a_dataset_is_rendered_anew(g3d: Run, dataset: Path, tmp_path: Path) -> None:
    record = Dataset.open(dataset).assets()[1]
    out = tmp_path / "asset.png"
    words = ["--uid", record.uid, "--size", 16, "--views", 1, "-o", out, "--json"]
    facts = g3d("render", dataset, *words).json()
    assert facts["triangles"] == record.triangles
    assert facts["bounding_radius"] == pytest.approx(record.bounding_radius)
    assert facts["extent"] == 0.7
    changed = tmp_path / "changed"
    shutil.copytree(dataset, changed)
    lines = (changed / "assets.jsonl").read_text().replace(record.sha256, "0" * 64)
    (changed / "assets.jsonl").write_text(lines)
    done = g3d("render", changed, *words)
    assert done.code == 1
    assert "has changed since" in done.err
    assert f"g3d view {changed} --uid {record.uid}" in done.err


def test_an_asset_of_a_folder_is_found_again(g3d: Run, tmp_path: Path) -> None:
    from g3d.pipeline.config import PrepareConfig
    from g3d.pipeline.prepare import prepare

    models, data = tmp_path / "models", tmp_path / "folder-car"
    file = write_box(models / "one.obj")
    values = {"views": 2, "render": {"size": 16}, "workers": 0, "root": models}
    prepare(PrepareConfig(source="folder", category="car", **values), data)
    uid = Dataset.open(data).assets()[0].uid
    words = ["render", data, "--uid", uid, "--size", 16, "--views", 1, "--json"]
    assert g3d(*words).json()["extent"] == 0.9
    file.unlink()
    gone = g3d(*words)
    assert gone.code == 1
    assert f"g3d view {data} --uid {uid}" in gone.err
    assert g3d("view", data, "--uid", uid, "--json").json()["shown"] == 2


# --- g3d view -------------------------------------------------------------------------------------


def test_view_of_a_dataset_shows_its_stored_views(g3d: Run, dataset: Path, own_home: Path) -> None:
    facts = g3d("view", dataset, "--limit", 2, "--json").json()
    assert facts["path"] == str(own_home / "renders" / "procedural-chair.png")
    assert facts["shown"] == 2
    sheet, data = pixels(facts["path"]), Dataset.open(dataset)
    views = data.views()
    chosen = {data.assets()[0].uid, data.assets()[2].uid}
    for view in views:
        image = sheets.over_checker(data.read_view(view))
        assert holds(sheet, image) == (view.uid in chosen)
    everything = g3d("view", dataset, "--json").json()
    assert everything["shown"] == 5


def test_view_of_an_asset_shows_all_its_views(g3d: Run, dataset: Path, tmp_path: Path) -> None:
    data = Dataset.open(dataset)
    uid = data.assets()[3].uid
    done = g3d("view", dataset, "--uid", uid, "-o", tmp_path / "a.png")
    assert (done.code, done.out) == (0, f"{tmp_path / 'a.png'}\n")
    sheet = pixels(tmp_path / "a.png")
    for view in data.views():
        rgba = data.read_view(view)
        assert holds(sheet, sheets.over_checker(rgba)) == (view.uid == uid)
        assert holds(sheet, sheets.mask_picture(rgba)) == (view.uid == uid)


def test_view_of_a_folder_says_what_it_could_not_draw(g3d: Run, box: Path, own_home: Path) -> None:
    write_box(box.parent / "deep" / "tall.obj", (1.0, 4.0, 1.0))
    (box.parent / "deep" / "broken.glb").write_bytes(b"not a model")
    write_box(box.parent / ".hidden" / "no.obj")
    done = g3d("view", box.parent, "--json")
    assert done.code == 3
    facts = done.json()
    assert facts["shown"] == 2
    assert [text.split(":")[0] for text in facts["problems"]] == ["deep/broken.glb"]
    assert pixels(own_home / "renders" / "models.png").shape[1::-1] == tuple(facts["size"])
    (box.parent / "deep" / "broken.glb").unlink()
    assert g3d("view", box.parent).code == 0
    assert g3d("view", box.parent, "--limit", 1, "--json").json()["shown"] == 1


def test_view_of_a_run_shows_its_export(g3d: Run, own_home: Path) -> None:
    run, export = own_home / "runs" / "00000-x", own_home / "exports" / "00000-x"
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    nothing = g3d("view", run)
    assert nothing.code == 1
    assert f"g3d export {run}" in nothing.err
    write_box(export / "000000.obj")
    provenance = {"run": "00000-x", "nimg": 3000, "dataset": "made"}
    (export / "export.json").write_text(json.dumps({"provenance": provenance}))
    of_run, of_export = g3d("view", run, "--json").json(), g3d("view", export, "--json").json()
    assert of_run["shown"] == 1
    assert (of_run["path"], of_run["size"]) == (of_export["path"], of_export["size"])


def test_view_of_one_model_is_its_render(g3d: Run, box: Path, tmp_path: Path) -> None:
    assert g3d("view", box, "-o", tmp_path / "v.png").code == 0
    assert g3d("render", box, "-o", tmp_path / "r.png").code == 0
    np.testing.assert_array_equal(pixels(tmp_path / "v.png"), pixels(tmp_path / "r.png"))


def test_open_calls_the_desktop(
    g3d: Run, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(pictures.sys, "platform", "linux")
    monkeypatch.setattr(pictures.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(pictures.subprocess, "Popen", lambda words, **more: calls.append(words))
    assert g3d("view", dataset, "--open", "-o", tmp_path / "a.png").code == 0
    assert calls == [["/bin/xdg-open", str(tmp_path / "a.png")]]
    monkeypatch.setattr(pictures.shutil, "which", lambda name: None)
    done = g3d("view", dataset, "--open", "-o", tmp_path / "b.png")
    assert (done.code, done.out) == (4, f"{tmp_path / 'b.png'}\n")
    assert (tmp_path / "b.png").is_file()


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("render nowhere.glb", 1, "there is nothing at nowhere.glb"),
        ("render MODELS", 2, "g3d view MODELS"),
        ("render DATA", 2, "--uid chair-s0-00000"),
        ("render DATA --uid chair-x", 1, "no asset 'chair-x'"),
        ("render BOX --uid chair-x", 1, "is not a dataset"),
        ("render MODELS/broken.glb", 1, "broken.glb: import"),
        ("render MODELS/untextured.obj", 1, "put the file where the model looks for it"),
        ("render BOX -o BOX", 2, "ends in .png"),
        ("render BOX -o sheet.jpg", 2, ".webp"),
        ("render BOX --camera fibonaci", 2, "fibonacci"),
        ("render BOX --light dark", 2, "render.light"),
        ("render BOX --views 0", 2, "views"),
        ("render BOX --turntable 1", 2, "turntable"),
        ("render BOX -s camera=3", 2, "camera"),
        ("render BOX -s camera.elevation=3", 2, "unknown key"),
        ("view nowhere", 1, "there is nothing at nowhere"),
        ("view DATA --uid chair-x", 1, "no asset 'chair-x'"),
        ("view DATA --limit 0", 2, "--limit"),
        ("view DATA -o sheet.gif", 2, "ends in .png"),
        ("view DATA/shards", 1, "holds no dataset"),
        ("view MODELS/weights.safetensors", 1, "g3d export"),
        ("view MODELS/part.tar", 1, "g3d view MODELS"),
        ("view MODELS/broken.glb", 1, "broken.glb: import"),
    ],
)
def test_errors_are_two_lines_and_leave_nothing(
    g3d: Run, box: Path, dataset: Path, own_home: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, words: str, code: int, message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    models = box.parent
    (models / "broken.glb").write_bytes(b"not a model")
    (models / "untextured.obj").write_text(f"mtllib gone.mtl\nusemtl x\n{box.read_text()}")
    for name in ("weights.safetensors", "part.tar"):
        (models / name).touch()
    before = files_below(tmp_path)

    def place(text: str) -> str:
        for name, path in (("MODELS", models), ("DATA", dataset), ("BOX", box)):
            text = text.replace(name, str(path))
        return text

    done = g3d(*place(words).split())
    assert (done.code, done.out) == (code, "")
    lines = done.err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["error", "hint"]
    assert place(message) in done.err
    assert files_below(tmp_path) == before
    assert not own_home.exists()


@pytest.mark.parametrize("where", ["views_sheet", "encode_png", "encode_animation"])
def test_a_failure_in_the_middle_leaves_no_part(
    box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def fail(*args: object) -> bytes:
        raise OSError("the disk went away")

    holder = pictures if where == "encode_animation" else sheets
    monkeypatch.setattr(holder, where, fail)
    config = pictures.render_config({"views": 1, "turntable": 2, "render": {"size": 16}})
    with pytest.raises(OSError, match="went away"):
        pictures.render(box, config, out=tmp_path / "out" / "a.png")
    assert not (tmp_path / "out").exists()
