"""Parametric mugs: a turned wall with an inside, and a handle that makes a hole of its own."""

from __future__ import annotations

import numpy as np

from ....renderers.meshes import Mesh
from .draw import Draw, Params
from .solids import Assembly, Solid, lathe, rounded_rectangle, sweep

BODIES = ("straight", "taper", "barrel", "tulip", "cup")
HANDLES = ("round", "d", "ear", "square", "none")
SIDES = 36


def draw(d: Draw) -> Params:
    """Parameters of one mug, about 1 high."""
    body = d.choice(BODIES, (0.28, 0.2, 0.2, 0.16, 0.16))
    color = d.hue_color((0.35, 0.92), (0.5, 0.92)) if d.chance(0.75) else d.grey(0.12, 0.95)
    white = [236, 233, 226]
    other = d.hue_color((0.4, 0.9), (0.45, 0.9))
    height = d.uniform(0.72, 1.15)
    bands = d.integer(1, 3) if d.chance(0.4) else 0
    return {
        "body": body,
        "radius": d.uniform(0.36, 0.5),
        "height": height if body != "cup" else round(0.72 * height, 4),
        "wall": d.uniform(0.05, 0.075),
        "bulge": d.uniform(0.06, 0.16),
        "foot": d.chance(0.45),
        "handle": d.choice(HANDLES, (0.24, 0.24, 0.2, 0.18, 0.14)),
        "handle_reach": d.uniform(0.24, 0.38),
        "handle_span": d.uniform(0.5, 0.68),
        "handle_width": d.uniform(0.10, 0.16),
        "handle_thickness": d.uniform(0.065, 0.095),
        "bands": bands,
        "band_start": d.uniform(0.25, 0.5),
        "filled": d.uniform(0.7, 0.88) if d.chance(0.3) else 0.0,
        "drink_color": d.choice(([62, 35, 20], [112, 72, 40], [120, 60, 18], [205, 176, 138])),
        "color": color,
        "inside_color": d.choice((color, white, other), (0.35, 0.45, 0.2)),
        "band_color": d.choice((white, other), (0.4, 0.6)),
        "handle_color": d.choice((color, other), (0.8, 0.2)),
    }


def outline(p: Params, t: np.ndarray) -> np.ndarray:
    """Outer radius at heights ``t`` (0 = bottom, 1 = rim) of the body."""
    bulge = p["bulge"]
    factor = {
        "straight": np.ones_like(t),
        "taper": 1.0 - 1.6 * bulge * (1.0 - t),
        "barrel": 1.0 - bulge + 1.6 * bulge * np.sin(np.pi * (0.12 + 0.76 * t)),
        "tulip": 1.0
        - 1.1 * bulge * np.sin(np.pi * np.clip(1.35 * t - 0.3, 0, 1))
        + bulge * (t - 0.5),
        "cup": 0.5 + 0.62 * np.sqrt(np.clip(t + 0.06, 0, 1)),
    }[p["body"]]
    return p["radius"] * factor


def build(p: Params) -> Mesh:
    """The mesh of a mug; it stands on y = 0, the handle points to +X."""
    out = Assembly()
    for name in ("color", "inside_color", "band_color", "handle_color", "drink_color"):
        out.material(name, p[name], roughness=0.3)
    body, names = _body(p)
    out.add(names, body)
    if p["handle"] != "none":
        out.add("handle_color", _handle(p))
    if p["filled"]:
        level, depth = p["filled"], 0.5 * p["wall"]
        inner = float(outline(p, np.array([level]))[0]) - 0.5 * p["wall"]
        at = level * p["height"]
        out.add("drink_color", lathe([(inner, at - depth), (inner, at)], SIDES))
    return out.mesh()


def _body(p: Params) -> tuple[Solid, list[str]]:
    """Inside from the middle of the floor to the rim, outside down to the foot; band materials."""
    height, wall = p["height"], p["wall"]
    floor = 1.3 * wall / height
    t_in = np.linspace(floor, 0.96, 9)
    t_out = np.linspace(0.97, 0.05, 17)
    inside = np.maximum(outline(p, t_in) - wall, 0.08)
    # The floor rounds into the wall.
    inside[0] *= 0.86
    profile = [(0.03, floor * height), *zip(inside, t_in * height, strict=True)]
    rim = float(outline(p, np.array([0.985]))[0])
    profile += [(rim - 0.72 * wall, 0.992 * height), (rim - 0.3 * wall, 0.992 * height)]
    bands_in = len(profile) - 1
    profile += list(zip(outline(p, t_out), t_out * height, strict=True))
    base = float(outline(p, np.array([0.0]))[0])
    if p["foot"]:
        profile += [(0.9 * base, 0.045 * height), (0.9 * base, 0.0)]
    else:
        profile += [(0.93 * base, 0.0)]
    bands = len(profile) - 1
    names = ["inside_color"] * bands_in + ["color"] * (bands - bands_in)
    start = bands_in + 1 + int(p["band_start"] * 8)
    for k in range(p["bands"]):
        names[start + 3 * k] = "band_color"
    return lathe(profile, SIDES), names


def _handle(p: Params) -> Solid:
    """A bar from wall to wall; its ends are inside the wall, so that body and bar join."""
    middle = 0.54 * p["height"]
    half = 0.5 * p["handle_span"] * p["height"] * (0.86 if p["body"] == "cup" else 1.0)
    ends = np.array([middle + half, middle - half])
    reach = p["handle_reach"]
    s = np.linspace(0.0, 1.0, 17)
    if p["handle"] == "round":
        across, along = np.sin(np.pi * s), np.cos(np.pi * s)
    elif p["handle"] == "ear":
        across, along = np.sin(np.pi * s) * (1.12 - 0.5 * s), np.cos(np.pi * s)
    else:
        power = 0.5 if p["handle"] == "d" else 0.24
        angle = np.pi * s
        across = np.sin(angle).clip(0.0) ** power
        along = np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** power
    y = middle + half * along
    at_wall = outline(p, ends / p["height"]) - 0.5 * p["wall"]
    x = np.interp(s, [0.0, 1.0], at_wall) + reach * across
    section = rounded_rectangle(0.5 * p["handle_width"], 0.5 * p["handle_thickness"], 0.03, 2)
    path = np.stack([x, y, np.zeros_like(x)], axis=-1)
    return sweep(path, section, side=(0.0, 0.0, 1.0))
