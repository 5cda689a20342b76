"""What a run has finished, on disk, so that any moment is a good moment to be killed.

``.staging/`` of an unfinished dataset holds ``plan.json`` (the groups, and the config they belong
to), ``assets/<uid>.json`` and, if it was accepted, ``assets/<uid>.tar`` for every asset that is
ended but not yet in a shard, and ``shards/<name>.json`` for every shard that is. A record is
written after the bytes it vouches for, and names their hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..config import canonical_json
from ..errors import ConfigError, DatasetError
from ..manifests.atomic import disk_error, remove_temporaries, write_atomic
from ..manifests.dataset import ASSETS, INDEX, INFO, SHARDS, STAGING
from ..manifests.records import SCHEMA_VERSION, AssetRecord, Record, ShardRecord
from ..manifests.shards import ShardReader, sha256_file, write_shard
from .job import JobResult
from .plan import Group

PLAN, LOCK, PIECES = "plan.json", "lock", "assets"


class ShardLedger(Record):
    """A finished group: its shard, if any asset was accepted, and the records of its assets."""

    shard: ShardRecord | None
    assets: tuple[AssetRecord, ...]


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
    """The files of one dataset folder that is being made."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.staging = out / STAGING
        self.pieces = self.staging / PIECES

    def check_place(self) -> None:
        """Refuse a folder that holds something else, before anything is written or deleted.

        Raises:
            ConfigError: It is a file, or holds files and no manifest of a dataset.
        """
        if not self.out.exists():
            return
        if not self.out.is_dir():
            raise ConfigError(f"{self.out} is a file", hint="give another -o")
        if (self.staging / PLAN).exists() or self._is_manifest():
            return
        foreign = sorted(p.name for p in self.out.iterdir() if p.name != STAGING)
        if foreign:
            raise ConfigError(
                f"{self.out} is not a dataset of g3d, and not empty ({foreign[0]})",
                hint="give another -o",
            )

    def _is_manifest(self) -> bool:
        try:
            info = _json(self.out / INFO)
        except DatasetError:
            return (self.out / ASSETS).exists()  # damaged, with its companion beside it
        return info is not None and "schema" in info and "params_hash" in info

    def load(self) -> Known | None:
        """What is already there, or None for a new dataset.

        Raises:
            DatasetError: The dataset has another schema or is damaged beyond use.
        """
        plan, info = _json(self.staging / PLAN), _json(self.out / INFO)
        if plan is None and info is None:
            return None
        for data in (plan, info):
            if data is not None and data.get("schema") != SCHEMA_VERSION:
                raise DatasetError(
                    f"{self.out} has schema {data.get('schema')!r}, "
                    f"this version of g3d writes {SCHEMA_VERSION}",
                    hint="give another -o, or --overwrite",
                )
        ledgers = self._ledgers_of_dataset(info) if info is not None else {}
        ledgers |= self._ledgers_of_staging()
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
            for line in (self.out / ASSETS).read_text(encoding="utf-8").splitlines():
                record = AssetRecord.model_validate_json(line)
                assets.setdefault(str(record.shard), []).append(record)
        except (OSError, ValidationError) as error:
            raise DatasetError(
                f"{self.out / ASSETS} is missing or damaged", hint="--overwrite makes it anew"
            ) from error
        return {
            file: ShardLedger(shard=shards.get(file), assets=tuple(records))
            for file, records in assets.items()
            # Records run ahead of dataset.json for a moment; staging knows those.
            if file in shards or all(r.status != "accepted" for r in records)
        }

    def _ledgers_of_staging(self) -> dict[str, ShardLedger]:
        out = {}
        for path in sorted((self.staging / SHARDS).glob("*.json")):
            try:
                ledger = ShardLedger.model_validate_json(path.read_bytes())
            except (OSError, ValidationError):
                continue  # made anew
            out[f"{SHARDS}/{path.stem}.tar"] = ledger
        return out

    def verify(self, ledgers: dict[str, ShardLedger]) -> dict[str, ShardLedger]:
        """Those whose shard is there with the size and the SHA-256 that are listed."""

        def good(item: tuple[str, ShardLedger]) -> bool:
            shard = item[1].shard
            path = self.out / item[0]
            if shard is None:
                return True
            try:
                return path.stat().st_size == shard.bytes and sha256_file(path) == shard.sha256
            except OSError:
                return False

        with ThreadPoolExecutor(4) as pool:  # hashing releases the GIL
            verdicts = list(pool.map(good, ledgers.items()))
        return {
            file: ledger
            for (file, ledger), fine in zip(ledgers.items(), verdicts, strict=True)
            if fine
        }

    def start(self, identity: dict[str, Any], groups: Sequence[Group]) -> None:
        """Make the folders, clear what was cut off and write the plan.

        Raises:
            DiskError: The disk is full or the place cannot be written.
        """
        folders = (self.staging / SHARDS, self.pieces)
        try:
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(self.out, error) from error
        for folder in (self.out, self.out / SHARDS, self.staging, *folders):
            remove_temporaries(folder)
        rows = [{"file": g.file, "split": g.split, "uids": g.uids} for g in groups]
        data = {"schema": SCHEMA_VERSION, "identity": identity, "groups": rows}
        write_atomic(self.staging / PLAN, canonical_json(data).encode())

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for this process.

        Raises:
            ConfigError: Another process makes the dataset.
            DiskError: The place cannot be written.
        """
        try:
            import fcntl
        except ImportError:  # Windows: two runs at once are the user's to avoid
            yield
            return
        try:
            self.staging.mkdir(parents=True, exist_ok=True)
            file = (self.staging / LOCK).open("wb")
        except OSError as error:
            raise disk_error(self.staging, error) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ConfigError(
                    f"another `g3d prepare` is making {self.out}",
                    hint="wait for it, or give another -o",
                ) from error
            try:
                yield
            finally:
                self._leave()

    def _leave(self) -> None:
        """Leave no empty folders behind a run that ended before it had a plan."""
        if not (self.staging / PLAN).exists():
            shutil.rmtree(self.staging, ignore_errors=True)
            with contextlib.suppress(OSError):  # not empty: a dataset
                self.out.rmdir()

    def stage(self, result: JobResult) -> None:
        """Keep an ended asset until its shard is written.

        Raises:
            DiskError: The disk is full.
        """
        # Not synced: after a power cut the hash tells, and the asset is made again.
        record = result.record
        if record.status == "accepted":
            write_atomic(self.pieces / f"{record.uid}.tar", result.data, sync=False)
        data = canonical_json(record.model_dump(mode="json")).encode()
        write_atomic(self.pieces / f"{record.uid}.json", data, sync=False)

    def staged(self) -> dict[str, AssetRecord]:
        """The ended assets that wait for their shard, those with damaged bytes left out."""
        out = {}
        for path in sorted(self.pieces.glob("*.json")):
            try:
                record = AssetRecord.model_validate_json(path.read_bytes())
                if record.status == "accepted":
                    self._piece(record)
            except (OSError, ValidationError, DatasetError):
                continue
            out[record.uid] = record
        return out

    def _piece(self, record: AssetRecord) -> bytes:
        path = self.pieces / f"{record.uid}.tar"
        data = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(data).hexdigest() != record.members_sha256:
            raise DatasetError(f"{path} is damaged", hint="run the same command again")
        return data

    def drop(self, uids: Sequence[str]) -> None:
        """Forget staged assets."""
        for uid in uids:
            (self.pieces / f"{uid}.json").unlink(missing_ok=True)
            (self.pieces / f"{uid}.tar").unlink(missing_ok=True)

    def salvage(self, group: Group, ledger: ShardLedger) -> dict[str, AssetRecord]:
        """Stage the assets of a shard that is damaged or out of date, as far as they verify."""
        out = {}
        reader = ShardReader(self.out / group.file)
        for record in ledger.assets:
            data = b""
            if record.status == "accepted":
                if record.offset is None or record.length is None:
                    continue
                try:
                    data = reader.read(record.offset, record.length)
                except DatasetError:
                    continue
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
        shard = None
        if accepted:
            written = write_shard(self.out / group.file, (self._piece(r) for r in accepted))
            shard = ShardRecord(
                file=group.file,
                split=group.split,
                sha256=written.sha256,
                bytes=written.bytes,
                assets=len(accepted),
                views=sum(record.views for record in accepted),
            )
        else:
            (self.out / group.file).unlink(missing_ok=True)
        ledger = ShardLedger(shard=shard, assets=tuple(placed))
        data = canonical_json(ledger.model_dump(mode="json")).encode()
        write_atomic(self.staging / SHARDS / f"{group.stem}.json", data)
        self.drop([record.uid for record in records])
        return ledger

    def finish(self) -> None:
        """Remove the staging folder: the dataset is complete."""
        shutil.rmtree(self.staging, ignore_errors=True)

    def clear(self) -> None:
        """Delete the dataset, and nothing else, from the folder.

        The manifest goes last: until then the folder can be told for a dataset.
        """
        try:
            shutil.rmtree(self.out / SHARDS, ignore_errors=True)
            for name in (INDEX, ASSETS):
                (self.out / name).unlink(missing_ok=True)
            for path in self.staging.glob("*"):
                if path.name not in (PLAN, LOCK):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            (self.out / INFO).unlink(missing_ok=True)
            (self.staging / PLAN).unlink(missing_ok=True)
        except OSError as error:
            raise disk_error(self.out, error) from error


def shifted(record: AssetRecord, by: int, shard: str | None) -> AssetRecord:
    """The record with its offsets moved, placed in ``shard``."""
    names = ("offset", "points_offset", "meta_offset")
    moved = {n: getattr(record, n) + by for n in names if getattr(record, n) is not None}
    return record.model_copy(update={**moved, "shard": shard})


def _json(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{path} is damaged: {error}", hint="--overwrite makes it anew"
        ) from error
    return data if isinstance(data, dict) else {}
