"""The networks of the paper's size: parameters, channels, rows of w, evaluation, precision."""

import math

import pytest
import torch
import torch.nn.functional as F
from g3d.trainer.isosurface.grid import bcc_grid
from g3d.trainer.networks.compact import CompactConfig, CompactNetwork
from g3d.trainer.networks.conditioning import CAMERA_CODES
from g3d.trainer.networks.discriminator import Discriminator, DiscriminatorConfig
from g3d.trainer.networks.field import CORNERS, Lattices
from g3d.trainer.networks.layers import lrelu, minibatch_stddev
from g3d.trainer.networks.mapping import mix_codes
from g3d.trainer.networks.separate import SeparateConfig, SeparateNetwork
from g3d.trainer.networks.shared import SharedConfig, SharedNetwork
from g3d.trainer.networks.sizes import (
    activation_bytes,
    count_parameters,
    parameter_table,
    saved_bytes,
)
from g3d.trainer.networks.synthesis import PAPER_SYNTHESIS, PlaneSynthesis, Synthesis
from g3d.trainer.networks.trunk import Trunk, TrunkConfig
from g3d.trainer.networks.volume import VolumeConfig, VolumeLevel, position_code

SMALL = PAPER_SYNTHESIS.model_copy(
    update={"resolution": 16, "channel_base": 64, "channel_max": 8, "plane_channels": 4}
)
SHARED = SharedConfig(
    z_dim=6, w_dim=6, mapping_layers=2, synthesis=SMALL, hidden=8, cube_weights=True
)
SEPARATE = SeparateConfig(
    z_dim=6,
    w_dim=6,
    mapping_layers=2,
    synthesis=SMALL,
    hidden=8,
    volume=VolumeConfig(resolution=8, channel_max=8),
    volume_hidden=8,
)
COMPACT = CompactConfig(z_dim=6, w_dim=6, synthesis=SMALL, hidden=8)
GRID = bcc_grid(3)
TETS, CUBES = Lattices.of_tets(GRID), Lattices.of_cubes(3)
BUILD = {
    "shared": lambda: SharedNetwork(SHARED),
    "separate": lambda: SeparateNetwork(SEPARATE),
    "compact": lambda: CompactNetwork(COMPACT),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(params=list(BUILD))
def net(request):
    return BUILD[request.param]()


def codes_of(net, batch=2):
    return net.map(torch.randn(batch, 6), torch.randn(batch, 6))


def millions(net):
    return sum(p.numel() for p in net.parameters()) / 1e6


def test_shared_generator_has_the_papers_size():
    with torch.device("meta"):
        net = SharedNetwork(SharedConfig())
        with_weights = SharedNetwork(SharedConfig(cube_weights=True))
    assert millions(net) == pytest.approx(34.3, abs=0.05)
    assert millions(net.synthesis) == pytest.approx(30.0, abs=0.05)
    mlps = millions(net.sdf_mlp) + millions(net.offset_mlp) + millions(net.texture.mlp)
    assert mlps == pytest.approx(0.10, abs=0.005)
    assert millions(net.texture.to_rgb) == pytest.approx(0.008, abs=0.0005)
    assert millions(net.mapping_geo) + millions(net.mapping_tex) == pytest.approx(4.20, abs=0.005)
    assert millions(with_weights) - millions(net) == pytest.approx(0.16, abs=0.005)
    assert (net.num_ws_geo, net.num_ws_tex) == (22, 9)
    assert (net.synthesis.num_ws_geo, net.synthesis.num_ws_tex) == (20, 7)


def test_separate_generator_has_the_papers_size():
    with torch.device("meta"):
        net = SeparateNetwork(SeparateConfig())
    assert millions(net) == pytest.approx(53.5, abs=0.05)
    assert millions(net.sdf_volume) + millions(net.sdf_mlp) == pytest.approx(8.36, abs=0.005)
    assert millions(net.offset_volume) + millions(net.offset_mlp) == pytest.approx(8.16, abs=0.005)
    assert millions(net.synthesis) + millions(net.texture.mlp) == pytest.approx(32.73, abs=0.005)
    assert millions(net.mapping_geo) + millions(net.mapping_tex) == pytest.approx(4.20, abs=0.005)
    assert (net.num_ws_geo, net.num_ws_tex) == (11, 22)
    assert (net.sdf_volume.rows, net.synthesis.rows) == (7, 20)


@pytest.mark.parametrize(("channels", "expected"), [(3, 30.17), (1, 30.17)])
def test_trunk_has_the_papers_size(channels, expected):
    with torch.device("meta"):
        net = Trunk(TrunkConfig(camera="angles"), channels, 1024)
    assert millions(net) == pytest.approx(expected, abs=0.01)
    widths = [block.conv.weight.shape[0] for block in net.blocks]
    assert widths == [32, 64, 128, 256, 512, 512, 512, 512]
    assert net.final.weight.shape[:2] == (512, 513)
    assert net.features.weight.shape == (512, 8192)
    assert net.condition.embed.weight.shape == (512, 14)


def test_channel_tables():
    levels = PAPER_SYNTHESIS.levels
    assert levels == [4, 8, 16, 32, 64, 128, 256]
    assert [PAPER_SYNTHESIS.channels(r) for r in levels] == [512, 512, 512, 512, 512, 256, 128]
    volume = VolumeConfig()
    assert [volume.channels(r) for r in volume.levels] == [256, 256, 128, 64]
    with torch.device("meta"):
        synthesis = Synthesis(PAPER_SYNTHESIS, 512)
        planes = PlaneSynthesis(PAPER_SYNTHESIS, 1024)
    for level, r in zip(synthesis.levels, levels, strict=True):
        shape = (96, PAPER_SYNTHESIS.channels(r), 1, 1)
        assert level.to_geometry.weight.shape == level.to_texture.weight.shape == shape
    assert planes.levels[-1].to_planes.style.weight.shape == (128, 1024)


def changed(a, b):
    return not torch.allclose(a, b, rtol=1e-4, atol=1e-6)


def outputs(net, codes):
    features = net.planes(codes)
    points = torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1
    values = net.geometry(features, codes, CUBES)
    out = {"sdf": values.sdf, "offsets": values.offsets, "rgb": net.colors(features, codes, points)}
    if values.weights is not None:
        out["weights"] = values.weights
    return out


def affected(net, codes, stream, row):
    """Names of the outputs that one row of w changes."""
    before = outputs(net, codes)
    w = getattr(codes, stream).clone()
    w[:, row] += torch.randn_like(w[:, row])
    after = outputs(net, codes._replace(**{stream: w}))
    return {name for name in before if changed(before[name], after[name])}


def test_rows_of_the_shared_generator():
    """Small: levels 4, 8, 16, so 2 + 3 + 3 backbone rows; a head of the texture for each."""
    net = BUILD["shared"]().double()
    codes = net.map(*torch.randn(2, 2, 6).double())
    assert (net.num_ws_geo, net.num_ws_tex) == (10, 5)
    geometry = {"sdf", "offsets", "weights"}
    heads = {1, 4, 7}
    for row in range(8):
        expected = geometry if row in heads else geometry | {"rgb"}
        assert affected(net, codes, "geo", row) == expected, row
    for row in (8, 9):
        assert affected(net, codes, "geo", row) == geometry, row
    for row in range(5):
        assert affected(net, codes, "tex", row) == {"rgb"}, row


def test_rows_of_the_separate_generator():
    """Small: 3 convolution rows, 4 of the distances' MLP, 3 of them the offsets' too."""
    net = BUILD["separate"]().double()
    codes = net.map(*torch.randn(2, 2, 6).double())
    assert (net.num_ws_geo, net.num_ws_tex) == (7, 10)
    both = {"sdf", "offsets", "rgb"}  # the geometry code reaches the texture, row by row
    for row in range(7):
        assert affected(net, codes, "geo", row) == (both if row < 6 else both - {"offsets"}), row
    for row in range(10):
        assert affected(net, codes, "tex", row) == {"rgb"}, row


def test_separate_texture_sends_no_gradient_to_the_geometry_code():
    for detach in (True, False):
        config = SEPARATE.model_copy(update={"detach_geometry_code": detach})
        net = SeparateNetwork(config)
        codes = codes_of(net)
        net.colors(net.planes(codes), codes, torch.rand(2, 5, 3)).sum().backward()
        assert (net.mapping_geo.layers[0].weight.grad is None) == detach
        assert net.mapping_tex.layers[0].weight.grad.abs().sum() > 0


def test_lattices_equal_points(net):
    net = net.double()
    codes = net.map(*torch.randn(2, 2, 6).double())
    features = net.planes(codes)
    for lattices in (TETS, CUBES):
        points = lattices.points.double()
        assert len(points) == len(lattices)
        fast, slow = (net.geometry(features, codes, where) for where in (lattices, points))
        assert fast.sdf.shape == (2, len(lattices))
        assert fast.offsets.shape == (2, len(lattices), 3)
        assert torch.allclose(fast.sdf, slow.sdf, atol=1e-6)
        assert torch.allclose(fast.offsets, slow.offsets, atol=1e-6)
        assert torch.equal(net.sdf(features, codes, lattices), fast.sdf)
        assert torch.equal(net.offsets(features, codes, lattices), fast.offsets)
        # Points of each sample: only the second sees other nodes.
        own = torch.stack([points, points.flip(0)])
        assert torch.allclose(net.sdf(features, codes, own)[1].flip(0), slow.sdf[1], atol=1e-9)
    assert torch.allclose(TETS.points, torch.from_numpy(GRID.vertices), atol=1e-6)


def test_cube_weights_equal_the_joined_corners():
    net = BUILD["shared"]().double()
    codes = net.map(*torch.randn(2, 2, 6).double())
    features = net.planes(codes)
    axis = torch.linspace(-1, 1, 4, dtype=torch.float64)
    index = torch.cartesian_prod(*[torch.arange(3)] * 3)[:, None] + torch.tensor(CORNERS)
    corners = axis[index]  # [27, 8, 3]
    fast = net.cube_weights(features, codes, CUBES)
    assert fast.shape == (2, 27, 21)
    assert torch.allclose(fast, net.cube_weights(features, codes, corners), atol=1e-9)
    # By hand, for one cube of the second sample.
    planes, rows = features.geometry[1:], codes.geo[1:, -2:]
    from g3d.trainer.networks.triplane import sample_points

    joined = sample_points(planes, corners[None, 5])[0].reshape(-1, 1)
    expected = 0.1 * net.cube_mlp(joined[None], rows)[0, :, 0]
    assert torch.allclose(fast[1, 5], expected, atol=1e-9)
    some = net.cube_weights(features, codes, corners[None, 5:7].expand(2, -1, -1, -1))
    assert torch.allclose(some, fast[:, 5:7], atol=1e-9)


def test_cube_weights_are_refused_where_there_are_none():
    corners = torch.rand(2, 5, 8, 3) * 2 - 1
    for name, way_out in (("separate", "shared"), ("compact", "cube_weights: true")):
        net = BUILD[name]()
        codes = codes_of(net)
        with pytest.raises(ValueError, match=way_out):
            net.cube_weights(net.planes(codes), codes, corners)
    net = SharedNetwork(SHARED.model_copy(update={"cube_weights": False}))
    codes = codes_of(net)
    features = net.planes(codes)
    assert net.geometry(features, codes, CUBES).weights is None
    with pytest.raises(ValueError, match="cube_weights"):
        net.cube_weights(features, codes, CUBES)


def test_compact_weights_of_a_cube_come_from_its_corners():
    net = CompactNetwork(COMPACT.model_copy(update={"cube_weights": True}))
    codes = codes_of(net)
    features = net.planes(codes)
    corners = torch.rand(len(codes.geo), 5, 8, 3) * 2 - 1
    found = net.cube_weights(features, codes, corners)
    assert found.shape == (len(codes.geo), 5, 21)
    assert found.abs().max() < 1  # near plain dual marching at the start
    moved = corners.clone()
    moved[:, 2] *= 0.5
    again = net.cube_weights(features, codes, moved)
    assert changed(found[:, 2], again[:, 2])
    assert torch.allclose(found[:, [0, 1, 3, 4]], again[:, [0, 1, 3, 4]], atol=1e-6)


def test_one_backward_pass_reaches_every_parameter(net):
    codes = codes_of(net)
    features = net.planes(codes)
    values = net.geometry(features, codes, CUBES)
    colors = net.colors(features, codes, torch.rand(2, 9, 3) * 2 - 1)
    assert colors.shape == (2, 9, 3)
    loss = colors.square().sum() + values.sdf.square().sum() + values.offsets.square().sum()
    if values.weights is not None:
        loss = loss + values.weights.square().sum()
    loss.backward()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert torch.isfinite(p.grad).all(), name
        assert p.grad.abs().max() > 0, name


def test_style_mixing_takes_each_row_from_its_code():
    net = BUILD["shared"]()
    one, two = codes_of(net), codes_of(net)
    mixed = mix_codes(one, two, 3, 1)
    assert torch.equal(mixed.geo[:, :3], one.geo[:, :3])
    assert torch.equal(mixed.geo[:, 3:], two.geo[:, 3:])
    assert torch.equal(mixed.tex[:, :1], one.tex[:, :1])
    assert torch.equal(mixed.tex[:, 1:], two.tex[:, 1:])


def test_truncation_and_its_mean(net):
    codes = codes_of(net)
    net.track(codes)
    assert net.mapping_geo.w_avg.abs().max() > 0
    mean = net.map(torch.randn(1, 6), torch.randn(1, 6), psi=0.0)
    assert torch.allclose(mean.geo[0, 0], net.mapping_geo.w_avg, atol=1e-6)
    assert torch.allclose(mean.tex[0, -1], net.mapping_tex.w_avg, atol=1e-6)


@pytest.mark.parametrize("name", list(BUILD))
def test_a_class_changes_the_codes(name):
    config = {"shared": SHARED, "separate": SEPARATE, "compact": COMPACT}[name]
    config = config.model_copy(update={"label_dim": 2})
    net = {"shared": SharedNetwork, "separate": SeparateNetwork, "compact": CompactNetwork}[name](
        config
    )
    z, label = torch.randn(1, 6).expand(2, -1), torch.eye(2)
    codes = net.map(z, z, label=label)
    assert changed(codes.geo[0], codes.geo[1])
    assert changed(codes.tex[0], codes.tex[1])
    net.track(codes, label)
    assert (net.mapping_geo.w_avg.abs().amax(dim=1) > 0).all()


@pytest.mark.parametrize("filter_", ["linear", "fir"])
def test_fused_form_gives_the_same_planes(filter_):
    config = SMALL.model_copy(update={"filter": filter_})
    one = Synthesis(config, 6).double()
    two = Synthesis(config.model_copy(update={"fused": True}), 6).double()
    two.load_state_dict(one.state_dict())
    w = torch.randn(2, one.num_ws_geo, 6).double(), torch.randn(2, one.num_ws_tex, 6).double()
    for a, b in zip(one(*w), two(*w), strict=True):
        assert torch.allclose(a, b, atol=1e-9)


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_half_precision_is_for_the_highest_levels_only(half):
    one = Synthesis(SMALL, 6)
    two = Synthesis(SMALL.model_copy(update={"half": half, "half_levels": 2}), 6)
    two.load_state_dict(one.state_dict())
    kind = getattr(torch, half)
    assert [level.dtype for level in two.levels] == [None, kind, kind]
    w = torch.randn(2, one.num_ws_geo, 6), torch.randn(2, one.num_ws_tex, 6)
    seen = []
    for level in two.levels:
        level.convs[-1].register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    planes = two(*w)
    assert seen == [torch.float32, kind, kind]
    assert planes.geometry.dtype == torch.float32
    error = (planes.geometry - one(*w).geometry).abs().max()
    assert 0 < error < 0.1
    (planes.geometry.square().sum() + planes.texture.sum()).backward()
    assert all(p.grad.dtype == torch.float32 for p in two.parameters())


def test_volume_level_by_hand():
    level = VolumeLevel(VolumeConfig(resolution=8, channel_max=4), 8, 5).double()
    x, rows = torch.randn(2, 4, 4, 4, 4).double(), torch.randn(2, 2, 5).double()
    up = F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)
    skip = torch.einsum("oc,bcxyz->boxyz", level.shortcut / 2, up)
    level.first.up = "none"
    y = level.first(up, rows[:, 0])
    level.first.up = "linear"
    y = level.second(y, rows[:, 1])  # has the factor sqrt(1/2) in it
    level.second.gain = 1.0
    plain = level.second(level.first(x, rows[:, 0]), rows[:, 1])
    assert torch.allclose(y, plain * math.sqrt(0.5))
    level.second.gain = math.sqrt(0.5)
    assert torch.allclose(level(x, rows), y + math.sqrt(0.5) * skip, atol=1e-9)


def test_position_code_by_hand():
    code = position_code(torch.tensor([1.0, 0.0, -1.0]))
    assert code.tolist() == pytest.approx([1, 0, -1, 0, 1, 0], abs=1e-6)


def test_recomputed_mlps_give_the_same_gradients():
    one = BUILD["separate"]()
    two = SeparateNetwork(SEPARATE.model_copy(update={"checkpoint": True}))
    two.load_state_dict(one.state_dict())
    z = torch.randn(2, 6)
    for net in (one, two):
        codes = net.map(z, z)
        values = net.geometry(net.planes(codes), codes, TETS)
        (values.sdf.square().sum() + values.offsets.square().sum()).backward()
    for (name, a), b in zip(one.named_parameters(), two.parameters(), strict=True):
        if a.grad is not None:
            assert torch.allclose(a.grad, b.grad, atol=1e-5), name


TRUNK = TrunkConfig(channel_base=128, channel_max=8, mapping_layers=2)


def reference_trunk(net, images, camera):
    """StyleGAN2's skip trunk step by step, with numpy-like resampling by convolution matrices."""

    def down(x, pad):
        taps = torch.tensor([1, 3, 3, 1]).double() / 8
        kernel = (taps[:, None] * taps).expand(x.shape[1], 1, 4, 4)
        return F.conv2d(F.pad(x, [pad] * 4), kernel, groups=x.shape[1])

    def conv(layer, x, **kwargs):
        return lrelu(F.conv2d(x, layer.weight * layer.weight_scale, layer.bias, **kwargs))

    x = None
    for block in net.blocks:
        y = conv(block.from_image, images)
        x = y if x is None else x + y
        x = conv(block.conv, x, padding=1)
        x = conv(block.down, down(x, 2), stride=2)
        images = down(images, 1)[..., ::2, ::2]
    x = x + conv(net.from_image, images)
    x = conv(net.final, minibatch_stddev(x, 2), padding=1)
    x = net.out(lrelu(net.features(x.flatten(1))))
    return (x * net.condition(camera)).sum(dim=1) / math.sqrt(8)


def test_trunk_equals_its_reference():
    net = Trunk(TRUNK.model_copy(update={"group_size": 2}), 3, 16).double()
    images, camera = torch.randn(4, 3, 16, 16).double(), torch.randn(4, 6).double()
    expected = reference_trunk(net, images, camera)
    assert torch.allclose(net(images, camera), expected, atol=1e-10)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("camera", list(CAMERA_CODES))
@pytest.mark.parametrize("label_dim", [0, 3])
def test_trunk_sees_image_camera_and_class(channels, camera, label_dim):
    net = Trunk(TRUNK.model_copy(update={"camera": camera}), channels, 16, label_dim)
    images, angles = torch.randn(4, channels, 16, 16), torch.rand(2, 4)
    code = CAMERA_CODES[camera].encode(*angles)
    label = torch.eye(label_dim)[torch.tensor([0, 1, 2, 0])] if label_dim else None
    logits = net(images, code, label)
    assert logits.shape == (4,)
    assert changed(logits, net(images.flip(3), code, label))
    if camera != "none":
        assert changed(logits, net(images, code.flip(0), label))
    if label_dim:
        assert changed(logits, net(images, code, label.roll(1, 0)))
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


def test_small_discriminator_sees_the_class():
    net = Discriminator(DiscriminatorConfig(channels=(8, 8), features=8), 3, 16, label_dim=3)
    images, camera, label = torch.randn(4, 3, 16, 16), torch.randn(4, 6), torch.eye(3)[[0, 1, 2, 0]]
    assert changed(net(images, camera, label), net(images, camera, label.roll(1, 0)))
    with pytest.raises(ValueError, match="label"):
        net(images, camera)


def test_second_order_of_the_trunk_in_full_precision():
    """R1 of the trunk against the finite difference of its gradient norm."""
    config = TRUNK.model_copy(update={"half": "bfloat16", "group_size": 0})
    net = Trunk(config, 1, 8)
    images, camera = torch.randn(2, 1, 8, 8), torch.randn(2, 6)
    plain = Trunk(TRUNK.model_copy(update={"group_size": 0}), 1, 8)
    plain.load_state_dict(net.state_dict())
    assert torch.equal(net(images, camera, full_precision=True), plain(images, camera))
    assert not torch.equal(net(images, camera), plain(images, camera))

    def penalty():
        leaf = images.clone().requires_grad_()
        logits = net(leaf, camera, full_precision=True)
        (gradient,) = torch.autograd.grad(logits.sum(), leaf, create_graph=True)
        return gradient.square().sum()

    net, images, camera = net.double(), images.double(), camera.double()
    penalty().backward()
    weight = net.blocks[0].conv.weight
    direction = torch.randn_like(weight)
    slope = (weight.grad * direction).sum().item()
    values = []
    for step in (1e-7, -1e-7):
        with torch.no_grad():
            weight.add_(step * direction)
        values.append(penalty().item())
        with torch.no_grad():
            weight.sub_(step * direction)
    assert (values[0] - values[1]) / 2e-7 == pytest.approx(slope, rel=1e-4)


def test_trunk_refuses_other_sizes():
    for size in (4, 24):
        with pytest.raises(ValueError, match="power of two"):
            Trunk(TRUNK, 3, size)


def test_counts_add_up():
    net = BUILD["shared"]()
    *parts, total = count_parameters(net)
    assert total.parameters == sum(p.numel() for p in net.parameters())
    assert sum(part.parameters for part in parts) == total.parameters
    assert f"| `total` | {total.parameters:,} |" in parameter_table(net)


def test_saved_bytes_of_one_layer():
    """A product keeps its inputs, once each, and its weights are not activations."""
    layer = torch.nn.Linear(8, 4)
    x = torch.randn(16, 8)
    assert saved_bytes(layer, lambda: layer(x)) == 16 * 8 * 4
    assert saved_bytes(layer, lambda: layer(x) + layer(x)) == 16 * 8 * 4
    assert saved_bytes(layer, lambda: torch.tanh(layer(x))) == 16 * 8 * 4 + 16 * 4 * 4


def analytic_bytes_of_trunk(config, batch, size):
    """By hand: of each block its image, and what each of its four layers keeps."""
    total, r = 0, size
    while r > 4:
        c, out = config.channels(r), config.channels(r // 2)
        kept = 3 * r**2  # the image
        kept += c * r**2  # from_image's activation (the sum with x is the next layer's input)
        kept += 2 * c * r**2 if r < size else c * r**2
        kept += c * (r + 1) ** 2  # blurred
        total += 4 * batch * kept
        r //= 2
        total += 4 * batch * out * r**2  # the activation at the end of the block
    return total


def test_activation_bytes_of_real_networks():
    """The estimate, made without computing, is what a real pass keeps."""
    net = Trunk(TRUNK, 3, 32)
    images, camera = torch.randn(4, 3, 32, 32), torch.randn(4, 6)
    real = saved_bytes(net, lambda: net(images, camera))
    estimate = activation_bytes(TRUNK, 4, 32)
    assert estimate == pytest.approx(real, rel=0.02)
    assert estimate == pytest.approx(analytic_bytes_of_trunk(TRUNK, 4, 32), rel=0.3)
    z, points = torch.randn(3, 6), torch.rand(3, 50, 3)
    for net, config in ((BUILD["shared"](), SHARED), (BUILD["separate"](), SEPARATE)):

        def run(net=net):
            codes = net.map(z, z)
            features = net.planes(codes)
            return net.colors(features, codes, points), net.geometry(features, codes, CUBES)

        run()  # the lattices keep their matrices
        real = saved_bytes(net, run)
        assert activation_bytes(config, 3, 50, CUBES) == pytest.approx(real, rel=0.05)


def test_activation_bytes_at_full_size():
    """Samples cost the same each, on top of the scaled weights; bfloat16 and recomputing save."""
    one, two, eight = (activation_bytes(TrunkConfig(), n, 256) for n in (1, 2, 8))
    assert eight - two == pytest.approx(6 * (two - one), rel=0.01)
    half = activation_bytes(TrunkConfig(half="bfloat16"), 1, 256)
    assert 0.4 * one < half < 0.7 * one
    assert activation_bytes(SharedConfig(), 4, 10_000, CUBES) > 2**30
    recomputed = activation_bytes(SEPARATE.model_copy(update={"checkpoint": True}), 1, 1, CUBES)
    assert recomputed < activation_bytes(SEPARATE, 1, 1, CUBES)
    with pytest.raises(TypeError, match="VolumeConfig"):
        activation_bytes(VolumeConfig(), 1, 1)
