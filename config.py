"""Typed configuration: one base model, presets, overrides, dump and diff.

Precedence, the same for every command: defaults < ``--preset`` < ``--config FILE`` < named flags
< ``--set a.b=c``.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import ConfigError


class Config(BaseModel):
    """Base of every configuration: frozen, no unknown keys, docstrings become descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


C = TypeVar("C", bound=Config)


def home() -> Path:
    """Where datasets, runs and exports go when no path is given: ``$G3D_HOME``, or here."""
    return Path(os.environ.get("G3D_HOME") or ".")


def merge(base: Mapping[str, Any], *layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested mappings; later layers win, mappings are merged key by key."""
    out = dict(base)
    for layer in layers:
        for key, value in layer.items():
            if isinstance(value, Mapping) and isinstance(out.get(key), Mapping):
                out[key] = merge(out[key], value)
            else:
                out[key] = value
    return out


def parse_set(assignments: Iterable[str]) -> dict[str, Any]:
    """Turn ``["a.b=1", "c=x"]`` into ``{"a": {"b": 1}, "c": "x"}``; values are YAML.

    Raises:
        ConfigError: An assignment has no ``=`` or its value is not YAML.
    """
    out: dict[str, Any] = {}
    for item in assignments:
        key, sign, text = item.partition("=")
        if not sign or not key.strip():
            raise ConfigError(
                f"--set {item!r} is not of the form a.b=c", hint="for example --set data.size=48"
            )
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {item!r}: the value is not YAML ({error})") from error
        nested: Any = value
        for part in reversed(key.strip().split(".")):
            nested = {part: nested}
        out = merge(out, nested)
    return out


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        ConfigError: The file is missing, is not YAML, or is not a mapping.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read config {path}: {error.strerror or error}",
            hint="give the path of a YAML file",
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold a mapping, found {type(data).__name__}")
    return data


def list_presets(package: str) -> list[str]:
    """Names of the presets shipped in ``package`` (for example ``g3d.trainer.presets``)."""
    files = resources.files(package).iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml"))


def load_preset(package: str, name: str) -> dict[str, Any]:
    """Read a preset by name; one with a key ``base: NAME`` is laid over that preset.

    Raises:
        ConfigError: There is no such preset; the message names the nearest.
    """
    layers: list[dict[str, Any]] = []
    wanted: Any = name
    while wanted is not None:
        names = list_presets(package)
        if wanted not in names:
            raise ConfigError(
                f"unknown preset {wanted!r}{did_you_mean(str(wanted), names)}",
                hint=f"one of: {', '.join(names)}",
            )
        text = (resources.files(package) / f"{wanted}.yaml").read_text(encoding="utf-8")
        layers.append(yaml.safe_load(text) or {})
        wanted = layers[-1].pop("base", None)
        if len(layers) > len(names):
            raise ConfigError(f"preset {name!r} is laid over itself", hint="mend its `base`")
    return merge({}, *reversed(layers))


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """``", did you mean 'x'?"`` for the nearest option, or an empty string."""
    near = difflib.get_close_matches(word, list(options), n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def resolve(
    model: type[C],
    *,
    preset: Mapping[str, Any] | None = None,
    files: Sequence[Path] = (),
    flags: Mapping[str, Any] | None = None,
    sets: Iterable[str] = (),
) -> C:
    """Build a validated config from all its layers.

    Raises:
        ConfigError: A value does not fit; the message carries the path of the key.
    """
    layers = [load_yaml(Path(f)) for f in files]
    data = merge({}, preset or {}, *layers, flags or {}, parse_set(sets))
    return validate(model, data)


def validate(model: type[C], data: Mapping[str, Any]) -> C:
    """Validate ``data`` as ``model``, turning pydantic's report into a :class:`ConfigError`."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = []
        for item in error.errors():
            where = ".".join(str(part) for part in item["loc"])
            what = item["msg"]
            if item["type"] == "extra_forbidden":
                what = "unknown key" + did_you_mean(
                    str(item["loc"][-1]), _keys_at(model, item["loc"])
                )
            lines.append(f"{where}: {what}" if where else what)
        raise ConfigError(
            "config: " + "; ".join(lines), hint="see `g3d presets show` for all keys and values"
        ) from error


def _keys_at(model: type[BaseModel], loc: Sequence[Any]) -> list[str]:
    """Field names of the model that ``loc`` points into."""
    current: Any = model
    for part in loc[:-1]:
        field = getattr(current, "model_fields", {}).get(part)
        if field is None:
            return []
        current = field.annotation
    return list(getattr(current, "model_fields", {}))


def dump(config: Config) -> str:
    """The whole config as YAML, every default written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` to ``{"a.b": 1}``."""
    out: dict[str, Any] = {}
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            out.update(flatten(value, f"{name}."))
        else:
            out[name] = value
    return out


def diff(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Lines ``key  old -> new`` for every value that differs between two config dumps."""
    a, b = flatten(old), flatten(new)
    missing = "(absent)"
    return [
        f"{key}  {a.get(key, missing)} -> {b.get(key, missing)}"
        for key in sorted({*a, *b})
        if a.get(key, missing) != b.get(key, missing)
    ]


def canonical_json(data: Any) -> str:
    """JSON with sorted keys and no spaces: equal data gives equal text."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(data: Any) -> str:
    """First 16 hex digits of the SHA-256 of :func:`canonical_json`."""
    return hashlib.sha256(canonical_json(data).encode()).hexdigest()[:16]


def seed_for(*scope: object) -> int:
    """A 63-bit seed from any scope, the same on every machine (blake2, never ``hash()``)."""
    text = "\x1f".join(str(part) for part in scope).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
