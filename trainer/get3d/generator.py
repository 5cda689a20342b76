"""GET3D's generator: two codes -> tri-planes -> signed distances and offsets -> mesh, and colour.

Works in unit coordinates: the longest side of an object is 1 whatever the dataset's extent; only
:meth:`Generator.meshes` and :meth:`Generator.colors` speak world units.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from pydantic import Field
from torch import nn

from ...config import Config
from ..isosurface.grid import bcc_grid
from ..isosurface.marching import MarchingTetrahedra, MeshBatch
from ..networks.decoders import GeometryDecoder, TextureDecoder
from ..networks.mapping import MappingNetwork
from ..networks.synthesis import Planes, Synthesis, SynthesisConfig


class GeneratorConfig(Config):
    """Size and initial shape of the generator."""

    z_dim: int = 512
    w_dim: int = 512
    mapping_layers: int = 8
    synthesis: SynthesisConfig = SynthesisConfig()
    hidden: int = 32
    """Width of the decoders."""
    grid_resolution: int = Field(45, ge=2)
    """Cubes of the tetrahedral grid along an axis; n cubes have (n+1)^3 + n^3 nodes."""
    grid_margin: float = 1.06
    """Side of the grid in units of the longest side of an object."""
    initial_radius: float = 0.36
    """Radius of the octahedron-like ellipsoid that the field starts from, in object units."""
    initial_slope: float = 4.0
    """Slope of the initial field (per object unit)."""
    field_gain: float = 0.9
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
    """

    sdf: torch.Tensor
    offsets: torch.Tensor
    empty: torch.Tensor


class Generator(nn.Module):
    """The shared-backbone generator (GET3D, appendix A.5).

    Args:
        config: Sizes; ``mirror`` must be decided.
        extent: Longest side of the dataset's objects (world units).
    """

    HULL_MARGIN = 0.05
    EMPTY_MARGIN = 0.02

    def __init__(self, config: GeneratorConfig, extent: float) -> None:
        super().__init__()
        self.config = config
        self.half_side = 0.5 * config.grid_margin * extent  # of the grid, world units
        grid = bcc_grid(config.grid_resolution)
        self.grid = grid
        self.mapping_geo = MappingNetwork(config.z_dim, config.w_dim, config.mapping_layers)
        self.mapping_tex = MappingNetwork(config.z_dim, config.w_dim, config.mapping_layers)
        self.synthesis = Synthesis(config.synthesis, config.w_dim)
        channels, resolution = config.synthesis.plane_channels, config.synthesis.resolution
        self.geometry = GeometryDecoder(grid, channels, config.hidden, resolution)
        self.texture = TextureDecoder(channels, config.hidden, config.w_dim)
        self.marching = MarchingTetrahedra(grid)
        nodes = torch.from_numpy(grid.vertices) * (0.5 * config.grid_margin)  # object units
        ellipsoid = (nodes * torch.tensor([1.0, 0.8, 1.0])).norm(dim=1)
        base = config.initial_slope * (config.initial_radius - ellipsoid)
        self.register_buffer("base", base, persistent=False)
        self.register_buffer("hull", torch.from_numpy(grid.hull), persistent=False)
        # An offset along x changes sign from one side of a mirrored shape to the other.
        side = torch.ones(len(nodes), 3)
        side[:, 0] = nodes[:, 0].sign()
        self.register_buffer("side", side, persistent=False)
        self.base: torch.Tensor
        self.hull: torch.Tensor
        self.side: torch.Tensor

    def map(
        self, z_geo: torch.Tensor, z_tex: torch.Tensor, psi: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``z [B, z_dim]`` twice -> ``w_geo [B, L, w_dim], w_tex [B, L + 1, w_dim]``.

        The last row of ``w_tex`` styles the texture decoder.
        """
        w_geo, w_tex = self.mapping_geo(z_geo, psi), self.mapping_tex(z_tex, psi)
        return (
            w_geo[:, None].expand(-1, self.synthesis.num_ws_geo, -1),
            w_tex[:, None].expand(-1, self.synthesis.num_ws_tex + 1, -1),
        )

    def planes(self, w_geo: torch.Tensor, w_tex: torch.Tensor) -> Planes:
        """Run the backbone.

        With ``mirror``, the two geometry planes that see x are averaged with their mirror images:
        all that is read from them is then even in x.
        """
        planes = self.synthesis(w_geo, w_tex[:, :-1])
        if not self.config.mirror:
            return planes
        return Planes(_even_in_x(planes.geometry), planes.texture)

    def field(self, planes: Planes) -> Geometry:
        """Signed distances and offsets on the grid, never without a surface.

        The hull is forced outside, so every surface is closed. A sample whose largest value falls
        below a margin is shifted up as a whole: the smallest shape that is not empty, continuous
        in the weights.
        """
        raw, raw_offsets = self.geometry(planes.geometry)
        sdf = self.base + self.config.field_gain * raw
        inner = sdf.masked_fill(self.hull, -torch.inf).amax(dim=1)
        shift = (self.EMPTY_MARGIN - inner).clamp(min=0)
        sdf = sdf + shift[:, None]
        sdf = torch.where(self.hull, -sdf.abs() - self.HULL_MARGIN, sdf)
        offsets = self.config.max_offset * self.grid.cell * torch.tanh(raw_offsets)
        if self.config.mirror:
            offsets = offsets * self.side
        return Geometry(sdf, offsets, (inner < 0).detach())

    def meshes(self, geometry: Geometry) -> MeshBatch:
        """Extract the surfaces; vertices in world units."""
        unit = self.marching(geometry.sdf, geometry.offsets)
        return MeshBatch(
            unit.vertices * self.half_side, unit.faces, unit.vertex_sample, unit.face_ranges
        )

    def colors(self, planes: Planes, points: torch.Tensor, w_tex: torch.Tensor) -> torch.Tensor:
        """Colours, sRGB ``[B, P, 3]`` in [0, 1], at ``points [B, P, 3]`` (world units)."""
        return self.texture(planes.texture, points / self.half_side, w_tex[:, -1])


def _even_in_x(planes: torch.Tensor) -> torch.Tensor:
    """Average the XY and XZ planes of ``[B, 3, C, R, R]`` with their mirror images (x is width)."""
    xy, yz, xz = planes.unbind(1)
    return torch.stack([0.5 * (xy + xy.flip(-1)), yz, 0.5 * (xz + xz.flip(-1))], dim=1)
