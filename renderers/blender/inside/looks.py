"""Looks: named sets of plain values that decide how a scene is lit, sampled and encoded.

All that changes a pixel, apart from the asset and the cameras, is a field here; nothing is
inherited from Blender's defaults, which change from version to version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Look:
    """How to render. Lengths in world units, Blender's axes (+Z up); energies in watts.

    Attributes:
        name: For people and logs.
        shading: ``lights``: path traced; ``flat``: every surface emits its base colour.
        samples: Paths per pixel.
        seed: Of the sampling pattern, the same for every view.
        sampling_pattern: ``TABULATED_SOBOL`` or ``BLUE_NOISE``.
        filter_type: ``BOX``, ``GAUSSIAN`` or ``BLACKMAN_HARRIS``.
        filter_width: Pixels; 0.01 samples the centre of the pixel alone (aliased edges).
        denoise: Run OpenImageDenoise on the colours.
        denoise_quality: ``HIGH``, ``BALANCED`` or ``FAST``.
        denoise_prefilter: ``NONE``, ``FAST`` or ``ACCURATE``.
        view_transform: ``Standard`` is the sRGB curve, done here; others Blender does.
        exposure: Stops.
        gamma: After the view transform.
        diffuse_bounces: Of a path.
        glossy_bounces: Of a path.
        transmission_bounces: Of a path.
        transparent_bounces: See-through surfaces along a path.
        caustics: Light that comes to a rough surface by way of a shiny one.
        clamp_indirect: Largest indirect sample; 0 = no limit.
        light_tree: Choose lights by importance. With two lights it costs a quarter of the time
            and gains half a decibel: `lit` does without.
        world: Grey level of the light from everywhere.
        point_energy: Of the point light.
        point_position: Of the point light.
        point_radius: Of the point light.
        area_energy: Of the square light above, which shines down.
        area_height: Of the square light.
        area_size: Side of the square light.
        albedo_pass: Render base colours beside a lit look; otherwise albedo stays 0.
        threads: Of one render; 0 = ``$G3D_BLENDER_THREADS``, or 1. Changes no pixel.
    """

    name: str
    shading: str = "lights"
    samples: int = 16
    seed: int = 0
    sampling_pattern: str = "TABULATED_SOBOL"
    filter_type: str = "BLACKMAN_HARRIS"
    filter_width: float = 1.5
    denoise: bool = False
    denoise_quality: str = "HIGH"
    denoise_prefilter: str = "ACCURATE"
    view_transform: str = "Standard"
    exposure: float = 0.0
    gamma: float = 1.0
    diffuse_bounces: int = 1
    glossy_bounces: int = 1
    transmission_bounces: int = 3
    transparent_bounces: int = 3
    caustics: bool = True
    clamp_indirect: float = 10.0
    light_tree: bool = True
    world: float = 0.05087608844041824
    point_energy: float = 1000.0
    point_position: Vector = (4.076245, 1.005454, 5.903862)
    point_radius: float = 0.1
    area_energy: float = 30000.0
    area_height: float = 0.5
    area_size: float = 100.0
    albedo_pass: bool = True
    threads: int = 0

    def __post_init__(self) -> None:
        if self.shading not in SHADINGS:
            raise ValueError(f"look {self.name!r}: shading {self.shading!r} is none of {SHADINGS}")
        if self.samples < 1:
            raise ValueError(f"look {self.name!r}: samples must be at least 1")


SHADINGS = ("lights", "flat")

LOOKS: dict[str, Look] = {
    "get3d": Look("get3d", samples=32, filter_width=0.01, denoise=True, view_transform="Filmic"),
    "lit": Look(
        "lit",
        samples=8,
        light_tree=False,
        denoise=True,
        denoise_quality="FAST",
        denoise_prefilter="NONE",
    ),
    "flat": Look("flat", shading="flat", samples=8),
}
"""``get3d``: as the dataset of GET3D was made; ``lit``: the same lights, anti-aliased, with fewer
samples and a faster denoiser; ``flat``: base colours without light."""


def look_from(values: Mapping[str, Any]) -> Look:
    """A look from plain values: ``name`` chooses the look of :data:`LOOKS` that the rest changes.

    Lists (JSON) become tuples, whole numbers become floats where a float is wanted.

    Raises:
        ValueError: An unknown look or field, or a value of another type.
    """
    name = values.get("name", "lit")
    if name not in LOOKS:
        raise ValueError(f"look {name!r} is not known; there are {', '.join(LOOKS)}")
    base = LOOKS[name]
    known = {field.name for field in fields(Look)}
    changed: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise ValueError(f"a look has no field {key!r}")
        changed[key] = _like(getattr(base, key), value, key)
    return replace(base, **changed)


def _like(example: Any, value: Any, key: str) -> Any:
    """``value`` with the type of ``example``."""
    if isinstance(example, tuple):
        if not isinstance(value, list | tuple) or len(value) != len(example):
            raise ValueError(f"{key} of a look takes {len(example)} numbers")
        return tuple(_like(e, v, key) for e, v in zip(example, value, strict=True))
    if isinstance(example, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(example):
        raise ValueError(f"{key} of a look is a {type(example).__name__}, not {value!r}")
    return value
