"""The small network for a CPU: a shared backbone, decoders with their first layer on planes."""

from __future__ import annotations

from typing import Literal

import torch

from ..isosurface.grid import TetGrid
from .decoders import GeometryDecoder, TextureDecoder
from .field import FieldValues, Where
from .mapping import Codes, LatentConfig, LatentNetwork
from .synthesis import Planes, Synthesis, SynthesisConfig


class CompactConfig(LatentConfig):
    """Size of a :class:`CompactNetwork`."""

    kind: Literal["compact"] = "compact"
    z_dim: int = 64
    w_dim: int = 64
    mapping_layers: int = 2
    synthesis: SynthesisConfig = SynthesisConfig(
        resolution=32, channel_max=48, convs_per_level=1, plane_channels=16
    )
    hidden: int = 16
    """Width of the decoders."""


class CompactNetwork(LatentNetwork):
    """A :class:`~.field.FieldNetwork` without cube weights; ``planes`` gives ``Planes``.

    Args:
        config: Sizes.
        grid: The grid whose nodes the geometry decoder keeps prepared.
    """

    def __init__(self, config: CompactConfig, grid: TetGrid) -> None:
        super().__init__(config)
        self.config = config
        self.synthesis = Synthesis(config.synthesis, config.w_dim)
        channels, resolution = config.synthesis.plane_channels, config.synthesis.resolution
        self.decoder = GeometryDecoder(grid, channels, config.hidden, resolution)
        self.texture = TextureDecoder(channels, config.hidden, config.w_dim)
        self.num_ws_geo = self.synthesis.num_ws_geo
        self.num_ws_tex = self.synthesis.num_ws_tex + 1  # the last row styles the texture decoder

    def planes(self, codes: Codes) -> Planes:
        """Run the backbone."""
        return self.synthesis(codes.geo, codes.tex[:, :-1])

    def geometry(self, features: Planes, codes: Codes, where: Where) -> FieldValues:
        """Signed distances and offsets."""
        return FieldValues(*self.decoder.at(features.geometry, where))

    def sdf(self, features: Planes, codes: Codes, where: Where) -> torch.Tensor:
        """Signed distances alone."""
        return self.decoder.at(features.geometry, where)[0]

    def offsets(self, features: Planes, codes: Codes, where: Where) -> torch.Tensor:
        """Offsets alone."""
        return self.decoder.at(features.geometry, where)[1]

    def cube_weights(self, features: Planes, codes: Codes, where: Where) -> torch.Tensor:
        """It has none.

        Raises:
            ValueError: Always.
        """
        raise ValueError("the compact network has no FlexiCubes weights: use kind: shared")

    def colors(self, features: Planes, codes: Codes, points: torch.Tensor) -> torch.Tensor:
        """Colours in [0, 1]."""
        return self.texture(features.texture, points, codes.tex[:, -1])
