"""Which triangle a pixel sees, where on it, and the gradient of that."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from g3d.renderers.ops import rasterize
from g3d.renderers.ops.kernels import FLOAT_IDS, decode_ids, encode_ids, rasterize_numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import Delaunay

BACKENDS = ("numba", "torch")


def draw(xyzw, tri, size, backend="numba"):
    """One image: rast [H, W, 4] and ids [H, W] as NumPy arrays."""
    pos = torch.tensor(np.asarray(xyzw), dtype=torch.float32)[None]
    faces = torch.tensor(np.asarray(tri).reshape(-1, 3), dtype=torch.int32)
    size = (size, size) if isinstance(size, int) else size
    rast = rasterize(pos, faces, size, backend=backend)[0][0].numpy()
    return rast, rast[..., 3].astype(int)


def flat(xy, z=0.0):
    """Clip-space vertices of screen points in NDC."""
    xy = np.asarray(xy, dtype=np.float64)
    return np.column_stack([xy, np.full(len(xy), z), np.ones(len(xy))])


def quad(x0, y0, x1, y1, z=0.0):
    return flat([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], z), np.array([[0, 1, 2], [0, 2, 3]])


def centres(height, width):
    x = (2 * np.arange(width) + 1) / width - 1
    y = (2 * np.arange(height) + 1) / height - 1
    return np.meshgrid(x, y)


def weights(corners, fx, fy):
    """Perspective-correct weights [..., 3]: solve the pixel's ray for the triangle."""
    rows = torch.stack(
        [
            corners[..., 0] - fx[..., None] * corners[..., 3],
            corners[..., 1] - fy[..., None] * corners[..., 3],
            torch.ones_like(corners[..., 0]),
        ],
        dim=-2,
    )
    right = torch.tensor([0.0, 0.0, 1.0], dtype=corners.dtype).expand(*rows.shape[:-2], 3)
    return torch.linalg.solve(rows, right[..., None])[..., 0]


def random_scene(seed, vertices=30, triangles=40, spread=1.3, near=True):
    """Triangles anywhere: outside, across the frustum's planes, behind the camera."""
    rng = np.random.default_rng(seed)
    w = rng.uniform(-0.3 if near else 0.5, 3.0, vertices)
    xyz = rng.uniform(-spread, spread, (vertices, 3)) * np.maximum(np.abs(w), 0.4)[:, None]
    tri = rng.integers(0, vertices, (triangles, 3))
    return np.column_stack([xyz, w]).astype(np.float32), tri


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_triangle_by_hand(backend):
    # The lower left half of an 8x8 image: x + y < 0. Row 0 is the bottom.
    _, ids = draw(flat([[-1, -1], [0.95, -1], [-1, 0.95]]), [[0, 1, 2]], 8, backend)
    expected = np.array([[1] * (7 - row) + [0] * (row + 1) for row in range(8)])
    np.testing.assert_array_equal(ids, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_row_zero_is_the_bottom(backend):
    _, ids = draw(*quad(-1, -1, 1, -0.5), 8, backend)
    assert ids[:2].all()
    assert not ids[2:].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_diagonal_through_pixel_centres_is_drawn_once(backend):
    _, ids = draw(*quad(-1, -1, 1, 1), 8, backend)
    assert (ids > 0).all()
    # The diagonal is the left (upper) edge of triangle 1, so triangle 1 owns it.
    expected = np.where(np.arange(8)[None] >= np.arange(8)[:, None], 1, 2)
    np.testing.assert_array_equal(ids, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_left_and_bottom_edges_are_inclusive(backend):
    lo, hi = (2 * 1 + 1) / 8 - 1, (2 * 5 + 1) / 8 - 1
    _, ids = draw(*quad(lo, lo, hi, hi), 8, backend)
    expected = np.zeros((8, 8), dtype=bool)
    expected[1:5, 1:5] = True
    np.testing.assert_array_equal(ids > 0, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", [0, 1])
def test_watertight_mesh_covers_every_pixel_exactly_once(backend, seed):
    rng = np.random.default_rng(seed)
    # Points on a coarse lattice put many edges and vertices on pixel centres.
    frame = [[-2, -2], [2, -2], [2, 2], [-2, 2]]
    points = np.unique(np.concatenate([rng.integers(-20, 21, (60, 2)) / 16, frame]), axis=0)
    tri = Delaunay(points).simplices
    flip = rng.random(len(tri)) < 0.5
    tri[flip] = tri[flip][:, ::-1]
    pos = torch.tensor(flat(points), dtype=torch.float32)
    faces = torch.tensor(tri, dtype=torch.int32)
    ranges = torch.tensor([[i, 1] for i in range(len(tri))], dtype=torch.int32)
    rast, _ = rasterize(pos, faces, (24, 40), ranges, backend=backend)
    np.testing.assert_array_equal((rast[..., 3] > 0).sum(0).numpy(), 1)


def test_order_of_triangles_only_renames_them():
    pos, tri = random_scene(3)
    order = np.random.default_rng(0).permutation(len(tri))
    _, a = draw(pos, tri, 48)
    _, b = draw(pos, tri[order], 48)
    renamed = np.where(b > 0, order[np.maximum(b, 1) - 1] + 1, 0)
    # Two triangles that share an edge are equally near on it: an exact tie, seldom at a centre.
    differ = a != renamed
    assert (a > 0).sum() > 500
    assert differ.sum() <= 5
    for i, j in zip(a[differ], renamed[differ], strict=True):
        assert len({*tri[i - 1]} & {*tri[j - 1]}) >= 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_nearer_wins_and_later_wins_a_tie(backend):
    near, tri = quad(-1, -1, 1, 1, z=-0.2)
    far, _ = quad(-1, -1, 1, 1, z=0.3)
    for first, second, wanted in ((near, far, {1, 2}), (far, near, {3, 4}), (near, near, {3, 4})):
        _, ids = draw(np.concatenate([first, second]), np.concatenate([tri, tri + 4]), 16, backend)
        assert set(np.unique(ids)) == wanted


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "pos",
    [
        flat([[-1, -1], [1, -1], [0, 1]], z=1.1),
        flat([[-1, -1], [1, -1], [0, 1]], z=-1.1),
        flat([[1.1, -1], [3, -1], [2, 1]]),
        flat([[-1, 1.1], [1, 1.1], [0, 3]]),
        -flat([[-1, -1], [1, -1], [0, 1]]),
    ],
    ids=["beyond far", "before near", "right", "above", "behind"],
)
def test_outside_the_frustum_is_empty(pos, backend):
    rast, _ = draw(pos, [[0, 1, 2]], 16, backend)
    assert not rast.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_triangle_through_the_camera_plane(backend):
    # A floor from behind the camera to far in front of it: w changes its sign.
    near, far = 0.1, 50.0
    world = np.array([[-9.0, -0.7, 6.0], [11.0, -0.7, 5.0], [1.0, -0.7, -30.0]])
    clip_z = -(far + near) / (far - near) * world[:, 2] - 2 * far * near / (far - near)
    pos = np.column_stack([world[:, :2], clip_z, -world[:, 2]]).astype(np.float32)
    assert pos[:, 3].min() < 0 < pos[:, 3].max()
    rast, ids = draw(pos, [[0, 1, 2]], (40, 56), backend)
    assert np.isfinite(rast).all()
    fx, fy = centres(40, 56)
    exact = pos.astype(np.float64)
    rays = np.stack([fx, fy, np.ones_like(fx)], -1)
    bary = rays @ np.linalg.inv(exact[:, [0, 1, 3]])
    z = bary @ exact[:, 2]
    margin = np.minimum(bary.min(-1) * 30, 1 - np.abs(z))
    clear = np.abs(margin) > 0.01
    assert clear.mean() > 0.9
    assert 0.2 < ids.mean() < 0.8
    np.testing.assert_array_equal((ids > 0)[clear], (margin > 0)[clear])


@pytest.mark.parametrize("backend", BACKENDS)
def test_broken_triangles_are_skipped(backend):
    pos, tri = quad(-1, -1, 1, 1)
    pos = np.concatenate([pos, [[np.nan, 0, 0, 1], [0, np.inf, 0, 1], [0, 0, 0, 0]]])
    bad = [[0, 1, 99], [-1, 1, 2], [0, 1, 4], [0, 1, 5], [0, 6, 2], [1, 1, 2], [0, 0, 0]]
    rast, ids = draw(pos, np.concatenate([tri, bad]), 16, backend)
    assert np.isfinite(rast).all()
    assert set(np.unique(ids)) == {1, 2}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [(64, 64), (96, 120), (37, 53)])
def test_barycentrics_and_depth_match_the_rays(size, backend):
    # w from 0.3 to 3: a ratio of 10.
    pos = np.array(
        [[-0.25, -0.28, 0.0, 0.3], [2.4, -2.0, 1.0, 3.0], [0.3, 1.4, 0.2, 1.5]], dtype=np.float32
    )
    rast, ids = draw(pos, [[0, 1, 2]], size, backend)
    fx, fy = (torch.tensor(a) for a in centres(*size))
    corners = torch.tensor(pos, dtype=torch.float64).expand(*size, 3, 4)
    bary = weights(corners, fx, fy).numpy()
    depth = (bary @ pos[:, 2].astype(np.float64)) / (bary @ pos[:, 3].astype(np.float64))
    inside = bary.min(-1) > 0.01
    assert inside.sum() > 0.2 * inside.size
    assert (ids[inside] == 1).all()
    assert not ids[bary.min(-1) < -0.05].any()
    np.testing.assert_allclose(rast[inside][:, :2], bary[inside][:, :2], atol=1e-5)
    np.testing.assert_allclose(rast[inside][:, 2], depth[inside], atol=1e-5)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 40), width=st.integers(1, 40))
def test_outputs_stay_in_range(seed, height, width):
    pos, tri = random_scene(seed)
    rast, ids = draw(pos, tri, (height, width))
    assert np.isfinite(rast).all()
    assert (rast[..., :2] >= 0).all()
    assert (rast[..., 0] + rast[..., 1] <= 1 + 1e-6).all()
    assert (np.abs(rast[..., 2]) <= 1).all()
    assert ids.min() >= 0
    assert ids.max() <= len(tri)
    assert not rast[ids == 0].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_range_mode_equals_instance_mode(backend):
    scenes = [random_scene(seed, triangles=20 + seed) for seed in range(3)]
    pos = torch.tensor(np.concatenate([p for p, _ in scenes]))
    tri = torch.tensor(np.concatenate([t + 30 * i for i, (_, t) in enumerate(scenes)])).int()
    counts = [len(t) for _, t in scenes]
    starts = [sum(counts[:i]) for i in range(3)]
    ranges = torch.tensor([*zip(starts, counts, strict=True), (5, 0)], dtype=torch.int32)
    rast, _ = rasterize(pos, tri, (33, 40), ranges, backend=backend)
    assert not rast[3].any()
    for i, (p, t) in enumerate(scenes):
        one, ids = draw(p, t, (33, 40), backend)
        np.testing.assert_array_equal(rast[i, ..., :3].numpy(), one[..., :3])
        # Ids index the whole buffer, they do not start again with each image.
        np.testing.assert_array_equal(
            rast[i, ..., 3].numpy(), np.where(ids > 0, ids + starts[i], 0)
        )


def test_large_ids_survive_the_float_channel():
    ids = np.array([0, 1, 77, FLOAT_IDS - 1, FLOAT_IDS, FLOAT_IDS + 1, FLOAT_IDS + 3, 800_000_000])
    ids = ids.astype(np.int32)
    assert np.isfinite(encode_ids(ids)).all()
    np.testing.assert_array_equal(decode_ids(encode_ids(ids)), ids)
    np.testing.assert_array_equal(encode_ids(ids[:5]), ids[:5].astype(np.float32))


def test_numpy_entry_equals_the_op_and_takes_read_only_arrays():
    pos, tri = random_scene(5)
    pos.setflags(write=False)
    rast, _ = draw(pos, tri, (20, 28))
    batch = rasterize_numpy(np.stack([pos, pos]), tri.astype(np.int64), 20, 28, threads=2)
    np.testing.assert_array_equal(batch, np.stack([rast, rast]))
    ranged = rasterize_numpy(pos, tri, 20, 28, ranges=np.array([[0, len(tri)]]))
    np.testing.assert_array_equal(ranged[0], rast)


def pixel_loss_reference(pos, tri, rast, grad):
    """sum(grad * (u, v)) in float64 through the rays, for the triangles that rast shows."""
    height, width = rast.shape[:2]
    ids = rast[..., 3].long()
    rows, cols = torch.nonzero(ids, as_tuple=True)
    fx, fy = (torch.tensor(a)[rows, cols] for a in centres(height, width))
    bary = weights(pos[tri.long()[ids[rows, cols] - 1]], fx, fy)
    return (bary[:, :2] * grad[rows, cols, :2].double()).sum()


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_matches_float64_autograd_of_the_rays(backend):
    rng = np.random.default_rng(1)
    corners = rng.uniform(-1.2, 1.2, (24, 2))
    w = rng.uniform(0.5, 3.0, 24)
    pos = torch.tensor(
        np.column_stack([corners, rng.uniform(-0.5, 0.5, 24), np.ones(24)]) * w[:, None]
    )
    pos = pos.float().requires_grad_()
    tri = torch.tensor(rng.permutation(24).reshape(8, 3), dtype=torch.int32)
    rast, _ = rasterize(pos[None], tri, (48, 40), backend=backend)
    grad = torch.randn(rast.shape, generator=torch.Generator().manual_seed(0))
    # Gradients of z/w and of the id are dropped.
    (found,) = torch.autograd.grad(rast, pos, grad)
    exact = pos.detach().double().requires_grad_()
    pixel_loss_reference(exact, tri, rast[0].detach(), grad[0]).backward()
    assert exact.grad.norm() > 1
    assert not found[:, 2].any()
    wanted = exact.grad[:, [0, 1, 3]]
    assert (found[:, [0, 1, 3]] - wanted).norm() <= 1e-3 * wanted.norm()


@pytest.mark.parametrize("backend", BACKENDS)
def test_screen_derivatives_match_central_differences(backend):
    pos = torch.tensor(
        [[-1.9, -1.7, 0.0, 1.0], [2.6, -1.6, 0.0, 1.3], [0.2, 2.3, 0.0, 1.1]], requires_grad=True
    )
    tri = torch.tensor([[0, 1, 2]], dtype=torch.int32)
    rast, db = rasterize(pos[None], tri, (64, 48), want_db=True, backend=backend)
    inner = (rast[0, ..., 3] > 0)[1:-1, 1:-1]
    for axis in (0, 1):
        if axis == 0:
            inner = inner & (rast[0, :-2, 1:-1, 3] > 0) & (rast[0, 2:, 1:-1, 3] > 0)
        else:
            inner = inner & (rast[0, 1:-1, :-2, 3] > 0) & (rast[0, 1:-1, 2:, 3] > 0)
    assert inner.sum() > 1000
    dx = (rast[0, 1:-1, 2:, :2] - rast[0, 1:-1, :-2, :2]) / 2
    dy = (rast[0, 2:, 1:-1, :2] - rast[0, :-2, 1:-1, :2]) / 2
    wanted = torch.stack([dx, dy], -1).flatten(-2)[inner]
    torch.testing.assert_close(db[0, 1:-1, 1:-1][inner], wanted, atol=2e-5, rtol=0)
    assert not db[rast[..., 3] == 0].any()
    # The derivatives have a gradient of their own: compare with moving a vertex.
    (grad,) = torch.autograd.grad(db[0, 32, 24].sum(), pos)
    step = 1e-3
    for k in (0, 1, 3):
        values = []
        for sign in (-1, 1):
            moved = pos.detach().clone()
            moved[1, k] += sign * step
            values.append(
                rasterize(moved[None], tri, (64, 48), want_db=True)[1][0, 32, 24].double().sum()
            )
        difference = (values[1] - values[0]) / (2 * step)
        assert abs(float(difference) - float(grad[1, k])) < 2e-4


def test_derivatives_are_not_computed_unasked():
    pos, tri = random_scene(0)
    _, db = rasterize(torch.tensor(pos)[None], torch.tensor(tri).int(), (8, 9))
    assert db.shape == (1, 8, 9, 0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("vertices", "triangles"), [(0, 0), (3, 0), (0, 2)])
def test_empty_meshes_give_zeros(vertices, triangles, backend):
    pos = torch.ones((2, vertices, 4), requires_grad=True)
    tri = torch.zeros((triangles, 3), dtype=torch.int32)
    rast, _ = rasterize(pos, tri, (6, 5), backend=backend)
    assert rast.shape == (2, 6, 5, 4)
    assert not rast.any()
    rast.sum().backward()
    assert pos.grad.shape == pos.shape
    assert not pos.grad.any()


@pytest.mark.parametrize(
    "change",
    [
        {"pos": torch.zeros(1, 3, 3)},
        {"pos": torch.zeros(1, 3, 4, dtype=torch.float64)},
        {"pos": torch.zeros(3, 4)},
        {"pos": np.zeros((1, 3, 4), dtype=np.float32)},
        {"tri": torch.zeros(1, 3, dtype=torch.int64)},
        {"tri": torch.zeros(1, 4, dtype=torch.int32)},
        {"resolution": (0, 8)},
        {"ranges": torch.tensor([[0, 1]], dtype=torch.int32)},
        {"pos": torch.zeros(3, 4), "ranges": torch.tensor([[0, 2]], dtype=torch.int32)},
        {"pos": torch.zeros(3, 4), "ranges": torch.tensor([[-1, 1]], dtype=torch.int32)},
        {"pos": torch.zeros(3, 4), "ranges": torch.tensor([[0, 1]])},
        {"backend": "cuda"},
    ],
)
def test_wrong_arguments_are_refused(change):
    good = {
        "pos": torch.zeros(1, 3, 4),
        "tri": torch.zeros(1, 3, dtype=torch.int32),
        "resolution": (8, 8),
    }
    rasterize(**good)
    with pytest.raises(ValueError, match=r"pos|tri|resolution|ranges|backend"):
        rasterize(**{**good, **change})
