"""nvdiffrast against our torch reference on CUDA and against numba on the CPU.

The bars are those of the ops' specification: ids equal on 99.9 % of the pixels, barycentrics and
depth within 1e-4 there, blends within 1e-3, gradients within 1e-3 of their norm. nvdiffrast
computes in float32: on slivers a few pixels in 100,000 may miss the 1e-4, so shares are asserted.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from g3d.renderers.ops import antialias, build_topology, interpolate, rasterize
from g3d.renderers.ops.nvdiffrast_backend import nvdiffrast_module
from g3d.renderers.ops.registry import default_backend
from scipy.spatial import ConvexHull

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
needs_nvdiffrast = pytest.mark.skipif(
    not torch.cuda.is_available() or nvdiffrast_module() is None, reason="needs nvdiffrast"
)

REFERENCES = (("torch", "cuda"), ("numba", "cpu"))
each_reference = pytest.mark.parametrize(
    ("backend", "device"), REFERENCES, ids=["torch-cuda", "numba-cpu"]
)


def icosphere(subdivisions):
    """Unit sphere of 20 * 4 ** subdivisions triangles: vertices [V, 3], faces [F, 3]."""
    golden = (1 + 5**0.5) / 2
    vertices = np.array(
        [np.roll([0, a, b * golden], k) for k in range(3) for a in (-1, 1) for b in (-1, 1)]
    )
    faces = ConvexHull(vertices).simplices
    for _ in range(subdivisions):
        edges = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
        edges, place = np.unique(edges, axis=0, return_inverse=True)
        a, b, c = (place.reshape(-1, 3) + len(vertices)).T
        i, j, k = faces.T
        vertices = np.concatenate([vertices, vertices[edges].sum(1)])
        parts = ((i, a, c), (a, j, b), (c, b, k), (a, b, c))
        faces = np.concatenate([np.stack(part, 1) for part in parts])
        vertices /= np.linalg.norm(vertices, axis=1, keepdims=True)
    return vertices, faces


def sphere(subdivisions, images=2, seed=0, bumps=0.0):
    """Turned spheres in perspective, with folds if bumpy: pos [B, V, 4], tri [T, 3]."""
    vertices, faces = icosphere(subdivisions)
    rng = np.random.default_rng(seed)
    pos = []
    for _ in range(images):
        world = vertices * rng.normal(1.0, bumps, (len(vertices), 1))
        world = world @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
        w = 2.6 - world[:, 2]
        pos.append(np.column_stack([world[:, :2] * 2.0, (w - 2.6) * 1.1, w]))
    return torch.tensor(np.array(pos)).float(), torch.tensor(faces, dtype=torch.int32)


def soup(seed, images=2, vertices=60, triangles=30, lowest_w=-0.2):
    """Random large triangles; with ``lowest_w`` < 0 some lie across the frustum and the camera."""
    rng = np.random.default_rng(seed)
    w = rng.uniform(lowest_w, 3.0, (images, vertices))
    xyz = rng.uniform(-1.2, 1.2, (images, vertices, 3)) * np.maximum(np.abs(w), 0.4)[..., None]
    pos = torch.tensor(np.concatenate([xyz, w[..., None]], -1)).float()
    tri = np.stack([rng.choice(vertices, 3, replace=False) for _ in range(triangles)])
    return pos, torch.tensor(tri, dtype=torch.int32)


def as_ranges(pos, tri):
    """The same scene in range mode: pos [B * V, 4], tri [B * T, 3], ranges [B, 2]."""
    images, vertices = pos.shape[:2]
    steps = torch.arange(images, dtype=torch.int32)
    every = (tri[None] + steps[:, None, None] * vertices).reshape(-1, 3)
    ranges = torch.stack([steps * len(tri), torch.full_like(steps, len(tri))], 1)
    return pos.reshape(-1, 4), every, ranges


SCENES = {
    "soup": (soup(0), (256, 256)),
    "soup, odd size": (soup(1, images=3), (237, 153)),
    "soup, wide": (soup(2), (96, 120)),
    "sphere 1280": (sphere(3), (256, 256)),
    "sphere 20480": (sphere(5), (256, 256)),
    "bumpy sphere 20480": (sphere(5, bumps=0.02), (256, 256)),
    "bumpy sphere 20480, odd size": (sphere(5, bumps=0.02), (131, 190)),
}
each_scene = pytest.mark.parametrize(("scene", "size"), SCENES.values(), ids=SCENES)
SMOOTH = {name: SCENES[name] for name in SCENES if "soup" not in name}
SMOOTH["soup before the camera"] = (soup(3, lowest_w=0.6), (256, 192))
each_smooth_scene = pytest.mark.parametrize(("scene", "size"), SMOOTH.values(), ids=SMOOTH)


def assert_near(a, b, bar, share=0.999):
    """At least ``share`` of the values within ``bar``."""
    off = (a.cpu() - b.cpu()).abs().flatten()
    within = float((off <= bar).double().mean())
    assert within >= share, f"{within:.6f} within {bar}, largest {float(off.max()):.3g}"


def assert_norm(a, b, bar=1e-3):
    """The difference of gradients relative to their norm."""
    a, b = a.cpu().double(), b.cpu().double()
    assert float(b.norm()) > 0
    error = float((a - b).norm() / b.norm())
    assert error <= bar, f"relative difference {error:.3g}"


def moved(device, *tensors):
    return [t.detach().to(device) for t in tensors]


def leaf_on(device, tensor):
    return tensor.detach().to(device, copy=True).requires_grad_()


@needs_nvdiffrast
def test_it_is_the_default_on_cuda():
    assert default_backend(torch.device("cuda")) == "nvdiffrast"
    assert default_backend(torch.device("cpu")) == "numba"


@needs_nvdiffrast
@each_scene
@each_reference
def test_rasterize(scene, size, backend, device):
    pos, tri = scene
    found, found_db = rasterize(pos.cuda(), tri.cuda(), size, want_db=True, backend="nvdiffrast")
    wanted, wanted_db = rasterize(*moved(device, pos, tri), size, want_db=True, backend=backend)
    found, found_db, wanted, wanted_db = moved("cpu", found, found_db, wanted, wanted_db)
    assert found.shape == wanted.shape == (len(pos), *size, 4)
    same = found[..., 3] == wanted[..., 3]
    assert same.double().mean() >= 0.999
    same &= wanted[..., 3] > 0
    assert same.double().mean() > 0.2
    assert_near(found[same][:, :2], wanted[same][:, :2], 1e-4)
    assert_near(found[same][:, 2], wanted[same][:, 2], 1e-4)
    scale = 1 + wanted_db[same].abs()
    assert_near(found_db[same] / scale, wanted_db[same] / scale, 1e-3)
    nothing = (found[..., 3] == 0)[..., None]
    assert not (found * nothing).any()
    assert not (found_db * nothing).any()


@needs_nvdiffrast
@each_smooth_scene
@each_reference
def test_gradient_of_rasterize(scene, size, backend, device):
    pos, tri = scene
    grads = []
    weight = torch.randn((len(pos), *size, 4), generator=torch.Generator().manual_seed(0))
    leaves = [leaf_on("cuda", pos), leaf_on(device, pos)]
    images = [
        rasterize(leaf, tri.to(leaf.device), size, backend=name)[0]
        for leaf, name in zip(leaves, ("nvdiffrast", backend), strict=True)
    ]
    # Where the triangles differ, so do the gradients: that is not what is asked here.
    same = (images[0][..., 3].cpu() == images[1][..., 3].cpu())[..., None]
    for leaf, image in zip(leaves, images, strict=True):
        image.backward((weight * same).to(leaf.device))
        grads.append(leaf.grad)
    assert not grads[0][..., 2].any()  # z gets none
    assert_norm(*grads)


@needs_nvdiffrast
def test_gradient_of_the_screen_derivatives():
    pos, tri = soup(3, lowest_w=0.6)
    grads = []
    for name in ("nvdiffrast", "torch"):
        leaf = leaf_on("cuda", pos)
        _, db = rasterize(leaf, tri.cuda(), (64, 64), want_db=True, backend=name)
        db.clamp(-0.2, 0.2).square().sum().backward()  # slivers have enormous ones
        grads.append(leaf.grad)
    assert_norm(*grads, bar=1e-2)


@needs_nvdiffrast
@each_scene
@each_reference
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "per image"])
def test_interpolate(scene, size, shared, backend, device):
    pos, tri = scene
    rast = rasterize(pos.cuda(), tri.cuda(), size)[0].detach()
    generator = torch.Generator().manual_seed(0)
    shape = (pos.shape[1], 5) if shared else (*pos.shape[:2], 5)
    attr = torch.rand(shape, generator=generator)
    weight = torch.randn((*rast.shape[:3], 5), generator=generator)
    results = []
    for name, place in (("nvdiffrast", "cuda"), (backend, device)):
        a, r = leaf_on(place, attr), leaf_on(place, rast)
        out, da = interpolate(a, r, tri.to(place), backend=name)
        assert da.shape[-1] == 0
        out.backward(weight.to(place))
        results.append((out.detach(), a.grad, r.grad))
    (out, attr_grad, rast_grad), wanted = results
    assert_near(out, wanted[0], 1e-5, share=1)
    assert_norm(attr_grad, wanted[1])
    assert_norm(rast_grad, wanted[2])
    assert not rast_grad[..., 2:].any()


@needs_nvdiffrast
@each_scene
@each_reference
def test_antialias(scene, size, backend, device):
    pos, tri = scene
    rast = rasterize(pos.cuda(), tri.cuda(), size)[0].detach()
    color = torch.rand((*rast.shape[:3], 4), generator=torch.Generator().manual_seed(0))
    found = antialias(color.cuda(), rast, pos.cuda(), tri.cuda(), backend="nvdiffrast")
    wanted = antialias(*moved(device, color, rast, pos, tri), backend=backend)
    assert (wanted.cpu() != color).any(-1).sum() > 10
    assert_near(found, wanted, 1e-3)


@needs_nvdiffrast
@each_smooth_scene
@each_reference
def test_gradient_of_antialias(scene, size, backend, device):
    pos, tri = scene
    rast = rasterize(pos.cuda(), tri.cuda(), size)[0].detach()
    generator = torch.Generator().manual_seed(0)
    color = torch.rand((*rast.shape[:3], 3), generator=generator)
    weight = torch.randn(color.shape, generator=generator)
    results = []
    for boost in (1.0, 2.5):
        for name, place in (("nvdiffrast", "cuda"), (backend, device)):
            c, p = leaf_on(place, color), leaf_on(place, pos)
            r, t = moved(place, rast, tri)
            antialias(c, r, p, t, pos_gradient_boost=boost, backend=name).backward(weight.to(place))
            results.append((c.grad, p.grad))
    found, wanted, boosted, boosted_reference = results
    assert_norm(found[0], wanted[0])
    assert_norm(found[1], wanted[1])
    assert_norm(boosted[1], 2.5 * found[1])
    assert_norm(boosted_reference[1], 2.5 * wanted[1])


@needs_nvdiffrast
def test_range_mode_equals_instance_mode():
    pos, tri = sphere(3, images=3)
    size = (100, 72)
    weight = torch.randn((3, *size, 3), generator=torch.Generator().manual_seed(0)).cuda()
    results = []
    for flat in (False, True):
        leaf = leaf_on("cuda", pos)
        p, t, ranges = as_ranges(leaf, tri) if flat else (leaf, tri, None)
        t = t.cuda()
        rast, _ = rasterize(p, t, size, ranges, backend="nvdiffrast")
        attr = torch.cat([p[..., :2], p[..., 3:]], -1)
        out, _ = interpolate(attr, rast, t, backend="nvdiffrast")
        image = antialias(out, rast, p, t, backend="nvdiffrast")
        image.backward(weight)
        results.append((rast.detach(), image.detach(), leaf.grad))
    (a_rast, a_image, a_grad), (b_rast, b_image, b_grad) = results
    steps = torch.arange(3, device="cuda")[:, None, None] * len(tri)
    ids = torch.where(a_rast[..., 3] > 0, a_rast[..., 3] + steps, 0)
    assert torch.equal(b_rast[..., 3], ids)
    assert_near(a_rast[..., :3], b_rast[..., :3], 1e-6, share=1)
    assert_near(a_image, b_image, 1e-4, share=1)
    assert_norm(b_grad, a_grad)


@needs_nvdiffrast
def test_some_images_without_triangles():
    pos, tri, ranges = as_ranges(*sphere(2, images=3))
    ranges[1, 1] = 0
    full = rasterize(pos, tri, (40, 48), ranges)[0]
    some = rasterize(pos.cuda(), tri.cuda(), (40, 48), ranges, backend="nvdiffrast")[0]
    assert not some[1].any()
    assert (some[..., 3].cpu() == full[..., 3]).double().mean() > 0.999
    ranges[:, 1] = 0
    leaf = leaf_on("cuda", pos)
    none, db = rasterize(leaf, tri.cuda(), (40, 48), ranges, want_db=True, backend="nvdiffrast")
    assert not none.any()
    assert db.shape == none.shape
    none.sum().backward()
    assert not leaf.grad.any()


@needs_nvdiffrast
def test_topology_of_ours_and_its_own_give_the_same_image():
    pos, tri = sphere(3)
    pos, tri = pos.cuda(), tri.cuda()
    rast, _ = rasterize(pos, tri, (128, 128))
    color = torch.rand((2, 128, 128, 2), device="cuda")
    built = build_topology(tri, backend="nvdiffrast")
    assert built.native is not None
    ours = build_topology(tri.cpu(), backend="numba").opposite.cuda()
    assert torch.equal(built.opposite, ours)
    images = [
        antialias(color, rast, pos, tri, topology=topology, backend="nvdiffrast")
        for topology in (None, built, type(built)(ours))
    ]
    assert (images[0] != color).any()
    for image in images[1:]:
        assert_near(image, images[0], 1e-6, share=1)
    # The same table serves the reference on the same device.
    reference = antialias(color, rast, pos, tri, topology=built, backend="torch")
    assert_near(reference, images[0], 1e-3)


@needs_nvdiffrast
@pytest.mark.parametrize(("vertices", "triangles"), [(0, 0), (3, 0), (0, 2)])
def test_empty_meshes_give_zeros(vertices, triangles):
    pos = torch.ones((2, vertices, 4), device="cuda", requires_grad=True)
    tri = torch.zeros((triangles, 3), dtype=torch.int32, device="cuda")
    rast, _ = rasterize(pos, tri, (6, 5), backend="nvdiffrast")
    assert rast.shape == (2, 6, 5, 4)
    assert not rast.any()
    out, _ = interpolate(pos, rast, tri, backend="nvdiffrast")
    assert not out.any()
    color = torch.rand((2, 6, 5, 3), device="cuda", requires_grad=True)
    image = antialias(color, rast, pos, tri, backend="nvdiffrast")
    assert torch.equal(image, color)
    (rast.sum() + out.sum() + image.sum()).backward()
    assert not pos.grad.any()
    assert (color.grad == 1).all()


@needs_nvdiffrast
def test_broken_triangles_are_skipped():
    corners = [[-1.0, -1, 0, 1], [1, -1, 0, 1], [1, 1, 0, 1], [-1, 1, 0, 1]]
    broken = [[float("nan"), 0, 0, 1], [0, float("inf"), 0, 1], [0, 0, 0, 0]]
    bad = [[0, 1, 99], [-1, 1, 2], [0, 1, 4], [0, 1, 5], [0, 6, 2], [1, 1, 2], [0, 0, 0]]
    tri = torch.tensor([[0, 1, 2], [0, 2, 3], *bad], dtype=torch.int32, device="cuda")
    for last in (broken, [[0.0, 0, 0, 1]] * 3):  # the second without the nan: nvdiffrast draws
        pos = torch.tensor([corners + last], device="cuda")
        kept = tri if last is broken else tri[[0, 1, 2, 3, 7, 8]]
        rast, _ = rasterize(pos, kept, (16, 16), backend="nvdiffrast")
        assert torch.isfinite(rast).all()
        assert set(rast[..., 3].unique().tolist()) == {1, 2}
        out, _ = interpolate(pos[..., :2].nan_to_num(), rast, kept, backend="nvdiffrast")
        assert torch.isfinite(out).all()
        antialias(out, rast, pos, kept, backend="nvdiffrast")


@needs_nvdiffrast
def test_views_that_begin_between_four_floats():
    pos, tri = sphere(2, images=1)
    plain, _ = rasterize(pos.cuda(), tri.cuda(), (33, 47), backend="nvdiffrast")
    buffer = torch.zeros(pos.numel() + 3, device="cuda")
    shifted = buffer[3:].view(pos.shape)
    shifted.copy_(pos)
    assert shifted.data_ptr() % 16
    rast, _ = rasterize(shifted, tri.cuda(), (33, 47), backend="nvdiffrast")
    assert torch.equal(rast, plain)


@needs_nvdiffrast
def test_the_trainers_way_of_calling():
    """Several views of one batch, as the generator's renderer lays them out, through a loss."""
    pos, tri, ranges = as_ranges(*sphere(3, images=4))
    target = torch.zeros((4, 64, 64, 1), device="cuda")
    target[:, 16:48, 10:40] = 1
    grads = []
    for backend in ("nvdiffrast", "torch"):
        leaf = leaf_on("cuda", pos)
        rast, _ = rasterize(leaf, tri.cuda(), (64, 64), ranges, backend=backend)
        hard = (rast[..., 3:] > 0).float()
        soft = antialias(hard, rast, leaf, tri.cuda(), backend=backend)
        (soft - target).square().sum().backward()
        grads.append(leaf.grad)
    assert_norm(*grads)


@each_scene
def test_reference_on_cuda_equals_numba_on_the_cpu(scene, size):
    pos, tri = scene
    results = []
    for backend, place in REFERENCES:
        leaf = leaf_on(place, pos)
        faces = tri.to(place)
        rast, _ = rasterize(leaf, faces, size, backend=backend)
        color, _ = interpolate(leaf[..., :3] * 0.3, rast, faces, backend=backend)
        image = antialias(color, rast, leaf, faces, backend=backend)
        image.square().sum().backward()
        results.append((rast.detach().cpu(), image.detach().cpu(), leaf.grad))
    (a_rast, a_image, a_grad), (b_rast, b_image, b_grad) = results
    same = a_rast[..., 3] == b_rast[..., 3]
    assert same.double().mean() >= 0.9999
    assert_near(a_rast[same], b_rast[same], 1e-5)
    assert_near(a_image, b_image, 1e-4)
    if same.all():
        assert_norm(a_grad, b_grad)
