"""GET3D's separate generators at the paper's size (53.5 M parameters; section 3.1).

Two 3-D convolution networks for distances and offsets, a StyleGAN2 of its own for texture. The
texture reads the geometry code beside its own.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch.utils.checkpoint import checkpoint

from .field import FieldValues, Where
from .mapping import Codes, LatentConfig, LatentNetwork
from .synthesis import PAPER_SYNTHESIS, PlaneSynthesis, SynthesisConfig
from .texture import Color, TextureField
from .volume import VolumeConfig, VolumeMLP, VolumeSynthesis


class SeparateConfig(LatentConfig):
    """Size of a :class:`SeparateNetwork`; the defaults are the paper's, but for constant noise."""

    kind: Literal["separate"] = "separate"
    volume: VolumeConfig = VolumeConfig()
    """Convolutions of each of the two geometry networks."""
    volume_hidden: int = 256
    """Width of the MLPs that read the volumes."""
    sdf_layers: int = Field(3, ge=1)
    """Hidden layers of the MLP of distances."""
    offset_layers: int = Field(2, ge=1)
    """Hidden layers of the MLP of offsets."""
    synthesis: SynthesisConfig = PAPER_SYNTHESIS
    """The texture's tri-plane generator; the paper's noise is `random`."""
    hidden: int = 32
    """Width of the texture decoder."""
    hidden_layers: int = Field(1, ge=1)
    features: int = 16
    """Texture features that `to_rgb` reads."""
    color: Color = "linear"
    """`linear`: not bounded, the paper's; `sigmoid`: bounded."""
    checkpoint: bool = False
    """Compute the geometry's MLPs again in the backward pass: half the memory in all."""
    detach_geometry_code: bool = True
    """No gradient from the texture to the geometry's mapping network."""


class Volumes(NamedTuple):
    """Features of a batch.

    Attributes:
        sdf: ``[B, C, R, R, R]``, axes x, y, z.
        offsets: ``[B, C, R, R, R]``.
        texture: Planes ``[B, 3, C, R, R]``.
    """

    sdf: torch.Tensor
    offsets: torch.Tensor
    texture: torch.Tensor


class SeparateNetwork(LatentNetwork):
    """A :class:`~.field.FieldNetwork` without cube weights; ``planes`` gives :class:`Volumes`.

    Rows of ``w_geo``: convolutions, then layers of the MLPs (the paper: 0-6 and 7-10, of which the
    offsets use 7-9); both geometry networks read the same. Rows of ``w_tex``: convolutions and
    heads, then the texture MLP (0-19 and 20-21).
    """

    def __init__(self, config: SeparateConfig) -> None:
        super().__init__(config)
        self.config = config
        w_dim = config.w_dim
        self.sdf_volume = VolumeSynthesis(config.volume, w_dim)
        self.offset_volume = VolumeSynthesis(config.volume, w_dim)
        channels, hidden = self.sdf_volume.channels, config.volume_hidden
        self.sdf_mlp = VolumeMLP(channels, hidden, config.sdf_layers, 1, w_dim)
        self.offset_mlp = VolumeMLP(channels, hidden, config.offset_layers, 3, w_dim)
        self.synthesis = PlaneSynthesis(config.synthesis, 2 * w_dim)
        self.texture = TextureField(
            config.synthesis.plane_channels,
            config.hidden,
            config.hidden_layers,
            config.features,
            2 * w_dim,
            config.color,
            config.synthesis.clamp,
        )
        self.num_ws_geo = self.sdf_volume.rows + max(self.sdf_mlp.rows, self.offset_mlp.rows)
        self.num_ws_tex = self.synthesis.rows + self.texture.rows

    def planes(self, codes: Codes) -> Volumes:
        """Run the three convolution networks."""
        geo = codes.geo[:, : self.sdf_volume.rows]
        tex = self._joined(codes)[:, : self.synthesis.rows]
        return Volumes(self.sdf_volume(geo), self.offset_volume(geo), self.synthesis(tex))

    def geometry(self, features: Volumes, codes: Codes, where: Where) -> FieldValues:
        """Distances and offsets."""
        return FieldValues(self.sdf(features, codes, where), self.offsets(features, codes, where))

    def nodes(
        self, features: Volumes, codes: Codes, where: Where
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Distances ``[B, V]`` and offsets ``[B, V, 3]``."""
        return self.sdf(features, codes, where), self.offsets(features, codes, where)

    def sdf(self, features: Volumes, codes: Codes, where: Where) -> torch.Tensor:
        """Signed distances alone ``[B, V]``."""
        return self._evaluate(self.sdf_mlp, features.sdf, codes, where)[:, 0]

    def offsets(self, features: Volumes, codes: Codes, where: Where) -> torch.Tensor:
        """Offsets alone ``[B, V, 3]``."""
        return self._evaluate(self.offset_mlp, features.offsets, codes, where).transpose(1, 2)

    def cube_weights(self, features: Volumes, codes: Codes, where: Where) -> torch.Tensor:
        """It has none.

        Raises:
            ValueError: Always.
        """
        raise ValueError("the separate network has no FlexiCubes weights: use kind: shared")

    def colors(self, features: Volumes, codes: Codes, points: torch.Tensor) -> torch.Tensor:
        """Colours ``[B, P, 3]``."""
        rows = self._joined(codes)[:, self.synthesis.rows :]
        return self.texture(features.texture, rows, points)

    def _evaluate(
        self, mlp: VolumeMLP, volume: torch.Tensor, codes: Codes, where: Where
    ) -> torch.Tensor:
        rows = codes.geo[:, self.sdf_volume.rows :]
        if self.config.checkpoint and torch.is_grad_enabled():
            return checkpoint(mlp.evaluate, volume, rows, where, use_reentrant=False)
        return mlp.evaluate(volume, rows, where)

    def _joined(self, codes: Codes) -> torch.Tensor:
        """Texture rows with geometry rows beside them ``[B, num_ws_tex, 2 w_dim]``.

        There are fewer geometry rows; the last is repeated.
        """
        index = torch.arange(codes.tex.shape[1], device=codes.geo.device)
        geo = codes.geo[:, index.clamp(max=codes.geo.shape[1] - 1)]
        if self.config.detach_geometry_code:
            geo = geo.detach()
        return torch.cat([codes.tex, geo], dim=2)
