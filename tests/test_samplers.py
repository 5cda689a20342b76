"""Camera samplers: what they draw, that they draw it again, and that they survive JSON."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from g3d.config import Config, resolve
from g3d.errors import ConfigError
from g3d.manifests import records
from g3d.manifests.records import (
    AnyCameraPrior,
    CameraPrior,
    FibonacciPrior,
    Get3dPrior,
    HemispherePrior,
    LrmPrior,
    RingPrior,
    SpherePrior,
)
from g3d.renderers.cameras import (
    Camera,
    move_back,
    orbit,
    project,
    ring,
    sample_cameras,
    sphere_in_frame,
)
from hypothesis import given
from hypothesis import strategies as st

PRIORS: dict[str, CameraPrior] = {
    "get3d": Get3dPrior(
        azimuth_deg=(30, 60), elevation_deg=(-10, 20), radius=(1.0, 2.0), fov_y_deg=40
    ),
    "sphere": SpherePrior(radius=(1.0, 2.0), fov_y_deg=40),
    "hemisphere": HemispherePrior(radius=(0.6, 1.0)),
    "ring": RingPrior(elevation_deg=35),
    "fibonacci": FibonacciPrior(elevation_deg=(-20, 70), radius=(0.3, 0.5)),
    "lrm": LrmPrior(elevation_deg=(-60, 80), fov_y_deg=(30, 70)),
}
every_prior = pytest.mark.parametrize("name", PRIORS)


class Holder(Config):
    """A config with a camera, as that of ``g3d prepare``."""

    camera: AnyCameraPrior = Get3dPrior()


def draw(prior: CameraPrior, count: int, seed: int = 0, **more: Any) -> Camera:
    return sample_cameras(prior, count, np.random.default_rng(seed), **more)


def many(prior: CameraPrior, draws: int, count: int) -> Camera:
    """``draws`` sets of ``count`` cameras from one generator, as batches of a training are."""
    rng = np.random.default_rng(7)
    sets = [sample_cameras(prior, count, rng) for _ in range(draws)]
    return Camera(np.concatenate([s.c2w for s in sets]), np.concatenate([s.fov_y for s in sets]))


def assert_mean(values: np.ndarray, want: float) -> None:
    """The mean of independent draws is within 4.5 standard errors of what it should be."""
    error = values.std(ddof=1) / np.sqrt(len(values))
    assert abs(values.mean() - want) < 4.5 * error + 1e-12


def test_every_sampler_of_the_union_is_tested() -> None:
    union = get_args(get_args(AnyCameraPrior)[0])
    assert {get_args(member)[0] for member in union} == {type(prior) for prior in PRIORS.values()}
    for name, prior in PRIORS.items():
        assert prior.sampler == name
        assert type(prior)().sampler == name, "the defaults are a whole prior"
    versions = [prior.version for prior in PRIORS.values()]
    assert len(set(versions)) == len(versions)


# --- what all of them keep ------------------------------------------------------------------------


@every_prior
@given(seed=st.integers(0, 2**32), count=st.integers(0, 40))
def test_cameras_are_rigid_and_look_at_the_origin(name: str, seed: int, count: int) -> None:
    camera = draw(PRIORS[name], count, seed)
    assert camera.c2w.shape == (count, 4, 4)
    assert camera.fov_y.shape == (count,)
    rotation = camera.c2w[:, :3, :3]
    identity = np.broadcast_to(np.eye(3), rotation.shape)
    np.testing.assert_allclose(rotation @ np.swapaxes(rotation, 1, 2), identity, atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotation), 1.0, atol=1e-12)
    np.testing.assert_array_equal(camera.c2w[:, 3], np.broadcast_to([0, 0, 0, 1], (count, 4)))
    assert (rotation[:, 1, 1] >= -1e-12).all(), "no camera hangs upside down"
    if count:
        pixel = project(np.zeros((1, 3)), camera, 64, 48)
        np.testing.assert_allclose(pixel[:, 0], np.broadcast_to([24.0, 32.0], (count, 2)))
        assert (np.einsum("nj,nj->n", camera.eye, rotation[:, :, 2]) > 0).all(), "they look at it"


@every_prior
@given(seed=st.integers(0, 2**32))
def test_ranges_are_respected(name: str, seed: int) -> None:
    prior, camera = PRIORS[name], draw(PRIORS[name], 50, seed)
    for values, (low, high) in (
        (np.rad2deg(camera.elevation), prior.band_deg),
        (camera.radius, prior.radius),
        (np.rad2deg(camera.fov_y), prior.lens_deg),
    ):
        assert values.min() >= low - 1e-6
        assert values.max() <= high + 1e-6


@every_prior
def test_equal_seeds_give_equal_cameras_and_others_do_not(name: str) -> None:
    one, two, other = (draw(PRIORS[name], 20, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.c2w, two.c2w)
    np.testing.assert_array_equal(one.fov_y, two.fov_y)
    assert (one.c2w != other.c2w).any()


def test_the_numbers_of_get3d_are_those_of_the_first_datasets() -> None:
    """Poses on disk were drawn so; whoever changes the order of the draws raises ``version``."""
    camera = draw(Get3dPrior(elevation_deg=(0, 40), radius=(1.0, 2.0)), 5, seed=11)
    rng = np.random.default_rng(11)
    azimuth = np.deg2rad(rng.uniform(0.0, 360.0, size=5))
    elevation = np.deg2rad(rng.uniform(0.0, 40.0, size=5))
    want = orbit(azimuth, elevation, rng.uniform(1.0, 2.0, size=5), np.deg2rad(49.134))
    np.testing.assert_array_equal(camera.c2w, want.c2w)
    np.testing.assert_array_equal(camera.fov_y, want.fov_y)
    assert Get3dPrior.version == "uniform_angles-1"


# --- distributions --------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 6, 24])
@pytest.mark.parametrize(
    "prior",
    [SpherePrior(), LrmPrior(fov_y_deg=(30, 70)), FibonacciPrior()],
    ids=lambda prior: prior.sampler,
)
def test_uniform_on_the_sphere(prior: CameraPrior, count: int) -> None:
    """Every coordinate of a uniform direction is uniform in [-1, 1] (Archimedes)."""
    camera = many(prior, 6000 // count, count)
    away = camera.eye / camera.radius[:, None]
    for axis in range(3):
        assert_mean(away[:, axis], 0.0)
        assert_mean(away[:, axis] ** 2, 1 / 3)
        assert_mean(away[:, axis] ** 4, 1 / 5)
    for one, two in ((0, 1), (1, 2), (2, 0)):
        assert_mean(away[:, one] * away[:, two], 0.0)


def test_uniform_on_half_the_sphere() -> None:
    camera = draw(HemispherePrior(), 6000)
    height = np.sin(camera.elevation)
    assert_mean(height, 1 / 2)
    assert_mean(height**2, 1 / 3)
    for n in (1, 2, 3):
        assert_mean(np.cos(n * camera.azimuth), 0.0)
        assert_mean(np.sin(n * camera.azimuth), 0.0)


def test_uniform_in_angle_is_not_uniform_on_the_sphere() -> None:
    elevation = draw(Get3dPrior(elevation_deg=(0, 90)), 6000).elevation
    assert_mean(np.rad2deg(elevation), 45.0)
    assert np.sin(elevation).mean() > 0.6


def test_radius_and_lens_of_every_view_are_drawn_apart() -> None:
    camera = draw(LrmPrior(fov_y_deg=(30, 70)), 6000)
    fov = np.rad2deg(camera.fov_y)
    assert_mean(camera.radius, 2.15)
    assert_mean((camera.radius - 2.15) ** 2, 1.3**2 / 12)
    assert_mean(fov, 50.0)
    assert_mean((fov - 50.0) ** 2, 40**2 / 12)
    assert abs(np.corrcoef(camera.radius, fov)[0, 1]) < 0.05
    assert abs(np.corrcoef(camera.elevation, fov)[0, 1]) < 0.05


@pytest.mark.parametrize("count", [1, 5, 24])
def test_ring_has_equal_steps(count: int) -> None:
    still = draw(RingPrior(elevation_deg=-15, random_start=False), count)
    np.testing.assert_allclose(np.rad2deg(still.azimuth), np.arange(count) * 360 / count, atol=1e-9)
    np.testing.assert_allclose(np.rad2deg(still.elevation), -15)
    turned = np.sort(draw(RingPrior(), count).azimuth)
    np.testing.assert_allclose(np.diff(turned), 2 * np.pi / count, atol=1e-9)
    starts = many(RingPrior(), 2000, 1).azimuth
    assert_mean(np.cos(starts), 0.0)
    assert_mean(np.sin(starts), 0.0)


@pytest.mark.parametrize("band", [(-90.0, 90.0), (0.0, 90.0), (-20.0, 50.0)])
def test_fibonacci_covers_evenly(band: tuple[float, float]) -> None:
    """No two cameras are near one another, as they are where each is drawn by itself."""
    count = 200

    def nearest(prior: CameraPrior) -> np.ndarray:
        camera = draw(prior, count, seed=5)
        away = camera.eye / camera.radius[:, None]
        cosine = away @ away.T
        np.fill_diagonal(cosine, -1.0)
        return np.arccos(cosine.max(axis=1))

    share = np.diff(np.sin(np.deg2rad(band)))[0] / 2
    spacing = np.sqrt(4 * np.pi * share / count)  # side of the square that each camera has
    even = nearest(FibonacciPrior(elevation_deg=band))
    assert even.min() > 0.6 * spacing
    assert even.max() < 1.4 * spacing
    assert nearest(LrmPrior(elevation_deg=band)).min() < 0.3 * spacing


def test_fibonacci_without_a_random_start_is_one_set() -> None:
    prior = FibonacciPrior(random_start=False)
    np.testing.assert_array_equal(draw(prior, 9, 1).c2w, draw(prior, 9, 2).c2w)
    assert draw(prior, 9).eye[:, 1].sum() == pytest.approx(0.0, abs=1e-12)


# --- the whole object in frame --------------------------------------------------------------------


@every_prior
@pytest.mark.parametrize("aspect", [1.0, 1.6, 0.4])
@given(seed=st.integers(0, 2**32), radius=st.floats(1e-3, 5))
def test_fit_has_the_ball_in_frame(name: str, aspect: float, seed: int, radius: float) -> None:
    prior = PRIORS[name].model_copy(update={"fit": True})
    fitted = draw(prior, 12, seed, bounding_radius=radius, aspect=aspect)
    assert sphere_in_frame(np.zeros(3), radius, fitted, aspect).all()
    # Only the distance changes, only outwards, and only where it has to.
    free = draw(PRIORS[name], 12, seed, bounding_radius=radius, aspect=aspect)
    np.testing.assert_array_equal(fitted.c2w[:, :3, :3], free.c2w[:, :3, :3])
    np.testing.assert_array_equal(fitted.fov_y, free.fov_y)
    assert (fitted.radius >= free.radius * (1 - 1e-12)).all()
    held = sphere_in_frame(np.zeros(3), radius, free, aspect)
    np.testing.assert_array_equal(fitted.eye[held], free.eye[held])
    assert not sphere_in_frame(np.zeros(3), radius * 1.001, fitted[~held], aspect).any()


def test_fit_without_an_asset_leaves_the_cameras() -> None:
    """The cameras of generated shapes: nobody knows their size before they are made."""
    prior = LrmPrior(fit=True, radius=0.1)
    np.testing.assert_allclose(draw(prior, 5).radius, 0.1)


def test_move_back_of_one_camera() -> None:
    near = orbit(0.4, 0.2, 0.1, 0.7)
    far = move_back(near, 0.5)
    assert far.c2w.shape == (4, 4)
    assert far.radius == pytest.approx(0.5 / np.sin(0.35))
    assert far.azimuth == pytest.approx(0.4)


# --- a still ring of any prior --------------------------------------------------------------------


@every_prior
def test_ring_of_any_prior(name: str) -> None:
    prior = PRIORS[name]
    camera = ring(prior, 8)
    np.testing.assert_allclose(np.rad2deg(camera.azimuth), np.arange(8) * 45, atol=1e-9)
    assert np.ptp(camera.elevation) < 1e-12
    assert prior.band_deg[0] - 1e-9 <= np.rad2deg(camera.elevation[0]) <= prior.band_deg[1] + 1e-9
    np.testing.assert_allclose(camera.radius, np.mean(prior.radius))
    np.testing.assert_allclose(np.rad2deg(camera.fov_y), np.mean(prior.lens_deg))


@pytest.mark.parametrize("name", ["sphere", "hemisphere", "lrm", "get3d"])
def test_half_of_the_cameras_are_above_the_middle(name: str) -> None:
    elevation = np.rad2deg(draw(PRIORS[name], 6000).elevation)
    assert_mean((elevation > PRIORS[name].middle_elevation_deg).astype(float), 0.5)


# --- as data --------------------------------------------------------------------------------------


@every_prior
def test_json_round_trip(name: str) -> None:
    held = Holder(camera=PRIORS[name])
    again = Holder.model_validate_json(held.model_dump_json())
    assert again == held
    assert type(again.camera) is type(PRIORS[name])
    assert held.model_dump(mode="json")["camera"]["sampler"] == name


def test_json_without_a_sampler_is_get3d() -> None:
    old = {"azimuth_deg": [0, 360], "elevation_deg": [0, 40], "radius": [1.82, 1.82]}
    read = Holder.model_validate({"camera": {**old, "fov_y_deg": 29.3135}}).camera
    want = Get3dPrior(elevation_deg=(0, 40), radius=(1.82, 1.82), fov_y_deg=29.3135)
    assert read == want
    assert not read.fit


def test_the_command_line_chooses_a_sampler() -> None:
    sets = ["camera.sampler=lrm", "camera.radius=[1.5, 2.2]", "camera.fov_y_deg=49.1"]
    got = resolve(Holder, sets=sets).camera
    assert got == LrmPrior(radius=(1.5, 2.2), fov_y_deg=(49.1, 49.1))
    assert resolve(Holder, sets=["camera.sampler=fibonacci", "camera.fit=true"]).camera.fit


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["camera.sampler=fibonaci"], "one of: get3d, sphere, hemisphere, ring, fibonacci, lrm"),
        (["camera.sampler=ring", "camera.azimuth_deg=[0,9]"], "azimuth_deg: unknown key"),
        (["camera.elevation_deg=[40, 10]"], "the lower end 40 is above the upper one 10"),
        (["camera.sampler=fibonacci", "camera.elevation_deg=[0, 91]"], "less than or equal to 90"),
        (["camera.sampler=lrm", "camera.radius=[0, 1]"], "greater than 0"),
        (["camera.sampler=sphere", "camera.fov_y_deg=180"], "less than 180"),
        (["camera=3"], "one of: get3d"),
    ],
)
def test_what_does_not_fit_is_said(sets: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(Holder, sets=sets)
    assert message in caught.value.message


def test_dataset_json_carries_the_sampler() -> None:
    fields = records.DatasetInfo.model_fields
    assert fields["camera"].rebuild_annotation() == AnyCameraPrior
