"""Light: the rigs, and the formulas that turn a surface sample into the light it sends back.

All arithmetic is in linear light. Every renderer of this package that says `rig`, `get3d` or `pbr`
uses these formulas; n is the unit shading normal turned to the viewer, a the base colour (factor x
texture x vertex colour).

Diffuse (`rig`, `get3d`; the same from every camera, no specular part, no emission)::

    light(n) = ground + sky (1 + n.y) / 2 + key max(0, n.k) + fill max(0, n.f)      (LightRig)
    color = a light(n)

`pbr` (glTF's metallic-roughness model under the lights of `rig`), with metallic m, roughness r in
0.045..1, alpha = r^2, F0 = 0.04 (1 - m) + a m, v = unit vector to the camera, n.v at least 1e-4::

    color = (1 - m) a light(n)
          + sum over l in (key, fill):  pi strength max(0, n.l) D V F
          + L(2 (n.v) n - v) (F0 A + B)
          + emission
    D = alpha^2 / (pi ((n.h)^2 (alpha^2 - 1) + 1)^2)             GGX, h = unit vector of v + l
    V = 0.5 / (n.l sqrt((n.v)^2 (1 - alpha^2) + alpha^2)
               + n.v sqrt((n.l)^2 (1 - alpha^2) + alpha^2))      Smith, height correlated
    F = F0 + (1 - F0) (1 - v.h)^5                                Schlick
    L(d) = ground + sky (1 + d.y) / 2
    q = min((1 - r)^2, 2^(-9.28 n.v)) (1 - r) + 0.0425 - 0.0275 r
    A = -1.04 q + 1.04 - 0.572 r,    B = 1.04 q + 0.022 r - 0.04

(Heitz 2014; Walter et al. 2007; A and B: Karis, "Physically Based Shading on Mobile", 2014.)
A directional light of ``strength`` has irradiance pi strength, so that a white diffuse surface that
faces it gets ``strength``. Normal maps and occlusion maps are left out.

`flat`: color = a.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .sampling import jit_inline

MIN_ROUGHNESS = 0.045
"""Smoother surfaces are taken as this smooth: their highlights would fall between samples."""
MIN_FACING = 1e-4
"""Least n.v."""


@dataclass(frozen=True)
class LightRig:
    """Lights fixed to the object: the colour of a surface point is the same from every camera.

    ``light(n) = ground + sky (1 + n.y) / 2 + key max(0, n . k) + fill max(0, n . f)``

    scaled so that the brightest normal gets exactly 1: nothing is ever clipped. No specular part.

    Attributes:
        ground: Light from everywhere.
        sky: More of it from above (+Y).
        key: Strength of the key light, from above, front (+Z) and right.
        fill: Strength of the fill light, from behind and left.
        key_direction: Towards the key light (any length).
        fill_direction: Towards the fill light (any length).
    """

    ground: float = 0.45
    sky: float = 0.17
    key: float = 0.36
    fill: float = 0.16
    key_direction: tuple[float, float, float] = (0.42, 0.72, 0.55)
    fill_direction: tuple[float, float, float] = (-0.75, 0.2, -0.63)

    def packed(self) -> np.ndarray:
        """Float32 ``[9]``: ground, sky, key xyz, fill xyz (strengths folded in), is lit (1)."""
        key = np.asarray(self.key_direction, np.float64)
        fill = np.asarray(self.fill_direction, np.float64)
        key = self.key * key / np.linalg.norm(key)
        fill = self.fill * fill / np.linalg.norm(fill)
        scale = 1.0 / self._brightest(key, fill)
        row = [self.ground, self.sky, *key, *fill]
        return np.asarray([scale * value for value in row] + [1.0], np.float32)

    def _brightest(self, key: np.ndarray, fill: np.ndarray) -> float:
        """The greatest ``light(n)``: exact, the best normal of each set of lights switched on."""
        half = np.array([0.0, 0.5 * self.sky, 0.0])
        best = 0.0
        for total in (half, half + key, half + fill, half + key + fill):
            n = total / max(float(np.linalg.norm(total)), 1e-12)
            light = self.ground + 0.5 * self.sky * (1 + n[1])
            best = max(best, float(light + max(0.0, n @ key) + max(0.0, n @ fill)))
        return best


GET3D_RIG = LightRig(
    ground=0.049, sky=0.918, key=0.547, fill=0.0, key_direction=(0.542, 0.830, -0.134)
)
"""Fitted to Cycles' light on a white diffuse ball under the lights of GET3D's script: the huge area
light is `sky`, the point light of Blender's first scene is `key`, the world is `ground`. Its error
over all normals is 2 % (RMS); that of the default rig is 38 %."""

FLAT = np.zeros(9, np.float32)
"""Packed lights of ``flat``: albedo as it is."""

_PBR = LightRig().packed()
_PBR[8] = 2.0
LIGHTS = {"rig": LightRig().packed(), "get3d": GET3D_RIG.packed(), "pbr": _PBR, "flat": FLAT}
"""Packed lights by name: :meth:`LightRig.packed`, whose last number is 0 = flat, 1 = diffuse,
2 = `pbr`."""


@jit_inline
def diffuse(light, x, y, z):  # type: ignore[no-untyped-def]
    """``light(n)`` of packed lights."""
    bright = light[0] + light[1] * 0.5 * (1.0 + y)
    bright += max(0.0, x * light[2] + y * light[3] + z * light[4])
    return bright + max(0.0, x * light[5] + y * light[6] + z * light[7])


@jit_inline
def _highlight(lx, ly, lz, n, v, facing, alpha2):  # type: ignore[no-untyped-def]
    """Pi strength n.l D V of a light whose vector has its strength as length; (1 - v.h)^5."""
    strength = np.sqrt(lx * lx + ly * ly + lz * lz)
    toward = n[0] * lx + n[1] * ly + n[2] * lz
    if toward <= 0.0:
        return 0.0, 0.0
    lx, ly, lz, toward = lx / strength, ly / strength, lz / strength, toward / strength
    hx, hy, hz = v[0] + lx, v[1] + ly, v[2] + lz
    length = max(np.sqrt(hx * hx + hy * hy + hz * hz), 1e-6)
    half = max(0.0, (n[0] * hx + n[1] * hy + n[2] * hz) / length)
    grazing = 1.0 - min(1.0, max(0.0, (v[0] * hx + v[1] * hy + v[2] * hz) / length))
    base = half * half * (alpha2 - 1.0) + 1.0
    spread = alpha2 / (np.pi * base * base)
    shadow = 0.5 / (
        toward * np.sqrt(facing * facing * (1.0 - alpha2) + alpha2)
        + facing * np.sqrt(toward * toward * (1.0 - alpha2) + alpha2)
    )
    return np.pi * strength * toward * spread * shadow, grazing**5


@jit_inline
def pbr(light, color, metallic, roughness, n, v):  # type: ignore[no-untyped-def]
    """Light sent to the viewer: r, g, b; see the head of this module for the formula."""
    roughness = min(1.0, max(MIN_ROUGHNESS, roughness))
    facing = max(MIN_FACING, n[0] * v[0] + n[1] * v[1] + n[2] * v[2])
    alpha2 = roughness**4
    bright = diffuse(light, n[0], n[1], n[2]) * (1.0 - metallic)
    key, key_grazing = _highlight(light[2], light[3], light[4], n, v, facing, alpha2)
    fill, fill_grazing = _highlight(light[5], light[6], light[7], n, v, facing, alpha2)
    # The share of white: what the highlights add however dark F0 is.
    white = key * key_grazing + fill * fill_grazing
    tint = key * (1.0 - key_grazing) + fill * (1.0 - fill_grazing)
    smooth = 1.0 - roughness
    q = min(smooth * smooth, 2.0 ** (-9.28 * facing)) * smooth + 0.0425 - 0.0275 * roughness
    mirrored = 2.0 * (n[0] * v[0] + n[1] * v[1] + n[2] * v[2]) * n[1] - v[1]
    around = light[0] + light[1] * 0.5 * (1.0 + mirrored)
    white += around * (1.04 * q + 0.022 * roughness - 0.04)
    tint += around * (-1.04 * q + 1.04 - 0.572 * roughness)
    base = 0.04 * (1.0 - metallic)
    return (
        color[0] * bright + (base + color[0] * metallic) * tint + white,
        color[1] * bright + (base + color[1] * metallic) * tint + white,
        color[2] * bright + (base + color[2] * metallic) * tint + white,
    )
