"""Cameras: one value object, look-at and projection matrices, samplers.

World: right-handed, +Y up, +Z front. Camera axes (OpenGL): +X right, +Y up, looks along -Z.
Angles are radians; ``azimuth`` is counter-clockwise about +Y seen from above, 0 on +Z.
Shapes: ``...`` stands for any number of leading (view) axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch

import numpy as np

from ..manifests.records import (
    CameraPrior,
    FibonacciPrior,
    Get3dPrior,
    HemispherePrior,
    LrmPrior,
    RingPrior,
    SpherePrior,
)

NEAR, FAR = 0.05, 100.0
GOLDEN_ANGLE = np.pi * (3.0 - 5.0**0.5)


@dataclass(frozen=True)
class Camera:
    """One camera or a batch of them.

    Attributes:
        c2w: float64 ``[..., 4, 4]``, camera to world.
        fov_y: float64 ``[...]``, vertical full angle (radians).
    """

    c2w: np.ndarray
    fov_y: np.ndarray

    def __len__(self) -> int:
        return len(self.c2w)

    def __getitem__(self, index: int | slice | np.ndarray) -> Camera:
        return Camera(self.c2w[index], self.fov_y[index])

    @property
    def w2c(self) -> np.ndarray:
        """World to camera ``[..., 4, 4]``, the inverse of a rigid ``c2w``."""
        rotation = np.swapaxes(self.c2w[..., :3, :3], -1, -2)
        out = np.zeros_like(self.c2w)
        out[..., :3, :3] = rotation
        out[..., :3, 3] = -np.einsum("...ij,...j->...i", rotation, self.c2w[..., :3, 3])
        out[..., 3, 3] = 1.0
        return out

    @property
    def eye(self) -> np.ndarray:
        """Position of the camera in the world ``[..., 3]``."""
        return self.c2w[..., :3, 3]

    @property
    def radius(self) -> np.ndarray:
        """Distance from the origin ``[...]``."""
        return np.linalg.norm(self.eye, axis=-1)

    @property
    def azimuth(self) -> np.ndarray:
        """Azimuth ``[...]`` in [0, 2 pi)."""
        angle = np.mod(np.arctan2(self.eye[..., 0], self.eye[..., 2]), 2 * np.pi)
        # The remainder of a tiny negative angle rounds to 2 pi itself.
        return np.where(angle >= 2 * np.pi, 0.0, angle)

    @property
    def elevation(self) -> np.ndarray:
        """Angle above the horizon ``[...]``."""
        return np.arcsin(np.clip(self.eye[..., 1] / self.radius, -1.0, 1.0))

    def projection(self, aspect: float = 1.0) -> np.ndarray:
        """OpenGL projection ``[..., 4, 4]``: camera space to clip space, NDC +Y up."""
        focal = 1.0 / np.tan(0.5 * self.fov_y)
        out = np.zeros((*self.fov_y.shape, 4, 4))
        out[..., 0, 0] = focal / aspect
        out[..., 1, 1] = focal
        out[..., 2, 2] = -(FAR + NEAR) / (FAR - NEAR)
        out[..., 2, 3] = -2.0 * FAR * NEAR / (FAR - NEAR)
        out[..., 3, 2] = -1.0
        return out

    def world_to_clip(self, aspect: float = 1.0) -> np.ndarray:
        """``projection @ w2c`` ``[..., 4, 4]``; ``aspect`` = width / height."""
        return self.projection(aspect) @ self.w2c

    def intrinsics(self, height: int, width: int) -> np.ndarray:
        """Pinhole matrix ``[..., 3, 3]`` in pixels, for OpenCV axes (y down, z forward)."""
        focal = 0.5 * height / np.tan(0.5 * self.fov_y)
        out = np.zeros((*self.fov_y.shape, 3, 3))
        out[..., 0, 0] = out[..., 1, 1] = focal
        out[..., 0, 2], out[..., 1, 2], out[..., 2, 2] = 0.5 * width, 0.5 * height, 1.0
        return out


def opengl_to_opencv(c2w: np.ndarray) -> np.ndarray:
    """``c2w`` ``[..., 4, 4]`` with camera axes +X right, +Y down, looking along +Z."""
    return c2w * np.array([1.0, -1.0, -1.0, 1.0])


def opencv_to_opengl(c2w: np.ndarray) -> np.ndarray:
    """Inverse of :func:`opengl_to_opencv`, which is the same change of two signs."""
    return opengl_to_opencv(c2w)


def look_at(eye: np.ndarray, target: np.ndarray | None = None) -> np.ndarray:
    """Camera-to-world matrices ``[..., 4, 4]`` of cameras at ``eye`` ``[..., 3]``.

    The camera's up is as near to +Y as it can be. Straight above the target it is -Z, straight
    below +Z, as for a camera that came there from azimuth 0.

    Raises:
        ValueError: An eye is at its target.
    """
    eye = np.asarray(eye, dtype=np.float64)
    target = np.zeros(3) if target is None else np.asarray(target, dtype=np.float64)
    back = eye - target
    distance = np.linalg.norm(back, axis=-1, keepdims=True)
    if not (distance > 0).all():
        raise ValueError("look_at: an eye is at its target")
    back = back / distance
    up = np.broadcast_to(np.array([0.0, 1.0, 0.0]), back.shape).copy()
    pole = np.abs(back[..., 1]) > 1.0 - 1e-9
    up[pole] = np.stack(
        [np.zeros(pole.sum()), np.zeros(pole.sum()), -np.sign(back[..., 1][pole])], axis=-1
    )
    right = np.cross(up, back)
    right = right / np.linalg.norm(right, axis=-1, keepdims=True)
    out = np.zeros((*eye.shape[:-1], 4, 4))
    out[..., :3, 0] = right
    out[..., :3, 1] = np.cross(back, right)
    out[..., :3, 2] = back
    out[..., :3, 3] = eye
    out[..., 3, 3] = 1.0
    return out


def orbit(
    azimuth: np.ndarray | float,
    elevation: np.ndarray | float,
    radius: np.ndarray | float,
    fov_y: np.ndarray | float,
) -> Camera:
    """Cameras on a sphere around the origin, looking at it. All angles in radians.

    The axes come from the angles and not from :func:`look_at`, so that azimuth keeps its meaning
    straight above and below.
    """
    azimuth, elevation, radius, fov = np.broadcast_arrays(
        *(np.asarray(a, dtype=np.float64) for a in (azimuth, elevation, radius, fov_y))
    )
    sin_a, cos_a = np.sin(azimuth), np.cos(azimuth)
    sin_e, cos_e = np.sin(elevation), np.cos(elevation)
    zero = np.zeros_like(sin_a)
    c2w = np.zeros((*azimuth.shape, 4, 4))
    c2w[..., :3, 0] = np.stack([cos_a, zero, -sin_a], axis=-1)
    c2w[..., :3, 1] = np.stack([-sin_e * sin_a, cos_e, -sin_e * cos_a], axis=-1)
    c2w[..., :3, 2] = np.stack([cos_e * sin_a, sin_e, cos_e * cos_a], axis=-1)
    c2w[..., :3, 3] = radius[..., None] * c2w[..., :3, 2]
    c2w[..., 3, 3] = 1.0
    return Camera(c2w, fov.copy())


def sample_cameras(
    prior: CameraPrior,
    count: int,
    rng: np.random.Generator,
    bounding_radius: float | None = None,
    aspect: float = 1.0,
) -> Camera:
    """Draw ``count`` cameras from ``prior``: a function of these arguments and of nothing else.

    With ``prior.fit`` the cameras are moved back until a ball about the origin is in frame. Without
    a ``bounding_radius`` there is nothing to fit and they stay where they were drawn.

    Args:
        prior: Any sampler of ``manifests.records.AnyCameraPrior``.
        count: Number of cameras.
        rng: Source of the random numbers.
        bounding_radius: Radius of the asset's ball about the origin.
        aspect: Width / height of the image.
    """
    cameras = _draw(prior, count, rng)
    if prior.fit and bounding_radius is not None:
        return move_back(cameras, bounding_radius, aspect)
    return cameras


@singledispatch
def _draw(prior: CameraPrior, count: int, rng: np.random.Generator) -> Camera:
    """The cameras of one kind of prior, before they are fitted."""
    raise TypeError(f"no way to draw from {type(prior).__name__}")


@_draw.register
def _(prior: Get3dPrior, count: int, rng: np.random.Generator) -> Camera:
    azimuth = np.deg2rad(rng.uniform(*prior.azimuth_deg, size=count))
    elevation = np.deg2rad(rng.uniform(*prior.elevation_deg, size=count))
    radius = rng.uniform(*prior.radius, size=count)
    return orbit(azimuth, elevation, radius, np.deg2rad(prior.fov_y_deg))


@_draw.register(SpherePrior)
@_draw.register(HemispherePrior)
@_draw.register(LrmPrior)
def _(prior: CameraPrior, count: int, rng: np.random.Generator) -> Camera:
    azimuth = rng.uniform(0.0, 2 * np.pi, size=count)
    elevation = _at_height(prior, rng.uniform(size=count))
    radius = rng.uniform(*prior.radius, size=count)
    return orbit(azimuth, elevation, radius, np.deg2rad(rng.uniform(*prior.lens_deg, size=count)))


@_draw.register
def _(prior: RingPrior, count: int, rng: np.random.Generator) -> Camera:
    start = rng.uniform() if prior.random_start else 0.0
    azimuth = (np.arange(count) + start) * (2 * np.pi / max(count, 1))
    radius = rng.uniform(*prior.radius, size=count)
    return orbit(azimuth, np.deg2rad(prior.elevation_deg), radius, np.deg2rad(prior.fov_y_deg))


@_draw.register
def _(prior: FibonacciPrior, count: int, rng: np.random.Generator) -> Camera:
    # The shift makes every single camera uniform on the band, however many are drawn at a time:
    # generated shapes, seen in batches, get the distribution of the real ones.
    turn, shift = rng.uniform(size=2) if prior.random_start else (0.0, 0.5)
    steps = np.arange(count)
    azimuth = steps * GOLDEN_ANGLE + turn * 2 * np.pi
    elevation = _at_height(prior, (steps + shift) / max(count, 1))
    radius = rng.uniform(*prior.radius, size=count)
    return orbit(azimuth, elevation, radius, np.deg2rad(prior.fov_y_deg))


def _at_height(prior: CameraPrior, share: np.ndarray) -> np.ndarray:
    """Elevations below which ``share`` (0..1) of the area of the prior's band lies.

    A zone's area is proportional to its height (Archimedes).
    """
    low, high = np.sin(np.deg2rad(prior.band_deg))
    return np.arcsin(np.clip(low + (high - low) * share, -1.0, 1.0))


def move_back(cameras: Camera, bounding_radius: float, aspect: float = 1.0) -> Camera:
    """Cameras that see a ball about the origin whole: farther along their axis where needed.

    Args:
        cameras: Looking at the origin, ``[...]``.
        bounding_radius: Of the ball.
        aspect: Width / height of the image.
    """
    half_y = 0.5 * cameras.fov_y
    half = np.minimum(half_y, np.arctan(np.tan(half_y) * aspect))
    needed = np.maximum(bounding_radius / np.sin(half), bounding_radius + NEAR)
    # A hair more, so that rounding does not undo what was promised.
    radius = np.maximum(cameras.radius, needed * (1.0 + 1e-9))
    c2w = cameras.c2w.copy()
    c2w[..., :3, 3] = np.where(
        (radius > cameras.radius)[..., None], radius[..., None] * c2w[..., :3, 2], cameras.eye
    )
    return Camera(c2w, cameras.fov_y)


def ring(prior: CameraPrior, count: int, elevation: float | None = None) -> Camera:
    """``count`` cameras at equal azimuth steps, with the prior's middle elevation, radius, lens."""
    middle = float(np.deg2rad(prior.middle_elevation_deg)) if elevation is None else elevation
    azimuth = np.arange(count) * (2 * np.pi / count)
    lens = float(np.deg2rad(np.mean(prior.lens_deg)))
    return orbit(azimuth, middle, float(np.mean(prior.radius)), lens)


def project(points: np.ndarray, cameras: Camera, height: int, width: int) -> np.ndarray:
    """Pixel positions ``[..., P, 2]`` of ``points`` ``[P, 3]`` or ``[..., P, 3]``.

    x is right, y is down, pixel centres are at +0.5. Points behind a camera get the position of
    their mirror image: test the depth beforehand.
    """
    homogeneous = np.concatenate([points, np.ones((*points.shape[:-1], 1))], axis=-1)
    clip = homogeneous @ np.swapaxes(cameras.world_to_clip(width / height), -1, -2)
    ndc = clip[..., :2] / clip[..., 3:4]
    return np.stack(
        [(ndc[..., 0] + 1.0) * 0.5 * width, (1.0 - ndc[..., 1]) * 0.5 * height], axis=-1
    )


def unproject(
    pixels: np.ndarray, depth: np.ndarray, cameras: Camera, height: int, width: int
) -> np.ndarray:
    """World positions ``[..., P, 3]`` of ``pixels`` ``[..., P, 2]`` at a depth.

    ``depth`` ``[..., P]`` is planar, along the camera axis. Inverse of :func:`project`.
    """
    half = np.tan(0.5 * cameras.fov_y)[..., None]
    x = (2.0 * pixels[..., 0] / width - 1.0) * half * (width / height)
    y = (1.0 - 2.0 * pixels[..., 1] / height) * half
    ray = np.stack(np.broadcast_arrays(x, y, -np.ones_like(x)), axis=-1)
    local = ray * np.asarray(depth)[..., None]
    rotation = np.swapaxes(cameras.c2w[..., :3, :3], -1, -2)
    return local @ rotation + cameras.eye[..., None, :]


def sphere_in_frame(
    center: np.ndarray, radius: np.ndarray | float, cameras: Camera, aspect: float = 1.0
) -> np.ndarray:
    """Whether a ball is wholly inside each camera's image: bool ``[...]``.

    The ball must be on the inner side of the four side planes and in front of the near plane.

    Args:
        center: Of the ball, world ``[..., 3]``.
        radius: Of the ball ``[...]``.
        cameras: ``[...]``.
        aspect: Width / height of the image.
    """
    offset = np.asarray(center, np.float64) - cameras.eye
    local = np.einsum("...ij,...i->...j", cameras.c2w[..., :3, :3], offset)
    half_y = 0.5 * cameras.fov_y
    half_x = np.arctan(np.tan(half_y) * aspect)
    ahead = -local[..., 2]
    inside_x = ahead * np.sin(half_x) - np.abs(local[..., 0]) * np.cos(half_x) >= radius
    inside_y = ahead * np.sin(half_y) - np.abs(local[..., 1]) * np.cos(half_y) >= radius
    return inside_x & inside_y & (ahead - radius >= NEAR)
