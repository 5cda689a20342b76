"""What a path is and holds (``g3d inspect``); what a preset means (``g3d presets``)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import Config, did_you_mean, load_preset, resolve
from ..config import list_presets as list_in
from ..errors import AssetError, ConfigError, G3DError

if TYPE_CHECKING:
    import numpy as np

Facts = dict[str, Any]
PRESETS = {"train": "g3d.trainer.presets", "prepare": "g3d.pipeline.presets"}
"""Where the presets of a command are."""


def describe(path: Path) -> Facts:
    """Describe a dataset, a run, an export, a snapshot, a shard or a mesh.

    Returns:
        ``kind``, ``path``, and the facts of that kind; plain values.

    Raises:
        G3DError: There is nothing there, or nothing that g3d knows.
    """
    if not path.exists():
        raise G3DError(f"there is nothing at {path}", hint="give a file or folder that is here")
    return {"kind": _kind(path), "path": str(path), **_DESCRIBERS[_kind(path)](path)}


def as_text(facts: Facts) -> str:
    """One line a fact."""
    width = max(len(key) for key in facts)
    return "\n".join(f"{key:<{width}}  {_text(value)}" for key, value in facts.items())


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list) and all(isinstance(part, dict) for part in value):
        return str(len(value))  # records, which --json lists
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(part)}" for key, part in value.items()) or "-"
    if isinstance(value, list | tuple):
        return " ".join(_text(part) for part in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _kind(path: Path) -> str:
    if path.is_dir():
        marks = {"dataset.json": "dataset", "run.json": "run", "export.json": "export"}
        for file, kind in marks.items():
            if (path / file).is_file():
                return kind
        raise G3DError(
            f"{path} is no dataset, run or export of g3d",
            hint=f"a folder of models becomes a dataset by: g3d prepare folder --root {path} ...",
        )
    return {".safetensors": "snapshot", ".tar": "shard"}.get(path.suffix.lower(), "mesh")


def _dataset(path: Path) -> Facts:
    from ..manifests.dataset import REPORT, Dataset
    from ..pipeline.page.facts import Facts as Counted

    data = Dataset.open(path, check=False)
    if data.info.statuses.get("accepted"):  # without any, the reasons are what one looks for
        data = Dataset.open(path)
    info, counted = data.info, Counted.of(data)
    report = path / REPORT
    return {
        "name": info.name,
        "source": info.source,
        "category": info.category,
        "assets": info.statuses,
        "reasons": counted.reasons,
        "splits": {name: count.model_dump() for name, count in info.splits.items()},
        "views": info.views,
        "size": info.size,
        "channels": list(info.channels),
        "extent": info.extent,
        "camera": info.camera.model_dump(mode="json"),
        "renderer": f"{info.renderer.name} {info.renderer.version}",
        "coverage": _spread(counted.column("coverage")),
        "border_views": int(counted.column("touches_border").sum()),
        "licenses": {one.name: one.assets for one in counted.licenses},
        "authors": {one.name: one.authors for one in counted.licenses},
        "missing_textures": sum(record.missing_textures for record in counted.records),
        "near_duplicates": [
            {"uid": r.uid, "duplicate_of": r.duplicate_of, "status": r.status}
            for r in counted.duplicates
        ],
        "shards": len(info.shards),
        "bytes": sum(shard.bytes for shard in info.shards),
        "params_hash": info.params_hash,
        "command": info.command,
        "report": str(report) if report.is_file() else None,
    }


def _spread(values: np.ndarray) -> dict[str, float]:
    """Least, mean and greatest of ``[N]``; empty where there is none."""
    if not len(values):
        return {}
    return {
        "least": float(values.min()),
        "mean": float(values.mean()),
        "greatest": float(values.max()),
    }


def _run(path: Path) -> Facts:
    from ..trainer.checkpoint import SNAPSHOT, latest_checkpoint, numbered

    snapshots = numbered(path, SNAPSHOT)
    checkpoint = latest_checkpoint(path)
    facts: Facts = _snapshot(snapshots[-1]) if snapshots else {}
    facts["snapshots"] = [snapshot.name for snapshot in snapshots]
    facts["checkpoint"] = checkpoint.name if checkpoint else "-"
    return facts


def _snapshot(path: Path) -> Facts:
    from ..trainer.checkpoint import load_snapshot

    snapshot = load_snapshot(path)
    return {
        "preset": snapshot.config.preset,
        "dataset": snapshot.context.name,
        "category": snapshot.context.category,
        "nimg": snapshot.nimg,
        "kimg": snapshot.config.run.kimg,
        "weights": sum(tensor.numel() for tensor in snapshot.tensors.values()),
    }


def _export(path: Path) -> Facts:
    try:
        manifest = json.loads((path / "export.json").read_text(encoding="utf-8"))
        lines = (path / "export.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
    except (OSError, ValueError) as error:
        raise G3DError(
            f"{path} cannot be read: {error}", hint="the same `g3d export` again mends it"
        ) from error
    return {
        "meshes": dict(Counter(record["status"] for record in records)),
        "faces": sum(record["faces"] for record in records),
        "bytes": sum(record["bytes"] for record in records),
        "config": manifest["config"],
        "provenance": manifest["provenance"],
    }


def _shard(path: Path) -> Facts:
    from ..manifests.shards import ShardReader

    members = list(ShardReader(path).members())
    return {
        "assets": len({member.uid for member in members}),
        "members": len(members),
        "types": dict(Counter(member.name.rpartition(".")[2] for member in members)),
        "bytes": path.stat().st_size,
    }


def _mesh(path: Path) -> Facts:
    from ..renderers.meshes import bounds, face_areas
    from ..renderers.meshes.load import load_mesh

    try:
        mesh = load_mesh(path)
    except AssetError as error:
        raise G3DError(f"{path}: {error}", hint="GLB, glTF, OBJ, PLY and STL are read") from error
    low, high = bounds(mesh)
    return {
        "vertices": len(mesh.vertices),
        "faces": len(mesh.faces),
        "materials": len(mesh.materials),
        "textures": sum(material.texture is not None for material in mesh.materials),
        "uvs": mesh.uvs is not None,
        "extent": [float(side) for side in high - low],
        "area": float(face_areas(mesh).sum()),
    }


_DESCRIBERS: dict[str, Callable[[Path], Facts]] = {
    "dataset": _dataset,
    "run": _run,
    "snapshot": _snapshot,
    "export": _export,
    "shard": _shard,
    "mesh": _mesh,
}


def list_presets() -> dict[str, list[str]]:
    """Names of the shipped presets by command."""
    return {command: list_in(package) for command, package in PRESETS.items()}


def preset(name: str | None) -> Config:
    """A preset with every default filled in; None is the defaults of ``train``.

    Raises:
        ConfigError: There is no such preset.
    """
    from ..pipeline.config import PrepareConfig
    from ..trainer.config import TrainConfig

    if name is None:
        return TrainConfig()
    names = list_presets()
    if name in names["train"]:
        return resolve(TrainConfig, preset={"preset": name, **load_preset(PRESETS["train"], name)})
    if name in names["prepare"]:
        base = {
            "source": "procedural",
            "category": "default",
            **load_preset(PRESETS["prepare"], name),
        }
        return resolve(PrepareConfig, preset=base)
    every = [*names["train"], *names["prepare"]]
    raise ConfigError(
        f"unknown preset {name!r}{did_you_mean(name, every)}", hint=f"one of: {', '.join(every)}"
    )


def presets_as_text(names: dict[str, list[str]]) -> str:
    """One line a preset."""
    return "\n".join(f"{command}  {name}" for command, some in names.items() for name in some)
