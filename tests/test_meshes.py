"""The mesh value object: checks, normalising, joining, sampling."""

from __future__ import annotations

import numpy as np
import pytest
from g3d.errors import AssetError
from g3d.renderers.meshes import (
    Material,
    Mesh,
    bounding_radius,
    bounds,
    concatenate,
    face_areas,
    face_normals,
    make_mesh,
    merge,
    normalise,
    sample_surface,
    vertex_normals,
)
from hypothesis import given
from hypothesis import strategies as st


def box(size: tuple[float, ...] = (2.0, 1.0, 0.5), at: tuple[float, ...] = (0, 0, 0)) -> Mesh:
    corner = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = np.array([f for a, b, c, d in sides for f in ((a, b, c), (a, c, d))])
    return make_mesh(corner * size + at, faces)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("vertices", np.zeros((3, 2)), "shape"),
        ("vertices", [[0, 0, 0], [1, 0, 0], [np.nan, 1, 0]], "NaN"),
        ("faces", [[0, 1, 3]], "0 to 3"),
        ("faces", [[0, -1, 2]], "-1"),
        ("uvs", np.zeros((2, 2)), "uvs"),
        ("colors", np.zeros((3, 3)), "colors"),
        ("normals", np.full((3, 3), np.inf), "normals"),
        ("face_materials", [1], "face_materials"),
        ("materials", (), "material"),
        ("materials", (Material(texture=np.zeros((2, 2, 3), np.uint8)),), "texture"),
    ],
)
def test_make_mesh_refuses(field: str, value: object, message: str):
    good = {"vertices": np.eye(3), "faces": [[0, 1, 2]], "materials": (Material(),)}
    make_mesh(**good)
    with pytest.raises(AssetError, match=message) as caught:
        make_mesh(**(good | {field: value}))
    assert caught.value.reason == "import"


def test_make_mesh_sets_the_types():
    mesh = make_mesh(np.eye(3, dtype=np.float64), np.array([[0, 1, 2]], np.uint8),
                     uvs=np.zeros((3, 2)), face_materials=np.zeros(1, np.int64))  # fmt: skip
    assert mesh.vertices.dtype == mesh.uvs.dtype == np.float32
    assert mesh.faces.dtype == np.int64
    assert mesh.face_materials.dtype == np.int32


@given(st.integers(0, 2**31), st.floats(0.1, 5), st.floats(-6, 6))
def test_normalise(seed: int, extent: float, magnitude: float):
    rng = np.random.default_rng(seed)
    points = (rng.normal(size=(9, 3)) + rng.normal(size=3)) * 10.0**magnitude
    mesh = make_mesh(points, np.arange(9).reshape(3, 3))
    moved, transform = normalise(mesh, extent)
    low, high = bounds(moved)
    assert (high - low).max() == pytest.approx(extent, rel=1e-5)
    np.testing.assert_allclose(low + high, 0, atol=2e-5 * extent)
    again = mesh.vertices @ transform[:3, :3].T + transform[:3, 3]
    np.testing.assert_allclose(moved.vertices, again, atol=1e-5 * extent)


def test_normalise_ignores_unused_vertices_and_refuses_a_point():
    mesh = make_mesh([[0, 0, 0], [1, 0, 0], [0, 1, 0], [99, 99, 99]], [[0, 1, 2]])
    np.testing.assert_allclose(bounds(normalise(mesh, 1.0)[0]), [[-0.5, -0.5, 0], [0.5, 0.5, 0]])
    with pytest.raises(AssetError, match="empty_mesh"):
        normalise(make_mesh(np.zeros((3, 3)), [[0, 1, 2]]), 1.0)
    with pytest.raises(AssetError, match="empty_mesh"):
        bounds(make_mesh(np.zeros((3, 3)), np.zeros((0, 3))))


def test_areas_normals_and_sphere_of_a_box():
    mesh = box(at=(1, 2, 3))
    assert face_areas(mesh).sum() == pytest.approx(2 * (2 * 1 + 2 * 0.5 + 1 * 0.5))
    centre = mesh.vertices[mesh.faces].mean(axis=1) - [1, 2, 3]
    assert (np.einsum("fi,fi->f", face_normals(mesh), centre) > 0).all()
    assert bounding_radius(box()) == pytest.approx(0.5 * np.sqrt(4 + 1 + 0.25))
    far = np.abs(mesh.vertices).max(axis=0)
    assert bounding_radius(mesh) == pytest.approx(np.linalg.norm(far)), "about the origin"


def test_vertex_normals_do_not_depend_on_the_triangulation():
    cube = box((1, 1, 1))
    want = cube.vertices / np.linalg.norm(cube.vertices, axis=1, keepdims=True)
    np.testing.assert_allclose(vertex_normals(cube), want, atol=1e-6)
    corners = make_mesh(cube.vertices[cube.faces.reshape(-1)], np.arange(36).reshape(-1, 3))
    np.testing.assert_allclose(vertex_normals(corners), want[cube.faces.reshape(-1)], atol=1e-6)


def test_samples_are_on_the_surface_and_uniform_by_area():
    mesh = box()
    points = sample_surface(mesh, 40_000, np.random.default_rng(0))
    assert points.dtype == np.float32
    scaled = np.abs(points) / [1.0, 0.5, 0.25]
    np.testing.assert_allclose(scaled.max(axis=1), 1.0, atol=1e-5)
    share = (scaled > 1 - 1e-5).mean(axis=0)
    np.testing.assert_allclose(share, np.array([1, 2, 4]) / 7, atol=0.01)
    # Within the large side the points are uniform: equal shares of its 16 parts.
    on_top = points[scaled[:, 2] > 1 - 1e-5]
    counts, _, _ = np.histogram2d(on_top[:, 0], on_top[:, 1], bins=4)
    np.testing.assert_allclose(counts / counts.sum(), 1 / 16, atol=0.006)


def test_samples_repeat_and_skip_faces_without_area():
    mesh = make_mesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2], [0, 1, 1], [0, 0, 0]])
    one, two = (sample_surface(mesh, 50, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert (one[:, 0] + one[:, 1] <= 1 + 1e-6).all()
    with pytest.raises(AssetError, match="empty_mesh"):
        sample_surface(make_mesh(np.zeros((3, 3)), [[0, 1, 2]]), 5, np.random.default_rng(0))


def test_merge_welds_equal_vertices_only():
    cube = box((1, 1, 1))
    soup = make_mesh(cube.vertices[cube.faces.reshape(-1)], np.arange(36).reshape(-1, 3))
    welded = merge(soup)
    assert len(welded.vertices) == 8
    np.testing.assert_array_equal(welded.vertices[welded.faces], soup.vertices[soup.faces])
    seam = make_mesh(soup.vertices, soup.faces, uvs=np.arange(72).reshape(36, 2))
    assert len(merge(seam).vertices) == 36
    unused = make_mesh([*cube.vertices, [9, 9, 9]], cube.faces)
    assert len(merge(unused).vertices) == 8


def test_concatenate_keeps_each_part():
    texture = np.full((2, 2, 4), 9, np.uint8)
    red, wood = Material("red", (1, 0, 0, 1)), Material("wood", texture=texture)
    one = make_mesh(np.eye(3), [[0, 1, 2]], uvs=np.ones((3, 2)), materials=[wood, red],
                    face_materials=[1])  # fmt: skip
    two = make_mesh(np.eye(3) + 5, [[0, 2, 1]], colors=np.full((3, 4), 0.5), materials=[red])
    three = make_mesh(np.eye(3) - 5, [[2, 1, 0]], materials=[wood])
    both = concatenate([one, two, three])
    assert both.materials == (wood, red)
    np.testing.assert_array_equal(both.face_materials, [1, 1, 0])
    np.testing.assert_array_equal(both.faces, [[0, 1, 2], [3, 5, 4], [8, 7, 6]])
    np.testing.assert_array_equal(both.colors[:, 0], [1, 1, 1, 0.5, 0.5, 0.5, 1, 1, 1])
    np.testing.assert_array_equal(both.uvs[:, 0], [1, 1, 1, 0, 0, 0, 0, 0, 0])
    assert both.normals is None
    with pytest.raises(AssetError, match="empty_mesh"):
        concatenate([])


def test_concatenate_keeps_flat_parts_flat():
    smooth, flat = box(), box(at=(3, 0, 0))
    smooth = make_mesh(smooth.vertices, smooth.faces, normals=vertex_normals(smooth))
    both = concatenate([smooth, flat])
    normals = both.normals[both.faces]
    np.testing.assert_allclose(normals[12:], np.repeat(face_normals(flat)[:, None], 3, axis=1),
                               atol=1e-6)  # fmt: skip
    np.testing.assert_allclose(normals[:12], smooth.normals[smooth.faces])


def test_materials_with_different_gloss_textures_stay_apart():
    one, two = (np.full((2, 2, 4), value, np.uint8) for value in (1, 2))
    triangle, face = np.eye(3), np.array([[0, 1, 2]])
    parts = [
        make_mesh(triangle, face, materials=[Material(metallic_roughness=a, emissive_texture=b)])
        for a, b in ((one, None), (two, None), (one, None), (one, two))
    ]
    both = concatenate(parts)
    assert len(both.materials) == 3
    np.testing.assert_array_equal(both.material_index, [0, 1, 0, 2])
    with pytest.raises(AssetError, match="uint8"):
        make_mesh(triangle, face, materials=[Material(metallic_roughness=one[..., :3])])
