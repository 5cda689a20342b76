"""Configuration of the GET3D method; the defaults are the paper's."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ...config import Config
from ..networks.discriminator import DiscriminatorConfig
from .generator import GeneratorConfig


class LossConfig(Config):
    """Weights of the objectives."""

    adversarial: Literal["non_saturating", "relativistic"] = "non_saturating"
    """The paper's logistic loss, or R3GAN's relativistic one (with `r2`)."""
    r2: bool = False
    """Penalise gradients at generated images as R1 does at real ones."""
    r1_gamma: float = 40.0
    """R1 weight of the RGB discriminator: gamma / 2 times the squared gradient norm."""
    r1_gamma_mask: float | None = None
    """R1 weight of the silhouette discriminator; None = `r1_gamma`."""
    r1_every: int = Field(16, ge=1)
    """Lazy regularisation: every so many steps, weighted by as much."""
    sdf_weight: float = 0.01
    """Sign cross-entropy over the grid's edges (GET3D equation 2); discourages floaters."""


class OptimConfig(Config):
    """Adam for both players."""

    lr: float = Field(0.002, gt=0)
    betas: tuple[float, float] = (0.0, 0.99)
    eps: float = 1e-8


class RenderConfig(Config):
    """How generated meshes are drawn in training."""

    views: int = Field(1, ge=1)
    """Cameras per generated shape; the batch holds `batch / views` shapes."""
    supersample: int = Field(1, ge=1)
    """Rasterised samples per pixel along an axis."""
    color_samples: int = Field(1, ge=1)
    """Texture queries per pixel along an axis."""
    matte: Literal["alpha", "detached", "hard"] = "detached"
    """How colours are laid over the background: by true alpha, which lets the RGB discriminator
    move silhouettes; by its value alone; or by a hard mask (the paper)."""
    position_gradient: float = Field(0.0, ge=0)
    """Scale of the gradient from colours to the surface positions that they are read at; the
    paper has none."""


class GET3DConfig(Config):
    """All of the method."""

    generator: GeneratorConfig = GeneratorConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    render: RenderConfig = RenderConfig()
    bf16_discriminator: bool = False
    """Plain passes of the discriminators in bfloat16; R1 stays in float32."""
