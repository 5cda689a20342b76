"""Antialias: coverage, its gradient to the vertices, topology."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import trimesh
from g3d.renderers.ops import antialias, build_topology, rasterize

BACKENDS = ("numba", "torch")


def flat(xy, z=0.0):
    xy = torch.as_tensor(np.asarray(xy), dtype=torch.float32)
    return torch.cat([xy, torch.full((len(xy), 1), float(z)), torch.ones(len(xy), 1)], 1)


def faces(*rows):
    return torch.tensor(rows, dtype=torch.int32)


def quad(x0, y0, x1, y1, z=0.0):
    return flat([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], z), faces([0, 1, 2], [0, 2, 3])


def mask(pos, tri, size, backend="numba", **options):
    """Antialiased mask [H, W] of one mesh."""
    size = (size, size) if isinstance(size, int) else size
    rast, _ = rasterize(pos[None], tri, size, backend=backend)
    hard = rast[..., 3:].clamp(0, 1)
    return antialias(hard, rast, pos[None], tri, backend=backend, **options)[0, ..., 0]


def loop_antialias(color, rast, pos, tri):
    """The rule pixel pair by pixel pair in float64; choices are plain numbers, weights autograd."""
    height, width = rast.shape[:2]
    ids, half = rast[..., 3].long().tolist(), torch.tensor([width / 2, height / 2]).double()
    screen = pos[:, :2] / pos[:, 3:] * half
    table = {}
    for t in tri.tolist():
        for k in range(3):
            own, edge = t[k], frozenset((t[k - 1], t[k - 2]))
            known = table.setdefault(edge, [])
            if own not in known and len(known) < 2:
                known.append(own)

    def side(a, b, c):
        (ax, ay), (bx, by), (cx, cy) = (screen[i].tolist() for i in (a, b, c))
        return math.copysign(1, (bx - ax) * (cy - ay) - (by - ay) * (cx - ax))

    def is_silhouette(t, k):
        a, b = t[k - 2], t[k - 1]
        far = [v for v in table[frozenset((a, b))] if v != t[k]]
        return not far or side(a, b, t[k]) == side(a, b, far[0])

    out = {}
    for y in range(height):
        for x in range(width):
            for dx, dy in ((1, 0), (0, 1)):
                if x + dx >= width or y + dy >= height:
                    continue
                i0, i1 = ids[y][x], ids[y + dy][x + dx]
                if i0 == i1:
                    continue
                z0, z1 = float(rast[y, x, 2]), float(rast[y + dy, x + dx, 2])
                first = i1 == 0 or (i0 != 0 and z0 < z1)
                t = tri[(i0 if first else i1) - 1].tolist()
                px, py = (x, y) if first else (x + dx, y + dy)
                centre = torch.tensor([px + 0.5, py + 0.5]).double() - half
                ds, best = (1 if first else -1), None
                for k in range(3):
                    p, q = screen[t[k - 2]] - centre, screen[t[k - 1]] - centre
                    if dy:
                        p, q = p.flip(0), q.flip(0)
                    signs = {math.copysign(1, float(end[1].detach())) for end in (p, q)}
                    if len(signs) == 1:
                        continue
                    dc = ds * (p[0] * (q[1] - p[1]) - p[1] * (q[0] - p[0])) / (q[1] - p[1])
                    rise, run = (q - p).detach().abs().flip(0).tolist()
                    if best is None or float(dc.detach()) > float(best[0].detach()):
                        best = (dc, rise >= run and is_silhouette(t, k))
                if best is None or not best[1]:
                    continue
                if not -1 / 16 < float(best[0].detach()) < 17 / 16:
                    continue
                alpha = ds * (0.5 - best[0].clamp(0, 1))
                target = (y, x) if float(alpha.detach()) > 0 else (y + dy, x + dx)
                change = alpha * (color[y + dy, x + dx] - color[y, x])
                out[target] = out.get(target, 0) + change
    return torch.stack(
        [
            torch.stack([color[y, x] + out.get((y, x), 0) for x in range(width)])
            for y in range(height)
        ]
    )


def mixed_scene():
    """An octahedron in perspective before an open quad, large triangles."""
    rng = np.random.default_rng(0)
    ball = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1.0]]) * 0.8
    ball = ball @ np.linalg.qr(rng.normal(size=(3, 3)))[0] + [0.15, -0.1, 0]
    wall = np.array([[-0.9, -0.7, -0.6], [0.5, -0.95, -0.7], [0.8, 0.9, -0.6], [-0.6, 0.7, -0.5]])
    world = np.concatenate([ball, wall])
    w = 2.5 - world[:, 2]
    pos = np.column_stack([world[:, :2] * 1.9, (w - 2.5) * 1.1, w])
    tri = [[i, j, k] for i in (0, 1) for j in (2, 3) for k in (4, 5)] + [[6, 7, 8], [6, 8, 9]]
    return torch.tensor(pos, dtype=torch.float32), faces(*tri)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("mirror", [1, -1])
def test_half_plane_gives_exact_coverage(backend, transpose, mirror):
    values = []
    # Nearer than 1/32 pixel to a centre, snapping hands the edge over and the clamp shows.
    offsets = np.linspace(0.04, 0.96, 24)
    for s in offsets:
        edge = (2 * (3.5 + s) / 8 - 1) * mirror
        points = np.array([[edge, -10.0], [edge, 10.0], [-30.0 * mirror, 0.0]])
        points = points[:, ::-1].copy() if transpose else points
        image = mask(flat(points), faces([0, 1, 2]), 8, backend)
        rows = (image.T if transpose else image).numpy()
        rows = rows if mirror == 1 else rows[:, ::-1]
        np.testing.assert_allclose(rows, np.broadcast_to(rows[:1], rows.shape), atol=1e-6)
        np.testing.assert_array_equal(rows[0, [0, 1, 2, 5, 6, 7]], [1, 1, 1, 0, 0, 0])
        values.append(rows[0, 3:5])
    # Pixels 3 and 4 have their centres at offsets 0 and 1; the hand-over is at 0.5.
    expected = np.stack([np.minimum(1, 0.5 + offsets), np.maximum(0, offsets - 0.5)], axis=1)
    np.testing.assert_allclose(np.array(values), expected, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("slope", [-1.15, -0.9, -0.3, 0.4, 0.87, 1.2])
def test_slanted_edge_covers_its_share(slope, backend):
    # y < slope * x + d. Of the two directions only the steeper one blends (exactly at 45 degrees
    # both do), so the sum over a block is the covered area.
    size = 64
    corners = flat([[-9, -9 * slope + 0.013], [9, 9 * slope + 0.013], [0.1, -30]])
    image = mask(corners, faces([0, 1, 2]), size, backend).numpy()
    x = (2 * (np.arange(8 * size) + 0.5) / 8) / size - 1
    inside = x[:, None] < slope * x[None] + 0.013
    exact = inside.reshape(size, 8, size, 8).mean((1, 3))
    assert abs(image - exact).max() < 0.35
    assert abs(image.sum() - exact.sum()) < 1
    assert abs((exact > 0.5).astype(float) - exact).max() > 0.4


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("offset", [0.125, 0.375, 0.625, 0.875])
def test_edge_at_45_degrees_blends_both_ways(offset, backend):
    # y < x + offset (pixels): each pixel of the edge has two such neighbours, so it is moved twice.
    size = 8
    at = offset * 2 / size
    corners = flat([[-4, -4 + at], [4, 4 + at], [4, -20]])
    image = mask(corners, faces([0, 1, 2]), size, backend).numpy()
    inside, outside = np.diagonal(image), np.diagonal(image, offset=-1)
    np.testing.assert_allclose(inside[1:-1], min(1, 2 * offset), atol=1e-6)
    np.testing.assert_allclose(outside[1:-1], max(0, 2 * offset - 1), atol=1e-6)
    rows, columns = np.indices(image.shape)
    np.testing.assert_array_equal(image[rows > columns + 1], 0)
    np.testing.assert_array_equal(image[rows < columns], 1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_area_of_a_polygon(backend):
    angle = np.arange(11) * 2 * np.pi / 11 + 0.1
    ring = 0.72 * np.stack([np.cos(angle), np.sin(angle)], 1)
    pos = flat(np.concatenate([ring, [[0.01, 0.02]]]))
    tri = faces(*[[i, (i + 1) % 11, 11] for i in range(11)])
    size = 256
    area = float(mask(pos, tri, size, backend).sum()) * 4 / size**2
    exact = 0.5 * 11 * 0.72**2 * math.sin(2 * math.pi / 11)
    # A corner may be wrong by about a pixel.
    assert abs(area - exact) < 11 * 4 / size**2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("axis", [0, 1])
def test_gradient_of_the_area_is_the_length_of_the_edge(axis, backend):
    size = 64
    pos, tri = quad(-0.613, -0.427, 0.533, 0.671)
    pos.requires_grad_()
    mask(pos, tri, size, backend).sum().backward()
    side = [1, 2] if axis == 0 else [2, 3]
    length = (0.671 + 0.427 if axis == 0 else 0.533 + 0.613) * size / 2
    moved = float(pos.grad[side, axis].sum()) / (size / 2)
    assert length - 2 <= moved <= length + 0.05
    assert not pos.grad[:, 2].any()


def test_both_backends_equal_the_rule_written_as_a_loop():
    pos, tri = mixed_scene()
    rast, _ = rasterize(pos[None], tri, (36, 44))
    generator = torch.Generator().manual_seed(0)
    color = torch.rand((36, 44, 3), generator=generator)
    grad = torch.randn((36, 44, 3), generator=generator)
    exact_pos = pos.double().requires_grad_()
    exact_color = color.double().requires_grad_()
    wanted = loop_antialias(exact_color, rast[0], exact_pos, tri)
    assert (wanted != exact_color).any(-1).sum() > 60
    wanted.backward(grad.double())
    for backend in BACKENDS:
        p, c = pos.clone().requires_grad_(), color.clone().requires_grad_()
        found = antialias(c[None], rast, p[None], tri, backend=backend)[0]
        torch.testing.assert_close(found, wanted.float(), atol=1e-5, rtol=0)
        found.backward(grad)
        torch.testing.assert_close(c.grad, exact_color.grad.float(), atol=1e-5, rtol=0)
        assert exact_pos.grad.norm() > 1
        assert (p.grad - exact_pos.grad).norm() < 1e-3 * exact_pos.grad.norm()


@pytest.mark.parametrize("backend", BACKENDS)
def test_boost_scales_the_gradient_of_positions_only(backend):
    pos, tri = mixed_scene()
    grads = []
    for boost in (1.0, 3.0):
        p = pos.clone().requires_grad_()
        image = mask(p, tri, 32, backend, pos_gradient_boost=boost)
        image.square().sum().backward()
        grads.append((image.detach(), p.grad))
    assert torch.equal(grads[0][0], grads[1][0])
    torch.testing.assert_close(3 * grads[0][1], grads[1][1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_which_edges_blend(backend):
    generator = torch.Generator().manual_seed(0)
    color = torch.rand((1, 24, 24, 2), generator=generator)

    def changed(pos, tri):
        rast, _ = rasterize(pos[None], tri, (24, 24), backend=backend)
        out = antialias(color, rast, pos[None], tri, backend=backend)
        return (out != color).any(-1)[0], out

    # A quad that fills the frame: its diagonal is inside a surface, nothing changes.
    pos, tri = quad(-3, -2, 2, 2.5)
    assert not changed(pos, tri)[0].any()
    # The same quad of two loose triangles: the diagonal is an open edge.
    loose = pos[tri.flatten().long()]
    assert changed(loose, faces([0, 1, 2], [3, 4, 5]))[0].sum() >= 12
    # A fold: both triangles of the edge lie on its left.
    fold = torch.cat([flat([[0.2, -2], [0.4, 2], [-9, 0]]), flat([[-9, 0.1]], 0.5)])
    front = changed(fold, faces([0, 1, 2]))
    both = changed(fold, faces([0, 1, 2], [1, 0, 3]))
    assert front[0].sum() >= 12
    assert torch.equal(front[1], both[1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_topology(backend):
    #  3-2   fin: a third triangle on edge (0, 2); a duplicate and two degenerate ones
    #  |/|
    #  0-1
    tri = faces([0, 1, 2], [0, 2, 3], [2, 0, 4], [0, 2, 3], [1, 1, 2], [0, -1, 2])
    opposite = build_topology(tri, backend=backend).opposite
    none = [-1, -1, -1]
    wanted = faces([-1, 3, -1], [-1, -1, 1], [-1, -1, 1], [-1, -1, 1], none, none)
    assert torch.equal(opposite, wanted)


def test_topology_backends_agree_on_a_tangle():
    rng = np.random.default_rng(0)
    for vertices, triangles in ((7, 200), (300, 2000), (5000, 1500)):
        tri = torch.tensor(rng.integers(-1, vertices, (triangles, 3)), dtype=torch.int32)
        a, b = (build_topology(tri, backend=name).opposite for name in BACKENDS)
        assert torch.equal(a, b)
    sphere = trimesh.creation.icosphere(subdivisions=3)
    opposite = build_topology(torch.tensor(sphere.faces, dtype=torch.int32)).opposite
    assert (opposite >= 0).all()


def test_loss_of_a_moving_square_has_its_finite_difference():
    # Towards a soft target elsewhere; edges stay away from pixel centres and hand-overs.
    size = 64
    pixel = 2 / size
    target = mask(*quad(-0.45, -0.5, 0.6, 0.55), size)
    start, tri = quad(-25.8 * pixel, -14.2 * pixel, 12.2 * pixel, 18.8 * pixel)

    def loss(shift):
        pos = start + shift * torch.tensor([1.0, 0.6, 0.0, 0.0]) * pixel
        return (mask(pos, tri, size) - target).double().square().sum()

    shift = torch.zeros((), requires_grad=True)
    loss(shift).backward()
    step = 0.05
    difference = float(loss(torch.tensor(step)) - loss(torch.tensor(-step))) / (2 * step)
    assert abs(difference) > 1
    assert abs(float(shift.grad) / difference - 1) < 0.02


def test_small_triangles_pass_little_gradient_and_supersampling_helps():
    """A property of the rule, not a defect: why renders for training are supersampled."""

    def share(subdivisions, size):
        sphere = trimesh.creation.icosphere(subdivisions=subdivisions)
        turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
        tri = torch.tensor(sphere.faces, dtype=torch.int32)
        world = torch.tensor(sphere.vertices @ turn, dtype=torch.float32)
        scale = torch.tensor(0.65, requires_grad=True)
        pos = torch.cat([world * scale, torch.ones(len(world), 1)], 1)
        mask(pos, tri, size).sum().backward()
        return float(scale.grad) / (2 * math.pi * 0.65 * (size / 2) ** 2)

    assert abs(share(5, 64)) < 0.01
    coarse, fine = share(3, 64), share(3, 256)
    assert 0 < coarse < 0.2
    assert fine > 2 * coarse
    # A large triangle gets all of it.
    pos, tri = quad(-0.5, -0.5, 0.5, 0.5)
    pos.requires_grad_()
    mask(pos, tri, 256).sum().backward()
    got = float((pos.grad[:, :2] * pos.detach()[:, :2]).sum()) / (2 * 128**2)
    assert abs(got - 1) < 0.05


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_and_background_images(backend):
    color = torch.rand((2, 5, 6, 3), requires_grad=True)
    empty = torch.zeros((2, 5, 6, 4))
    for vertices, triangles in ((0, 0), (4, 0), (4, 2)):
        pos = torch.ones((2, vertices, 4), requires_grad=True)
        tri = torch.zeros((triangles, 3), dtype=torch.int32)
        out = antialias(color, empty, pos, tri, backend=backend)
        assert torch.equal(out, color)
        (grad,) = torch.autograd.grad(out.sum(), color)
        assert torch.equal(grad, torch.ones_like(color))


def test_wrong_arguments_are_refused():
    pos, tri = quad(-0.5, -0.5, 0.5, 0.5)
    rast, _ = rasterize(pos[None], tri, (8, 8))
    color = torch.zeros((1, 8, 8, 1))
    other = build_topology(tri[:1])
    with pytest.raises(ValueError, match="topology"):
        antialias(color, rast, pos[None], tri, topology=other)
    with pytest.raises(ValueError, match="color"):
        antialias(color[:, :7], rast, pos[None], tri)
    with pytest.raises(ValueError, match="color"):
        antialias(color.double(), rast, pos[None], tri)
    with pytest.raises(ValueError, match="pos"):
        antialias(color, rast, pos[None].expand(2, -1, -1), tri)
