"""The GET3D method: losses against closed forms, rendering, gradients to the geometry."""

import numpy as np
import pytest
import torch
from g3d.errors import ConfigError
from g3d.manifests.records import Get3dPrior
from g3d.renderers.cameras import orbit, sample_cameras
from g3d.trainer.config import TrainConfig, preset_config
from g3d.trainer.get3d.asset import GET3DAsset
from g3d.trainer.get3d.generator import Generator
from g3d.trainer.get3d.losses import ADVERSARIAL, gradient_penalty, sdf_sign_loss
from g3d.trainer.get3d.render import render
from g3d.trainer.isosurface.grid import bcc_grid
from g3d.trainer.isosurface.marching import MarchingTetrahedra
from g3d.trainer.method import Batch, DataContext, draw_background
from g3d.trainer.sampler import build_method

CONTEXT = DataContext(name="made", category="chair", extent=0.7, camera=Get3dPrior())


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def smoke_method():
    return build_method(preset_config("smoke"), CONTEXT)


def smoke_batch(count=8, size=16, seed=0):
    rng = np.random.default_rng(seed)
    cameras = sample_cameras(CONTEXT.camera, count, rng)
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        torch.rand(count, 3, size, size, generator=generator),
        torch.rand(count, 1, size, size, generator=generator),
        torch.from_numpy(cameras.azimuth).float(),
        torch.from_numpy(cameras.elevation).float(),
        rng,
    )


def analytic_sphere(radius, resolution=16, count=1):
    grid = bcc_grid(resolution)
    marching = MarchingTetrahedra(grid)
    sdf = radius - torch.from_numpy(grid.vertices).norm(dim=1)
    return marching, sdf.expand(count, -1).clone()


def test_losses_by_hand():
    zero, one = torch.zeros(1), torch.ones(1)
    plain, relative = ADVERSARIAL["non_saturating"], ADVERSARIAL["relativistic"]
    assert plain.generator(zero, None).item() == pytest.approx(np.log(2))
    expected = np.log1p(np.exp(-1)) + np.log(2)
    assert plain.discriminator(one, zero).item() == pytest.approx(expected)
    # Relative: only the difference counts, and the players swap the two.
    assert relative.discriminator(3 * one, 2 * one).item() == pytest.approx(np.log1p(np.exp(-1)))
    assert relative.generator(2 * one, 3 * one).item() == pytest.approx(np.log1p(np.exp(1)))


@pytest.mark.parametrize("adversarial", ["non_saturating", "relativistic"])
@pytest.mark.parametrize("r2", [False, True])
def test_phases_of_each_objective_move_only_their_player(adversarial, r2):
    loss = {"adversarial": adversarial, "r2": r2}
    method = build_method(preset_config("smoke", get3d={"loss": loss}), CONTEXT)
    batch = smoke_batch()
    for phase in method.phases():
        value, terms = phase.loss(batch, 0)
        value.backward()
        assert torch.isfinite(value)
        assert all(torch.isfinite(term).all() for term in terms.values())
        assert ("r2/mask" in terms) == (r2 and phase.name == "D_r1")
        theirs = {id(p) for p in phase.parameters}
        for net in method.nets().values():
            for p in net.parameters():
                if id(p) not in theirs:
                    assert p.grad is None
                p.grad = None


def test_r1_of_a_linear_discriminator():
    """D(x) = <a, x> has gradient a everywhere: R1 = |a|^2, and dR1/da = 2 a."""
    a = torch.randn(3, 4, 4, requires_grad=True)
    images = torch.randn(5, 3, 4, 4, requires_grad=True)
    penalty = gradient_penalty((images * a).sum(dim=(1, 2, 3)), images)
    assert penalty.item() == pytest.approx(a.square().sum().item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(penalty, a)
    assert torch.allclose(gradient, 2 * a, atol=1e-5)


def test_sign_loss_counts_crossed_edges_only():
    edges = torch.tensor([[0, 1], [1, 2], [0, 2]])
    sdf = torch.tensor([[2.0, 1.0, -3.0]])
    ends = [(1.0, 0), (-3.0, 1), (2.0, 0), (-3.0, 1)]  # (value, sign of the other end)
    bce = [np.log1p(np.exp(v)) if target == 0 else np.log1p(np.exp(-v)) for v, target in ends]
    expected = (bce[0] + bce[2]) / 2 + (bce[1] + bce[3]) / 2
    assert sdf_sign_loss(sdf, edges).item() == pytest.approx(expected, rel=1e-5)
    assert sdf_sign_loss(sdf.abs(), edges).item() == 0.0


def test_silhouette_of_a_sphere():
    """Coverage against the closed form: a sphere of radius r at distance d fills a disc of
    tangent r / sqrt(d^2 - r^2)."""
    marching, sdf = analytic_sphere(0.5, 24)
    camera = orbit(0.3, 0.4, 2.0, np.deg2rad(49.134))
    matrix = torch.from_numpy(camera.world_to_clip()).float()[None, None]
    images = render(marching(sdf), matrix, torch.ones_like, 32)
    tangent = 0.5 / np.sqrt(2.0**2 - 0.5**2) / np.tan(np.deg2rad(49.134) / 2)
    assert images.alpha.mean().item() == pytest.approx(np.pi * tangent**2 / 4, rel=0.02)
    covered = images.alpha[0, 0] > 0
    assert torch.allclose(images.rgb[0, :, covered], torch.ones(1))


def test_images_are_upright_and_ordered_by_view():
    """Colour = position: the top of the image is +Y, its right is +X for a camera on +Z."""
    marching, sdf = analytic_sphere(0.5, 12, count=2)
    cameras = orbit(np.array([0.0, np.pi / 2]), np.zeros(2), 2.0, 0.8)
    matrix = torch.from_numpy(cameras.world_to_clip()).float()[:, None].expand(2, 2, 4, 4)
    rgb = render(marching(sdf), matrix, lambda p: p + 0.5, 16, supersample=2, color_samples=1).rgb
    assert rgb.shape == (4, 3, 16, 16)
    front, side = rgb[0], rgb[2]
    assert front[1, 5, 8] > front[1, 10, 8]  # green = y grows upwards
    assert front[0, 8, 10] > front[0, 8, 5]  # red = x grows to the right
    assert front[2, 8, 8] > 0.9  # blue = z: the near side
    assert side[0, 8, 8] > 0.9  # the camera on +X sees +X
    assert side[2, 8, 5] > side[2, 8, 10]  # and +Z on its left
    assert torch.equal(rgb[0], rgb[1])


def test_silhouette_gradient_grows_the_shape():
    """d(coverage)/d(sdf) is positive in sum and of the right size.

    Raising the field by e moves the surface out by e: the disc's area grows by the closed form.
    Supersampling lets most of the gradient through (the antialias rule attenuates it).
    """
    marching, sdf = analytic_sphere(0.5, 8)
    sdf.requires_grad_()
    camera = orbit(0.3, 0.2, 2.0, 0.8)
    matrix = torch.from_numpy(camera.world_to_clip()).float()[None, None]
    area = render(marching(sdf), matrix, torch.ones_like, 32, supersample=8).alpha.mean()
    (gradient,) = torch.autograd.grad(area, sdf)
    radius = 0.5
    scale = 1 / np.tan(0.4) ** 2 * np.pi / 4
    derivative = scale * 2 * radius * 4 / (4 - radius**2) ** 2
    assert 0.3 * derivative < gradient.sum().item() < 1.2 * derivative


def test_rgb_gradient_does_not_reach_alpha_unless_asked():
    marching, sdf = analytic_sphere(0.5, 8)
    sdf.requires_grad_()
    matrix = torch.from_numpy(orbit(0.3, 0.2, 2.0, 0.8).world_to_clip()).float()[None, None]
    images = render(marching(sdf), matrix, lambda p: p * 0 + 0.5, 16)
    assert not images.over(1.0, "detached").requires_grad
    assert not images.over(1.0, "hard").requires_grad
    (gradient,) = torch.autograd.grad(images.over(1.0, "alpha").sum(), sdf)
    assert gradient.abs().sum() > 0


def test_mattes_differ_at_the_silhouette_only():
    marching, sdf = analytic_sphere(0.5, 8)
    matrix = torch.from_numpy(orbit(0.3, 0.2, 2.0, 0.8).world_to_clip()).float()[None, None]
    images = render(marching(sdf), matrix, torch.zeros_like, 32, supersample=4)
    soft, hard = images.over(1.0, "alpha"), images.over(1.0, "hard")
    assert set(hard.unique().tolist()) == {0.0, 1.0}
    edge = (images.alpha > 0.001) & (images.alpha < 0.999)
    assert edge.any()
    torch.testing.assert_close(soft[~edge.expand_as(soft)], hard[~edge.expand_as(hard)])
    over = images.over(torch.tensor([1.0, 0.5, 0.25]).reshape(1, 3, 1, 1), "alpha")
    torch.testing.assert_close(over[0, :, 0, 0], torch.tensor([1.0, 0.5, 0.25]))


def test_colours_move_the_surface_by_the_scale_that_is_asked_for():
    """Inside the silhouette only the positions of the queries depend on the field.

    Seen along -Z, the sphere x^2 + y^2 + z^2 = r^2 coloured by its own z has d(z)/d(r) = r / z.
    """
    marching, sdf = analytic_sphere(0.5, 24)
    matrix = torch.from_numpy(orbit(0.0, 0.0, 4.0, 0.05).world_to_clip()).float()[None, None]

    def middle(field, scale):
        images = render(marching(field), matrix, lambda p: p[..., 2:].expand(-1, -1, 3), 8,
                        position_gradient=scale)  # fmt: skip
        assert images.alpha.min() == 1  # the silhouette is out of sight
        return images.rgb[0, 0].mean()

    gradients = []
    for scale in (0.0, 0.5, 1.0):
        field = sdf.clone().requires_grad_()
        value = middle(field, scale)
        if not scale:
            assert not value.requires_grad
            continue
        (gradient,) = torch.autograd.grad(value, field)
        gradients.append(gradient)
    torch.testing.assert_close(gradients[0] * 2, gradients[1])
    assert gradients[1].sum().item() == pytest.approx(1.0, rel=0.03)  # r / z, near the middle
    step = 1e-3
    numeric = (middle(sdf + step, 0.0) - middle(sdf - step, 0.0)) / (2 * step)
    assert gradients[1].sum().item() == pytest.approx(numeric.item(), rel=0.01)


def test_random_backgrounds_are_drawn_for_every_image():
    colours = draw_background("random", 5, np.random.default_rng(0), "cpu")
    assert colours.shape == (5, 3, 1, 1)
    assert len(colours.unique()) == 15
    assert draw_background(0.25, 5, np.random.default_rng(0), "cpu") == 0.25
    config = preset_config("smoke", data={"background": "random", "mask": "hard"})
    method = build_method(config, CONTEXT)
    batch = smoke_batch()
    loss, _ = method.phases()[0].loss(batch, 0)
    assert torch.isfinite(loss)


def test_field_is_never_empty_and_always_closed():
    generator = Generator(preset_config("smoke").get3d.generator, 0.7)
    with torch.no_grad():
        generator.network.decoder.out.bias.fill_(-50.0)  # everything outside
    codes = generator.map(torch.randn(3, 8), torch.randn(3, 8))
    geometry = generator.field(generator.planes(codes), codes)
    assert geometry.empty.all()
    assert (geometry.sdf.amax(dim=1) > 0).all()
    assert (geometry.sdf[:, generator.surface.hull] < 0).all()
    meshes = generator.meshes(geometry)
    assert (meshes.face_ranges[:, 1] > 0).all()
    assert meshes.vertices.abs().max() <= generator.half_side * 1.2
    (gradient,) = torch.autograd.grad(
        meshes.vertices.square().sum(), generator.network.decoder.out.weight
    )
    assert gradient.isfinite().all()


def test_every_phase_moves_its_own_weights_and_no_others():
    method = smoke_method()
    for step, phase in enumerate([*method.phases()]):
        batch = smoke_batch()
        before = {
            name: [p.detach().clone() for p in net.parameters()]
            for name, net in method.nets().items()
        }
        phase.optimizer.zero_grad()
        loss, terms = phase.loss(batch, step)
        loss.backward()
        phase.optimizer.step()
        assert loss.isfinite()
        assert all(term.isfinite() for term in terms.values())
        owned = {id(p) for p in phase.parameters}
        for name, net in method.nets().items():
            moved = False
            for old, new in zip(before[name], net.parameters(), strict=True):
                if id(new) in owned:
                    moved = moved or not torch.equal(old, new)
                else:
                    assert torch.equal(old, new)
            assert moved == any(id(p) in owned for p in net.parameters())


def test_generator_gradient_reaches_every_weight():
    """From both discriminators to mapping, backbone and decoders."""
    method = smoke_method()
    phase = next(p for p in method.phases() if p.name == "G")
    phase.loss(smoke_batch(), 0)[0].backward()
    missing = [
        name
        for name, p in method.generator.named_parameters()
        if p.grad is None or not p.grad.abs().sum() > 0
    ]
    assert missing == []


def test_samples_are_functions_of_the_seed():
    method = smoke_method()
    one, again, other = (method.sample(method.generator, seed, 1.0) for seed in (3, 3, 4))
    assert np.array_equal(one.to_mesh().vertices, again.to_mesh().vertices)
    assert not np.array_equal(one.to_mesh().vertices, other.to_mesh().vertices)
    points = one.to_mesh().vertices[:50]
    assert np.array_equal(one.color(points), again.color(points))
    assert one.render(orbit(np.zeros(2), 0.1, 1.2, 0.8), 24).shape == (2, 24, 24, 4)


def test_truncation_brings_samples_together():
    method = smoke_method()
    for _ in range(200):
        method.generator.track(method.generator.map(torch.randn(32, 8), torch.randn(32, 8)))
    point = np.zeros((1, 3), np.float32)
    spread = [
        np.std([method.sample(method.generator, s, psi).color(point) for s in range(8)])
        for psi in (1.0, 0.3)
    ]
    assert spread[1] < spread[0]


def mirrored_generator():
    config = preset_config("smoke").get3d.generator
    surface = config.surface.model_copy(update={"mirror": True})
    return Generator(config.model_copy(update={"surface": surface}), 0.7)


def test_mirrored_shapes_are_symmetric_in_field_and_offset_and_free_in_colour():
    generator = mirrored_generator()
    codes = generator.map(torch.randn(2, 8), torch.randn(2, 8))
    planes = generator.planes(codes)
    geometry = generator.field(planes, codes)
    nodes = generator.surface.grid.vertices
    rows = {tuple(np.round(p, 5) + 0.0): i for i, p in enumerate(nodes)}
    flip = torch.tensor([rows[(-p[0] + 0.0, p[1], p[2])] for p in rows])
    assert torch.allclose(geometry.sdf, geometry.sdf[:, flip], atol=1e-5)
    mirrored = geometry.offsets[:, flip] * torch.tensor([-1.0, 1.0, 1.0])
    assert torch.allclose(geometry.offsets, mirrored, atol=1e-5)
    points = torch.rand(2, 20, 3) * 0.6 - 0.3
    opposite = points * torch.tensor([-1.0, 1.0, 1.0])
    colors = generator.colors(planes, codes, points)
    assert not torch.allclose(colors, generator.colors(planes, codes, opposite), atol=1e-3)
    free = Generator(preset_config("smoke").get3d.generator, 0.7)
    codes = free.map(torch.randn(2, 8), torch.randn(2, 8))
    field = free.field(free.planes(codes), codes).sdf
    assert not torch.allclose(field, field[:, flip], atol=1e-2)


@pytest.mark.parametrize(("share", "mirrored"), [(1.0, True), (0.5, False)])
def test_mirror_left_open_is_decided_by_the_dataset(share, mirrored):
    config = preset_config("smoke", get3d={"generator": {"surface": {"mirror": None}}})
    context = CONTEXT.model_copy(update={"mirror_share": share})
    assert build_method(config, context).generator.config.surface.mirror is mirrored


def test_neighbours_of_one_view_serve_all():
    from g3d.renderers import ops
    from g3d.trainer.get3d.render import _to_clip, _topology

    marching, sdf = analytic_sphere(0.5, 6, count=2)
    meshes = marching(sdf)
    matrices = torch.eye(4).expand(3, 2, 4, 4)
    _, triangles, _ = _to_clip(meshes, matrices)
    expected = ops.build_topology(triangles).opposite
    assert torch.equal(_topology(meshes, 3).opposite, expected)


SMALL = {"resolution": 16, "channel_base": 128, "channel_max": 16, "plane_channels": 4}
NETWORKS = {
    "compact": {"kind": "compact", "cube_weights": True},
    "shared": {"kind": "shared", "z_dim": 8, "w_dim": 8, "mapping_layers": 2, "hidden": 8,
               "features": 4, "cube_weights": True, "synthesis": SMALL},
    "separate": {"kind": "separate", "z_dim": 8, "w_dim": 8, "mapping_layers": 2, "hidden": 8,
                 "volume_hidden": 8, "features": 4, "synthesis": SMALL,
                 "volume": {"resolution": 8, "channel_base": 32, "channel_max": 8}},
}  # fmt: skip


def small_method(network, surface=None, discriminator=None, context=CONTEXT):
    base = preset_config("smoke").model_dump()["get3d"]
    inner = NETWORKS[network]
    if inner["kind"] == base["generator"]["network"]["kind"]:
        inner = base["generator"]["network"] | inner
    outer = {"network": inner, "surface": base["generator"]["surface"] | (surface or {})}
    get3d = base | {"generator": outer} | (discriminator or {})
    config = TrainConfig.model_validate(preset_config("smoke").model_dump() | {"get3d": get3d})
    return build_method(config, context)


@pytest.mark.parametrize(
    ("network", "extractor"),
    [("compact", "flexicubes"), ("shared", "dmtet"), ("shared", "flexicubes"),
     ("separate", "dmtet")],
)  # fmt: skip
def test_every_network_and_extractor_takes_a_step(network, extractor):
    method = small_method(network, {"extractor": extractor})
    batch = smoke_batch()
    before = [p.detach().clone() for p in method.generator.parameters()]
    for phase in method.phases():
        phase.optimizer.zero_grad(set_to_none=True)
        loss, logs = phase.loss(batch, 0)
        loss.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in phase.parameters)
        phase.optimizer.step()
    after = list(method.generator.parameters())
    moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert sum(moved) > 0.8 * len(moved)
    assert ("loss/deviation" in logs) == (extractor == "flexicubes")
    asset = method.sample(method.generator, 3, 0.7)
    mesh = asset.to_mesh()
    assert is_closed(mesh.faces)
    assert asset.color(mesh.vertices[:10]).shape == (10, 3)


def is_closed(faces):
    """Every edge is in two triangles, once each way."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    there = {tuple(edge) for edge in edges.tolist()}
    return len(there) == len(edges) and all((b, a) in there for a, b in there)


def test_mirrored_flexicubes_are_symmetric():
    method = small_method("shared", {"extractor": "flexicubes", "mirror": True})
    with torch.no_grad():  # weights far from one, so that they count
        for weight in method.generator.network.cube_mlp.parameters():
            weight.mul_(3.0)
    vertices = method.sample(method.generator, 0, 1.0).to_mesh().vertices
    flipped = vertices * np.array([-1, 1, 1], np.float32)
    order = [v[np.lexsort(np.round(v, 4).T)] for v in (vertices, flipped)]
    np.testing.assert_allclose(order[0], order[1], atol=2e-4)


@pytest.mark.parametrize("initial", ["ellipsoid", "box", "none"])
def test_training_starts_from_the_shape_that_is_asked_for(initial):
    method = small_method("compact", {"initial": initial, "gain": 0.0, "resolution": 12})
    mesh = method.sample(method.generator, 0, 1.0).to_mesh()
    size = np.ptp(mesh.vertices, axis=0) / CONTEXT.extent
    expected = {"ellipsoid": [0.72, 0.9, 0.72], "box": [0.576, 0.72, 0.576]}
    if initial in expected:
        np.testing.assert_allclose(size, expected[initial], rtol=0.08)
    else:
        assert method._fakes_of(smoke_batch(), 0).figures["empty"] == 0  # zero is no sign


@pytest.mark.parametrize(
    ("network", "surface", "message"),
    [("separate", {"mirror": True}, "mirror"), ("separate", {"extractor": "flexicubes"}, "cube")],
)
def test_what_does_not_go_together_is_refused(network, surface, message):
    with pytest.raises(ConfigError, match=message):
        small_method(network, surface)


@pytest.mark.parametrize("camera", ["periodic", "angles", "none"])
def test_stylegan_trunks_judge_too(camera):
    trunk = {"kind": "stylegan2", "channel_base": 64, "channel_max": 8, "camera": camera}
    method = small_method("compact", discriminator={"discriminator": trunk})
    batch = smoke_batch()
    for phase in method.phases():
        loss, _ = phase.loss(batch, 0)
        loss.backward()
        assert torch.isfinite(loss)


def test_classes_make_different_assets():
    context = CONTEXT.model_copy(update={"labels": ("chair", "mug")})
    generator = small_method("compact", context=context).generator
    meshes = [GET3DAsset(generator, 1, 1.0, label).to_mesh().vertices for label in (0, 1, 0)]
    assert np.array_equal(meshes[0], meshes[2])
    assert meshes[0].shape != meshes[1].shape or not np.allclose(meshes[0], meshes[1])
