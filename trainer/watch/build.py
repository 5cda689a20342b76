"""The report of a run: how far it is, how it learns, what it makes, what it was started with."""

from __future__ import annotations

import json
import logging
import re
import time
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from ...console import format_seconds
from ...errors import G3DError
from ...manifests.atomic import write_atomic
from ..checkpoint import read_json
from ..grids import REALS
from . import curves
from .environment import environment
from .facts import CONFIG, ENVIRONMENT, GRID, TURNTABLE, RunFacts, Setting
from .markup import escape, kimg, number, rows

log = logging.getLogger(__name__)

REPORT = "report.html"
"""Name of the page in a run's folder."""
GRIDS = 8
"""Earlier image grids that are shown at most."""
EVENTS = 200
"""Events that are listed at most, the newest."""


def write_report(run: Path, *, running: bool = False) -> Path:
    """Write ``report.html`` into a run's folder, from the files there alone.

    One page without scripts, beside the pictures that it shows: the folder can be copied as a
    whole. Equal files give equal bytes.

    Args:
        run: The run's folder.
        running: Say that the run goes on, and let browsers load the page again every minute.

    Raises:
        CheckpointError: It is not a run of g3d.
        DiskError: The page cannot be written.
    """
    path = run / REPORT
    write_atomic(path, run_page(RunFacts.of(run), running=running), sync=False)
    return path


def run_page(facts: RunFacts, *, running: bool = False) -> bytes:
    """The page as UTF-8."""
    config = facts.config
    name = facts.folder.resolve().name
    values = {
        "TITLE": escape(name),
        "REFRESH": '<meta http-equiv="refresh" content="60">' if running else "",
        "LEAD": _lead(facts),
        "TILES": _tiles(facts, running=running),
        "EVENTS": _events(facts),
        "CURVES": _curves(facts),
        "TURNTABLE": _turntable(facts),
        "GRIDS": _grids(facts),
        "DATA": rows(_data(facts)),
        "VERSIONS": rows(_versions(facts)),
        "CONFIG": _config(facts.settings, str(config.get("preset", ""))),
    }
    template = (resources.files(__package__) / "page.html").read_text(encoding="utf-8")
    # In one pass: what is put in is not looked at again.
    return re.sub(r"<!--([A-Z]+)-->", lambda found: values[found[1]], template).encode()


class RunReport:
    """Keeps the report of a running session up to date.

    A page costs much more than a tick of a small run: it is rewritten at most every
    ``EVERY`` seconds, and so seldom that it takes at most a hundredth of the time. What goes wrong
    here is logged and never stops the training.

    Args:
        folder: The run's folder.
        nimg: Images shown when the session starts.
    """

    EVERY = 10.0
    SHARE = 0.01

    def __init__(self, folder: Path, nimg: int = 0) -> None:
        self._folder = folder
        self._next = 0.0
        try:
            self._note_session(nimg)
        except (OSError, G3DError) as error:
            log.warning("%s: %s", folder / ENVIRONMENT, error)

    def update(self) -> None:
        """Rewrite the page, if it is time."""
        start = time.monotonic()
        if start >= self._next:
            self._write(running=True)
            end = time.monotonic()
            self._next = end + max(self.EVERY, (end - start) / self.SHARE)

    def close(self) -> None:
        """Write the page of a session that ends, finished or not."""
        self._write(running=False)

    def _write(self, *, running: bool) -> None:
        try:
            write_report(self._folder, running=running)
        except Exception as error:  # whatever it is, the weights are worth more than the page
            log.warning("the report was not written: %s: %s", type(error).__name__, error)
            log.debug("the report was not written", exc_info=True)

    def _note_session(self, nimg: int) -> None:
        path = self._folder / ENVIRONMENT
        before = read_json(path).get("sessions", []) if path.exists() and nimg else []
        session: dict[str, Any] = {"nimg": nimg, "time": round(time.time()), **environment()}
        write_atomic(path, (json.dumps({"sessions": [*before, session]}) + "\n").encode())


def _lead(facts: RunFacts) -> str:
    context = facts.record.get("identity", {}).get("context", {})
    size = facts.config.get("data", {}).get("size", "?")
    return (
        f"{escape(context.get('category', 'shapes'))} from {escape(context.get('name', '?'))}, "
        f"preset {escape(facts.config.get('preset', '?'))}, {escape(size)} px"
    )


def _tiles(facts: RunFacts, *, running: bool) -> str:
    state = "finished" if facts.finished else "running" if running else "stopped"
    rate = facts.last("images_per_second")
    left = facts.total - facts.nimg
    tiles = {
        "state": state + (f", last line {facts.last_tick}" if running and facts.last_tick else ""),
        "shown": f"{kimg(facts.nimg)} of {kimg(facts.total)}",
        "time in the loop": format_seconds(facts.seconds) if facts.seconds else "-",
        "images a second, on average": number(facts.nimg / facts.seconds) if facts.seconds else "-",
    }
    if running and rate and left > 0:
        tiles["left, at the last speed"] = format_seconds(left / rate)
    empty = facts.last("empty")
    if empty is not None:
        tiles["empty shapes"] = f"{empty:.1%}"
    memory = facts.last("gpu_memory_mb") or facts.last("memory_mb")
    if memory:
        tiles["memory, peak"] = f"{number(memory)} MB"
    tiles["snapshots"] = str(len(facts.snapshots))
    done = 100 * min(1.0, facts.nimg / facts.total) if facts.total else 0
    items = "".join(f"<li><b>{escape(v)}</b><span>{k}</span></li>" for k, v in tiles.items())
    return (
        f'<ul class="tiles {state}">{items}</ul>'
        f'<div class="done {state}"><i style="width:{done:.1f}%"></i></div>'
    )


def _events(facts: RunFacts) -> str:
    if not facts.events:
        return ""
    shown = facts.events[-EVENTS:]
    lines = "".join(
        f"<tr><td>{kimg(event.nimg)}</td><td><b>{escape(event.kind)}</b></td>"
        f"<td>{escape(event.text)}</td></tr>"
        for event in shown
    )
    left = len(facts.events) - len(shown)
    more = f'<p class="more">and {left:,} earlier ones</p>' if left else ""
    return (
        f'<section id="events"><h2>Events</h2><div class="wide"><table>{lines}</table></div>'
        f"{more}</section>"
    )


def _curves(facts: RunFacts) -> str:
    if not len(facts.columns.get("nimg", ())):
        return "<p>No tick was written yet.</p>"
    return curves.charts(facts.columns, [event.nimg for event in facts.events])


def _turntable(facts: RunFacts) -> str:
    """The newest one; a still for those who ask for no motion."""
    found = facts.pictures(TURNTABLE)
    if not found:
        return ""
    nimg = max(found)
    stills = facts.pictures(GRID)
    still = (
        f'<source media="(prefers-reduced-motion: reduce)" srcset="{stills[nimg]}">'
        if nimg in stills
        else ""
    )
    return (
        '<section id="turntable"><h2>All around</h2>'
        f'<picture>{still}<img class="wall" src="{found[nimg]}" '
        f'alt="turning shapes of fixed seeds after {kimg(nimg)}"></picture>'
        f"<p>Fixed seeds after {kimg(nimg)}, psi 1.</p></section>"
    )


def _grids(facts: RunFacts) -> str:
    """The newest grid large, earlier ones small: more of the early ones, which differ more."""
    found = facts.pictures(GRID)
    if not found:
        return "<p>No image grid was made yet.</p>"
    newest = max(found)
    earlier = spread([nimg for nimg in found if nimg < newest], GRIDS)
    small = "".join(
        f'<li><a href="{found[nimg]}"><img src="{found[nimg]}" loading="lazy" '
        f'alt="after {kimg(nimg)}"></a><span>{kimg(nimg)}</span></li>'
        for nimg in earlier
    )
    reals = (
        f'<figure><img class="wall" src="{REALS}" alt="real images">'
        "<figcaption>Real images</figcaption></figure>"
        if (facts.folder / REALS).exists()
        else ""
    )
    return (
        f'<figure><a href="{found[newest]}"><img class="wall" src="{found[newest]}" '
        f'alt="after {kimg(newest)}"></a><figcaption>After {kimg(newest)}: 16 fixed seeds, '
        f"psi 1</figcaption></figure>{reals}"
        f'<ul class="strip">{small}</ul>'
    )


def spread(values: list[int], count: int) -> list[int]:
    """At most ``count`` of the sorted ``values``, by equal ratios, the first and last with them."""
    if len(values) <= count:
        return values
    places = np.geomspace(1, len(values), count).round().astype(int) - 1
    picked = {int(place) for place in places}
    rest = [n for n in range(len(values)) if n not in picked]
    picked.update(rest[: count - len(picked)])  # rounding gave some twice
    return [values[n] for n in sorted(picked)]


def _data(facts: RunFacts) -> dict[str, object]:
    identity = facts.record.get("identity", {})
    context = dict(identity.get("context", {}))
    camera = context.pop("camera", {})
    if isinstance(camera, dict):
        context["camera"] = ", ".join(f"{k} {_plain(v)}" for k, v in camera.items())
    if "mirror_share" in context:
        context["mirror_share"] = f"{context['mirror_share']:.0%} of the shapes"
    hashes = {key: identity[key] for key in ("params_hash", "index_sha256") if key in identity}
    return {key: _plain(value) for key, value in {**context, **hashes}.items()}


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return " to ".join(map(_plain, dict.fromkeys(map(str, value))))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _versions(facts: RunFacts) -> dict[str, object]:
    if not facts.sessions:
        keys = {"g3d": "g3d_version", "torch": "torch_version"}
        return {name: facts.record.get(key, "?") for name, key in keys.items()}
    hidden = {"nimg", "time"}
    last = {k: v for k, v in facts.sessions[-1].items() if k not in hidden}
    changed = {
        key: value
        for session in facts.sessions
        for key, value in session.items()
        if key not in hidden and value != last.get(key)
    }
    return {**last, **{f"{key}, in an earlier session": v for key, v in changed.items()}}


def _config(settings: list[Setting], preset: str) -> str:
    """What differs from the defaults, and everything in a part that opens."""
    other = [one for one in settings if one.value != one.default]
    head = "<tr><th>key</th><th>value</th><th>default</th></tr>"
    table = "".join(_setting(one) for one in other)
    everything = "".join(_setting(one) for one in settings)
    own = sum(one.value != one.preset for one in settings)
    said = f"{len(other)} values differ from the defaults"
    said += f"; {own} of them also from the preset {escape(preset)} (marked)" if own else ""
    return (
        f'<p>{said}.</p><div class="wide"><table class="config">{head}{table}</table></div>'
        f"<details><summary>all {len(settings)} values ({CONFIG})</summary>"
        f'<div class="wide"><table class="config">{head}{everything}</table></div></details>'
    )


def _setting(one: Setting) -> str:
    kind = "own" if one.value != one.preset else "other" if one.value != one.default else ""
    return (
        f'<tr class="{kind}"><td>{escape(one.key)}</td><td>{_value(one.value)}</td>'
        f"<td>{_value(one.default)}</td></tr>"
    )


def _value(value: object) -> str:
    return escape("null" if value is None else str(value).lower() if value is True or value is False
                  else value)  # fmt: skip
