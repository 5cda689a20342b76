"""Cleaning, unwrapping, baking and writing one mesh."""

from __future__ import annotations

import io
import json
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import trimesh
from g3d.errors import AssetError
from g3d.renderers.meshes import Material, Mesh, bounds, face_areas, make_mesh, sample_surface
from g3d.renderers.meshes.load import load_mesh
from g3d.trainer.asset import Asset
from g3d.trainer.export.bake import bake, evaluate, fill_background, texel_positions
from g3d.trainer.export.clean import (
    clean,
    component_labels,
    decimate,
    drop_floaters,
    unit_normals,
    weld,
)
from g3d.trainer.export.driver import ExportConfig, texture_mesh
from g3d.trainer.export.glb import encode_glb
from g3d.trainer.export.unwrap import unwrap
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label, map_coordinates


def stripes(points: np.ndarray) -> np.ndarray:
    """A smooth colour of the position, different along each axis and asymmetric."""
    return (0.5 + 0.45 * np.sin(points * [3.0, 4.0, 5.0] + [0.3, 1.0, 2.0])).astype(np.float32)


@dataclass
class AnalyticAsset:
    seed: int
    mesh: Mesh

    def to_mesh(self) -> Mesh:
        return self.mesh

    def color(self, points: np.ndarray) -> np.ndarray:
        return stripes(points)

    def render(self, cameras, size):  # export does not render assets
        raise NotImplementedError


def as_mesh(body: trimesh.Trimesh) -> Mesh:
    return Mesh(np.asarray(body.vertices, np.float32), np.asarray(body.faces, np.int64))


def torus() -> Mesh:
    return as_mesh(trimesh.creation.torus(0.35, 0.12, major_sections=48, minor_sections=24))


def chair() -> Mesh:
    """Six boxes, subdivided: many pieces, sharp edges, thin parts."""
    boxes = [((0.5, 0.06, 0.5), (0, 0, 0)), ((0.5, 0.5, 0.06), (0, 0.25, -0.22))]
    boxes += [((0.06, 0.5, 0.06), (x, -0.25, z)) for x in (-0.2, 0.2) for z in (-0.2, 0.2)]
    parts = []
    for size, centre in boxes:
        box = trimesh.creation.box(size)
        box.apply_translation(centre)
        parts.append(box.subdivide_to_size(0.05))
    return as_mesh(trimesh.util.concatenate(parts))


def read_glb(path: Path) -> Mesh:
    """Read a GLB through trimesh, which knows nothing of g3d's own loader."""
    body = trimesh.load(path, file_type="glb", force="mesh", process=False)
    image = body.visual.material.baseColorTexture.convert("RGBA")
    return make_mesh(
        body.vertices, body.faces, uvs=body.visual.uv, normals=body.vertex_normals,
        materials=[Material(texture=np.array(image))],
    )  # fmt: skip


SHAPES = {"torus": torus, "chair": chair}


@pytest.mark.parametrize("backend", ["uvunwrap", "xatlas"])
@pytest.mark.parametrize("shape", SHAPES)
def test_unwrap_keeps_the_triangles_and_does_not_overlap(shape, backend):
    mesh = clean(SHAPES[shape]())
    atlas = unwrap(mesh.vertices, mesh.faces, 256, 4, backends=(backend,))
    assert atlas.backend == backend
    assert np.array_equal(atlas.source[atlas.faces], mesh.faces)
    assert np.array_equal(atlas.vertices, mesh.vertices[atlas.source])
    assert atlas.uvs.min() >= 0
    assert atlas.uvs.max() <= 1
    # The area that the triangles claim equals the area of the texels that they cover: no overlap.
    flat = np.concatenate([atlas.uvs, np.zeros((len(atlas.uvs), 1), np.float32)], axis=1)
    claimed = face_areas(Mesh(flat, atlas.faces)).sum()
    covered = texel_positions(atlas.vertices, atlas.faces, atlas.uvs, 2048, margin=1e-6)[1].mean()
    assert claimed == pytest.approx(covered, rel=0.02)
    # The atlas is square on the surface: texel density is equal along u and v.
    a, b, c = mesh.vertices[mesh.faces].astype(np.float64).transpose(1, 0, 2)
    uv = atlas.uvs[atlas.faces].astype(np.float64)
    frame = np.stack([uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]], axis=2)
    edge = np.stack([b - a, c - a], axis=2)
    good = np.abs(np.linalg.det(frame)) > 1e-9
    stretch = np.linalg.svd(edge[good] @ np.linalg.inv(frame[good]), compute_uv=False)
    assert np.median(stretch[:, 0] / stretch[:, 1]) < 1.12


def test_charts_keep_their_padding():
    mesh = clean(chair())
    atlas = unwrap(mesh.vertices, mesh.faces, 256, 4)
    # Islands grown by 1.4 texels each still do not touch: they are more than 2 texels apart.
    _, grown = texel_positions(atlas.vertices, atlas.faces, atlas.uvs, 256, margin=1.4)
    assert label(grown, np.ones((3, 3)))[1] == atlas.charts


def test_unwrap_refuses_what_it_cannot_do():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, np.nan, 0]], np.float32)
    faces = np.array([[0, 1, 2]])
    with pytest.raises(AssetError, match="finite"):
        unwrap(vertices, faces, 64)
    empty = unwrap(np.zeros((0, 3)), np.zeros((0, 3), np.int64), 64)
    assert len(empty.faces) == len(empty.uvs) == 0
    mesh = clean(chair())
    with pytest.raises(AssetError, match="xatlas"):
        unwrap(mesh.vertices, mesh.faces, 64, time_limit=0.01, backends=("xatlas",))


def test_unwrap_falls_back(monkeypatch):
    from g3d.trainer.export import unwrap as module

    def broken(*args):
        raise RuntimeError("no")

    monkeypatch.setitem(module._BACKENDS, "uvunwrap", broken)
    mesh = clean(torus())
    assert module.unwrap(mesh.vertices, mesh.faces, 128).backend == "xatlas"


def test_texel_positions_of_one_known_triangle():
    # u along +x, v along +y, the lower left half of the texture.
    vertices = np.array([[0, 0, 0], [2, 0, 0], [0, 2, 0]], np.float32)
    uvs = np.array([[0, 0], [1, 0], [0, 1]], np.float32)
    positions, covered = texel_positions(vertices, np.array([[0, 1, 2]]), uvs, 4, margin=1e-6)
    # Bottom-left origin: row 3 is v near 0. Texel centres at (i + 0.5) / 4.
    assert positions[3, 0] == pytest.approx([0.25, 0.25, 0])
    assert positions[3, 2] == pytest.approx([1.25, 0.25, 0])
    assert positions[1, 0] == pytest.approx([0.25, 1.25, 0])
    expected = [[x + (3 - y) <= 3 for x in range(4)] for y in range(4)]
    assert covered.tolist() == expected
    # With a margin, a texel outside takes the nearest point of the edge.
    positions, covered = texel_positions(vertices, np.array([[0, 1, 2]]), uvs, 4, margin=1.5)
    assert covered[2, 3]
    assert positions[2, 3] == pytest.approx([1.5, 0.5, 0], abs=1e-6)
    assert not covered[0, 3]


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10_000), st.integers(2, 40))
def test_background_takes_the_nearest_colour(seed, inside):
    rng = np.random.default_rng(seed)
    covered = np.zeros((9, 11), bool)
    covered.flat[rng.choice(99, inside, replace=False)] = True
    texture = rng.integers(0, 255, (9, 11, 4)).astype(np.uint8)
    filled = fill_background(texture, covered)
    assert np.array_equal(filled[covered], texture[covered])
    known = np.argwhere(covered)
    for y, x in np.argwhere(~covered):
        d = ((known - [y, x]) ** 2).sum(axis=1)
        nearest = [tuple(texture[tuple(k)]) for k in known[d == d.min()]]
        assert tuple(filled[y, x]) in nearest


def test_evaluate_refuses_bad_colours():
    points = np.zeros((5, 3), np.float32)
    with pytest.raises(ValueError, match="finite"):
        evaluate(lambda p: np.full_like(p, np.nan), points)
    with pytest.raises(ValueError, match="shape"):
        evaluate(lambda p: p[:, :1], points)
    sizes = []

    def field(p):
        sizes.append(len(p))
        return p + 7

    assert evaluate(field, points, chunk=2).max() == 1.0
    assert sizes == [2, 2, 1]


def lookup(mesh: Mesh, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random surface points and the bilinear texture colour there (row 0 = top, texel centres)."""
    rng = np.random.default_rng(seed)
    areas = face_areas(mesh)
    face = rng.choice(len(areas), count, p=areas / areas.sum())
    weight = rng.dirichlet(np.ones(3), count)
    points = (mesh.vertices[mesh.faces[face]] * weight[..., None]).sum(axis=1)
    uv = (mesh.uvs[mesh.faces[face]] * weight[..., None]).sum(axis=1)
    texture = mesh.materials[0].texture[..., :3] / 255.0
    height, width = texture.shape[:2]
    at = np.stack([(1 - uv[:, 1]) * height - 0.5, uv[:, 0] * width - 0.5])
    colors = [map_coordinates(texture[..., k], at, order=1, mode="nearest") for k in range(3)]
    return points, np.stack(colors, axis=1)


@pytest.mark.parametrize("target_faces", [None, 700])
@pytest.mark.parametrize("texture_format", ["png", "jpeg"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_file_has_the_generators_own_colours(tmp_path, shape, texture_format, target_faces):
    asset = AnalyticAsset(0, SHAPES[shape]())
    assert isinstance(asset, Asset)
    config = ExportConfig(
        texture_size=512, texture_format=texture_format, target_faces=target_faces
    )
    made, _ = texture_mesh(asset, config)
    path = tmp_path / "a.glb"
    path.write_bytes(encode_glb(made, texture_format=texture_format))
    loaded = read_glb(path)
    points, colors = lookup(loaded, 10_000)
    error = np.abs(colors - asset.color(points)).max(axis=1)
    assert error.mean() < (0.02 if texture_format == "jpeg" else 0.004)
    assert np.percentile(error, 99) < (0.06 if texture_format == "jpeg" else 0.02)
    # Where the generator's surface was: not moved, not turned, not mirrored.
    assert bounds(loaded) == pytest.approx(bounds(asset.mesh), abs=0.02 if target_faces else 1e-6)
    if target_faces:
        assert len(loaded.faces) < 1.1 * target_faces
    solid = trimesh.Trimesh(loaded.vertices, loaded.faces)
    assert solid.volume > 0  # counter-clockwise = outside


def test_glb_is_deterministic_and_says_what_it_must(tmp_path):
    made, _ = texture_mesh(AnalyticAsset(0, torus()), ExportConfig(texture_size=64))
    data = encode_glb(made, name="g3d_000007", extras={"seed": 7})
    assert data == encode_glb(made, name="g3d_000007", extras={"seed": 7})
    length = struct.unpack("<I", data[12:16])[0]
    tree = json.loads(data[20 : 20 + length])
    material = tree["materials"][0]["pbrMetallicRoughness"]
    assert material["metallicFactor"] == 0.0
    assert material["roughnessFactor"] == 0.6
    assert tree["materials"][0].get("doubleSided", False) is False
    assert tree["samplers"][tree["textures"][0]["sampler"]]["wrapS"] == 33071
    assert tree["asset"]["extras"] == {"seed": 7}
    assert set(tree["meshes"][0]["primitives"][0]["attributes"]) == {
        "POSITION", "NORMAL", "TEXCOORD_0",
    }  # fmt: skip
    scene = trimesh.load(io.BytesIO(data), file_type="glb")
    assert list(scene.geometry) == ["g3d_000007"]


def test_our_own_loader_reads_the_same(tmp_path):
    made, _ = texture_mesh(AnalyticAsset(0, torus()), ExportConfig(texture_size=64))
    path = tmp_path / "a.glb"
    path.write_bytes(encode_glb(made))
    loaded = load_mesh(path)
    assert np.array_equal(loaded.vertices[loaded.faces], made.vertices[made.faces])
    assert loaded.uvs[loaded.faces] == pytest.approx(made.uvs[made.faces], abs=1e-6)
    assert np.array_equal(loaded.materials[0].texture, made.materials[0].texture)


def test_normals_are_smooth_across_seams_and_unit():
    made, charts = texture_mesh(AnalyticAsset(0, torus()), ExportConfig(texture_size=64))
    assert charts > 1
    assert len(made.vertices) > len(clean(torus()).vertices)
    assert np.linalg.norm(made.normals, axis=1) == pytest.approx(1.0, abs=1e-5)
    ring = made.vertices * [1, 1, 0]
    ring *= 0.35 / np.linalg.norm(ring, axis=1, keepdims=True)
    exact = (made.vertices - ring) / 0.12
    assert (made.normals * exact).sum(axis=1).min() > 0.99
    # A vertex that no face gives a direction to still gets a unit vector.
    flat = Mesh(np.zeros((3, 3), np.float32), np.array([[0, 1, 2]]))
    assert unit_normals(flat).tolist() == [[0, 1, 0]] * 3


def test_clean_welds_and_drops():
    torus_mesh = torus()
    soup = Mesh(
        torus_mesh.vertices[torus_mesh.faces].reshape(-1, 3),
        np.arange(len(torus_mesh.faces) * 3).reshape(-1, 3),
    )
    welded = weld(soup)
    assert len(welded.vertices) == len(weld(torus_mesh).vertices)
    assert np.array_equal(welded.vertices[welded.faces], soup.vertices[soup.faces])
    bad = Mesh(soup.vertices, np.concatenate([soup.faces, [[0, 0, 1], [0, 1, 3]]]))
    line = np.array([[5, 5, 5], [6, 6, 6], [7, 7, 7]], np.float32)
    bad = Mesh(
        np.concatenate([bad.vertices, line]),
        np.concatenate([bad.faces[:-1], len(bad.vertices) + np.array([[0, 1, 2]])]),
    )
    cleaned = clean(bad)
    assert len(cleaned.faces) == len(soup.faces)
    assert len(cleaned.vertices) == len(welded.vertices)  # the line's vertices are gone too
    assert len(clean(Mesh(np.zeros((4, 3), np.float32), np.zeros((0, 3), np.int64))).faces) == 0


def test_floaters_go_by_their_share_of_the_surface():
    big, small = torus(), as_mesh(trimesh.creation.icosphere(1, 0.02))
    both = Mesh(
        np.concatenate([big.vertices, small.vertices + 0.4]),
        np.concatenate([big.faces, small.faces + len(big.vertices)]),
    )
    both = weld(both)
    assert component_labels(both)[0] == 2
    assert component_labels(drop_floaters(both, 0.0))[0] == 2
    kept = drop_floaters(both, 0.05)
    assert component_labels(kept)[0] == 1
    assert len(kept.faces) == len(big.faces)
    # The largest piece stays, whatever is asked.
    assert len(drop_floaters(both, 1.0).faces) == len(big.faces)


def test_decimation_keeps_the_surface():
    mesh = clean(torus())
    small = decimate(mesh, 800)
    assert 600 <= len(small.faces) <= 800
    points = sample_surface(small, 2000, np.random.default_rng(0)).astype(np.float64)
    ring = points * [1, 1, 0]
    ring *= 0.35 / np.linalg.norm(ring, axis=1, keepdims=True)
    distance = np.abs(np.linalg.norm(points - ring, axis=1) - 0.12)
    assert distance.max() < 0.01
    assert decimate(mesh, 10**6) is mesh


def test_bake_of_a_constant_is_constant():
    mesh = clean(chair())
    atlas = unwrap(mesh.vertices, mesh.faces, 64)
    texture = bake(atlas.vertices, atlas.faces, atlas.uvs, lambda p: np.full_like(p, 0.2), 64)
    assert (texture == [51, 51, 51, 255]).all()
