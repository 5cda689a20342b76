"""Blender's images: settings, passes, colours, cameras, and agreement with the rasteriser."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from g3d.errors import MissingDependency
from g3d.renderers.base import RenderSettings, Views
from g3d.renderers.blender.inside.exr import read_exr
from g3d.renderers.blender.inside.looks import LOOKS, look_from
from g3d.renderers.blender.process import find_python
from g3d.renderers.blender.renderer import BlenderRenderer
from g3d.renderers.blender.settings import BlenderSettings
from g3d.renderers.cameras import Camera, orbit, project
from g3d.renderers.meshes import normalise
from g3d.renderers.meshes.load import load_mesh
from g3d.renderers.raster import RasterRenderer
from PIL import Image
from trimesh.visual import ColorVisuals, TextureVisuals
from trimesh.visual.material import PBRMaterial

ROOT = Path(__file__).resolve().parent.parent
ASSETS = Path(os.environ.get("G3D_SHARED_ASSETS", ROOT.parent / "shared" / "assets"))
EXTENT = 0.9
FOV = 0.8


def python() -> Path | None:
    try:
        return find_python()
    except MissingDependency:
        return None


PYTHON = python()
blender = [
    pytest.mark.blender,
    pytest.mark.skipif(PYTHON is None, reason="no interpreter has bpy (docs/blender.md)"),
]


def needs_blender(test: Callable) -> Callable:
    for mark in blender:
        test = mark(test)
    return test


def cameras(count: int = 8) -> Camera:
    """All round, from below the horizon to high above it."""
    n = np.arange(count)
    elevation = np.deg2rad(-20 + 75 * n / max(count - 1, 1))
    return orbit(0.3 + n * 2 * np.pi / count, elevation, 1.8, FOV)


# --- assets -----------------------------------------------------------------------------------


def textured_cube() -> trimesh.Trimesh:
    cube = trimesh.creation.box((1.0, 0.7, 0.5))
    cube.unmerge_vertices()
    uv = np.tile([[0.05, 0.1], [0.9, 0.15], [0.5, 0.95]], (len(cube.faces), 1))
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 255, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    material = PBRMaterial(baseColorTexture=Image.fromarray(pixels), metallicFactor=0.0)
    cube.visual = TextureVisuals(uv=uv, material=material)
    return cube


def thin_chair() -> trimesh.Trimesh:
    boxes = [((0.5, 0.04, 0.5), (0, 0.5, 0)), ((0.5, 0.5, 0.03), (0, 0.77, -0.24))]
    boxes += [((0.035, 0.5, 0.035), (x, 0.25, z)) for x in (-0.22, 0.22) for z in (-0.22, 0.22)]
    parts = [trimesh.creation.box(size) for size, _ in boxes]
    for part, (_, at) in zip(parts, boxes, strict=True):
        part.apply_translation(at)
    chair = trimesh.util.concatenate(parts)
    material = PBRMaterial(baseColorFactor=[180, 120, 60, 255], metallicFactor=0.0)
    chair.visual = TextureVisuals(uv=np.zeros((len(chair.vertices), 2)), material=material)
    return chair


def torus() -> trimesh.Trimesh:
    ring = trimesh.creation.torus(0.4, 0.15, major_sections=48, minor_sections=24)
    material = PBRMaterial(baseColorFactor=[40, 90, 200, 255], metallicFactor=1.0)
    ring.visual = TextureVisuals(uv=np.zeros((len(ring.vertices), 2)), material=material)
    return ring


def coloured_l() -> trimesh.Trimesh:
    """No two of its views are alike, mirrored or turned."""
    foot = trimesh.creation.box((1.0, 0.25, 0.4))
    post = trimesh.creation.box((0.25, 0.8, 0.2))
    post.apply_translation((0.375, 0.5, 0.1))
    both = trimesh.util.concatenate([foot, post]).subdivide()
    p = both.vertices
    colors = 40 + 200 * (p - p.min(0)) / np.ptp(p, axis=0)
    both.visual = ColorVisuals(both, vertex_colors=np.c_[colors, np.full(len(p), 255)].astype("u1"))
    return both


def inside_out_l() -> trimesh.Trimesh:
    """Both sides of a face are drawn."""
    both = coloured_l()
    both.invert()
    return both


MADE = {
    "textured_cube.glb": textured_cube,
    "thin_chair.obj": thin_chair,
    "torus.glb": torus,
    "coloured_l.glb": coloured_l,
    "coloured_l.ply": coloured_l,
    "inside_out_l.glb": inside_out_l,
}


def real_assets() -> list[Path]:
    """Ten of the cars beside the repository, of all three collections; none: an empty list."""
    found = sorted([*ASSETS.glob("cars/*/*.gltf"), *ASSETS.glob("cars/*/*.glb")])
    return found[:: max(1, len(found) // 10)][:10]


REAL = real_assets()


# --- agreement --------------------------------------------------------------------------------


def start(look: str, samples: int | None = None) -> Iterator[BlenderRenderer]:
    renderer = BlenderRenderer(BlenderSettings(look=look, samples=samples))
    yield renderer
    renderer.close()


@pytest.fixture(scope="module")
def flat() -> Iterator[BlenderRenderer]:
    yield from start("flat")


@pytest.fixture(scope="module")
def lit() -> Iterator[BlenderRenderer]:
    yield from start("lit", 5)


def iou(one: Views, two: Views) -> np.ndarray:
    """Per view, of what is more than half covered."""
    a, b = one.rgba[..., 3] > 127, two.rgba[..., 3] > 127
    return (a & b).sum((1, 2)) / (a | b).sum((1, 2))


def both_covered(one: Views, two: Views) -> np.ndarray:
    return (one.rgba[..., 3] > 127) & (two.rgba[..., 3] > 127)


def depth_difference(one: Views, two: Views) -> float:
    """Median, in units of the extent."""
    inside = both_covered(one, two)
    return float(np.median(np.abs(one.depth - two.depth)[inside])) / EXTENT


def render_both(renderer: BlenderRenderer, path: Path, size: int = 256) -> tuple[Views, Views]:
    """The same file by Blender, which imports it itself, and by the rasteriser."""
    mesh = load_mesh(path)
    transform = normalise(mesh, EXTENT)[1]
    settings, views = RenderSettings(size=size, light="flat"), cameras()
    ours = RasterRenderer().open(mesh).render(views, settings, transform)
    return renderer.open(path).render(views, settings, transform), ours


def assert_agreement(theirs: Views, ours: Views) -> None:
    assert iou(theirs, ours).min() > 0.98
    assert depth_difference(theirs, ours) < 0.005
    inside = both_covered(theirs, ours)
    cosine = (theirs.normal * ours.normal).sum(-1)[inside]
    assert np.median(cosine) > 0.999
    assert np.mean(cosine < 0.9) < 0.05


@needs_blender
@pytest.mark.parametrize("name", MADE)
def test_blender_and_the_rasteriser_agree(name: str, flat: BlenderRenderer, tmp_path: Path) -> None:
    MADE[name]().export(tmp_path / name)
    theirs, ours = render_both(flat, tmp_path / name)
    assert_agreement(theirs, ours)
    inside = both_covered(theirs, ours)
    assert inside.sum() > 8 * 256 * 256 * 0.02
    for channel in (theirs.albedo, theirs.rgba[..., :3]):
        difference = np.abs(channel.astype(int) - ours.rgba[..., :3])[inside]
        assert np.median(difference) <= 1
        assert np.mean(difference > 16) < 0.1  # edges of texels


@needs_blender
@pytest.mark.skipif(len(REAL) < 10, reason="no ../shared/assets/cars")
@pytest.mark.parametrize("path", REAL, ids=[path.stem for path in REAL])
def test_they_agree_on_real_assets(path: Path, flat: BlenderRenderer) -> None:
    assert_agreement(*render_both(flat, path))


@needs_blender
def test_the_agreement_test_can_fail(flat: BlenderRenderer, tmp_path: Path) -> None:
    path = tmp_path / "coloured_l.glb"
    coloured_l().export(path)
    theirs, ours = render_both(flat, path, 64)
    mirrored = replace(ours, rgba=ours.rgba[:, :, ::-1])
    assert iou(theirs, mirrored).max() < 0.98


@needs_blender
def test_a_mesh_and_its_file_look_the_same(flat: BlenderRenderer, tmp_path: Path) -> None:
    path = tmp_path / "coloured_l.glb"
    coloured_l().export(path)
    settings = RenderSettings(size=96)
    one = flat.open(path).render(cameras(2), settings)
    two = flat.open(load_mesh(path)).render(cameras(2), settings)
    assert iou(one, two).min() > 0.999
    assert np.abs(one.rgba.astype(int) - two.rgba).max() <= 2


@needs_blender
def test_a_lit_look_has_the_same_geometry_and_albedo(
    lit: BlenderRenderer, flat: BlenderRenderer, tmp_path: Path
) -> None:
    path = tmp_path / "torus.glb"
    torus().export(path)
    theirs, ours = render_both(lit, path, 160)
    assert_agreement(theirs, ours)
    inside = both_covered(theirs, ours)
    assert np.abs(theirs.albedo.astype(int) - ours.rgba[..., :3])[inside].max() <= 1
    assert np.abs(theirs.rgba.astype(int) - ours.rgba)[inside].mean() > 5  # it is lit


@needs_blender
def test_images_keep_the_contract(lit: BlenderRenderer, tmp_path: Path) -> None:
    """Zero where alpha is zero, a depth and a unit normal wherever it is not."""
    path = tmp_path / "chair.obj"
    thin_chair().export(path)
    mesh = load_mesh(path)
    settings = RenderSettings(size=48, width=80)
    views = lit.open(path).render(cameras(3), settings, normalise(mesh, EXTENT)[1])
    assert views.rgba.shape == (3, 48, 80, 4)
    assert views.rgba.dtype == views.albedo.dtype == np.uint8
    assert views.depth.dtype == views.normal.dtype == np.float32
    empty = views.rgba[..., 3] == 0
    assert empty.any()
    for channel in (views.rgba, views.normal, views.albedo):
        assert not channel[empty].any()
    assert not views.depth[empty].any()
    assert 1.0 < views.depth[~empty].min() < views.depth.max() < 2.6
    assert np.allclose(np.linalg.norm(views.normal[~empty], axis=-1), 1.0, atol=1e-5)
    partial = (views.rgba[..., 3] > 0) & (views.rgba[..., 3] < 255)
    assert partial.sum() > 50  # alpha is soft


@needs_blender
def test_normals_face_the_camera_and_are_plus_y_up(flat: BlenderRenderer, tmp_path: Path) -> None:
    path = tmp_path / "cube.glb"
    trimesh.creation.box().export(path)
    view = orbit(0.0, np.deg2rad(np.array([30.0])), 4.0, FOV)
    found = flat.open(path).render(view, RenderSettings(size=32)).normal[0]
    seen = {tuple(row) for row in np.round(found[found.any(-1)], 2).tolist()}
    assert {(0.0, 1.0, 0.0), (0.0, 0.0, 1.0)} <= seen
    assert all(row[2] >= 0 and row[1] >= 0 for row in seen)


# --- inside Blender ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """All that blender_inside.py found, by name."""
    out = tmp_path_factory.mktemp("blender") / "out.npz"
    folder = ROOT / "renderers" / "blender"
    script = ROOT / "tests" / "blender_inside.py"
    done = subprocess.run(
        [str(PYTHON), "-s", "-P", str(script), str(folder), str(out)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(out) as file:
        return {name: file[name] for name in file.files}


IMAGES = ("rgba", "depth", "normal", "albedo")
each_look = pytest.mark.parametrize("look", LOOKS)


@needs_blender
def test_the_self_test_finds_the_way_through_memory(inside: dict[str, np.ndarray]) -> None:
    assert str(inside["self_test"]) == "memory"


@needs_blender
def test_without_the_hook_it_goes_by_exr(inside: dict[str, np.ndarray]) -> None:
    assert inside["fallback.self_test"].tolist() == ["exr", "exr", "memory"]
    for name in IMAGES:
        first = inside[f"same.flat.first.{name}"]
        np.testing.assert_array_equal(inside[f"fallback.auto.{name}"], first)


@needs_blender
@pytest.mark.parametrize("shape", ["square", "portrait", "landscape"])
def test_cameras_project_the_position_pass(shape: str, inside: dict[str, np.ndarray]) -> None:
    position, hit = inside[f"cameras.{shape}.position"], inside[f"cameras.{shape}.hit"] == 1
    height, width = hit.shape
    assert hit.sum() > 0.05 * height * width
    camera = Camera(inside[f"cameras.{shape}.c2w"], np.asarray(FOV))
    found = project(position[hit].astype(np.float64), camera, height, width)
    rows, columns = np.nonzero(hit)
    error = np.linalg.norm(found - np.stack([columns + 0.5, rows + 0.5], axis=-1), axis=-1)
    assert error.mean() < 0.01
    assert error.max() < 0.05


@needs_blender
@each_look
@pytest.mark.parametrize(
    "other", ["again", "exr", "after others", "threads", "spoiled", "not persistent", "not cropped"]
)
def test_the_same_pixels(look: str, other: str, inside: dict[str, np.ndarray]) -> None:
    """Again, by EXR, after other looks, with 2 threads, whatever the scene was set to before."""
    for name in IMAGES:
        first = inside[f"same.{look}.first.{name}"]
        assert first.any()
        np.testing.assert_array_equal(inside[f"same.{look}.{other}.{name}"], first, err_msg=name)


@needs_blender
def test_cropping_changes_no_pixel(inside: dict[str, np.ndarray]) -> None:
    borders = [bool(inside[f"crop.border {n}"]) for n in range(5)]
    assert sum(borders) >= 3
    for n in range(5):
        assert inside[f"crop.whole {n}.rgba"].any()
        for name in IMAGES:
            found, whole = (inside[f"crop.{kind} {n}.{name}"] for kind in ("cropped", "whole"))
            np.testing.assert_array_equal(found, whole, err_msg=f"{n} {name}")


@needs_blender
@each_look
def test_colours_are_blenders_own(look: str, inside: dict[str, np.ndarray]) -> None:
    ours, blenders = inside[f"png.{look}.ours"].astype(int), inside[f"png.{look}.dither 0"]
    shown = ours[..., 3] > 0
    assert shown.any()
    np.testing.assert_array_equal(ours[..., 3], blenders[..., 3])
    difference = np.abs(ours - blenders)[shown & (ours[..., 3] > 8)]
    assert difference.max() <= 1
    assert np.mean(difference > 0) < 0.01


@needs_blender
def test_dither_is_off(inside: dict[str, np.ndarray]) -> None:
    plain, dithered = inside["png.flat.dither 0"], inside["png.flat.dither 1"]
    assert np.mean(plain != dithered) > 0.01  # or the test above would say nothing of it


@needs_blender
def test_a_transform_of_the_asset_is_one_of_the_camera(inside: dict[str, np.ndarray]) -> None:
    plain, moved = inside["transform.plain.rgba"].astype(int), inside["transform.moved.rgba"]
    assert np.mean(np.abs(plain - moved) > 2) < 0.01
    np.testing.assert_array_equal(inside["transform.back.rgba"], plain)


def srgb(*linear: float) -> list[float]:
    return [255 * (12.92 * v if v <= 0.0031308 else 1.055 * v ** (1 / 2.4) - 0.055) for v in linear]


COLOR = srgb(0.6, 0.3, 0.1)
TEXEL = [200.0, 100.0, 50.0]
EXPECTED = {
    "factor": COLOR,
    "metal": COLOR,
    "image": TEXEL,
    "image_times_factor": srgb(*(0.5 * (((v / 255) + 0.055) / 1.055) ** 2.4 for v in TEXEL)),
    "holes": [0.0, 0.0, 0.0],
    "blend": TEXEL,
    "invisible": [0.0, 0.0, 0.0],
    "emission": COLOR,
    "glowing": COLOR,
    "unlit": COLOR,
    "mixture": srgb(0.4, 0.3, 0.3),
    "sum_with_glow": COLOR,
    "group": COLOR,
    "no_nodes": COLOR,
    "no_output": COLOR,
    "nothing_linked": COLOR,
    "none": [255.0, 255.0, 255.0],
    "vertex_colors": srgb(0.5, 0.5, 0.5),
    "vertex_colors_times_factor": srgb(0.3, 0.15, 0.05),
    "vertex_colors_used": srgb(0.5, 0.5, 0.5),
}


@needs_blender
@pytest.mark.parametrize("kind", EXPECTED)
def test_base_colours_of_materials(kind: str, inside: dict[str, np.ndarray]) -> None:
    """In the middle of a square of each kind: the flat look, and albedo beside a lit one."""
    names = inside["kinds.names"].tolist()
    assert names == list(EXPECTED)
    row, column = inside["kinds.at"][names.index(kind)].astype(int)
    for image in ("flat.rgba", "flat.albedo", "lit.albedo"):
        found = inside[f"kinds.{image}"][0, row, column, :3]
        assert np.abs(found - np.asarray(EXPECTED[kind])).max() <= 1, (image, found)
    depth = 6.5 if kind in ("holes", "invisible") else 6.0
    for look in ("flat", "lit"):
        assert inside[f"kinds.{look}.depth"][0, row, column] == pytest.approx(depth, abs=1e-3)
        assert inside[f"kinds.{look}.rgba"][0, row, column, 3] == 255


@needs_blender
def test_nothing_is_left_of_the_last_asset(inside: dict[str, np.ndarray]) -> None:
    counts = inside["leaks.counts"]
    np.testing.assert_array_equal(counts, np.broadcast_to(counts[0], counts.shape))


# --- looks, without Blender -------------------------------------------------------------------


def test_looks_from_plain_values() -> None:
    assert look_from({"name": "flat"}) == LOOKS["flat"]
    changed = look_from(
        {"name": "lit", "samples": 4, "filter_width": 1, "point_position": [1, 2, 3]}
    )
    assert changed == replace(
        LOOKS["lit"], samples=4, filter_width=1.0, point_position=(1.0, 2.0, 3.0)
    )


@pytest.mark.parametrize(
    "values",
    [{"name": "rosy"}, {"sample": 3}, {"samples": "3"}, {"samples": 0}, {"samples": True},
     {"shading": "matt"}, {"point_position": [1, 2]}, {"denoise": 1}],
)  # fmt: skip
def test_wrong_looks_are_refused(values: dict) -> None:
    with pytest.raises(ValueError, match="look"):
        look_from(values)


def test_an_exr_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.exr"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    with pytest.raises(ValueError, match="EXR"):
        read_exr(path)
