"""GET3D's shared-backbone generator at the paper's size (34.3 M parameters; appendix A.5)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from .field import FieldValues, Lattices, Where
from .mapping import Codes, LatentConfig, LatentNetwork
from .synthesis import PAPER_SYNTHESIS, Planes, Synthesis, SynthesisConfig
from .texture import Color, TextureField
from .triplane_mlp import CubeMLP, TriplaneMLP


class SharedConfig(LatentConfig):
    """Size of a :class:`SharedNetwork`; the defaults are the paper's."""

    kind: Literal["shared"] = "shared"
    synthesis: SynthesisConfig = PAPER_SYNTHESIS
    hidden: int = 32
    """Width of the decoders."""
    hidden_layers: int = Field(1, ge=1)
    """Hidden layers of the decoders of distances, offsets and texture."""
    features: int = 16
    """Texture features that `to_rgb` reads."""
    cube_weights: bool = False
    """A decoder of FlexiCubes weights."""
    color: Color = "linear"
    """`linear`: not bounded, the paper's; `sigmoid`: bounded."""


class SharedNetwork(LatentNetwork):
    """A :class:`~.field.FieldNetwork`; ``planes`` gives :class:`~.synthesis.Planes`.

    Rows of ``w_geo``: the backbone's, then one for each layer of the decoders, which share them
    (the paper: 0-19 and 20-21). Rows of ``w_tex``: one for each level's texture head, then those of
    the texture MLP, whose last also styles ``to_rgb`` (0-6 and 7-8).
    """

    def __init__(self, config: SharedConfig) -> None:
        super().__init__(config)
        self.config = config
        w_dim, synthesis = config.w_dim, config.synthesis
        self.synthesis = Synthesis(synthesis, w_dim)
        hidden = [config.hidden] * config.hidden_layers
        self.sdf_mlp = TriplaneMLP([synthesis.plane_channels, *hidden, 1], w_dim)
        self.offset_mlp = TriplaneMLP([synthesis.plane_channels, *hidden, 3], w_dim)
        self.cube_mlp = (
            CubeMLP(synthesis.plane_channels, config.hidden, w_dim) if config.cube_weights else None
        )
        self.texture = TextureField(
            synthesis.plane_channels,
            config.hidden,
            config.hidden_layers,
            config.features,
            w_dim,
            config.color,
            synthesis.clamp,
        )
        self.num_ws_geo = self.synthesis.num_ws_geo + self.sdf_mlp.rows
        self.num_ws_tex = self.synthesis.num_ws_tex + self.texture.rows

    def planes(self, codes: Codes) -> Planes:
        """Run the backbone."""
        geo, tex = self.synthesis.num_ws_geo, self.synthesis.num_ws_tex
        return self.synthesis(codes.geo[:, :geo], codes.tex[:, :tex])

    def geometry(self, features: Planes, codes: Codes, where: Where) -> FieldValues:
        """Distances, offsets, and cube weights where the network has them and ``where`` cubes."""
        one_lattice = isinstance(where, Lattices) and len(where.axes) == 1
        weights = None
        if self.cube_mlp is not None and one_lattice:
            weights = self.cube_weights(features, codes, where)
        return FieldValues(
            self.sdf(features, codes, where), self.offsets(features, codes, where), weights
        )

    def nodes(
        self, features: Planes, codes: Codes, where: Where
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Distances ``[B, V]`` and offsets ``[B, V, 3]``."""
        return self.sdf(features, codes, where), self.offsets(features, codes, where)

    def sdf(self, features: Planes, codes: Codes, where: Where) -> torch.Tensor:
        """Signed distances alone ``[B, V]``."""
        return self.sdf_mlp.evaluate(features.geometry, self._geo_rows(codes), where)[:, 0]

    def offsets(self, features: Planes, codes: Codes, where: Where) -> torch.Tensor:
        """Offsets alone ``[B, V, 3]``."""
        rows = self._geo_rows(codes)
        return self.offset_mlp.evaluate(features.geometry, rows, where).transpose(1, 2)

    def cube_weights(self, features: Planes, codes: Codes, where: Where) -> torch.Tensor:
        """FlexiCubes weights ``[B, K, 21]``: all cubes of one lattice, or by their corners.

        Raises:
            ValueError: The network was built without them.
        """
        if self.cube_mlp is None:
            raise ValueError("this network has no FlexiCubes weights: set cube_weights: true")
        return self.cube_mlp.evaluate(features.geometry, self._geo_rows(codes), where)

    def colors(self, features: Planes, codes: Codes, points: torch.Tensor) -> torch.Tensor:
        """Colours ``[B, P, 3]``."""
        rows = codes.tex[:, self.synthesis.num_ws_tex :]
        return self.texture(features.texture, rows, points)

    def _geo_rows(self, codes: Codes) -> torch.Tensor:
        return codes.geo[:, self.synthesis.num_ws_geo :]
