"""Checkpoints (all that a resume needs) and snapshots (averaged weights for inference).

A checkpoint is a ``torch.save`` of tensors, numbers and strings, read with ``weights_only=True``.
A snapshot is a safetensors file whose metadata carries the config. Both appear whole or not at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from ..errors import CheckpointError
from ..manifests.atomic import atomic_file, write_atomic
from .config import TrainConfig
from .method import DataContext, Phase

CHECKPOINT = re.compile(r"checkpoint-(\d+)\.pt")
SNAPSHOT = re.compile(r"snapshot-(\d+)\.safetensors")


@dataclass(frozen=True)
class Snapshot:
    """An averaged generator on disk, with all that is needed to build it again."""

    config: TrainConfig
    context: DataContext
    nimg: int
    tensors: dict[str, torch.Tensor]


def save_checkpoint(
    folder: Path,
    nets: Mapping[str, nn.Module],
    average: nn.Module,
    phases: list[Phase],
    nimg: int,
    *,
    keep: int,
    guard: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``checkpoint-<nimg>.pt`` and drop all but the ``keep`` newest.

    Raises:
        DiskError: The disk is full; the checkpoints that were there stay.
    """
    state = {
        "nimg": nimg,
        "nets": {name: net.state_dict() for name, net in nets.items()},
        "average": average.state_dict(),
        "optimizers": {name: opt.state_dict() for name, opt in optimizers(phases).items()},
        "guard": dict(guard or {}),
    }
    path = folder / checkpoint_name(nimg)
    with atomic_file(path) as file:
        _save(state, file)
    for old in numbered(folder, CHECKPOINT)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def _save(state: dict[str, Any], file: BinaryIO) -> None:
    """``torch.save``, which hides a full disk behind an error of its own about its archive."""
    try:
        torch.save(state, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise


def load_checkpoint(
    path: Path, nets: Mapping[str, nn.Module], average: nn.Module, phases: list[Phase]
) -> tuple[int, dict[str, Any]]:
    """Restore everything in place.

    Returns:
        Images shown so far, and the state of the guard.

    Raises:
        CheckpointError: The file is damaged or belongs to another network.
    """
    state = _read(path)
    try:
        for name, net in nets.items():
            net.load_state_dict(state["nets"][name])
        average.load_state_dict(state["average"])
        for name, optimizer in optimizers(phases).items():
            optimizer.load_state_dict(state["optimizers"][name])
        return int(state["nimg"]), dict(state.get("guard", {}))
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{path} does not fit this run's networks: {error}",
            hint="resume with the config it was started with, or give another -o",
        ) from error


def checkpoint_name(nimg: int) -> str:
    """File name of the checkpoint after ``nimg`` images."""
    return f"checkpoint-{nimg:09d}.pt"


def latest_checkpoint(folder: Path, before: int | None = None) -> Path | None:
    """The newest checkpoint that can be read; a damaged one is passed over.

    Args:
        folder: Of the run.
        before: Only those of fewer images.
    """
    for path in reversed(numbered(folder, CHECKPOINT)):
        if before is not None and path.name >= checkpoint_name(before):
            continue
        try:
            _read(path)
        except CheckpointError:
            continue
        return path
    return None


def optimizers(phases: list[Phase]) -> dict[str, torch.optim.Optimizer]:
    """Each optimiser once, under the name of the first phase that uses it."""
    out: dict[str, torch.optim.Optimizer] = {}
    for phase in phases:
        if all(phase.optimizer is not other for other in out.values()):
            out[phase.name] = phase.optimizer
    return out


def save_snapshot(
    folder: Path,
    generator: nn.Module,
    config: TrainConfig,
    context: DataContext,
    nimg: int,
    *,
    name: str | None = None,
    keep: int | None = None,
) -> Path:
    """Write ``snapshot-<nimg>.safetensors``, or a file called ``name``.

    Args:
        folder: Of the run.
        generator: The averaged one.
        config: Of the run.
        context: What the run knows of its dataset.
        nimg: Images shown so far.
        name: Another name.
        keep: Drop all numbered snapshots but so many of the newest.
    """
    from safetensors.torch import save

    tensors = {name: tensor.contiguous() for name, tensor in generator.state_dict().items()}
    metadata = {
        "format": "g3d-snapshot-1",
        "config": config.model_dump_json(),
        "context": context.model_dump_json(),
        "nimg": str(nimg),
    }
    path = folder / (name or snapshot_name(nimg))
    write_atomic(path, _sorted_metadata(save(tensors, metadata)))
    if keep is not None:
        for old in numbered(folder, SNAPSHOT)[:-keep]:
            old.unlink(missing_ok=True)
    return path


def _sorted_metadata(data: bytes) -> bytes:
    """The same safetensors file with its metadata in a fixed order: the library's is random."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors stay aligned
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def snapshot_name(nimg: int) -> str:
    """File name of the snapshot after ``nimg`` images."""
    return f"snapshot-{nimg:09d}.safetensors"


def load_snapshot(path: Path) -> Snapshot:
    """Read a snapshot, or the newest one of a run folder.

    Raises:
        CheckpointError: There is none, or the file is not a snapshot of g3d.
    """
    from safetensors import SafetensorError, safe_open

    if path.is_dir():
        found = numbered(path, SNAPSHOT)
        if not found:
            raise CheckpointError(f"{path} holds no snapshot", hint="train first: g3d train")
        path = found[-1]
    if not path.is_file():
        raise CheckpointError(f"there is no run or snapshot {path}", hint="train first: g3d train")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return Snapshot(
            TrainConfig.model_validate_json(metadata["config"]),
            DataContext.model_validate_json(metadata["context"]),
            int(metadata["nimg"]),
            tensors,
        )
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a g3d snapshot, or is damaged: {error}",
            hint="give a run folder or a snapshot-*.safetensors of this version",
        ) from error


def numbered(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """Files of ``folder`` whose whole name matches, by their number."""
    found = [(m, path) for path in folder.glob("*") if (m := pattern.fullmatch(path.name))]
    return [path for _, path in sorted(found, key=lambda item: int(item[0][1]))]


def newest_run(home: Path) -> Path:
    """The run below ``home/runs`` that wrote a snapshot last.

    Raises:
        CheckpointError: There is none.
    """
    found = [p for p in (home / "runs").glob("*/*") if SNAPSHOT.fullmatch(p.name)]
    if not found:
        raise CheckpointError(f"there is no trained run below {home / 'runs'}", hint="g3d train")
    return max(found, key=lambda path: (path.stat().st_mtime_ns, path.name)).parent


def _read(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its archive reader meets
        raise CheckpointError(
            f"checkpoint {path} cannot be read: {error}",
            hint="remove it to go on from an older one",
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or a :class:`CheckpointError`."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
