"""Interpolate; the backends against each other; threads; the compiled cache."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from g3d.renderers.ops import antialias, interpolate, rasterize

BACKENDS = ("numba", "torch")


@pytest.fixture(autouse=True)
def _keep_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def soup(seed, images=2, vertices=40, triangles=60):
    """Random triangles, some across the frustum and behind the camera: pos [B, V, 4], tri."""
    rng = np.random.default_rng(seed)
    w = rng.uniform(-0.2, 3.0, (images, vertices))
    xyz = rng.uniform(-1.2, 1.2, (images, vertices, 3)) * np.maximum(np.abs(w), 0.4)[..., None]
    pos = torch.tensor(np.concatenate([xyz, w[..., None]], -1), dtype=torch.float32)
    return pos, torch.tensor(rng.integers(0, vertices, (triangles, 3)), dtype=torch.int32)


def strip(seed, images=4, steps=24):
    """Bumpy closed tubes in range mode, as the trainer has them: pos [V, 4], tri, ranges."""
    rng = np.random.default_rng(seed)
    i, j = np.meshgrid(np.arange(steps), np.arange(steps), indexing="ij")
    a, b = i * 2 * np.pi / steps, j * 2 * np.pi / steps
    at = lambda i, j: (i % steps) * steps + j % steps  # noqa: E731
    corners = at(i, j), at(i + 1, j), at(i + 1, j + 1), at(i, j + 1)
    tri = np.concatenate(
        [np.stack([corners[k] for k in ks], -1).reshape(-1, 3) for ks in ((0, 1, 2), (0, 2, 3))]
    )
    vertices, everything = [], []
    for image in range(images):
        r = 0.3 + 0.05 * np.sin(3 * a + image) + rng.normal(0, 0.01, a.shape)
        x, y = (0.8 + r * np.cos(b)) * np.cos(a), (0.8 + r * np.cos(b)) * np.sin(a)
        world = np.stack([x, y, r * np.sin(b)], -1).reshape(-1, 3)
        world = world @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
        w = 3.0 - world[:, 2]
        vertices.append(np.column_stack([world[:, :2] * 2.0, (w - 3) * 1.05, w]))
        everything.append(tri + image * steps * steps)
    ranges = [[image * len(tri), len(tri)] for image in range(images)]
    return (
        torch.tensor(np.concatenate(vertices), dtype=torch.float32),
        torch.tensor(np.concatenate(everything), dtype=torch.int32),
        torch.tensor(ranges, dtype=torch.int32),
    )


def run(pos, tri, size, ranges=None, backend=None):
    """All three ops forward and backward: outputs and gradients."""
    pos = pos.clone().requires_grad_()
    generator = torch.Generator().manual_seed(1)
    attr = torch.rand((*pos.shape[:-1], 3), generator=generator).to(pos.device).requires_grad_()
    rast, _ = rasterize(pos, tri, size, ranges, backend=backend)
    out, _ = interpolate(attr, rast, tri, backend=backend)
    image = antialias(out, rast, pos, tri, backend=backend)
    image.backward(torch.randn(image.shape, generator=generator).to(pos.device))
    return {
        "rast": rast.detach(),
        "out": out.detach(),
        "image": image.detach(),
        "pos": pos.grad,
        "attr": attr.grad,
    }


@pytest.mark.parametrize("backend", BACKENDS)
def test_interpolating_the_position_gives_the_ray(backend):
    pos, tri, ranges = strip(0, images=2)
    size = (40, 56)
    rast, _ = rasterize(pos, tri, size, ranges, backend=backend)
    out, da = interpolate(pos, rast, tri, backend=backend)
    assert da.shape == (2, *size, 0)
    covered = rast[..., 3] > 0
    assert covered.float().mean() > 0.1
    assert not out[~covered].any()
    x = ((2 * torch.arange(56) + 1) / 56 - 1).expand(2, *size)
    y = ((2 * torch.arange(40) + 1) / 40 - 1)[:, None].expand(2, *size)
    ndc = out[covered][:, :3] / out[covered][:, 3:]
    # Coverage is snapped to 1/16 pixel: beyond a silhouette u and v are clamped, a few pixels.
    error = (ndc - torch.stack([x, y, rast[..., 2]], -1)[covered]).abs()
    assert error.max() < 2 / 40
    assert (error.amax(-1) < 1e-5).float().mean() > 0.95


@pytest.mark.parametrize("backend", BACKENDS)
def test_interpolate_gradients_match_float64(backend):
    pos, tri = soup(1)
    rast = rasterize(pos, tri, (20, 24))[0].requires_grad_()
    attr = torch.rand((2, 40, 5), requires_grad=True)
    grad = torch.randn((2, 20, 24, 5))
    found = torch.autograd.grad(
        interpolate(attr, rast, tri, backend=backend)[0], [attr, rast], grad
    )
    exact_attr, exact_rast = (t.detach().double().requires_grad_() for t in (attr, rast))
    ids = rast[..., 3].long()
    corners = exact_attr[torch.arange(2)[:, None, None, None], tri.long()[(ids - 1).clamp(min=0)]]
    u, v = exact_rast[..., 0, None], exact_rast[..., 1, None]
    out = u * corners[..., 0, :] + v * corners[..., 1, :] + (1 - u - v) * corners[..., 2, :]
    out = out * (ids > 0)[..., None]
    wanted = torch.autograd.grad(out, [exact_attr, exact_rast], grad.double())
    for a, b in zip(found, wanted, strict=True):
        assert b.norm() > 1
        torch.testing.assert_close(a, b.float(), atol=1e-4, rtol=1e-5)
    assert not found[1][..., 2:].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_interpolate_shares_attributes_between_images(backend):
    pos, tri = soup(2, images=3)
    rast, _ = rasterize(pos, tri, (16, 16))
    attr = torch.rand((40, 2))
    grad = torch.randn((3, 16, 16, 2))
    results = []
    for shape in ((40, 2), (1, 40, 2), (3, 40, 2)):
        leaf = attr.clone().requires_grad_()
        expanded = leaf.expand(shape) if len(shape) == 3 else leaf
        out, _ = interpolate(expanded, rast, tri, backend=backend)
        out.backward(grad)
        results.append((out.detach(), leaf.grad))
    for out, leaf_grad in results[1:]:
        assert torch.equal(out, results[0][0])
        torch.testing.assert_close(leaf_grad, results[0][1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_attribute_derivatives(backend):
    # Affine (w = 1): attributes are linear on the screen, so differences of pixels are exact.
    pos = torch.tensor([[[-3.0, -3, 0, 1], [4, -2, 0, 1], [0, 4, 0, 1]]])
    tri = torch.tensor([[0, 1, 2]], dtype=torch.int32)
    attr = torch.tensor([[1.0, -2.0, 0.5], [3.0, 1.0, 0.0], [-1.0, 2.0, 4.0]], requires_grad=True)
    rast, db = rasterize(pos, tri, (12, 16), want_db=True, backend=backend)
    out, da = interpolate(attr, rast, tri, db, diff_attrs=[2, 0], backend=backend)
    assert da.shape == (1, 12, 16, 4)
    for place, channel in ((0, 2), (1, 0)):
        dx = out[:, :, 1:, channel] - out[:, :, :-1, channel]
        dy = out[:, 1:, :, channel] - out[:, :-1, :, channel]
        torch.testing.assert_close(da[:, :, 1:, 2 * place], dx, atol=1e-5, rtol=0)
        torch.testing.assert_close(da[:, 1:, :, 2 * place + 1], dy, atol=1e-5, rtol=0)
    (grad,) = torch.autograd.grad(da.sum(), attr)
    assert grad[:, [0, 2]].abs().min() > 1e-3
    assert not grad[:, 1].any()
    assert interpolate(attr, rast, tri, db, "all", backend=backend)[1].shape[-1] == 6
    with pytest.raises(ValueError, match="rast_db"):
        interpolate(attr, rast, tri, diff_attrs="all", backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_interpolate_survives_indices_of_other_meshes(backend):
    pos, tri = soup(3)
    rast, _ = rasterize(pos, tri, (16, 16))
    few = torch.ones((5, 1), requires_grad=True)  # tri speaks of 40 vertices
    out, _ = interpolate(few, rast, tri[:7], backend=backend)
    known = (rast[..., 3] > 0) & (rast[..., 3] <= 7)
    assert out[~known].abs().sum() == 0
    out.sum().backward()
    assert torch.isfinite(few.grad).all()


@pytest.mark.parametrize("seed", range(6))
def test_backends_agree_on_random_scenes(seed):
    pos, tri = soup(seed)
    size = [(64, 64), (37, 53), (96, 24)][seed % 3]
    a, b = (run(pos, tri, size, backend=name) for name in BACKENDS)
    assert (a["rast"][..., 3] > 0).float().mean() > 0.3
    assert torch.equal(a["rast"][..., 3], b["rast"][..., 3])
    for key in ("rast", "out", "image"):
        torch.testing.assert_close(a[key], b[key], atol=2e-6, rtol=0)
    for key in ("pos", "attr"):
        assert (a[key] - b[key]).norm() <= 1e-4 * b[key].norm()


def test_backends_agree_on_closed_meshes_in_range_mode():
    pos, tri, ranges = strip(1)
    a, b = (run(pos, tri, (64, 64), ranges, backend=name) for name in BACKENDS)
    assert torch.equal(a["rast"][..., 3], b["rast"][..., 3])
    for key in ("rast", "out", "image"):
        torch.testing.assert_close(a[key], b[key], atol=2e-6, rtol=0)
    for key in ("pos", "attr"):
        assert (a[key] - b[key]).norm() <= 1e-4 * b[key].norm()


@pytest.mark.parametrize("seed", range(3))
def test_backends_see_the_same_triangles_on_folds(seed):
    # Where a fold lies on a pixel centre both its triangles have the same depth, to the last bit.
    rng = np.random.default_rng(seed)
    mesh = trimesh.creation.icosphere(subdivisions=5)
    world = mesh.vertices * rng.normal(1, 0.02, (len(mesh.vertices), 1))
    w = 2.6 - world[:, 2]
    pos = torch.tensor(np.column_stack([world[:, :2] * 2, w - 2.6, w]), dtype=torch.float32)[None]
    tri = torch.tensor(mesh.faces, dtype=torch.int32)
    a, b = (rasterize(pos, tri, (128, 128), backend=name)[0] for name in BACKENDS)
    assert (a[..., 3] > 0).float().mean() > 0.3
    assert torch.equal(a[..., 3], b[..., 3])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_reference_on_cuda_agrees_with_the_cpu():
    pos, tri, ranges = strip(1)
    a = run(pos, tri, (64, 64), ranges)
    b = run(pos.cuda(), tri.cuda(), (64, 64), ranges, backend="torch")
    assert torch.equal(a["rast"][..., 3], b["rast"][..., 3].cpu())
    for key in ("rast", "out", "image"):
        torch.testing.assert_close(a[key], b[key].cpu(), atol=1e-5, rtol=0)
    for key in ("pos", "attr"):
        assert (a[key] - b[key].cpu()).norm() <= 1e-3 * a[key].norm()


@pytest.mark.parametrize("mode", ["range", "instance", "one image"])
def test_any_number_of_threads_gives_the_same_bits(mode):
    if mode == "range":
        pos, tri, ranges = strip(2)
    else:
        (pos, tri), ranges = soup(4, images=5 if mode == "instance" else 1), None
    results = []
    for threads in (1, 2, 4, 2):
        torch.set_num_threads(threads)
        results.append(run(pos, tri, (64, 48), ranges))
    for other in results[1:]:
        for key, value in results[0].items():
            assert torch.equal(value, other[key]), key


def test_calls_from_several_threads_do_not_meet():
    scenes = [(*soup(seed), (20 + 7 * seed, 48)) for seed in range(4)]
    torch.set_num_threads(2)
    alone = [run(*scene) for scene in scenes]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda n: run(*scenes[n % 4]), range(16)))
    for n, result in enumerate(together):
        for key, value in alone[n % 4].items():
            assert torch.equal(value, result[key]), key


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_repeated_calls_do_not_keep_memory():
    pos, tri, ranges = strip(0)

    def resident():
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    for _ in range(10):
        run(pos, tri, (96, 96), ranges)
    before = resident()
    for _ in range(150):
        run(pos, tri, (96, 96), ranges)
    # One call's images are 1.5 MB: keeping any of them would add more than 80 MB.
    assert resident() - before < 30


def test_default_backend_on_the_cpu_is_numba():
    pos, tri = soup(0)
    a, b = run(pos, tri, (16, 16)), run(pos, tri, (16, 16), backend="numba")
    assert all(torch.equal(a[key], b[key]) for key in a)
    with pytest.raises(ValueError, match="numba"):
        rasterize(pos.to("meta"), tri.to("meta"), (8, 8), backend="numba")


def test_gradients_do_not_leak_into_what_asked_for_none():
    pos, tri = soup(0)
    rast, _ = rasterize(pos, tri, (16, 16))
    assert not rast.requires_grad
    color = torch.rand((2, 16, 16, 1), requires_grad=True)
    antialias(color, rast, pos, tri).sum().backward()
    assert color.grad is not None
    assert pos.grad is None
    # rast gets no gradient from antialias, even if it could carry one.
    leaf = pos.clone().requires_grad_()
    rast, _ = rasterize(leaf, tri, (16, 16))
    assert not antialias(torch.rand((2, 16, 16, 1)), rast, pos, tri).requires_grad


def test_numpy_kernels_do_not_import_torch():
    code = (
        "import sys; from g3d.renderers.ops.kernels import rasterize_numpy; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_kernels_are_compiled_once_per_signature():
    from g3d.renderers.ops import antialiasing, coverage, pixels

    # Other layouts (views, int64, read-only) must not lead to a second compilation.
    pos, tri = soup(0)
    padded = torch.zeros((2, 40, 8))
    padded[..., ::2] = pos
    rast, _ = rasterize(padded[..., ::2], tri.t().contiguous().t(), (16, 16))
    interpolate(padded[..., 1::2], rast, tri)
    run(pos, tri, (16, 16))
    for kernel in (
        coverage.visible_image,
        pixels.barycentric_image,
        pixels.rasterize_image_grad,
        pixels.interpolate_image,
        pixels.interpolate_image_grad,
        antialiasing.antialias_image,
        antialiasing.antialias_image_grad,
        antialiasing.opposite_vertices,
    ):
        assert len(kernel.signatures) == 1, kernel


def test_every_property_of_the_page_has_its_tests():
    root = Path(__file__).resolve().parent
    page = (root.parent / "docs" / "ops.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| .* \| (.*) \|$", page, flags=re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 27))
    code = "".join(path.read_text(encoding="utf-8") for path in root.glob("test_ops_*.py"))
    there = set(re.findall(r"^def (test_\w+)", code, flags=re.MULTILINE))
    for number, named in rows:
        tests = set(re.findall(r"`(test_\w+)`", named))
        assert tests <= there, number
        assert tests or "tests/test_ops_gpu.py" in named
