"""What every renderer takes and gives: settings in, views out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from pydantic import Field

from ..config import Config
from .cameras import Camera
from .meshes import Mesh


class RenderSettings(Config):
    """All that changes a pixel, apart from the mesh and the cameras."""

    size: int = Field(128, ge=1, le=4096)
    """Width and height of an image (pixels)."""
    supersample: int = Field(4, ge=1, le=16)
    """Samples per pixel along each axis."""
    light: Literal["rig", "flat"] = "rig"
    """`rig`: the fixed light rig of docs/conventions.md; `flat`: albedo as it is."""


@dataclass(frozen=True)
class Views:
    """Images of one mesh, row 0 = top.

    Attributes:
        rgba: uint8 ``[N, H, W, 4]``, sRGB with straight alpha; alpha is soft coverage.
        depth: float32 ``[N, H, W]``, planar distance along the camera axis; 0 where alpha is 0.
        normal: float32 ``[N, H, W, 3]``, world space, unit length; 0 where alpha is 0.
    """

    rgba: np.ndarray
    depth: np.ndarray
    normal: np.ndarray


class Renderer(Protocol):
    """Renders a mesh from cameras."""

    name: str
    version: str

    def render(self, mesh: Mesh, cameras: Camera, settings: RenderSettings) -> Views:
        """Render ``mesh`` once from each of ``cameras`` (``[N]``)."""
        ...
