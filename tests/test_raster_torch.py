"""The torch twin of the raster renderer, on the CPU, against the numba one."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from g3d.errors import AssetError, MissingDependency
from g3d.renderers.base import RenderSettings, Views
from g3d.renderers.cameras import Camera, orbit
from g3d.renderers.meshes import Material, Mesh, concatenate, make_mesh, vertex_normals
from g3d.renderers.raster import RasterRenderer, torch_renderer, torch_visibility
from g3d.renderers.raster.torch_renderer import TorchRasterRenderer
from hypothesis import given, settings
from hypothesis import strategies as st

FOV = np.deg2rad(49.134)
CAMERAS = orbit(np.linspace(0.1, 5.5, 5), np.linspace(-1.2, 1.2, 5), 1.4, FOV)
SHOTS = {
    "rig": RenderSettings(size=64),
    "flat": RenderSettings(size=48, light="flat", supersample=3),
    "get3d": RenderSettings(size=32, light="get3d", supersample=2),
    "pbr": RenderSettings(size=56, light="pbr"),
    "wide": RenderSettings(size=40, width=72),
    "tall": RenderSettings(size=66, width=41, supersample=2),
    "coarse": RenderSettings(size=64, supersample=1),
}


def noise_texture(height: int, width: int, seed: int = 0, clear: bool = False) -> np.ndarray:
    """Random blocks of several sizes, so that every mip level shows; opaque unless ``clear``."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 4))
    for size in (1, 4, 16):
        grid = rng.uniform(0, 255, (-(-height // size), -(-width // size), 4))
        image += np.kron(grid, np.ones((size, size, 1)))[:height, :width] / 3
    image = image.astype(np.uint8)
    image[..., 3] = np.where(image[..., 3] > 120, 255, 0) if clear else 255
    return image


def bumpy(
    seed: int = 0,
    *,
    rings: int = 20,
    uvs: float | None = None,
    colors: bool = False,
    smooth: bool = True,
    materials: tuple[Material, ...] = (Material(),),
) -> Mesh:
    """A closed bumpy ball; faces take the materials in turn, ``uvs`` is the number of repeats."""
    rng = np.random.default_rng(seed)
    across = 2 * rings
    phi, theta = np.meshgrid(
        np.linspace(0, 2 * np.pi, across + 1), np.linspace(0, np.pi, rings + 1), indexing="xy"
    )
    bumps = rng.uniform(0.6, 1.0, (rings + 1, across + 1))
    bumps[:, -1] = bumps[:, 0]
    point = np.stack(
        [np.sin(theta) * np.sin(phi), np.cos(theta), np.sin(theta) * np.cos(phi)], axis=-1
    )
    vertices = (0.5 * bumps[..., None] * point).reshape(-1, 3)
    row, column = np.meshgrid(np.arange(rings), np.arange(across), indexing="ij")
    a = (row * (across + 1) + column).reshape(-1)
    b, c = a + across + 1, a + across + 2
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, a + 1], 1)])
    bare = make_mesh(vertices, faces)
    return make_mesh(
        vertices,
        faces,
        uvs=None if uvs is None else uvs * np.stack([phi, -theta], -1).reshape(-1, 2) / np.pi,
        colors=rng.uniform(0.2, 1.0, (len(vertices), 4)) if colors else None,
        normals=vertex_normals(bare) if smooth else None,
        materials=materials,
        face_materials=np.arange(len(faces)) % len(materials),
    )


def textured(**more: object) -> Material:
    return Material(texture=noise_texture(96, 150), base_color=(0.9, 0.8, 1.0, 1.0), **more)


MIXED = (
    textured(),
    Material(base_color=(0.2, 0.5, 0.9, 1.0), metallic=0.8, roughness=0.3),
    Material(texture=noise_texture(33, 7, 1, clear=True), alpha_mode="mask", alpha_cutoff=0.4),
    Material(base_color=(0.4, 0.1, 0.1, 0.3), alpha_mode="blend"),
    Material(texture=noise_texture(1, 1, 2), roughness=0.0),
    Material(
        texture=noise_texture(40, 40, 4),
        metallic=1.0,
        roughness=0.9,
        metallic_roughness=noise_texture(64, 16, 5),
        emissive=(0.3, 0.1, 0.6),
        emissive_texture=noise_texture(20, 30, 6),
    ),
)
SHAPES = {
    "plain": bumpy(smooth=False),
    "textured": bumpy(uvs=1.0, materials=(textured(),)),
    "minified": bumpy(uvs=9.0, materials=(Material(texture=noise_texture(256, 512)),)),
    "coloured": bumpy(colors=True, smooth=False),
    "masked": bumpy(
        uvs=1.5,
        materials=(Material(texture=noise_texture(64, 64, 3, clear=True), alpha_mode="mask"),),
    ),
    "mixed": concatenate(
        [bumpy(1, rings=12, uvs=1.0, colors=True, materials=MIXED), bumpy(2, rings=8)]
    ),
}


@dataclass(frozen=True)
class Difference:
    """How two renderings differ; levels are of 255.

    Attributes:
        alpha: Greatest difference of alpha.
        same: Share of the pixels whose rgba is within a level.
        mean: Mean difference of rgba, in levels.
        albedo: Share of the pixels whose albedo is within a level.
        depth: Greatest difference of depth where the alphas agree.
        normal: The same of normals.
        geometry: Share of those pixels with depth within 1e-4 and normal within 1e-3.
    """

    alpha: int
    same: float
    mean: float
    albedo: float
    depth: float
    normal: float
    geometry: float


def difference(one: Views, two: Views) -> Difference:
    levels = np.abs(one.rgba.astype(int) - two.rgba)
    albedo = np.abs(one.albedo.astype(int) - two.albedo)
    both = one.rgba[..., 3] == two.rgba[..., 3]
    depth = np.abs(one.depth - two.depth)[both]
    normal = np.abs(one.normal - two.normal).max(-1)[both]
    return Difference(
        alpha=int(levels[..., 3].max()),
        same=float((levels.max(-1) <= 1).mean()),
        mean=float(levels.mean()),
        albedo=float((albedo.max(-1) <= 1).mean()),
        depth=float(depth.max()),
        normal=float(normal.max()),
        geometry=float(((depth < 1e-4) & (normal < 1e-3)).mean()),
    )


def assert_same(one: Views, two: Views) -> None:
    for name in ("rgba", "depth", "normal", "albedo"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)


def torch_views(mesh: Mesh, cameras: Camera, look: RenderSettings, batch: int | None = None):
    return TorchRasterRenderer("cpu", batch).render(mesh, cameras, look)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shot", SHOTS)
def test_agrees_with_numba(shape: str, shot: str) -> None:
    mesh, look = SHAPES[shape], SHOTS[shot]
    want = RasterRenderer().render(mesh, CAMERAS, look)
    assert 0.1 < (want.rgba[..., 3] > 0).mean() < 0.9
    found = difference(want, torch_views(mesh, CAMERAS, look))
    assert found.alpha == 0
    assert found.same >= 0.995
    assert found.mean < 0.1
    assert found.albedo >= 0.995
    assert found.depth < 1e-4
    assert found.normal < 1e-3


def test_batches_do_not_show() -> None:
    for shape in ("mixed", "textured"):
        want = torch_views(SHAPES[shape], CAMERAS, SHOTS["rig"])
        for batch in (1, 2, 3):
            assert_same(torch_views(SHAPES[shape], CAMERAS, SHOTS["rig"], batch), want)


def test_chunks_of_samples_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    want = torch_views(SHAPES["mixed"], CAMERAS, SHOTS["rig"])
    monkeypatch.setitem(torch_renderer.CHUNK, "cpu", 100)
    monkeypatch.setattr(torch_visibility, "SETUP", 1000)
    monkeypatch.setitem(torch_visibility.PAIRS, "cpu", 5000)
    assert_same(torch_views(SHAPES["mixed"], CAMERAS, SHOTS["rig"]), want)


@given(
    seed=st.integers(0, 1000),
    azimuth=st.floats(0, 6.2),
    elevation=st.floats(-1.5, 1.5),
    radius=st.floats(0.3, 3.0),
    samples=st.integers(1, 4),
    light=st.sampled_from(["rig", "flat", "pbr"]),
)
@settings(max_examples=15)
def test_any_camera_agrees_with_numba(
    seed: int, azimuth: float, elevation: float, radius: float, samples: int, light: str
) -> None:
    """Also from inside the mesh and close to it, where triangles are cut by the near plane."""
    mesh = bumpy(seed, rings=6, uvs=1.0, colors=True, materials=MIXED)
    camera = orbit(np.array([azimuth]), elevation, radius, FOV)
    look = RenderSettings(size=32, supersample=samples, light=light)
    found = difference(RasterRenderer().render(mesh, camera, look), torch_views(mesh, camera, look))
    assert found.alpha == 0
    assert found.same >= 0.995
    assert found.mean < 0.1
    assert found.depth < 1e-4
    assert found.normal < 1e-3


@pytest.mark.parametrize("radius", [1.4, 0.3])
@pytest.mark.parametrize("shape", ["plain", "textured", "masked", "mixed"])
def test_the_loop_for_devices_without_a_backend(
    shape: str, radius: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a CUDA device without nvdiffrast runs; up close, triangles are cut by the frustum."""
    monkeypatch.setattr(torch_visibility, "compiled", lambda surface: None)
    cameras = orbit(np.linspace(0.1, 5.5, 3), np.linspace(-1.2, 1.2, 3), radius, FOV)
    look = RenderSettings(size=40, width=50, light="pbr")
    want = RasterRenderer().render(SHAPES[shape], cameras, look)
    found = difference(want, torch_views(SHAPES[shape], cameras, look))
    assert found.alpha == 0
    assert found.same >= 0.995
    assert found.depth < 1e-4
    assert found.normal < 1e-3


def test_decals_and_layers_of_masks() -> None:
    """Four masked sheets behind one another, the last one on a solid wall in its very plane."""
    sheet = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0.0]]) * 0.5
    faces, uvs = np.array([[0, 1, 2], [0, 2, 3]]), np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]])
    parts = [make_mesh(sheet, faces, materials=[Material(base_color=(0.1, 0.1, 0.1, 1.0))])]
    for n, mode in enumerate(("mask", "blend", "mask", "blend")):
        cut = Material(texture=noise_texture(32, 32, n, clear=True), alpha_mode=mode)
        parts.append(make_mesh(sheet + np.array([0, 0, 0.1 * n]), faces, uvs=uvs, materials=[cut]))
    mesh = concatenate(parts[::-1])
    cameras = orbit(np.array([0.0, 0.4, 3.0]), np.array([0.0, 0.3, -0.2]), 1.7, FOV)
    look = RenderSettings(size=96)
    want, got = RasterRenderer().render(mesh, cameras, look), torch_views(mesh, cameras, look)
    found = difference(want, got)
    assert found.alpha == 0
    assert found.same >= 0.999
    assert found.depth < 1e-4
    assert len(np.unique(got.rgba[..., :3])) > 50


def test_opposite_samples_still_have_a_normal() -> None:
    """A pixel half on either side of a wedge seen from its edge: the normals nearly cancel."""
    point = np.array([[0, -0.5, 0.5], [0, 0.5, 0.5], [-1e-4, 0, -0.5], [1e-4, 0, -0.5]])
    mesh = make_mesh(point, np.array([[0, 1, 2], [0, 3, 1]]))
    camera = orbit(np.zeros(1), 0.0, 2.0, 0.0004)
    look = RenderSettings(size=8, supersample=4)
    want, got = RasterRenderer().render(mesh, camera, look), torch_views(mesh, camera, look)
    assert got.rgba[..., 3].any()
    np.testing.assert_allclose(np.linalg.norm(got.normal[got.depth > 0], axis=-1), 1.0, atol=1e-5)
    np.testing.assert_allclose(got.normal, want.normal, atol=1e-3)


def test_transform_is_the_same_as_a_moved_mesh() -> None:
    matrix = np.array([[0, 0, 0.5, 0.1], [0, 0.5, 0, 0], [-0.5, 0, 0, 0], [0, 0, 0, 1.0]])
    mesh, look = SHAPES["textured"], SHOTS["rig"]
    got = TorchRasterRenderer("cpu").open(mesh).render(CAMERAS, look, matrix)
    found = difference(RasterRenderer().open(mesh).render(CAMERAS, look, matrix), got)
    assert found.alpha == 0
    assert found.same >= 0.995
    assert found.depth < 1e-4


def test_empty_mesh_and_no_camera_are_blank() -> None:
    empty = Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int64))
    views = torch_views(empty, CAMERAS, SHOTS["wide"])
    assert views.rgba.shape == (5, 40, 72, 4)
    assert not views.rgba.any()
    none = torch_views(SHAPES["plain"], CAMERAS[:0], SHOTS["rig"])
    assert none.depth.shape == (0, 64, 64)
    away = orbit(np.zeros(2), 0.0, 2.0, FOV)
    away.c2w[:, 2, 3] = -3.0  # looks along -Z, the mesh is behind
    assert not torch_views(SHAPES["mixed"], away, SHOTS["rig"]).rgba.any()


def test_memory_running_out_halves_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh, look = SHAPES["plain"], RenderSettings(size=24)
    want = torch_views(mesh, CAMERAS, look)
    sizes: list[int] = []
    batch = torch_renderer._batch

    def tight(look, matrices, eyes):
        sizes.append(len(matrices))
        if len(matrices) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB")
        return batch(look, matrices, eyes)

    monkeypatch.setattr(torch_renderer, "_batch", tight)
    assert_same(torch_views(mesh, CAMERAS, look, 5), want)
    assert sizes == [5, 2, 1, 1, 1, 1, 1]


def test_one_view_too_large_is_an_asset_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(look, matrices, eyes):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch_renderer, "_batch", full)
    with pytest.raises(AssetError, match="one view is too large") as error:
        torch_views(SHAPES["plain"], CAMERAS, SHOTS["rig"])
    assert error.value.reason == "memory"


def test_other_errors_are_not_taken_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(look, matrices, eyes):
        raise RuntimeError("device-side assert triggered")

    monkeypatch.setattr(torch_renderer, "_batch", broken)
    with pytest.raises(RuntimeError, match="device-side"):
        torch_views(SHAPES["plain"], CAMERAS, SHOTS["rig"])


def test_the_budget_sets_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    batch = torch_renderer._batch

    def counted(look, matrices, eyes):
        sizes.append(len(matrices))
        return batch(look, matrices, eyes)

    monkeypatch.setattr(torch_renderer, "_batch", counted)
    look = RenderSettings(size=32)
    torch_views(SHAPES["mixed"], CAMERAS, look)
    assert sizes == [5]
    monkeypatch.setattr(torch_renderer, "CPU_BUDGET", 3 << 20)
    torch_views(SHAPES["mixed"], CAMERAS, look)
    assert 1 < sizes[1] < 5


def test_too_many_triangles_for_the_id_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_renderer, "FLOAT_IDS", 3)
    with pytest.raises(AssetError, match="memory"):
        torch_views(SHAPES["plain"], CAMERAS, SHOTS["rig"])


def test_arrays_that_must_not_be_written() -> None:
    """As memory maps and shared buffers are; torch would warn of them."""
    mesh = bumpy(rings=4, uvs=1.0, colors=True, materials=(textured(),))
    camera = Camera(CAMERAS.c2w.copy(), CAMERAS.fov_y)
    for array in (
        mesh.vertices, mesh.faces, mesh.uvs, mesh.colors, mesh.normals, camera.c2w,
    ):  # fmt: skip
        array.flags.writeable = False
    assert torch_views(mesh, camera, SHOTS["pbr"]).rgba.any()


def test_protocol() -> None:
    one, two = TorchRasterRenderer("cpu"), RasterRenderer()
    assert (one.name, one.version, one.imports) == (two.name, two.version, two.imports)
    assert one.open(SHAPES["plain"]).mesh is SHAPES["plain"]
    one.close()
    with pytest.raises(ValueError, match="batch_views"):
        TorchRasterRenderer("cpu", batch_views=0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_cuda_device() -> None:
    with pytest.raises(MissingDependency, match="cuda"):
        TorchRasterRenderer()


def test_the_numba_renderer_needs_no_torch() -> None:
    code = "import sys, g3d.renderers.raster; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
