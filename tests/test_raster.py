"""The raster renderer against analytic images: orientation, coverage, colour, depth."""

from __future__ import annotations

import numpy as np
import pytest
from g3d.errors import AssetError
from g3d.renderers.base import RenderSettings, Views
from g3d.renderers.cameras import Camera, orbit, project, unproject
from g3d.renderers.meshes import Material, Mesh, concatenate, make_mesh, vertex_normals
from g3d.renderers.ops.kernels import rasterize_numpy
from g3d.renderers.raster import RasterRenderer
from g3d.renderers.raster.shading import LightRig
from g3d.renderers.srgb import linear_to_srgb, srgb_to_linear
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline
from scipy.spatial import ConvexHull

FOV = np.deg2rad(49.134)
FRONT = orbit(np.zeros(1), 0.0, 2.0, FOV)
FLAT = RenderSettings(size=64, light="flat")


def render(mesh: Mesh, cameras: Camera = FRONT, settings: RenderSettings = FLAT) -> Views:
    return RasterRenderer().render(mesh, cameras, settings)


def quad(
    half: float = 0.5, z: float = 0.0, material: Material | None = None, repeat: float = 1.0,
    color: tuple[float, ...] | None = None,
) -> Mesh:  # fmt: skip
    """A square that faces +Z, uv (0, 0) at its lower left."""
    corner = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float64)
    return make_mesh(
        np.concatenate([half * corner, np.full((4, 1), z)], axis=1),
        np.array([[0, 1, 2], [0, 2, 3]]),
        uvs=repeat * (corner + 1) / 2,
        colors=None if color is None else np.tile(color, (4, 1)),
        materials=[material or Material()],
    )


def rgba_texture(*rows: list[tuple[int, int, int]]) -> np.ndarray:
    image = np.full((len(rows), len(rows[0]), 4), 255, np.uint8)
    image[..., :3] = rows
    return image


FACES = {  # outward axis and sign -> colour of a cube's face
    (0, 1): (255, 0, 0), (0, -1): (0, 255, 255), (1, 1): (0, 255, 0), (1, -1): (255, 0, 255),
    (2, 1): (0, 0, 255), (2, -1): (255, 255, 0),
}  # fmt: skip


def cube() -> Mesh:
    parts = []
    for (axis, sign), color in FACES.items():
        u, v = (axis + 1) % 3, (axis + 2) % 3
        corner = np.zeros((4, 3))
        corner[:, axis] = 0.4 * sign
        corner[:, u] = np.array([-1, 1, 1, -1]) * 0.4 * sign
        corner[:, v] = np.array([-1, -1, 1, 1]) * 0.4
        linear = [*srgb_to_linear(np.array(color) / 255.0), 1.0]
        faces = np.array([[0, 1, 2], [0, 2, 3]])
        parts.append(make_mesh(corner, faces, colors=np.tile(linear, (4, 1))))
    return concatenate(parts)


@pytest.mark.parametrize(
    ("azimuth", "elevation", "face"),
    [(0, 0, (2, 1)), (90, 0, (0, 1)), (180, 0, (2, -1)), (270, 0, (0, -1)), (0, 90, (1, 1)),
     (0, -90, (1, -1))],
)  # fmt: skip
def test_each_side_of_a_cube_from_its_camera(azimuth: int, elevation: int, face: tuple[int, int]):
    camera = orbit(np.deg2rad([azimuth]), np.deg2rad(elevation), 2.0, FOV)
    views = render(cube(), camera)
    np.testing.assert_array_equal(views.rgba[0, 32, 32], [*FACES[face], 255])
    want = np.zeros(3)
    want[face[0]] = face[1]
    np.testing.assert_allclose(views.normal[0, 32, 32], want, atol=1e-6)


def test_rows_and_columns_from_a_corner():
    """From front, right and above: +Y on top, +Z at the lower left, +X at the lower right."""
    views = render(cube(), orbit(np.deg2rad([45]), np.deg2rad(35), 2.0, FOV))
    image = views.rgba[0, ..., :3]
    assert tuple(image[18, 32]) == FACES[1, 1]
    assert tuple(image[38, 24]) == FACES[2, 1]
    assert tuple(image[38, 40]) == FACES[0, 1]


def test_texture_quadrants_are_upright():
    texture = rgba_texture([(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (255, 255, 255)])
    texture = texture.repeat(64, axis=0).repeat(64, axis=1)
    image = render(quad(material=Material(texture=texture))).rgba[0]
    lit = np.argwhere(image[..., 3] > 0)
    (top, left), (bottom, right) = lit.min(axis=0), lit.max(axis=0)
    near, far = 4, 4
    np.testing.assert_array_equal(image[top + near, left + far, :3], [255, 0, 0])
    np.testing.assert_array_equal(image[top + near, right - far, :3], [0, 255, 0])
    np.testing.assert_array_equal(image[bottom - near, left + far, :3], [0, 0, 255])
    np.testing.assert_array_equal(image[bottom - near, right - far, :3], [255, 255, 255])


def test_texture_is_perspective_correct():
    """The middle line of a steeply tilted square is at the middle of its texture."""
    texture = np.full((256, 256, 4), 255, np.uint8)
    texture[:128, :, :3] = 0  # black above
    square = quad(material=Material(texture=texture))
    tilt = np.deg2rad(70)
    turn = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    tilted = make_mesh(square.vertices @ turn.T, square.faces, uvs=square.uvs,
                       materials=square.materials)  # fmt: skip
    camera = orbit(np.zeros(1), 0.0, 1.2, FOV)
    column = render(tilted, camera, RenderSettings(size=128, light="flat")).rgba[0, :, 64]
    line = 64  # the square's centre, y = 0, projects to the middle row
    assert column[line - 3, 0] == 0
    assert column[line + 2, 0] == 255
    assert column[line - 3, 3] == 255


def _hull_coverage(points: np.ndarray, camera: Camera, size: int, samples: int) -> np.ndarray:
    pixel = project(points, camera, size, size)
    outline = Outline(pixel[ConvexHull(pixel).vertices])
    axis = (np.arange(size * samples) + 0.5) / samples
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    inside = outline.contains_points(grid).reshape(size, samples, size, samples)
    return inside.mean(axis=(1, 3))


def test_alpha_is_the_coverage_of_a_projected_convex_hull():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(40, 3))
    points *= 0.5 / np.linalg.norm(points, axis=1, keepdims=True) * [1.0, 0.7, 0.5]
    mesh = make_mesh(points, ConvexHull(points).simplices)
    cameras = orbit(rng.uniform(0, 6, 6), rng.uniform(-1.2, 1.2, 6), 1.3, FOV)
    alpha = render(mesh, cameras).rgba[..., 3] / 255.0
    for n in range(6):
        want = _hull_coverage(points, cameras[n], 64, 8)
        iou = np.minimum(alpha[n], want).sum() / np.maximum(alpha[n], want).sum()
        assert iou > 0.99
        assert abs(alpha[n].mean() - want.mean()) < 1e-3
        assert np.abs(alpha[n] - want).max() < 0.2


def test_soft_alpha_of_a_square_is_exact():
    """Edges at quarter pixels: four samples a side measure the coverage exactly."""
    size, edge = 32, 9.25  # pixels from the middle
    half = edge / (size / 2) * 2.0 * np.tan(FOV / 2)
    alpha = render(quad(half), settings=RenderSettings(size=size, light="flat")).rgba[0, ..., 3]
    left, right = np.arange(size), np.arange(size) + 1
    covered = np.clip(np.minimum(right, 16 + edge) - np.maximum(left, 16 - edge), 0, 1)
    np.testing.assert_array_equal(alpha, np.floor(np.outer(covered, covered) * 255 + 0.5))
    assert set(np.unique(alpha)) == {0, 16, 64, 255}  # 1/16, 1/4, 1: never thresholded


def test_straight_alpha_has_no_dark_fringe():
    views = render(quad(0.4373, color=(1.0, 0.5, 0.25, 1.0)))
    want = np.rint(255 * linear_to_srgb(np.array([1.0, 0.5, 0.25])))
    lit = views.rgba[0][views.rgba[0, ..., 3] > 0]
    assert (lit[:, 3] < 255).any()
    np.testing.assert_array_equal(lit[:, :3], np.broadcast_to(want, (len(lit), 3)))
    assert not views.rgba[0][views.rgba[0, ..., 3] == 0].any()


def test_flat_gives_every_texture_value_back():
    for value in range(0, 256, 15):
        texture = np.full((4, 4, 4), 255, np.uint8)
        texture[..., :3] = [value, 255 - value, 7]
        image = render(quad(material=Material(texture=texture))).rgba[0]
        np.testing.assert_array_equal(image[32, 32], [value, 255 - value, 7, 255])


def test_factor_texture_and_vertex_colour_multiply_in_linear_light():
    material = Material(base_color=(0.5, 0.25, 1.0, 1.0), texture=rgba_texture([(200, 100, 50)]))
    image = render(quad(material=material, color=(0.5, 1.0, 0.3, 1.0))).rgba[0]
    linear = srgb_to_linear(np.array([200, 100, 50]) / 255) * [0.5, 0.25, 1.0] * [0.5, 1.0, 0.3]
    np.testing.assert_allclose(image[32, 32, :3], 255 * linear_to_srgb(linear), atol=1)


@pytest.mark.parametrize("cells", [256, 250])
def test_minified_checker_is_linear_grey(cells: int):
    """256 cells on about 30 pixels: half the light, 188 in sRGB, not the 128 of sRGB averages."""
    checker = np.indices((cells, cells)).sum(axis=0) % 2 * 255
    texture = np.full((cells, cells, 4), 255, np.uint8)
    texture[..., :3] = checker[..., None]
    for half, repeat in ((0.45, 1.0), (0.45, 3.0)):
        image = render(quad(half, material=Material(texture=texture), repeat=repeat)).rgba[0]
        inside = image[20:44, 20:44, :3].astype(int)
        assert np.abs(inside - 188).max() <= 3, (half, repeat)


def test_magnified_texture_is_smooth_and_wraps():
    texture = rgba_texture([(0, 0, 0), (255, 255, 255)])
    row = render(quad(material=Material(texture=texture))).rgba[0, 32, :, 0]
    lit = srgb_to_linear(row[row > 0] / 255.0)
    # Texel centres are at 1/4 and 3/4; beyond them the other texel is the neighbour.
    assert lit.max() == pytest.approx(1.0, abs=0.05)
    assert 0.4 < lit[0] < 0.6
    assert 0.4 < lit[-1] < 0.6
    assert np.abs(np.diff(lit)).max() < 0.1


def test_checker_floor_is_sharp_near_and_grey_far():
    """The mip level follows the perspective: too coarse a level blurs, too fine a one aliases."""
    checker = np.indices((64, 64)).sum(axis=0) % 2 * 255
    texture = np.full((64, 64, 4), 255, np.uint8)
    texture[..., :3] = checker[..., None]
    wall = quad(4.0, material=Material(texture=texture), repeat=2.0)  # a texel is 1/16 long
    floor = wall.vertices[:, [0, 2, 1]] * [1, 1, -1] - [0, 0.5, 3.2]
    # Whole repeats do not show, unless the derivatives of the uvs are wrong.
    uvs = wall.uvs + np.array([20, 30])
    mesh = make_mesh(floor, wall.faces, uvs=uvs, materials=wall.materials)
    camera = Camera(np.eye(4)[None], np.array([FOV]))
    views = render(mesh, camera, RenderSettings(size=128, light="flat"))
    depth = np.where(views.rgba[0, ..., 3] == 255, views.depth[0], np.nan)
    near, far = depth < 1.3, depth > 5.0
    assert near.sum() > 300
    assert far.sum() > 300
    value = views.rgba[0, ..., 0].astype(int)
    low, high = np.percentile(value[near], [10, 90])
    assert high - low > 75  # texels of 3 rows, smoothed by the bilinear filter
    assert np.abs(value[far] - 188).max() <= 25


@pytest.mark.parametrize("normals", [False, True])
def test_depth_and_normal_of_a_tilted_plane(normals: bool):
    azimuth, elevation = 0.4, 0.3
    camera = orbit(np.array([azimuth]), elevation, 2.0, FOV)
    square = quad()
    if normals:
        square = make_mesh(square.vertices, square.faces, normals=vertex_normals(square))
    views = render(square, camera)
    inside = views.rgba[0, ..., 3] == 255
    rows, columns = np.nonzero(inside)
    assert len(rows) > 300
    pixel = np.stack([columns, rows], axis=-1) + 0.5
    world = unproject(pixel, views.depth[0][inside], camera[0], 64, 64)
    np.testing.assert_allclose(world[:, 2], 0.0, atol=1e-3)  # the plane is z = 0
    np.testing.assert_allclose(views.normal[0][inside], np.tile([0, 0, 1.0], (len(rows), 1)),
                               atol=1e-6)  # fmt: skip
    empty = views.rgba[0, ..., 3] == 0
    assert not views.depth[0][empty].any()
    assert not views.normal[0][empty].any()


def test_depth_is_planar():
    views = render(quad(0.8, z=0.5))
    assert views.rgba[0, 2:-2, 2:-2, 3].min() == 255
    np.testing.assert_allclose(views.depth[0, 2:-2, 2:-2], 1.5, atol=1e-5)


def test_nearer_surface_wins():
    near, far = quad(0.3, 0.2, color=(1, 0, 0, 1.0)), quad(0.5, -0.2, color=(0, 1, 0, 1.0))
    for mesh in (concatenate([near, far]), concatenate([far, near])):
        image = render(mesh).rgba[0]
        np.testing.assert_array_equal(image[32, 32], [255, 0, 0, 255])
        np.testing.assert_array_equal(image[32, 19], [0, 255, 0, 255])
        back = render(mesh, orbit(np.array([np.pi]), 0.0, 2.0, FOV)).rgba[0]
        np.testing.assert_array_equal(back[32, 32], [0, 255, 0, 255])


def test_light_depends_on_the_surface_only():
    rig = RenderSettings(size=64)
    cameras = orbit(np.deg2rad([-30.0, 0.0, 20.0, 35.0]), np.deg2rad([0.0, 30, 50, -20]), 2.0, FOV)
    views = render(cube(), cameras, rig)
    middle = project(np.array([[0.0, 0.0, 0.4]]), cameras, 64, 64)[:, 0].astype(int)
    seen = np.stack([views.rgba[n, y, x] for n, (x, y) in enumerate(middle)])
    np.testing.assert_array_equal(seen, np.broadcast_to(seen[0], seen.shape))
    assert seen[0, 2] > 150


def test_light_stays_between_its_bounds_and_never_clips():
    packed = LightRig().packed().astype(np.float64)
    n = np.random.default_rng(0).normal(size=(200_000, 3))
    n /= np.linalg.norm(n, axis=1, keepdims=True)
    light = packed[0] + packed[1] * 0.5 * (1 + n[:, 1])
    light += np.maximum(0, n @ packed[2:5]) + np.maximum(0, n @ packed[5:8])
    assert light.max() == pytest.approx(1.0, abs=1e-3)
    assert light.max() <= 1.0 + 1e-6
    assert light.min() > 0.45


def test_smooth_normals_hide_the_facets():
    import trimesh

    ball = trimesh.creation.icosphere(subdivisions=2, radius=0.5)
    flat = make_mesh(ball.vertices, ball.faces)
    smooth = make_mesh(ball.vertices, ball.faces, normals=vertex_normals(flat))
    rig = RenderSettings(size=96)
    jump = []
    for mesh in (flat, smooth):
        image = render(mesh, FRONT, rig).rgba[0].astype(int)
        jump.append(np.abs(np.diff(image[48, 36:60, 0])).max())
    assert jump[1] <= 2 < jump[0]


def test_reversed_winding_looks_the_same():
    mesh = cube()
    turned = make_mesh(mesh.vertices, mesh.faces[:, ::-1], colors=mesh.colors)
    camera = orbit(np.array([0.5]), 0.4, 2.0, FOV)
    one, two = (render(m, camera, RenderSettings(size=64)) for m in (mesh, turned))
    assert np.abs(one.rgba.astype(int) - two.rgba.astype(int)).max() <= 1
    np.testing.assert_allclose(one.normal, two.normal, atol=1e-3)
    toward = np.einsum("hwc,c->hw", two.normal[0], camera.c2w[0, :3, 2])
    assert (toward[two.rgba[0, ..., 3] == 255] > 0).all()


def _masked(mode: str, cutoff: float = 0.5) -> Material:
    """Left half solid red, right half clear (and green, which must not show)."""
    texture = rgba_texture([(255, 0, 0), (0, 255, 0)]).repeat(32, axis=0).repeat(32, axis=1)
    texture[:, 32:, 3] = 0
    return Material(texture=texture, alpha_mode=mode, alpha_cutoff=cutoff)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["mask", "blend"])
def test_masked_part_is_a_hole_without_a_fringe(mode: str):
    image = render(quad(material=_masked(mode))).rgba[0]
    assert image[32, 40, 3] == 0
    np.testing.assert_array_equal(image[32, 24], [255, 0, 0, 255])
    lit = image[image[..., 3] > 0]
    assert lit[:, 1].max() == 0  # The colour of clear texels leaks nowhere.


def test_opaque_ignores_the_alpha_of_its_texture():
    image = render(quad(material=_masked("opaque"))).rgba[0]
    np.testing.assert_array_equal(image[32, 40], [0, 255, 0, 255])


def test_through_a_hole_one_sees_what_is_behind():
    front, back = quad(0.4, 0.1, _masked("mask")), quad(0.5, -0.1, color=(0, 0, 1, 1.0))
    image = render(concatenate([front, back])).rgba[0]
    np.testing.assert_array_equal(image[32, 24], [255, 0, 0, 255])
    np.testing.assert_array_equal(image[32, 40], [0, 0, 255, 255])
    hidden = concatenate([quad(0.4, -0.3, _masked("mask")), quad(0.5, 0.1, color=(0, 0, 1, 1.0))])
    np.testing.assert_array_equal(render(hidden).rgba[0, 32, 24], [0, 0, 255, 255])


def test_glass_is_drawn_in_its_colour():
    glass = Material(base_color=(0.2, 0.4, 0.8, 0.3), alpha_mode="blend")
    image = render(quad(material=glass)).rgba[0]
    want = np.rint(255 * linear_to_srgb(np.array([0.2, 0.4, 0.8])))
    np.testing.assert_array_equal(image[32, 32], [*want, 255])


def test_alpha_of_vertex_colours_is_tested_too():
    faint = Material(alpha_mode="mask")
    image = render(quad(material=faint, color=(1.0, 1.0, 1.0, 0.2))).rgba[0]
    assert not image.any()


def test_views_do_not_depend_on_their_company():
    cameras = orbit(np.linspace(0, 5, 5), 0.3, 1.5, FOV)
    together = render(cube(), cameras)
    for n in range(5):
        alone = render(cube(), cameras[n : n + 1])
        for name in ("rgba", "depth", "normal"):
            np.testing.assert_array_equal(getattr(alone, name)[0], getattr(together, name)[n])


def test_camera_inside_and_beside_the_object():
    inside = Camera(np.eye(4)[None], np.array([FOV]))
    views = render(cube(), inside)
    assert (views.rgba[..., 3] == 255).all()
    np.testing.assert_array_equal(views.rgba[0, 32, 32, :3], FACES[2, -1])  # looks along -Z
    np.testing.assert_allclose(views.depth, 0.4, atol=1e-5)
    past = np.eye(4)[None].copy()
    past[0, 2, 3] = -1.0
    assert not render(cube(), Camera(past, np.array([FOV]))).rgba.any()


def test_more_samples_only_refine():
    camera = orbit(np.array([0.7]), 0.4, 1.6, FOV)
    alpha = [
        render(cube(), camera, RenderSettings(size=48, supersample=s, light="flat")).rgba[..., 3]
        for s in (1, 4, 8)
    ]
    assert set(np.unique(alpha[0])) == {0, 255}
    assert np.abs(alpha[1].astype(int) - alpha[2]).max() < 40
    assert alpha[1].mean() == pytest.approx(alpha[2].mean(), rel=2e-3)


def test_mesh_without_faces_is_blank():
    empty = Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int64))
    assert not render(empty).rgba.any()


def test_too_many_triangles_for_the_id_channel(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("g3d.renderers.raster.renderer.FLOAT_IDS", 3)
    with pytest.raises(AssetError, match="memory"):
        render(cube())


def test_width_gives_landscape_and_portrait():
    camera = orbit(np.array([0.4]), 0.3, 1.5, FOV)
    wide = render(cube(), camera, RenderSettings(size=48, width=96, light="flat"))
    assert wide.rgba.shape == (1, 48, 96, 4)
    assert wide.albedo.shape == (1, 48, 96, 3)
    square = render(cube(), camera, RenderSettings(size=48, light="flat"))
    # The vertical field of view is the camera's: a wide image only shows more at the sides.
    for name in ("rgba", "depth", "normal", "albedo"):
        one, two = getattr(wide, name)[0, :, 24:72], getattr(square, name)[0]
        close = np.abs(one.astype(float) - two) < 1e-4 * max(1.0, float(np.abs(two).max()))
        assert close.mean() > 0.995, name
    tall = render(cube(), camera, RenderSettings(size=96, width=32, light="flat"))
    inside = tall.rgba[0, ..., 3] == 255
    assert inside.sum() > 500
    rows, columns = np.nonzero(inside)
    pixel = np.stack([columns, rows], axis=-1) + 0.5
    world = unproject(pixel, tall.depth[0][inside], camera[0], 96, 32)
    off = np.abs(np.abs(world).max(axis=1) - 0.4)
    assert np.median(off) < 1e-3  # points are on the surface of the cube
    assert np.percentile(off, 90) < 0.02  # (pixels on an edge average two faces)


def test_albedo_is_the_image_without_light():
    texture = np.random.default_rng(0).integers(0, 256, (32, 32, 4)).astype(np.uint8)
    square = quad(material=Material(texture=texture, base_color=(0.5, 0.9, 1, 1)),
                  color=(1.0, 0.5, 0.8, 1.0))  # fmt: skip
    mesh = concatenate([square, cube()])
    camera = orbit(np.array([0.5]), 0.3, 2.0, FOV)
    flat = render(mesh, camera)
    np.testing.assert_array_equal(flat.albedo, flat.rgba[..., :3])
    for light in ("rig", "get3d", "pbr"):
        lit = render(mesh, camera, RenderSettings(size=64, light=light))
        np.testing.assert_array_equal(lit.albedo, flat.albedo)
        assert np.abs(lit.rgba[..., :3].astype(int) - flat.albedo).max() > 20
        np.testing.assert_array_equal(lit.depth, flat.depth)
        np.testing.assert_array_equal(lit.normal, flat.normal)
    assert not flat.albedo[flat.rgba[..., 3] == 0].any()


def test_many_masked_layers_lie_behind_each_other():
    """Five sheets that face the viewer, each with a smaller hole than the one before it."""
    parts = []
    for n in range(5):
        texture = np.full((128, 128, 4), 255, np.uint8)
        texture[..., :3] = [50 * n, 255 - 50 * n, 128]
        y, x = np.indices((128, 128)) - 63.5
        texture[..., 3] = np.where(np.hypot(x, y) < 55 - 12 * n, 0, 255)
        sheet = Material(texture=texture, alpha_mode="mask")
        parts.append(quad(0.5, 0.3 - 0.1 * n, sheet))
    for order in (parts, parts[::-1]):
        row = render(concatenate(order)).rgba[0, 32]
        seen = [int(row[x, 0]) for x in range(32, 64) if row[x, 3] == 255]
        steps = [value for n, value in enumerate(seen) if n == 0 or value != seen[n - 1]]
        plain = [value for value in steps if value in (0, 50, 100, 150, 200)]
        assert plain == [200, 150, 100, 50, 0]
        assert row[32, 3] == 0


def test_the_masked_one_of_two_coincident_surfaces_shows():
    body, decal = quad(0.5, color=(0, 0, 1, 1.0)), quad(0.5, 0.0, _masked("mask"))
    for parts in ([body, decal], [decal, body]):
        image = render(concatenate(parts)).rgba[0]
        np.testing.assert_array_equal(image[32, 24], [255, 0, 0, 255])
        np.testing.assert_array_equal(image[32, 40], [0, 0, 255, 255])


def test_images_do_not_depend_on_the_threads(monkeypatch: pytest.MonkeyPatch):
    from g3d.renderers.raster import renderer

    cameras = orbit(np.linspace(0, 5, 6), 0.3, 1.5, FOV)
    found = []
    for threads in (1, 4):
        monkeypatch.setattr(renderer, "thread_count", lambda count=threads: count)
        found.append(render(cube(), cameras, RenderSettings(size=64, light="pbr")))
    for name in ("rgba", "depth", "normal", "albedo"):
        np.testing.assert_array_equal(getattr(found[0], name), getattr(found[1], name))


def test_threads_come_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    from g3d.renderers.raster import thread_count

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert thread_count() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "4000")
    most = thread_count()
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert thread_count() == most >= 1


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 10_000), near=st.booleans())
def test_the_triangle_of_every_sample_is_that_of_rasterize(seed: int, near: bool):
    """Bands, vector steps and clipping change nothing; a wide image has several bands."""
    rng = np.random.default_rng(seed)
    count, height, width = 60, 70, 2100
    points = rng.normal(size=(count, 1, 3)) + 0.5 * rng.normal(size=(count, 3, 3))
    faces = np.arange(3 * count).reshape(-1, 3)
    linear = srgb_to_linear(np.arange(1, count + 1) / 255.0)
    colors = np.ones((3 * count, 4))
    colors[:, :3] = np.repeat(linear, 3)[:, None]
    mesh = make_mesh(points.reshape(-1, 3), faces, colors=colors)
    camera = orbit(rng.uniform(0, 6, 1), rng.uniform(-1, 1, 1), 0.7 if near else 3.0, FOV)
    options = RenderSettings(size=height, width=width, supersample=1, light="flat")
    image = render(mesh, camera, options).albedo[0, ..., 0]
    matrix = camera.world_to_clip(width / height)[0]
    clip = (mesh.vertices @ matrix[:, :3].T + matrix[:, 3]).astype(np.float32)
    rast = rasterize_numpy(clip[None], mesh.faces.astype(np.int32), height, width)[0, ::-1]
    np.testing.assert_array_equal(image, rast[..., 3].astype(np.uint8))
