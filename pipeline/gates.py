"""Quality gates: what a mesh and its images must be for the asset to be accepted."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ..config import Config
from ..errors import AssetError
from ..renderers.meshes import Mesh, face_areas

VISIBLE = 8
"""Alpha (of 255) from which a pixel counts as touched by the object."""


class GateSettings(Config):
    """Thresholds; an asset beyond one is rejected, with the reason in brackets."""

    max_triangles: int = Field(5_000_000, ge=1)
    """[import] More triangles than this are not rendered."""
    min_coverage: float = Field(0.005, ge=0, le=1)
    """[blank] Least mean share of covered pixels, over all views."""
    max_border_share: float = Field(1.0, ge=0, le=1)
    """[out_of_frame] Largest share of views that the object may leave; 1 only records it."""
    min_pose_cover: float = Field(0.95, ge=0, le=1)
    """[pose] Least share of the saved alpha that the projected mesh must explain in every view."""
    min_pose_iou: float = Field(0.6, ge=0, le=1)
    """[pose] Least mean IoU of both, where every material is opaque."""


def check_mesh(mesh: Mesh, gates: GateSettings) -> None:
    """Reject a mesh that cannot be rendered sensibly.

    Raises:
        AssetError: ``empty_mesh`` or ``import``.
    """
    if not len(mesh.faces) or not len(mesh.vertices):
        raise AssetError("empty_mesh", "the mesh has no face", stage="gate")
    if not np.isfinite(mesh.vertices).all():
        raise AssetError("import", "vertices hold NaN or infinite values", stage="gate")
    if len(mesh.faces) > gates.max_triangles:
        raise AssetError(
            "import",
            f"{len(mesh.faces)} triangles, the limit is {gates.max_triangles} "
            "(--set gates.max_triangles)",
            stage="gate",
        )
    if not face_areas(mesh).any():
        raise AssetError("empty_mesh", "no triangle has an area", stage="gate")


def coverage(rgba: np.ndarray) -> np.ndarray:
    """Mean alpha of every view: float64 ``[N]`` in 0..1, from uint8 ``[N, H, W, 4]``."""
    return rgba[..., 3].mean(axis=(1, 2), dtype=np.float64) / 255.0


def touches_border(rgba: np.ndarray) -> np.ndarray:
    """Whether the object reaches the edge of the image: bool ``[N]``."""
    alpha = rgba[..., 3]
    edge = np.concatenate([alpha[:, 0], alpha[:, -1], alpha[:, :, 0], alpha[:, :, -1]], axis=1)
    return np.asarray((edge >= VISIBLE).any(axis=1))


def check_views(covered: np.ndarray, border: np.ndarray, gates: GateSettings) -> None:
    """Reject images that show nothing or are cut.

    Args:
        covered: Share of covered pixels ``[N]``.
        border: Views that the object leaves, bool ``[N]``.
        gates: The thresholds.

    Raises:
        AssetError: ``blank`` or ``out_of_frame``.
    """
    empty = int((covered == 0).sum())
    if empty:
        raise AssetError("blank", f"{empty} of {len(covered)} views show nothing", stage="gate")
    if covered.mean() < gates.min_coverage:
        raise AssetError(
            "blank",
            f"covers {covered.mean():.4f} of the image, the least is {gates.min_coverage}",
            stage="gate",
        )
    if border.mean() > gates.max_border_share:
        raise AssetError(
            "out_of_frame",
            f"{int(border.sum())} of {len(border)} views are cut by the edge of the image",
            stage="gate",
        )
