"""From raw values of a network on a grid to closed surfaces.

The shape that training starts from, the hull, the rescue of empty shapes, the two extractors.
Everything is in grid coordinates [-1, 1]; values of the field are per unit of the longest side of
an object, so that a config means the same on every grid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import nn

from ...config import Config
from ..isosurface.cubes import CORNERS, CUBE_EDGES, CubeGrid
from ..isosurface.dual_topology import CutCells
from ..isosurface.flexicubes import CubeWeights, FlexiCubes
from ..isosurface.grid import TetGrid, bcc_grid
from ..isosurface.marching import MarchingTetrahedra, MeshBatch
from ..networks.field import FieldNetwork, Lattices
from ..networks.mapping import Codes


class SurfaceConfig(Config):
    """The grid, the extractor and the shape that training starts from."""

    extractor: Literal["dmtet", "flexicubes"] = "dmtet"
    """Marching tetrahedra on a body-centred cubic grid, or FlexiCubes on a cubic one."""
    resolution: int = Field(36, ge=2)
    """Cubes along an axis; n cubes have (n+1)^3 nodes, and n^3 more in a body-centred grid. 36 has
    the nodes of the grid that the paper calls 90; 45 are as many for `flexicubes`."""
    margin: float = 1.06
    """Side of the grid in units of the longest side of an object."""
    initial: Literal["ellipsoid", "box", "none"] = "ellipsoid"
    """Shape that the field starts from; the paper has none."""
    initial_radius: float = 0.36
    """Half of its height (object units)."""
    initial_slope: float = 4.0
    """Slope of the initial field (per object unit)."""
    gain: float = 0.9
    """Scale of the network's contribution to the field."""
    max_offset: float = 0.45
    """Largest offset of a node along an axis, in cells."""
    mirror: bool | None = False
    """Make every surface symmetric about the plane x = 0; colours stay free, because light is
    seldom symmetric. None: if nearly all of the training shapes are."""


class Geometry(NamedTuple):
    """The field on the grid.

    Attributes:
        sdf: ``[B, V]``, positive inside, negative on the hull, positive somewhere.
        offsets: ``[B, V, 3]`` in grid coordinates [-1, 1].
        empty: bool ``[B]``, samples that the shift had to rescue.
        shift: ``[B]``, what was added to ``sdf`` so that there is a surface.
        meshes: The surfaces, in grid coordinates.
        regularisers: Scalars that the extractor adds to the loss, by name.
    """

    sdf: torch.Tensor
    offsets: torch.Tensor
    empty: torch.Tensor
    shift: torch.Tensor
    meshes: MeshBatch
    regularisers: Mapping[str, torch.Tensor] = MappingProxyType({})


def _ellipsoid(p: torch.Tensor, radius: float) -> torch.Tensor:
    return radius - (p * torch.tensor([1.0, 0.8, 1.0])).norm(dim=1)


def _box(p: torch.Tensor, radius: float) -> torch.Tensor:
    """Signed distance of a box, positive inside."""
    apart = p.abs() - torch.tensor([0.8, 1.0, 0.8]) * radius
    return -(apart.clamp(min=0).norm(dim=1) + apart.amax(dim=1).clamp(max=0))


_INITIAL: dict[str, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "ellipsoid": _ellipsoid,
    "box": _box,
    "none": lambda p, radius: torch.zeros(len(p)),
}


class Surface(nn.Module):
    """Raw values of a network to surfaces.

    Args:
        config: ``mirror`` must be decided.
    """

    HULL_MARGIN = 0.05
    EMPTY_MARGIN = 0.02

    def __init__(self, config: SurfaceConfig) -> None:
        super().__init__()
        self.config = config
        self.grid: TetGrid | CubeGrid
        self.extractor: MarchingTetrahedra | FlexiCubes
        if config.extractor == "flexicubes":
            self.grid = CubeGrid(config.resolution)
            self.extractor = FlexiCubes(self.grid)
            self.where = Lattices.of_cubes(config.resolution)
        else:
            self.grid = bcc_grid(config.resolution)
            self.extractor = MarchingTetrahedra(self.grid)
            self.where = Lattices.of_tets(self.grid)
        nodes = torch.from_numpy(self.grid.vertices) * (0.5 * config.margin)  # object units
        base = config.initial_slope * _INITIAL[config.initial](nodes, config.initial_radius)
        self.register_buffer("base", base, persistent=False)
        hull = torch.from_numpy(self.grid.hull)
        self.register_buffer("hull", hull, persistent=False)
        self.register_buffer("inside", torch.nonzero(~hull).flatten(), persistent=False)
        edges = torch.from_numpy(self.grid.edges)
        self.register_buffer("edges", edges, persistent=False)
        # An offset along x changes sign from one side of a mirrored shape to the other.
        side = torch.ones(len(nodes), 3)
        side[:, 0] = nodes[:, 0].sign()
        self.register_buffer("side", side, persistent=False)
        self.base: torch.Tensor
        self.hull: torch.Tensor
        self.inside: torch.Tensor
        self.edges: torch.Tensor
        self.side: torch.Tensor

    def forward(self, network: FieldNetwork, features: Any, codes: Codes) -> Geometry:
        """Evaluate the field and extract its surfaces, never empty.

        The hull is forced outside, so every surface is closed. A sample whose largest value falls
        below a margin is shifted up as a whole: the smallest shape that is not empty, continuous
        in the weights.
        """
        config = self.config
        raw, raw_offsets = network.nodes(features, codes, self.where)
        sdf = self.base + config.gain * raw
        inner = sdf.masked_fill(self.hull, -torch.inf).amax(dim=1)
        shift = (self.EMPTY_MARGIN - inner).clamp(min=0)
        sdf = sdf + shift[:, None]
        sdf = torch.where(self.hull, -sdf.abs() - self.HULL_MARGIN, sdf)
        offsets = config.max_offset * self.grid.cell * torch.tanh(raw_offsets)
        if config.mirror:
            offsets = offsets * self.side
        empty = (inner < 0).detach()
        if isinstance(self.extractor, MarchingTetrahedra):
            return Geometry(sdf, offsets, empty, shift, self.extractor(sdf, offsets))
        cells = self.extractor.cut_cells(sdf)
        raw_weights = self._cube_weights(network, features, codes, cells)
        flexi = self.extractor.extract(cells, sdf, offsets, cube_weights(raw_weights))
        terms = {"deviation": flexi.deviation.mean(), "weights": raw_weights.square().mean()}
        return Geometry(sdf, offsets, empty, shift, flexi.meshes, terms)

    def _cube_weights(
        self, network: FieldNetwork, features: Any, codes: Codes, cells: CutCells
    ) -> torch.Tensor:
        """Raw weights ``[M, 21]`` of the cut cubes, and of no other."""
        assert isinstance(self.extractor, FlexiCubes)
        corners = self.extractor.corners(cells)
        weights = _at_cubes(network, features, codes, cells, self.extractor.vertices[corners])
        if not self.config.mirror:
            return weights
        # What a cube gets when it is seen in the mirror, put back in its own order.
        swapped = corners[:, MIRRORED_CORNERS]
        mirrored = _at_cubes(network, features, codes, cells, self.extractor.vertices[swapped])
        return 0.5 * (weights + mirrored[:, MIRRORED_WEIGHTS])


def _mirror_tables() -> tuple[np.ndarray, np.ndarray]:
    """Where the corners and the 21 weights of a cube go in a mirror at x = const."""
    corners = np.arange(8) ^ 4  # corner k is at (k >> 2 & 1, ...) along (x, y, z)
    swapped = [tuple(sorted(corners[list(edge)])) for edge in CUBE_EDGES]
    rows = {tuple(edge): n for n, edge in enumerate(CUBE_EDGES.tolist())}
    edges = np.array([rows[int(a), int(b)] for a, b in swapped])
    return corners, np.concatenate([edges, 12 + corners, [20]])


assert CORNERS[4].tolist() == [1, 0, 0]
MIRRORED_CORNERS, MIRRORED_WEIGHTS = _mirror_tables()


def cube_weights(raw: torch.Tensor) -> CubeWeights:
    """Raw network outputs ``[M, 21]`` as weights: near one, and positive.

    ``alpha`` and ``beta`` lie in (0.5, 1.5), ``gamma`` in (0.25, 0.75), as in GET3D's FlexiCubes.
    """
    beta, alpha, gamma = raw.split([12, 8, 1], dim=1)
    return CubeWeights(
        alpha=1.0 + 0.5 * torch.tanh(alpha),
        beta=1.0 + 0.5 * torch.tanh(beta),
        gamma=0.25 + 0.5 * torch.sigmoid(gamma[:, 0]),
    )


def _at_cubes(
    network: FieldNetwork, features: Any, codes: Codes, cells: CutCells, corners: torch.Tensor
) -> torch.Tensor:
    """Raw weights ``[M, 21]`` of the cubes of ``cells``, whose corners are ``[M, 8, 3]``."""
    batch = len(codes.geo)
    counts = torch.bincount(cells.sample, minlength=batch)
    rank = torch.arange(len(cells.sample), device=corners.device)
    rank = rank - (torch.cumsum(counts, 0) - counts)[cells.sample]
    padded = corners.new_zeros(batch, max(int(counts.max()), 1), 8, 3)
    padded[cells.sample, rank] = corners
    return network.cube_weights(features, codes, padded)[cells.sample, rank]
