"""Parametric motorbikes: cruiser, roadster, sport and scrambler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ....renderers.meshes import Mesh
from .draw import Draw, Params
from .solids import (
    Assembly,
    Solid,
    box,
    cylinder,
    lathe,
    loft,
    rounded_rectangle,
    sweep,
    torus,
    tube,
)

STYLES = ("roadster", "cruiser", "sport", "scrambler")


def draw(d: Draw) -> Params:
    """Parameters of one motorbike, lengths in metres."""
    style = d.choice(STYLES, (0.3, 0.26, 0.24, 0.2))
    cruiser, sport, cross = (style == s for s in ("cruiser", "sport", "scrambler"))
    paint = d.hue_color((0.6, 0.96), (0.5, 0.92)) if d.chance(0.8) else d.grey(0.1, 0.92)
    radius = d.uniform(0.31, 0.35)
    return {
        "style": style,
        "wheelbase": d.uniform(1.55, 1.75) if cruiser else d.uniform(1.34, 1.48),
        "front_radius": round(radius + (0.03 if cross else 0.0), 4),
        "rear_radius": round(radius - (0.03 if cruiser else 0.0), 4),
        "tyre": d.uniform(0.062, 0.082),
        "rake_deg": d.uniform(31, 38) if cruiser else d.uniform(22, 27),
        "fork_spread": d.uniform(0.10, 0.12),
        "wheel": d.choice(("spokes", "bars", "disc"), (0.4, 0.4, 0.2)),
        "spokes": d.integer(5, 9),
        "seat_height": d.uniform(0.62, 0.7) if cruiser else d.uniform(0.76, 0.86),
        "tank_length": d.uniform(0.5, 0.6),
        "tank_width": d.uniform(0.25, 0.34),
        "tank_height": d.uniform(0.2, 0.27),
        "bar_rise": d.uniform(0.2, 0.36) if cruiser else d.uniform(-0.02, 0.03) if sport
        else d.uniform(0.1, 0.2),
        "bar_width": d.uniform(0.36, 0.44) if not sport else d.uniform(0.29, 0.33),
        "engine": d.choice(("twin", "block"), (0.6, 0.4)),
        "exhausts": d.integer(1, 2),
        "pillion": d.chance(0.5),
        "fender": d.uniform(0.7, 1.25),
        "fairing": sport,
        "panniers": (cruiser or style == "roadster") and d.chance(0.3),
        "high_fender": cross,
        "paint": paint,
        "accent": d.choice((paint, [230, 228, 222], [26, 26, 30]), (0.6, 0.2, 0.2)),
        "seat_color": d.choice(([26, 24, 24], [84, 46, 26], [120, 74, 40])),
        "metal": d.grey(0.55, 0.8),
        "frame_color": d.choice(([30, 30, 34], paint), (0.75, 0.25)),
    }  # fmt: skip


@dataclass(frozen=True)
class Points:
    """Where things are, as (y, z); the bike is symmetrical in x.

    Attributes:
        front: Front axle.
        rear: Rear axle.
        head: Top of the steering head.
        neck: Lower end of the steering head.
        seat: Middle of the seat's underside.
        pivot: Where the swing arm turns.
    """

    front: np.ndarray
    rear: np.ndarray
    head: np.ndarray
    neck: np.ndarray
    seat: np.ndarray
    pivot: np.ndarray


def _points(p: Params) -> Points:
    base, rake = p["wheelbase"], np.deg2rad(p["rake_deg"])
    front = np.array([p["front_radius"], 0.5 * base])
    rear = np.array([p["rear_radius"], -0.5 * base])
    up = np.array([np.cos(rake), -np.sin(rake)])
    head_y = max(p["seat_height"] + 0.16, 0.9)
    head = front + up * (head_y - front[0]) / up[0]
    neck = front + up * (head_y - 0.22 - front[0]) / up[0]
    seat = np.array([p["seat_height"] - 0.1, -0.24 * base])
    return Points(front, rear, head, neck, seat, np.array([0.42, -0.16 * base]))


def _at(x: float, point: np.ndarray) -> np.ndarray:
    """The 3D point at ``x`` and (y, z)."""
    return np.array([x, point[0], point[1]])


def _block(
    sections: Sequence[tuple[float, float, float]],
    radius: float,
    lifts: Sequence[float] | None = None,
) -> Solid:
    """A loft along z of rounded rectangles: (z, half width, half height), centred at ``lifts``."""
    heights = [0.0] * len(sections) if lifts is None else lifts
    return loft([
        [(x, y + lift, z) for x, y in rounded_rectangle(w, h, radius)]
        for (z, w, h), lift in zip(sections, heights, strict=True)
    ])  # fmt: skip


def build(p: Params) -> Mesh:
    """The mesh of a motorbike; front wheel to +Z, on the ground y = 0."""
    out = Assembly()
    out.material("paint", p["paint"], roughness=0.3)
    out.material("accent", p["accent"], roughness=0.35)
    out.material("frame", p["frame_color"], roughness=0.5)
    out.material("metal", p["metal"], roughness=0.35)
    out.material("dark", [38, 38, 42], roughness=0.6)
    out.material("tyre", [20, 20, 22], roughness=0.9)
    out.material("seat", p["seat_color"], roughness=0.85)
    out.material("lamp", [250, 240, 205], roughness=0.2)
    out.material("tail", [190, 18, 24], roughness=0.2)
    at = _points(p)
    _wheel(out, p, at.front, p["front_radius"], p["tyre"])
    _wheel(out, p, at.rear, p["rear_radius"], 1.2 * p["tyre"])
    _fork(out, p, at)
    _frame(out, p, at)
    _engine(out, p, at)
    _tank_and_seat(out, p, at)
    _fenders(out, p, at)
    if p["fairing"]:
        _fairing(out, p, at)
    if p["panniers"]:
        low = p["rear_radius"] + 0.04
        z = at.rear[1]
        case = box((0.15, low, z - 0.22), (0.29, low + 0.3, z + 0.24))
        out.add_pair("accent", case)
    return out.mesh()


def _wheel(out: Assembly, p: Params, axle: np.ndarray, radius: float, minor: float) -> None:
    """Tyre, rim, hub and spokes; or a disc."""
    centre = _at(0.0, axle)
    out.add("tyre", torus(radius - minor, minor, 26, 8, axis=0).moved(centre))
    rim = radius - 1.75 * minor
    out.add("metal", torus(rim, 0.3 * minor, 26, 6, axis=0, squash=2.2).moved(centre))
    out.add("dark", lathe([(0.055, -0.085), (0.055, 0.085)], 12, axis=0).moved(centre))
    if p["wheel"] == "disc":
        out.add("metal", lathe([(rim, -0.018), (rim, 0.018)], 24, axis=0).moved(centre))
        return
    half = 0.011 if p["wheel"] == "spokes" else 0.026
    count = p["spokes"] + 4 if p["wheel"] == "spokes" else p["spokes"] - 1
    spoke = box((-half, 0.0, -half), (half, rim, half))
    for k in range(count):
        out.add("metal", spoke.turned(0, 2 * np.pi * k / count).moved(centre))


def _fork(out: Assembly, p: Params, at: Points) -> None:
    """Two tubes, their clamps, the handlebar with grips and mirrors, the headlamp."""
    x = p["fork_spread"]
    out.add_pair("metal", cylinder(_at(x, at.front), _at(x, at.head), 0.034, 0.03, 10))
    slide = at.front + 0.42 * (at.head - at.front)
    foot = at.front + 0.05 * (at.front - at.head)
    out.add_pair("dark", cylinder(_at(x, foot), _at(x, slide), 0.043, sides=10))
    for point in (at.head, at.neck):
        y, z = point
        out.add("dark", box((-x - 0.03, y - 0.02, z - 0.045), (x + 0.03, y + 0.02, z + 0.045)))
    out.add("frame", cylinder(_at(0, at.neck), _at(0, at.head), 0.04))
    y, z = at.head[0] + 0.02, at.head[1]
    rise, wide = p["bar_rise"], p["bar_width"]
    back = 0.14 if p["style"] == "cruiser" else 0.06
    bar = [
        (0.0, y, z),
        (0.07, y + 0.01, z),
        (0.16, y + rise, z - 0.3 * back),
        (wide, y + rise, z - back),
    ]
    path = [*[(-a, b, c) for a, b, c in bar[:0:-1]], *bar]
    out.add("metal", tube(path, 0.018))
    tip = np.array([wide, y + rise, z - back])
    inside = np.array([wide - 0.13, y + rise, z - back + 0.13 / (wide - 0.16) * 0.7 * back])
    out.add_pair("dark", cylinder(inside, tip + np.array([0.012, 0.0, 0.0]), 0.029))
    if p["style"] != "scrambler":
        stalk = inside + np.array([0.0, 0.12, 0.0])
        out.add_pair("dark", cylinder(inside, stalk, 0.012, sides=6))
        glass = np.array([[-0.02, 0.0, -0.02], [0.1, 0.065, 0.02]])
        out.add_pair("dark", box(*(stalk + glass)))
    if not p["fairing"]:
        lamp = 0.5 * (at.head + at.neck) + np.array([0.02, 0.06])
        shell = [(0.04, -0.02), (0.105, 0.04), (0.115, 0.12)]
        out.add("accent", lathe(shell, 14, axis=2).moved(_at(0, lamp)))
        out.add("lamp", lathe([(0.1, 0.1), (0.085, 0.142)], 14, axis=2).moved(_at(0, lamp)))


def _frame(out: Assembly, p: Params, at: Points) -> None:
    """Backbone, cradle, seat rails, swing arm and dampers."""
    bottom = np.array([0.27, 0.1 * p["wheelbase"]])
    heel = np.array([0.27, -0.13 * p["wheelbase"]])
    tail = np.array([p["seat_height"] - 0.06, at.rear[1] + 0.02])
    down = [_at(0.05, at.neck), _at(0.13, bottom), _at(0.13, heel), _at(0.12, at.seat)]
    out.add_pair("frame", tube(down, 0.024))
    out.add("frame", tube([_at(0, at.neck), _at(0, at.seat)], 0.036))
    out.add_pair("frame", tube([_at(0.09, at.seat), _at(0.1, tail)], 0.022))
    out.add_pair("frame", tube([_at(0.12, at.pivot), _at(0.13, at.rear)], 0.032))
    out.add("dark", cylinder(_at(-0.16, at.rear), _at(0.16, at.rear), 0.025, sides=8))
    out.add("dark", cylinder(_at(-0.15, at.front), _at(0.15, at.front), 0.025, sides=8))
    low = at.rear + np.array([0.03, 0.06])
    high = at.seat + 0.45 * (tail - at.seat)
    out.add_pair("metal", cylinder(_at(0.145, low), _at(0.125, high), 0.034, sides=8))
    peg = np.array([0.33, -0.1 * p["wheelbase"]])
    out.add_pair("dark", cylinder(_at(0.1, peg), _at(0.27, peg), 0.02, sides=8))


def _engine(out: Assembly, p: Params, at: Points) -> None:
    """Crankcase, cylinders with fins, exhausts."""
    case = ((-0.22, 0.1, 0.104), (-0.16, 0.15, 0.13), (0.1, 0.15, 0.13), (0.19, 0.1, 0.091))
    out.add("dark", _block(case, 0.06).moved((0.0, 0.36, 0.0)))
    cover = lathe([(0.1, 0.12), (0.1, 0.17), (0.075, 0.185)], 14, axis=0)
    out.add_pair("metal", cover.moved((0.0, 0.36, -0.08)))
    top = min(p["seat_height"] - 0.06, 0.72)
    leans = (0.42, -0.5) if p["engine"] == "twin" else (0.16,)
    for lean in leans:
        length = (top - 0.42) * (1.0 if p["engine"] == "twin" else 1.1)
        half = 0.085 if p["engine"] == "twin" else 0.13
        barrel = box((-half, 0.0, -0.07), (half, length, 0.07))
        fins = [box((-half - 0.025, h - 0.014, -0.1), (half + 0.025, h + 0.014, 0.1))
                for h in np.linspace(0.35, 0.95, 4) * length]  # fmt: skip
        for part, name in ((barrel, "dark"), *((f, "metal") for f in fins)):
            out.add(name, part.turned(0, lean).moved((0.0, 0.42, 0.0)))
    start = np.array([0.56, 0.17])
    high = p["style"] == "scrambler"
    end_y = p["rear_radius"] + (0.32 if high else 0.0)
    end_z = at.rear[1] - (0.02 if high else 0.12)
    if high:
        path = [(0.1, *start), (0.19, 0.52, 0.24), (0.21, 0.5, 0.05), (0.21, 0.58, -0.25)]
    else:
        path = [(0.08, *start), (0.16, 0.4, 0.27), (0.18, 0.24, 0.12), (0.19, 0.24, -0.25)]
    muffler_start = np.array(path[-1])
    muffler_end = np.array([0.21, end_y, end_z])
    solids: list[Solid] = [tube(path, 0.028), cylinder(muffler_start, muffler_end, 0.042, 0.06)]
    for solid in solids:
        if p["exhausts"] == 2 and not high:
            out.add_pair("metal", solid)
        else:
            out.add("metal", solid)


def _tank_and_seat(out: Assembly, p: Params, at: Points) -> None:
    """Tank as a loft of rounded sections, the seat behind it, side covers and the tail lamp."""
    length, half, height = p["tank_length"], 0.5 * p["tank_width"], p["tank_height"]
    front = at.neck[1] - 0.02
    rear = front - length
    y0 = at.neck[0] + 0.02
    y1 = p["seat_height"] - 0.04
    shape = (
        (0.0, 0.45, 0.55),
        (0.12, 0.8, 0.85),
        (0.35, 1.0, 1.0),
        (0.65, 0.92, 0.9),
        (0.9, 0.62, 0.62),
        (1.0, 0.45, 0.4),
    )
    rings = []
    for share, wide, tall in shape:
        base = y0 + share * (y1 - y0)
        outline = rounded_rectangle(half * wide, 0.5 * height * tall, 0.09)
        rings.append(
            [(x, base + 0.5 * height * tall + y, front - share * length) for x, y in outline]
        )
    out.add("paint", loft(rings))
    tail = at.rear[1] + (0.1 if p["style"] == "cruiser" else -0.02)
    middle = 0.5 * (rear + tail)
    step = 0.07 if p["pillion"] else 0.0
    kick = 0.1 if p["style"] == "sport" else 0.05
    line = ((rear + 0.1, 0.09, 0.02), (rear - 0.08, 0.13, 0.0), (middle, 0.15, 0.0),
            (middle - 0.06, 0.14, step), (tail, 0.1, step + kick))  # fmt: skip
    seat = _block(
        [(z, w, 0.05) for z, w, _ in line], 0.03, [p["seat_height"] + c for *_, c in line]
    )
    out.add("seat", seat)
    y = p["seat_height"] - 0.09
    stations = ((rear + 0.05, 0.1, -0.03), (middle, 0.12, -0.01), (tail - 0.03, 0.075, step + kick))
    cowl = _block([(z, w, 0.05) for z, w, _ in stations], 0.03, [y + lift for *_, lift in stations])
    out.add("paint", cowl)
    lamp = p["seat_height"] - 0.07 + step + kick
    out.add("tail", box((-0.06, lamp - 0.03, tail - 0.075), (0.06, lamp + 0.03, tail)))
    cover = box(
        (0.08, p["seat_height"] - 0.34, at.seat[1] - 0.12),
        (0.14, p["seat_height"] - 0.09, at.seat[1] + 0.12),
    )
    out.add_pair("accent", cover)


def _fenders(out: Assembly, p: Params, at: Points) -> None:
    """Bent plates over both wheels."""
    specs = (
        (
            at.front,
            p["front_radius"] + (0.14 if p["high_fender"] else 0.035),
            p["tyre"] + 0.025,
            0.1,
            1.0,
        ),
        (at.rear, p["rear_radius"] + 0.05, 1.2 * p["tyre"] + 0.03, -0.45, 1.1),
    )
    for axle, radius, half, lean, span in specs:
        angle = lean + np.linspace(-0.5, 0.5, 11) * span * p["fender"] * np.pi / 1.6
        path = np.stack(
            [np.zeros(11), axle[0] + radius * np.cos(angle), axle[1] + radius * np.sin(angle)], -1
        )
        out.add(
            "accent", sweep(path, [(-half, -0.012), (half, -0.012), (half, 0.012), (-half, 0.012)])
        )
        stay = path[5]
        if p["high_fender"] and axle is at.front:
            out.add("dark", box(*(stay + np.array([[-0.05, -0.02, -0.05], [0.05, 0.12, 0.05]]))))
        else:
            out.add_pair(
                "dark",
                cylinder(_at(0.11, axle), stay + np.array([half - 0.01, 0.0, 0.0]), 0.012, sides=6),
            )


def _fairing(out: Assembly, p: Params, at: Points) -> None:
    """The nose, screen and belly of a sport bike."""
    y, z = at.head[0] - 0.02, at.head[1]
    nose = ((z - 0.16, 0.2, 0.1, 0.06), (z + 0.02, 0.21, 0.17, 0.0), (z + 0.2, 0.15, 0.13, -0.07),
            (z + 0.32, 0.06, 0.06, -0.13))  # fmt: skip
    shell = [(c, w, h) for c, w, h, _ in nose]
    out.add("paint", _block(shell, 0.05, [y + lift for *_, lift in nose]))
    screen = ((z - 0.1, 0.1, 0.3, 0.19), (z + 0.04, 0.12, 0.22, 0.15), (z + 0.2, 0.07, 0.1, 0.05))
    glass = [(c, w, 0.5 * h - 0.02) for c, w, h, _ in screen]
    out.add("dark", _block(glass, 0.03, [y + lift for *_, lift in screen]))
    out.add_pair("lamp", box((0.03, y - 0.11, z + 0.16), (0.11, y - 0.05, z + 0.29)))
    side = (
        (at.neck[1] + 0.1, 0.02, at.neck[0] + 0.06),
        (0.18, 0.0, 0.72),
        (-0.02, -0.005, 0.52),
        (-0.26, -0.02, 0.34),
    )
    rings = []
    for at_z, inset, high in side:
        low = max(0.2, high - 0.4)
        rings.append(
            [
                (0.165 + inset, low, at_z),
                (0.2 + inset, low, at_z),
                (0.22 + inset, high, at_z),
                (0.18 + inset, high, at_z),
            ]
        )
    out.add_pair("paint", loft(rings))
