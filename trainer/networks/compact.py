"""The small network for a CPU: a shared backbone, decoders with their first layer on planes."""

from __future__ import annotations

from typing import Literal

import torch

from .decoders import GeometryDecoder, TextureDecoder
from .field import FieldValues, Lattices, Where
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
    cube_weights: bool = False
    """Weights of FlexiCubes."""


class CompactNetwork(LatentNetwork):
    """A :class:`~.field.FieldNetwork`; ``planes`` gives ``Planes``."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__(config)
        self.config = config
        self.synthesis = Synthesis(config.synthesis, config.w_dim)
        channels = config.synthesis.plane_channels
        self.decoder = GeometryDecoder(channels, config.hidden, cube_weights=config.cube_weights)
        self.texture = TextureDecoder(channels, config.hidden, config.w_dim)
        self.num_ws_geo = self.synthesis.num_ws_geo
        self.num_ws_tex = self.synthesis.num_ws_tex + 1  # the last row styles the texture decoder

    def planes(self, codes: Codes) -> Planes:
        """Run the backbone."""
        return self.synthesis(codes.geo, codes.tex[:, :-1])

    def geometry(self, features: Planes, codes: Codes, where: Where) -> FieldValues:
        """Signed distances and offsets."""
        return FieldValues(*self.decoder(features.geometry, where))

    def sdf(self, features: Planes, codes: Codes, where: Where) -> torch.Tensor:
        """Signed distances alone."""
        return self.decoder(features.geometry, where)[0]

    def offsets(self, features: Planes, codes: Codes, where: Where) -> torch.Tensor:
        """Offsets alone."""
        return self.decoder(features.geometry, where)[1]

    def cube_weights(self, features: Planes, codes: Codes, where: Where) -> torch.Tensor:
        """FlexiCubes weights ``[B, K, 21]`` of the cubes with the corners ``[B, K, 8, 3]``.

        Raises:
            ValueError: The network was built without them, or is asked for a whole lattice.
        """
        if isinstance(where, Lattices):
            raise ValueError(
                "the compact network gives the weights of some cubes, by their corners"
            )
        return self.decoder.at_cubes(features.geometry, where)

    def nodes(
        self, features: Planes, codes: Codes, where: Where
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Signed distances and offsets in one pass."""
        return self.decoder(features.geometry, where)

    def colors(self, features: Planes, codes: Codes, points: torch.Tensor) -> torch.Tensor:
        """Colours in [0, 1]."""
        return self.texture(features.texture, points, codes.tex[:, -1])
