"""Curves of a run as inline SVG. Numbers in, markup out; colours are the page's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .markup import escape, number

WIDTH, HEIGHT = 460, 190
LEFT, RIGHT, TOP, BOTTOM = 52, 8, 10, 26
"""Margins (units of the view box)."""
BINS = 240
"""Points of a line at most; each is the mean of the ticks that it stands for."""


@dataclass(frozen=True)
class Chart:
    """Which scalars are drawn together.

    Attributes:
        title: Plain text.
        names: Of the scalars, with what each is called in the legend.
        log: Powers of ten on the vertical axis, where all values are positive.
        unit: Follows the numbers of the legend.
        zero: The vertical axis begins at 0.
    """

    title: str
    names: Mapping[str, str]
    log: bool = False
    unit: str = ""
    zero: bool = False


KNOWN = (
    Chart("Adversarial losses", {"loss/d": "discriminators", "loss/g": "generator"}),
    Chart("Logits of RGB", {"logits/real_rgb": "real", "logits/fake_rgb": "generated"}),
    Chart("Logits of silhouettes", {"logits/real_mask": "real", "logits/fake_mask": "generated"}),
    Chart(
        "Gradient penalties",
        {"r1/rgb": "R1 RGB", "r1/mask": "R1 mask", "r2/rgb": "R2 RGB", "r2/mask": "R2 mask"},
        log=True,
    ),
    Chart("SDF sign loss", {"loss/sdf": "loss"}, log=True),
    Chart("Empty shapes that were rescued", {"empty": "share"}, zero=True),
    Chart("Speed", {"images_per_second": "images"}, unit="/s", zero=True),
    Chart(
        "Memory",
        {"memory_mb": "process, peak", "gpu_memory_mb": "GPU, peak"},
        unit=" MB",
        zero=True,
    ),
)
"""What belongs together; other scalars are drawn by the part of their name before the slash."""

HIDDEN = {"nimg", "time", "train_seconds"}
"""What a tick is counted by."""


def charts(columns: Mapping[str, np.ndarray], marks: Sequence[float] = ()) -> str:
    """A figure for each group of scalars that has a value.

    Args:
        columns: By name ``[N]``, NaN where a tick has no value; ``nimg`` is the horizontal axis.
        marks: Images after which something happened; dashed lines.
    """
    named = {name for chart in KNOWN for name in chart.names}
    others: dict[str, dict[str, str]] = {}
    for name in sorted(columns):
        if name not in named and name not in HIDDEN:
            group, _, rest = name.rpartition("/")
            others.setdefault(group or name, {})[name] = rest
    every = [*KNOWN, *(Chart(group, names) for group, names in others.items())]
    return "\n".join(filter(None, (_figure(chart, columns, marks) for chart in every)))


class Line(NamedTuple):
    """A thinned curve: mean, least and greatest of each bin of ticks, ``[K]``."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def thin(x: np.ndarray, y: np.ndarray, bins: int = BINS) -> Line:
    """Mean and range in at most ``bins`` runs of neighbours, without what is not finite."""
    keep = np.isfinite(y)
    x, y = x[keep], y[keep]
    starts = np.unique(np.linspace(0, len(x), min(bins, len(x)), endpoint=False).astype(int))
    if not len(starts):
        return Line(x, y, y, y)
    counts = np.diff(np.append(starts, len(x)))
    return Line(
        np.add.reduceat(x, starts) / counts,
        np.add.reduceat(y, starts) / counts,
        np.minimum.reduceat(y, starts),
        np.maximum.reduceat(y, starts),
    )


@dataclass(frozen=True)
class Axis:
    """Values to coordinates of the view box."""

    low: float
    high: float
    begin: float
    end: float
    log: bool = False

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Coordinates of ``values``, kept within the axis."""
        low, high = self.low, self.high
        if self.log:
            low, high = np.log10(low), np.log10(high)
            values = np.log10(np.maximum(values, self.low))
        share = np.clip((values - low) / (high - low), 0.0, 1.0)
        return self.begin + share * (self.end - self.begin)

    def ticks(self) -> list[float]:
        """Round numbers within the axis."""
        if self.log:
            powers = 10.0 ** np.arange(np.floor(np.log10(self.low)), np.log10(self.high) + 1e-9)
            inner = powers[powers >= self.low]
            if len(inner) > 2:
                return inner[:: max(1, len(inner) // 4)].tolist()
            fine = (powers[:, None] * (1, 2, 5)).ravel()
            return fine[(fine >= self.low) & (fine <= self.high)].tolist()
        step = 10 ** np.floor(np.log10((self.high - self.low) / 2))
        step *= next(k for k in (5, 2, 1) if (self.high - self.low) / (k * step) >= 2)
        first = np.ceil(self.low / step - 1e-9)
        ticks = step * np.arange(first, np.floor(self.high / step + 1e-9) + 1)
        return (ticks + 0.0).tolist()  # no minus zero


def _figure(chart: Chart, columns: Mapping[str, np.ndarray], marks: Sequence[float]) -> str:
    x = columns["nimg"] / 1000
    found = {name: columns[name] for name in chart.names if name in columns}
    lines = {name: thin(x, values) for name, values in found.items()}
    lines = {name: line for name, line in lines.items() if len(line.x)}
    if not lines:
        return ""
    across, up = _axes(chart, lines)
    drawn = [_curve(line, n, across, up) for n, line in enumerate(lines.values())]
    for mark in (m for m in marks if m / 1000 <= across.high):
        at = float(across(np.asarray(mark / 1000)))
        drawn.append(f'<path class="mark" d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
    legend = "".join(
        f'<li><i class="c{n % 6}"></i>{escape(chart.names[name])} '
        f"<b>{number(float(line.mean[-1]))}{escape(chart.unit)}</b></li>"
        for n, (name, line) in enumerate(lines.items())
    )
    ticks = np.isfinite(columns["nimg"])
    lost = sum(int((np.isinf(v) & ticks).sum()) for v in found.values())
    note = f'<p class="bad">{lost:,} values are not finite</p>' if lost else ""
    title = escape(chart.title)
    return (
        f'<figure><figcaption>{title}</figcaption><ul class="legend">{legend}</ul>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">'
        f"{_grid(across, up)}{''.join(drawn)}</svg>{note}</figure>"
    )


def _axes(chart: Chart, lines: Mapping[str, Line]) -> tuple[Axis, Axis]:
    """Horizontal and vertical; single spikes are cut, the means are not."""
    first = min(0.0, *(float(line.x[0]) for line in lines.values()))
    last = max(float(line.x[-1]) for line in lines.values())
    low = min(float(min(line.mean.min(), np.percentile(line.low, 2))) for line in lines.values())
    high = max(float(max(line.mean.max(), np.percentile(line.high, 98))) for line in lines.values())
    log = chart.log and low > 0 and high > 8 * low
    if not log:
        room = max(0.04 * (high - low), 1e-3 * max(abs(low), abs(high)), 1e-9)
        low, high = (0.0 if chart.zero or low == 0 else low - room), high + room
    across = Axis(first, max(last, first + 1e-9), LEFT, WIDTH - RIGHT)
    return across, Axis(low, high, HEIGHT - BOTTOM, TOP, log)


def _curve(line: Line, n: int, across: Axis, up: Axis) -> str:
    x = across(line.x).tolist()
    mean, low, high = (up(values).tolist() for values in (line.mean, line.low, line.high))
    if len(x) == 1:
        return f'<circle class="c{n % 6}" cx="{x[0]:.1f}" cy="{mean[0]:.1f}" r="3"/>'
    over = [f"{a:.1f} {b:.1f}" for a, b in zip(x, high, strict=True)]
    under = [f"{a:.1f} {b:.1f}" for a, b in zip(x, low, strict=True)]
    middle = " ".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, mean, strict=True))
    return (
        f'<path class="band c{n % 6}" d="M{" ".join([*over, *reversed(under)])}Z"/>'
        f'<path class="line c{n % 6}" d="M{middle}"/>'
    )


def _grid(across: Axis, up: Axis) -> str:
    base = HEIGHT - BOTTOM
    parts = [f'<path class="axis" d="M{LEFT} {base}H{WIDTH - RIGHT}"/>']
    for tick in up.ticks():
        y = float(up(np.asarray(tick)))
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_short(tick)}</text>'
        )
    for tick in across.ticks():
        x = float(across(np.asarray(tick)))
        anchor = "end" if x > WIDTH - 40 else "middle"
        parts.append(f'<path class="axis" d="M{x:.1f} {base}v4"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{base + 18}" text-anchor="{anchor}">{_short(tick)}</text>'
        )
    parts.append(f'<text x="2" y="{base + 18}">kimg</text>')
    return "".join(parts)


def _short(value: float) -> str:
    """A number of an axis."""
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return number(float(f"{value:.6g}"))
