"""Adaptive augmentation of what the discriminators see (Karras et al. 2020, StyleGAN2-ADA).

Every transformation is applied to an image with probability p and on its own. One drawing serves
all images of a view: colour, silhouette and normals are moved alike, a mirrored view comes with the
mirrored camera, and what a move brings into the frame is background. p follows how sure the
discriminators are of real images. As long as p is well below 1 the generator cannot pass the
augmentations off as data, because real images are seen untransformed more often.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from ...config import Config
from .transform import Transform


class AugmentConfig(Config):
    """What is done to real and generated views before the discriminators; 0 or false = never."""

    mode: Literal["off", "fixed", "adaptive"] = "off"
    """`adaptive`: p moves so that the sign of the real logits has the mean `target`."""
    p: float = Field(0.0, ge=0, le=1)
    """Probability of each transformation, or where it starts."""
    target: float = Field(0.6, ge=-1, le=1)
    """0 = the discriminators are blind, 1 = they know every real image."""
    kimg: float = Field(500.0, gt=0)
    """Thousands of images over which p can go from 0 to 1."""
    every: int = Field(4, ge=1)
    """Steps between two moves of p, and over which the signs are averaged."""
    p_max: float = Field(0.8, gt=0, le=1)
    """Above, transformations begin to show in what is generated."""
    flip: bool = True
    """Mirror half of the views, with their cameras."""
    rotate_deg: float = Field(10.0, ge=0, le=180)
    """In the image plane: uniform up to this."""
    scale: float = Field(0.2, ge=0)
    """Standard deviation of the binary logarithm of the magnification."""
    blit: float = Field(0.125, ge=0, le=1)
    """Shift by whole pixels: uniform up to this share of the image."""
    shift: float = Field(0.05, ge=0)
    """Standard deviation of a shift by fractions of pixels, as a share of the image."""
    brightness: float = Field(0.2, ge=0)
    """Standard deviation, images in [-1, 1]."""
    contrast: float = Field(0.5, ge=0)
    """Standard deviation of the binary logarithm."""
    luma_flip: bool = True
    """Turn light into dark in half of the views."""
    hue_deg: float = Field(180.0, ge=0, le=180)
    """Rotation of the colours about grey: uniform up to this."""
    saturation: float = Field(1.0, ge=0)
    """Standard deviation of the binary logarithm."""
    cutout: float = Field(0.0, ge=0, le=1)
    """Side of a square of background, as a share of the image."""
    noise: float = Field(0.0, ge=0)
    """Scale of the noise's standard deviation, itself half-normal; images in [-1, 1]."""


GATES = (
    "flip", "rotate", "scale", "blit", "shift",
    "brightness", "contrast", "luma_flip", "hue", "saturation", "cutout", "noise",
)  # fmt: skip
STRENGTHS = {"rotate": "rotate_deg", "hue": "hue_deg"}
"""Where a field of the config is not called like its gate."""
UNIFORMS = ("flip", "rotate", "blit_x", "blit_y", "luma_flip", "hue", "cutout_x", "cutout_y")
NORMALS = ("scale", "shift_x", "shift_y", "brightness", "contrast", "saturation", "noise")


class Augment(nn.Module):
    """Draws transformations and adapts their probability.

    Its buffers are state of the run. ``sign_avg`` is linear in what a batch shows, so the mean over
    micro-batches and workers is what one batch would have made of it; p follows from it alike
    everywhere.

    Attributes:
        p: Probability of each transformation.
        sign_avg: ``[K]`` running mean of the signs of real logits, one for each discriminator.
        moved: Step at which p moved last.

    Args:
        config: What to do.
        kinds: Names of the discriminators.
        batch: Images of a step, over all workers.
    """

    def __init__(self, config: AugmentConfig, kinds: Sequence[str], batch: int) -> None:
        super().__init__()
        self.config, self.kinds, self.batch = config, tuple(kinds), batch
        self.p: torch.Tensor
        self.sign_avg: torch.Tensor
        self.moved: torch.Tensor
        self.register_buffer("p", torch.tensor(float(config.p)))
        self.register_buffer("sign_avg", torch.zeros(len(self.kinds)))
        self.register_buffer("moved", torch.tensor(-1))

    @torch.no_grad()
    def observe(self, signs: Mapping[str, torch.Tensor]) -> None:
        """Note how sure the discriminators are of real images.

        Args:
            signs: By kind ``[N]``: the logits of real images (their signs count), or by how much
                they are above those of generated ones where only differences mean something.
        """
        # A logit that is not a number must not end up in p, which would never recover.
        found = [signs[kind].float().nan_to_num().sign().mean() for kind in self.kinds]
        self.sign_avg.lerp_(torch.stack(found), 1 / self.config.every)

    @torch.no_grad()
    def adapt(self, step: int) -> dict[str, torch.Tensor]:
        """Move p, if it is time, by what was observed until the step before; terms for the log.

        The discriminator that is surest decides: all share one p, and any may be the one that
        learns its images by heart. Called again for the same step, it does nothing.
        """
        config, surest = self.config, self.sign_avg.max()
        if config.mode == "adaptive" and step % config.every == 0 and int(self.moved) != step:
            stride = self.batch * config.every / (config.kimg * 1000)
            self.p.add_((surest - config.target).sign() * stride).clamp_(0, config.p_max)
            self.moved.fill_(step)
        return {"augment/p": self.p.clone(), "augment/rt": surest}

    def draw(
        self, count: int, size: int, rng: np.random.Generator, rows: np.ndarray | None = None
    ) -> Transform:
        """Transformations of ``count`` views of ``size`` pixels; of them, ``rows``.

        The numbers drawn depend neither on p nor on the device.
        """
        device = self.p.device
        drawn = np.concatenate(
            [
                rng.random((count, len(GATES) + len(UNIFORMS))),
                rng.standard_normal((count, len(NORMALS))),
            ],
            axis=1,
        ).astype(np.float32)
        seed = int(rng.integers(2**62)) if self.config.noise else None
        if rows is not None:
            drawn, seed = drawn[rows], seed and seed + int(rows[0])  # other rows, other noise
        columns = torch.from_numpy(drawn).to(device).unbind(1)
        gates = {
            name: (column < self.p) & bool(getattr(self.config, STRENGTHS.get(name, name)))
            for name, column in zip(GATES, columns, strict=False)
        }
        rest = dict(zip(UNIFORMS + NORMALS, columns[len(GATES) :], strict=True))
        return self._transform(gates, rest, size, seed)

    def _transform(
        self,
        gates: dict[str, torch.Tensor],
        drawn: dict[str, torch.Tensor],
        size: int,
        seed: int | None,
    ) -> Transform:
        config = self.config

        def gated(gate: str, value: torch.Tensor, neutral: float = 0.0) -> torch.Tensor:
            return torch.where(gates[gate], value, neutral)

        def uniform(name: str) -> torch.Tensor:
            return 2 * drawn[name] - 1

        blit = [
            gated("blit", (uniform(name) * config.blit * size).round() / size)
            for name in ("blit_x", "blit_y")
        ]
        shift = [gated("shift", drawn[name] * config.shift) for name in ("shift_x", "shift_y")]
        centers = torch.stack([drawn["cutout_x"], drawn["cutout_y"]], dim=1)
        return Transform(
            flipped=gates["flip"] & (drawn["flip"] < 0.5),
            moved=gates["rotate"] | gates["scale"] | gates["blit"] | gates["shift"],
            inverse=inverse_affine(
                gated("rotate", uniform("rotate") * math.radians(config.rotate_deg)),
                gated("scale", torch.exp2(drawn["scale"] * config.scale), 1.0),
                torch.stack([b + s for b, s in zip(blit, shift, strict=True)], dim=1),
            ),
            colored=gates["brightness"]
            | gates["contrast"]
            | gates["luma_flip"]
            | gates["hue"]
            | gates["saturation"],
            color=color_matrix(
                gated("brightness", drawn["brightness"] * config.brightness),
                gated("contrast", torch.exp2(drawn["contrast"] * config.contrast), 1.0),
                gates["luma_flip"] & (drawn["luma_flip"] < 0.5),
                gated("hue", uniform("hue") * math.radians(config.hue_deg)),
                gated("saturation", torch.exp2(drawn["saturation"] * config.saturation), 1.0),
            ),
            cut=gates["cutout"],
            box=torch.cat([centers - config.cutout / 2, centers + config.cutout / 2], dim=1),
            noise=gated("noise", drawn["noise"].abs() * config.noise),
            seed=seed,
        )


def inverse_affine(angle: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """``[N, 2, 3]``: where a pixel's content comes from, x right and y down in [-1, 1].

    Content is turned by ``angle [N]`` (radians, clockwise to the eye), magnified by ``scale [N]``
    and moved by ``shift [N, 2]`` (shares of the image, right and down), in this order.
    """
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    linear = torch.stack([cos, sin, -sin, cos], dim=1).reshape(-1, 2, 2)
    return torch.cat([linear, linear @ (-2 * shift[:, :, None])], dim=2)


def color_matrix(
    brightness: torch.Tensor,
    contrast: torch.Tensor,
    luma_flip: torch.Tensor,
    hue: torch.Tensor,
    saturation: torch.Tensor,
) -> torch.Tensor:
    """``[N, 3, 4]``: linear part and shift of colours in [-1, 1]; all arguments ``[N]``.

    Brightness and contrast, then a mirror image in the plane across the grey axis, a rotation about
    that axis (radians), and a stretch away from it.
    """
    count, device = len(brightness), brightness.device
    eye = torch.eye(3, device=device)
    grey = torch.full((3, 3), 1 / 3, device=device)  # projection on the grey axis
    root = 1 / math.sqrt(3)
    turn = root * torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=device)
    one = (count, 1, 1)
    flip = eye - 2 * grey * luma_flip.reshape(one).float()
    cos, sin = torch.cos(hue).reshape(one), torch.sin(hue).reshape(one)
    rotation = grey + cos * (eye - grey) + sin * turn
    stretch = grey + saturation.reshape(one) * (eye - grey)
    linear = stretch @ rotation @ flip
    shift = linear @ (brightness * contrast).reshape(one).expand(-1, 3, 1)
    return torch.cat([linear * contrast.reshape(one), shift], dim=2)
