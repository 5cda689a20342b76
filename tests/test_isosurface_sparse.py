"""Work that follows the surface: narrow band, volume subdivision; and components of meshes."""

import math

import numpy as np
import pytest
import torch
from g3d.trainer.isosurface.components import component_stats
from g3d.trainer.isosurface.cubes import CubeGrid
from g3d.trainer.isosurface.flexicubes import FlexiCubes
from g3d.trainer.isosurface.grid import bcc_grid
from g3d.trainer.isosurface.marching import MarchingTetrahedra, MeshBatch
from g3d.trainer.isosurface.narrow_band import narrow_band
from g3d.trainer.isosurface.subdivision import (
    _children,
    crossed,
    march,
    subdivide,
    surface_tets,
)
from scipy.spatial import cKDTree


def wavy(p):
    """Two smooth fields: a ring around a ball, and a bumpy ball; not zero at any node."""
    one, two = p[:1], p[1:]
    ring = 0.2031 - ((one[..., :2].norm(dim=-1) - 0.5913) ** 2 + one[..., 2] ** 2).sqrt()
    ball = 0.2071 - one.norm(dim=-1)
    bumps = 0.6037 - two.norm(dim=-1) + 0.04 * torch.sin(7 * two).prod(dim=-1)
    return torch.cat([torch.maximum(ring, ball), bumps])


def nodes(grid, batch=2):
    return torch.from_numpy(grid.vertices).expand(batch, -1, -1)


def assert_closed(mesh, index):
    vertices, faces = mesh.sample(index)
    directed = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).numpy().astype(np.int64)
    forward, back = (directed @ np.array(w) for w in ((len(vertices), 1), (1, len(vertices))))
    assert len(np.unique(forward)) == len(forward) > 0
    assert np.array_equal(np.sort(forward), np.sort(back))


def assert_same_mesh(one, other, index, tolerance):
    """Equal up to the order of vertices and faces."""
    (v1, f1), (v2, f2) = one.sample(index), other.sample(index)
    assert len(v1) == len(v2)
    assert len(f1) == len(f2)
    distance, name = cKDTree(v2.numpy()).query(v1.numpy())
    assert distance.max() < tolerance
    assert len(np.unique(name)) == len(name)

    def rows(faces):
        first = faces.argmin(axis=1)[:, None]
        turned = np.take_along_axis(faces, (first + np.arange(3)) % 3, axis=1)
        return np.unique(turned, axis=0)

    assert np.array_equal(rows(name[f1.numpy()]), rows(f2.numpy()))


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("kind", ["cubes", "tets", "tets, not divisible"])
def test_narrow_band_gives_the_mesh_of_the_full_evaluation(kind, factor):
    grid = {"cubes": CubeGrid(36), "tets": bcc_grid(24)}.get(kind) or bcc_grid(23)
    marching = (FlexiCubes if kind == "cubes" else MarchingTetrahedra)(grid).eval()
    full = wavy(nodes(grid))
    band = narrow_band(wavy, grid, factor, batch=2)
    assert band.share < {2: 0.6, 3: 0.75, 4: 0.9}[factor]
    assert band.share == pytest.approx(float(band.evaluated.float().mean()))
    assert torch.equal(band.values[band.evaluated], full[band.evaluated])
    assert torch.equal(band.values > 0, full > 0)
    one, other = marching(full), marching(band.values)
    assert torch.equal(one.faces, other.faces)
    assert torch.equal(one.vertices, other.vertices)


def test_narrow_band_follows_the_surface_out_of_a_band_that_is_too_thin():
    """Margin 0 marks cells by sign only; what runs out of them is found by its cut edges."""
    grid = CubeGrid(48)
    full = wavy(nodes(grid))
    band = narrow_band(wavy, grid, 6, 0.0, batch=2)
    assert band.share < 0.3
    assert torch.equal(band.values > 0, full > 0)
    cut = (full > 0)[:, grid.edges[:, 0]] != (full > 0)[:, grid.edges[:, 1]]
    for end in (0, 1):
        assert band.evaluated[:, grid.edges[:, end]][cut].all()


def test_narrow_band_of_several_channels_and_its_gradient():
    grid = bcc_grid(12)
    scale = torch.ones(2, 1, requires_grad=True)

    def evaluate(p):
        return torch.cat([(wavy(p) * scale)[..., None], 0.01 * p], dim=-1)

    band = narrow_band(evaluate, grid, 3, batch=2)
    assert band.values.shape == (2, len(grid.vertices), 4)
    assert torch.equal(band.values[..., 1:][band.evaluated], 0.01 * nodes(grid)[band.evaluated])
    band.values[..., 0][band.evaluated].sum().backward()
    expected = wavy(nodes(grid))[band.evaluated].sum()
    assert float(scale.grad.sum()) == pytest.approx(float(expected), rel=1e-3)


def test_narrow_band_refuses_factors():
    for factor in (1, 8):
        with pytest.raises(ValueError, match="factor"):
            narrow_band(wavy, CubeGrid(8), factor, batch=2)


@pytest.mark.parametrize("cubes", [True, False])
def test_narrow_band_for_export_at_twice_and_four_times(cubes):
    """A field made on a grid of 10: the share falls as the grid gets finer."""
    shares = []
    for times in (2, 4):
        grid = CubeGrid(10 * times) if cubes else bcc_grid(10 * times)
        band = narrow_band(wavy, grid, times, batch=2)
        assert torch.equal(band.values > 0, wavy(nodes(grid)) > 0)
        shares.append(band.share)
    assert shares[1] < shares[0] + 0.05


def test_children_fill_their_parent():
    corner = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
    edges = np.array([[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]])
    p = np.concatenate([corner, corner[edges].mean(axis=1)])[_children()]
    volume = np.linalg.det(p[:, 1:] - p[:, :1])
    assert np.allclose(volume, 1 / 8)  # positive, equal, and together the parent


def test_sparse_marching_equals_marching_on_the_grid():
    grid = bcc_grid(12)
    sdf = wavy(nodes(grid))
    offsets = 0.02 * torch.randn(2, len(grid.vertices), 3, generator=torch.Generator())
    whole = MarchingTetrahedra(grid)(sdf, offsets)
    for rings in (0, 1):
        part = march(surface_tets(grid, sdf, offsets, rings))
        assert (part.vertex_sample.diff() >= 0).all()
        for index in range(2):
            assert_same_mesh(part, whole, index, 1e-6)


def field_residual(middle):
    both = wavy(middle.positions.expand(2, -1, -1))
    return both.gather(0, middle.sample[None])[0] - middle.sdf


def test_subdivision_with_the_field_is_the_grid_of_twice_and_four_times_the_resolution():
    tets = surface_tets(bcc_grid(10), wavy(nodes(bcc_grid(10))))
    for times in (2, 4):
        tets = subdivide(tets if times == 2 else crossed(tets), field_residual)
        grid = bcc_grid(10 * times)
        fine = MarchingTetrahedra(grid)(wavy(nodes(grid)))
        for index in range(2):
            assert_same_mesh(march(tets), fine, index, 2e-5)
    assert len(tets.tets) < 0.6 * 2 * len(grid.tets)


def test_subdivision_without_residual_keeps_the_surface():
    """Linear midpoints do not move the zero of a linear interpolation."""
    grid = bcc_grid(10)
    sdf = wavy(nodes(grid))
    coarse = MarchingTetrahedra(grid)(sdf)
    fine = march(subdivide(surface_tets(grid, sdf, rings=0)))
    for index in range(2):
        before, after = (mesh.sample(index) for mesh in (coarse, fine))
        assert_closed(fine, index)
        assert enclosed(*before) == pytest.approx(enclosed(*after), rel=1e-5)
        assert len(after[1]) > 3 * len(before[1])


def enclosed(vertices, faces):
    a, b, c = vertices.double()[faces].unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


@pytest.mark.parametrize("rings", [0, 1])
@pytest.mark.parametrize("rough", [True, False])
def test_subdivision_is_closed_whatever_the_residuals(rings, rough):
    grid = bcc_grid(7)
    generator = torch.Generator().manual_seed(rings)
    sdf = wavy(nodes(grid))
    if rough:
        noise = torch.randn(sdf.shape, generator=generator)
        sdf = torch.where(torch.from_numpy(grid.hull), -noise.abs() - 0.1, noise)
    scale = torch.tensor([0.3, 0.03, 0.03, 0.03])
    tets = subdivide(
        surface_tets(grid, sdf, rings=rings),
        lambda m: scale * torch.randn(len(m.sdf), 4, generator=generator),
    )
    twice = subdivide(
        crossed(tets, rings), lambda m: 0.3 * torch.randn(len(m.sdf), generator=generator)
    )
    for level in (tets, twice):
        for index in range(2):
            assert_closed(march(level), index)


def test_the_clamp_on_the_rim_is_needed():
    grid = bcc_grid(7)
    tets = surface_tets(grid, wavy(nodes(grid)), rings=0)
    object.__setattr__(tets, "rim", torch.zeros_like(tets.rim))
    generator = torch.Generator().manual_seed(0)
    mesh = march(subdivide(tets, lambda m: 0.3 * torch.randn(len(m.sdf), generator=generator)))
    with pytest.raises(AssertionError):
        assert_closed(mesh, 0)


def test_gradients_through_subdivision():
    grid = bcc_grid(3)
    generator = torch.Generator().manual_seed(3)
    sdf = torch.randn(1, len(grid.vertices), generator=generator).double()
    sdf = torch.where(torch.from_numpy(grid.hull), -sdf.abs() - 0.2, sdf.sign() * (sdf.abs() + 0.2))
    offsets = 0.01 * torch.randn(1, len(grid.vertices), 3, generator=generator).double()
    count = len(subdivide(surface_tets(grid, sdf)).sdf)
    extra = 0.02 * torch.randn(count, 4, generator=generator).double()

    def run(sdf, offsets, extra):
        tets = surface_tets(grid, sdf, offsets)
        return march(subdivide(tets, lambda m: extra[: len(m.sdf)])).vertices

    inputs = tuple(x.requires_grad_() for x in (sdf, offsets, extra))
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


def test_component_stats():
    grid = CubeGrid(24)
    p = torch.from_numpy(grid.vertices)
    big, small = 0.5 - p.norm(dim=1), 0.15 - (p - 0.7).norm(dim=1)
    batch = FlexiCubes(grid).eval()(
        torch.stack([torch.maximum(big, small), torch.full((len(p),), -1.0), big])
    )
    stats = component_stats(batch)
    assert stats.count.tolist() == [2, 0, 1]
    alone = FlexiCubes(grid).eval()(torch.stack([big, small])).face_ranges[:, 1].tolist()
    assert stats.largest_share[0] == pytest.approx(alone[0] / sum(alone))
    assert stats.largest_share[1:].tolist() == [1.0, 1.0]


def test_component_stats_against_scipy():
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    generator = np.random.default_rng(0)
    faces = generator.integers(0, 300, (120, 3)).astype(np.int32)
    mesh = MeshBatch(
        torch.zeros(300, 3),
        torch.from_numpy(faces),
        torch.zeros(300, dtype=torch.int64),
        torch.tensor([[0, 120]], dtype=torch.int32),
    )
    ends = faces[:, [0, 1, 1, 2]].reshape(-1, 2)
    graph = coo_matrix((np.ones(len(ends)), ends.T), shape=(300, 300))
    _, label = connected_components(graph, directed=False)
    sizes = np.unique(label[faces[:, 0]], return_counts=True)[1]
    stats = component_stats(mesh)
    assert stats.count.tolist() == [len(sizes)]
    assert math.isclose(stats.largest_share[0], sizes.max() / 120, rel_tol=1e-6)
