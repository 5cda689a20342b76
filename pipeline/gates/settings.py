"""The thresholds of the quality gates. What each rule looks at: :mod:`.rules`."""

from __future__ import annotations

from pydantic import Field

from ...config import Config


class GateSettings(Config):
    """Thresholds; an asset beyond one is rejected, with the reason in brackets."""

    max_triangles: int = Field(5_000_000, ge=1)
    """[triangles] More triangles than this are not rendered."""
    min_side_ratio: float = Field(0.0, ge=0, le=1)
    """[extent] Least ratio of the shortest to the longest side of the box; 0 lets plates pass."""
    allow_animated: bool = True
    """[animated] Take files with an animation, as their first frame has it."""
    max_missing_textures: float | None = Field(None, ge=0, le=1)
    """[missing_texture] Largest share of the textures that may not be there; unset: any."""
    max_objects: int | None = Field(None, ge=1)
    """[several_objects] Most things that may stand apart from each other; unset: any number."""
    object_gap: float = Field(0.025, ge=0.01, le=0.5)
    """[several_objects] What is nearer than this share of the longest side is one thing."""
    min_object_share: float = Field(0.05, ge=0, le=1)
    """[several_objects] Least area of a thing that counts, as a share of the largest one's."""
    max_transparent_area: float = Field(1.0, ge=0, le=1)
    """[transparent] Largest share of the surface that its materials make see-through; 1: any."""
    min_coverage: float = Field(0.005, ge=0, le=1)
    """[blank] Least mean share of covered pixels, over all views."""
    max_coverage: float = Field(0.98, ge=0, le=1)
    """[out_of_frame] Largest mean share of covered pixels, over all views."""
    max_border_share: float = Field(1.0, ge=0, le=1)
    """[out_of_frame] Largest share of views that the object may leave; 1 only records it."""
    max_transparent: float = Field(0.9, ge=0, le=1)
    """[transparent] Largest share of the object's pixels, edges aside, that are see-through."""
    min_colour_spread: float = Field(0.0, ge=0, le=1)
    """[single_colour] Least standard deviation of its colours without light; 0: plain ones pass."""
    min_luminance: float = Field(0.0, ge=0, le=1)
    """[luminance] Least mean brightness of the object's pixels; 0: any."""
    max_luminance: float = Field(1.0, ge=0, le=1)
    """[luminance] Largest mean brightness of the object's pixels; 1: any."""
    min_pose_cover: float = Field(0.95, ge=0, le=1)
    """[pose] Least share of the saved alpha that the projected mesh must explain in every view."""
    min_pose_iou: float = Field(0.6, ge=0, le=1)
    """[pose] Least mean IoU of both, where every material is opaque."""
