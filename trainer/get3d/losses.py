"""The objectives of GET3D."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def generator_loss(logits_fake: torch.Tensor) -> torch.Tensor:
    """Non-saturating logistic loss: mean of ``-log sigmoid(D(fake))`` (Goodfellow et al. 2014)."""
    return F.softplus(-logits_fake).mean()


def discriminator_loss(logits_real: torch.Tensor, logits_fake: torch.Tensor) -> torch.Tensor:
    """``-log sigmoid(D(real)) - log(1 - sigmoid(D(fake)))``, each a mean."""
    return F.softplus(-logits_real).mean() + F.softplus(logits_fake).mean()


def r1_penalty(logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """R1 (Mescheder et al. 2018, equation 9): mean squared gradient norm at real images.

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
