"""Quality gates: what a mesh and its images must be for the asset to be accepted."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ..config import Config
from ..errors import AssetError
from ..renderers.base import Views
from ..renderers.meshes import Material, Mesh, bounds, face_areas

VISIBLE = 8
"""Alpha (of 255) from which a pixel counts as touched by the object."""
PROBES = 4
"""First views of which one must show a sensible part of the object, or the rest is not rendered."""
FINEST = 1e-3
"""Largest distance between neighbouring float32 positions, in extents of the asset."""
MAGENTA_SHARE = 0.5
"""Share of an asset's solid pixels in the colour of a texture that is not there."""


class GateSettings(Config):
    """Thresholds; an asset beyond one is rejected, with the reason in brackets."""

    max_triangles: int = Field(5_000_000, ge=1)
    """[import] More triangles than this are not rendered."""
    min_coverage: float = Field(0.005, ge=0, le=1)
    """[blank] Least mean share of covered pixels, over all views."""
    max_coverage: float = Field(0.98, ge=0, le=1)
    """[out_of_frame] Largest mean share of covered pixels, over all views."""
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
    low, high = bounds(mesh)
    step = float(np.spacing(np.float32(np.abs((low, high)).max())))
    if step > FINEST * float((high - low).max()):
        raise AssetError(
            "import",
            f"it is {float((high - low).max()):.3g} long and so far from its origin that positions "
            f"are rounded to {step:.3g}",
            stage="gate",
        )


def coverage(rgba: np.ndarray) -> np.ndarray:
    """Mean alpha of every view: float64 ``[N]`` in 0..1, from uint8 ``[N, H, W, 4]``."""
    return rgba[..., 3].mean(axis=(1, 2), dtype=np.float64) / 255.0


def touches_border(rgba: np.ndarray) -> np.ndarray:
    """Whether the object reaches the edge of the image: bool ``[N]``."""
    alpha = rgba[..., 3]
    edge = np.concatenate([alpha[:, 0], alpha[:, -1], alpha[:, :, 0], alpha[:, :, -1]], axis=1)
    return np.asarray((edge >= VISIBLE).any(axis=1))


def is_worth_the_rest(covered: np.ndarray, gates: GateSettings) -> bool:
    """Whether the first views let expect that the others show something.

    A thin object may be seen from its edge, and a cube may fill a view: only if the first
    :data:`PROBES` views are all like that is the asset given up before the others are rendered.

    Args:
        covered: Share of covered pixels of the views so far ``[n]``.
        gates: The thresholds.

    Returns:
        False if one more view should be looked at alone.

    Raises:
        AssetError: ``blank`` or ``out_of_frame``.
    """
    sensible = (covered >= gates.min_coverage) & (covered <= gates.max_coverage)
    if len(covered) >= PROBES and not sensible.any():
        check_views(covered, np.zeros(len(covered), bool), gates)
    if not covered.all():  # not one view may be empty, so the verdict is known
        raise AssetError("blank", f"view {len(covered) - 1} shows nothing", stage="gate")
    return bool(sensible.any()) or len(covered) >= PROBES


def check_magenta(views: Views, mesh: Mesh) -> None:
    """Reject images in the colour by which Blender shows that a texture is not there.

    Args:
        views: Their albedo counts, which no light has changed.
        mesh: Of the images; one with magenta in its own colours passes.

    Raises:
        AssetError: ``missing_texture``.
    """
    solid = views.albedo[views.rgba[..., 3] == 255]
    if not len(solid):
        return
    share = float(_is_magenta(solid).mean())
    if share <= MAGENTA_SHARE or any(_has_magenta(m) for m in mesh.materials):
        return
    if mesh.colors is not None and _is_magenta(mesh.colors * 255.0).any():
        return
    raise AssetError(
        "missing_texture", f"{share:.2f} of its pixels are magenta: a texture is lost", stage="gate"
    )


def _is_magenta(rgb: np.ndarray) -> np.ndarray:
    """Whether pixels ``[..., 3+]`` (0..255) are (1, 0, 1) at any brightness that can be told."""
    red, green, blue = (rgb[..., k].astype(np.float32) for k in range(3))
    most = np.maximum(red, blue)
    return np.asarray(
        (most > 40) & (green < 0.05 * most) & (np.abs(red - blue) < 0.1 * most), dtype=bool
    )


def _has_magenta(material: Material) -> bool:
    if _is_magenta(np.asarray(material.base_color) * 255.0):
        return True
    return material.texture is not None and bool(_is_magenta(material.texture).any())


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
    if covered.mean() > gates.max_coverage:
        raise AssetError(
            "out_of_frame",
            f"fills {covered.mean():.4f} of the image, the most is {gates.max_coverage}",
            stage="gate",
        )
    if border.mean() > gates.max_border_share:
        raise AssetError(
            "out_of_frame",
            f"{int(border.sum())} of {len(border)} views are cut by the edge of the image",
            stage="gate",
        )
