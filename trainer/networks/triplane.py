"""Reading tri-planes: at points, and on a whole lattice at once.

Planes are ordered XY, YZ, XZ; the first coordinate of a plane indexes its width. Coordinates in
[-1, 1] span the plane from the centre of its first texel to the centre of its last.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

AXES = ((0, 1), (1, 2), (0, 2))  # (width, height) axis of each plane


def sample_points(planes: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Sum of the three bilinear samples.

    Args:
        planes: ``[B, 3, C, R, R]``.
        points: ``[B, P, 3]`` in [-1, 1]; outside, the border value is taken.

    Returns:
        ``[B, P, C]``.
    """
    batch, _, channels, height, width = planes.shape
    grid = torch.stack([points[..., list(axes)] for axes in AXES], dim=1)  # [B, 3, P, 2]
    samples = F.grid_sample(
        planes.reshape(batch * 3, channels, height, width),
        grid.reshape(batch * 3, 1, -1, 2),
        mode="bilinear",
        padding_mode="border",
        align_corners=True,
    )  # [B*3, C, 1, P]
    return samples.reshape(batch, 3, channels, -1).sum(dim=1).transpose(1, 2)


def interpolation_matrix(coordinates: torch.Tensor, resolution: int) -> torch.Tensor:
    """Matrix ``[N, R]``: samples a row of R texels linearly at ``coordinates [N]`` in [-1, 1]."""
    position = (coordinates.clamp(-1, 1) + 1) * 0.5 * (resolution - 1)
    low = position.floor().clamp(max=resolution - 2).long()
    fraction = position - low
    matrix = torch.zeros(len(coordinates), resolution, dtype=position.dtype)
    rows = torch.arange(len(coordinates))
    matrix[rows, low] = 1 - fraction
    matrix[rows, low + 1] += fraction
    return matrix


def sample_volume(volume: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Trilinear samples of a volume.

    Args:
        volume: ``[B, C, X, Y, Z]``; -1 and 1 are the centres of the outermost voxels.
        points: ``[B, P, 3]``; outside, the border value is taken.

    Returns:
        ``[B, C, P]``.
    """
    grid = points.flip(-1)[:, None, None]  # [B, 1, 1, P, (z, y, x)]: the last axis comes first
    samples = F.grid_sample(volume, grid, padding_mode="border", align_corners=True)
    return samples.flatten(2)


def sample_volume_lattice(volume: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """:func:`sample_volume` at all nodes of a cubic lattice, by one matrix product an axis.

    Args:
        volume: ``[B, C, R, R, R]``.
        matrix: ``[N, R]`` of :func:`interpolation_matrix`.

    Returns:
        ``[B, C, N, N, N]``, axes x, y, z.
    """
    resampled = matrix @ volume @ matrix.t()  # y and z
    shape = (*volume.shape[:2], -1, *resampled.shape[3:])
    return (matrix @ resampled.flatten(3)).reshape(shape)


def sample_lattice(planes: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Sum of the three samples at every node of a cubic lattice, without visiting the nodes.

    Bilinear sampling on a lattice is separable, and a tri-plane feature is a sum of functions of
    two coordinates each: so each plane is resampled to ``N x N`` by two small matrix products and
    the three are broadcast against each other. Equal to :func:`sample_points` on the nodes.

    Args:
        planes: ``[B, 3, C, R, R]``.
        matrix: ``[N, R]`` of :func:`interpolation_matrix`, the same for every axis.

    Returns:
        ``[B, C, N, N, N]``, axes x, y, z.
    """
    return spread_maps(resample_planes(planes, matrix))


def resample_planes(planes: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Planes ``[B, 3, C, R, R]`` at the nodes of a lattice's faces: ``[B, 3, C, N, N]``."""
    return matrix @ planes @ matrix.t()


def spread_maps(maps: torch.Tensor) -> torch.Tensor:
    """Sum of three maps ``[B, 3, C, N(height), N(width)]`` over the lattice, ``[B, C, N, N, N]``.

    Axes of the result: x, y, z.
    """
    xy, yz, xz = maps.unbind(1)
    return (
        xy.transpose(2, 3)[:, :, :, :, None]
        + yz.transpose(2, 3)[:, :, None, :, :]
        + xz.transpose(2, 3)[:, :, :, None, :]
    )
