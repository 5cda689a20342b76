"""Augmentation: what must not change does not, images of a view move alike, p follows the signs."""

import math

import numpy as np
import pytest
import torch
from g3d.manifests.records import Get3dPrior
from g3d.renderers.cameras import orbit, sample_cameras
from g3d.trainer.checkpoint import load_checkpoint, save_checkpoint
from g3d.trainer.config import preset_config
from g3d.trainer.ema import averaged_copy
from g3d.trainer.get3d.augment import Augment, AugmentConfig, color_matrix, inverse_affine
from g3d.trainer.get3d.judged import background_of
from g3d.trainer.get3d.losses import gradient_penalty
from g3d.trainer.get3d.render import render
from g3d.trainer.get3d.transform import Transform
from g3d.trainer.isosurface.grid import bcc_grid
from g3d.trainer.isosurface.marching import MarchingTetrahedra, MeshBatch
from g3d.trainer.method import Batch, DataContext
from g3d.trainer.sampler import build_method
from hypothesis import given, settings
from hypothesis import strategies as st

CONTEXT = DataContext(name="made", category="chair", extent=0.7, camera=Get3dPrior())
COLORS_OFF = {"brightness": 0, "contrast": 0, "luma_flip": False, "hue_deg": 0, "saturation": 0}
MOVES_OFF = {"flip": False, "rotate_deg": 0, "scale": 0, "blit": 0, "shift": 0}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def drawn(count, size, p=1.0, seed=0, **options):
    augment = Augment(AugmentConfig(mode="fixed", p=p, **options), ("rgb", "mask"), 8)
    return augment.draw(count, size, np.random.default_rng(seed))


def neutral(count):
    return drawn(count, 8, p=0.0)


def views(count, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rgb = torch.rand(count, 3, size, size, generator=generator) * 2 - 1
    mask = torch.rand(count, 1, size, size, generator=generator) * 2 - 1
    return {"rgb": rgb, "mask": mask}


def bump(x, y):
    """A smooth asymmetric shape in [0, 1]; x right, y down, in [-1, 1]."""
    return torch.exp(-8 * ((x - 0.15) ** 2 + 0.5 * (y + 0.1) ** 2 + 0.6 * (x - 0.15) * (y + 0.1)))


def pixels(size):
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    return axis[None, :].expand(size, size), axis[:, None].expand(size, size)


def test_nothing_changes_at_p_0():
    images = views(5, 12) | {"normal": torch.rand(5, 3, 12, 12)}
    transform = drawn(5, 12, p=0.0, cutout=0.5, noise=0.3)
    out = transform.images(images, 0.3)
    assert all(torch.equal(out[kind], images[kind]) for kind in images)
    azimuth = torch.randn(5)
    assert torch.equal(transform.azimuth(azimuth), azimuth)


def method_of(**augment):
    return build_method(preset_config("smoke", get3d={"augment": augment}), CONTEXT)


def smoke_batch(seed=0, count=8, size=16):
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


def take_steps(method, phases, steps):
    logs = {}
    for step in steps:
        batch = smoke_batch(step)
        for phase in phases:
            if step % phase.every:
                continue
            phase.optimizer.zero_grad(set_to_none=True)
            loss, terms = phase.loss(batch, step)
            loss.backward()
            phase.optimizer.step()
            logs |= terms
    return logs


def state(method):
    return {
        f"{name}.{key}": value.clone()
        for name, net in method.nets().items()
        for key, value in net.state_dict().items()
    }


def test_a_run_at_p_0_is_the_run_without_to_the_last_bit():
    plain, augmented = method_of(), method_of(mode="fixed", p=0.0)
    assert "augment" not in plain.nets()
    for method in (plain, augmented):
        take_steps(method, method.phases(), range(5))
    ours, theirs = state(augmented), state(plain)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    changed = method_of(mode="fixed", p=0.5)
    take_steps(changed, changed.phases(), range(5))
    assert not torch.equal(state(changed)["d_rgb.stem.weight"], theirs["d_rgb.stem.weight"])


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_colour_silhouette_and_normals_move_alike(seed):
    """Made of one another, they are still after every transformation that moves pixels."""
    x, y = pixels(24)
    alpha = bump(x, y)[None, None].repeat(6, 1, 1, 1)
    background = torch.rand(6, 3, 1, 1) * 2 - 1
    color = torch.tensor([0.9, -0.3, 0.1]).reshape(1, 3, 1, 1)
    towards = torch.tensor([0.6, 0.0, 0.8]).reshape(1, 3, 1, 1)
    images = {
        "rgb": color * alpha + background * (1 - alpha),
        "mask": alpha * 2 - 1,
        "normal": towards * alpha,
    }
    transform = drawn(6, 24, seed=seed, cutout=0.4, rotate_deg=40, **COLORS_OFF)
    out = transform.images(images, background)
    moved = (out["mask"] + 1) / 2
    torch.testing.assert_close(out["rgb"], color * moved + background * (1 - moved),
                               atol=2e-6, rtol=0)  # fmt: skip
    side = torch.where(transform.flipped, -1.0, 1.0)
    torch.testing.assert_close(out["normal"][:, 2:], 0.8 * moved, atol=2e-6, rtol=0)
    torch.testing.assert_close(out["normal"][:, :1], side[:, None, None, None] * 0.6 * moved,
                               atol=2e-6, rtol=0)  # fmt: skip
    assert (out["mask"] - images["mask"]).abs().amax(dim=(1, 2, 3)).min() > 0.05


def test_a_moved_shape_is_where_the_matrix_says():
    size = 96
    x, y = pixels(size)
    image = (bump(x, y) * 2 - 1)[None, None].repeat(8, 1, 1, 1)
    transform = drawn(8, size, seed=3, rotate_deg=50, flip=False, **COLORS_OFF)
    out = transform.images({"mask": image}, 0.0)["mask"]
    source = transform.inverse @ torch.stack([x, y, torch.ones_like(x)]).reshape(3, -1)
    inside = (source.abs().amax(dim=1) < 1 - 2 / size).reshape(8, 1, size, size)
    expected = bump(source[:, 0], source[:, 1]).reshape(8, 1, size, size) * 2 - 1
    assert inside.float().mean() > 0.3
    assert ((out - expected).abs() * inside).max() < 5e-3


def test_directions_of_the_moves():
    """Turned clockwise by 90 degrees, what was on the right is below; shifts go right and down."""
    image = torch.full((1, 1, 16, 16), -1.0)
    image[0, 0, 7:9, 12:14] = 1.0

    def centre(angle=0.0, scale=1.0, shift=(0.0, 0.0)):
        inverse = inverse_affine(
            torch.tensor([angle]), torch.tensor([scale]), torch.tensor([shift])
        )
        moved = neutral(1)._replace(inverse=inverse, moved=torch.tensor([True]))
        weight = moved.images({"mask": image}, 0.0)["mask"][0, 0] + 1
        x, y = pixels(16)
        total = weight.sum()
        return (weight * x).sum().item() / total, (weight * y).sum().item() / total

    assert centre() == pytest.approx((0.625, 0), abs=1e-5)
    assert centre(angle=math.pi / 2) == pytest.approx((0, 0.625), abs=1e-5)
    assert centre(scale=0.5) == pytest.approx((0.3125, 0), abs=2e-2)
    assert centre(shift=(-0.25, 0.125)) == pytest.approx((0.125, 0.25), abs=1e-5)
    # Turned first, then moved.
    assert centre(angle=math.pi / 2, shift=(0.25, 0.0)) == pytest.approx((0.5, 0.625), abs=1e-5)


def test_whole_pixels_are_moved_without_blur_and_background_comes_in():
    images = views(16, 16)
    background = torch.rand(16, 3, 1, 1) * 2 - 1
    options = {"rotate_deg": 0, "scale": 0, "shift": 0, "flip": False, **COLORS_OFF}
    transform = drawn(16, 16, blit=0.3, **options)
    out = transform.images(images, background)
    offsets = (transform.inverse[:, :, 2] * -8).round().long()  # pixels right, down
    assert offsets.abs().max() <= 5
    assert len(offsets.unique()) > 4
    for kind, behind in (("rgb", background), ("mask", torch.full((16, 1, 1, 1), -1.0))):
        expected = behind.expand_as(images[kind]).clone()
        for n, (dx, dy) in enumerate(offsets.tolist()):
            to_y, to_x = slice(max(dy, 0), 16 + min(dy, 0)), slice(max(dx, 0), 16 + min(dx, 0))
            from_y, from_x = (
                slice(max(-dy, 0), 16 - max(dy, 0)),
                slice(max(-dx, 0), 16 - max(dx, 0)),
            )
            expected[n, :, to_y, to_x] = images[kind][n, :, from_y, from_x]
        torch.testing.assert_close(out[kind], expected, atol=2e-5, rtol=0)


def lopsided():
    grid = bcc_grid(14)
    points = torch.from_numpy(grid.vertices)
    sdf = 0.45 - (points - torch.tensor([0.15, 0.1, -0.1])).norm(dim=1)
    arm = 0.2 - (points - torch.tensor([-0.5, 0.3, 0.2])).norm(dim=1)
    return MarchingTetrahedra(grid)(torch.maximum(sdf, arm)[None])


def test_a_mirrored_view_is_the_mirrored_shape_from_the_mirrored_camera():
    meshes = lopsided()
    mirror = torch.tensor([-1.0, 1.0, 1.0])
    mirrored = MeshBatch(
        meshes.vertices * mirror, meshes.faces.flip(1).contiguous(), meshes.vertex_sample,
        meshes.face_ranges,
    )  # fmt: skip

    def seen(shape, azimuth, field):
        matrix = torch.from_numpy(orbit(azimuth, 0.3, 2.0, 0.8).world_to_clip()).float()
        images = render(shape, matrix[None, None], field, 24, normals=True)
        return {"rgb": images.over(1.0, "alpha") * 2 - 1, "mask": images.alpha * 2 - 1,
                "normal": images.normals("alpha")}  # fmt: skip

    transform = neutral(1)._replace(flipped=torch.tensor([True]))
    azimuth = transform.azimuth(torch.tensor([0.7]))
    out = transform.images(seen(meshes, 0.7, lambda p: p + 0.5), 1.0)
    expected = seen(mirrored, azimuth.item(), lambda p: p * mirror + 0.5)
    for kind in expected:
        off = (out[kind] - expected[kind]).abs()
        assert off.mean() < 2e-3, kind  # edges fall on other samples here and there
        assert (out[kind] - seen(meshes, 0.7, lambda p: p + 0.5)[kind]).abs().mean() > 0.02


def test_only_colour_is_recoloured():
    images = views(8, 10)
    out = drawn(8, 10, **MOVES_OFF).images(images, 1.0)
    assert torch.equal(out["mask"], images["mask"])
    assert ((out["rgb"] - images["rgb"]).abs().mean(dim=(1, 2, 3)) > 1e-3).all()


def colored(**values):
    neutral = {"brightness": 0.0, "contrast": 1.0, "luma_flip": False, "hue": 0.0,
               "saturation": 1.0}  # fmt: skip
    return color_matrix(**{k: torch.tensor([v]) for k, v in (neutral | values).items()})[0]


def test_colour_transformations_by_hand():
    color = torch.tensor([0.5, -0.1, 0.2, 1.0])
    grey = torch.tensor([0.3, 0.3, 0.3, 1.0])
    torch.testing.assert_close(colored() @ color, color[:3])
    torch.testing.assert_close(colored(brightness=0.1) @ color, color[:3] + 0.1)
    torch.testing.assert_close(colored(brightness=0.1, contrast=2.0) @ color, color[:3] * 2 + 0.2)
    torch.testing.assert_close(colored(luma_flip=True) @ grey, -grey[:3])
    assert (colored(luma_flip=True) @ color).mean() == pytest.approx(-0.2, abs=1e-6)
    # The rotation takes red to green in a third of a turn; greys do not move.
    third = colored(hue=2 * math.pi / 3)
    torch.testing.assert_close(third @ color, color[[2, 0, 1]], atol=1e-6, rtol=0)
    torch.testing.assert_close(colored(hue=1.0) @ grey, grey[:3])
    torch.testing.assert_close(colored(saturation=0.0) @ color, torch.full((3,), 0.2))
    torch.testing.assert_close(colored(saturation=2.0) @ color, torch.tensor([0.8, -0.4, 0.2]))


def test_shares_and_moments_of_what_is_drawn():
    count, p = 20000, 0.3
    transform = drawn(count, 64, p=p, cutout=0.5, noise=0.1)
    error = 4 * math.sqrt(p * (1 - p) / count)
    for mask, share in (
        (transform.flipped, p / 2),
        (transform.moved, 1 - (1 - p) ** 4),
        (transform.colored, 1 - (1 - p) ** 5),
        (transform.cut, p),
    ):
        assert mask.float().mean().item() == pytest.approx(share, abs=error)
    assert ((transform.noise > 0).float().mean().item()) == pytest.approx(p, abs=error)
    # Moves have no preferred direction; the logarithm of the scale has mean 0.
    shift = transform.inverse[:, :, 2]
    assert shift.mean(dim=0).abs().max() < 4 * shift.std() / math.sqrt(count)
    log_scale = -0.5 * torch.log2(torch.linalg.det(transform.inverse[:, :, :2]))
    assert log_scale.mean().abs() < 0.01
    assert log_scale.std().item() == pytest.approx(0.2 * math.sqrt(p), rel=0.05)
    angle = torch.atan2(transform.inverse[:, 0, 1], transform.inverse[:, 0, 0])
    assert angle.abs().max() <= math.radians(10) + 1e-6
    assert angle.std().item() == pytest.approx(math.radians(10) * math.sqrt(p / 3), rel=0.05)


def test_draws_do_not_depend_on_p():
    """So a run's data stay the same when p moves, on any device."""
    rngs = [np.random.default_rng(5), np.random.default_rng(5)]
    for p, rng in zip((0.1, 0.9), rngs, strict=True):
        Augment(AugmentConfig(mode="fixed", p=p), ("rgb",), 8).draw(4, 16, rng)
    assert rngs[0].random() == rngs[1].random()


def test_cutout_and_noise():
    images = views(6, 20)
    options = {**MOVES_OFF, **COLORS_OFF}
    out = drawn(6, 20, cutout=0.5, **options).images(images, 0.25)
    gone = (out["mask"] == -1) & (images["mask"] != -1)
    assert 0.03 < gone.float().mean() <= 0.26
    assert torch.equal(out["rgb"], torch.where(gone, 0.25, images["rgb"]))
    transform = drawn(6, 20, noise=0.2, **options)
    noisy = transform.images(images, 0.25)
    spread = (noisy["mask"] - images["mask"]).std(dim=(1, 2, 3))
    torch.testing.assert_close(spread, transform.noise, rtol=0.15, atol=1e-3)
    assert torch.equal(noisy["rgb"], transform.images(images, 0.25)["rgb"])


def in_double(transform):
    return Transform(*(
        v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v
        for v in transform
    ))  # fmt: skip


def test_gradients_once_and_twice():
    transform = in_double(drawn(3, 6, seed=2, cutout=0.3, rotate_deg=30))
    rgb = torch.rand(3, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(3, 1, 6, 6, dtype=torch.float64, requires_grad=True)

    def apply(rgb, mask):
        out = transform.images({"rgb": rgb, "mask": mask}, 0.5)
        return out["rgb"], out["mask"].square()

    assert torch.autograd.gradcheck(apply, (rgb, mask))
    assert torch.autograd.gradgradcheck(apply, (rgb, mask))


def test_r1_is_taken_at_the_image_before_augmentation():
    """A linear D through a linear move A: the gradient is A^T a, known from the move of a basis."""
    transform = drawn(1, 4, seed=1, rotate_deg=30, **COLORS_OFF)
    a = torch.randn(1, 1, 4, 4, requires_grad=True)
    image = torch.rand(1, 1, 4, 4, requires_grad=True)
    logits = (transform.images({"mask": image}, 0.0)["mask"] * a).sum(dim=(1, 2, 3))
    penalty = gradient_penalty(logits, image)
    basis = torch.eye(16).reshape(16, 1, 4, 4)
    many = Transform(*(
        v.expand(16, *v.shape[1:]) if isinstance(v, torch.Tensor) else v for v in transform
    ))  # fmt: skip
    nothing = many.images({"mask": torch.full((16, 1, 4, 4), -1.0)}, 0.0)["mask"]
    columns = (many.images({"mask": basis - 1}, 0.0)["mask"] - nothing).flatten(1)
    gradient = columns @ a.flatten()
    torch.testing.assert_close(penalty, gradient.square().sum())
    (slope,) = torch.autograd.grad(penalty, a)
    torch.testing.assert_close(slope.flatten(), 2 * columns.t() @ gradient)


def test_p_moves_with_the_signs_at_its_pace():
    config = AugmentConfig(mode="adaptive", kimg=0.4, every=2, p_max=0.5)
    augment = Augment(config, ("rgb", "mask"), batch=8)
    sure, blind = torch.ones(8), torch.tensor([1.0, -1.0] * 4)
    seen = []
    for step in range(60):
        augment.adapt(step)
        before = augment.p.clone()
        augment.adapt(step)  # for a second micro-batch of the step
        assert augment.p == before
        augment.observe({"rgb": blind, "mask": sure})  # the surest one decides
        seen.append(augment.p.item())
    stride = 8 * 2 / 400
    assert seen[:5] == pytest.approx([0, 0, stride, stride, 2 * stride])
    assert seen[-1] == 0.5
    for step in range(60, 120):
        logs = augment.adapt(step)
        augment.observe({"rgb": blind, "mask": blind})
    assert augment.p == 0
    assert abs(logs["augment/rt"]) < 1e-3
    augment.observe({"rgb": sure * math.nan, "mask": sure})
    augment.adapt(120)
    assert augment.p.isfinite()


def test_p_needs_its_kimg_to_go_from_0_to_1():
    config = AugmentConfig(mode="adaptive", kimg=0.8, every=4, p_max=1.0)
    augment = Augment(config, ("rgb",), batch=8)
    steps = 0
    while augment.p < 1:
        augment.observe({"rgb": torch.ones(8)})
        augment.adapt(steps)
        steps += 1
    assert steps * 8 == pytest.approx(800, abs=8 * 2 * 4 + 8)  # and what the mean needs at first


def test_fixed_p_stays():
    augment = Augment(AugmentConfig(mode="fixed", p=0.4), ("rgb",), 8)
    for step in range(40):
        augment.observe({"rgb": torch.ones(8)})
        logs = augment.adapt(step)
    assert augment.p == pytest.approx(0.4)
    assert logs["augment/rt"] == pytest.approx(1, abs=1e-4)


def test_parts_of_a_step_make_the_same_of_it():
    """Each part starts from the same running mean; their mean is that of one whole batch."""
    config = AugmentConfig(mode="adaptive", p=0.6, cutout=0.3)
    logits = {kind: torch.randn(8) for kind in ("rgb", "mask")}
    whole, *parts = (Augment(config, ("rgb", "mask"), 8) for _ in range(3))
    for augment in (whole, *parts):
        augment.observe({"rgb": torch.ones(8), "mask": torch.ones(8)})
    whole.observe(logits)
    for part, rows in zip(parts, (slice(0, 4), slice(4, 8)), strict=True):
        part.observe({kind: value[rows] for kind, value in logits.items()})
    mean = (parts[0].sign_avg + parts[1].sign_avg) / 2
    torch.testing.assert_close(mean, whole.sign_avg)
    images = views(8, 12)
    out = whole.draw(8, 12, np.random.default_rng(1)).images(images, 0.5)
    rows = np.array([1, 4, 6])
    mine = whole.draw(8, 12, np.random.default_rng(1), rows)
    again = mine.images({kind: image[rows] for kind, image in images.items()}, 0.5)
    for kind, image in out.items():
        torch.testing.assert_close(again[kind], image[rows])


@pytest.mark.parametrize("adversarial", ["non_saturating", "relativistic"])
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, adversarial):
    overrides = {
        "augment": {"mode": "adaptive", "p": 0.3, "kimg": 0.1, "every": 3},
        "loss": {"adversarial": adversarial},
    }
    config = preset_config("smoke", get3d=overrides)
    whole = build_method(config, CONTEXT)
    phases = whole.phases()
    logs = take_steps(whole, phases, range(5))
    average = averaged_copy(whole.generator)
    save_checkpoint(tmp_path, whole.nets(), average, phases, 40, keep=1)
    logs = take_steps(whole, phases, range(5, 10))
    resumed = build_method(config, CONTEXT)
    again = resumed.phases()
    path = next(tmp_path.glob("*.pt"))
    load_checkpoint(path, resumed.nets(), averaged_copy(resumed.generator), again)
    assert (resumed.augment.sign_avg != 0).any()
    take_steps(resumed, again, range(5, 10))
    ours, theirs = state(resumed), state(whole)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert whole.augment.p != pytest.approx(0.3)
    assert {"augment/p", "augment/rt"} <= logs.keys()


def test_background_is_read_from_empty_pixels():
    background = torch.rand(4, 3, 1, 1)
    alpha = torch.rand(4, 1, 8, 8)
    alpha[torch.arange(4), 0, [1, 7, 3, 0], [2, 6, 0, 7]] = 0.0
    rgb = torch.rand(4, 3, 8, 8) * alpha + background * (1 - alpha)
    torch.testing.assert_close(background_of(rgb, alpha), background)
