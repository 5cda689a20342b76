"""The one place that prints: results on stdout, talk, progress and errors on stderr.

Three modes, set once by the command line: ``human``, ``json`` (stdout holds one JSON object and
stderr only errors) and ``quiet`` (stdout holds a path or a table, stderr only errors). ``rich`` is
imported on first use, so that ``g3d --help`` stays fast.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .errors import G3DError

if TYPE_CHECKING:
    from rich.progress import Progress

Mode = Literal["human", "json", "quiet"]
SCHEMA = 1
FIRST_LINE_S, LONGEST_PAUSE_S = 10.0, 30.0


@dataclass
class _State:
    mode: Mode = "human"
    command: str = ""
    display: Progress | None = None


_state = _State()


def setup(mode: Mode = "human", *, command: str = "", verbose: int = 0) -> None:
    """Set the mode and the logging level (0 warnings, 1 info, 2 debug). Called by the CLI."""
    _state.mode, _state.command = mode, command
    logger = logging.getLogger("g3d")
    logger.setLevel(logging.DEBUG if verbose > 1 else logging.INFO)
    logger.propagate = False
    _remove_handlers(logger)
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    logger.addHandler(_LogHandler(logging.ERROR if mode != "human" else level))


def reset() -> None:
    """Back to what a library user has: human mode, and logging left to the program."""
    _state.mode, _state.command, _state.display = "human", "", None
    logger = logging.getLogger("g3d")
    logger.setLevel(logging.NOTSET)
    logger.propagate = True
    _remove_handlers(logger)


def mode() -> Mode:
    """The mode set by :func:`setup`."""
    return _state.mode


def say(text: str = "") -> None:
    """Write one line for people on stderr; silent with ``--json`` and ``--quiet``."""
    if _state.mode == "human":
        _line(text)


def result(data: Mapping[str, Any], text: str | None = None) -> None:
    """Write what the command was asked for on stdout, once at its end.

    Args:
        data: With ``--json`` one object: ``schema``, ``command`` and these keys.
        text: What people get. Without it, and always with ``--quiet`` if ``data`` has a
            ``path``, that path, so that ``g3d export -q`` feeds the next program.
    """
    if _state.mode == "json":
        out = json.dumps({"schema": SCHEMA, "command": _state.command, **data}, default=str)
    elif "path" in data and (text is None or _state.mode == "quiet"):
        out = str(data["path"])
    else:
        out = text or ""
    if out:
        sys.stdout.write(out + "\n")
        sys.stdout.flush()


def error(failure: G3DError) -> None:
    """Write an error: two lines, what and the way out, or one JSON object with ``--json``."""
    if _state.mode == "json":
        body = {"type": type(failure).__name__, "message": failure.message, "hint": failure.hint}
        _line(json.dumps({"schema": SCHEMA, "command": _state.command, "error": body}))
        return
    _line(f"error: {failure.message}")
    if failure.hint:
        _line(f"hint:  {failure.hint}")


class Task:
    """Progress of one piece of work; made by :func:`track`.

    Fields (``failed=3``, ``loss=0.21``, ``note="..."``) are shown beside the count and kept until
    they are replaced.
    """

    def __init__(self, description: str, total: float | None, unit: str) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.completed = 0.0
        self.fields: dict[str, Any] = {}
        self._start = time.monotonic()
        self._first: tuple[float, float] | None = None

    def advance(self, n: float = 1, **fields: Any) -> None:
        """Count ``n`` more."""
        self.update(self.completed + n, **fields)

    def update(
        self, completed: float | None = None, total: float | None = None, **fields: Any
    ) -> None:
        """Set the count, the total or the fields."""
        if completed is not None:
            if self._first is None and completed != self.completed:
                # A resumed run starts at a count that cost no time now: rates leave it out.
                self._first = (completed, time.monotonic())
            self.completed = completed
        if total is not None:
            self.total = total
        self.fields.update(fields)
        self._show()

    def _show(self) -> None:
        """Bring the display up to date; the silent task has none."""

    def _close(self, finished: bool) -> None:
        """End the display of this task."""

    @property
    def seconds(self) -> float:
        """Seconds since the task began."""
        return time.monotonic() - self._start

    def _rate(self) -> float:
        """Counts a second, since the first count; 0 while unknown."""
        if self._first is None:
            return 0.0
        count, when = self._first
        spent = time.monotonic() - when
        return (self.completed - count) / spent if spent > 0 else 0.0

    def status(self) -> str:
        """The fields as one short text."""
        return "  ".join(
            str(value) if key == "note" else f"{key} {_short(value)}"
            for key, value in self.fields.items()
            if value not in (None, "")
        )


class _PlainTask(Task):
    """One line every 10 to 30 seconds, for logs and pipes."""

    def __init__(self, description: str, total: float | None, unit: str) -> None:
        super().__init__(description, total, unit)
        self._pause, self._next = FIRST_LINE_S, self._start + FIRST_LINE_S

    def _show(self) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._pause = min(self._pause * 1.5, LONGEST_PAUSE_S)
            self._next = now + self._pause
            say(self._text())

    def _close(self, finished: bool) -> None:
        end = "done" if finished else "stopped"
        say(f"{self._text(left=False)}  {end} in {format_seconds(self.seconds)}")

    def _text(self, left: bool = True) -> str:
        parts = [self.description]
        count = f"{self.completed:g}"
        if self.total:
            share = self.completed / self.total
            parts.append(f"{count}/{self.total:g} {self.unit}".rstrip() + f"  {share:.0%}")
        elif self.completed:
            parts.append(f"{count} {self.unit}".rstrip())
        rate = self._rate()
        if left and rate > 0:
            if "note" not in self.fields:
                parts.append(f"{_short(rate)} {self.unit}/s")
            if self.total:
                parts.append(f"{format_seconds((self.total - self.completed) / rate)} left")
        return "  ".join([*parts, self.status()]).rstrip()


class _BarTask(Task):
    """One row of the live display."""

    def __init__(self, description: str, total: float | None, unit: str, display: Progress) -> None:
        super().__init__(description, total, unit)
        self._display = display
        self._row = display.add_task(description, total=total, count="", status="")

    def _show(self) -> None:
        rate = self._rate()
        # A note says what matters about this work, its speed too.
        speed = f"{_short(rate)} {self.unit}/s" if rate and "note" not in self.fields else ""
        status = "  ".join(part for part in (speed, self.status()) if part)
        self._display.update(
            self._row,
            completed=self.completed,
            total=self.total,
            status=status,
            count=self._count(),
        )

    def _count(self) -> str:
        of = f"/{self.total:g}" if self.total else ""
        return f"{self.completed:g}{of} {self.unit}".rstrip() if of or self.completed else ""

    def _close(self, finished: bool) -> None:
        if finished and self.total is None:
            done = max(self.completed, 1)
            self._display.update(self._row, total=done, completed=done)
        self._display.stop_task(self._row)


@contextmanager
def track(description: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
    """Show the progress of a piece of work.

    A bar on a terminal, one status line every 10 to 30 s elsewhere, nothing with ``--json`` and
    ``--quiet``. Inside :func:`group`, or inside another ``track``, a row of the same display.

    Args:
        description: A verb in its -ing form, for example ``rendering``.
        total: Count at the end, or None while it is unknown.
        unit: What is counted, singular: ``asset``, ``image``, ``mesh``.
    """
    if _state.mode != "human":
        yield Task(description, total, unit)
    elif not _is_terminal():
        yield from _closing(_PlainTask(description, total, unit))
    else:
        with group():
            assert _state.display is not None
            yield from _closing(_BarTask(description, total, unit, _state.display))


@contextmanager
def group() -> Iterator[None]:
    """Hold one display open: every :func:`track` inside is a row of it."""
    if _state.display is not None or _state.mode != "human" or not _is_terminal():
        yield
        return
    display = _new_display()
    with display:
        _state.display = display
        try:
            yield
        finally:
            _state.display = None


def _closing(task: Task) -> Iterator[Task]:
    finished = False
    try:
        yield task
        finished = True
    finally:
        task._close(finished)


def _new_display() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    # On 80 columns the bar stays whole and the status is cut.
    rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    return Progress(
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=12),
        TextColumn("{task.fields[count]}", table_column=Column(no_wrap=True)),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("{task.fields[status]}", style="dim", markup=False, table_column=rest),
        console=Console(stderr=True),
        refresh_per_second=4,
        expand=True,
    )


def _is_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _line(text: str) -> None:
    """One line on stderr, above the bars while they are shown."""
    if _state.display is not None:
        _state.display.console.print(text, markup=False, highlight=False, soft_wrap=True)
    else:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


class _LogHandler(logging.Handler):
    """Log records as lines of talk, ``warning: ...``, that do not tear the bars."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            prefix = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
            _line(prefix + self.format(record))
        except Exception:
            self.handleError(record)


def _remove_handlers(logger: logging.Logger) -> None:
    for handler in [h for h in logger.handlers if isinstance(h, _LogHandler)]:
        logger.removeHandler(handler)


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Append everything that is logged meanwhile to a file, for run folders.

    Args:
        path: The file; its folder exists.
    """
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("g3d")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


def format_seconds(seconds: float) -> str:
    """``3.2 s``, ``1 min 30 s``, ``2 h 05 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_bytes(size: float) -> str:
    """``512 B``, ``1.5 MB``: decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _short(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
