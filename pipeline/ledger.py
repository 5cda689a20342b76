"""What a run has finished, on disk, so that any moment is a good moment to be killed.

``.staging/`` of an unfinished dataset holds ``plan.json`` (the groups, and the config they belong
to) and, for every shard that is written, ``shards/<name>.json`` and ``shards/<name>.parquet`` (its
rows of the index). An asset that is ended but not yet in a shard waits in ``assets/<uid>.json``
and, if it was accepted, ``assets/<uid>.tar``: there too, or on this machine where the dataset is
behind a URL. A record is written after the bytes it vouches for, and names their hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..config import canonical_json
from ..errors import ConfigError, DatasetError, G3DError
from ..manifests.atomic import disk_error, write_atomic
from ..manifests.dataset import (
    ASSETS,
    ATTRIBUTION,
    INDEX,
    INFO,
    REJECTED,
    REPORT,
    SHARDS,
    STAGING,
)
from ..manifests.index import encode_index, index_table, shard_rows
from ..manifests.place import LocalPlace, Place
from ..manifests.records import SCHEMA_VERSION, AssetRecord, Record, ShardRecord
from ..manifests.shards import write_shard
from .job import JobResult
from .locks import LOCK, held
from .plan import Group

PLAN, PIECES, OPEN = "plan.json", "assets", "open"


class ShardLedger(Record):
    """A finished group: its shard, if any asset was accepted, and the records of its assets."""

    shard: ShardRecord | None
    assets: tuple[AssetRecord, ...]
    index_sha256: str = ""
    """Of its rows of the index, beside it."""


@dataclass(frozen=True)
class Known:
    """What an earlier run left behind.

    Attributes:
        identity: Of its config, see :func:`g3d.pipeline.config.identity`.
        groups: As they were planned.
        ledgers: Finished groups by file; whether the shard still verifies is not yet known.
        finished: ``dataset.json`` is there and nothing is staged.
    """

    identity: dict[str, Any]
    groups: tuple[Group, ...]
    ledgers: dict[str, ShardLedger]
    finished: bool


class Ledger:
    """The files of one dataset that is being made."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.work = place.work
        self.pieces = self.work / PIECES

    def check_place(self) -> None:
        """Refuse a folder that holds something else, before anything is written or deleted.

        Raises:
            ConfigError: It is a file, or holds files and no manifest of a dataset.
        """
        path = self.place.path if isinstance(self.place, LocalPlace) else None
        if path is not None and path.exists() and not path.is_dir():
            raise ConfigError(f"{path} is a file", hint="give another -o")
        names = self.place.names()
        if not names or self._is_manifest() or self._plan() is not None:
            return
        foreign = [name for name in names if name != STAGING]
        if foreign:
            raise ConfigError(
                f"{self.place} is not a dataset of g3d, and not empty ({foreign[0]})",
                hint="give another -o",
            )

    def _is_manifest(self) -> bool:
        try:
            info = self._json(INFO)
        except DatasetError:
            return ASSETS in self.place.names()  # damaged, with its companion beside it
        return info is not None and "schema" in info and "params_hash" in info

    def _json(self, name: str) -> dict[str, Any] | None:
        raw = self.place.read(name)
        if raw is None:
            return None
        try:
            data = json.loads(raw)
        except ValueError as error:
            raise DatasetError(
                f"{self.place}/{name} is damaged: {error}", hint="--overwrite makes it anew"
            ) from error
        return data if isinstance(data, dict) else {}

    def _plan(self) -> dict[str, Any] | None:
        return self._json(f"{STAGING}/{PLAN}")

    def load(self) -> Known | None:
        """What is already there, or None for a new dataset.

        Raises:
            DatasetError: The dataset has another schema or is damaged beyond use.
        """
        plan, info = self._plan(), self._json(INFO)
        if plan is None and info is None:
            return None
        for data in (plan, info):
            if data is not None and data.get("schema") != SCHEMA_VERSION:
                raise DatasetError(
                    f"{self.place} has schema {data.get('schema')!r}, "
                    f"this version of g3d writes {SCHEMA_VERSION}",
                    hint="give another -o, or --overwrite",
                )
        ledgers = self._ledgers_of_dataset(info) if info is not None else {}
        ledgers |= self.closed()
        if plan is not None:
            groups = tuple(Group(g["file"], g["split"], tuple(g["uids"])) for g in plan["groups"])
            return Known(plan["identity"], groups, ledgers, finished=False)
        assert info is not None
        groups = tuple(
            Group(file, ledger.assets[0].split, tuple(a.uid for a in ledger.assets))
            for file, ledger in sorted(ledgers.items())
        )
        identity = {**info["config"], "params": info["params"]}
        return Known(identity, groups, ledgers, finished=True)

    def _ledgers_of_dataset(self, info: dict[str, Any]) -> dict[str, ShardLedger]:
        shards = {s["file"]: ShardRecord.model_validate(s) for s in info["shards"]}
        assets: dict[str, list[AssetRecord]] = {}
        try:
            for line in (self.place.read(ASSETS) or b"\0").decode().splitlines():
                record = AssetRecord.model_validate_json(line)
                assets.setdefault(str(record.shard), []).append(record)
        except (ValidationError, UnicodeDecodeError) as error:
            raise DatasetError(
                f"{self.place}/{ASSETS} is missing or damaged", hint="--overwrite makes it anew"
            ) from error
        return {
            file: ShardLedger(shard=shards.get(file), assets=tuple(records))
            for file, records in assets.items()
            # Records run ahead of dataset.json for a moment; staging knows those.
            if file in shards or all(r.status != "accepted" for r in records)
        }

    def closed(self) -> dict[str, ShardLedger]:
        """The groups that unfinished runs have closed, by file."""
        out = {}
        for name in self.place.names(f"{STAGING}/{SHARDS}"):
            stem, _, suffix = name.rpartition(".")
            if suffix != "json":
                continue
            try:
                data = self.place.read(f"{STAGING}/{SHARDS}/{name}") or b""
                out[f"{SHARDS}/{stem}.tar"] = ShardLedger.model_validate_json(data)
            except (DatasetError, ValidationError):
                continue  # made anew
        return out

    def verify(self, ledgers: dict[str, ShardLedger]) -> dict[str, ShardLedger]:
        """Those whose shard is there as it is listed."""

        def good(item: tuple[str, ShardLedger]) -> bool:
            shard = item[1].shard
            return shard is None or self.place.holds(item[0], shard.bytes, shard.sha256)

        with ThreadPoolExecutor(4) as pool:  # hashing releases the GIL
            verdicts = list(pool.map(good, ledgers.items()))
        return {
            file: ledger
            for (file, ledger), fine in zip(ledgers.items(), verdicts, strict=True)
            if fine
        }

    def start(self, identity: dict[str, Any], groups: Sequence[Group], *, alone: bool) -> None:
        """Make the folders, write the plan and, if this run is ``alone``, clear what was cut off.

        Raises:
            DiskError: The disk is full or the place cannot be written.
        """
        try:
            for folder in (self.work / OPEN, self.pieces):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(self.work, error) from error
        if alone:
            self.place.clean()
        rows = [{"file": g.file, "split": g.split, "uids": g.uids} for g in groups]
        data = {"schema": SCHEMA_VERSION, "identity": identity, "groups": rows}
        self.place.write(f"{STAGING}/{PLAN}", canonical_json(data).encode())

    @contextmanager
    def lock(self, part: str = "") -> Iterator[None]:
        """Hold the place for this process, or one part of it beside those that hold others.

        Behind a URL this keeps processes of one machine apart, not of two.

        Raises:
            ConfigError: Another process makes the dataset, or this part of it.
            DiskError: The place cannot be written.
        """
        with held(self.work, str(self.place), part):
            try:
                yield
            finally:
                if not part:
                    self._leave()

    def _leave(self) -> None:
        """Leave no empty folders behind a run that ended before it had a plan."""
        with contextlib.suppress(G3DError):
            if self._plan() is not None:
                return
        shutil.rmtree(self.work, ignore_errors=True)
        if isinstance(self.place, LocalPlace):
            with contextlib.suppress(OSError):  # not empty: a dataset
                self.place.path.rmdir()

    def stage(self, result: JobResult) -> None:
        """Keep an ended asset until its shard is written.

        Raises:
            DiskError: The disk is full.
        """
        # Not synced: after a power cut the hash tells, and the asset is made again.
        record = result.record
        if record.status == "accepted":
            write_atomic(self.pieces / f"{record.uid}.tar", result.data, sync=False)
        if result.thumbnail:
            self.place.write(f"{REJECTED}/{record.uid}.png", result.thumbnail)
        data = canonical_json(record.model_dump(mode="json")).encode()
        write_atomic(self.pieces / f"{record.uid}.json", data, sync=False)

    def staged(self, uids: Collection[str]) -> dict[str, AssetRecord]:
        """Those of ``uids`` that are ended and wait for their shard, undamaged."""
        out = {}
        for path in sorted(self.pieces.glob("*.json")):
            if path.stem not in uids:
                continue
            try:
                record = AssetRecord.model_validate_json(path.read_bytes())
                if record.status == "accepted":
                    self.piece(record)
            except (OSError, ValidationError, DatasetError):
                continue
            out[record.uid] = record
        return out

    def piece(self, record: AssetRecord) -> bytes:
        """The members of a staged asset.

        Raises:
            DatasetError: They are missing or damaged.
        """
        path = self.pieces / f"{record.uid}.tar"
        data = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(data).hexdigest() != record.members_sha256:
            raise DatasetError(f"{path} is damaged", hint="run the same command again")
        return data

    def drop(self, uids: Iterable[str]) -> None:
        """Forget staged assets."""
        for uid in uids:
            (self.pieces / f"{uid}.json").unlink(missing_ok=True)
            (self.pieces / f"{uid}.tar").unlink(missing_ok=True)

    def salvage(self, group: Group, ledger: ShardLedger) -> dict[str, AssetRecord]:
        """Stage the assets of a shard that is damaged or out of date, as far as they verify."""
        out = {}
        for record in ledger.assets:
            data = b""
            if record.status == "accepted":
                if record.offset is None or record.length is None:
                    continue
                data = self.place.read_range(group.file, record.offset, record.length)
                if hashlib.sha256(data).hexdigest() != record.members_sha256:
                    continue
            local = shifted(record, -(record.offset or 0), None)
            self.stage(JobResult(local, data))
            out[record.uid] = local
        return out

    def close_group(self, group: Group, records: Sequence[AssetRecord]) -> ShardLedger:
        """Write the shard of a group all of whose assets are ended, then its ledger.

        Raises:
            DiskError: The disk is full.
        """
        accepted = [record for record in records if record.status == "accepted"]
        placed, position = [], 0
        for record in records:
            placed.append(shifted(record, position, group.file))
            position += record.length or 0
        shard, index = None, b""
        if accepted:
            file = self.work / OPEN / f"{group.stem}.tar"
            written = write_shard(file, (self.piece(r) for r in accepted))
            shard = ShardRecord(
                file=group.file,
                split=group.split,
                sha256=written.sha256,
                bytes=written.bytes,
                assets=len(accepted),
                views=sum(record.views for record in accepted),
            )
            kept = [record for record in placed if record.status == "accepted"]
            index = encode_index([index_table(list(shard_rows(file, group.file, kept)))])
            self.place.move_in(group.file, file)
            self.place.write(self._part(group.file), index)
        else:
            self.place.remove(group.file)
        ledger = ShardLedger(
            shard=shard, assets=tuple(placed), index_sha256=hashlib.sha256(index).hexdigest()
        )
        data = canonical_json(ledger.model_dump(mode="json")).encode()
        self.place.write(f"{STAGING}/{SHARDS}/{group.stem}.json", data)
        self.drop([record.uid for record in records])
        return ledger

    def _part(self, file: str) -> str:
        return f"{STAGING}/{SHARDS}/{Path(file).stem}.parquet"

    def index_part(self, file: str, ledger: ShardLedger) -> bytes | None:
        """The rows of the index that belong to a closed group, as they were written with it."""
        data = self.place.read(self._part(file))
        if data is None or hashlib.sha256(data).hexdigest() != ledger.index_sha256:
            return None
        return data

    def finish(self) -> None:
        """Remove what is staged: the dataset is complete."""
        self.place.remove(STAGING)
        shutil.rmtree(self.work, ignore_errors=True)

    def clear(self) -> None:
        """Delete the dataset, and nothing else, from its place.

        The manifest goes last: until then the folder can be told for a dataset.
        """
        for name in (SHARDS, INDEX, ASSETS, REJECTED, REPORT, ATTRIBUTION):
            self.place.remove(name)
        self.place.remove(f"{STAGING}/{SHARDS}")
        try:
            for path in self.work.glob("*"):
                if path.name != PLAN and not path.name.startswith(LOCK):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        except OSError as error:
            raise disk_error(self.work, error) from error
        self.place.remove(INFO)
        self.place.remove(f"{STAGING}/{PLAN}")


def shifted(record: AssetRecord, by: int, shard: str | None) -> AssetRecord:
    """The record with its offsets moved, placed in ``shard``."""
    names = ("offset", "points_offset", "meta_offset")
    moved = {n: getattr(record, n) + by for n in names if getattr(record, n) is not None}
    return record.model_copy(update={**moved, "shard": shard})
