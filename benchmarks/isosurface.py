"""Isosurfaces: FlexiCubes beside marching tetrahedra; narrow band beside full evaluation.

    python benchmarks/isosurface.py            # the tables of docs/isosurface.md
    python benchmarks/isosurface.py --quick    # smaller, under a minute

Times are CPU time of one thread, the median of interleaved repeats. Memory is what the backward
pass keeps (tensors saved by autograd, each storage once) and the grid's own tables. The field of
the second part is a tri-plane with one hidden layer of 32, as ``GeometryDecoder`` evaluates it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import common
import numpy as np
import torch
from g3d.trainer.isosurface.cubes import CubeGrid
from g3d.trainer.isosurface.flexicubes import CubeWeights, FlexiCubes
from g3d.trainer.isosurface.grid import TetGrid, bcc_grid
from g3d.trainer.isosurface.marching import MarchingTetrahedra
from g3d.trainer.isosurface.narrow_band import narrow_band
from g3d.trainer.isosurface.subdivision import (
    Midpoints,
    crossed,
    march,
    subdivide,
    surface_tets,
)
from g3d.trainer.networks.decoders import PlaneLayer
from g3d.trainer.networks.layers import Linear, lrelu
from g3d.trainer.networks.triplane import interpolation_matrix, sample_lattice, sample_points
from ops_scenes import interleaved
from torch import nn

Job = Callable[[], torch.Tensor]


def shapes(points: torch.Tensor, batch: int) -> torch.Tensor:
    """``[B, V]``: bumpy balls, each a little larger than the last."""
    radius = torch.linspace(0.5, 0.65, batch)[:, None]
    bumps = torch.sin(6 * points + 0.3).prod(dim=1)
    return radius + 0.08 * bumps - points.norm(dim=1)


def extraction(
    extractor: FlexiCubes | MarchingTetrahedra, batch: int, weighted: bool
) -> tuple[Job, list[torch.Tensor]]:
    """One extraction with its inputs; weights are made on the cut cubes, as a generator would."""
    points = torch.from_numpy(extractor.grid.vertices)
    sdf = shapes(points, batch).requires_grad_()
    offsets = torch.zeros(batch, len(points), 3, requires_grad=True)
    if isinstance(extractor, MarchingTetrahedra):
        return lambda: extractor(sdf, offsets).vertices, [sdf, offsets]
    rows = len(extractor.cut_cells(sdf))
    weights = CubeWeights(
        *(torch.ones(rows, *tail, requires_grad=True) for tail in ((8,), (12,), ()))
    )

    def job() -> torch.Tensor:
        cells = extractor.cut_cells(sdf)
        mesh, deviation = extractor.extract(cells, sdf, offsets, weights if weighted else None)
        return torch.cat([mesh.vertices, deviation.sum().expand(1, 3)])

    own = [weights.alpha, weights.beta, weights.gamma] if weighted else []
    return job, [sdf, offsets, *own]


def saved_bytes(job: Job) -> int:
    """Bytes that autograd keeps for the backward pass of ``job``."""
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = job()
    del kept
    return sum(storages.values())


def extractors(quick: bool) -> Iterator[tuple[str, float]]:
    """Time and memory of both extractors, batch 4, at equal vertices and at equal nodes."""
    batch = 4
    print("| extractor | grid | nodes | vertices | faces | forward ms | + backward ms | saved MB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    sizes = ((24, 50),) if quick else ((24, 50), (45, 93), (45, 57))
    for tets, cubes in sizes:
        cases: dict[str, tuple[FlexiCubes | MarchingTetrahedra, bool]] = {
            "DMTet": (MarchingTetrahedra(bcc_grid(tets)), False),
            "FlexiCubes": (FlexiCubes(CubeGrid(cubes)).train(), True),
            "FlexiCubes, eval": (FlexiCubes(CubeGrid(cubes)).eval(), True),
        }
        jobs: dict[str, Callable[[], object]] = {}
        for name, (extractor, weighted) in cases.items():
            job, inputs = extraction(extractor, batch, weighted)
            jobs[name + " f"] = torch.no_grad()(job)
            jobs[name + " fb"] = lambda job=job, inputs=inputs: torch.autograd.grad(
                job().sum(), inputs, allow_unused=True
            )
        ms = interleaved(jobs, 5)
        for name, (extractor, weighted) in cases.items():
            job, _ = extraction(extractor, batch, weighted)
            sdf = shapes(torch.from_numpy(extractor.grid.vertices), batch)
            mesh = extractor(sdf)
            forward, both = ms[name + " f"], ms[name + " fb"]
            saved = saved_bytes(job) / 2**20
            grid = tets if name == "DMTet" else cubes
            print(
                f"| {name} | {grid} | {sdf.shape[1]:,} | {len(mesh.vertices) // batch:,} "
                f"| {len(mesh.faces) // batch:,} | {forward:.1f} | {both:.1f} | {saved:.1f} |",
                flush=True,
            )
            key = name.lower().replace(", ", "_")
            yield f"{key}_{tets}_{cubes}_ms", both
            yield f"{key}_{tets}_{cubes}_saved_mb", saved


class PlaneField(nn.Module):
    """A ball plus a tri-plane's field, at points or on the whole lattice of a grid."""

    def __init__(self, channels: int = 16, resolution: int = 64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.out = PlaneLayer(channels, 32), Linear(32, 4)
        smooth = torch.randn(3, channels, 9, 9)
        planes = nn.functional.interpolate(smooth, (resolution,) * 2, mode="bicubic")
        self.register_buffer("hidden", self.first(planes[None]).detach())
        self.hidden: torch.Tensor

    def at(self, points: torch.Tensor) -> torch.Tensor:
        """``[B, P, 3] -> [B, P, 4]``."""
        raw = self.out(lrelu(sample_points(self.hidden, points)))
        sdf = 0.6 - points.norm(dim=-1) + 0.06 * raw[..., 0]
        return torch.cat([sdf[..., None], raw[..., 1:]], dim=-1)

    def lattice(self, grid: CubeGrid | TetGrid) -> Job:
        """All nodes by matrix interpolation, as ``GeometryDecoder`` does."""
        axes = [grid.corner_axis] + ([grid.center_axis] if isinstance(grid, TetGrid) else [])
        matrices = [
            interpolation_matrix(torch.from_numpy(axis), self.hidden.shape[-1]).float()
            for axis in axes
        ]
        base = 0.6 - torch.cat([_norms(torch.from_numpy(axis).float()) for axis in axes])
        weight, bias = self.out.weight * self.out.weight_scale, self.out.bias

        def job() -> torch.Tensor:
            parts = [
                weight @ lrelu(sample_lattice(self.hidden, matrix)).flatten(2)
                for matrix in matrices
            ]
            raw = torch.cat(parts, dim=2).transpose(1, 2) + bias
            return torch.cat([(base + 0.06 * raw[..., 0])[..., None], raw[..., 1:]], dim=-1)

        return job


def _norms(axis: torch.Tensor) -> torch.Tensor:
    """Distance of the nodes of a cubic lattice from the origin ``[N^3]``."""
    square = axis.square()
    return (square[:, None, None] + square[:, None] + square).sqrt().flatten()


def nodes_only(resolution: int) -> TetGrid:
    """A BCC grid without its tetrahedra: all that evaluation needs."""
    empty = torch.zeros(0).numpy()
    return TetGrid(resolution, empty, empty, empty, empty, empty)


@torch.no_grad()
def bands(quick: bool) -> Iterator[tuple[str, float]]:
    """Narrow band beside full evaluation, at points and by matrices."""
    field = PlaneField()
    print("\n| grid | nodes | factor | margin | points ms | matrices ms | band ms | share | same |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for cubes, resolution, cases in BANDS[:1] if quick else BANDS:
        grid = CubeGrid(resolution) if cubes else nodes_only(resolution)
        every = torch.from_numpy(CubeGrid(resolution).vertices if cubes else bcc_nodes(resolution))
        jobs: dict[object, Callable[[], object]] = {
            "matrices": field.lattice(grid),
            "points": lambda every=every: field.at(every[None]),
        }
        for case in cases:
            jobs[case] = lambda grid=grid, case=case: narrow_band(field.at, grid, *case)
        ms = interleaved(jobs, 3)
        full = field.at(every[None])[..., 0]
        name = f"{'cubes' if cubes else 'bcc'}{resolution}"
        for case in cases:
            band = narrow_band(field.at, grid, *case)
            same = same_mesh(grid, full, band.values[..., 0])
            print(
                f"| {name} | {len(every):,} | {case[0]} | {case[1]} | {ms['points']:.0f} "
                f"| {ms['matrices']:.0f} | {ms[case]:.0f} | {band.share:.1%} "
                f"| {'yes' if same else 'no'} |",
                flush=True,
            )
            yield f"band_vs_matrices_{name}_{case[0]}_{case[1]}", ms["matrices"] / ms[case]
            yield f"share_{name}_{case[0]}_{case[1]}", band.share


BANDS = (
    (True, 64, ((4, 1.0), (4, 0.5), (2, 0.5))),
    (True, 48, ((4, 1.0), (4, 0.5))),
    (True, 96, ((4, 1.0), (4, 0.5), (3, 0.5))),
    (True, 192, ((4, 1.0), (4, 0.5))),
    (False, 45, ((4, 1.0), (3, 0.5))),
    (False, 64, ((4, 1.0), (4, 0.5))),
    (False, 90, ((4, 1.0), (4, 0.5))),
)
"""(cubes or BCC, resolution, ((factor, margin), ...))."""


def bcc_nodes(resolution: int) -> np.ndarray:
    """``bcc_grid(resolution).vertices`` without its tetrahedra."""
    corner = CubeGrid(resolution).vertices
    axis = nodes_only(resolution).center_axis
    center = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    return np.concatenate([corner, center.astype(np.float32)])


def same_mesh(grid: CubeGrid | TetGrid, full: torch.Tensor, band: torch.Tensor) -> bool:
    """Equal meshes; of large BCC grids, whose tetrahedra are not made, equal signs."""
    if isinstance(grid, TetGrid):
        return torch.equal(full > 0, band > 0)
    extract = FlexiCubes(grid).eval()
    one, other = extract(full), extract(band)
    return torch.equal(one.faces, other.faces) and torch.equal(one.vertices, other.vertices)


@torch.no_grad()
def refinements() -> Iterator[tuple[str, float]]:
    """Volume subdivision of the training grid with the field at the midpoints."""
    field = PlaneField()
    grid = bcc_grid(45)
    sdf = field.at(torch.from_numpy(grid.vertices)[None])[..., 0]
    print("\n| subdivision | as BCC grid | its nodes | field at | vertices | ms |")
    print("| --- | --- | --- | --- | --- | --- |")
    surface_tets(grid, sdf)
    tets, seen = None, 0

    def residual(middle: Midpoints) -> torch.Tensor:
        nonlocal seen
        seen += len(middle.sdf)
        return field.at(middle.positions[None])[0, :, 0] - middle.sdf

    start = time.process_time()
    for level in (1, 2):
        tets = subdivide(crossed(tets) if tets else surface_tets(grid, sdf), residual)
        mesh = march(tets)
        ms = 1000 * (time.process_time() - start)
        n = 45 * 2**level
        print(
            f"| {level} | {n} | {(n + 1) ** 3 + n**3:,} | {seen:,} | {len(mesh.vertices):,} "
            f"| {ms:.0f} |"
        )
        yield f"subdivision_{n}_ms", ms


def main() -> None:
    """Print both tables and the result line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    results = dict(extractors(quick))
    results |= dict(bands(quick))
    results |= dict(refinements())
    common.report("isosurface", quick, results)


if __name__ == "__main__":
    main()
