"""GET3D's generator: two latent codes to textured surfaces.

Works in unit coordinates: the longest side of an object is 1 whatever the dataset's ``extent``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from ...config import Config
from ...errors import ConfigError
from ..isosurface.marching import MeshBatch
from ..networks.compact import CompactConfig, CompactNetwork
from ..networks.mapping import Codes, LatentNetwork
from ..networks.separate import SeparateConfig, SeparateNetwork
from ..networks.shared import SharedConfig, SharedNetwork
from ..networks.synthesis import Planes
from .surface import Geometry, Surface, SurfaceConfig

NetworkConfig = Annotated[
    CompactConfig | SharedConfig | SeparateConfig, Field(discriminator="kind")
]
NETWORKS: dict[type, Callable[..., LatentNetwork]] = {
    CompactConfig: CompactNetwork,
    SharedConfig: SharedNetwork,
    SeparateConfig: SeparateNetwork,
}


class GeneratorConfig(Config):
    """Networks and surface of the generator; the defaults are the paper's shared backbone."""

    network: NetworkConfig = SharedConfig()
    surface: SurfaceConfig = SurfaceConfig()


class Generator(nn.Module):
    """Codes to surfaces and colours, with any of the networks.

    Args:
        config: ``surface.mirror`` must be decided.
        extent: Longest side of the dataset's objects (world units).

    Raises:
        ConfigError: The network cannot do what the surface needs.
    """

    def __init__(self, config: GeneratorConfig, extent: float) -> None:
        super().__init__()
        _check(config)
        self.config = config
        self.half_side = 0.5 * config.surface.margin * extent  # of the grid, world units
        self.network: Any = NETWORKS[type(config.network)](config.network)  # a FieldNetwork
        self.surface = Surface(config.surface)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.surface.base.device

    def map(
        self,
        z_geo: torch.Tensor,
        z_tex: torch.Tensor,
        psi: float = 1.0,
        label: torch.Tensor | None = None,
    ) -> Codes:
        """``z [B, z_dim]`` twice, truncation, one-hot label -> rows of w."""
        return self.network.map(z_geo, z_tex, psi, label)

    def track(self, codes: Codes, label: torch.Tensor | None = None) -> None:
        """Move the means of w towards those of a batch that was neither mixed nor truncated."""
        self.network.track(codes, label)

    def planes(self, codes: Codes) -> Any:
        """Run the convolutions.

        With ``mirror``, the two geometry planes that see x are averaged with their mirror images:
        all that is read from them is then even in x.
        """
        planes = self.network.planes(codes)
        if not self.config.surface.mirror:
            return planes
        return Planes(_even_in_x(planes.geometry), planes.texture)

    def field(self, planes: Any, codes: Codes) -> Geometry:
        """The field on the grid and its surfaces, in grid coordinates."""
        return self.surface(self.network, planes, codes)

    def meshes(self, geometry: Geometry) -> MeshBatch:
        """The surfaces; vertices in world units."""
        unit = geometry.meshes
        return MeshBatch(
            unit.vertices * self.half_side, unit.faces, unit.vertex_sample, unit.face_ranges
        )

    def colors(self, planes: Any, codes: Codes, points: torch.Tensor) -> torch.Tensor:
        """Colours, sRGB ``[B, P, 3]``, nominally in [0, 1], at ``points`` (world units)."""
        return self.network.colors(planes, codes, points / self.half_side)


def _check(config: GeneratorConfig) -> None:
    """Raises ConfigError where network and surface do not go together."""
    network, surface = config.network, config.surface
    if surface.mirror and isinstance(network, SeparateConfig):
        raise ConfigError(
            "surface.mirror needs geometry planes, and the separate network has volumes",
            hint="-s get3d.generator.surface.mirror=false, or network.kind shared",
        )
    if surface.extractor == "flexicubes" and not getattr(network, "cube_weights", False):
        raise ConfigError(
            "flexicubes needs a network with weights of the cubes",
            hint="-s get3d.generator.network.cube_weights=true (kinds shared and compact)",
        )


def _even_in_x(planes: torch.Tensor) -> torch.Tensor:
    """Average the XY and XZ planes of ``[B, 3, C, R, R]`` with their mirror images (x is width)."""
    xy, yz, xz = planes.unbind(1)
    return torch.stack([0.5 * (xy + xy.flip(-1)), yz, 0.5 * (xz + xz.flip(-1))], dim=1)
