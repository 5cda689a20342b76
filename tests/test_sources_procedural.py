"""Procedural shapes: reproducible, distinct, closed, wound outwards, varied."""

from __future__ import annotations

import json
import math
from collections import Counter
from functools import cache

import numpy as np
import pytest
from g3d.config import digest
from g3d.errors import AssetError, ConfigError
from g3d.manifests.categories import get_category
from g3d.manifests.shards import UID_PATTERN
from g3d.pipeline.sources.base import Source, SourceAsset
from g3d.pipeline.sources.procedural import SHAPES, ProceduralSource, chair, mug
from g3d.pipeline.sources.procedural.draw import Draw
from g3d.pipeline.sources.procedural.solids import (
    Assembly,
    Solid,
    beam,
    box,
    cylinder,
    lathe,
    linear,
    loft,
    rounded_rectangle,
    sweep,
    torus,
    tube,
)
from g3d.pipeline.sources.registry import get_source
from g3d.renderers.cameras import project, sample_cameras
from g3d.renderers.meshes import Mesh
from hypothesis import given
from hypothesis import strategies as st

NAMES = sorted(SHAPES)
every_shape = pytest.mark.parametrize("name", NAMES)
COUNT = 40


@cache
def shapes(name: str, count: int = COUNT) -> tuple[tuple[SourceAsset, Mesh], ...]:
    source = ProceduralSource(name, count)
    return tuple((asset, source.load(asset)) for asset in source.list())


def mesh_bytes(mesh: Mesh) -> bytes:
    assert mesh.face_materials is not None
    colors = json.dumps([m.base_color for m in mesh.materials]).encode()
    return mesh.vertices.tobytes() + mesh.faces.tobytes() + mesh.face_materials.tobytes() + colors


def parts(mesh: Mesh) -> list[np.ndarray]:
    """Faces of every connected part."""
    parent = np.arange(len(mesh.vertices))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b, c in mesh.faces.tolist():
        root = find(a)
        parent[find(b)] = root
        parent[find(c)] = root
    label = np.array([find(i) for i in mesh.faces[:, 0].tolist()])
    return [mesh.faces[label == k] for k in np.unique(label)]


def volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    a, b, c = (vertices[faces[:, k]].astype(float) for k in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)


def is_closed(faces: np.ndarray) -> bool:
    """Every directed edge once, and its opposite once."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    there = Counter(map(tuple, edges.tolist()))
    return all(n == 1 and there[(b, a)] == 1 for (a, b), n in there.items())


# --- sources -----------------------------------------------------------------------------------


@every_shape
def test_source_follows_the_protocol(name: str) -> None:
    source = get_source("procedural", category=name, limit=3, seed=5)
    assert isinstance(source, Source)
    assert source.name == "procedural"
    assets = source.list()
    assert [a.uid for a in assets] == [f"{name}-s5-{i:06d}" for i in range(3)]
    for asset in assets:
        assert UID_PATTERN.fullmatch(asset.uid)
        assert asset.category == name
        assert asset.license == "CC0-1.0"
        assert len(asset.sha256) == 64
        assert json.loads(json.dumps(asset.spec)) == asset.spec


def test_default_count_and_limit() -> None:
    assert len(get_source("procedural", category="chairs").list()) == 500
    assert len(get_source("procedural", category="chair", limit=7).list()) == 7


@every_shape
def test_same_uid_gives_the_same_bytes_however_it_is_reached(name: str) -> None:
    source = ProceduralSource(name, 12)
    listed = source.list()[9]
    alone = ProceduralSource(name, 1).asset(9)
    assert alone == listed
    carried = SourceAsset(**json.loads(json.dumps(vars(listed))))
    first = mesh_bytes(source.load(listed))
    assert mesh_bytes(ProceduralSource(name, 1).load(carried)) == first
    assert mesh_bytes(shapes(name)[9][1]) == first


GOLDEN = {
    # name: (digest of the parameters, mean distance of the vertices from the origin)
    "car": ("583a583f", 1.738400),
    "chair": ("1740f028", 0.579909),
    "motorbike": ("eae02cf2", 0.834755),
    "mug": ("8dfedab7", 0.728535),
    "table": ("96bcef7f", 0.675581),
}


@every_shape
def test_shapes_stay_the_same(name: str) -> None:
    # Change these only together with VERSION: data sets refer to shapes by their digests.
    asset, mesh = shapes(name)[0]
    sha, distance = GOLDEN[name]
    assert asset.sha256[:8] == sha
    assert np.linalg.norm(mesh.vertices, axis=1).mean() == pytest.approx(distance, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_two_hundred_shapes_are_all_distinct(name: str) -> None:
    assets = ProceduralSource(name, 200).list()
    assert len({a.sha256 for a in assets}) == 200
    meshes = [mesh for _, mesh in shapes(name)]
    assert len({m.vertices.tobytes() for m in meshes}) == len(meshes)


def test_two_hundred_chairs_differ_in_geometry() -> None:
    vertices = {digest(m.vertices.tolist()) for _, m in shapes("chair", 200)}
    assert len(vertices) == 200


def test_seeds_give_other_shapes() -> None:
    first = {a.sha256 for a in ProceduralSource("mug", 30, seed=0).list()}
    second = {a.sha256 for a in ProceduralSource("mug", 30, seed=1).list()}
    assert not first & second


def test_unknown_names_are_two_line_errors() -> None:
    with pytest.raises(ConfigError, match="did you mean 'procedural'") as caught:
        get_source("procedual", category="chair")
    assert "folder" in (caught.value.hint or "")
    with pytest.raises(ConfigError, match="unknown category 'chairz', did you mean 'chair"):
        get_source("procedural", category="chairz")
    with pytest.raises(ConfigError, match="no procedural shapes of category 'human'") as caught:
        get_source("procedural", category="human")
    assert "motorbike" in (caught.value.hint or "")
    with pytest.raises(ConfigError, match="--limit"):
        get_source("procedural", category="chair", limit=0)
    with pytest.raises(ConfigError, match="--root"):
        get_source("procedural", category="chair", root="/somewhere")


def test_a_record_that_is_not_a_chair_is_an_asset_error() -> None:
    source = ProceduralSource("chair", 1)
    asset = source.asset(0)
    broken = SourceAsset(**{**vars(asset), "spec": {"params": {"legs": "square"}}})
    with pytest.raises(AssetError) as caught:
        source.load(broken)
    assert caught.value.reason == "import"


# --- solids ------------------------------------------------------------------------------------

SOLIDS: dict[str, tuple[Solid, int]] = {
    # name: (solid, genus)
    "box": (box((0, 0, 0), (1, 2, 3)), 0),
    "cylinder": (cylinder((0, 0, 0), (0, 2, 0), 0.5), 0),
    "cone": (cylinder((1, 0, 0), (0, 2, 1), 0.5, 0.2), 0),
    "beam": (beam((0, 0, 0), (1, 1, 0), 0.2, 0.3), 0),
    "tube": (tube([(0, 0, 0), (0, 1, 0), (0, 1, 1)], 0.1), 0),
    "tube along x": (tube([(-1, 0, 0), (0, 0.1, 0), (1, 0, 0)], 0.1), 0),
    "lathe": (lathe([(0.5, 0), (0.7, 1), (0.2, 2)], 12), 0),
    "torus": (torus(1.0, 0.2, 16, 6), 1),
    "sweep": (sweep([(0, 0, 0), (0, 0, 1)], rounded_rectangle(0.3, 0.2, 0.1)), 0),
    "mirrored": (cylinder((1, 0, 0), (2, 2, 1), 0.5).mirrored(), 0),
    "turned": (box((0, 0, 0), (1, 2, 3)).turned(0, 0.7, (0, 1, 1)), 0),
}


@pytest.mark.parametrize("name", SOLIDS)
def test_solids_are_closed_and_wound_outwards(name: str) -> None:
    solid, genus = SOLIDS[name]
    assert is_closed(solid.faces)
    assert solid.volume > 0
    edges = 3 * len(solid.faces) // 2
    assert len(solid.vertices) - edges + len(solid.faces) == 2 - 2 * genus


def test_volumes_are_those_of_the_formulae() -> None:
    assert box((0, 0, 0), (1, 2, 3)).volume == pytest.approx(6)
    sides = 200
    assert cylinder((0, 1, 2), (0, 1, 5), 0.5, sides=sides).volume == pytest.approx(
        math.pi * 0.25 * 3, rel=1e-3
    )
    assert torus(1.0, 0.2, sides, 60).volume == pytest.approx(2 * math.pi**2 * 0.04, rel=5e-3)
    assert box((0, 0, 0), (1, 2, 3)).turned(2, 0.4).volume == pytest.approx(6)


def test_turning_is_right_handed() -> None:
    solid = box((0.9, -0.1, -0.1), (1.1, 0.1, 0.1))
    centre = solid.turned(2, math.pi / 2).vertices.mean(0)
    assert centre == pytest.approx([0, 1, 0], abs=1e-12)
    centre = solid.turned(1, math.pi / 2).vertices.mean(0)
    assert centre == pytest.approx([0, 0, -1], abs=1e-12)


def test_bands_carry_materials() -> None:
    out = Assembly()
    out.material("low", (255, 0, 0))
    out.material("unused", (9, 9, 9))
    out.material("high", (0, 0, 255))
    square = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    rings = [[(x, y, z) for x, z in square] for y in (0.0, 1.0, 2.0)]
    out.add(["low", "high"], loft(rings))
    mesh = out.mesh()
    assert [m.name for m in mesh.materials] == ["low", "high"]
    middle = mesh.vertices[mesh.faces].mean(1)[:, 1]
    assert mesh.face_materials is not None
    np.testing.assert_array_equal(mesh.face_materials, (middle > 1.0).astype(np.int32))


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_linear_is_the_inverse_of_the_srgb_curve(color: tuple[int, int, int]) -> None:
    c = np.array(linear(color)[:3])
    encoded = np.where(c <= 0.0031308, 12.92 * c, 1.055 * c ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(encoded * 255, color, atol=0.01)


# --- all families ------------------------------------------------------------------------------


@every_shape
def test_every_part_is_closed_and_wound_outwards(name: str) -> None:
    for asset, mesh in shapes(name)[:12]:
        for faces in parts(mesh):
            assert is_closed(faces), asset.uid
            assert volume(mesh.vertices, faces) > 1e-7, asset.uid


@every_shape
def test_meshes_are_well_formed(name: str) -> None:
    for asset, mesh in shapes(name):
        assert mesh.vertices.dtype == np.float32
        assert mesh.faces.dtype == np.int64
        assert mesh.face_materials is not None
        assert mesh.face_materials.dtype == np.int32
        assert np.isfinite(mesh.vertices).all()
        assert set(np.unique(mesh.face_materials)) == set(range(len(mesh.materials)))
        assert len(mesh.faces) < 6000
        # Upright on the ground, and symmetrical about x = 0 but for what has one side.
        low, high = mesh.vertices.min(0), mesh.vertices.max(0)
        assert -0.03 < low[1] < 0.05, asset.uid
        assert high[1] > 0.3
        for material in mesh.materials:
            assert all(0 <= c <= 1 for c in material.base_color)


@every_shape
def test_colours_vary(name: str) -> None:
    hues = set()
    for _, mesh in shapes(name):
        for material in mesh.materials:
            r, g, b = material.base_color[:3]
            if max(r, g, b) - min(r, g, b) > 0.25:
                hues.add((r > max(g, b), g > max(r, b), b > max(r, g)))
    assert len(hues) >= 3


@every_shape
def test_topology_varies(name: str) -> None:
    assert len({len(parts(mesh)) for _, mesh in shapes(name)[:25]}) >= 3


@every_shape
def test_default_camera_keeps_nearly_all_views_in_frame(name: str) -> None:
    prior = ProceduralSource(name, 1).default_camera
    extent = get_category(name).extent
    assert prior.radius == pytest.approx((2.6 * extent, 2.6 * extent))
    assert prior.elevation_deg == (0.0, 40.0)
    cut, size = [], []
    for i, (_, mesh) in enumerate(shapes(name)):
        low, high = mesh.vertices.min(0), mesh.vertices.max(0)
        points = (mesh.vertices - 0.5 * (low + high)) * (extent / (high - low).max())
        cameras = sample_cameras(prior, 8, np.random.default_rng(i))
        for view in range(8):
            pixels = project(points, cameras[view], 1, 1)
            cut.append(bool(((pixels < 0) | (pixels > 1)).any()))
            size.append((pixels.max(0) - pixels.min(0)).max())
    assert np.mean(cut) < 0.03
    assert np.mean(size) > 0.55


def test_chair_camera_shows_what_the_recipe_was_tuned_on() -> None:
    prior = ProceduralSource("chair", 1).default_camera
    assert prior.radius[0] == pytest.approx(1.82)
    half = prior.radius[0] * math.tan(math.radians(prior.fov_y_deg) / 2)
    assert half == pytest.approx(0.476, abs=1e-4)


def test_front_is_plus_z() -> None:
    for _, mesh in shapes("chair"):
        top = mesh.vertices[mesh.vertices[:, 1] > mesh.vertices[:, 1].max() - 0.1]
        assert top[:, 2].max() < 0, "the back of a chair is behind its seat"
    for name, lamp in (("car", "lamp"), ("motorbike", "tail")):
        for _, mesh in shapes(name):
            names = [m.name for m in mesh.materials]
            assert mesh.face_materials is not None
            faces = mesh.faces[mesh.face_materials == names.index(lamp)]
            z = mesh.vertices[faces][..., 2]
            assert z.min() > 0 if lamp == "lamp" else z.max() < 0


# --- chairs ------------------------------------------------------------------------------------


def test_chairs_have_all_kinds_of_legs_and_backs() -> None:
    params = [a.spec["params"] for a, _ in shapes("chair", 200)]
    legs, backs = Counter(p["legs"] for p in params), Counter(p["back"] for p in params)
    assert set(legs) == set(chair.LEGS)
    assert set(backs) == set(chair.BACKS)
    assert min(*legs.values(), *backs.values()) > 20
    assert 0.22 < np.mean([p["arms"] for p in params]) < 0.48


@given(st.integers(0, 10**9))
def test_chair_parts_are_thick_enough_to_be_seen(index: int) -> None:
    p = chair.draw(Draw("test", index))
    for key in ("seat_thickness", "back_thickness", "leg", "post", "bar", "slat", "arm"):
        assert 0.07 <= p[key] <= 0.13
    assert 0.42 <= p["back_height"] <= 0.68
    assert 0 <= p["tilt_deg"] <= 8
    for color in (p["frame_color"], p["seat_color"]):
        assert len(color) == 3
        assert all(isinstance(c, int) and 0 <= c <= 255 for c in color)
    # Bars leave gaps between them: holes that a silhouette shows.
    if p["back"] == "bars":
        room = p["back_height"] * (0.7 if p["bars"] == 2 else 0.83)
        assert room - p["bars"] * p["bar"] > 0.02


@pytest.mark.parametrize("name", ["chair", "table"])
def test_no_two_colours_share_a_plane(name: str) -> None:
    for asset, mesh in shapes(name)[:30]:
        assert mesh.face_materials is not None
        corners = mesh.vertices[mesh.faces].astype(float)
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        offset = np.einsum("ij,ij->i", normal, corners[:, 0])
        same = (normal @ normal.T > 1 - 1e-6) & (np.abs(offset[:, None] - offset) < 1e-3)
        same &= mesh.face_materials[:, None] != mesh.face_materials
        for i, j in np.argwhere(np.triu(same)):
            axes = [k for k in range(3) if k != np.argmax(np.abs(normal[i]))]
            a, b = corners[i][:, axes], corners[j][:, axes]
            overlap = np.minimum(a.max(0), b.max(0)) - np.maximum(a.min(0), b.min(0))
            assert not (overlap > 1e-3).all(), asset.uid


# --- mugs --------------------------------------------------------------------------------------


def inside(mesh: Mesh, points: int) -> np.ndarray:
    """Occupancy ``[points + 2] * 3`` of the union of all parts: parity of crossings along z."""
    low, high = mesh.vertices.min(0).astype(float), mesh.vertices.max(0).astype(float)
    step = float((high - low).max()) / points
    count = np.ceil((high - low) / step).astype(int)
    xs, ys, zs = (low[k] + (np.arange(count[k]) + 0.5137) * step for k in range(3))
    out = np.zeros((len(xs), len(ys), len(zs)), bool)
    for faces in parts(mesh):
        crossings = np.zeros(out.shape, int)
        for a, b, c in mesh.vertices[faces].astype(float):
            area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
            if abs(area) < 1e-14:
                continue
            i0, i1 = np.searchsorted(xs, [min(a[0], b[0], c[0]), max(a[0], b[0], c[0])])
            j0, j1 = np.searchsorted(ys, [min(a[1], b[1], c[1]), max(a[1], b[1], c[1])])
            x, y = xs[i0:i1, None], ys[None, j0:j1]
            u = ((c[1] - a[1]) * (x - a[0]) - (c[0] - a[0]) * (y - a[1])) / area
            v = ((b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])) / area
            hit = (u >= 0) & (v >= 0) & (u + v < 1)
            z = a[2] + u * (b[2] - a[2]) + v * (c[2] - a[2])
            crossings[i0:i1, j0:j1] += hit[..., None] & (zs > z[..., None])
        out |= crossings % 2 == 1
    return np.pad(out, 1)


def euler(solid: np.ndarray) -> int:
    """Euler characteristic of a set of closed voxels: vertices - edges + squares - cubes."""
    total = 0
    for cell in np.ndindex(2, 2, 2):
        # A cell that spans the axes with 1 is in the complex if any voxel around it is.
        near = solid
        for axis, spans in enumerate(cell):
            if not spans:
                first = np.take(near, range(near.shape[axis] - 1), axis)
                near = first | np.take(near, range(1, near.shape[axis]), axis)
        total += (-1) ** sum(cell) * int(near.sum())
    return total


@pytest.mark.parametrize(("handle", "characteristic"), [("d", 0), ("ear", 0), ("none", 1)])
def test_a_handle_makes_a_hole(handle: str, characteristic: int) -> None:
    # A solid in one piece without cavities has Euler characteristic 1 - genus.
    for index in range(3):
        params = mug.draw(Draw("test", handle, index)) | {"handle": handle, "filled": 0.0}
        assert euler(inside(mug.build(params), 44)) == characteristic


def test_mugs_hold_something() -> None:
    for asset, mesh in shapes("mug"):
        p = asset.spec["params"]
        if p["filled"]:
            continue
        centre = np.array([0.0, 0.5 * p["height"], 0.0])
        near = np.linalg.norm(mesh.vertices - centre, axis=1).min()
        assert near > 0.1, "the middle of a mug is empty"
        assert mesh.vertices[:, 1].max() == pytest.approx(0.992 * p["height"], rel=1e-3)


def test_mugs_with_and_without_handles() -> None:
    handles = Counter(a.spec["params"]["handle"] for a, _ in shapes("mug", 200))
    assert set(handles) == set(mug.HANDLES)
    assert 10 < handles["none"] < 60
