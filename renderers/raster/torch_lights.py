"""What the lights make of base colours, on lists of samples; formulas: :mod:`.shading`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from .shading import MIN_FACING, MIN_ROUGHNESS
from .torch_shading import Projected, Samples, Surface, textured

Light = Callable[[Surface, Projected, Samples, torch.Tensor, torch.Tensor], torch.Tensor]
"""Takes the mesh, its cameras, ``n`` samples, their linear base colours ``[n, 3]`` and their unit
normals turned to the viewer ``[n, 3]``; gives the light sent to the viewer, float32 ``[n, 3]``."""


def light_of(packed: np.ndarray) -> Light:
    """The light packed as :data:`.shading.LIGHTS` has it."""
    values = packed.tolist()
    return (_flat, _Diffuse(values), _Physical(values))[int(values[8])]


def _flat(
    surface: Surface,
    projected: Projected,
    samples: Samples,
    color: torch.Tensor,
    normal: torch.Tensor,
) -> torch.Tensor:
    return color


@dataclass(frozen=True)
class _Diffuse:
    """``light(n)`` of packed lights."""

    packed: list[float]

    def __call__(
        self,
        surface: Surface,
        projected: Projected,
        samples: Samples,
        color: torch.Tensor,
        normal: torch.Tensor,
    ) -> torch.Tensor:
        return color * _diffuse(self.packed, normal)[:, None]


def _diffuse(packed: list[float], normal: torch.Tensor) -> torch.Tensor:
    light = packed[0] + packed[1] * 0.5 * (1.0 + normal[:, 1])
    light = light + _along(normal, packed[2:5]).clamp(min=0.0)
    return light + _along(normal, packed[5:8]).clamp(min=0.0)


def _along(vector: torch.Tensor, direction: list[float]) -> torch.Tensor:
    x, y, z = direction
    return vector[:, 0] * x + vector[:, 1] * y + vector[:, 2] * z


def _dot(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
    return one[:, 0] * two[:, 0] + one[:, 1] * two[:, 1] + one[:, 2] * two[:, 2]


@dataclass(frozen=True)
class _Physical:
    """`pbr`: metal, gloss and emission under packed lights."""

    packed: list[float]

    def __call__(
        self,
        surface: Surface,
        projected: Projected,
        samples: Samples,
        color: torch.Tensor,
        normal: torch.Tensor,
    ) -> torch.Tensor:
        to_eye = projected.eye[samples.view] - samples.at(surface.vertices)
        length = torch.linalg.vector_norm(to_eye, dim=1, keepdim=True)
        view = to_eye / length.clamp(min=1e-12)
        factors = surface.physical[surface.face_material[samples.face]]
        metallic, roughness, emission = factors[:, 0], factors[:, 1], factors[:, 2:]
        texel = textured(surface, projected, samples, 1)
        if texel is not None:
            metallic, roughness = metallic * texel[:, 2], roughness * texel[:, 1]
        texel = textured(surface, projected, samples, 2)
        if texel is not None:
            emission = emission * texel[:, :3]
        return self._sent(color, metallic, roughness, normal, view) + emission

    def _sent(
        self,
        color: torch.Tensor,
        metallic: torch.Tensor,
        roughness: torch.Tensor,
        normal: torch.Tensor,
        view: torch.Tensor,
    ) -> torch.Tensor:
        """Light sent to the viewer ``[n, 3]``, without emission."""
        packed = self.packed
        roughness = roughness.clamp(MIN_ROUGHNESS, 1.0)
        along = _dot(normal, view)
        facing = along.clamp(min=MIN_FACING)
        smooth = 1.0 - roughness
        q = torch.minimum(smooth * smooth, torch.exp2(-9.28 * facing)) * smooth
        q = q + 0.0425 - 0.0275 * roughness
        mirrored = 2.0 * along * normal[:, 1] - view[:, 1]
        around = packed[0] + packed[1] * 0.5 * (1.0 + mirrored)
        # The share of white: what the highlights add however dark F0 is.
        white = around * (1.04 * q + 0.022 * roughness - 0.04)
        tint = around * (-1.04 * q + 1.04 - 0.572 * roughness)
        for direction in (packed[2:5], packed[5:8]):
            shine, grazing = _highlight(direction, normal, view, facing, roughness**4)
            white = white + shine * grazing
            tint = tint + shine * (1.0 - grazing)
        bright = _diffuse(packed, normal) * (1.0 - metallic)
        base = (0.04 * (1.0 - metallic))[:, None] + color * metallic[:, None]
        return color * bright[:, None] + base * tint[:, None] + white[:, None]


def _highlight(
    direction: list[float],
    normal: torch.Tensor,
    view: torch.Tensor,
    facing: torch.Tensor,
    alpha2: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pi strength n.l D V of a light (its vector has the strength as its length), (1 - v.h)^5."""
    strength = math.hypot(*direction)
    if strength == 0.0:
        return torch.zeros_like(facing), torch.zeros_like(facing)
    light = [value / strength for value in direction]
    toward = _along(normal, light).clamp(min=0.0)
    half = view + view.new_tensor(light)
    length = torch.linalg.vector_norm(half, dim=1).clamp(min=1e-6)
    across = (_dot(normal, half) / length).clamp(min=0.0)
    grazing = 1.0 - (_dot(view, half) / length).clamp(0.0, 1.0)
    base = across * across * (alpha2 - 1.0) + 1.0
    spread = alpha2 / (math.pi * base * base)
    shadow = 0.5 / (
        toward * torch.sqrt(facing * facing * (1.0 - alpha2) + alpha2)
        + facing * torch.sqrt(toward * toward * (1.0 - alpha2) + alpha2)
    )
    return math.pi * strength * toward * spread * shadow, grazing**5
