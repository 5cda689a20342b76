"""Mapping networks: z -> w, with a running mean of w for truncation; the two codes of GET3D."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import nn

from ...config import Config
from .layers import Linear, lrelu, unit_moment


class MappingNetwork(nn.Module):
    """``z [B, z_dim] -> w [B, w_dim]`` (Karras et al. 2019), on request conditioned on a label.

    A label, one-hot or any mixture, is embedded linearly, normalised like ``z`` and joined to it
    (Karras et al. 2020, StyleGAN2-ADA, appendix C). Each class then has its own mean of w:
    truncation pulls towards the middle of a class and not to a point between classes.

    Args:
        z_dim: Width of the latent code and of the embedded label.
        w_dim: Width of ``w`` and of the hidden layers.
        layers: Number of fully connected layers.
        lr_multiplier: Learning-rate multiplier of all layers.
        label_dim: Width of the label; 0 = no label.
    """

    W_AVG_DECAY = 0.998

    def __init__(
        self,
        z_dim: int,
        w_dim: int,
        layers: int,
        lr_multiplier: float = 0.01,
        label_dim: int = 0,
    ) -> None:
        super().__init__()
        widths = [z_dim * (2 if label_dim else 1)] + [w_dim] * layers
        self.embed = Linear(label_dim, z_dim) if label_dim else None
        self.layers = nn.ModuleList(
            Linear(a, b, lr_multiplier=lr_multiplier) for a, b in pairwise(widths)
        )
        self.w_avg: torch.Tensor
        self.register_buffer("w_avg", torch.zeros([label_dim, w_dim] if label_dim else [w_dim]))

    def forward(
        self, z: torch.Tensor, psi: float = 1.0, label: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Map ``z``; with ``psi < 1`` pull ``w`` towards its mean (truncation).

        Args:
            z: ``[B, z_dim]``.
            psi: 1 = no truncation, 0 = the mean.
            label: ``[B, label_dim]``, rows of sum 1, if the network has labels.
        """
        w = unit_moment(z)
        if self.embed is not None:
            if label is None:
                raise ValueError("this mapping network needs a label")
            w = torch.cat([w, unit_moment(self.embed(label.to(w.dtype)))], dim=1)
        for layer in self.layers:
            w = lrelu(layer(w))
        if psi == 1.0:
            return w
        mean = self.w_avg if label is None else label.to(w.dtype) @ self.w_avg
        return mean.lerp(w, psi)

    @torch.no_grad()
    def track(self, w: torch.Tensor, label: torch.Tensor | None = None) -> None:
        """Move ``w_avg`` towards the mean of a batch of ``w`` (decay 0.998), class by class."""
        if self.embed is None:
            self.w_avg.lerp_(w.detach().mean(dim=0), 1.0 - self.W_AVG_DECAY)
            return
        assert label is not None
        share = label.to(w.dtype)
        count = share.sum(dim=0)[:, None]  # [label_dim, 1]
        mean = (share.t() @ w.detach()) / count.clamp(min=1e-8)
        self.w_avg.lerp_(mean, (1.0 - self.W_AVG_DECAY) * (count > 0).to(w.dtype))


class Codes(NamedTuple):
    """Rows of w, one for each layer.

    Attributes:
        geo: ``[B, num_ws_geo, w_dim]``.
        tex: ``[B, num_ws_tex, w_dim]``.
    """

    geo: torch.Tensor
    tex: torch.Tensor


class LatentConfig(Config):
    """The codes of a generator."""

    z_dim: int = 512
    w_dim: int = 512
    mapping_layers: int = 8
    label_dim: int = 0
    """Width of the one-hot class, for training on several; 0 = none."""


class LatentNetwork(nn.Module):
    """Two mapping networks, for geometry and texture. Subclasses set the numbers of rows."""

    num_ws_geo: int
    num_ws_tex: int

    def __init__(self, config: LatentConfig) -> None:
        super().__init__()
        args = (config.z_dim, config.w_dim, config.mapping_layers)
        self.mapping_geo = MappingNetwork(*args, label_dim=config.label_dim)
        self.mapping_tex = MappingNetwork(*args, label_dim=config.label_dim)

    def map(
        self,
        z_geo: torch.Tensor,
        z_tex: torch.Tensor,
        psi: float = 1.0,
        label: torch.Tensor | None = None,
    ) -> Codes:
        """``z [B, z_dim]`` twice, truncation, label ``[B, label_dim]`` -> rows of w, all equal."""
        w_geo = self.mapping_geo(z_geo, psi, label)
        w_tex = self.mapping_tex(z_tex, psi, label)
        return Codes(
            w_geo[:, None].expand(-1, self.num_ws_geo, -1),
            w_tex[:, None].expand(-1, self.num_ws_tex, -1),
        )

    def track(self, codes: Codes, label: torch.Tensor | None = None) -> None:
        """Move the means of w towards those of a batch that was neither mixed nor truncated."""
        self.mapping_geo.track(codes.geo[:, 0], label)
        self.mapping_tex.track(codes.tex[:, 0], label)


def mix_codes(first: Codes, second: Codes, cut_geo: int, cut_tex: int) -> Codes:
    """Style mixing: rows of ``first`` up to each cut, of ``second`` from there on."""
    return Codes(
        torch.cat([first.geo[:, :cut_geo], second.geo[:, cut_geo:]], dim=1),
        torch.cat([first.tex[:, :cut_tex], second.tex[:, cut_tex:]], dim=1),
    )
