"""Parametric tables: rectangular and round tops on legs, trestles, panels or a pedestal."""

from __future__ import annotations

import numpy as np

from ....renderers.meshes import Mesh
from .draw import Draw, Params
from .solids import (
    Assembly,
    Solid,
    beam,
    box,
    circle,
    cylinder,
    lathe,
    loft,
    rounded_rectangle,
)

TOPS = ("rectangle", "rounded", "round")
BASES = ("legs", "trestle", "pedestal", "panels")
GAP = 0.012


def draw(d: Draw) -> Params:
    """Parameters of one table, about 1 long."""
    top = d.choice(TOPS, (0.45, 0.25, 0.3))
    base = d.choice(("legs", "pedestal") if top == "round" else BASES)
    width = d.uniform(0.85, 1.0)
    dark = d.chance(0.5)
    base_color = d.frame() if dark else d.wood()
    top_kind = d.choice(("same", "wood", "paint"), (0.3, 0.3, 0.4))
    paint = d.hue_color((0.45, 0.9), (0.5, 0.88))
    wood = d.wood()
    return {
        "top": top,
        "base": base,
        "width": width,
        "depth": width if top == "round" else d.uniform(0.45, 0.72),
        "height": d.uniform(0.42, 0.78),
        "thickness": d.uniform(0.055, 0.1),
        "leg": d.uniform(0.06, 0.105),
        "round_legs": d.chance(0.45),
        "taper": d.uniform(0.6, 1.0),
        "splay": d.uniform(0.02, 0.1) if d.chance(0.4) else 0.0,
        "inset": d.uniform(0.02, 0.07),
        "apron": d.uniform(0.07, 0.12) if d.chance(0.45) else 0.0,
        "lower": d.choice(("none", "shelf", "stretcher"), (0.45, 0.25, 0.3)),
        "lower_height": d.uniform(0.16, 0.36),
        "feet": d.choice(("disc", "cross")),
        "top_color": {"same": base_color, "wood": wood, "paint": paint}[top_kind],
        "base_color": base_color,
    }


def build(p: Params) -> Mesh:
    """The mesh of a table; long side along x, the floor is y = 0."""
    out = Assembly()
    out.material("base", p["base_color"])
    out.material("top", p["top_color"], roughness=0.5)
    top, under = p["height"], p["height"] - p["thickness"]
    out.add("top", _plate(p, 1.0, under, top))
    {"legs": _legs, "trestle": _trestle, "pedestal": _pedestal, "panels": _panels}[p["base"]](
        out, p, under + GAP
    )
    return out.mesh()


def _plate(p: Params, scale: float, low: float, high: float) -> Solid:
    """A plate in the outline of the top, with a small bevel."""
    half_w, half_d = 0.5 * scale * p["width"], 0.5 * scale * p["depth"]
    if p["top"] == "round":
        outline = circle(half_w, 28)
    elif p["top"] == "rounded":
        outline = rounded_rectangle(half_w, half_d, 0.42 * half_d, 4)
    else:
        outline = rounded_rectangle(half_w, half_d, 0.02, 1)
    bevel = 0.18 * (high - low)
    shrink = 1.0 - bevel / half_d
    rings = [
        [(x * s, y, z * s) for x, z in outline]
        for y, s in ((low, shrink), (low + bevel, 1.0), (high - bevel, 1.0), (high, shrink))
    ]
    return loft(rings)


def _corner(p: Params) -> tuple[float, float]:
    """Where the leg under the quarter x, z > 0 meets the top."""
    if p["top"] == "round":
        reach = (0.5 * p["width"] - 0.5 * p["leg"] - p["inset"]) * np.sqrt(0.5)
        return float(reach), float(reach)
    extra = 0.06 * p["depth"] if p["top"] == "rounded" else 0.0
    gap = 0.5 * p["leg"] + p["inset"] + extra
    return 0.5 * p["width"] - gap, 0.5 * p["depth"] - gap


def _legs(out: Assembly, p: Params, end: float) -> None:
    """Four legs, straight or splayed, an apron, a shelf or stretchers."""
    x, z = _corner(p)
    half, splay = 0.5 * p["leg"], min(p["splay"], p["inset"])
    foot = p["taper"] * half
    for sign in (1.0, -1.0):
        start, stop = (x + splay, 0.0, sign * (z + splay)), (x, end, sign * z)
        if p["round_legs"]:
            leg = cylinder(start, stop, foot, half)
        else:
            square = np.array([(-1, 0, -1), (1, 0, -1), (1, 0, 1), (-1, 0, 1)])
            leg = loft([np.array(start) + foot * square, np.array(stop) + half * square])
        out.add_pair("base", leg)
    if p["apron"]:
        low, thick = end - p["apron"], 0.6 * half
        for sign in (1.0, -1.0):
            at = sign * z
            out.add("base", box((-x, low, at - thick), (x, end - GAP, at + thick)))
        out.add_pair("base", box((x - thick, low, -z), (x + thick, end - GAP, z)))
    _lower(out, p, x + 0.5 * splay, z + 0.5 * splay)


def _lower(out: Assembly, p: Params, x: float, z: float) -> None:
    """What joins the legs below: nothing, a shelf, or an H of stretchers."""
    at, bar = p["lower_height"] * p["height"], 0.032
    if p["lower"] == "shelf":
        scale = min(2 * x / p["width"], 2 * z / p["depth"]) * (1.12 if p["top"] == "round" else 1.0)
        out.add("top", _plate(p, scale, at - 0.03, at + 0.03))
    elif p["lower"] == "stretcher":
        out.add_pair("base", box((x - bar, at - bar, -z), (x + bar, at + bar, z)))
        out.add("base", box((-x, at - 0.8 * bar, -0.8 * bar), (x, at + 0.8 * bar, 0.8 * bar)))


def _trestle(out: Assembly, p: Params, end: float) -> None:
    """A leaning pair of beams at each end, tied by a bar along the middle."""
    x, _ = _corner(p)
    z, leg = 0.5 * p["depth"] - 0.5 * p["leg"] - 0.01, p["leg"]
    reach = 0.25 * z
    for sign in (1.0, -1.0):
        start, stop = np.array((x, 0.0, sign * z)), np.array((x, end, sign * reach))
        lean = (stop - start) / np.linalg.norm(stop - start)
        # Sawn off level: the beam runs on, and the floor and the top cut it.
        out.add_pair("base", beam(start + lean * 0.3 * leg, stop, 0.8 * leg, 0.8 * leg))
    out.add_pair("base", box((x - 0.5 * leg, end - 0.6 * leg, -z), (x + 0.5 * leg, end - GAP, z)))
    at, bar = (0.3 + 0.5 * p["lower_height"]) * p["height"], 0.4 * leg
    mid = reach + (z - reach) * (1 - at / end)
    out.add_pair("base", box((x - 0.3 * leg, at - bar, -mid), (x + 0.3 * leg, at + bar, mid)))
    out.add("base", box((-x, at - 0.8 * bar, -0.8 * bar), (x, at + 0.8 * bar, 0.8 * bar)))


def _pedestal(out: Assembly, p: Params, end: float) -> None:
    """A turned column on a disc or on four feet."""
    thick, wide = 0.6 * p["leg"] + 0.02, 0.30 * min(p["width"], p["depth"])
    column = [(1.25, 0.02), (1.0, 0.2), (0.8, 0.5), (1.0, 0.8), (1.5, 1.0)]
    out.add("base", lathe([(thick * r, end * h) for r, h in column], 12))
    if p["feet"] == "disc":
        profile = [(1.0, 0.0), (1.0, 0.03), (0.85, 0.06), (0.3, 0.08)]
        out.add("base", lathe([(wide * r, h) for r, h in profile], 20))
        return
    reach, half = 1.25 * wide, 0.45 * p["leg"]
    for quarter in range(4):
        foot = loft([
            [(u, low, -half), (u, low, half), (u, high, half), (u, high, -half)]
            for u, low, high in ((0.0, 0.05, 0.17), (0.55 * reach, 0.03, 0.12), (reach, 0.0, 0.055))
        ])  # fmt: skip
        out.add("base", foot.turned(1, (quarter + 0.5) * np.pi / 2))


def _panels(out: Assembly, p: Params, end: float) -> None:
    """A full board at each end, and a back board or a shelf between them."""
    x, _ = _corner(p)
    z, half = 0.5 * p["depth"] - 0.02 - p["inset"] * 0.5, 0.4 * p["leg"]
    out.add_pair("base", box((x - half, 0.0, -z), (x + half, end, z)))
    at = p["lower_height"] * p["height"]
    if p["lower"] == "shelf":
        out.add("top", box((-x, at - 0.03, -z + GAP), (x, at + 0.03, z - GAP)))
    else:
        out.add("base", box((-x, at, -z + GAP), (x, end - GAP, -z + 0.055)))
