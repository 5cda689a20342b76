"""Lights of the raster renderer: the formulas against NumPy, highlights, metal, emission."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from g3d.renderers.base import RenderSettings, Views
from g3d.renderers.cameras import Camera, orbit, project, unproject
from g3d.renderers.meshes import Material, Mesh, concatenate, make_mesh, vertex_normals
from g3d.renderers.raster import RasterRenderer, shading
from g3d.renderers.srgb import linear_to_srgb, srgb_to_linear
from hypothesis import given, settings
from hypothesis import strategies as st

FOV = np.deg2rad(49.134)
FRONT = orbit(np.zeros(1), 0.0, 2.0, FOV)
UNIFORM = np.array([1, 0, 0, 0, 0, 0, 0, 0, 2], np.float32)
"""White light from everywhere and nothing else, packed."""


def render(
    mesh: Mesh, light: str, cameras: Camera = FRONT, size: int = 96, samples: int = 1
) -> Views:
    options = RenderSettings(size=size, supersample=samples, light=light)  # type: ignore[arg-type]
    return RasterRenderer().render(mesh, cameras, options)


def ball(**material: object) -> Mesh:
    shape = trimesh.creation.icosphere(subdivisions=4, radius=0.5)
    normals = shape.vertices / np.linalg.norm(shape.vertices, axis=1, keepdims=True)
    return make_mesh(shape.vertices, shape.faces, normals=normals,
                     materials=[Material(**material)])  # type: ignore[arg-type]  # fmt: skip


def square(material: Material, half: float = 0.5) -> Mesh:
    corner = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float64)
    return make_mesh(
        np.concatenate([half * corner, np.zeros((4, 1))], axis=1), np.array([[0, 1, 2], [0, 2, 3]]),
        uvs=(corner + 1) / 2, materials=[material],
    )  # fmt: skip


def linear(views: Views, n: int = 0) -> np.ndarray:
    return srgb_to_linear(views.rgba[n, ..., :3] / 255.0)


def seen(views: Views, camera: Camera, n: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Covered pixels, their normals and unit vectors to the camera."""
    inside = views.rgba[n, ..., 3] == 255
    rows, columns = np.nonzero(inside)
    height, width = inside.shape
    pixel = np.stack([columns, rows], axis=-1) + 0.5
    points = unproject(pixel, views.depth[n][inside], camera[n], height, width)
    away = camera.eye[n] - points
    return inside, views.normal[n][inside], away / np.linalg.norm(away, axis=-1, keepdims=True)


def pixel_of(point: np.ndarray, camera: Camera, size: int) -> tuple[int, int]:
    x, y = project(point, camera[0], size, size)[0].astype(int)
    return int(x), int(y)


def diffuse(packed: np.ndarray, n: np.ndarray) -> np.ndarray:
    light = packed[0] + packed[1] * (1 + n[:, 1]) / 2
    return light + np.maximum(0, n @ packed[2:5]) + np.maximum(0, n @ packed[5:8])


def reference(a: np.ndarray, m: float, r: float, n: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The formula of the documentation, written for whole arrays."""
    p = shading.LIGHTS["pbr"].astype(np.float64)
    r = min(1.0, max(0.045, r))
    alpha, f0 = r * r, 0.04 * (1 - m) + a * m
    nv = np.maximum((n * v).sum(axis=1), 1e-4)[:, None]
    color = (1 - m) * a * diffuse(p, n)[:, None]
    for light in (p[2:5], p[5:8]):
        strength = np.linalg.norm(light)
        direction = light / strength
        h = v + direction
        h /= np.linalg.norm(h, axis=1, keepdims=True)
        nl, nh = np.maximum(0, n @ direction)[:, None], np.maximum(0, (n * h).sum(axis=1))[:, None]
        vh = np.maximum(0, (v * h).sum(axis=1))[:, None]
        d = alpha**2 / (np.pi * (nh**2 * (alpha**2 - 1) + 1) ** 2)
        root = nl * np.sqrt(nv**2 * (1 - alpha**2) + alpha**2)
        root = root + nv * np.sqrt(nl**2 * (1 - alpha**2) + alpha**2)
        fresnel = f0 + (1 - f0) * (1 - vh) ** 5
        color = color + np.pi * strength * nl * d * 0.5 / root * fresnel
    mirrored = 2 * (n * v).sum(axis=1, keepdims=True) * n - v
    around = p[0] + p[1] * (1 + mirrored[:, 1:2]) / 2
    q = np.minimum((1 - r) ** 2, 2.0 ** (-9.28 * nv)) * (1 - r) + 0.0425 - 0.0275 * r
    return color + around * (f0 * (-1.04 * q + 1.04 - 0.572 * r) + 1.04 * q + 0.022 * r - 0.04)


@pytest.mark.parametrize(
    ("metallic", "roughness"), [(0, 1), (0, 0.3), (1, 0.5), (0.5, 0.25), (1, 0)]
)
def test_pbr_is_the_documented_formula(metallic: float, roughness: float):
    camera = orbit(np.array([0.4]), 0.5, 2.0, FOV)
    color = (0.7, 0.3, 0.1)
    mesh = ball(base_color=(*color, 1.0), metallic=metallic, roughness=roughness)
    views = render(mesh, "pbr", camera)
    inside, n, v = seen(views, camera)
    want = 255 * linear_to_srgb(reference(np.array(color), metallic, roughness, n, v))
    error = np.abs(views.rgba[0][inside][:, :3] - want)
    # Normals and depths come as float32, and a mirror's highlight is a pixel wide.
    assert np.percentile(error, 99) <= 1.0
    assert error.max() <= (1.5 if roughness > 0.1 else 40)


@pytest.mark.parametrize("azimuth", [0.0, 0.8, -0.5])
def test_a_highlight_is_where_the_key_light_is_mirrored(azimuth: float):
    camera = orbit(np.array([azimuth]), 0.3, 2.0, FOV)
    # Dark, so that nothing is clipped.
    metal = ball(base_color=(0.02, 0.02, 0.02, 1), metallic=1.0, roughness=0.25)
    views = render(metal, "pbr", camera, 128)
    inside, n, v = seen(views, camera)
    # At the rim everything mirrors, and the fill light is behind the ball.
    value = linear(views)[inside].sum(axis=1) * ((n * v).sum(axis=1) > 0.5)
    key = np.array(shading.LightRig().key_direction)
    key /= np.linalg.norm(key)
    brightest = value >= value.max() - 1e-6
    mirrored = 2 * (n * v).sum(axis=1, keepdims=True) * n - v
    toward = mirrored[brightest].mean(axis=0)
    assert toward @ key / np.linalg.norm(toward) > np.cos(np.deg2rad(6))
    assert 0 < 3 * np.median(value) < value.max() < 3


def test_roughness_spreads_a_highlight():
    sharp, blurred = (
        linear(render(ball(base_color=(0, 0, 0, 1), roughness=r), "pbr", size=128))[..., 0]
        for r in (0.4, 0.7)
    )
    assert sharp.max() > 2 * blurred.max()
    wide = [(image > 0.03 + 0.5 * (image.max() - 0.03)).sum() for image in (sharp, blurred)]
    assert wide[1] > 2 * wide[0]


def test_a_rough_dielectric_is_nearly_diffuse():
    cameras = orbit(np.array([0.3]), 0.4, 2.0, FOV)
    mesh = ball(base_color=(0.6, 0.4, 0.2, 1), metallic=0.0, roughness=1.0)
    one, two = (render(mesh, light, cameras).rgba.astype(int) for light in ("pbr", "rig"))
    difference = (one - two)[..., :3][two[..., 3] == 255]
    assert difference.min() >= 0  # Light is only added.
    assert difference.mean() < 12
    assert np.percentile(difference, 95) < 22


@settings(deadline=None, max_examples=60)
@given(
    metallic=st.floats(0, 1), roughness=st.floats(0, 1), color=st.floats(0, 1),
    angle=st.floats(0, np.pi / 2 - 0.01),
)  # fmt: skip
def test_white_furnace(metallic: float, roughness: float, color: float, angle: float):
    """In white light nothing sends back much more than it gets, and a white metal most of it."""
    n, v = (0.0, 0.0, 1.0), (float(np.sin(angle)), 0.0, float(np.cos(angle)))
    found = shading.pbr(UNIFORM, (color, 1.0, 0.0), metallic, roughness, n, v)
    assert np.isfinite(found).all()
    assert min(found) > -0.003  # Karis' fit is off by so much; it is clipped to black.
    assert found[0] <= found[1] + 1e-9
    # What a glossy coat mirrors is not taken from the diffuse light below it.
    assert found[1] <= 1.02 + (1.0 - metallic) * (0.2 if angle < 1.0 else 1.04)
    if metallic == 1.0:
        assert found[1] >= 0.4
    if metallic == 1.0 and color == 0.0 and angle < 0.5:
        assert found[0] <= 0.05


def test_metallic_and_roughness_are_read_texel_by_texel():
    image = np.full((64, 64, 4), 255, np.uint8)
    image[:, :32, 1], image[:, :32, 2] = 128, 255  # left: metal, half rough
    image[:, 32:, 1], image[:, 32:, 2] = 255, 0  # right: rough dielectric
    image[..., 0] = 77  # red means nothing
    color = (0.8, 0.5, 0.2, 1.0)
    camera = orbit(np.array([0.35]), 0.45, 1.6, FOV)
    mixed = Material(base_color=color, metallic=1.0, roughness=0.5, metallic_roughness=image)
    views = render(square(mixed), "pbr", camera, samples=3).rgba[0].astype(int)
    for column, metallic, roughness in ((0.25, 1.0, 0.5 * 128 / 255), (0.75, 0.0, 0.5)):
        plain = Material(base_color=color, metallic=metallic, roughness=roughness)
        want = render(square(plain), "pbr", camera, samples=3).rgba[0].astype(int)
        point = np.array([[column - 0.5, 0.1, 0.0]])
        x, y = pixel_of(point, camera, 96)
        np.testing.assert_allclose(views[y, x], want[y, x], atol=1)
    # Under the other lights it changes nothing.
    for light in ("rig", "flat"):
        one, two = (render(square(m), light, camera).rgba
                    for m in (mixed, Material(base_color=color)))  # fmt: skip
        np.testing.assert_array_equal(one, two)


def test_only_pbr_depends_on_the_camera():
    mesh = ball(base_color=(0.5, 0.5, 0.5, 1), metallic=0.8, roughness=0.3)
    cameras = orbit(np.array([0.1, 0.9]), np.array([0.3, 0.6]), 2.0, FOV)
    key = np.array(shading.LightRig().key_direction)
    half = key / np.linalg.norm(key) + cameras.eye[0] / 2.0  # where the first one sees the key
    point = 0.5 * half[None] / np.linalg.norm(half)
    for light, differs in (("rig", False), ("get3d", False), ("flat", False), ("pbr", True)):
        views = render(mesh, light, cameras)
        colors = [
            views.rgba[n, y, x, :3].astype(int)
            for n in range(2)
            for x, y in [pixel_of(point, cameras[n : n + 1], 96)]
        ]
        assert bool(np.abs(colors[0] - colors[1]).max() > 12) is differs, light


@pytest.mark.parametrize("light", ["rig", "get3d"])
def test_diffuse_lights_are_the_documented_formula(light: str):
    camera = orbit(np.array([2.1]), -0.4, 2.0, FOV)
    views = render(ball(), light, camera)
    inside, n, _ = seen(views, camera)
    packed = shading.LIGHTS[light].astype(np.float64)
    want = 255 * linear_to_srgb(np.minimum(1.0, diffuse(packed, n)))
    assert np.abs(views.rgba[0][inside][:, 0] - want).max() <= 1.0


def test_get3d_light_comes_from_above_with_no_light_from_below():
    packed = shading.LIGHTS["get3d"].astype(np.float64)
    up, down, front = diffuse(packed, np.array([[0, 1.0, 0], [0, -1.0, 0], [0, 0, 1.0]]))
    assert up == pytest.approx(1.0, abs=0.05)
    assert down < 0.05 * up
    assert 0.25 < front / up < 0.45
    rng = np.random.default_rng(0)
    n = rng.normal(size=(100_000, 3))
    n /= np.linalg.norm(n, axis=1, keepdims=True)
    assert diffuse(packed, n).max() == pytest.approx(1.0, abs=1e-3)


def test_emission_is_added_under_pbr_only():
    lamp = square(Material(base_color=(0, 0, 0, 1), roughness=1.0, emissive=(0.5, 0.25, 0.0)))
    dark = square(Material(base_color=(0, 0, 0, 1), roughness=1.0))
    added = linear(render(lamp, "pbr")) - linear(render(dark, "pbr"))
    np.testing.assert_allclose(added[48, 48], [0.5, 0.25, 0.0], atol=6e-3)
    for light in ("rig", "flat"):
        np.testing.assert_array_equal(render(lamp, light).rgba, render(dark, light).rgba)
    image = np.zeros((2, 2, 4), np.uint8)
    image[:, 0] = 255
    half = Material(base_color=(0, 0, 0, 1), emissive=(0.5, 0.5, 0.5), emissive_texture=image)
    shown = linear(render(square(half), "pbr", samples=2))[48]
    lit = np.flatnonzero(shown[:, 0] > 0)
    quarter = (lit[-1] - lit[0]) // 4
    assert shown[lit[0] + quarter, 0] > shown[lit[-1] - quarter, 0] + 0.4
    assert render(lamp, "pbr").albedo.max() == 0


def test_pbr_lights_a_mesh_without_normals_or_uvs():
    shape = trimesh.creation.icosphere(subdivisions=3, radius=0.5)
    plain = make_mesh(
        shape.vertices, shape.faces, materials=[Material(metallic=1.0, roughness=0.4)]
    )
    smooth = make_mesh(
        shape.vertices, shape.faces, normals=vertex_normals(plain), materials=plain.materials
    )
    one, two = (linear(render(m, "pbr", samples=3)) for m in (plain, smooth))
    assert np.abs(one - two).mean() < 0.02
    both = concatenate([plain, square(Material())])
    assert render(both, "pbr").rgba.max() == 255
