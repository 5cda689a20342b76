"""Quality gates: every rule with an asset that just passes and one that just fails; thumbnails."""

from __future__ import annotations

import base64
import io
import json
import struct
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from g3d.errors import AssetError, MissingDependency
from g3d.manifests.dataset import Dataset
from g3d.manifests.validate import validate_dataset
from g3d.pipeline import thumbnails
from g3d.pipeline.config import PrepareConfig, build_renderer, build_source, resolve_params
from g3d.pipeline.gates import (
    RULES,
    Colours,
    GateSettings,
    MeshFacts,
    PoseFacts,
    ViewFacts,
    check,
    coverage,
)
from g3d.pipeline.gates.mesh import count_objects, see_through_area
from g3d.pipeline.gates.views import luminance, see_through
from g3d.pipeline.job import Job, JobResult, failed_record
from g3d.pipeline.prepare import prepare
from g3d.pipeline.sources.base import SourceAsset
from g3d.renderers.base import Views
from g3d.renderers.meshes import Material, Mesh, concatenate, make_mesh
from g3d.renderers.meshes.load import is_animated
from g3d.renderers.raster import RasterRenderer, RasterScene
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

DOCS = Path(__file__).resolve().parent.parent / "docs"

CORNERS = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
SIDES = np.array([[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
                  [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]])  # fmt: skip


def box(size: Any = 1.0, at: Any = 0.0, **more: Any) -> Mesh:
    """A box with its lowest corner at ``at``."""
    return make_mesh(CORNERS * size + at, SIDES, **more)


def facts(*parts: Mesh, **known: Any) -> MeshFacts:
    return MeshFacts(concatenate(parts), **known)


def disc(alpha: int = 255, colour: Any = (200, 100, 50), size: int = 64) -> np.ndarray:
    """One view of a round thing with a soft edge, uint8 ``[1, H, W, 4]``."""
    grid = np.arange(size) + 0.5 - size / 2
    edge = np.clip(size / 3 - np.hypot(*np.meshgrid(grid, grid)) + 0.5, 0.0, 1.0)
    out = np.zeros((1, size, size, 4), np.uint8)
    out[..., :3] = colour
    out[..., 3] = np.rint(edge * alpha)
    return out


def views_of(rgba: np.ndarray) -> Views:
    none = np.zeros(rgba.shape[:3], np.float32)
    return Views(rgba, none, np.zeros((*none.shape, 3)), rgba[..., :3])


def spread_of(*parts: np.ndarray) -> Colours:
    colours = Colours()
    for part in parts:
        colours.add(views_of(part))
    return colours


def coloured(*columns: Any) -> np.ndarray:
    """A view whose columns have these colours."""
    out = np.full((1, 4, len(columns), 4), 255, np.uint8)
    out[..., :3] = np.array(columns)
    return out


def half_cut() -> np.ndarray:
    """Four views, two of which the object leaves."""
    out = np.concatenate([disc()] * 4)
    out[:2, :, 0, 3] = 255
    return out


GLASS = Material(base_color=(1, 1, 1, 0.5), alpha_mode="blend")
HALF_GLASS = facts(box(), box(at=[2, 0, 0], materials=[GLASS]))
TWO = facts(box(), box(at=[1.2, 0, 0]))
MEAN = float(coverage(disc())[0])

CASES: dict[str, tuple[str, Any, dict[str, Any], dict[str, Any]]] = {
    "triangles": ("triangles", facts(box()), {"max_triangles": 12}, {"max_triangles": 11}),
    "extent": ("extent", facts(box([1, 1, 0.1])),
               {"min_side_ratio": 0.0999}, {"min_side_ratio": 0.1001}),
    "a plate": ("extent", facts(box([1, 0, 1])), {}, {"min_side_ratio": 1e-6}),
    "animated": ("animated", facts(box(), animated=True), {}, {"allow_animated": False}),
    "missing_texture": ("missing_texture", facts(box(), missing=1),
                        {"max_missing_textures": 1.0}, {"max_missing_textures": 0.99}),
    "half of the textures": (
        "missing_texture",
        facts(box(uvs=CORNERS[:, :2], materials=[Material(texture=np.ones((2, 2, 4), np.uint8))]),
              missing=1),
        {"max_missing_textures": 0.5}, {"max_missing_textures": 0.49}),
    "several_objects": ("several_objects", TWO, {"max_objects": 2}, {"max_objects": 1}),
    "gap of objects": ("several_objects", TWO,
                       {"max_objects": 1, "object_gap": 0.2}, {"max_objects": 1}),
    "see_through_material": ("transparent", HALF_GLASS,
                             {"max_transparent_area": 0.53}, {"max_transparent_area": 0.47}),
    "blank": ("blank", ViewFacts(disc()),
              {"min_coverage": MEAN - 1e-6}, {"min_coverage": MEAN + 1e-6}),
    "filled": ("out_of_frame", ViewFacts(disc()),
               {"max_coverage": MEAN + 1e-6}, {"max_coverage": MEAN - 1e-6}),
    "clipped": ("out_of_frame", ViewFacts(half_cut()),
                {"max_border_share": 0.5}, {"max_border_share": 0.49}),
    "transparent": ("transparent", ViewFacts(np.concatenate([disc(), disc(128)])),
                    {"max_transparent": 0.5}, {"max_transparent": 0.45}),
    "all glass": ("transparent", ViewFacts(disc(128)), {"max_transparent": 1.0}, {}),
    "single_colour": ("single_colour", ViewFacts(disc(), spread_of(coloured([0] * 3, [51, 0, 0]))),
                      {"min_colour_spread": 0.0999}, {"min_colour_spread": 0.1001}),
    "dark": ("luminance", ViewFacts(disc(colour=(51, 51, 51))),
             {"min_luminance": 0.1999}, {"min_luminance": 0.2001}),
    "bright": ("luminance", ViewFacts(disc(colour=(51, 51, 51))),
               {"max_luminance": 0.2001}, {"max_luminance": 0.1999}),
    "pose cover": ("pose", PoseFacts(cover=0.96, iou=0.9, opaque=True), {},
                   {"min_pose_cover": 0.97}),
    "pose iou": ("pose", PoseFacts(cover=1.0, iou=0.6, opaque=True), {}, {"min_pose_iou": 0.61}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_rule_passes_up_to_its_threshold_and_rejects_beyond(name):
    reason, found, passing, failing = CASES[name]
    kinds = {MeshFacts: "mesh", ViewFacts: "views", PoseFacts: "poses"}
    when = kinds[type(found)]
    check(when, found, GateSettings(**passing))
    with pytest.raises(AssetError) as caught:
        check(when, found, GateSettings(**failing))
    assert (caught.value.reason, caught.value.stage) == (reason, "gate")
    rule = next(r for r in RULES if r.when == when and r.find(found, GateSettings(**failing)))
    assert reason in rule.reasons
    assert set(failing) <= set(rule.thresholds)


@pytest.mark.parametrize(
    ("mesh", "reason"),
    [
        (Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int64)), "empty_mesh"),
        (Mesh(np.zeros((3, 3), np.float32), np.array([[0, 1, 2]])), "empty_mesh"),
        (Mesh(np.full((3, 3), np.nan, np.float32), np.array([[0, 1, 2]])), "import"),
        (box(at=1e7), "import"),
    ],
)
def test_what_cannot_be_drawn_is_rejected_whatever_the_thresholds(mesh, reason):
    with pytest.raises(AssetError) as caught:
        check("mesh", MeshFacts(mesh), GateSettings())
    assert caught.value.reason == reason


def test_what_is_transparent_may_miss_the_iou_and_not_the_cover():
    check("poses", PoseFacts(cover=1.0, iou=0.1, opaque=False), GateSettings())
    with pytest.raises(AssetError):
        check("poses", PoseFacts(cover=0.5, iou=0.9, opaque=False), GateSettings())


def test_every_threshold_belongs_to_one_rule_and_every_rule_has_a_case():
    used = [field for rule in RULES for field in rule.thresholds]
    assert sorted(used) == sorted(GateSettings.model_fields)
    tried = {name for _, _, *settings in CASES.values() for one in settings for name in one}
    assert set(used) - tried == {"min_object_share"}  # test_small_parts_do_not_count
    assert len({rule.name for rule in RULES}) == len(RULES)


def test_the_documentation_has_the_table_of_rules():
    text = (DOCS / "gates.md").read_text(encoding="utf-8")
    defaults = GateSettings().model_dump(mode="json")
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    for rule in RULES:
        line = next(x for x in lines if x.startswith(f"| `{rule.name}`"))
        assert all(f"`{reason}`" in line for reason in rule.reasons), rule.name
        for field in rule.thresholds:
            value = json.dumps(defaults[field]).replace("null", "unset")
            assert f"`{field}` = {value}" in line, (rule.name, field)


def test_default_thresholds_take_plain_flat_dark_animated_and_manifold_things():
    check("mesh", facts(box([1, 0, 1]), box(at=5), animated=True, missing=3), GateSettings())
    check("mesh", facts(box(materials=[GLASS])), GateSettings())
    dark = np.concatenate([disc(colour=(0, 0, 0))] * 3)
    check("views", ViewFacts(dark, spread_of(dark)), GateSettings())


# --- things that stand apart ----------------------------------------------------------------------


def count(*parts: Mesh, gap: float = 0.025, least: float = 0.05) -> int:
    return count_objects(facts(*parts), gap, least)


@given(
    st.integers(1, 6), st.sampled_from([0.0, 0.4, 0.99, 2.3, 4.0]), st.integers(0, 2),
    st.floats(-1e3, 1e3),
)  # fmt: skip
def test_boxes_in_a_row_are_one_below_the_gap_and_many_beyond_twice_it(number, gaps, axis, at):
    # In cubes of the grid: the whole row is 40 of them long.
    step = 0.025 * gaps
    side = (1.0 - (number - 1) * step) / number
    offset = np.zeros(3)
    row = []
    for _ in range(number):
        row.append(box(side, at=offset + at))
        offset = offset + np.eye(3)[axis] * (side + step)
    if gaps == 0.99 and abs(at) > 10:
        return  # float32 positions are not fine enough for this
    assert count(*row) == (1 if gaps < 1 or number == 1 else number)


def table() -> Mesh:
    top = box([2, 0.1, 2], at=[0, 1, 0])
    legs = [box([0.1, 1, 0.1], at=[x, 0, z]) for x in (0.1, 1.8) for z in (0.1, 1.8)]
    return concatenate([top, *legs])


def test_a_cup_on_a_table_is_part_of_it_and_one_above_it_is_not():
    # It stands in the middle of two large triangles, far from all vertices.
    assert count(table(), box(0.4, at=[0.8, 1.1, 0.7])) == 1
    assert count(table(), box(0.4, at=[0.8, 1.3, 0.7])) == 2
    # It is inside the box around the table, and apart from it.
    assert count(table(), box(0.5, at=[0.8, 0.1, 0.7])) == 2


def test_small_parts_do_not_count():
    crumb = box(0.1, at=[1.5, 0, 0])  # a hundredth of the area
    assert count(box(), crumb) == 1
    assert count(box(), crumb, least=0.02) == 1
    assert count(box(), crumb, least=0.005) == 2
    pebbles = [box(0.2, at=[x, 0, z]) for x in range(5) for z in range(5)]
    assert count(*pebbles) == 25


def test_welding_order_and_unused_vertices_do_not_matter():
    for mesh, number in ((table(), 1), (concatenate([table(), box(at=[3, 0, 0])]), 2)):
        soup = make_mesh(
            mesh.vertices[mesh.faces].reshape(-1, 3), np.arange(3 * len(mesh.faces)).reshape(-1, 3)
        )
        mixed = replace(mesh, faces=mesh.faces[::-1].copy())
        bridge = np.linspace([0, 0, 0], [4, 2, 2], 999, dtype=np.float32)
        unused = replace(mesh, vertices=np.concatenate([mesh.vertices, bridge]))
        far = replace(mesh, vertices=np.concatenate([mesh.vertices, bridge * 1e6]))
        assert {
            count_objects(MeshFacts(m), 0.025, 0.05) for m in (mesh, soup, mixed, unused, far)
        } == {number}


@pytest.mark.parametrize("category", ["chair", "mug", "car", "motorbike"])
def test_procedural_shapes_are_one_thing_each(category):
    source = build_source(config(category=category, limit=40))
    counts = [MeshFacts(source.load(a)).objects(0.025, 0.05) for a in source.list()]
    assert counts == [1] * 40


@pytest.mark.slow
def test_a_million_triangles_are_counted_in_a_second():
    line = np.linspace(0, 1, 708)
    x, z = np.meshgrid(line, line)
    vertices = np.stack([x, 0.1 * np.sin(9 * x), z], -1).reshape(-1, 3)
    start = (np.arange(707)[:, None] * 708 + np.arange(707)).reshape(-1)
    faces = np.concatenate(
        [
            np.stack([start, start + 1, start + 708], 1),
            np.stack([start + 1, start + 709, start + 708], 1),
        ]
    )
    sheet = make_mesh(vertices, faces)
    both = facts(sheet, replace(sheet, vertices=sheet.vertices + np.float32([0, 1, 0])))
    assert both.areas.any()
    begun = time.process_time()
    assert both.objects(0.025, 0.05) == 2
    assert time.process_time() - begun < 4  # 2 million; about 1 s


# --- measures of materials and images -------------------------------------------------------------


def test_see_through_area_multiplies_factor_texture_and_vertices():
    solid = box()
    alphas = np.ones((8, 4))
    alphas[:, 3] = 0.5
    texture = np.full((4, 4, 4), 255, np.uint8)
    texture[:, :2, 3] = 100  # the left half
    quad = ([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]])
    uvs = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
    blend = Material(alpha_mode="blend")
    cases = [
        (solid, 0.0),
        (box(materials=[blend]), 0.0),
        (box(materials=[GLASS]), 1.0),
        (box(materials=[replace(GLASS, alpha_mode="mask")]), 0.0),
        (box(materials=[replace(GLASS, base_color=(1, 1, 1, 0.01))]), 0.0),
        (box(materials=[blend], colors=alphas), 1.0),
        (
            make_mesh(*map(np.array, quad), uvs=uvs, materials=[replace(blend, texture=texture)]),
            0.5,
        ),
        (concatenate([box([1, 1, 3]), box(materials=[GLASS], at=9)]), 6 / (6 + 14)),
    ]
    for mesh, share in cases:
        assert see_through_area(MeshFacts(mesh)) == pytest.approx(share, abs=0.03)


def test_soft_edges_and_wires_are_not_see_through():
    assert see_through(disc()) == 0.0
    assert see_through(disc(128)) == 1.0
    wires = np.zeros((1, 64, 64, 4), np.uint8)
    wires[:, ::8, :, 3] = 128  # half covered pixels, as of a thin rod
    wires[:, :, ::8, 3] = 128
    assert see_through(wires) == 0.0
    both = np.concatenate([disc(), disc(128)])
    assert see_through(both) == pytest.approx(0.46, abs=0.02)  # its edge tells nothing
    filled = np.full((2, 8, 8, 4), 128, np.uint8)
    assert see_through(filled) == 1.0  # to the border
    assert see_through(np.zeros((2, 8, 8, 4), np.uint8)) == 0.0


@given(st.integers(0, 999), st.floats(0, 1))
def test_the_short_way_never_hides_a_share_above_the_threshold(seed, enough):
    rng = np.random.default_rng(seed)
    rgba = np.zeros((2, 12, 12, 4), np.uint8)
    rgba[..., 3] = rng.choice([0, 100, 128, 255], (2, 12, 12), p=rng.dirichlet([0.1, 1, 1, 1]))
    exact, short = see_through(rgba), see_through(rgba, enough)
    assert short == exact or exact <= enough


def test_luminance_weighs_pixels_by_alpha_and_green_most():
    image = np.concatenate([disc(colour=(255, 255, 255)), disc(colour=(0, 0, 0), alpha=128)])
    assert luminance(image) == pytest.approx(255 / (255 + 128), abs=0.01)
    assert luminance(disc(colour=(0, 255, 0))) == pytest.approx(0.7152)
    assert luminance(np.zeros((1, 4, 4, 4), np.uint8)) == 0.0


def test_colour_spread_is_the_standard_deviation_over_all_views():
    rng = np.random.default_rng(0)
    one, two = (coloured(*rng.integers(0, 256, (9, 3))) for _ in range(2))
    pixels = np.concatenate([one, two])[..., :3].reshape(-1, 3) / 255.0
    expected = np.sqrt(pixels.var(axis=0).sum())
    assert spread_of(one, two).spread == pytest.approx(expected)
    assert spread_of(coloured([9, 8, 7])).spread == 0.0
    assert Colours().spread == 0.0


# --- animations in files --------------------------------------------------------------------------


def gltf(mesh: Mesh, animated: bool = False) -> dict[str, Any]:
    """A document with the mesh in it; a turn about the vertical axis as animation."""
    data = mesh.vertices.astype("<f4").tobytes() + mesh.faces.astype("<u4").tobytes()
    points = len(mesh.vertices) * 12
    low, high = mesh.vertices.min(axis=0).tolist(), mesh.vertices.max(axis=0).tolist()
    turns = np.array([[0, 1], [0, 0], [0, 1], [0, 0], [1, 0]], "<f4").T  # time, quaternion
    data += turns[:, 0].tobytes() + turns[:, 1:].tobytes()
    end = points + mesh.faces.size * 4
    document: dict[str, Any] = {
        "asset": {"version": "2.0"},
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": '"animations"'}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "buffers": [{"byteLength": len(data)}],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": points},
            {"buffer": 0, "byteOffset": points, "byteLength": end - points},
            {"buffer": 0, "byteOffset": end, "byteLength": 8},
            {"buffer": 0, "byteOffset": end + 8, "byteLength": 32},
        ],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": len(mesh.vertices), "type": "VEC3",
             "min": low, "max": high},
            {"bufferView": 1, "componentType": 5125, "count": mesh.faces.size, "type": "SCALAR"},
            {"bufferView": 2, "componentType": 5126, "count": 2, "type": "SCALAR"},
            {"bufferView": 3, "componentType": 5126, "count": 2, "type": "VEC4"},
        ],
    }  # fmt: skip
    if animated:
        target = {"sampler": 0, "target": {"node": 0, "path": "rotation"}}
        document["animations"] = [{"channels": [target], "samplers": [{"input": 2, "output": 3}]}]
    return document | {"data": data}


def write(path: Path, mesh: Mesh, animated: bool = False) -> Path:
    document = gltf(mesh, animated)
    data = document.pop("data")
    if path.suffix == ".gltf":
        inline = "data:application/octet-stream;base64," + base64.b64encode(data).decode()
        document["buffers"][0]["uri"] = inline
        path.write_text(json.dumps(document, indent=1))
        return path
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    data += b"\0" * (-len(data) % 4)
    total = 12 + 8 + len(text) + 8 + len(data)
    path.write_bytes(
        struct.pack("<4sII", b"glTF", 2, total)
        + struct.pack("<I4s", len(text), b"JSON") + text
        + struct.pack("<I4s", len(data), b"BIN\0") + data
    )  # fmt: skip
    return path


@pytest.mark.parametrize("suffix", [".glb", ".gltf"])
def test_a_file_says_whether_it_is_animated(tmp_path, suffix):
    assert is_animated(write(tmp_path / f"still{suffix}", box())) is False
    assert is_animated(write(tmp_path / f"moving{suffix}", box(), animated=True)) is True
    for n, data in enumerate((b"", b"glTF", b"glTF" + b"\xff" * 30, b'{"animations"', b"[1]")):
        path = tmp_path / f"broken{n}{suffix}"
        path.write_bytes(data)
        assert not is_animated(path)
    assert is_animated(tmp_path / f"gone{suffix}") is None


def test_formats_without_animations_say_no_and_unread_ones_nothing(tmp_path):
    assert [is_animated(tmp_path / f"a{s}") for s in (".obj", ".STL", ".ply")] == [False] * 3
    assert [is_animated(tmp_path / f"a{s}") for s in (".fbx", ".usdz", "")] == [None] * 3


# --- whole assets ---------------------------------------------------------------------------------

BASE: dict[str, Any] = {
    "source": "procedural",
    "category": "chair",
    "limit": 4,
    "views": 3,
    "render": {"size": 32, "supersample": 2},
    "workers": 0,
}


def config(**changes: Any) -> PrepareConfig:
    return PrepareConfig.model_validate({**BASE, **changes})


def job_of(made: PrepareConfig, renderer: RasterRenderer | None = None) -> Job:
    source = build_source(made)
    renderer = renderer or build_renderer(made, source)
    return Job(made, resolve_params(made, source, renderer), source, renderer)


def run(renderer: RasterRenderer | None = None, **changes: Any) -> JobResult:
    """What becomes of the first asset."""
    job = job_of(config(**changes), renderer)
    return job(job.source.list()[0])


def picture(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.mode) == ("PNG", "RGBA")
    return np.asarray(image)


def test_an_accepted_asset_has_its_facts_and_no_thumbnail():
    done = run()
    record = done.record
    assert (record.status, record.objects, record.animated) == ("accepted", 1, None)
    assert len(bytes.fromhex(record.fingerprint)) == 64
    assert done.thumbnail == b""
    member = json.loads(done.data[record.meta_offset :][: record.meta_length])["asset"]
    assert (member["objects"], member["fingerprint"]) == (1, record.fingerprint)
    assert "log" not in member
    assert "duplicate_of" not in member


REJECTED = {
    "triangles": {"max_triangles": 10},
    "extent": {"min_side_ratio": 0.999},
    "blank": {"min_coverage": 0.9},
    "out_of_frame": {"max_coverage": 0.01, "min_coverage": 0},
    "single_colour": {"min_colour_spread": 0.9},
    "luminance": {"max_luminance": 0.02},
    "pose": {"min_pose_iou": 1.0},
}


@pytest.mark.parametrize("reason", REJECTED)
def test_a_rejected_asset_has_its_reason_and_a_thumbnail(reason):
    done = run(gates=REJECTED[reason])
    assert (done.record.status, done.record.stage, done.record.reason) == (
        "rejected",
        "gate",
        reason,
    )
    assert done.data == b""
    image = picture(done.thumbnail)
    assert max(image.shape[:2]) == (128 if reason in ("triangles", "extent") else 32)
    assert (image[..., 3] == 255).mean() > 0.05
    assert image[image[..., 3] == 255][:, :3].std() > 2
    assert run(gates=REJECTED[reason]).thumbnail == done.thumbnail


def test_a_thumbnail_of_large_views_is_small_and_its_edges_keep_their_colour():
    rgba = np.zeros((300, 150, 4), np.uint8)
    rgba[40:200, 33:100] = (250, 10, 20, 255)
    image = picture(thumbnails.shrunk_png(rgba))
    assert image.shape == (128, 64, 4)
    seen = image[image[..., 3] > 0]
    assert (seen[:, 3] < 255).any()
    # Rounding is coarser where there is less of the colour.
    assert (np.abs(seen[:, :3] - [250.0, 10.0, 20.0]) * seen[:, 3:] <= 255).all()


def test_the_clearest_view_is_neither_empty_nor_full():
    rgba = np.zeros((4, 8, 8, 4), np.uint8)
    for n, rows in enumerate((0, 8, 5, 1)):
        rgba[n, :rows, :, 3] = 255
    np.testing.assert_array_equal(thumbnails.clearest(rgba), rgba[2])
    assert thumbnails.clearest(rgba[:1]) is None


def test_no_thumbnail_of_what_cannot_be_drawn(monkeypatch):
    def load(self, asset: SourceAsset) -> Mesh:
        return meshes[-1]

    monkeypatch.setattr("g3d.pipeline.sources.procedural.ProceduralSource.load", load)
    meshes = [
        Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int64)),
        Mesh(np.zeros((3, 3), np.float32), np.array([[0, 1, 2]])),
        Mesh(np.full((3, 3), np.inf, np.float32), np.array([[0, 1, 2]])),
    ]
    while meshes:
        done = run()
        assert (done.record.status, done.thumbnail) == ("rejected", b"")
        assert done.record.extent is None or len(meshes) == 2
        meshes.pop()


@pytest.mark.parametrize(
    "error",
    [AssetError("render_crash", "no", stage="render"), MemoryError(), MissingDependency("x")],
)
def test_a_thumbnail_that_fails_leaves_the_asset_rejected(error):
    class Broken(RasterRenderer):
        def open(self, asset: Any) -> RasterScene:
            return BrokenScene(asset)

    class BrokenScene(RasterScene):
        def render(self, *args: Any) -> Views:
            raise error

    done = run(Broken(), gates={"max_triangles": 10})
    assert (done.record.status, done.record.reason) == ("rejected", "triangles")
    assert done.thumbnail == b""


def test_of_too_many_triangles_some_are_drawn(monkeypatch):
    whole = picture(run(gates={"max_triangles": 10}).thumbnail)
    drawn = []

    class Counting(RasterRenderer):
        def open(self, asset: Any) -> RasterScene:
            drawn.append(len(asset.faces))
            return super().open(asset)

    monkeypatch.setattr(thumbnails, "MOST_TRIANGLES", 100)
    some = picture(run(Counting(), gates={"max_triangles": 10}).thumbnail)
    assert drawn[0] > 100
    assert 34 <= drawn[1] <= 100
    assert 0.1 < (some[..., 3] > 0).sum() / (whole[..., 3] > 0).sum() < 1


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A folder with one model for every rule that looks at meshes."""
    root = tmp_path_factory.mktemp("models")
    chair = build_source(config()).load(build_source(config()).list()[0])
    chair = make_mesh(chair.vertices, chair.faces)
    write(root / "good.glb", chair)
    write(root / "moving.glb", chair, animated=True)
    write(
        root / "pair.gltf",
        concatenate([chair, replace(chair, vertices=chair.vertices + np.float32([3, 0, 0]))]),
    )
    write(root / "plate.glb", box([1, 0.001, 1]))
    write(root / "sheet.glb", concatenate([chair] * 4))
    return root


STRICT = {
    "max_triangles": 3000,
    "min_side_ratio": 0.01,
    "allow_animated": False,
    "max_objects": 1,
}


def test_a_folder_through_strict_gates(models, tmp_path):
    triangles = len(build_source(config()).load(build_source(config()).list()[0]).faces)
    folder = {"source": "folder", "root": str(models), "limit": None, "breaker_share": 1}
    gates = STRICT | {"max_triangles": 2 * triangles}
    report = prepare(config(**folder, gates=gates), tmp_path / "d")
    assert report.reasons == {
        "gate/animated": 1, "gate/extent": 1, "gate/several_objects": 1, "gate/triangles": 1,
    }  # fmt: skip
    records = {r.source_id.split(".")[0]: r for r in Dataset.open(tmp_path / "d").records()}
    assert records["good"].status == "accepted"
    assert (records["good"].animated, records["good"].objects) == (False, 1)
    assert records["moving"].animated is True
    assert records["pair"].objects == 2
    assert validate_dataset(tmp_path / "d") == []
    job = job_of(config(**folder, gates=gates))
    for asset in job.source.list():
        done = job(asset)
        assert bool(done.thumbnail) == (done.record.status == "rejected")


def test_by_default_all_of_them_are_taken_and_their_facts_kept(models, tmp_path):
    folder = {"source": "folder", "root": str(models), "limit": None}
    report = prepare(config(**folder), tmp_path / "d")
    assert (report.accepted, report.reasons) == (5, {})
    records = {r.source_id.split(".")[0]: r for r in Dataset.open(tmp_path / "d").records()}
    assert [records[n].objects for n in ("good", "pair", "plate")] == [1, 2, 1]
    assert [records[n].animated for n in ("good", "moving")] == [False, True]


def test_a_failed_record_keeps_stage_and_log():
    source = build_source(config())
    asset = source.list()[0]
    plain = failed_record(asset, config(), "timeout", "too slow", 2)
    assert (plain.stage, plain.log, plain.attempts, plain.status) == ("render", None, 2, "failed")
    other = failed_record(asset, config(), "gone", "404", 1, "last line", stage="fetch")
    assert (other.stage, other.log, other.reason) == ("fetch", "last line", "gone")
