"""Objectives beyond the first ones: penalties, schedules, terms, figures, normals, classes."""

import math

import numpy as np
import pytest
import torch
from g3d.errors import ConfigError
from g3d.manifests.records import Get3dPrior
from g3d.renderers.cameras import orbit, sample_cameras
from g3d.trainer.config import preset_config
from g3d.trainer.get3d.config import LossConfig, PenaltyConfig
from g3d.trainer.get3d.generator import Generator
from g3d.trainer.get3d.health import field_figures, logit_figures, mean_pieces
from g3d.trainer.get3d.judged import draw_cutoff, draw_labels
from g3d.trainer.get3d.losses import empty_shape_loss, geometry_terms, gradient_penalty
from g3d.trainer.get3d.penalty import finite_difference_penalty, gammas, penalty
from g3d.trainer.get3d.render import render, vertex_normals
from g3d.trainer.isosurface.grid import bcc_grid
from g3d.trainer.isosurface.marching import MarchingTetrahedra
from g3d.trainer.method import Batch, DataContext
from g3d.trainer.networks.discriminator import Discriminator, DiscriminatorConfig, camera_code
from g3d.trainer.sampler import build_method
from pydantic import ValidationError

CONTEXT = DataContext(name="made", category="chair", extent=0.7, camera=Get3dPrior())
LABELLED = CONTEXT.model_copy(update={"labels": ("chair", "car", "mug")})


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def smoke(context=CONTEXT, data=None, **get3d):
    return build_method(preset_config("smoke", get3d=get3d, data=data or {}), context)


def smoke_batch(seed=0, count=8, size=16, **extra):
    rng = np.random.default_rng(seed)
    cameras = sample_cameras(CONTEXT.camera, count, rng)
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        torch.rand(count, 3, size, size, generator=generator),
        torch.rand(count, 1, size, size, generator=generator),
        torch.from_numpy(cameras.azimuth).float(),
        torch.from_numpy(cameras.elevation).float(),
        rng,
        **extra,
    )


def some_normals(count=8, size=16):
    return torch.nn.functional.normalize(torch.randn(count, 3, size, size), dim=1)


def players_move_alone(method, batch):
    for phase in method.phases():
        value, terms = phase.loss(batch, 0)
        value.backward()
        assert torch.isfinite(value)
        assert all(torch.isfinite(term).all() for term in terms.values())
        theirs = {id(p) for p in phase.parameters}
        for net in method.nets().values():
            owned = [id(p) in theirs for p in net.parameters()]
            moved = [p.grad is not None for p in net.parameters()]
            assert not any(m and not o for m, o in zip(moved, owned, strict=True))
            assert any(moved) == any(owned)
            for p in net.parameters():
                p.grad = None


# Penalties


def test_finite_difference_is_exact_on_a_quadratic_of_one_pixel():
    """D(x) = a x^2 + b x: the penalty is (2 a x + b)^2, whatever the step and the sign of u."""
    x = torch.tensor([[[[0.3]]], [[[-0.7]]]], dtype=torch.float64)
    a = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    b = torch.tensor(-0.5, dtype=torch.float64, requires_grad=True)

    def score(images):
        return (a * images.square() + b * images).sum(dim=(1, 2, 3))

    noise = torch.Generator().manual_seed(1)
    found = finite_difference_penalty(score, x, 0.1, 1, noise)
    slope = 2 * 2.0 * x - 0.5
    assert found.item() == pytest.approx(slope.square().mean().item(), rel=1e-12)
    found.backward()
    assert a.grad.item() == pytest.approx((2 * slope * 2 * x).mean().item(), rel=1e-12)
    assert b.grad.item() == pytest.approx((2 * slope).mean().item(), rel=1e-12)


@pytest.mark.parametrize("curvature", [0.0, 1.0])
def test_finite_difference_is_unbiased_on_linear_and_quadratic_functions(curvature):
    """The mean over noises is the squared gradient norm, within its own error."""
    g = torch.Generator().manual_seed(2)
    linear = torch.randn(48, generator=g, dtype=torch.float64)
    square = torch.randn(48, 48, generator=g, dtype=torch.float64) * curvature
    images = torch.randn(2, 3, 4, 4, generator=g, dtype=torch.float64)

    def score(x):
        flat = x.flatten(1)
        return flat @ linear + ((flat @ square) * flat).sum(dim=1)

    exact = gradient_penalty(score(leaf := images.clone().requires_grad_()), leaf)
    many = images.repeat(2000, 1, 1, 1)
    noise = torch.Generator().manual_seed(3)
    found = torch.stack([finite_difference_penalty(score, many, 0.5, 1, noise) for _ in range(5)])
    # The variance of (u . g)^2 is below 2 |g|^4; 20000 noises.
    assert found.mean().item() == pytest.approx(exact.item(), rel=4 * math.sqrt(2 / 20000))
    assert found.std() > 0


def estimates(net, images, camera, count):
    noise = torch.Generator().manual_seed(4)
    with torch.no_grad():
        found = [
            finite_difference_penalty(lambda x: net(x, camera), images, 1e-4, 1, noise)
            for _ in range(count)
        ]
    return torch.stack(found)


@pytest.mark.parametrize("group_size", [1, 4])
def test_finite_difference_on_the_discriminator_itself(group_size):
    """Without groups it is R1; with them every logit's squared derivatives by all images."""
    net = Discriminator(DiscriminatorConfig(channels=(8, 8, 8), group_size=group_size), 3, 16)
    net = net.double()
    images = torch.rand(4, 3, 16, 16, dtype=torch.float64) * 2 - 1
    camera = camera_code(torch.randn(4), torch.randn(4)).double()
    leaf = images.clone().requires_grad_()
    logits = net(leaf, camera)
    rows = [torch.autograd.grad(one, leaf, retain_graph=True)[0].square().sum() for one in logits]
    expected = torch.stack(rows).mean()
    if group_size == 1:
        torch.testing.assert_close(expected, gradient_penalty(logits, leaf).detach())
    found = estimates(net, images, camera, 400)
    error = found.std() / math.sqrt(len(found))
    assert (found.mean() - expected).abs() < 4 * error
    assert error < 0.05 * expected


def test_more_probes_vary_less():
    images = torch.rand(2, 1, 4, 4)
    weight = torch.randn(16)
    noise = torch.Generator().manual_seed(5)

    def spread(probes):
        found = [
            finite_difference_penalty(lambda x: x.flatten(1) @ weight, images, 0.1, probes, noise)
            for _ in range(300)
        ]
        return torch.stack(found).std()

    assert 0.3 < spread(4) / spread(1) < 0.7  # 1 / 2


def test_penalty_by_config():
    images = torch.rand(2, 1, 4, 4)
    weight = torch.randn(16, requires_grad=True)

    def score(x):
        return x.flatten(1) @ weight

    exact = penalty(score, images, PenaltyConfig(), None)
    torch.testing.assert_close(exact, weight.square().sum())
    quick = PenaltyConfig(method="finite_difference", probes=64, sigma=0.1)
    found = penalty(score, images, quick, torch.Generator().manual_seed(0))
    assert found.item() == pytest.approx(exact.item(), rel=0.5)
    assert found.requires_grad


@pytest.mark.parametrize("r2", [False, True])
def test_finite_difference_in_the_method(r2):
    loss = {"penalty": {"method": "finite_difference", "probes": 2}, "r2": r2}
    players_move_alone(smoke(loss=loss), smoke_batch())
    values = [smoke(loss=loss).phases()[1].loss(smoke_batch(), 0)[0] for _ in range(2)]
    assert torch.equal(*values)  # the noise is the step's own


# Weights of R1


def test_gammas():
    config = LossConfig(r1_gamma=0.5)
    assert gammas(config, 32, 8) == {"rgb": 0.5, "mask": 0.5, "normal": 0.5}
    auto = LossConfig(r1_gamma="auto", r1_mask_scale=4.0)
    found = gammas(auto, 128, 32)
    assert found["rgb"] == pytest.approx(0.0002 * 128 * 128 / 32)
    assert found["mask"] == pytest.approx(4 * found["rgb"])
    given = LossConfig(r1_gamma="auto", r1_gamma_mask=3.0, r1_gamma_normal=2.0)
    assert gammas(given, 64, 8)["mask"] == 3.0
    assert gammas(given, 64, 8)["normal"] == 2.0


@pytest.mark.parametrize(("schedule", "quarter"), [("linear", 0.75), ("cosine", None)])
def test_gamma_moves_to_its_final_value(schedule, quarter):
    config = LossConfig(r1_gamma=10.0, r1_gamma_mask=40.0, r1_gamma_final=1.0,
                        r1_schedule=schedule, r1_final_from=0.8)  # fmt: skip
    path = [gammas(config, 32, 8, x) for x in np.linspace(0, 1, 21)]
    rgb = np.array([step["rgb"] for step in path])
    assert rgb[0] == 10.0
    assert rgb[16:] == pytest.approx(np.ones(5))
    assert (np.diff(rgb) <= 0).all()
    assert [step["mask"] for step in path] == pytest.approx(4 * rgb)
    share = 0.5 + 0.5 * math.cos(math.pi / 4) if quarter is None else quarter
    assert rgb[4] == pytest.approx(1 + 9 * share)


def test_gamma_in_the_method_follows_the_run():
    """`auto` knows the images of a step over all workers; progress is that of the run."""
    loss = {"r1_gamma": "auto", "r1_gamma_final": 0.0, "r1_schedule": "linear"}
    method = smoke(loss=loss)
    phase = method.phases()[1]
    (start, logs), (half, later) = (phase.loss(smoke_batch(), step) for step in (0, 10))
    assert logs["r1/gamma_rgb"].item() == pytest.approx(0.0002 * 256 / 8)
    assert later["r1/gamma_rgb"].item() == pytest.approx(0.0001 * 256 / 8)  # 80 of 160 images
    assert start.item() == pytest.approx(2 * half.item(), rel=1e-5)
    with pytest.raises(ValidationError, match="r1_gamma"):
        LossConfig(r1_gamma=0.0, r1_gamma_final=1.0)


# Relativistic loss against a reference written out in float64


def softplus(x):
    return np.logaddexp(0.0, np.asarray(x, np.float64))


def double_logits(method, kind, views):
    net = method.discriminators[kind].double()
    images = views.images[kind].detach().double().requires_grad_()
    logits = net(images, camera_code(views.azimuth, views.elevation).double())
    return logits, images


def test_r3gan_against_its_formula():
    """Huang et al. 2024: D minimises f(D(fake) - D(real)) + gamma/2 (R1 + R2), G f(D(real) -
    D(fake)) with f = softplus; row i goes with row i."""
    method = smoke(loss={"adversarial": "relativistic", "r2": True, "r1_every": 1, "r1_gamma": 0.7,
                         "r1_gamma_mask": 0.3, "sdf_weight": 0.0})  # fmt: skip
    batch = smoke_batch()
    fakes = method._fakes_of(batch, 0).views
    real = method._real(batch)
    d_phase, r_phase, g_phase = method.phases()
    found_d, found_r = d_phase.loss(batch, 0)[0].item(), r_phase.loss(batch, 0)[0].item()
    found_g, logs = g_phase.loss(batch, 0)
    d_loss = g_loss = penalties = shuffled = 0.0
    for kind, gamma in (("rgb", 0.7), ("mask", 0.3)):
        (real_logits, real_leaf), (fake_logits, fake_leaf) = (
            double_logits(method, kind, views) for views in (real, fakes)
        )
        difference = (fake_logits - real_logits).detach().numpy()
        d_loss += softplus(difference).mean()
        g_loss += softplus(-difference).mean()
        shuffled += softplus((fake_logits.roll(1) - real_logits).detach().numpy()).mean()
        for logits, leaf in ((real_logits, real_leaf), (fake_logits, fake_leaf)):
            (gradient,) = torch.autograd.grad(logits.sum(), leaf)
            penalties += 0.5 * gamma * gradient.square().sum(dim=(1, 2, 3)).mean().item()
    assert found_d == pytest.approx(d_loss, rel=1e-5)
    assert found_r == pytest.approx(penalties, rel=1e-4)
    assert logs["loss/g"].item() == pytest.approx(g_loss, rel=1e-5)
    assert found_g.item() == pytest.approx(g_loss, rel=1e-5)
    assert abs(shuffled - d_loss) > 1e-5 * d_loss  # the order of the pairs was tested


# Style mixing


def test_cutoffs():
    rng = np.random.default_rng(0)
    drawn = np.array([draw_cutoff(6, 0.9, rng) for _ in range(4000)])
    assert set(drawn) == {1, 2, 3, 4, 5, 6}
    assert (drawn == 6).mean() == pytest.approx(0.1, abs=0.02)
    assert np.bincount(drawn)[1:6] / 3600 == pytest.approx(np.full(5, 0.2), abs=0.03)
    assert {draw_cutoff(6, 0.0, rng) for _ in range(50)} == {6}
    assert draw_cutoff(1, 1.0, rng) == 1


def test_mixed_steps_differ_and_track_the_first_code_only(monkeypatch):
    plain, mixed = smoke(), smoke(style_mixing=1.0)
    rows = []
    original = Generator.planes

    def planes(self, codes):
        rows.append(codes)
        return original(self, codes)

    monkeypatch.setattr(Generator, "planes", planes)
    for method in (plain, mixed):
        method._fakes_of(smoke_batch(), 0)
    for before, after in zip(*rows, strict=True):
        same = (before == after).all(dim=2)
        assert same[:, 0].all()
        assert not same[:, -1].any()
        # One cutoff for the batch: rows change once, in all samples at the same place.
        assert (same == same[:1]).all()
        assert (same[0].int().diff() != 0).sum() == 1
    means = [m.generator.network.mapping_geo.w_avg for m in (plain, mixed)]
    assert torch.equal(*means)
    players_move_alone(mixed, smoke_batch(1))


# Terms of the geometry


def test_empty_shape_loss_by_hand():
    sdf = torch.tensor([[-1.0, -3.0], [5.0, -5.0], [-2.0, -4.0]])
    assert empty_shape_loss(sdf, torch.tensor([True, False, True])).item() == pytest.approx(2.5)
    assert empty_shape_loss(sdf, torch.tensor([False] * 3)).item() == 0.0


def test_empty_shapes_are_pulled_towards_zero():
    method = smoke(loss={"empty_weight": 1.0})
    with torch.no_grad():
        method.generator.network.decoder.out.bias[0] = -50.0
    fakes = method._fakes_of(smoke_batch(), 0)
    assert fakes.figures["empty"] == 1
    term = fakes.terms["empty_shape"]
    inner = ~method.generator.surface.hull
    raw = method.generator.surface.base[inner] - 0.9 * 50
    assert term.value.item() == pytest.approx(raw.abs().mean().item(), rel=0.05)
    (gradient,) = torch.autograd.grad(term.value, method.generator.network.decoder.out.bias)
    assert gradient[0] == pytest.approx(-0.9)  # raising the bias lowers the loss


def test_extractor_terms_are_weighted_by_name():
    generator = Generator(preset_config("smoke").get3d.generator, 0.7)
    codes = generator.map(torch.randn(2, 8), torch.randn(2, 8))
    field = generator.field(generator.planes(codes), codes)
    assert dict(field.regularisers) == {}
    geometry = field._replace(regularisers={"deviation": torch.tensor(2.0)})
    terms = geometry_terms(LossConfig(regularisers={"deviation": 0.25}), geometry, generator)
    assert terms["deviation"] == (0.25, torch.tensor(2.0))
    assert terms["sdf"].weight == 0.01
    with pytest.raises(ConfigError, match="wobble"):
        geometry_terms(
            LossConfig(), field._replace(regularisers={"wobble": torch.tensor(0.0)}), generator
        )


def test_extractor_terms_enter_the_loss(monkeypatch):
    original = Generator.field
    found = {}
    for extra in (0.0, 3.0):
        monkeypatch.setattr(
            Generator, "field", lambda self, *given, extra=extra: original(self, *given)._replace(
                regularisers={"weights": torch.tensor(extra)}
            ),
        )  # fmt: skip
        loss, logs = smoke().phases()[2].loss(smoke_batch(), 0)
        found[extra] = loss.item()
        assert logs["loss/weights"] == extra
    assert found[3.0] - found[0.0] == pytest.approx(0.3, rel=1e-3)


# Figures


def test_logit_figures():
    real, fake = torch.tensor([2.0, 1.0, -1.0, 4.0]), torch.tensor([-1.0, 3.0, -2.0, -2.0])
    alone = logit_figures("rgb", real, fake, pairs=False)
    assert alone["accuracy/rgb"].item() == pytest.approx(6 / 8)
    assert alone["logits/real_rgb"].item() == 1.5
    assert alone["logits_std/fake_rgb"].item() == pytest.approx(np.std(fake.numpy()))
    paired = logit_figures("rgb", real, fake, pairs=True)
    assert paired["accuracy/rgb"].item() == pytest.approx(3 / 4)


def test_field_figures_and_pieces():
    grid = bcc_grid(12)
    points = torch.from_numpy(grid.vertices)
    one = 0.3 - (points - torch.tensor([0.4, 0.0, 0.0])).norm(dim=1)
    two = torch.maximum(one, 0.3 - (points + torch.tensor([0.4, 0.0, 0.0])).norm(dim=1))
    sdf = torch.stack([one, two])
    assert mean_pieces(MarchingTetrahedra(grid)(sdf)).item() == 1.5
    figures = field_figures(sdf, torch.tensor([False, True]))
    assert figures["empty"] == 0.5
    ball = np.pi * 0.3**3 * 4 / 3 * 2 * 6**3 / len(points)  # two nodes in a cell of side 1 / 6
    assert figures["sdf/inside"].item() == pytest.approx(1.5 * ball, rel=0.15)


def test_a_step_logs_its_health():
    method = smoke(loss={"r2": True}, augment={"mode": "adaptive"})
    logs = {}
    for phase in method.phases():
        logs |= phase.loss(smoke_batch(), 0)[1]
    for kind in ("rgb", "mask"):
        wanted = {f"logits/real_{kind}", f"logits_std/fake_{kind}", f"accuracy/{kind}",
                  f"r1/{kind}", f"r2/{kind}", f"r1/gamma_{kind}"}  # fmt: skip
        assert wanted <= logs.keys()
    assert {"empty", "sdf/inside", "pieces", "augment/p", "augment/rt"} <= logs.keys()
    assert all(value.numel() == 1 for value in logs.values())


# Normals


def sphere(resolution=20, radius=0.497):  # 0.5 would pass through nodes: triangles of no area
    grid = bcc_grid(resolution)
    sdf = radius - torch.from_numpy(grid.vertices).norm(dim=1)
    return MarchingTetrahedra(grid), sdf[None].clone()


def test_normals_of_a_sphere_are_its_positions():
    marching, sdf = sphere()
    meshes = marching(sdf)
    found = vertex_normals(meshes.vertices, meshes.faces)
    outward = torch.nn.functional.normalize(meshes.vertices, dim=1)
    assert (found * outward).sum(dim=1).min() > 0.98
    camera = orbit(0.8, 0.5, 2.0, 0.8)
    matrix = torch.from_numpy(camera.world_to_clip()).float()[None, None]
    images = render(meshes, matrix, lambda p: p, 24, supersample=2, color_samples=2, normals=True)
    covered = images.hard[:, 0] > 0
    normal = images.normal.permute(0, 2, 3, 1)
    assert torch.allclose(normal[covered].norm(dim=1), torch.ones(1), atol=1e-5)
    assert (normal[~covered] == 0).all()
    inside = images.alpha[:, 0] == 1
    position = torch.nn.functional.normalize(images.rgb.permute(0, 2, 3, 1)[inside], dim=1)
    assert (normal[inside] * position).sum(dim=1).min() > 0.98  # world space, whatever the camera
    eye = torch.from_numpy(camera.eye.reshape(3)).float()
    assert (normal[0, 12, 12] @ torch.nn.functional.normalize(eye, dim=0)) > 0.98


def test_normals_are_differentiable_in_the_field():
    """Against differences, inside the silhouette where no sample changes its triangle's side."""
    grid = bcc_grid(6)
    points = torch.from_numpy(grid.vertices).double()
    marching = MarchingTetrahedra(grid)
    sdf = (0.6 - (points * torch.tensor([1.0, 0.8, 1.1])).norm(dim=1))[None].float()
    matrix = torch.from_numpy(orbit(0.3, 0.2, 6.0, 0.05).world_to_clip()).float()[None, None]
    direction = torch.randn(sdf.shape, generator=torch.Generator().manual_seed(1)) * 0.1
    weight = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(2))

    def value(field):
        images = render(marching(field), matrix, torch.ones_like, 6, supersample=8,
                        color_samples=1, normals=True)  # fmt: skip
        assert images.alpha.min() == 1
        return (images.normal * weight).sum()

    field = sdf.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(field), field)
    step = 2e-3
    numeric = (value(sdf + step * direction) - value(sdf - step * direction)) / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(numeric.item(), rel=0.02)


@pytest.mark.parametrize("matte", ["alpha", "detached", "hard"])
def test_a_third_discriminator_sees_normals(matte):
    method = smoke(normals=True, loss={"r2": True}, render={"matte": matte},
                   augment={"mode": "fixed", "p": 0.5})  # fmt: skip
    assert method.nets()["d_normal"].stem.weight.shape[1] == 3
    batch = smoke_batch(normal=some_normals())
    players_move_alone(method, batch)


def test_the_discriminator_of_normals_moves_the_field():
    method = smoke(normals=True, render={"matte": "hard"})
    fakes = method._fakes_of(smoke_batch(normal=some_normals()), 0).views
    logits = method._logits(fakes)[0]["normal"]
    (gradient,) = torch.autograd.grad(logits.sum(), method.generator.network.decoder.out.weight)
    assert gradient[0].abs().sum() > 0  # the row of the distances


def test_normals_must_be_in_the_data():
    with pytest.raises(ConfigError, match="no normal maps"):
        smoke(normals=True).phases()[0].loss(smoke_batch(), 0)


# Classes


def test_labels_are_drawn_as_often_as_in_the_data():
    rng = np.random.default_rng(0)
    assert draw_labels(CONTEXT, 4, rng, torch.device("cpu")) is None
    even = draw_labels(LABELLED, 6000, rng, torch.device("cpu"))
    assert even.shape == (6000, 3)
    assert (even.sum(dim=1) == 1).all()
    assert even.mean(dim=0).tolist() == pytest.approx([1 / 3] * 3, abs=0.03)
    some = np.array([1, 4])
    drawn = [
        draw_labels(LABELLED, 6, np.random.default_rng(1), torch.device("cpu"), rows)
        for rows in (None, some)
    ]
    assert torch.equal(drawn[0][some], drawn[1])
    uneven = LABELLED.model_copy(update={"label_shares": (0.6, 0.3, 0.1)})
    shares = draw_labels(uneven, 6000, rng, torch.device("cpu")).mean(dim=0)
    assert shares.tolist() == pytest.approx([0.6, 0.3, 0.1], abs=0.03)


class Judge(torch.nn.Module):
    """A discriminator, written down when it is called."""

    def __init__(self, net):
        super().__init__()
        self.net, self.calls = net, []

    def forward(self, images, camera, label, **more):
        self.calls.append((images, camera, label))
        return self.net(images, camera, label, **more)


def test_classes_reach_all_networks(monkeypatch):
    """Fakes bring the classes of their shapes, view by view; reals their own."""
    method = smoke(LABELLED, loss={"r2": True, "adversarial": "relativistic"}, style_mixing=1.0)
    mapped, tracked = [], []
    original = Generator.map

    def map_with_label(self, z_geo, z_tex, psi=1.0, label=None):
        mapped.append(label)
        return original(self, z_geo, z_tex, psi, label)

    monkeypatch.setattr(Generator, "map", map_with_label)
    network = method.generator.network
    for net in (network.mapping_geo, network.mapping_tex):
        monkeypatch.setattr(net, "track", lambda w, label: tracked.append(label))
    method.discriminators = {kind: Judge(net) for kind, net in method.discriminators.items()}
    label = torch.tensor([0, 1, 2, 2, 1, 0, 0, 1])
    batch = smoke_batch(label=label)
    players_move_alone(method, batch)
    shapes = mapped[0]
    assert len(shapes) == 4  # of 8 images, 2 views each
    assert all(torch.equal(other, shapes) for other in [*mapped, *tracked])
    assert len(tracked) == 2
    assert len(mapped) == 2  # the mixed-in codes are of the same classes
    reals, fakes = torch.nn.functional.one_hot(label).float(), shapes.repeat(2, 1)
    for judge in method.discriminators.values():
        passes = [call[2] for call in judge.calls]
        assert torch.equal(passes[0], torch.cat([reals, fakes]))
        expected = [reals, fakes, fakes, reals]  # R1, R2, then G and the reals it is paired with
        assert all(torch.equal(a, b) for a, b in zip(passes[1:], expected, strict=True))


def test_views_without_a_class_are_refused():
    with pytest.raises(ConfigError, match="no class"):
        smoke(LABELLED)._real(smoke_batch())


def test_random_backgrounds_go_with_augmentation_and_normals():
    method = smoke(
        data={"background": "random"}, normals=True, augment={"mode": "adaptive", "p": 0.7}
    )
    players_move_alone(method, smoke_batch(normal=some_normals()))
