"""Checks a dataset against itself: every hash, count, offset, image and camera is derived again."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from ..errors import ConfigError, DatasetError
from .dataset import ASSETS, INDEX, SHARDS, STAGING, Dataset, Views
from .records import POINTS_COUNT, SPLITS, AssetRecord, ShardRecord
from .shards import Member, ShardReader, sha256_file
from .splits import SplitFractions, split_of

ANGLE_TOLERANCE = 1e-6
"""Radians, and relative units of length, between a matrix and the angles that are listed for it."""
HIT_SHARE = 0.5
"""Least share of an asset's surface points in frame that must land on its image."""


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it is listed.

    Attributes:
        place: File, member or uid.
        kind: ``missing``, ``size``, ``hash``, ``index``, ``camera``, ``image``, ``order``,
            ``count``, ``split``, ``points``, ``unlisted``, ``unreadable`` or ``unfinished``.
        message: What was found, and what was expected.
        file: The shard that holds the place, or the file itself.
        uids: The assets that are hit.
    """

    place: str
    kind: str
    message: str
    file: str = ""
    uids: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = self.place if self.file in ("", self.place) else f"{self.file}: {self.place}"
        return f"{where}: {self.kind}: {self.message}"


def validate_dataset(path: Path) -> list[Finding]:
    """Everything that is wrong with a local dataset; an empty list if nothing is.

    Raises:
        DatasetError: It has no readable ``dataset.json``.
    """
    data = Dataset.open(path, check=False)
    findings = list(_folder(path, data))
    try:
        records = data.records()
    except DatasetError as error:
        for shard in data.info.shards:
            findings += _shard_file(path, shard, ())
        return [*findings, Finding(ASSETS, "unreadable", error.message, ASSETS)]
    accepted: dict[str, list[AssetRecord]] = {shard.file: [] for shard in data.info.shards}
    for record in records:
        if record.status == "accepted" and record.shard in accepted:
            accepted[record.shard].append(record)
    for shard in data.info.shards:
        findings += _shard_file(path, shard, accepted[shard.file])
    findings += _splits(data, records)
    try:
        views = data.views()
    except (DatasetError, KeyError, ValueError) as error:
        return [*findings, Finding(INDEX, "unreadable", f"{error}", INDEX)]
    findings += _index_file(path, data)
    findings += _counts(data, records, views)
    held = _by_shard(views)
    for shard in data.info.shards:
        if (path / shard.file).is_file():
            rows = held.get(shard.file, views.take(slice(0)))
            findings += _contents(path, shard, accepted[shard.file], rows)
    return findings


def _by_shard(views: Views) -> dict[str, Views]:
    names, codes = np.unique(views.shard, return_inverse=True)
    rows = np.argsort(codes, kind="stable")
    pieces = np.split(rows, np.cumsum(np.bincount(codes, minlength=len(names)))[:-1])
    return {str(name): views.take(piece) for name, piece in zip(names, pieces, strict=False)}


def _folder(path: Path, data: Dataset) -> Iterator[Finding]:
    if (path / STAGING / "plan.json").exists():
        yield Finding(STAGING, "unfinished", "a run was interrupted, or is under way")
    listed = {shard.file for shard in data.info.shards}
    for file in sorted((path / SHARDS).glob("*")):
        name = f"{SHARDS}/{file.name}"
        if name not in listed:
            yield Finding(name, "unlisted", "not in dataset.json", name)


def _shard_file(
    path: Path, shard: ShardRecord, accepted: Sequence[AssetRecord]
) -> Iterator[Finding]:
    file, uids = path / shard.file, tuple(record.uid for record in accepted)
    held = f"{len(uids)} assets ({', '.join(uids[:3])}{', ...' if len(uids) > 3 else ''})"
    if not file.is_file():
        yield Finding(
            shard.file, "missing", f"listed in dataset.json, with {held}", shard.file, uids
        )
        return
    size = file.stat().st_size
    if size != shard.bytes:
        cut = tuple(r.uid for r in accepted if (r.offset or 0) + (r.length or 0) > size)
        message = f"{size} bytes, expected {shard.bytes}"
        message += f"; cut off: {', '.join(cut)}" if cut else ""
        yield Finding(shard.file, "size", message, shard.file, cut)
    elif sha256_file(file) != shard.sha256:
        yield Finding(
            shard.file,
            "hash",
            "the SHA-256 differs from dataset.json",
            shard.file,
            _changed(file, accepted),
        )


def _changed(file: Path, accepted: Sequence[AssetRecord]) -> tuple[str, ...]:
    """The assets whose members are not those that are listed."""
    reader = ShardReader(file)
    return tuple(
        record.uid
        for record in accepted
        if hashlib.sha256(reader.read(record.offset or 0, record.length or 0)).hexdigest()
        != record.members_sha256
    )


def _index_file(path: Path, data: Dataset) -> Iterator[Finding]:
    if sha256_file(path / INDEX) != data.info.index_sha256:
        yield Finding(INDEX, "hash", "the SHA-256 differs from dataset.json", INDEX)


def _counts(data: Dataset, records: Sequence[AssetRecord], views: Views) -> Iterator[Finding]:
    status = Counter(record.status for record in records)
    if dict(status) != {name: n for name, n in data.info.statuses.items() if n}:
        yield Finding(ASSETS, "count", f"{dict(status)}, expected {data.info.statuses}", ASSETS)
    for uid, count in Counter(record.uid for record in records).items():
        if count > 1:
            yield Finding(uid, "count", f"{count} records", ASSETS, (uid,))
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
        if record.split_by == "uid" and record.split != expected:
            message = f"in {record.split}, its uid belongs in {expected}"
            yield Finding(record.uid, "split", message, ASSETS, (record.uid,))


def _contents(
    path: Path, shard: ShardRecord, accepted: Sequence[AssetRecord], rows: Views
) -> Iterator[Finding]:
    """What a shard holds, asset by asset."""
    reader = ShardReader(path / shard.file)
    try:
        members = list(reader.members())
        yield from _order(shard, members, accepted)
    except DatasetError as error:
        members = []
        yield Finding(shard.file, "unreadable", error.message, shard.file)
    by_name = {member.name: member for member in members}
    known = {record.uid for record in accepted}
    for uid in sorted(set(rows.uid.tolist()) - known):
        yield Finding(uid, "index", "in the index, but not in assets.jsonl", shard.file, (uid,))
    for record in accepted:
        for finding in _asset(reader, record, rows.take(rows.uid == record.uid), by_name):
            yield Finding(finding.place, finding.kind, finding.message, shard.file, (record.uid,))


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
        differ = sorted(set(found) ^ {record.uid for record in accepted})
        yield Finding(
            shard.file,
            "order",
            "its assets differ from assets.jsonl, or are scattered",
            shard.file,
            tuple(differ),
        )
    for run in runs:
        if run[-1].name != f"{run[-1].uid}.json":
            yield Finding(
                run[-1].name,
                "order",
                "the last member of an asset must be its JSON",
                shard.file,
                (run[-1].uid,),
            )


def _asset(
    reader: ShardReader, record: AssetRecord, mine: Views, by_name: Mapping[str, Member]
) -> Iterator[Finding]:
    """One asset: its members against its record, its rows of the index against its JSON."""
    try:
        piece = reader.read(record.offset or 0, record.length or 0)
        if hashlib.sha256(piece).hexdigest() != record.members_sha256:
            yield Finding(record.uid, "hash", "its members differ from assets.jsonl")
        meta = by_name[f"{record.uid}.json"]
        saved = json.loads(reader.read(meta.offset, meta.length))["views"]
        cloud = by_name[f"{record.uid}.points.npy"]
        points = np.load(io.BytesIO(reader.read(cloud.offset, cloud.length)), allow_pickle=False)
    except KeyError as error:
        yield Finding(record.uid, "unreadable", f"the shard has no readable member {error}")
        return
    except (DatasetError, ValueError, TypeError) as error:
        yield Finding(record.uid, "unreadable", f"{error}")
        return
    if (cloud.offset, cloud.length) != (record.points_offset, record.points_length):
        yield Finding(record.uid, "index", "its points are not where assets.jsonl says")
    if (meta.offset, meta.length) != (record.meta_offset, record.meta_length):
        yield Finding(record.uid, "index", "its JSON is not where assets.jsonl says")
    if points.shape != (POINTS_COUNT, 3) or points.dtype != np.float32:
        yield Finding(record.uid, "points", f"{points.dtype} {points.shape}")
        points = np.zeros((0, 3), np.float32)
    if len(mine) != record.views or len(saved) != record.views:
        yield Finding(record.uid, "count", f"{len(mine)} rows, {record.views} views expected")
        return
    digits = max(3, len(str(len(saved) - 1)))
    for number, camera in enumerate(saved):
        name = f"{record.uid}.{int(mine.view[number]):0{digits}d}.rgba.png"
        try:
            found = list(_view(reader, mine, number, camera, by_name.get(name), points))
        except (KeyError, TypeError, ValueError, DatasetError) as error:
            found = [("unreadable", f"{type(error).__name__}: {error}")]
        yield from (Finding(name, kind, message) for kind, message in found)


def _view(
    reader: ShardReader,
    rows: Views,
    number: int,
    saved: Mapping[str, Any],
    member: Member | None,
    points: np.ndarray,
) -> Iterator[tuple[str, str]]:
    """One view, as (kind, message): bytes, image, camera."""
    from PIL import Image

    row = rows[number]
    if member is None or (member.offset, member.length) != (row.offset, row.length):
        yield "index", "not where the index says"
        return
    data = reader.read(row.offset, row.length)
    digest = hashlib.sha256(data).hexdigest()
    if digest != row.sha256:
        yield "hash", "the SHA-256 differs from the index"
    if digest != saved["sha256"]["rgba"]:
        yield "hash", "the SHA-256 differs from its JSON"
    differ = [name for name, same in _agreement(rows, number, saved).items() if not same]
    if differ:
        yield "camera", f"the index and the JSON member differ in {', '.join(differ)}"
    wrong = _wrong_angles(rows, number)
    if wrong:
        yield "camera", f"{', '.join(wrong)} are not those of the matrix"
    try:
        image = np.asarray(Image.open(io.BytesIO(data)))
    except (OSError, SyntaxError, ValueError) as error:
        yield "image", f"not readable: {error}"
        return
    if image.shape != (saved["h"], saved["w"], 4) or image.dtype != np.uint8:
        yield "image", f"{image.dtype} {image.shape}"
        return
    if abs(float(image[..., 3].mean()) / 255 - rows.coverage[number]) > ANGLE_TOLERANCE:
        yield "image", "its coverage is not the one that is listed"
    share = _hits(points, rows.c2w[number], float(rows.fov_y[number]), image[..., 3])
    if share < HIT_SHARE:
        yield "camera", f"only {share:.0%} of the object's points land on the image"


def _agreement(rows: Views, number: int, saved: Mapping[str, Any]) -> dict[str, bool]:
    """What the index says of a view against what its asset's JSON says."""
    return {
        "view": int(rows.view[number]) == saved["view"],
        "c2w": bool((rows.c2w[number] == np.asarray(saved["c2w"])).all()),
        "fov_y": rows.fov_y[number] == np.deg2rad(saved["fov_y_deg"]),
        "azimuth": rows.azimuth[number] == np.deg2rad(saved["azimuth_deg"]),
        "elevation": rows.elevation[number] == np.deg2rad(saved["elevation_deg"]),
        "radius": rows.radius[number] == saved["radius"],
        "coverage": rows.coverage[number] == saved["coverage"],
        "touches_border": bool(rows.touches_border[number]) == saved["touches_border"],
    }


def _wrong_angles(rows: Views, number: int) -> list[str]:
    """Which of the listed angles do not follow from the matrix, and whether it is a rotation."""
    c2w = rows.c2w[number]
    eye, axes = c2w[:3, 3], c2w[:3, :3]
    radius = float(np.linalg.norm(eye))
    flat = float(np.hypot(eye[0], eye[2]))
    turn = np.arctan2(eye[0], eye[2]) - rows.azimuth[number]
    wrong = {
        "radius": abs(radius - rows.radius[number]) > ANGLE_TOLERANCE * max(radius, 1),
        "elevation": abs(np.arctan2(eye[1], flat) - rows.elevation[number]) > ANGLE_TOLERANCE,
        "azimuth": flat * abs(np.arctan2(np.sin(turn), np.cos(turn))) > ANGLE_TOLERANCE * radius,
        "axes": np.abs(axes.T @ axes - np.eye(3)).max() > ANGLE_TOLERANCE
        or np.linalg.det(axes) < 0,
    }
    return [name for name, bad in wrong.items() if bad]


def _hits(points: np.ndarray, c2w: np.ndarray, fov_y: float, alpha: np.ndarray) -> float:
    """Share of surface points ``[N, 3]`` in frame that land on or beside a covered pixel."""
    height, width = alpha.shape
    seen = (points - c2w[:3, 3]) @ c2w[:3, :3]
    seen = seen[seen[:, 2] < -1e-6]
    focal = 0.5 * height / np.tan(0.5 * fov_y)
    x = np.floor(0.5 * width - focal * seen[:, 0] / seen[:, 2]).astype(np.int64)
    y = np.floor(0.5 * height + focal * seen[:, 1] / seen[:, 2]).astype(np.int64)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    if not len(points):
        return 1.0
    if not inside.any():
        return 0.0
    padded = np.pad(alpha > 0, 1)
    near = np.zeros(alpha.shape, bool)
    for row in range(3):
        for column in range(3):
            near |= padded[row : row + height, column : column + width]
    return float(near[y[inside], x[inside]].mean())
