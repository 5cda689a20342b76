"""Layers against closed forms and float64 references."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from g3d.trainer.ema import averaged_copy, update_average
from g3d.trainer.isosurface.grid import bcc_grid
from g3d.trainer.networks.decoders import GeometryDecoder, TextureDecoder
from g3d.trainer.networks.discriminator import Discriminator, DiscriminatorConfig, camera_code
from g3d.trainer.networks.field import Lattices
from g3d.trainer.networks.layers import Linear, lrelu, minibatch_stddev
from g3d.trainer.networks.mapping import MappingNetwork
from g3d.trainer.networks.modulated import ModulatedConv
from g3d.trainer.networks.synthesis import Synthesis, SynthesisConfig
from g3d.trainer.networks.triplane import interpolation_matrix, sample_lattice, sample_points


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_linear_has_unit_variance_and_scaled_rate():
    layer = Linear(512, 256, lr_multiplier=0.01, bias=1.0)
    y = layer(torch.randn(1024, 512)) - 1.0
    assert y.std().item() == pytest.approx(1.0, abs=0.05)
    y.sum().backward()
    assert layer.bias.grad.unique().item() == pytest.approx(1024 * 0.01)


def test_modulated_convolution_equals_per_sample_weights():
    """Karras et al. 2020, equations 1 and 3, one sample at a time in float64."""
    conv = ModulatedConv(5, 7, 3, w_dim=4).double()
    x, w = torch.randn(3, 5, 6, 6).double(), torch.randn(3, 4).double()
    style = conv.style(w)
    for sample in range(3):
        weight = conv.weight * conv.weight_scale * style[sample][None, :, None, None]
        weight = weight / (weight.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        expected = F.conv2d(x[sample : sample + 1], weight, conv.bias, padding=1)
        assert torch.allclose(conv(x, w)[sample : sample + 1], expected, atol=1e-10)


def test_demodulated_output_does_not_depend_on_the_style_scale():
    conv = ModulatedConv(16, 8, 3, w_dim=4)
    x, w = torch.randn(2, 16, 5, 5), torch.randn(2, 4)
    before = conv(x, w)
    with torch.no_grad():
        conv.style.weight.mul_(7.0)
        conv.style.bias.mul_(7.0)
    assert torch.allclose(conv(x, w), before, atol=1e-4)


def test_minibatch_stddev_by_hand():
    x = torch.zeros(4, 1, 1, 1)
    x[0], x[1] = 1.0, 3.0  # group 0: deviation 1; group 1: 0
    out = minibatch_stddev(x, 2)
    assert torch.allclose(out[:, 1].flatten(), torch.tensor([1.0, 1.0, 1e-4, 1e-4]), atol=1e-6)


def test_truncation_moves_towards_the_mean():
    mapping = MappingNetwork(8, 8, 2)
    for _ in range(200):
        mapping.track(mapping(torch.randn(64, 8)))
    z = torch.randn(16, 8)
    assert torch.allclose(mapping(z, 0.0), mapping.w_avg.expand(16, -1))
    half = mapping(z, 0.5)
    assert torch.allclose(half, 0.5 * (mapping(z) + mapping.w_avg), atol=1e-6)


def test_mapping_ignores_the_length_of_z():
    mapping = MappingNetwork(8, 8, 2)
    z = torch.randn(4, 8)
    assert torch.allclose(mapping(z), mapping(5 * z), atol=1e-5)


def test_each_axis_moves_the_right_planes():
    """Plane order XY, YZ, XZ: a point moved along one axis keeps one plane's sample."""
    planes = torch.randn(1, 3, 2, 8, 8)
    silent = {0: 1, 1: 2, 2: 0}  # axis -> plane that does not see it
    for axis, plane in silent.items():
        only = torch.zeros_like(planes)
        only[:, plane] = planes[:, plane]
        a = torch.zeros(1, 1, 3)
        b = a.clone()
        b[..., axis] = 0.4
        assert torch.allclose(sample_points(only, a), sample_points(only, b))
        assert not torch.allclose(sample_points(planes, a), sample_points(planes, b))


def test_plane_orientation():
    """The first coordinate of a plane indexes its width."""
    planes = torch.zeros(1, 3, 1, 4, 4)
    planes[0, 0, 0, 3, 0] = 1.0  # XY: row 3 is y = +1, column 0 is x = -1
    points = torch.tensor([[[-1.0, 1.0, 0.0], [1.0, -1.0, 0.0]]])
    assert sample_points(planes, points)[0, :, 0].tolist() == [1.0, 0.0]


def test_lattice_equals_points():
    planes = torch.randn(2, 3, 4, 6, 6).double()
    axis = torch.linspace(-1, 1, 9).double()
    nodes = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(1, -1, 3)
    expected = sample_points(planes, nodes.expand(2, -1, -1))
    found = sample_lattice(planes, interpolation_matrix(axis, 6)).flatten(2).transpose(1, 2)
    assert torch.allclose(found, expected, atol=1e-12)


def test_geometry_decoder_equals_evaluation_at_every_node():
    grid = bcc_grid(3)
    decoder = GeometryDecoder(4, 8)
    planes = torch.randn(2, 3, 4, 6, 6)
    sdf, offsets = decoder(planes, Lattices.of_tets(grid))
    points = torch.from_numpy(grid.vertices)[None].expand(2, -1, -1)
    expected = decoder.out(lrelu(sample_points(decoder.first(planes), points)))
    assert torch.allclose(sdf, expected[..., 0], atol=1e-5)
    assert torch.allclose(offsets, expected[..., 1:], atol=1e-5)


def test_texture_decoder_depends_on_its_code():
    decoder = TextureDecoder(4, 8, 5)
    planes, points = torch.randn(1, 3, 4, 6, 6), torch.rand(1, 10, 3)
    a, b = decoder(planes, points, torch.randn(1, 5)), decoder(planes, points, torch.randn(1, 5))
    assert a.min() >= 0
    assert a.max() <= 1
    assert not torch.allclose(a, b, atol=1e-3)


def test_shared_backbone_has_the_papers_size():
    """GET3D's unified generator: 30.0 M backbone, 22 geometry rows less the two of the MLPs."""
    synthesis = Synthesis(SynthesisConfig(), 512)
    count = sum(p.numel() for p in synthesis.parameters())
    assert synthesis.num_ws_geo == 20
    assert synthesis.num_ws_tex == 7
    assert count / 1e6 == pytest.approx(30.0, abs=0.1)


def test_texture_code_cannot_move_geometry():
    config = SynthesisConfig(resolution=8, channel_max=8, convs_per_level=1, plane_channels=4)
    synthesis = Synthesis(config, 6)
    w_geo = torch.randn(1, synthesis.num_ws_geo, 6)
    one = synthesis(w_geo, torch.randn(1, synthesis.num_ws_tex, 6))
    two = synthesis(w_geo, torch.randn(1, synthesis.num_ws_tex, 6))
    assert torch.equal(one.geometry, two.geometry)
    assert not torch.allclose(one.texture, two.texture, atol=1e-3)
    assert one.geometry.shape == (1, 3, 4, 8, 8)


def test_camera_code_is_periodic():
    angle = torch.tensor([0.3, 2.0])
    wrapped = camera_code(angle + 2 * math.pi, angle * 0.1)
    assert torch.allclose(camera_code(angle, angle * 0.1), wrapped, atol=1e-5)


def test_discriminator_sees_image_and_camera():
    net = Discriminator(DiscriminatorConfig(channels=(8, 8, 8), features=8), 3, 16)
    x, camera = torch.randn(8, 3, 16, 16), torch.randn(8, 6)
    assert net(x, camera).shape == (8,)
    assert not torch.allclose(net(x, camera), net(x, camera.flip(0)))
    assert not torch.allclose(net(x, camera), net(x.flip(3), camera))


def test_average_against_the_closed_form():
    net = torch.nn.Linear(1, 1, bias=False)
    average = averaged_copy(net)
    start = net.weight.item()
    with torch.no_grad():
        net.weight.fill_(5.0)
    for _ in range(10):
        update_average(average, net, batch=4, nimg=10**9, half_life=20, rampup=0.05)
    expected = 5.0 + (start - 5.0) * 0.5 ** (10 * 4 / 20)
    assert average.weight.item() == pytest.approx(expected, rel=1e-5)
    assert not average.weight.requires_grad


def test_interpolation_matrix_rows_sum_to_one():
    matrix = interpolation_matrix(torch.linspace(-1.2, 1.2, 11), 5)
    assert np.allclose(matrix.sum(dim=1).numpy(), 1.0)
