"""GET3D as a method of the loop: its nets, its three phases, its samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from ...renderers.cameras import sample_cameras
from ..isosurface.marching import MeshBatch
from ..method import Background, Batch, DataContext, Logs, Phase, draw_background
from ..networks.conditioning import CAMERA_CODES
from ..networks.discriminator import Discriminator, DiscriminatorConfig
from ..networks.mapping import Codes, mix_codes
from ..networks.trunk import Trunk, TrunkConfig
from .asset import GET3DAsset
from .augment import Augment
from .config import GET3DConfig
from .generator import Generator, GeneratorConfig
from .health import field_figures, logit_figures, mean_pieces
from .judged import Judged, draw_cutoff, draw_labels, real_views
from .losses import ADVERSARIAL, Term, geometry_terms
from .penalty import gammas, penalty
from .render import render
from .transform import Transform

CHANNELS = {"rgb": 3, "mask": 1, "normal": 3}
DISCRIMINATORS: dict[type, Callable[..., nn.Module]] = {
    DiscriminatorConfig: Discriminator,
    TrunkConfig: Trunk,
}


class Fakes(NamedTuple):
    """Generated views of one step.

    Attributes:
        views: What is judged.
        terms: Losses of the geometry itself.
        figures: For the log.
        meshes: One for each shape.
    """

    views: Judged
    terms: dict[str, Term]
    figures: Logs
    meshes: MeshBatch


class GET3D:
    """Two codes, one mesh, two discriminators (Gao et al., NeurIPS 2022), or three with normals.

    Args:
        config: The method's part of the run's config.
        context: What it must know of the dataset.
        size: Side of the training images (pixels).
        background: Behind the objects: a grey in [0, 1], or a random colour for every image.
        batch: Images of a step, over all workers; sets `auto` R1 and the pace of augmentation.
        kimg: Length of the run; sets the pace of a schedule of R1.
    """

    needs: Literal["views"] = "views"

    def __init__(
        self,
        config: GET3DConfig,
        context: DataContext,
        size: int,
        background: Background,
        *,
        batch: int = 32,
        kimg: float = 6000.0,
    ) -> None:
        self.config, self.context = config, context
        self.size, self.background = size, background
        self.batch, self.kimg = batch, kimg
        self.generator = Generator(_decided(config.generator, context), context.extent)
        kinds = ["rgb", "mask", "normal"] if config.normals else ["rgb", "mask"]
        build, classes = DISCRIMINATORS[type(config.discriminator)], len(context.labels)
        self.discriminators: dict[str, nn.Module] = {
            kind: build(config.discriminator, CHANNELS[kind], size, classes) for kind in kinds
        }
        trunk = config.discriminator
        self.camera_code = CAMERA_CODES[
            trunk.camera if isinstance(trunk, TrunkConfig) else "periodic"
        ]
        self.augment: Augment | None = None
        if config.augment.mode != "off":
            self.augment = Augment(config.augment, kinds, batch)
        self.adversarial = ADVERSARIAL[config.loss.adversarial]
        self._fakes: tuple[Batch, int, Fakes] | None = None

    def nets(self) -> dict[str, nn.Module]:
        """The networks, and the state of the augmentation if there is one."""
        nets: dict[str, nn.Module] = {"generator": self.generator}
        nets |= {f"d_{kind}": net for kind, net in self.discriminators.items()}
        return nets if self.augment is None else nets | {"augment": self.augment}

    def phases(self) -> list[Phase]:
        """Discriminators, their lazy R1, generator.

        The discriminators' Adam is corrected for lazy regularisation (Karras et al. 2020,
        appendix B): with c = k / (k + 1), rate and exponents become c lr and beta^c.
        """
        optim, every = self.config.optim, self.config.loss.r1_every
        g_params = list(self.generator.parameters())
        d_params = [p for net in self.discriminators.values() for p in net.parameters()]
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
        views, drawing = self.config.render.views, self.config.render
        shapes, part = len(batch.rgb) // views, batch.part
        total = shapes * part.count  # drawn for the whole step, see Batch
        rows, mine = part.rows(views * total, views), part.rows(total)
        rng, first = batch.draws("fakes")
        z = rng.standard_normal((2, total, self.config.generator.network.z_dim), dtype=np.float32)
        cameras = sample_cameras(self.context.camera, views * total, rng)[rows]
        device = batch.rgb.device
        label = draw_labels(self.context, total, rng, device, mine)
        g = self.generator
        z_geo, z_tex = torch.from_numpy(z[:, mine]).to(device)
        codes = g.map(z_geo, z_tex, label=label)
        if first:
            g.track(codes, label)
        codes = self._mixed(codes, label, rng, z.shape, mine)
        planes = g.planes(codes)
        geometry = g.field(planes, codes)
        meshes = g.meshes(geometry)
        matrices = torch.from_numpy(cameras.world_to_clip()).float().to(device)
        images = render(
            meshes,
            matrices.reshape(views, shapes, 4, 4),
            lambda points: g.colors(planes, codes, points),
            self.size,
            supersample=drawing.supersample,
            color_samples=drawing.color_samples,
            position_gradient=drawing.position_gradient,
            normals=self.config.normals,
        )
        background = draw_background(self.background, views * total, rng, device, rows)
        seen = {
            "rgb": images.over(background, drawing.matte) * 2 - 1,
            "mask": images.alpha * 2 - 1,
        }
        if self.config.normals:
            seen["normal"] = images.normals(drawing.matte)
        judged = Judged(
            seen,
            torch.from_numpy(cameras.azimuth).float().to(device),
            torch.from_numpy(cameras.elevation).float().to(device),
            None if label is None else label.repeat(views, 1),  # images come view by view
            background * 2 - 1,
        )
        terms = geometry_terms(self.config.loss, geometry, g)
        return Fakes(judged, terms, field_figures(geometry.sdf, geometry.empty), meshes)

    def _mixed(
        self,
        codes: Codes,
        label: torch.Tensor | None,
        rng: np.random.Generator,
        shape: tuple[int, ...],
        mine: np.ndarray,
    ) -> Codes:
        """Rows of w mixed with those of other codes, drawn as ``shape``, if that is on."""
        share = self.config.style_mixing
        if not share:
            return codes
        cut_geo, cut_tex = (draw_cutoff(w.shape[1], share, rng) for w in codes)
        other = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)[:, mine])
        z_geo, z_tex = other.to(codes.geo.device)
        return mix_codes(codes, self.generator.map(z_geo, z_tex, label=label), cut_geo, cut_tex)

    def _fakes_of(self, batch: Batch, step: int) -> Fakes:
        """One forward pass serves both players: the weights do not change in between."""
        if self._fakes is None or self._fakes[0] is not batch or self._fakes[1] != step:
            self._fakes = (batch, step, self._generate(batch))
        return self._fakes[2]

    def _real(self, batch: Batch) -> Judged:
        return real_views(batch, self.context, self.background, normals=self.config.normals)

    def _augmented(self, views: Judged, batch: Batch) -> Judged:
        """As the discriminators see them, by a new drawing."""
        if self.augment is None:
            return views
        return views.augmented(self._transform(len(views.azimuth), batch))

    def _transform(self, count: int, batch: Batch) -> Transform | None:
        """A new drawing for the views of a part: drawn for the whole step."""
        if self.augment is None:
            return None
        total, views = count * batch.part.count, self.config.render.views
        rows = batch.part.rows(total, views)
        return self.augment.draw(total, self.size, batch.rng, rows)

    def _logits(self, *views: Judged) -> list[dict[str, torch.Tensor]]:
        """Logits ``[N]`` by kind for each of several sets of as many views, from one pass.

        Sets follow each other: groups of the minibatch deviation never mix real and fake.
        """
        codes, conditions = zip(*(v.condition(self.camera_code) for v in views), strict=True)
        code = torch.cat(codes)
        labels = {k: torch.cat([c[k] for c in conditions]) for k in conditions[0]}
        out: list[dict[str, torch.Tensor]] = [{} for _ in views]
        for kind, net in self.discriminators.items():
            images = torch.cat([v.images[kind] for v in views])
            bf16 = self.config.bf16_discriminator
            with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
                logits = net(images, code, **labels).float()
            for found, part in zip(out, logits.chunk(len(views)), strict=True):
                found[kind] = part
        return out

    def _d_loss(self, batch: Batch, step: int) -> tuple[torch.Tensor, Logs]:
        logs = {} if self.augment is None else self.augment.adapt(step)
        fakes = self._fakes_of(batch, step).views.detach()
        pairs = self.adversarial.pairs
        real, fake = self._logits(
            self._augmented(self._real(batch), batch), self._augmented(fakes, batch)
        )
        losses = [self.adversarial.discriminator(real[k], fake[k]) for k in self.discriminators]
        loss = torch.stack(losses).sum()
        for kind in self.discriminators:
            logs |= logit_figures(kind, real[kind], fake[kind], pairs=pairs)
        if self.augment is not None:
            self.augment.observe({k: real[k] - fake[k] if pairs else real[k] for k in real})
        return loss, {"loss/d": loss, **logs}

    def _r1_loss(self, batch: Batch, step: int) -> tuple[torch.Tensor, Logs]:
        config = self.config.loss
        progress = step * self.batch / (self.kimg * 1000)
        weights = gammas(config, self.size, self.batch, progress)
        parts = [("r1", self._real(batch))]
        if config.r2:
            parts.append(("r2", self._fakes_of(batch, step).views.detach()))
        noise = None
        if config.penalty.method == "finite_difference":
            seed = int(batch.rng.integers(2**62))
            noise = torch.Generator(batch.rgb.device).manual_seed(seed)
        total = torch.zeros((), device=batch.rgb.device)
        logs: Logs = {}
        for name, views in parts:
            for kind, score in self._scores(views, batch).items():
                value = penalty(score, views.images[kind], config.penalty, noise)
                total = total + 0.5 * weights[kind] * value
                logs[f"{name}/{kind}"] = value
                logs[f"r1/gamma_{kind}"] = torch.tensor(weights[kind])
        return total * config.r1_every, logs

    def _scores(
        self, views: Judged, batch: Batch
    ) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
        """The discriminators as functions of un-augmented images of ``views``."""
        transform = self._transform(len(views.azimuth), batch)

        def score(kind: str, images: torch.Tensor) -> torch.Tensor:
            seen = views._replace(images={kind: images}).augmented(transform)
            code, label = seen.condition(self.camera_code)
            return self.discriminators[kind](seen.images[kind], code, **label, full_precision=True)

        return {kind: partial(score, kind) for kind in self.discriminators}

    def _g_loss(self, batch: Batch, step: int) -> tuple[torch.Tensor, Logs]:
        fakes = self._fakes_of(batch, step)
        self._fakes = None
        g_loss = self.adversarial.generator
        with _frozen(*self.discriminators.values()):
            (fake,) = self._logits(self._augmented(fakes.views, batch))
            real: dict[str, torch.Tensor] = {}
            if self.adversarial.pairs:
                with torch.no_grad():
                    (real,) = self._logits(self._augmented(self._real(batch), batch))
            losses = [g_loss(fake[kind], real.get(kind)) for kind in self.discriminators]
            adversarial = torch.stack(losses).sum()
        loss = adversarial
        logs = {"loss/g": adversarial, **fakes.figures}
        for name, term in fakes.terms.items():
            loss = loss + term.weight * term.value
            logs[f"loss/{name}"] = term.value
        if step % self.config.loss.r1_every == 0:  # as lazily as R1: it leaves the GPU
            logs["pieces"] = mean_pieces(fakes.meshes)
        return loss, logs


def _decided(config: GeneratorConfig, context: DataContext) -> GeneratorConfig:
    """The generator's config with what was left to the dataset: ``mirror`` and the classes."""
    surface, network = config.surface, config.network
    if surface.mirror is None:
        surface = surface.model_copy(update={"mirror": context.symmetric})
    network = network.model_copy(update={"label_dim": len(context.labels)})
    return config.model_copy(update={"surface": surface, "network": network})


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
