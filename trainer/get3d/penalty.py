"""Gradient penalties and their weights.

The penalty of a discriminator D at images x is the mean of ``|dD/dx|^2`` (Mescheder et al. 2018,
equation 9), R1 at real images and R2 at generated ones; it enters the loss times gamma / 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from .losses import gradient_penalty

if TYPE_CHECKING:
    from .config import LossConfig, PenaltyConfig

Score = Callable[[torch.Tensor], torch.Tensor]

AUTO_GAMMA = 0.0002
"""Gamma of `auto` for one pixel and a batch of one (the rule of thumb of StyleGAN2-ADA's `auto`
configuration): the penalty sums over pixels that are alike, and small batches need more of it."""


def penalty(
    score: Score, images: torch.Tensor, config: PenaltyConfig, generator: torch.Generator | None
) -> torch.Tensor:
    """R1 or R2, a scalar that can be differentiated in the weights of ``score``.

    Args:
        score: ``[N, C, H, W] -> logits [N]``.
        images: ``[N, C, H, W]`` in [-1, 1].
        config: How.
        generator: Source of the noise of ``finite_difference``.
    """
    images = images.detach()
    if config.method == "finite_difference":
        assert generator is not None
        return finite_difference_penalty(score, images, config.sigma, config.probes, generator)
    images.requires_grad_()
    return gradient_penalty(score(images), images)


def finite_difference_penalty(
    score: Score, images: torch.Tensor, sigma: float, probes: int, generator: torch.Generator
) -> torch.Tensor:
    """Estimate of the mean squared gradient norm without a second backward pass.

    For noise u of unit variance ``E (u . dD/dx)^2 = |dD/dx|^2``; the derivative along u is
    ``(D(x + sigma u) - D(x - sigma u)) / (2 sigma)``. The central difference costs as much as the
    one-sided one and has no error on quadratic functions. u is +-1 in every pixel, which among
    all noises of independent pixels makes the estimate vary least.

    All images of the batch are moved at once. Where a logit depends on the other images too
    (minibatch deviation), ``|dD/dx|^2`` of an image means the squares of all its logit's
    derivatives, whereas :func:`.losses.gradient_penalty` sums over logits before it squares.
    """
    total = images.new_zeros(())
    for _ in range(probes):
        coin = torch.randint(0, 2, images.shape, generator=generator, device=images.device)
        step = sigma * (2 * coin - 1).to(images.dtype)
        slope = (score(images + step) - score(images - step)) / (2 * sigma)
        total = total + slope.square().mean()
    return total / probes


def gammas(config: LossConfig, size: int, batch: int, progress: float = 0.0) -> dict[str, float]:
    """Weights by kind of image.

    Args:
        config: Of the losses.
        size: Side of the images (pixels).
        batch: Images of a step, over all workers.
        progress: Share of the run that is over.
    """
    auto = config.r1_gamma == "auto"
    rgb = AUTO_GAMMA * size**2 / batch if config.r1_gamma == "auto" else config.r1_gamma
    mask = config.r1_gamma_mask
    if mask is None:
        mask = rgb * config.r1_mask_scale if auto else rgb
    normal = rgb if config.r1_gamma_normal is None else config.r1_gamma_normal
    factor = 1.0
    if config.r1_gamma_final is not None:
        x = min(progress / config.r1_final_from, 1.0)
        if config.r1_schedule == "cosine":
            x = 0.5 - 0.5 * math.cos(math.pi * x)
        factor = 1.0 + x * (config.r1_gamma_final / rgb - 1.0)
    return {"rgb": rgb * factor, "mask": mask * factor, "normal": normal * factor}
