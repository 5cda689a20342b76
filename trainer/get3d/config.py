"""Configuration of the GET3D method; the defaults are the paper's."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ...config import Config
from ..networks.discriminator import DiscriminatorConfig
from ..networks.trunk import TrunkConfig
from .augment import AugmentConfig
from .generator import GeneratorConfig


class PenaltyConfig(Config):
    """How the gradient penalties R1 and R2 are computed."""

    method: Literal["exact", "finite_difference"] = "exact"
    """The gradient itself, which takes a double backward pass, or an estimate without one from
    the difference of logits between two noisy copies of each image."""
    sigma: float = Field(0.01, gt=0)
    """[finite_difference] Standard deviation of the noise; images are in [-1, 1]."""
    probes: int = Field(1, ge=1)
    """[finite_difference] Noises per image."""


class RegulariserConfig(Config):
    """Weights of the terms that an extractor adds, by their names in `Geometry.regularisers`."""

    deviation: float = 0.5
    """FlexiCubes: unequal distances of a vertex to the crossings of its cell (L_dev)."""
    weights: float = 0.1
    """FlexiCubes: mean square of the weights before they are bounded."""


class LossConfig(Config):
    """Weights of the objectives."""

    adversarial: Literal["non_saturating", "relativistic"] = "non_saturating"
    """The paper's logistic loss, or R3GAN's relativistic one (with `r2`)."""
    r2: bool = False
    """Penalise gradients at generated images as R1 does at real ones."""
    r1_gamma: float | Literal["auto"] = 40.0
    """R1 weight of the RGB discriminator: gamma / 2 times the squared gradient norm. `auto`:
    0.0002 x pixels of an image / images of a step."""
    r1_gamma_mask: float | None = None
    """R1 weight of the silhouette discriminator; None = `r1_gamma`, or `r1_mask_scale` times
    that where it is `auto`."""
    r1_gamma_normal: float | None = None
    """R1 weight of the discriminator of normals; None = `r1_gamma`."""
    r1_mask_scale: float = Field(5.0, gt=0)
    """Silhouettes against colours where `r1_gamma` is `auto`; the presets that were tuned by hand
    have 10 at 32 x 32 and 2.5 at 128 x 128."""
    r1_gamma_final: float | None = Field(None, ge=0)
    """What `r1_gamma` moves to in the course of the run, the others in proportion; None: stays."""
    r1_schedule: Literal["cosine", "linear"] = "cosine"
    """The way to `r1_gamma_final`."""
    r1_final_from: float = Field(1.0, gt=0, le=1)
    """Share of the run after which `r1_gamma_final` is reached."""
    r1_every: int = Field(16, ge=1)
    """Lazy regularisation: every so many steps, weighted by as much."""
    penalty: PenaltyConfig = PenaltyConfig()
    sdf_weight: float = 0.01
    """Sign cross-entropy over the grid's edges (GET3D equation 2); discourages floaters."""
    empty_weight: float = Field(0.0, ge=0)
    """Mean |sdf| of samples without a surface, before they are shifted (the paper: 1)."""
    regularisers: RegulariserConfig = RegulariserConfig()

    @model_validator(mode="after")
    def _final_needs_a_start(self) -> Self:
        if self.r1_gamma_final is not None and self.r1_gamma == 0:
            raise ValueError("r1_gamma_final scales every gamma: r1_gamma cannot be 0")
        return self


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


AnyDiscriminatorConfig = Annotated[DiscriminatorConfig | TrunkConfig, Field(discriminator="kind")]
"""A small discriminator, or StyleGAN2's."""


class GET3DConfig(Config):
    """All of the method."""

    generator: GeneratorConfig = GeneratorConfig()
    discriminator: AnyDiscriminatorConfig = TrunkConfig()
    loss: LossConfig = LossConfig()
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig = OptimConfig()
    render: RenderConfig = RenderConfig()
    style_mixing: float = Field(0.0, ge=0, le=1)
    """Probability that the last layers of a step take their style from a second code, drawn for
    geometry and texture separately (the paper: 0.9)."""
    normals: bool = False
    """A third discriminator, of normal maps; the dataset must have them."""
    bf16_discriminator: bool = False
    """Plain passes of the discriminators in bfloat16; R1 stays in float32."""
