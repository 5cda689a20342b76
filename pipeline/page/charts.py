"""Charts as inline SVG and HTML. Numbers in, markup out; colours are the page's own."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import numpy as np

WIDTH, HEIGHT = 360, 150
LEFT, RIGHT, TOP, BOTTOM = 8, 8, 18, 24
"""Margins of a histogram (units of its view box)."""
DOTS = 2000
"""Camera directions that are drawn at most."""
DISC = 150
"""Radius of a hemisphere's picture."""


def escape(text: object) -> str:
    """Other people's text for HTML: markup and control characters are made harmless."""
    shown = "".join(
        c if c >= " " or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in str(text)
    )
    # Lone surrogates, which file names can hold, cannot be written as UTF-8.
    return html.escape(shown.encode("utf-8", "replace").decode())


def number(value: float) -> str:
    """At most four digits, large ones with separators."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def histogram(
    values: np.ndarray,
    title: str,
    *,
    span: tuple[float, float] | None = None,
    ticks: Sequence[float] = (),
    log: bool = False,
    bins: int = 36,
    unit: str = "",
) -> str:
    """A figure with a histogram and its percentiles; empty where there is no value.

    Args:
        values: Any shape; what is not finite is left out.
        title: Heading, plain text.
        span: What the axis covers at least, besides the values.
        ticks: Numbers below the axis; the ends and the middle by default.
        log: Bins of equal ratio; values must be positive.
        bins: How many.
        unit: Follows every number.
    """
    values = np.asarray(values, np.float64).reshape(-1)
    values = values[np.isfinite(values) & (values > 0 if log else True)]
    if not values.size:
        return ""
    low, high = float(values.min()), float(values.max())
    if span is not None:  # and no value is left out because of it
        low, high = min(low, span[0]), max(high, span[1])
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        return _figure(
            title, f'<p class="same">all {number(float(values[0]))}{escape(unit)}</p>', ""
        )
    scale = np.log10 if log else np.asarray
    counts, edges = np.histogram(scale(values), bins, (float(scale(low)), float(scale(high))))
    edges = 10**edges if log else edges
    step = (WIDTH - LEFT - RIGHT) / bins
    tall = HEIGHT - TOP - BOTTOM
    bars = []
    for n, count in enumerate(counts.tolist()):
        if not count:
            continue
        size = max(tall * count / counts.max(), 1.0)
        bars.append(
            f'<rect x="{LEFT + n * step:.1f}" y="{HEIGHT - BOTTOM - size:.1f}" '
            f'width="{step - 1:.1f}" height="{size:.1f}"><title>{number(edges[n])} to '
            f"{number(edges[n + 1])}{escape(unit)}: {count:,}</title></rect>"
        )
    axis = _axis(ticks or _ticks(low, high, log), low, high, log, unit)
    svg = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f'<text x="{LEFT}" y="11">{counts.max():,}</text>'
        f'<path class="grid" d="M{LEFT} {TOP}H{WIDTH - RIGHT}"/>{"".join(bars)}{axis}</svg>'
    )
    few, middle, most = (number(float(v)) for v in np.percentile(values, (5, 50, 95)))
    return _figure(title, svg, f"median {middle}{unit}; 90% from {few} to {most}{unit}")


def _figure(title: str, chart: str, caption: str) -> str:
    note = f"<p>{escape(caption)}</p>" if caption else ""
    return f"<figure><figcaption>{escape(title)}</figcaption>{chart}{note}</figure>"


def _ticks(low: float, high: float, log: bool) -> list[float]:
    if not log:
        return [low, (low + high) / 2, high]
    powers = 10.0 ** np.arange(np.ceil(np.log10(low)), np.floor(np.log10(high)) + 1)
    return powers.tolist() if len(powers) > 1 else [low, high]


def _axis(ticks: Sequence[float], low: float, high: float, log: bool, unit: str) -> str:
    scale = np.log10 if log else np.asarray
    base = HEIGHT - BOTTOM
    parts = [f'<path class="axis" d="M{LEFT} {base}H{WIDTH - RIGHT}"/>']
    for tick in ticks:
        share = float((scale(tick) - scale(low)) / (scale(high) - scale(low)))
        x = LEFT + share * (WIDTH - LEFT - RIGHT)
        anchor = "start" if share < 0.04 else "end" if share > 0.96 else "middle"
        parts.append(f'<path class="axis" d="M{x:.1f} {base}v4"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{base + 17}" text-anchor="{anchor}">'
            f"{number(tick)}{escape(unit)}</text>"
        )
    return "".join(parts)


def directions(azimuth: np.ndarray, elevation: np.ndarray) -> str:
    """Where cameras stand, seen from above: a disc a hemisphere, areas as on the sphere.

    Lambert's azimuthal equal-area projection: a uniform distribution looks uniform. The front (+Z,
    azimuth 0) is below, azimuth grows counter-clockwise, as in the conventions.

    Args:
        azimuth: ``[N]`` radians.
        elevation: ``[N]`` radians.
    """
    if not len(azimuth):
        return ""
    rows = np.unique(np.linspace(0, len(azimuth) - 1, min(DOTS, len(azimuth))).astype(int))
    azimuth, elevation = azimuth[rows], elevation[rows]
    shown = f"{len(rows):,} of them, evenly picked; " if len(rows) == DOTS else ""
    discs = [
        _disc(azimuth[side], np.abs(elevation[side]), name)
        for name, side in (("above", elevation >= 0), ("below", elevation < 0))
        if side.any()
    ]
    note = f"{shown}rim: horizon, centre: pole, rings: 30° and 60°; areas as on the sphere"
    return _figure("Camera directions", f'<div class="discs">{"".join(discs)}</div>', note)


def _disc(azimuth: np.ndarray, elevation: np.ndarray, name: str) -> str:
    def out(angle: np.ndarray | float) -> np.ndarray:
        return DISC * np.sqrt(1 - np.sin(angle))

    radius = out(elevation)
    x, y = radius * np.sin(azimuth), radius * np.cos(azimuth)
    dots = "".join(f"M{a:.0f} {b:.0f}h0" for a, b in zip(x.tolist(), y.tolist(), strict=True))
    rings = "".join(f'<circle r="{float(out(np.deg2rad(a))):.0f}"/>' for a in (0, 30, 60))
    far = DISC + 14
    words = "".join(
        f'<text x="{a}" y="{b}" text-anchor="middle">{text}</text>'
        for a, b, text in (
            (0, far + 3, "0° front"),
            (far + 4, 4, "90°"),
            (0, -far + 6, "180°"),
            (-far - 5, 4, "270°"),
        )
    )
    half = DISC + 36
    box = f"{-half} {-DISC - 26} {2 * half} {2 * DISC + 52}"
    return (
        f'<svg viewBox="{box}" role="img" aria-label="cameras {name} the horizon">'
        f'<g class="rings">{rings}</g><path class="dots" d="{dots}"/>{words}'
        f'<text x="{-half + 4}" y="{-DISC - 8}">{name}</text></svg>'
    )


def parts_bar(parts: Mapping[str, int]) -> str:
    """One bar of several parts, each with its class, and the legend below it."""
    total = sum(parts.values()) or 1
    pieces = "".join(
        f'<i class="{name}" style="flex:{count}"></i>' for name, count in parts.items() if count
    )
    legend = "".join(
        f'<li><i class="{name}"></i>{name} <b>{count:,}</b> '
        f"<span>{100 * count / total:.1f}%</span></li>"
        for name, count in parts.items()
    )
    return f'<div class="parts">{pieces}</div><ul class="legend">{legend}</ul>'


def bar(share: float, kind: str = "") -> str:
    """A bar of a table's row: the share 0..1 of its full length."""
    return f'<span class="bar"><i class="{kind}" style="width:{100 * share:.1f}%"></i></span>'
