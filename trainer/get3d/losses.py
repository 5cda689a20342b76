"""The objectives of GET3D."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F

from ...errors import ConfigError

if TYPE_CHECKING:
    from .config import LossConfig
    from .generator import Generator
    from .surface import Geometry


class Objective(NamedTuple):
    """What the two players minimise; logits are ``[N]``.

    Attributes:
        discriminator: ``(real, fake) -> scalar``.
        generator: ``(fake, real or None) -> scalar``.
        pairs: Whether the generator's loss needs the logits of real images.
    """

    discriminator: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    generator: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
    pairs: bool


def _non_saturating_d(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def _non_saturating_g(fake: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
    return F.softplus(-fake).mean()


def _relativistic_d(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    return F.softplus(fake - real).mean()


def _relativistic_g(fake: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
    assert real is not None
    return F.softplus(real - fake).mean()


ADVERSARIAL = {
    "non_saturating": Objective(_non_saturating_d, _non_saturating_g, pairs=False),
    "relativistic": Objective(_relativistic_d, _relativistic_g, pairs=True),
}
"""``non_saturating``: logistic, ``-log sigmoid(D(real)) - log(1 - sigmoid(D(fake)))`` against
``-log sigmoid(D(fake))`` (Goodfellow et al. 2014). ``relativistic``: each fake is judged beside a
real image, ``-log sigmoid(D(real) - D(fake))`` against ``-log sigmoid(D(fake) - D(real))``
(Jolicoeur-Martineau 2019; Huang et al. 2024, R3GAN, where it goes with R1 and R2, each times
gamma / 2). Row i of the fakes goes with row i of the reals; both are drawn independently, cameras
included, so any pairing has the same expectation."""


def gradient_penalty(logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Mean squared gradient norm: R1 at real images, R2 at fakes (Mescheder et al. 2018, eq. 9).

    Args:
        logits: ``[N]``, computed from ``images`` with gradients enabled.
        images: ``[N, C, H, W]``, a leaf that requires a gradient.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


def sdf_sign_loss(sdf: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """Cross-entropy between the signs at the ends of crossed edges (GET3D equation 2).

    Over edges whose ends differ in sign, each end's value is pushed towards the other's sign; it
    costs little on one smooth surface and much on scattered pieces inside.

    Args:
        sdf: ``[B, V]``.
        edges: int64 ``[E, 2]``.
    """
    a, b = sdf[:, edges[:, 0]], sdf[:, edges[:, 1]]
    crossed = torch.nonzero(((a > 0) != (b > 0)).reshape(-1)).squeeze(1)
    if crossed.numel() == 0:
        return sdf.sum() * 0.0
    a, b = a.reshape(-1)[crossed], b.reshape(-1)[crossed]
    return F.binary_cross_entropy_with_logits(
        a, (b > 0).float()
    ) + F.binary_cross_entropy_with_logits(b, (a > 0).float())


def empty_shape_loss(sdf: torch.Tensor, empty: torch.Tensor) -> torch.Tensor:
    """Mean ``|sdf|`` over the samples without a surface, 0 if all have one (GET3D, section 3.1.1).

    Args:
        sdf: ``[B, V]``, the field before it is made to have a surface.
        empty: bool ``[B]``.
    """
    count = empty.sum().clamp(min=1)
    return (sdf.abs().mean(dim=1) * empty).sum() / count


class Term(NamedTuple):
    """A part of the generator's loss."""

    weight: float
    value: torch.Tensor


def geometry_terms(config: LossConfig, geometry: Geometry, generator: Generator) -> dict[str, Term]:
    """What the generator's loss adds to the judgement of the images, by name.

    Raises:
        ConfigError: The geometry carries a regulariser that has no weight in the config.
    """
    edges = generator.surface.edges
    terms = {"sdf": Term(config.sdf_weight, sdf_sign_loss(geometry.sdf, edges))}
    if config.empty_weight:
        raw = (geometry.sdf - geometry.shift[:, None])[:, generator.surface.inside]
        terms["empty_shape"] = Term(config.empty_weight, empty_shape_loss(raw, geometry.empty))
    weights = config.regularisers.model_dump()
    for name, value in geometry.regularisers.items():
        if name not in weights:
            raise ConfigError(
                f"the extractor's regulariser {name!r} has no weight",
                hint=f"get3d.loss.regularisers has {', '.join(weights)}",
            )
        terms[name] = Term(weights[name], value)
    return terms
