"""Export seeds as textured GLB files: one seed, one file, one line of ``export.jsonl``.

What is on disk decides what is left to do. A run killed anywhere and started again gives the same
files as one that was not: a file is renamed into place whole, its line follows, and files without
a line are made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from ... import __version__, console
from ...config import Config, canonical_json, diff, digest
from ...errors import AssetError, ConfigError, G3DError
from ...manifests.atomic import disk_error, remove_temporaries, write_atomic
from ...manifests.records import Record
from ...renderers.meshes import Material, Mesh
from ..asset import Asset, Sampler
from .bake import bake
from .clean import clean, decimate, unit_normals
from .gallery import POSTERS, build_gallery
from .glb import TextureFormat, encode_glb
from .unwrap import unwrap

log = logging.getLogger(__name__)

RECORDS = "export.jsonl"
MANIFEST = "export.json"
MAX_SEEDS = 1_000_000


class ExportConfig(Config):
    """All that decides what an export makes."""

    n: int = Field(16, ge=1, le=MAX_SEEDS)
    """Number of meshes, seeds 0 .. n-1, where `seeds` is not given."""
    seeds: tuple[int, ...] | None = None
    """The seeds themselves."""
    psi: float = Field(0.7, ge=0, le=2)
    """Truncation: 0 the mean shape, 1 the whole variety (metrics use 1)."""
    texture_size: int = Field(512, ge=16, le=8192)
    """Side of the square texture (texels)."""
    texture_format: TextureFormat = "png"
    """`png` exact, `jpeg` (quality 92) smaller on large textures."""
    target_faces: int | None = Field(None, ge=32)
    """Decimate to about this many triangles before unwrapping; none keeps them all."""
    min_component: float = Field(0.0, ge=0, le=1)
    """Pieces with a smaller share of the surface are dropped."""
    padding: int = Field(4, ge=0, le=64)
    """Free texels between the charts of a texture."""
    poster_size: int = Field(256, ge=32, le=2048)
    """Side of a picture in the gallery (pixels)."""

    def seed_list(self) -> list[int]:
        """The seeds to export, in order, each once."""
        return list(dict.fromkeys(range(self.n) if self.seeds is None else self.seeds))

    def identity(self) -> dict[str, Any]:
        """What must stay the same for a folder to be continued: all that changes a file."""
        return self.model_dump(mode="json", exclude={"n", "seeds", "poster_size"})


Status = Literal["ok", "empty", "failed"]


class ExportRecord(Record):
    """One line of ``export.jsonl``: a seed and what became of it."""

    seed: int
    status: Status
    file: str = ""
    vertices: int = 0
    faces: int = 0
    charts: int = 0
    bytes: int = 0
    sha256: str = ""
    seconds: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class ExportReport:
    """What an export did.

    Attributes:
        out: The folder.
        records: One for each seed that was asked for, in that order.
        made: Files written by this run.
        kept: Files of an earlier run that were found whole.
        gallery: ``index.html``, or None where no seed gave a mesh.
        seconds: Wall time of this run.
    """

    out: Path
    records: tuple[ExportRecord, ...]
    made: int
    kept: int
    gallery: Path | None
    seconds: float

    def count(self, status: Status) -> int:
        """Number of seeds that ended as ``status``."""
        return sum(record.status == status for record in self.records)


def parse_seeds(text: str) -> list[int]:
    """``"0-9,42"`` to the list of seeds, each once, in the order given.

    Raises:
        ConfigError: The text is not a list of numbers and ranges, or names too many.
    """
    seeds: dict[int, None] = {}
    for part in text.split(","):
        low, dash, high = (word.strip() for word in part.partition("-"))
        if not _is_number(low) or (dash and not _is_number(high)):
            raise ConfigError(
                f"--seeds {text!r}: {part.strip()!r} is neither a number nor a range",
                hint="for example --seeds 0-9,42",
            )
        first, last = int(low), int(high) if dash else int(low)
        if last < first:
            raise ConfigError(
                f"--seeds {text!r}: the range {part.strip()} ends before it starts",
                hint=f"write {last}-{first}",
            )
        if last >= 2**63 or last - first >= MAX_SEEDS or len(seeds) > MAX_SEEDS:
            raise ConfigError(
                f"--seeds {text!r} names more than {MAX_SEEDS:,} seeds, or one over 2^63",
                hint="export in several folders",
            )
        seeds.update(dict.fromkeys(range(first, last + 1)))
    return list(seeds)


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit()


def export(
    sampler: Sampler,
    out: Path,
    config: ExportConfig,
    *,
    provenance: Mapping[str, Any],
    overwrite: bool = False,
    title: str = "",
) -> ExportReport:
    """Export every seed of ``config`` as ``<out>/<seed>.glb``, then build the gallery.

    Args:
        sampler: ``(seed, psi) -> Asset``.
        out: Folder; made if it is missing, continued if an earlier run with the same settings and
            the same provenance left something there.
        config: See :class:`ExportConfig`.
        provenance: JSON-able facts that name the snapshot (its hash, the run, the dataset). They
            are compared on resume, so nothing that changes from run to run belongs here.
        overwrite: Delete what another config left in ``out`` instead of refusing.
        title: Head of the gallery page.

    Raises:
        ConfigError: ``out`` holds the export of another config or snapshot.
        DiskError: The disk is full; finished files are kept.
    """
    began = time.monotonic()
    _open_folder(out, config, provenance, overwrite)
    seeds = config.seed_list()
    done = _verified(out, _read_records(out))
    _write_records(out, done.values())
    kept = sum(seed in done and done[seed].status == "ok" for seed in seeds)
    marks = {"g3d": __version__, "psi": config.psi, "provenance": digest(dict(provenance))}
    made, failed, empty = 0, 0, 0
    with console.track("exporting", total=len(seeds), unit="mesh") as task:
        task.update(completed=sum(seed in done for seed in seeds))
        for seed in seeds:
            if seed in done:
                continue
            record = _export_one(sampler, seed, out, config, marks)
            _append_record(out, record)
            done[seed] = record
            made += record.status == "ok"
            empty += record.status == "empty"
            failed += record.status == "failed"
            task.advance(1, **{k: v for k, v in (("failed", failed), ("empty", empty)) if v})
    ordered = [done[seed] for seed in sorted(done)]
    _write_records(out, ordered)
    shown = [record.model_dump() for record in ordered if record.status == "ok"]
    facts = {"title": title or f"g3d · {out.name}", "psi": config.psi, **provenance}
    gallery = build_gallery(out, shown, facts, poster_size=config.poster_size)
    records = tuple(done[seed] for seed in seeds)
    return ExportReport(out, records, made, kept, gallery, time.monotonic() - began)


def texture_mesh(asset: Asset, config: ExportConfig) -> tuple[Mesh, int] | None:
    """Clean, unwrap and bake one asset: the textured mesh and its number of charts.

    None where the asset has no surface.

    Raises:
        AssetError: ``non_finite`` or ``unwrap``.
        ValueError: The colour field gave something that is no colour.
    """
    raw = asset.to_mesh()
    if not np.isfinite(raw.vertices).all():
        raise AssetError("non_finite", "the mesh has vertices that are not finite", stage="mesh")
    mesh = clean(raw, min_component=config.min_component)
    if config.target_faces is not None:
        mesh = decimate(mesh, config.target_faces)
    if len(mesh.faces) == 0:
        return None
    atlas = unwrap(mesh.vertices, mesh.faces, config.texture_size, config.padding)
    texture = bake(atlas.vertices, atlas.faces, atlas.uvs, asset.color, config.texture_size)
    return Mesh(
        vertices=atlas.vertices,
        faces=atlas.faces,
        uvs=atlas.uvs,
        normals=unit_normals(mesh)[atlas.source],
        materials=(Material(texture=texture, double_sided=False, metallic=0.0, roughness=0.6),),
    ), atlas.charts


def _export_one(
    sampler: Sampler, seed: int, out: Path, config: ExportConfig, marks: Mapping[str, Any]
) -> ExportRecord:
    """Make one file. A bad asset becomes a record; only an error of the user's is raised."""
    began = time.monotonic()
    try:
        made = texture_mesh(sampler(seed, config.psi), config)
    except G3DError:
        raise
    except AssetError as error:
        return ExportRecord(seed=seed, status="failed", reason=str(error))
    except Exception as error:  # one bad asset never stops a run
        log.warning("seed %d failed: %s", seed, error, exc_info=log.isEnabledFor(logging.DEBUG))
        return ExportRecord(seed=seed, status="failed", reason=f"{type(error).__name__}: {error}")
    if made is None:
        return ExportRecord(seed=seed, status="empty", reason="empty_mesh")
    mesh, charts = made
    data = encode_glb(
        mesh,
        name=f"g3d_{seed:06d}",
        texture_format=config.texture_format,
        extras={**marks, "seed": seed},
    )
    file = f"{seed:06d}.glb"
    write_atomic(out / file, data)
    return ExportRecord(
        seed=seed, status="ok", file=file, vertices=len(mesh.vertices), faces=len(mesh.faces),
        charts=charts, bytes=len(data), sha256=hashlib.sha256(data).hexdigest(),
        seconds=round(time.monotonic() - began, 3),
    )  # fmt: skip


def _open_folder(
    out: Path, config: ExportConfig, provenance: Mapping[str, Any], overwrite: bool
) -> None:
    """Make or continue the folder; see :func:`export` for what it refuses."""
    wanted = json.loads(
        canonical_json({"schema": 1, "config": config.identity(), "provenance": dict(provenance)})
    )
    path = out / MANIFEST
    found = _read_manifest(path)
    if overwrite:
        _delete_export(out)
    elif found is not None and found != wanted:
        lines = diff(found, wanted)
        raise ConfigError(
            f"{out} holds the export of another config:\n  " + "\n  ".join(lines),
            hint="give another -o, or --overwrite to replace it",
        )
    remove_temporaries(out)
    remove_temporaries(out / POSTERS)
    if found != wanted or overwrite:
        write_atomic(path, (json.dumps(wanted, indent=2, sort_keys=True) + "\n").encode())


def _read_manifest(path: Path) -> dict[str, Any] | None:
    """The recorded config, an empty one where the file is unreadable, None where there is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise disk_error(path, error) from error
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _delete_export(out: Path) -> None:
    """Delete the files that an export wrote, and nothing else."""
    if not (out / MANIFEST).exists():
        return
    names = {record.file for record in _read_records(out) if record.file}
    # Files that a killed run had not listed yet have the same form of name.
    names |= {p.name for p in out.glob("*.glb") if _is_number(p.stem) and len(p.stem) >= 6}
    try:
        for name in [*sorted(names), RECORDS, MANIFEST]:
            (out / Path(name).name).unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(out, error) from error


def _read_records(out: Path) -> list[ExportRecord]:
    """The lines of ``export.jsonl``; a line torn by a kill is left out."""
    try:
        lines = (out / RECORDS).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise disk_error(out / RECORDS, error) from error
    records = []
    for line in lines:
        try:
            records.append(ExportRecord.model_validate_json(line))
        except ValidationError:
            log.debug("%s: torn line dropped", out / RECORDS)
    return records


def _verified(out: Path, records: Sequence[ExportRecord]) -> dict[int, ExportRecord]:
    """The records that need no work: empty seeds, and files whose hash is the recorded one."""
    whole: dict[str, Callable[[ExportRecord], bool]] = {
        "ok": lambda record: _sha256(out / Path(record.file).name) == record.sha256,
        "empty": lambda record: True,
        "failed": lambda record: False,
    }
    return {record.seed: record for record in records if whole[record.status](record)}


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _append_record(out: Path, record: ExportRecord) -> None:
    path = out / RECORDS
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(record.model_dump_json() + "\n")
    except OSError as error:
        raise disk_error(path, error) from error


def _write_records(out: Path, records: Iterable[ExportRecord]) -> None:
    text = "".join(record.model_dump_json() + "\n" for record in records)
    write_atomic(out / RECORDS, text.encode())
