"""FlexiCubes: its derived tables, closed forms, gradients, and its error beside DMTet's."""

import numpy as np
import pytest
import torch
import trimesh
from g3d.trainer.isosurface.cubes import (
    AROUND_EDGES,
    AROUND_STEPS,
    CORNERS,
    CUBE_EDGES,
    DUAL,
    CubeGrid,
    mirrored,
)
from g3d.trainer.isosurface.flexicubes import CubeWeights, FlexiCubes
from g3d.trainer.isosurface.grid import bcc_grid
from g3d.trainer.isosurface.marching import MarchingTetrahedra
from hypothesis import given, settings
from hypothesis import strategies as st


def sphere(p):
    return 0.7 - p.norm(dim=-1)


def torus(p):
    return 0.25 - ((p[..., :2].norm(dim=-1) - 0.6) ** 2 + p[..., 2] ** 2).sqrt()


def two_spheres(p):
    shift = torch.tensor([0.45, 0.0, 0.0], dtype=p.dtype)
    return torch.maximum(0.35 - (p - shift).norm(dim=-1), 0.35 - (p + shift).norm(dim=-1))


def random_field(grid, seed, batch=1, smooth=False):
    shape = (batch, *grid.shape)
    sdf = torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()
    if smooth:
        for _ in range(2):
            sdf = torch.nn.functional.avg_pool3d(sdf, 3, 1, 1)
    sdf = sdf.flatten(1)
    return torch.where(torch.from_numpy(grid.hull), -sdf.abs() - 0.01, sdf)


def random_weights(cells, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    alpha, beta, gamma = (
        0.5 + torch.rand(len(cells), *tail, generator=generator, dtype=dtype)
        for tail in ((8,), (12,), ())
    )
    return CubeWeights(alpha, beta, gamma)


def assert_closed_and_oriented(vertices, faces):
    """Every directed edge once, and its reverse once: a closed oriented 2-manifold in edges."""
    directed = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).numpy()
    forward, back = (directed @ np.array(w) for w in ((len(vertices), 1), (1, len(vertices))))
    assert len(np.unique(forward)) == len(forward)
    assert np.array_equal(np.sort(forward), np.sort(back))
    assert np.array_equal(np.unique(faces), np.arange(len(vertices)))


def assert_one_fan(vertices, faces):
    """Each vertex has one fan of triangles: the edges opposite to it make a single cycle."""
    opposite = {}
    for a, b, c in faces.tolist():
        for corner, start, end in ((a, b, c), (b, c, a), (c, a, b)):
            opposite.setdefault(corner, {})[start] = end
    for ring in opposite.values():
        first = at = next(iter(ring))
        steps = 0
        while steps == 0 or at != first:
            at, steps = ring[at], steps + 1
        assert steps == len(ring)


def test_grid():
    grid = CubeGrid(4)
    assert np.array_equal(grid.vertices, bcc_grid(4).vertices[: 5**3])
    assert grid.hull.sum() == 5**3 - 3**3
    corner = grid.vertices[grid.cubes]
    assert np.allclose(corner - corner[:, :1], CORNERS * grid.cell, atol=1e-6)
    assert len(np.unique(grid.edges, axis=0)) == len(grid.edges) == 3 * 4 * 25
    assert np.array_equal(grid.edges[grid.cube_edges], grid.cubes[:, CUBE_EDGES])
    with pytest.raises(ValueError, match="at least 2"):
        CubeGrid(1)


def test_tables_cover_every_cut_edge_and_agree_with_mirroring():
    inside = np.arange(256)[:, None] >> np.arange(8) & 1
    cut = inside[:, CUBE_EDGES[:, 0]] != inside[:, CUBE_EDGES[:, 1]]
    assert np.array_equal(DUAL.patch[:256] >= 0, cut)
    assert np.array_equal(DUAL.patch[256:] >= 0, cut)
    assert DUAL.patches.max() == 4
    for row, count in zip(DUAL.patch, DUAL.patches, strict=True):
        sizes = np.bincount(row[row >= 0], minlength=count)
        assert (sizes >= 3).all()  # every patch is at least a triangle
    # A double face that is joined otherwise splits the loop that met it twice.
    double = DUAL.double_face >= 0
    assert np.array_equal(DUAL.patches[256:] - DUAL.patches[:256], double.astype(int))
    for axis in range(3):
        corners, edges = mirrored(axis)
        other = (inside[:, corners] << np.arange(8)).sum(axis=1)
        mine, its = DUAL.patch[other], DUAL.patch[:256][:, edges]
        same = mine[:, :, None] == mine[:, None, :]
        assert np.array_equal(same, its[:, :, None] == its[:, None, :])


def test_four_cubes_around_an_edge_see_the_same_edge():
    grid = CubeGrid(4)
    middle = np.array([2, 2, 2])
    for axis in range(3):
        cells = (middle + AROUND_STEPS[axis]) @ np.array([16, 4, 1])
        assert len(set(grid.cube_edges[cells, AROUND_EDGES[axis]])) == 1


def test_numba_and_torch_topologies_are_equal():
    flexi = FlexiCubes(CubeGrid(7))
    inside = torch.from_numpy(np.random.default_rng(0).random((4, 512)) < 0.45)
    inside[2] = False  # an empty sample in the middle
    one, other = flexi.topology(inside), flexi.topology.by_torch(inside)
    for name in ("sample", "cell", "crossing", "vertex_row", "quads"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert len(one.quads) > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_equals_cpu():
    flexi = FlexiCubes(CubeGrid(12))
    sdf = random_field(flexi.grid, 3, batch=3)
    here = flexi(sdf)
    there = flexi.cuda()(sdf.cuda())
    assert torch.equal(here.faces, there.faces.cpu())
    assert torch.equal(here.face_ranges, there.face_ranges)
    assert torch.allclose(here.vertices, there.vertices.cpu(), atol=1e-5)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(3, 7), training=st.booleans())
def test_any_field_negative_on_the_hull_gives_manifolds(seed, n, training):
    flexi = FlexiCubes(CubeGrid(n)).train(training)
    sdf = random_field(flexi.grid, seed, batch=2)
    cells = flexi.cut_cells(sdf)
    meshes = flexi.extract(cells, sdf, None, random_weights(cells, seed % 1000)).meshes
    assert meshes.vertices.isfinite().all()
    for index in range(2):
        vertices, faces = meshes.sample(index)
        if len(faces):
            assert_closed_and_oriented(vertices, faces)
            assert_one_fan(vertices, faces)


def test_the_double_face_rule_is_needed():
    """Without it the same fields give edges with four faces: the test above can fail."""
    flexi = FlexiCubes(CubeGrid(7)).eval()
    flexi.topology.double_face.fill_(-1)
    cells = flexi.topology.by_torch(random_field(flexi.grid, 0, batch=20) > 0)
    pairs = cells.quads[:, [0, 1, 1, 2, 2, 3, 3, 0]].reshape(-1, 2)
    assert len(torch.unique(pairs, dim=0)) < len(pairs)


@pytest.mark.parametrize("training", [True, False])
def test_analytic_surfaces(training):
    flexi = FlexiCubes(CubeGrid(64)).train(training)
    points = torch.from_numpy(flexi.grid.vertices)
    batch = flexi(torch.stack([field(points) for field in (sphere, torus, two_spheres)]))
    expected = (
        (2, 4 / 3 * np.pi * 0.7**3, 4 * np.pi * 0.7**2),
        (0, 2 * np.pi**2 * 0.6 * 0.25**2, 4 * np.pi**2 * 0.6 * 0.25),
        (4, 8 / 3 * np.pi * 0.35**3, 8 * np.pi * 0.35**2),
    )
    for index, (euler, volume, area) in enumerate(expected):
        vertices, faces = batch.sample(index)
        assert_closed_and_oriented(vertices, faces)
        mesh = trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False)
        assert mesh.euler_number == euler
        assert mesh.volume == pytest.approx(volume, rel=0.01)  # positive: wound outwards
        assert mesh.area == pytest.approx(area, rel=0.01)


def test_smooth_random_fields_keep_their_topology_when_weights_change():
    flexi = FlexiCubes(CubeGrid(12)).eval()
    sdf = random_field(flexi.grid, 5, batch=2, smooth=True)
    cells = flexi.cut_cells(sdf)
    plain = flexi.extract(cells, sdf).meshes
    weighted = flexi.extract(cells, sdf, None, random_weights(cells, 1)).meshes
    for index in range(2):
        euler = []
        for meshes in (plain, weighted):
            vertices, faces = meshes.sample(index)
            assert_closed_and_oriented(vertices, faces)
            euler.append(len(vertices) - len(faces) // 2)
        assert euler[0] == euler[1]
        assert euler[0] % 2 == 0


def test_batch_equals_samples_one_by_one():
    flexi = FlexiCubes(CubeGrid(9))
    points = torch.from_numpy(flexi.grid.vertices)
    fields = torch.stack([sphere(points), torch.full((1000,), -1.0), torus(points)])
    for training in (True, False):
        flexi.train(training)
        batch = flexi(fields)
        assert batch.faces.dtype == batch.face_ranges.dtype == torch.int32
        assert (batch.vertex_sample.diff() >= 0).all()
        for index, field in enumerate(fields):
            for mine, alone in zip(batch.sample(index), flexi(field[None]).sample(0), strict=True):
                assert torch.equal(mine, alone)


def test_weights_of_all_cubes_equal_weights_of_the_cut_ones():
    flexi = FlexiCubes(CubeGrid(6))
    sdf = random_field(flexi.grid, 2, batch=2)
    cells = flexi.cut_cells(sdf)
    few = random_weights(cells, 0)
    own = few.alpha, few.beta, few.gamma
    every = [torch.full((2, 216, *w.shape[1:]), torch.nan) for w in own]
    for weight, rows in zip(every, own, strict=True):
        weight[cells.sample, cells.cell] = rows
    offsets = 0.01 * torch.ones(2, 343, 3)
    one = flexi(sdf, offsets, CubeWeights(*every))
    other = flexi.extract(cells, sdf, offsets, few).meshes
    assert torch.equal(one.vertices, other.vertices)
    assert torch.equal(one.faces, other.faces)


def test_vertex_formula_and_deviation_against_a_plain_loop():
    """One node inside: its cubes have three crossings each, everything by hand."""
    flexi = FlexiCubes(CubeGrid(4)).eval()
    grid = flexi.grid
    sdf = torch.full((1, 125), -0.3)
    sdf[0, 62] = 0.5  # the middle
    cells = flexi.cut_cells(sdf)
    weights = random_weights(cells, 4)
    mesh, deviation = flexi.extract(cells, sdf, None, weights)
    vertices, faces = mesh.sample(0)
    assert (len(vertices), len(faces)) == (8, 12)
    spreads = []
    for row, cell in enumerate(cells.cell.tolist()):
        nodes = grid.cubes[cell]
        points, share = [], []
        for edge, (a, b) in enumerate(CUBE_EDGES):
            if 62 not in (nodes[a], nodes[b]):
                continue
            value = sdf[0, nodes] * weights.alpha[row]
            pa, pb = torch.from_numpy(grid.vertices[nodes[[a, b]]])
            points.append((value[a] * pb - value[b] * pa) / (value[a] - value[b]))
            share.append(weights.beta[row, edge])
        points, share = torch.stack(points), torch.stack(share)
        expected = (share[:, None] * points).sum(0) / share.sum()
        assert torch.allclose(vertices[row], expected, atol=1e-6)
        distance = (points - expected).norm(dim=1)
        spreads.append((distance - distance.mean()).abs().mean())
    assert deviation[0] == pytest.approx(float(torch.stack(spreads).mean()), rel=1e-4)


def test_gamma_chooses_the_diagonal_and_moves_the_middle():
    flexi = FlexiCubes(CubeGrid(4)).eval()
    sdf = torch.full((1, 125), -0.3)
    sdf[0, 62] = 0.3
    cells = flexi.cut_cells(sdf)
    quad = cells.quads[0]
    for pair in ((0, 2), (1, 3)):
        gamma = torch.full((8,), 0.4)
        gamma[cells.vertex_row[quad[list(pair)]]] = 0.7
        weights = CubeWeights(gamma=gamma)
        faces = flexi.eval().extract(cells, sdf, None, weights).meshes.faces[:2].tolist()
        shared = set(faces[0]) & set(faces[1])
        assert shared == set(quad[list(pair)].tolist())
        # Four triangles: the middle leans to the heavier diagonal's own middle.
        corners = torch.from_numpy(np.random.default_rng(0).random((8, 3))).float()
        mesh = flexi.train()._triangulate(cells, corners, gamma)
        p = corners[quad]
        heavy, light = 0.7 * 0.7, 0.4 * 0.4
        other = 1 - pair[0]
        ends = (0.5 * (p[pair[0]] + p[pair[1]]), 0.5 * (p[other] + p[other + 2]))
        expected = (heavy * ends[0] + light * ends[1]) / (heavy + light)
        assert torch.allclose(mesh.vertices[8], expected, atol=1e-6)
        assert len(mesh.vertices) == 8 + 6
        assert len(mesh.faces) == 24


def test_gradients_of_vertices_and_deviation():
    """All five inputs against finite differences in float64."""
    flexi = FlexiCubes(CubeGrid(3)).double().train()
    generator = torch.Generator().manual_seed(1)
    sdf = torch.randn(1, 64, generator=generator, dtype=torch.float64)
    sdf = sdf.sign() * (sdf.abs() + 0.2)
    sdf = torch.where(torch.from_numpy(flexi.grid.hull), -sdf.abs(), sdf)
    sdf[0, 21] = 0.5  # an inner node
    cells = flexi.cut_cells(sdf)
    weights = random_weights(cells, 2, torch.float64)
    offsets = 0.01 * torch.randn(1, 64, 3, generator=generator, dtype=torch.float64)

    def run(sdf, offsets, alpha, beta, gamma):
        mesh, deviation = flexi.extract(cells, sdf, offsets, CubeWeights(alpha, beta, gamma))
        return mesh.vertices, deviation

    inputs = (sdf, offsets, weights.alpha, weights.beta, weights.gamma)
    assert torch.autograd.gradcheck(run, tuple(x.requires_grad_() for x in inputs), fast_mode=True)
    for value, gradient in zip(
        inputs, torch.autograd.grad(run(*inputs)[0].square().sum(), inputs), strict=True
    ):
        assert gradient.abs().max() > 0, value.shape


def surface_error(field, mesh):
    """Mean distance of 20,000 points of a mesh to the true surface."""
    return float(field(surface_points(mesh, 20000, 0)).abs().mean())


def surface_points(mesh, count, seed):
    generator = torch.Generator().manual_seed(seed)
    corner = mesh.vertices[mesh.faces.long()]
    cross = torch.linalg.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    face = torch.multinomial(cross.detach().norm(dim=1), count, True, generator=generator)
    u = torch.rand(count, 3, generator=generator).log()
    return (corner[face] * (u / u.sum(dim=1, keepdim=True))[..., None]).sum(dim=1)


def fitted(field, extractor, steps):
    """Extract, after ``steps`` of Adam on all that the extractor has to give."""
    grid = extractor.grid
    flexi = isinstance(extractor, FlexiCubes)
    points = torch.from_numpy(grid.vertices)
    free = [field(points)[None].clone(), torch.zeros(1, len(points), 3)]
    if flexi:
        cubes = grid.resolution**3
        free += [torch.zeros(1, cubes, 8), torch.zeros(1, cubes, 12), torch.zeros(1, cubes)]
    free = [x.requires_grad_() for x in free]
    optimizer = torch.optim.Adam(
        [{"params": free[:1], "lr": 0.05 * grid.cell}, {"params": free[1:], "lr": 0.02}]
    )
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.96)

    def extract():
        offsets = 0.45 * grid.cell * free[1].tanh()
        if not flexi:
            return extractor(free[0], offsets)
        alpha, beta, gamma = (x.tanh() for x in free[2:])
        weights = CubeWeights(1 + 0.5 * alpha, 1 + 0.5 * beta, 0.5 + 0.25 * gamma)
        return extractor(free[0], offsets, weights)

    extractor.train()
    for step in range(steps):
        loss = (field(surface_points(extract(), 5000, step)) / grid.cell).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    extractor.eval()
    with torch.no_grad():
        return extract()


@pytest.mark.parametrize("field", [sphere, torus])
def test_surface_error_is_below_marching_tetrahedra_at_equal_vertices(field):
    """With weights of one (not above), and with all optimised (well below)."""
    extractors = FlexiCubes(CubeGrid(31)), MarchingTetrahedra(bcc_grid(15))
    for steps, ratio in ((0, 1.0), (60, 0.8)):
        flexi, tets = (fitted(field, extractor, steps) for extractor in extractors)
        assert len(flexi.vertices) == pytest.approx(len(tets.vertices), rel=0.1)
        assert surface_error(field, flexi) < ratio * surface_error(field, tets)
