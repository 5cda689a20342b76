"""Cameras: conventions that every image and pose of a dataset depends on."""

from __future__ import annotations

import numpy as np
import pytest
from g3d.manifests.records import Get3dPrior
from g3d.renderers.cameras import (
    Camera,
    look_at,
    opencv_to_opengl,
    opengl_to_opencv,
    orbit,
    project,
    ring,
    sample_cameras,
    sphere_in_frame,
    unproject,
)
from hypothesis import given, settings
from hypothesis import strategies as st

FOV = np.deg2rad(49.134)
ANGLE = st.floats(0, 2 * np.pi, exclude_max=True)
ELEVATION = st.floats(-1.5, 1.5)
RADIUS = st.floats(0.2, 10)
few = settings(deadline=None, max_examples=40)


@few
@given(ANGLE, st.floats(-np.pi / 2, np.pi / 2), RADIUS)
def test_rotation_is_rigid_and_inverse_is_exact(azimuth: float, elevation: float, radius: float):
    camera = orbit(azimuth, elevation, radius, FOV)
    rotation = camera.c2w[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(camera.c2w @ camera.w2c, np.eye(4), atol=1e-12)


@few
@given(ANGLE, ELEVATION, RADIUS)
def test_angles_round_trip(azimuth: float, elevation: float, radius: float):
    camera = orbit(azimuth, elevation, radius, FOV)
    turn = (camera.azimuth - azimuth + np.pi) % (2 * np.pi) - np.pi
    assert abs(turn) < 1e-9
    assert 0 <= camera.azimuth < 2 * np.pi
    assert camera.elevation == pytest.approx(elevation, abs=1e-7)
    assert camera.radius == pytest.approx(radius)


@few
@given(ANGLE, ELEVATION, RADIUS)
def test_orbit_agrees_with_look_at(azimuth: float, elevation: float, radius: float):
    camera = orbit(azimuth, elevation, radius, FOV)
    np.testing.assert_allclose(look_at(camera.eye), camera.c2w, atol=1e-7)


def test_azimuth_zero_is_on_z_and_grows_counter_clockwise_from_above():
    camera = orbit(np.deg2rad([0, 90, 180, 270]), 0.0, 2.0, FOV)
    want = [[0, 0, 2], [2, 0, 0], [0, 0, -2], [-2, 0, 0]]
    np.testing.assert_allclose(camera.eye, want, atol=1e-12)
    # Seen from above (+Y, with +X right and +Z down) +Z to +X is counter-clockwise: the cross
    # product of two steps points up.
    assert np.cross(camera.eye[0], camera.eye[1])[1] > 0


def test_axes_are_opengl():
    camera = orbit(0.0, 0.0, 2.0, FOV)
    np.testing.assert_allclose(camera.c2w[:3, :3], np.eye(3), atol=1e-12)
    high = orbit(0.0, 0.5, 2.0, FOV)
    assert high.eye[1] > 0
    assert high.c2w[1, 1] > 0  # The camera's up stays up.


def test_azimuth_is_never_two_pi():
    eye = np.array([-1e-20, 0.0, 1.0])
    assert Camera(look_at(eye), np.array(FOV)).azimuth == 0.0


@pytest.mark.parametrize("sign", [1, -1])
def test_poles_keep_azimuth(sign: int):
    pole = orbit(1.0, sign * np.pi / 2, 2.0, FOV)
    near = orbit(1.0, sign * (np.pi / 2 - 1e-6), 2.0, FOV)
    np.testing.assert_allclose(pole.c2w, near.c2w, atol=1e-5)
    straight = look_at(np.array([0.0, sign * 2.0, 0.0]))
    np.testing.assert_allclose(straight, orbit(0.0, sign * np.pi / 2, 2.0, FOV).c2w, atol=1e-12)


def test_look_at_refuses_its_own_target():
    with pytest.raises(ValueError, match="target"):
        look_at(np.zeros((2, 3)))


@few
@given(
    st.tuples(*[st.floats(-3, 3)] * 3), st.tuples(*[st.floats(-1, 1)] * 3),
    st.integers(16, 300), st.integers(16, 300),
)  # fmt: skip
def test_target_is_at_the_centre_of_the_image(eye, target, height, width):
    eye, target = np.array(eye), np.array(target)
    if np.linalg.norm(eye - target) < 0.1:
        return
    camera = Camera(look_at(eye, target), np.array(FOV))
    pixel = project(target[None], camera, height, width)[0]
    np.testing.assert_allclose(pixel, [width / 2, height / 2], atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(128, 128), (96, 160), (200, 50)])
def test_project_of_known_points(height: int, width: int):
    camera = orbit(0.0, 0.0, 2.0, FOV)
    top = 2.0 * np.tan(FOV / 2)  # At distance 2 this height fills the upper half of the image.
    points = np.array([[0, top, 0], [0, -top, 0], [top * width / height, 0, 0], [0.1, 0.1, 0]])
    pixel = project(points, camera, height, width)
    np.testing.assert_allclose(pixel[0], [width / 2, 0], atol=1e-9)
    np.testing.assert_allclose(pixel[1], [width / 2, height], atol=1e-9)
    np.testing.assert_allclose(pixel[2], [width, height / 2], atol=1e-9)
    assert pixel[3, 0] > width / 2  # +X is right, from the front
    assert pixel[3, 1] < height / 2  # +Y is up, so a smaller row


def test_pixels_are_square_and_match_the_intrinsics():
    camera = orbit(np.array([0.3, 2.0]), 0.2, 1.5, FOV)
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.4, 0.4, (20, 3))
    pixel = project(points, camera, 90, 140)
    w2c = np.linalg.inv(opengl_to_opencv(camera.c2w))
    local = points @ np.swapaxes(w2c[:, :3, :3], 1, 2) + w2c[:, None, :3, 3]
    seen = local @ np.swapaxes(camera.intrinsics(90, 140), 1, 2)
    np.testing.assert_allclose(pixel, seen[..., :2] / seen[..., 2:], atol=1e-9)
    assert (local[..., 2] > 0).all()  # OpenCV cameras look along +Z.


@few
@given(ANGLE, ELEVATION, st.integers(8, 300), st.integers(8, 300), st.integers(0, 2**31))
def test_unproject_is_the_inverse_of_project(azimuth, elevation, height, width, seed):
    rng = np.random.default_rng(seed)
    camera = orbit(azimuth + np.array([0.0, 1.0]), elevation, 2.0, rng.uniform(0.2, 2.0, 2))
    points = rng.uniform(-0.5, 0.5, (2, 7, 3))
    depth = -np.einsum("npj,nj->np", points - camera.eye[:, None], camera.c2w[:, :3, 2])
    pixel = project(points, camera, height, width)
    np.testing.assert_allclose(unproject(pixel, depth, camera, height, width), points, atol=1e-9)


def test_opencv_round_trip():
    c2w = orbit(np.linspace(0, 6, 5), 0.3, 1.2, FOV).c2w
    np.testing.assert_array_equal(opencv_to_opengl(opengl_to_opencv(c2w)), c2w)
    np.testing.assert_allclose(np.linalg.det(opengl_to_opencv(c2w)[:, :3, :3]), 1.0)


@pytest.mark.parametrize("aspect", [1.0, 1.6, 0.5])
def test_sphere_in_frame_agrees_with_projected_points(aspect: float):
    rng = np.random.default_rng(1)
    camera = orbit(rng.uniform(0, 6, 60), rng.uniform(-1, 1, 60), rng.uniform(0.8, 3, 60), FOV)
    center = rng.uniform(-0.2, 0.2, 3)
    shell = rng.normal(size=(40000, 3))
    shell = center + 0.45 * shell / np.linalg.norm(shell, axis=1, keepdims=True)
    pixel = project(shell, camera, 100, round(100 * aspect))
    inside = ((pixel >= 0) & (pixel <= [100 * aspect, 100])).all(axis=(1, 2))
    # A ball 2 % smaller or larger settles the cases on the edge.
    assert not (inside & ~sphere_in_frame(center, 0.44, camera, aspect)).any()
    assert not (~inside & sphere_in_frame(center, 0.46, camera, aspect)).any()
    assert inside.any()
    assert not inside.all()


def test_sphere_around_or_behind_the_camera_is_not_in_frame():
    camera = orbit(0.0, 0.0, 1.0, FOV)
    assert not sphere_in_frame(np.zeros(3), 1.1, camera)
    assert not sphere_in_frame(np.array([0.0, 0.0, 5.0]), 0.1, camera)


def test_samples_keep_to_the_prior_and_to_the_seed():
    prior = Get3dPrior(
        azimuth_deg=(30, 60), elevation_deg=(-10, 20), radius=(1.0, 2.0), fov_y_deg=40
    )
    one = sample_cameras(prior, 500, np.random.default_rng(3))
    two = sample_cameras(prior, 500, np.random.default_rng(3))
    np.testing.assert_array_equal(one.c2w, two.c2w)
    for got, (low, high) in (
        (np.rad2deg(one.azimuth), (30, 60)),
        (np.rad2deg(one.elevation), (-10, 20)),
        (one.radius, (1, 2)),
    ):
        assert low - 1e-9 <= got.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < got.max() <= high + 1e-9
    np.testing.assert_allclose(np.rad2deg(one.fov_y), 40)


def test_ring_is_even():
    camera = ring(Get3dPrior(elevation_deg=(0, 20), radius=(1, 3)), 8)
    np.testing.assert_allclose(np.rad2deg(camera.azimuth), np.arange(8) * 45, atol=1e-9)
    np.testing.assert_allclose(np.rad2deg(camera.elevation), 10)
    np.testing.assert_allclose(camera.radius, 2)
