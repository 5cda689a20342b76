"""Checks a dataset against itself: every hash, count, offset and camera is derived again."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from ..errors import ConfigError, DatasetError
from .dataset import ASSETS, INDEX, SHARDS, STAGING, Dataset, Views
from .records import POINTS_COUNT, SPLITS, AssetRecord, ShardRecord
from .shards import Member, ShardReader, sha256_file
from .splits import SplitFractions, split_of


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it is listed.

    Attributes:
        place: File, member or uid.
        kind: ``missing``, ``size``, ``hash``, ``index``, ``camera``, ``order``, ``count``,
            ``split``, ``points``, ``unlisted``, ``unreadable`` or ``unfinished``.
        message: What was found, and what was expected.
    """

    place: str
    kind: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.kind}: {self.message}"


def validate_dataset(path: Path) -> list[Finding]:
    """Everything that is wrong with a local dataset; an empty list if nothing is.

    Raises:
        DatasetError: It has no readable ``dataset.json``.
    """
    data = Dataset.open(path, check=False)
    findings = list(_folder(path, data))
    for shard in data.info.shards:
        findings += _shard_file(path, shard)
    try:
        records, views = data.records(), data.views()
    except DatasetError as error:
        return [*findings, Finding(str(path), "unreadable", error.message)]
    findings += _index_file(path, data)
    findings += _counts(data, records, views)
    findings += _splits(data, records)
    for shard in data.info.shards:
        try:
            members = list(ShardReader(path / shard.file).members())
        except DatasetError as error:
            findings.append(Finding(shard.file, "unreadable", error.message))
            continue
        accepted = [r for r in records if r.shard == shard.file and r.status == "accepted"]
        findings += _order(shard, members, accepted)
        findings += _members(path, shard, members, accepted, views)
    return findings


def _folder(path: Path, data: Dataset) -> Iterator[Finding]:
    if (path / STAGING / "plan.json").exists():
        yield Finding(STAGING, "unfinished", "a run was interrupted, or is under way")
    listed = {shard.file for shard in data.info.shards}
    for file in sorted((path / SHARDS).glob("*")):
        name = f"{SHARDS}/{file.name}"
        if name not in listed:
            yield Finding(name, "unlisted", "not in dataset.json")


def _shard_file(path: Path, shard: ShardRecord) -> Iterator[Finding]:
    file = path / shard.file
    if not file.is_file():
        yield Finding(shard.file, "missing", "listed in dataset.json")
        return
    size = file.stat().st_size
    if size != shard.bytes:
        yield Finding(shard.file, "size", f"{size} bytes, expected {shard.bytes}")
    elif sha256_file(file) != shard.sha256:
        yield Finding(shard.file, "hash", "the SHA-256 differs from dataset.json")


def _index_file(path: Path, data: Dataset) -> Iterator[Finding]:
    if sha256_file(path / INDEX) != data.info.index_sha256:
        yield Finding(INDEX, "hash", "the SHA-256 differs from dataset.json")


def _counts(data: Dataset, records: Sequence[AssetRecord], views: Views) -> Iterator[Finding]:
    status = Counter(record.status for record in records)
    if dict(status) != {name: n for name, n in data.info.statuses.items() if n}:
        yield Finding(ASSETS, "count", f"{dict(status)}, expected {data.info.statuses}")
    for uid, count in Counter(record.uid for record in records).items():
        if count > 1:
            yield Finding(uid, "count", f"{count} records")
    for split in SPLITS:
        assets = sum(r.split == split and r.status == "accepted" for r in records)
        images = int((views.split == split).sum())
        want = data.info.splits.get(split)
        if want is None or (assets, images) != (want.assets, want.views):
            yield Finding(split, "count", f"{assets} assets, {images} views; listed: {want}")


def _splits(data: Dataset, records: Sequence[AssetRecord]) -> Iterator[Finding]:
    try:
        fractions = SplitFractions.model_validate(data.info.config.get("splits", {}))
    except (ValidationError, ConfigError) as error:
        yield Finding("dataset.json", "split", f"config.splits: {error}")
        return
    for record in records:
        expected = split_of(record.uid, fractions)
        if record.split != expected:
            yield Finding(record.uid, "split", f"in {record.split}, its uid belongs in {expected}")


def _order(
    shard: ShardRecord, members: Sequence[Member], accepted: Sequence[AssetRecord]
) -> Iterator[Finding]:
    """Members of an asset are adjacent, in the listed order, with its JSON at their end."""
    runs: list[list[Member]] = []
    for member in members:
        if not runs or runs[-1][0].uid != member.uid:
            runs.append([])
        runs[-1].append(member)
    found = [run[0].uid for run in runs]
    if found != [record.uid for record in accepted]:
        yield Finding(shard.file, "order", "its assets differ from assets.jsonl, or are scattered")
    for run in runs:
        if run[-1].name != f"{run[-1].uid}.json":
            yield Finding(run[-1].name, "order", "the last member of an asset must be its JSON")


def _members(
    path: Path,
    shard: ShardRecord,
    members: Sequence[Member],
    accepted: Sequence[AssetRecord],
    views: Views,
) -> Iterator[Finding]:
    reader = ShardReader(path / shard.file)
    by_name = {member.name: member for member in members}
    rows = views.take(views.shard == shard.file)
    for record in accepted:
        try:
            piece = reader.read(record.offset or 0, record.length or 0)
            if hashlib.sha256(piece).hexdigest() != record.members_sha256:
                yield Finding(record.uid, "hash", "its members differ from assets.jsonl")
            meta = by_name[f"{record.uid}.json"]
            saved = json.loads(reader.read(meta.offset, meta.length))["views"]
            cloud = by_name[f"{record.uid}.points.npy"]
            points = np.load(
                io.BytesIO(reader.read(cloud.offset, cloud.length)), allow_pickle=False
            )
        except (DatasetError, KeyError, ValueError) as error:
            yield Finding(record.uid, "unreadable", f"{type(error).__name__}: {error}")
            continue
        if (cloud.offset, cloud.length) != (record.points_offset, record.points_length):
            yield Finding(record.uid, "index", "its points are not where assets.jsonl says")
        if points.shape != (POINTS_COUNT, 3) or points.dtype != np.float32:
            yield Finding(record.uid, "points", f"{points.dtype} {points.shape}")
        mine = rows.take(rows.uid == record.uid)
        if len(mine) != record.views or len(saved) != record.views:
            yield Finding(record.uid, "count", f"{len(mine)} rows, {record.views} views expected")
            continue
        yield from _view_rows(reader, mine, saved, by_name)


def _view_rows(
    reader: ShardReader, rows: Views, saved: Sequence[dict], by_name: dict[str, Member]
) -> Iterator[Finding]:
    digits = max(3, len(str(len(saved) - 1)))
    for number, (row, camera) in enumerate(zip(rows, saved, strict=True)):
        name = f"{row.uid}.{row.view:0{digits}d}.rgba.png"
        member = by_name.get(name)
        if member is None or (member.offset, member.length) != (row.offset, row.length):
            yield Finding(name, "index", "not where the index says")
            continue
        if hashlib.sha256(reader.read(row.offset, row.length)).hexdigest() != row.sha256:
            yield Finding(name, "hash", "the SHA-256 differs from the index")
        fov = np.deg2rad(camera["fov_y_deg"])
        if (rows.c2w[number] != np.asarray(camera["c2w"])).any() or rows.fov_y[number] != fov:
            yield Finding(name, "camera", "the index and the JSON member differ")
