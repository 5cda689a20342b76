"""What a run's folder says about it. Files in, values out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ...config import flatten
from ...errors import CheckpointError, ConfigError
from ..checkpoint import SNAPSHOT, numbered, read_json
from ..config import TrainConfig, preset_config
from .environment import EVENTS

STATS, CONFIG, RUN = "stats.jsonl", "config.yaml", "run.json"
ENVIRONMENT = "environment.json"
GRID, TURNTABLE = "fakes-*.png", "turntable-*.webp"


@dataclass(frozen=True)
class Event:
    """Something that happened to a run.

    Attributes:
        nimg: Images shown until then.
        kind: In a word or two.
        text: What was found and done.
    """

    nimg: int
    kind: str
    text: str


@dataclass(frozen=True)
class Setting:
    """One value of the config.

    Attributes:
        key: Its path.
        value: As it is.
        default: Of g3d.
        preset: Of the run's preset.
    """

    key: str
    value: Any
    default: Any
    preset: Any


@dataclass(frozen=True)
class RunFacts:
    """A run's folder, read once.

    Attributes:
        folder: The run.
        config: ``config.yaml``, nested.
        record: ``run.json``.
        sessions: Where and with what each session ran (``environment.json``), the first first.
        columns: ``stats.jsonl`` by name ``[N]``, NaN where a line has no value.
    """

    folder: Path
    config: Mapping[str, Any]
    record: Mapping[str, Any]
    sessions: tuple[Mapping[str, Any], ...]
    columns: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, folder: Path) -> RunFacts:
        """Read a run.

        Raises:
            CheckpointError: It is not a run of g3d.
        """
        if not (folder / RUN).is_file():
            raise CheckpointError(f"{folder} is not a run of g3d", hint="train first: g3d train")
        environment = read_json(folder / ENVIRONMENT) if (folder / ENVIRONMENT).exists() else {}
        sessions = [one for one in environment.get("sessions", []) if isinstance(one, dict)]
        return cls(
            folder,
            _yaml(folder / CONFIG),
            read_json(folder / RUN),
            tuple(sessions),
            columns(json_lines(folder / STATS)),
        )

    @property
    def nimg(self) -> int:
        """Images shown so far."""
        snapshots = self.snapshots
        ticks = self.columns.get("nimg", np.zeros(0))
        return max([*map(int, snapshots), *map(int, ticks[-1:]), 0])

    @cached_property
    def total(self) -> int:
        """Images of the whole run, 0 where the config does not say."""
        run = self.config.get("run", {})
        batch, kimg = run.get("batch"), run.get("kimg")
        return max(1, round(kimg * 1000 / batch)) * batch if batch and kimg else 0

    @cached_property
    def snapshots(self) -> list[int]:
        """Images after which a snapshot was made."""
        names = (path.name for path in numbered(self.folder, SNAPSHOT))
        return [int(name.split("-")[1].split(".")[0]) for name in names]

    @property
    def finished(self) -> bool:
        """Whether the last snapshot, which comes last of all, is there."""
        return bool(self.snapshots) and self.total > 0 and self.snapshots[-1] >= self.total

    @property
    def seconds(self) -> float:
        """Time in the loop, all sessions together."""
        return self._last("train_seconds") or 0.0

    @property
    def last_tick(self) -> str:
        """Date and time of the newest line, UTC; empty where it has none."""
        then = self._last("time")
        return f"{datetime.fromtimestamp(then, UTC):%Y-%m-%d %H:%M} UTC" if then else ""

    def _last(self, name: str) -> float | None:
        values = self.columns.get(name, np.zeros(0))
        values = values[np.isfinite(values)]
        return float(values[-1]) if len(values) else None

    def last(self, name: str) -> float | None:
        """The newest finite value of a scalar."""
        return self._last(name)

    @cached_property
    def events(self) -> list[Event]:
        """From ``events.jsonl``, and where sessions went on, by images."""
        found = [
            Event(int(one.get("nimg", 0)), "went on", f"from {one.get('nimg', 0):,} images")
            for one in self.sessions[1:]
        ]
        for line in json_lines(self.folder / EVENTS):
            rest = {k: v for k, v in line.items() if k not in {"nimg", "kind", "message", "time"}}
            text = [str(line["message"])] if "message" in line else []
            text += [f"{key} {value}" for key, value in rest.items()]
            nimg = line.get("nimg", 0)
            nimg = int(nimg) if isinstance(nimg, int | float) else 0
            found.append(Event(nimg, str(line.get("kind", "event")), ", ".join(text)))
        return sorted(found, key=lambda event: event.nimg)

    @cached_property
    def settings(self) -> list[Setting]:
        """Every value of the config beside those that it might have had."""
        defaults = TrainConfig().model_dump(mode="json")
        name = str(self.config.get("preset", ""))
        try:
            preset = preset_config(name).model_dump(mode="json")
        except ConfigError:  # a run without a preset, or with one of another version
            preset = {**defaults, "preset": name}
        default, named = flatten(defaults), flatten(preset)
        return [
            Setting(key, value, default.get(key, ""), named.get(key, ""))
            for key, value in flatten(self.config).items()
        ]

    def pictures(self, pattern: str) -> dict[int, str]:
        """File names by images shown."""
        found = {}
        for path in self.folder.glob(pattern):
            digits = path.stem.rpartition("-")[2]
            if digits.isdigit():
                found[int(digits)] = path.name
        return dict(sorted(found.items()))


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; the line that a kill cut short is left out."""
    found = []
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                found.append(value)
    return found


def columns(lines: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Numbers of the lines by name, float64 ``[N]``; NaN where a line has none."""
    lines = [line for line in lines if isinstance(line.get("nimg"), int | float)]
    names = dict.fromkeys(name for line in lines for name in line)
    return {
        name: np.array(
            [v if isinstance(v := line.get(name), int | float) else np.nan for line in lines],
            np.float64,
        )
        for name in names
    }


def _yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}
