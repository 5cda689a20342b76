"""The BCC grid and marching tetrahedra against closed forms."""

import numpy as np
import pytest
import torch
import trimesh
from g3d.trainer.isosurface.grid import TET_EDGES, bcc_grid
from g3d.trainer.isosurface.marching import TRIANGLES, MarchingTetrahedra
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.mark.parametrize("n", [2, 5, 13])
def test_grid_counts_and_volume(n):
    grid = bcc_grid(n)
    assert len(grid.vertices) == (n + 1) ** 3 + n**3
    assert len(grid.tets) == 12 * n**2 * (n - 1) + 12 * n**2
    p = grid.vertices[grid.tets].astype(np.float64)
    volume = np.einsum(
        "ij,ij->i", np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]), p[:, 3] - p[:, 0]
    )
    assert volume.min() > 0
    assert volume.sum() / 6 == pytest.approx(8.0, rel=1e-5)
    assert grid.hull.sum() == (n + 1) ** 3 - (n - 1) ** 3


def test_grid_edges_are_unique_and_indexed():
    grid = bcc_grid(4)
    assert len(np.unique(grid.edges, axis=0)) == len(grid.edges)
    assert (grid.edges[:, 0] < grid.edges[:, 1]).all()
    pairs = np.sort(grid.tets[:, TET_EDGES], axis=-1)
    assert (grid.edges[grid.tet_edges] == pairs).all()


def test_inner_tets_are_congruent():
    grid = bcc_grid(6)
    inner = ~grid.hull[grid.tets].any(axis=1)
    p = grid.vertices[grid.tets[inner]]
    lengths = np.sort(np.linalg.norm(p[:, TET_EDGES[:, 0]] - p[:, TET_EDGES[:, 1]], axis=-1))
    expected = grid.cell * np.array([3**0.5 / 2] * 4 + [1, 1])
    assert np.allclose(lengths, expected, atol=1e-5)


def test_triangle_table_uses_each_crossed_edge():
    for code in range(1, 15):
        cut = {e for e, (a, b) in enumerate(TET_EDGES) if (code >> a & 1) != (code >> b & 1)}
        used = {int(e) for e in TRIANGLES[code].ravel() if e >= 0}
        assert used == cut
    assert (TRIANGLES[[0, 15]] == -1).all()


def sphere(v):
    return 0.7 - v.norm(dim=1)


def torus(v):
    return 0.25 - ((v[:, :2].norm(dim=1) - 0.6) ** 2 + v[:, 2] ** 2).sqrt()


def box(v):
    return 0.53 - v.abs().amax(dim=1)


@pytest.mark.parametrize(
    ("field", "euler", "volume", "area"),
    [
        (sphere, 2, 4 / 3 * np.pi * 0.7**3, 4 * np.pi * 0.7**2),
        (torus, 0, 2 * np.pi**2 * 0.6 * 0.25**2, 4 * np.pi**2 * 0.6 * 0.25),
        (box, 2, 1.06**3, 6 * 1.06**2),
    ],
)
def test_analytic_surfaces(field, euler, volume, area):
    grid = bcc_grid(24)
    marching = MarchingTetrahedra(grid)
    sdf = field(torch.from_numpy(grid.vertices))[None]
    vertices, faces = marching(sdf).sample(0)
    mesh = trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.euler_number == euler
    assert mesh.volume == pytest.approx(volume, rel=0.02)  # positive: wound outwards
    assert mesh.area == pytest.approx(area, rel=0.03)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(2, 6))
def test_any_field_negative_on_the_hull_gives_closed_meshes(seed, n):
    grid = bcc_grid(n)
    marching = MarchingTetrahedra(grid)
    sdf = torch.from_numpy(np.random.default_rng(seed).standard_normal((3, len(grid.vertices))))
    sdf = torch.where(torch.from_numpy(grid.hull), -sdf.abs() - 0.1, sdf).float()
    batch = marching(sdf)
    for index in range(3):
        vertices, faces = batch.sample(index)
        if len(faces) == 0:
            continue
        directed = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).numpy()
        forward = {tuple(edge) for edge in directed}
        assert len(forward) == len(directed)
        assert {(b, a) for a, b in forward} == forward
        assert faces.max() == len(vertices) - 1


def test_numba_and_torch_topologies_are_equal():
    grid = bcc_grid(5)
    marching = MarchingTetrahedra(grid)
    inside = torch.from_numpy(np.random.default_rng(0).random((4, len(grid.vertices))) < 0.4)
    inside[2] = False  # an empty sample in the middle
    for a, b in zip(
        marching._topology_torch(inside), marching._topology_numba(inside), strict=True
    ):
        assert torch.equal(a, b.to(a.dtype))


def test_batch_equals_samples_one_by_one():
    grid = bcc_grid(7)
    marching = MarchingTetrahedra(grid)
    v = torch.from_numpy(grid.vertices)
    fields = torch.stack([sphere(v), torch.full((len(v),), -1.0), torus(v)])
    batch = marching(fields)
    for index, field in enumerate(fields):
        vertices, faces = batch.sample(index)
        alone_vertices, alone_faces = marching(field[None]).sample(0)
        assert torch.equal(vertices, alone_vertices)
        assert torch.equal(faces, alone_faces)


def test_gradients_of_vertices():
    """dv/dsdf and dv/doffset against finite differences in float64."""
    grid = bcc_grid(3)
    marching = MarchingTetrahedra(grid).double()
    generator = torch.Generator().manual_seed(1)
    sdf = torch.randn(1, len(grid.vertices), generator=generator, dtype=torch.float64)
    sdf = sdf.sign() * (sdf.abs() + 0.2)
    offsets = 0.01 * torch.randn(1, len(grid.vertices), 3, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda s, o: marching(s, o).vertices, (sdf.requires_grad_(), offsets.requires_grad_())
    )
