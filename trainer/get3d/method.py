"""GET3D as a method of the loop: its nets, its three phases, its samples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from ...renderers.cameras import sample_cameras
from ..method import Background, Batch, DataContext, Logs, Phase, draw_background
from ..networks.discriminator import Discriminator, camera_code
from .asset import GET3DAsset
from .config import GET3DConfig
from .generator import Generator, GeneratorConfig
from .losses import ADVERSARIAL, gradient_penalty, sdf_sign_loss
from .render import render


class Fakes(NamedTuple):
    """Generated views of one step, inputs of the discriminators (scaled to [-1, 1])."""

    rgb: torch.Tensor
    mask: torch.Tensor
    camera: torch.Tensor
    sdf_loss: torch.Tensor
    empty: torch.Tensor


class GET3D:
    """Two codes, one mesh, two discriminators (Gao et al., NeurIPS 2022).

    Args:
        config: The method's part of the run's config.
        context: What it must know of the dataset.
        size: Side of the training images (pixels).
        background: Behind the objects: a grey in [0, 1], or a random colour for every image.
    """

    needs: Literal["views"] = "views"

    def __init__(
        self, config: GET3DConfig, context: DataContext, size: int, background: Background
    ) -> None:
        self.config, self.context = config, context
        self.size, self.background = size, background
        self.generator = Generator(_decided(config.generator, context), context.extent)
        self.d_rgb = Discriminator(config.discriminator, 3, size)
        self.d_mask = Discriminator(config.discriminator, 1, size)
        self.adversarial = ADVERSARIAL[config.loss.adversarial]
        self._fakes: tuple[int, Fakes] | None = None

    def nets(self) -> dict[str, nn.Module]:
        """The three networks."""
        return {"generator": self.generator, "d_rgb": self.d_rgb, "d_mask": self.d_mask}

    def phases(self) -> list[Phase]:
        """Discriminators, their lazy R1, generator.

        The discriminators' Adam is corrected for lazy regularisation (Karras et al. 2020,
        appendix B): with c = k / (k + 1), rate and exponents become c lr and beta^c.
        """
        optim, every = self.config.optim, self.config.loss.r1_every
        g_params = list(self.generator.parameters())
        d_params = [*self.d_rgb.parameters(), *self.d_mask.parameters()]
        g_adam = torch.optim.Adam(
            g_params, lr=optim.lr, betas=optim.betas, eps=optim.eps, foreach=True
        )
        c = every / (every + 1)
        d_adam = torch.optim.Adam(
            d_params,
            lr=optim.lr * c,
            betas=(optim.betas[0] ** c, optim.betas[1] ** c),
            eps=optim.eps,
            foreach=True,
        )
        return [
            Phase("D", d_params, d_adam, 1, self._d_loss),
            Phase("D_r1", d_params, d_adam, every, self._r1_loss),
            Phase("G", g_params, g_adam, 1, self._g_loss),
        ]

    def sample(self, generator: nn.Module, seed: int, psi: float) -> GET3DAsset:
        """One asset; equal seeds give equal assets."""
        assert isinstance(generator, Generator)
        return GET3DAsset(generator, seed, psi)

    def _generate(self, batch: Batch) -> Fakes:
        views = self.config.render.views
        shapes = len(batch.rgb) // views
        z = batch.rng.standard_normal((2, shapes, self.config.generator.z_dim), dtype=np.float32)
        cameras = sample_cameras(self.context.camera, views * shapes, batch.rng)
        device = batch.rgb.device
        z_geo, z_tex = torch.from_numpy(z).to(device).unbind(0)
        g = self.generator
        w_geo, w_tex = g.map(z_geo, z_tex)
        g.mapping_geo.track(w_geo[:, 0])
        g.mapping_tex.track(w_tex[:, 0])
        planes = g.planes(w_geo, w_tex)
        geometry = g.field(planes)
        matrices = torch.from_numpy(cameras.world_to_clip()).float().to(device)
        images = render(
            g.meshes(geometry),
            matrices.reshape(views, shapes, 4, 4),
            lambda points: g.colors(planes, points, w_tex),
            self.size,
            supersample=self.config.render.supersample,
            color_samples=self.config.render.color_samples,
            position_gradient=self.config.render.position_gradient,
        )
        rgb = images.over(
            draw_background(self.background, len(images.rgb), batch.rng, device),
            self.config.render.matte,
        )
        return Fakes(
            rgb * 2 - 1,
            images.alpha * 2 - 1,
            _code(cameras.azimuth, cameras.elevation, device),
            sdf_sign_loss(geometry.sdf, g.marching.edges),
            geometry.empty,
        )

    def _fakes_of(self, batch: Batch, step: int) -> Fakes:
        """One forward pass serves both players: the weights do not change in between."""
        if self._fakes is None or self._fakes[0] != step:
            self._fakes = (step, self._generate(batch))
        return self._fakes[1]

    def _logits(
        self, rgb: torch.Tensor, mask: torch.Tensor, camera: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        bf16 = self.config.bf16_discriminator
        with torch.autocast(rgb.device.type, torch.bfloat16, enabled=bf16):
            return self.d_rgb(rgb, camera).float(), self.d_mask(mask, camera).float()

    def _d_loss(self, batch: Batch, step: int) -> tuple[torch.Tensor, Logs]:
        fakes = self._fakes_of(batch, step)
        # One pass over both halves: groups of the minibatch deviation never mix real and fake.
        rgb = torch.cat([batch.rgb * 2 - 1, fakes.rgb.detach()])
        mask = torch.cat([batch.alpha * 2 - 1, fakes.mask.detach()])
        logits = self._logits(rgb, mask, torch.cat([_real_code(batch), fakes.camera]))
        (real_rgb, fake_rgb), (real_mask, fake_mask) = (x.chunk(2) for x in logits)
        d_loss = self.adversarial.discriminator
        loss = d_loss(real_rgb, fake_rgb) + d_loss(real_mask, fake_mask)
        return loss, {
            "loss/d": loss,
            "logits/real_rgb": real_rgb.mean(),
            "logits/fake_rgb": fake_rgb.mean(),
            "logits/real_mask": real_mask.mean(),
            "logits/fake_mask": fake_mask.mean(),
        }

    def _r1_loss(self, batch: Batch, step: int) -> tuple[torch.Tensor, Logs]:
        loss = self.config.loss
        gamma_mask = loss.r1_gamma if loss.r1_gamma_mask is None else loss.r1_gamma_mask
        parts = [
            ("r1/rgb", self.d_rgb, batch.rgb * 2 - 1, _real_code(batch), loss.r1_gamma),
            ("r1/mask", self.d_mask, batch.alpha * 2 - 1, _real_code(batch), gamma_mask),
        ]
        if loss.r2:
            fakes = self._fakes_of(batch, step)
            parts += [
                ("r2/rgb", self.d_rgb, fakes.rgb, fakes.camera, loss.r1_gamma),
                ("r2/mask", self.d_mask, fakes.mask, fakes.camera, gamma_mask),
            ]
        total = torch.zeros((), device=batch.rgb.device)
        logs: Logs = {}
        for name, net, images, camera, gamma in parts:
            images = images.detach().requires_grad_()
            penalty = gradient_penalty(net(images, camera), images)
            total = total + 0.5 * gamma * penalty
            logs[name] = penalty
        return total * loss.r1_every, logs

    def _g_loss(self, batch: Batch, step: int) -> tuple[torch.Tensor, Logs]:
        fakes = self._fakes_of(batch, step)
        self._fakes = None
        g_loss = self.adversarial.generator
        with _frozen(self.d_rgb, self.d_mask):
            rgb, mask = self._logits(fakes.rgb, fakes.mask, fakes.camera)
            real_rgb = real_mask = None
            if self.adversarial.pairs:
                with torch.no_grad():
                    real_rgb, real_mask = self._logits(
                        batch.rgb * 2 - 1, batch.alpha * 2 - 1, _real_code(batch)
                    )
            adversarial = g_loss(rgb, real_rgb) + g_loss(mask, real_mask)
        loss = adversarial + self.config.loss.sdf_weight * fakes.sdf_loss
        return loss, {
            "loss/g": adversarial,
            "loss/sdf": fakes.sdf_loss,
            "empty": fakes.empty.float().mean(),
        }


def _decided(config: GeneratorConfig, context: DataContext) -> GeneratorConfig:
    """The generator's config with ``mirror`` settled by the dataset if it was left open."""
    if config.mirror is not None:
        return config
    return config.model_copy(update={"mirror": context.symmetric})


@contextmanager
def _frozen(*nets: nn.Module) -> Iterator[None]:
    """No gradient for the weights of ``nets`` inside the block (their inputs still get one)."""
    for net in nets:
        net.requires_grad_(False)
    try:
        yield
    finally:
        for net in nets:
            net.requires_grad_(True)


def _code(azimuth: np.ndarray, elevation: np.ndarray, device: torch.device) -> torch.Tensor:
    return camera_code(
        torch.from_numpy(azimuth).float().to(device), torch.from_numpy(elevation).float().to(device)
    )


def _real_code(batch: Batch) -> torch.Tensor:
    return camera_code(batch.azimuth, batch.elevation)
