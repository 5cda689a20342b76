"""The mesh value object; loading, normalising and sampling it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Material:
    """A surface: glTF's metallic-roughness factors and the base colour texture.

    Attributes:
        name: Free text.
        base_color: Factor ``(r, g, b, a)``, *linear*, as glTF has it.
        texture: uint8 ``[h, w, 4]`` sRGB, row 0 = top, or None.
        alpha_mode: ``opaque``, ``mask`` or ``blend``.
        alpha_cutoff: Threshold of ``mask``.
        double_sided: Back faces are shaded too.
        metallic: 0..1.
        roughness: 0..1.
    """

    name: str = "default"
    base_color: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    texture: np.ndarray | None = None
    alpha_mode: str = "opaque"
    alpha_cutoff: float = 0.5
    double_sided: bool = True
    metallic: float = 0.0
    roughness: float = 0.6


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh with any number of materials.

    Attributes:
        vertices: float32 ``[V, 3]``.
        faces: int64 ``[F, 3]``, counter-clockwise = outside.
        uvs: float32 ``[V, 2]``, origin bottom-left, or None.
        colors: float32 ``[V, 4]`` vertex colours in 0..1, *linear*, or None.
        normals: float32 ``[V, 3]`` unit shading normals, or None (flat shading).
        materials: At least one.
        face_materials: int32 ``[F]``, index into ``materials``.
    """

    vertices: np.ndarray
    faces: np.ndarray
    uvs: np.ndarray | None = None
    colors: np.ndarray | None = None
    normals: np.ndarray | None = None
    materials: tuple[Material, ...] = (Material(),)
    face_materials: np.ndarray | None = None
