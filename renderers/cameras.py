"""Cameras: one value object, look-at and projection matrices, samplers.

World: right-handed, +Y up, +Z front. Camera axes (OpenGL): +X right, +Y up, looks along -Z.
Angles are radians; ``azimuth`` is counter-clockwise about +Y seen from above, 0 on +Z.
Shapes: ``...`` stands for any number of leading (view) axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..manifests.records import CameraPrior

NEAR, FAR = 0.05, 100.0


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
        return np.mod(np.arctan2(self.eye[..., 0], self.eye[..., 2]), 2 * np.pi)

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
        """``projection @ w2c`` ``[..., 4, 4]``."""
        return self.projection(aspect) @ self.w2c


def look_at(eye: np.ndarray, target: np.ndarray | None = None) -> np.ndarray:
    """Camera-to-world matrices ``[..., 4, 4]`` of cameras at ``eye`` ``[..., 3]``.

    The camera's up is as near to +Y as it can be; straight up or down, it is +Z or -Z.
    """
    eye = np.asarray(eye, dtype=np.float64)
    target = np.zeros(3) if target is None else np.asarray(target, dtype=np.float64)
    back = eye - target
    back = back / np.linalg.norm(back, axis=-1, keepdims=True)
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
    azimuth: np.ndarray, elevation: np.ndarray, radius: np.ndarray | float, fov_y: float | np.ndarray
) -> Camera:
    """Cameras on a sphere around the origin, looking at it. All angles in radians."""
    azimuth, elevation, radius, fov = np.broadcast_arrays(
        *(np.asarray(a, dtype=np.float64) for a in (azimuth, elevation, radius, fov_y))
    )
    eye = radius[..., None] * np.stack(
        [np.cos(elevation) * np.sin(azimuth), np.sin(elevation), np.cos(elevation) * np.cos(azimuth)],
        axis=-1,
    )
    return Camera(look_at(eye), fov.copy())


def sample_cameras(prior: CameraPrior, count: int, rng: np.random.Generator) -> Camera:
    """Draw ``count`` cameras from ``prior``, uniform in azimuth and in elevation angle."""
    azimuth = rng.uniform(*np.deg2rad(prior.azimuth_deg), size=count)
    elevation = rng.uniform(*np.deg2rad(prior.elevation_deg), size=count)
    radius = rng.uniform(*prior.radius, size=count)
    return orbit(azimuth, elevation, radius, np.deg2rad(prior.fov_y_deg))


def ring(prior: CameraPrior, count: int, elevation: float | None = None) -> Camera:
    """``count`` cameras at equal azimuth steps, at the prior's middle elevation and radius."""
    middle = float(np.deg2rad(np.mean(prior.elevation_deg))) if elevation is None else elevation
    azimuth = np.arange(count) * (2 * np.pi / count)
    return orbit(azimuth, middle, float(np.mean(prior.radius)), np.deg2rad(prior.fov_y_deg))


def project(points: np.ndarray, cameras: Camera, height: int, width: int) -> np.ndarray:
    """Pixel positions ``[..., P, 2]`` (x right, y down, pixel centres at +0.5) of ``points`` ``[P, 3]``."""
    homogeneous = np.concatenate([points, np.ones((*points.shape[:-1], 1))], axis=-1)
    clip = homogeneous @ np.swapaxes(cameras.world_to_clip(width / height), -1, -2)
    ndc = clip[..., :2] / clip[..., 3:4]
    return np.stack(
        [(ndc[..., 0] + 1.0) * 0.5 * width, (1.0 - ndc[..., 1]) * 0.5 * height], axis=-1
    )
