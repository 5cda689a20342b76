"""Resampling, modulated layers and conditions against closed forms and float64 references."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from g3d.trainer.networks.conditioning import (
    CAMERA_CODES,
    ConditionMapping,
    angle_code,
    join_condition,
)
from g3d.trainer.networks.layers import Conv2d, Linear, lrelu, minibatch_stddev
from g3d.trainer.networks.mapping import MappingNetwork
from g3d.trainer.networks.modulated import (
    ModulatedConv,
    ModulatedLinear,
    ModulatedMLP,
    NoiseInput,
    StyledConv,
)
from g3d.trainer.networks.resample import TAPS, blur, downsample, enlarge, upfirdn, upsample
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def double(*shape, grad=False):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=grad)


def stretch(line, up, pad):
    """Zeros after each sample, then padding or (if negative) cropping."""
    out = np.zeros(len(line) * up)
    out[::up] = line
    before, after = pad
    return np.pad(out, (before, after))


def filtered(image, taps, up, down, pad, gain):
    """One axis after the other, with numpy's own convolution."""
    taps = np.asarray(taps) * (gain * up / np.sum(taps))

    def along(line):
        return np.convolve(stretch(line, up, pad), taps, mode="valid")[::down]

    return np.apply_along_axis(along, 1, np.apply_along_axis(along, 0, image))


@given(
    up=st.integers(1, 3),
    down=st.integers(1, 3),
    pad=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    taps=st.lists(st.floats(0.1, 2.0), min_size=1, max_size=5),
    size=st.tuples(st.integers(5, 8), st.integers(5, 8)),
)
@settings(max_examples=30, deadline=None)
def test_upfirdn_equals_numpy(up, down, pad, taps, size):
    image = np.random.default_rng(1).standard_normal(size)
    found = upfirdn(
        torch.from_numpy(image)[None, None].expand(2, 3, -1, -1),
        taps,
        up=up,
        down=down,
        pad=pad,
        gain=1.5,
    )
    expected = filtered(image, taps, up, down, pad, 1.5)
    assert found.shape == (2, 3, *expected.shape)
    assert torch.allclose(found, torch.from_numpy(expected).expand_as(found), atol=1e-12)


def test_upsample_and_downsample_by_hand():
    x = torch.tensor([4.0, 8.0, 16.0, 0.0]).reshape(1, 1, 1, 4).expand(1, 1, 4, 4).double()
    middle = upsample(x)[0, 0, 4]
    assert middle.tolist() == [3.0, 5.0, 7.0, 10.0, 14.0, 12.0, 4.0, 0.0]
    expected = torch.tensor([(3 * 4 + 3 * 8 + 16) / 8, (8 + 3 * 16) / 8]).double()
    assert torch.allclose(downsample(x.transpose(2, 3))[0, 0, :, 1], expected * 7 / 8)
    assert torch.allclose(upsample(x), upfirdn(x, up=2, pad=(2, 1)), atol=1e-14)


def test_resampling_keeps_place_and_mean():
    """A bump's centre of mass stays where it is, in units of the image's side; so does its mean."""
    x = torch.zeros(1, 1, 16, 16).double()
    x[0, 0, 6, 9] = 1.0

    def centre(image):
        size = image.shape[-1]
        axis = (torch.arange(size) + 0.5).double() / size
        mass = image[0, 0] / image.sum()
        return (mass.sum(1) @ axis).item(), (mass.sum(0) @ axis).item()

    for resample in (upsample, enlarge, downsample):
        y = resample(x)
        assert centre(y) == pytest.approx(centre(x), abs=1e-12)
        assert y.mean().item() == pytest.approx(x.mean().item())
    strided = F.conv2d(blur(x), torch.ones(1, 1, 3, 3).double() / 9, stride=2)
    assert strided.shape[-1] == 8
    shift = np.subtract(centre(strided), centre(x))
    assert np.abs(shift).max() < 0.5 / 16  # a stride-2 kernel of odd width samples a third tap


def test_both_enlargements_agree_inside():
    x = double(1, 2, 6, 6)
    assert torch.allclose(upsample(x)[..., 1:-1, 1:-1], enlarge(x)[..., 1:-1, 1:-1])


@pytest.mark.parametrize("resample", [upsample, downsample, blur, enlarge])
def test_resampling_has_second_derivatives(resample):
    x = double(1, 2, 4, 4, grad=True)
    assert gradcheck(resample, x)
    assert gradgradcheck(lambda x: resample(x).square(), x)


def reference_conv(conv, x, w):
    """One sample at a time with its own weights; enlargement by zeros and two convolutions."""
    style = conv.style(w)
    convolve = F.conv2d if conv.dims == 2 else F.conv3d
    out = []
    for sample in range(len(x)):
        ones = [1] * conv.dims
        weight = conv.weight * conv.weight_scale * style[sample].reshape(1, -1, *ones)
        if conv.demodulate:
            norm = weight.flatten(1).square().sum(dim=1).reshape(-1, 1, *ones)
            weight = weight / (norm + 1e-8).sqrt()
        one = x[sample : sample + 1]
        if conv.up == "fir":
            # Wide enough that no intermediate result is cut, then the middle.
            one = upfirdn(one, up=2, pad=(2 + 4, 1 + 4))
            y = F.conv2d(one, weight, padding=1)[..., 4:-4, 4:-4]
        else:
            y = convolve(enlarge(one) if conv.up == "linear" else one, weight, padding=conv.padding)
        out.append(y + conv.bias.reshape(1, -1, *ones))
    return torch.cat(out)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    ("dims", "kernel", "up", "demodulate"),
    [
        (2, 3, "none", True),
        (2, 3, "linear", True),
        (2, 3, "fir", True),
        (2, 1, "none", False),
        (3, 3, "none", True),
        (3, 3, "linear", True),
        (3, 1, "none", False),
    ],
)
def test_modulated_convolution_equals_per_sample_weights(dims, kernel, up, demodulate, fused):
    conv = ModulatedConv(
        5, 7, kernel, 4, dims=dims, up=up, demodulate=demodulate, fused=fused
    ).double()
    torch.nn.init.normal_(conv.bias)
    x, w = double(3, 5, *[4] * dims), double(3, 4)
    assert torch.allclose(conv(x, w), reference_conv(conv, x, w), atol=1e-12)


@pytest.mark.parametrize(("dims", "up"), [(2, "none"), (2, "fir"), (3, "linear")])
@pytest.mark.parametrize("fused", [False, True])
def test_modulated_convolution_gradients(dims, up, fused):
    conv = ModulatedConv(2, 2, 3, 3, dims=dims, up=up, fused=fused).double()
    x, w = double(2, 2, *[2] * dims, grad=True), double(2, 3, grad=True)
    inputs = (x, w, conv.weight, conv.bias, conv.style.weight)

    def run(*_):
        return conv(x, w)

    assert gradcheck(run, inputs, fast_mode=True)
    assert gradgradcheck(run, inputs, fast_mode=True)


def test_half_precision_styles_do_not_overflow():
    """Unscaled, a style of 1e3 times an input of 200 is beyond float16."""
    conv = ModulatedConv(8, 4, 3, 4)
    with torch.no_grad():
        conv.style.bias.fill_(1e3)
    x, w = 200 * torch.rand(2, 8, 5, 5), torch.randn(2, 4)
    half = conv(x.half(), w)
    assert half.dtype == torch.float16
    assert torch.allclose(half.float(), conv(x, w), rtol=2e-2, atol=2.0)
    assert conv(x.bfloat16(), w).dtype == torch.bfloat16


def test_fir_needs_a_kernel_of_three():
    with pytest.raises(ValueError, match="3x3"):
        ModulatedConv(2, 2, 1, 3, up="fir")


def test_noise_modes():
    x = torch.zeros(2, 3, 4, 4)
    for mode in ("none", "const", "random"):
        noise = NoiseInput(4, mode)
        assert torch.equal(noise(x), x)  # the strength starts at zero
        with torch.no_grad():
            noise.strength.fill_(0.5)
        one, two = noise(x), noise(x)
        assert torch.equal(one, two) == (mode != "random")
        assert (one == 0).all() == (mode == "none")
        if mode == "const":
            assert torch.equal(one, (0.5 * noise.pattern).expand_as(x))
    random = NoiseInput(4, "random")
    with torch.no_grad():
        random.strength.fill_(1.0)
    y = random(torch.zeros(4000, 2, 4, 4))
    assert torch.equal(y[:, 0], y[:, 1])  # one pattern for all channels, another for each sample
    assert y.std().item() == pytest.approx(1.0, abs=0.02)


def test_noise_gradients():
    noise = NoiseInput(3, "const").double()
    x = double(2, 2, 3, 3, grad=True)
    assert gradcheck(lambda x, s: noise(x).square(), (x, noise.strength))


def test_styled_convolution_is_its_parts():
    layer = StyledConv(3, 4, 3, 5, noise=(6, "const"), clamp=0.8, gain=0.7).double()
    with torch.no_grad():
        layer.noise.strength.fill_(0.3)
    x, w = double(2, 3, 6, 6), double(2, 5)
    plain = reference_conv(layer, x, w) + 0.3 * layer.noise.pattern
    expected = (0.7 * lrelu(plain)).clamp(-0.8, 0.8)
    assert torch.allclose(layer(x, w), expected, atol=1e-12)
    assert expected.abs().max() == 0.8


@pytest.mark.parametrize("demodulate", [True, False])
def test_modulated_linear_equals_per_sample_weights(demodulate):
    layer = ModulatedLinear(5, 3, 4, demodulate=demodulate).double()
    torch.nn.init.normal_(layer.bias)
    x, w = double(2, 5, 7), double(2, 4)
    style = layer.style(w)
    for sample in range(2):
        weight = layer.weight / math.sqrt(5) * style[sample]
        if demodulate:
            weight = weight / weight.norm(dim=1, keepdim=True)
        expected = weight @ x[sample] + layer.bias[:, None]
        assert torch.allclose(layer(x, w)[sample], expected, atol=1e-6)
    inputs = (x.requires_grad_(), w.requires_grad_(), layer.weight, layer.bias, layer.style.bias)
    assert gradcheck(lambda *_: layer(x, w), inputs)


def test_modulated_mlp_by_hand():
    mlp = ModulatedMLP([3, 4, 2], 5).double()
    x, rows = double(2, 3, 6), double(2, 4, 5)  # more rows than layers: the rest is not read
    expected = mlp.layers[1](lrelu(mlp.layers[0](x, rows[:, 0])), rows[:, 1])
    assert torch.allclose(mlp(x, rows), expected)
    first = mlp.layers[0].matrices(rows[:, 0]) @ x
    assert torch.allclose(mlp.after_first(first, rows), expected)


def test_activated_convolution_equals_its_two_steps():
    conv = Conv2d(3, 4, 3, padding=1).double()
    torch.nn.init.normal_(conv.bias)
    x = double(2, 3, 5, 5, grad=True)
    assert torch.allclose(conv.activated(x), lrelu(conv(x)), atol=1e-12)
    assert gradgradcheck(lambda *_: conv.activated(x).square(), (x, conv.weight), fast_mode=True)


def test_minibatch_stddev_gradients():
    x = double(4, 2, 2, 2, grad=True)
    assert gradcheck(lambda x: minibatch_stddev(x, 2), x)
    assert gradgradcheck(lambda x: minibatch_stddev(x, 2), x)


def test_linear_gradients():
    layer = Linear(3, 2, lr_multiplier=0.1).double()
    x = double(4, 3, grad=True)
    assert gradcheck(lambda *_: layer(x), (x, layer.weight, layer.bias))


def test_angle_code_by_hand():
    azimuth, elevation = torch.tensor([0.4]), torch.tensor([0.2])
    code = angle_code(azimuth, elevation)[0]
    polar = math.pi / 2 - 0.2
    expected = [0.4, polar]
    for k in (1, 2, 4):
        expected += [math.sin(k * 0.4), math.sin(k * polar), math.cos(k * 0.4), math.cos(k * polar)]
    assert code.tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", list(CAMERA_CODES))
def test_camera_codes_have_their_width_and_say_whether_they_wrap(name):
    code = CAMERA_CODES[name]
    azimuth, elevation = torch.tensor([1e-4]), torch.tensor([0.3])
    one = code.encode(azimuth, elevation)
    two = code.encode(azimuth + 2 * math.pi - 2e-4, elevation)
    assert one.shape == (1, code.dim)
    assert torch.allclose(one, two, atol=1e-2) == (name != "angles")


def test_condition_mapping_is_an_mlp_on_a_normalised_embedding():
    net = ConditionMapping(3, 8, layers=2).double()
    c = double(4, 3)
    x = net.embed(c)
    x = x / x.square().mean(dim=1, keepdim=True).sqrt()
    for layer in net.layers:
        x = lrelu(F.linear(x, layer.weight * 0.01 / math.sqrt(8), layer.bias * 0.01))
    assert torch.allclose(net(c), x, atol=1e-6)


def test_a_label_is_asked_for_and_only_where_it_belongs():
    camera, label = torch.randn(2, 6), torch.eye(3)[:2]
    assert join_condition(camera, label, 3).shape == (2, 9)
    assert join_condition(camera, None, 0) is camera
    for wrong in ((None, 3), (label, 0)):
        with pytest.raises(ValueError, match="label"):
            join_condition(camera, *wrong)


def test_mapping_with_a_label():
    mapping = MappingNetwork(8, 6, 2, label_dim=3)
    z, label = torch.randn(3, 8), torch.eye(3)
    same = mapping(z[:1].expand(3, -1), label=label)
    assert not torch.allclose(same[0], same[1], atol=1e-3)
    with pytest.raises(ValueError, match="label"):
        mapping(z)


def test_each_class_has_its_own_mean():
    mapping = MappingNetwork(8, 6, 2, label_dim=3)
    label = torch.eye(3)[torch.tensor([0, 1, 0, 1])]
    w = torch.randn(4, 6)
    for _ in range(4000):
        mapping.track(w, label)
    assert torch.allclose(mapping.w_avg[0], (w[0] + w[2]) / 2, atol=1e-3)
    assert torch.equal(mapping.w_avg[2], torch.zeros(6))  # a class not seen keeps its mean
    z = torch.randn(4, 8)
    assert torch.allclose(mapping(z, 0.0, label), mapping.w_avg[[0, 1, 0, 1]])


def test_taps_are_the_papers():
    assert TAPS == (1, 3, 3, 1)
