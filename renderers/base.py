"""What every renderer takes and gives: an asset opened as a scene, settings in, views out."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from pydantic import Field

from ..config import Config
from .cameras import Camera
from .meshes import Mesh


class RenderSettings(Config):
    """All that changes a pixel, apart from the mesh, the cameras and a renderer's own settings."""

    size: int = Field(128, ge=1, le=4096)
    """Height of an image (pixels), and its width unless `width` is given."""
    width: int | None = Field(None, ge=1, le=4096)
    """Width of an image (pixels); unset: square."""
    supersample: int = Field(4, ge=1, le=16)
    """[raster] Samples per pixel along each axis."""
    light: Literal["rig", "get3d", "pbr", "flat"] = "rig"
    """[raster] Lights of docs/conventions.md. `rig`: diffuse, the same from every camera; `get3d`:
    the same with lights like those of GET3D's images; `pbr`: metal, gloss and emission under the
    lights of `rig`; `flat`: albedo as it is."""

    @property
    def resolution(self) -> tuple[int, int]:
        """Height and width (pixels)."""
        return self.size, self.width or self.size


@dataclass(frozen=True)
class Views:
    """Images of one mesh, row 0 = top.

    Attributes:
        rgba: uint8 ``[N, H, W, 4]``, sRGB with straight alpha; alpha is soft coverage.
        depth: float32 ``[N, H, W]``, planar distance along the camera axis; 0 where alpha is 0.
        normal: float32 ``[N, H, W, 3]``, world space, unit length; 0 where alpha is 0.
        albedo: uint8 ``[N, H, W, 3]`` sRGB, base colour without light; 0 where alpha is 0.
    """

    rgba: np.ndarray
    depth: np.ndarray
    normal: np.ndarray
    albedo: np.ndarray


class Scene(Protocol):
    """One asset in a renderer, until that renderer opens another one."""

    @property
    def mesh(self) -> Mesh:
        """The asset as its file has it: +Y up, not normalised, all objects joined."""
        ...

    def render(
        self, cameras: Camera, settings: RenderSettings, transform: np.ndarray | None = None
    ) -> Views:
        """Render from each of ``cameras`` (``[N]``).

        Args:
            cameras: In the world of the transformed asset.
            settings: Size and look.
            transform: ``[4, 4]``, of :func:`.meshes.normalise`: asset to world; None = identity.

        Raises:
            AssetError: ``render_crash``, ``timeout``, ``memory``, ...: this asset's images cannot
                be made.
        """
        ...


class Renderer(Protocol):
    """Opens assets and renders them."""

    name: str
    version: str
    imports: Set[str]
    """File name endings (``.fbx``) that :meth:`open` reads itself; others are loaded before."""

    def describe(self, settings: RenderSettings) -> str:
        """How its images look with ``settings``, in two words."""
        ...

    def open(self, asset: Mesh | Path) -> Scene:
        """Make ``asset`` the scene.

        Raises:
            AssetError: It cannot be imported; the reason says why.
        """
        ...

    def close(self) -> None:
        """Let go of processes and memory; the next :meth:`open` takes them again."""
        ...
