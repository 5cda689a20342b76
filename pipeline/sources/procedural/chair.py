"""Parametric chairs: boxes and 10-sided cylinders, parts thick enough to survive 32 x 32 pixels."""

from __future__ import annotations

import numpy as np

from ....renderers.meshes import Mesh
from .draw import Draw, Params
from .solids import Assembly, Solid, box, cylinder

LEGS = ("square", "round", "sled", "pedestal")
BACKS = ("panel", "bars", "slats")
GAP = 0.014
"""How far faces of different parts keep from lying in one plane."""


def draw(d: Draw) -> Params:
    """Parameters of one chair. Lengths before scaling; the whole is about 1 high."""
    legs = d.choice(LEGS, (0.32, 0.26, 0.18, 0.24))
    back = d.choice(BACKS, (0.36, 0.32, 0.32))
    seat_color = d.hue_color((0.5, 0.95), (0.5, 0.85))
    return {
        "legs": legs,
        "back": back,
        "width": d.uniform(0.46, 0.68),
        "depth": d.uniform(0.44, 0.62),
        "seat_height": d.uniform(0.38, 0.54),
        "seat_thickness": d.uniform(0.07, 0.13),
        "back_height": d.uniform(0.42, 0.68),
        "back_thickness": d.uniform(0.07, 0.11),
        "tilt_deg": d.uniform(0.0, 8.0) if d.chance(0.6) else 0.0,
        "leg": d.uniform(0.07, 0.13),
        "post": d.uniform(0.07, 0.11),
        "bars": d.integer(2, 3),
        "bar": d.uniform(0.07, 0.11),
        "slats": d.integer(1, 2),
        "slat": d.uniform(0.08, 0.13),
        "arms": d.chance(0.35),
        "arm_height": d.uniform(0.18, 0.27),
        "arm": d.uniform(0.07, 0.095),
        "disc_radius": d.uniform(0.19, 0.28),
        "frame_color": d.frame(),
        "seat_color": seat_color,
        "back_in_seat_color": d.chance(0.62 if back == "panel" else 0.4),
    }


def build(p: Params) -> Mesh:
    """The mesh of a chair; the seat is centred on the y axis, the floor is y = 0."""
    out = Assembly()
    out.material("frame", p["frame_color"])
    out.material("seat", p["seat_color"], roughness=0.8)
    half_w, half_d = 0.5 * p["width"], 0.5 * p["depth"]
    under, top = p["seat_height"] - p["seat_thickness"], p["seat_height"]
    out.add("seat", box((-half_w, under, -half_d), (half_w, top, half_d)))
    _legs(out, p, under + GAP)
    _back(out, p)
    if p["arms"]:
        _arms(out, p)
    return out.mesh()


def _legs(out: Assembly, p: Params, end: float) -> None:
    """What carries the seat, from the floor to ``end`` (inside the seat)."""
    leg, x, z = p["leg"], 0.5 * p["width"] - GAP, 0.5 * p["depth"] - GAP
    if p["legs"] == "square":
        for low, high in ((z - leg, z), (-z, -z + leg)):
            out.add_pair("frame", box((x - leg, 0.0, low), (x, end, high)))
    elif p["legs"] == "round":
        r = 0.5 * leg
        for at in (z - r, -z + r):
            out.add_pair("frame", cylinder((x - r, 0.0, at), (x - r, end, at), 0.85 * r, r))
    elif p["legs"] == "sled":
        out.add_pair("frame", box((x - leg, 0.0, -z), (x, end, z)))
    else:
        r, disc = 0.55 * leg + 0.012, p["disc_radius"]
        out.add("frame", cylinder((0, 0, 0), (0, 0.075, 0), disc, 0.92 * disc))
        out.add("frame", cylinder((0, 0.05, 0), (0, end, 0), r))


def _back(out: Assembly, p: Params) -> None:
    """Panel, or two posts with bars or slats; tilted backwards about their lower rear edge."""
    half_w, rear, top = 0.5 * p["width"], -0.5 * p["depth"], p["seat_height"]
    end, post = top + p["back_height"], p["post"]
    front = rear + p["back_thickness"]
    start = top - p["seat_thickness"] + GAP
    inner = "seat" if p["back_in_seat_color"] else "frame"
    parts: list[tuple[str, Solid]] = []
    if p["back"] == "panel":
        parts.append((inner, box((-half_w - GAP, start, rear - GAP), (half_w + GAP, end, front))))
    else:
        x = half_w + GAP
        side = box((x - post, start, rear - GAP), (x, end, front))
        parts += [("frame", side), ("frame", side.mirrored())]
        # Between the posts, a little thinner than they are, so that no faces coincide.
        low, high = rear, front - GAP
        reach = x - 0.5 * post
        if p["back"] == "bars":
            first = (
                top + 0.30 * p["back_height"] if p["bars"] == 2 else top + 0.17 * p["back_height"]
            )
            for at in np.linspace(first, end - p["bar"] - GAP, p["bars"]):
                parts.append((inner, box((-reach, at, low), (reach, at + p["bar"], high))))
        else:
            rail = end - 1.1 * p["bar"]
            parts.append(("frame", box((-reach, rail, low), (reach, end - GAP, high))))
            low, high = low + GAP, high - GAP
            spread = (
                np.array([0.0]) if p["slats"] == 1 else np.array([-0.5, 0.5]) * 0.42 * p["width"]
            )
            half = 0.5 * p["slat"] * (1.25 if p["slats"] == 1 else 1.0)
            for at in spread:
                parts.append((inner, box((at - half, start, low), (at + half, rail + GAP, high))))
    for name, solid in parts:
        out.add(name, solid.turned(0, -np.deg2rad(p["tilt_deg"]), (0.0, start, rear)))


def _arms(out: Assembly, p: Params) -> None:
    """On each side a post at the front of the seat and a rest from it to the back."""
    arm, height = p["arm"], p["seat_height"] + p["arm_height"]
    outside = 0.5 * p["width"] + 2 * GAP
    front = 0.5 * p["depth"] - 2 * GAP
    lean = np.tan(np.deg2rad(p["tilt_deg"])) * (p["arm_height"] + p["seat_thickness"])
    rear = -0.5 * p["depth"] - lean + 0.3 * p["back_thickness"]
    foot = p["seat_height"] - p["seat_thickness"] - GAP
    out.add_pair("frame", box((outside - arm, foot, front - arm), (outside, height, front)))
    out.add_pair(
        "frame",
        box(
            (outside - arm - GAP, height - 0.5 * arm, rear),
            (outside + GAP, height + 0.4 * arm, front + GAP),
        ),
    )
