"""Parametric cars: sedan, hatchback, estate, van and pickup, with real wheel arches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ....renderers.meshes import Mesh
from .draw import Draw, Params
from .solids import Assembly, Solid, box, lathe, loft, torus

SECTIONS = (0.0, 0.012, 0.035, 0.08, 0.35, 0.5, 0.65, 0.93, 0.965, 0.988, 1.0)
"""Stations of the shell besides those of the wheel arches."""
BODIES = ("sedan", "hatchback", "estate", "van", "pickup")


@dataclass(frozen=True)
class Style:
    """Ranges of a body type; lengths in metres, stations as shares of the length from the rear.

    Attributes:
        length: Overall.
        height: Overall.
        belt: Height where the windows begin, as a share of the height.
        cabin: Where the windows begin at the rear, where the windscreen ends in front.
        roof: Where the roof begins and ends.
        bonnet: Height of the nose as a share of the belt's height.
        boot: Height of the tail as a share of the belt's height.
    """

    length: tuple[float, float]
    height: tuple[float, float]
    belt: float
    cabin: tuple[float, float]
    roof: tuple[float, float]
    bonnet: float
    boot: float


STYLES = {
    "sedan": Style((4.3, 4.8), (1.38, 1.5), 0.62, (0.13, 0.72), (0.29, 0.55), 0.84, 0.95),
    "hatchback": Style((3.5, 4.1), (1.42, 1.58), 0.61, (0.02, 0.74), (0.12, 0.55), 0.84, 0.98),
    "estate": Style((4.3, 4.8), (1.42, 1.6), 0.61, (0.015, 0.72), (0.06, 0.55), 0.84, 0.98),
    "van": Style((4.2, 4.9), (1.85, 2.15), 0.55, (0.01, 0.90), (0.03, 0.74), 0.86, 1.0),
    "pickup": Style((4.6, 5.2), (1.65, 1.85), 0.60, (0.36, 0.74), (0.40, 0.61), 0.90, 0.92),
}


def draw(d: Draw) -> Params:
    """Parameters of one car, lengths in metres."""
    body = d.choice(BODIES, (0.27, 0.23, 0.15, 0.17, 0.18))
    style = STYLES[body]
    paint = d.hue_color((0.55, 0.95), (0.45, 0.92)) if d.chance(0.72) else d.grey(0.12, 0.93)
    white = [232, 232, 230]
    return {
        "body": body,
        "length": d.uniform(*style.length),
        "width": d.uniform(1.68, 1.9),
        "height": d.uniform(*style.height),
        "shift": d.uniform(-0.025, 0.025),
        "bonnet": d.uniform(-0.05, 0.05),
        "wheel_radius": d.uniform(0.35, 0.42) if body == "pickup" else d.uniform(0.31, 0.38),
        "front_axle": d.uniform(0.79, 0.83),
        "rear_axle": d.uniform(0.17, 0.22),
        "clearance": d.uniform(0.25, 0.32) if body == "pickup" else d.uniform(0.17, 0.24),
        "rim": d.choice(("disc", "spokes")),
        "spokes": d.integer(4, 6),
        "rack": body in ("estate", "van") and d.chance(0.45),
        "spoiler": body in ("sedan", "hatchback") and d.chance(0.25),
        "panel_van": body == "van" and d.chance(0.5),
        "paint": paint,
        "roof_color": d.choice((paint, white, [28, 28, 32]), (0.72, 0.14, 0.14)),
        "trim": d.grey(0.12, 0.22),
        "rim_color": d.grey(0.62, 0.86),
    }


def build(p: Params) -> Mesh:
    """The mesh of a car; nose to +Z, on the ground y = 0."""
    out = Assembly()
    out.material("paint", p["paint"], roughness=0.35)
    out.material("roof", p["roof_color"], roughness=0.35)
    out.material("glass", [24, 32, 42], roughness=0.15)
    out.material("trim", p["trim"])
    out.material("tyre", [22, 22, 24], roughness=0.9)
    out.material("rim", p["rim_color"], roughness=0.35, metallic=0.0)
    out.material("lamp", [250, 240, 200], roughness=0.2)
    out.material("tail", [190, 18, 24], roughness=0.2)
    _shell(out, p)
    _cabin(out, p)
    _wheels(out, p)
    _details(out, p)
    return out.mesh()


def _z(p: Params, share: float) -> float:
    """Station ``share`` of the length, 0 = tail, 1 = nose."""
    return (share - 0.5) * p["length"]


def _belt(p: Params) -> float:
    return STYLES[p["body"]].belt * p["height"]


def _top(p: Params, share: np.ndarray) -> np.ndarray:
    """Height of the shell (bonnet, belt line, boot) along the car."""
    style, belt = STYLES[p["body"]], _belt(p)
    front = style.cabin[1] + p["shift"]
    bonnet = (style.bonnet + p["bonnet"]) * belt
    stations = [0.0, 0.03, 0.10, front - 0.05, front + 0.03, 0.94, 0.985, 1.0]
    heights = [0.86 * style.boot, 0.97 * style.boot, 1.0, 1.0, 0.985, (bonnet + 0.1 * belt) / belt,
               bonnet / belt, 0.8 * bonnet / belt]  # fmt: skip
    if style.cabin[1] > 0.85:  # a van's nose is its windscreen
        stations = [0.0, 0.02, 0.5, 0.86, 0.93, 0.965, 0.985, 1.0]
    return belt * np.interp(share, stations, heights)


def _arch(p: Params, z: np.ndarray) -> np.ndarray:
    """Height of the lower edge of the shell: the sills, and an arch over each wheel."""
    low = np.full_like(z, p["clearance"])
    reach = 1.16 * p["wheel_radius"]
    for axle in (p["front_axle"], p["rear_axle"]):
        inside = reach**2 - (z - _z(p, axle)) ** 2
        height = 0.9 * p["wheel_radius"] + np.sqrt(np.maximum(inside, 0.0))
        low = np.where(inside > 0, np.maximum(low, height), low)
    return low


def _shell(out: Assembly, p: Params) -> None:
    """Bonnet, sides and boot in one loft along the car."""
    reach = 1.16 * p["wheel_radius"]
    arcs = np.cos(np.linspace(0.02, np.pi - 0.02, 11)) * reach
    z = np.concatenate(
        [p["length"] * (np.array(SECTIONS) - 0.5)]
        + [_z(p, axle) + arcs for axle in (p["front_axle"], p["rear_axle"])]
        + [_z(p, a) + np.array([-1.03, 1.03]) * reach for a in (p["front_axle"], p["rear_axle"])]
    )
    z = np.unique(np.round(z, 5))
    z = z[np.concatenate([[True], np.diff(z) > 2e-3])]
    share = z / p["length"] + 0.5
    top, low = _top(p, share), _arch(p, z)
    ends = np.interp(
        share,
        [0, 0.012, 0.05, 0.14, 0.84, 0.95, 0.988, 1],
        [0.86, 0.92, 0.97, 1, 1, 0.95, 0.86, 0.78],
    )
    low = np.minimum(low + np.interp(share, [0, 0.03, 0.97, 1], [0.1, 0, 0, 0.08]), top - 0.12)
    half = 0.5 * p["width"] * ends
    rings = [
        [(-0.94 * h, b), (0.94 * h, b), (h, b + 0.45 * (t - b)), (0.985 * h, b + 0.72 * (t - b)),
         (0.9 * h, t - 0.03), (0.8 * h, t), (-0.8 * h, t), (-0.9 * h, t - 0.03),
         (-0.985 * h, b + 0.72 * (t - b)), (-h, b + 0.45 * (t - b))]
        for h, b, t in zip(half, low, top, strict=True)
    ]  # fmt: skip
    points = np.zeros((len(z), len(rings[0]), 3))
    points[..., :2] = rings
    points[..., 2] = z[:, None]
    out.add("paint", loft(points))
    sill = p["clearance"] - 0.03
    inner = 0.5 * p["width"] - 0.28
    out.add("trim", box((-inner, sill, _z(p, 0.04)), (inner, 0.62 * _belt(p), _z(p, 0.955))))


@dataclass(frozen=True)
class Greenhouse:
    """The corners of the cabin: z of its four edges, half widths and heights below and above."""

    rear: float
    front: float
    roof_rear: float
    roof_front: float
    low: float
    high: float
    half_low: float
    half_high: float

    def ring(self, t: float, grow: float = 0.0) -> list[tuple[float, float, float]]:
        """Outline at height share ``t`` (0 = belt, 1 = roof), ``grow`` metres larger."""
        half = self.half_low + t * (self.half_high - self.half_low) + grow
        rear = self.rear + t * (self.roof_rear - self.rear) - grow
        front = self.front + t * (self.roof_front - self.front) + grow
        y = self.low + t * (self.high - self.low)
        # The glass is bowed: the middle of the screen is in front of its corners.
        bow = 0.05 * (front - rear)
        return [(-half, y, rear + 0.4 * bow), (-0.6 * half, y, rear), (0.6 * half, y, rear),
                (half, y, rear + 0.4 * bow), (half, y, front - bow), (0.6 * half, y, front),
                (-0.6 * half, y, front), (-half, y, front - bow)]  # fmt: skip

    def edge(self, side: int, t: float, grow: float) -> np.ndarray:
        """Corner post ``side`` (0 = rear, 1 = front; on +X) at height share ``t``."""
        return np.array(self.ring(t, grow)[3 + side])


def _greenhouse(p: Params) -> Greenhouse:
    style = STYLES[p["body"]]
    shift = p["shift"]
    half = 0.5 * p["width"]
    return Greenhouse(
        rear=_z(p, style.cabin[0]),
        front=_z(p, style.cabin[1] + shift),
        roof_rear=_z(p, style.roof[0]),
        roof_front=_z(p, style.roof[1] + shift),
        low=_belt(p) - 0.04,
        high=p["height"] - 0.05,
        half_low=0.86 * half,
        half_high=(0.76 if p["body"] == "van" else 0.68) * half,
    )


def _cabin(out: Assembly, p: Params) -> None:
    """A block of dark glass, the roof on it, and posts in the paint over its edges."""
    g = _greenhouse(p)
    out.add("glass", loft([g.ring(0.0), g.ring(1.0)]))
    roof = [g.ring(0.9, 0.012), g.ring(1.0, 0.022)]
    crown = [[(0.86 * x, p["height"], 0.92 * z + 0.08 * 0.5 * (g.roof_rear + g.roof_front))
              for x, _, z in g.ring(1.0)]]  # fmt: skip
    out.add("roof", loft([*roof, *crown]))
    for side in (0, 1):
        out.add_pair("paint", _post(g.edge(side, 0.0, 0.008), g.edge(side, 0.97, 0.008), 0.05))
    middle = 0.52 if p["body"] in ("sedan", "estate", "hatchback") else 0.62
    stations = {"pickup": (), "van": (0.36, 0.66), "estate": (0.3, 0.6)}.get(p["body"], (middle,))
    for station in stations:
        low = g.edge(0, 0.0, 0.008) * (1 - station) + g.edge(1, 0.0, 0.008) * station
        high = g.edge(0, 0.97, 0.008) * (1 - station) + g.edge(1, 0.97, 0.008) * station
        out.add_pair("paint", _post(low, high, 0.045))
    if p["panel_van"]:
        # Boards instead of side windows behind the driver.
        corners = [(g.edge(0, t, 0.014), g.edge(0, t, 0.014) * 0.38 + g.edge(1, t, 0.014) * 0.62)
                   for t in (0.0, 0.97)]  # fmt: skip
        rings = [[a, b, b - (0.05, 0, 0), a - (0.05, 0, 0)] for a, b in corners]
        out.add_pair("paint", loft(rings))


def _post(low: np.ndarray, high: np.ndarray, half: float) -> Solid:
    """An upright strip on the side of the glass, ``2 half`` wide along z."""
    inner = np.array((0.07, 0.0, 0.0))
    along = np.array((0.0, 0.0, half))
    return loft([[c - along, c + along, c + along - inner, c - along - inner] for c in (low, high)])


def _wheels(out: Assembly, p: Params) -> None:
    """Four tyres with a rim, and a dark disc behind each."""
    radius, width = p["wheel_radius"], 0.2 + 0.08 * (p["wheel_radius"] - 0.3)
    at_x = 0.5 * p["width"] - 0.5 * width - 0.01
    section = 0.5 * width
    for axle in (p["front_axle"], p["rear_axle"]):
        at = (at_x, radius, _z(p, axle))
        # The same height of section as of a real tyre: about a third of the radius.
        minor = 0.17 * radius
        tyre = torus(radius - minor, minor, 20, 8, axis=0, squash=section / minor)
        out.add_pair("tyre", tyre.moved(at))
        disc = lathe([(0.7 * radius, -0.6 * section), (0.7 * radius, 0.4 * section)], 20, axis=0)
        out.add_pair("rim" if p["rim"] == "disc" else "trim", disc.moved(at))
        if p["rim"] == "disc":
            cap = lathe([(0.24 * radius, 0.0), (0.2 * radius, 0.6 * section)], 12, axis=0)
            out.add_pair("trim", cap.moved(at))
            continue
        hub = lathe([(0.2 * radius, 0.0), (0.17 * radius, 0.72 * section)], 12, axis=0)
        out.add_pair("rim", hub.moved(at))
        half = 0.085 * radius
        spoke = box((0.0, 0.0, -half), (0.62 * section, 0.74 * radius, half))
        for k in range(p["spokes"]):
            out.add_pair("rim", spoke.turned(0, 2 * np.pi * k / p["spokes"]).moved(at))


def _details(out: Assembly, p: Params) -> None:
    """Lamps, bumpers, mirrors, and what the body type has besides."""
    half, low = 0.5 * p["width"], p["clearance"]
    nose, tail = _z(p, 1.0), _z(p, 0.0)
    lamp = float(_top(p, np.array([0.995]))[0]) - 0.13
    out.add_pair(
        "lamp",
        box((0.46 * half, lamp - 0.075, nose - 0.25), (0.74 * half, lamp + 0.07, nose + 0.012)),
    )
    out.add(
        "trim", box((-0.4 * half, lamp - 0.07, nose - 0.2), (0.4 * half, lamp + 0.04, nose + 0.008))
    )
    out.add(
        "trim", box((-0.74 * half, low + 0.1, nose - 0.2), (0.74 * half, low + 0.24, nose + 0.035))
    )
    rear = float(_top(p, np.array([0.0]))[0]) - 0.12
    out.add_pair(
        "tail",
        box((0.54 * half, rear - 0.13, tail - 0.012), (0.82 * half, rear + 0.06, tail + 0.2)),
    )
    out.add(
        "trim", box((-0.82 * half, low + 0.1, tail - 0.035), (0.82 * half, low + 0.25, tail + 0.2))
    )
    g = _greenhouse(p)
    corner = g.edge(1, 0.12, 0.0)
    mirror = np.array([[-0.03, -0.03, -0.2], [0.2, 0.13, -0.06]])
    out.add_pair("trim", box(*(corner + mirror)))
    if p["rack"]:
        z0, z1 = g.roof_rear + 0.2, g.roof_front - 0.2
        y, x = p["height"], 0.8 * g.half_high
        out.add_pair("trim", box((x - 0.04, y - 0.06, z0), (x + 0.02, y + 0.06, z1)))
        for at in (z0 + 0.15, z1 - 0.15):
            out.add("trim", box((-x, y + 0.0, at - 0.05), (x, y + 0.05, at + 0.05)))
    if p["spoiler"]:
        y = _belt(p) + 0.16 if p["body"] == "sedan" else p["height"] - 0.02
        z = tail + 0.05 if p["body"] == "sedan" else g.roof_rear - 0.22
        out.add("paint", box((-0.78 * half, y, z), (0.78 * half, y + 0.05, z + 0.3)))
        out.add_pair(
            "trim", box((0.5 * half, y - 0.3, z + 0.08), (0.58 * half, y + 0.02, z + 0.24))
        )
    if p["body"] == "pickup":
        _bed(out, p)


def _bed(out: Assembly, p: Params) -> None:
    """The load bed: boards above the belt line around a dark floor."""
    half, belt = 0.5 * p["width"], _belt(p)
    z0, z1 = _z(p, 0.02), _z(p, STYLES["pickup"].cabin[0] + 0.005)
    rim = belt + 0.16
    out.add_pair("paint", box((0.76 * half, belt - 0.12, z0 + 0.07), (0.9 * half, rim, z1)))
    out.add("paint", box((-0.9 * half, belt - 0.2, z0), (0.9 * half, rim - 0.012, z0 + 0.12)))
    out.add("paint", box((-0.9 * half, belt - 0.1, z1 - 0.1), (0.9 * half, rim + 0.012, z1 + 0.02)))
    out.add(
        "trim", box((-0.78 * half, belt - 0.1, z0 + 0.1), (0.78 * half, belt + 0.015, z1 - 0.08))
    )
