"""``g3d validate --fix``: damaged shards go aside, a damaged index is written anew."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ..errors import ConfigError, DatasetError
from .atomic import disk_error, write_atomic
from .dataset import INDEX, Dataset
from .index import encode_index, index_table, shard_rows
from .place import open_place
from .records import AssetRecord, ViewRecord
from .validate import Finding, validate_dataset

QUARANTINE = "quarantine"
"""Folder of a dataset in which damaged files are kept; nothing reads it."""


@dataclass(frozen=True)
class Fix:
    """One thing that was done.

    Attributes:
        file: Path below the dataset.
        action: ``quarantined``: moved aside; ``rewritten``: made anew from the shards.
        kept: Where the damaged file is now, below the dataset; empty if it was missing.
        uids: Assets that `g3d prepare` makes again because of it.
    """

    file: str
    action: Literal["quarantined", "rewritten"]
    kept: str
    uids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Validation:
    """What a check found, and what was done about it.

    Attributes:
        dataset: Its folder, or its URL.
        findings: All, as they were before anything was done.
        fixes: What was done.
        left: Findings that neither this nor the same `g3d prepare` mends.
    """

    dataset: Path | str
    findings: tuple[Finding, ...]
    fixes: tuple[Fix, ...] = ()
    left: tuple[Finding, ...] = ()

    @property
    def remake(self) -> tuple[str, ...]:
        """Assets that `g3d prepare` makes again."""
        return tuple(uid for fix in self.fixes for uid in fix.uids)


def check_place(dataset: str, *, fix: bool = False) -> Validation:
    """Validate the dataset of a path, or of a URL: that one through a copy on this machine.

    Raises:
        ConfigError: With ``fix``: it is behind a URL, unfinished, or under way.
        DatasetError: There is no readable ``dataset.json``.
        DiskError: The disk is full, or the URL cannot be reached.
    """
    if "://" not in dataset:
        return check_dataset(Path(dataset), fix=fix)
    if fix:
        raise ConfigError(
            f"{dataset} is not on this machine: nothing is put aside there",
            hint="delete the shards with findings: the same `g3d prepare` makes them anew",
        )
    place = open_place(dataset)
    with tempfile.TemporaryDirectory(prefix="g3d-validate-") as folder:
        place.copy_to(Path(folder))
        return replace(check_dataset(Path(folder)), dataset=dataset)


def check_dataset(path: Path, *, fix: bool = False) -> Validation:
    """Validate a local dataset; with ``fix`` put its damage aside.

    ``index.parquet`` is written anew where the shards still give the bytes that ``dataset.json``
    names. Shards with findings are moved into ``quarantine/``, so that the same `g3d prepare`
    makes them, and only them, again.

    Raises:
        ConfigError: With ``fix``: a run is unfinished, or under way.
        DatasetError: There is no readable ``dataset.json``.
        DiskError: The disk is full, or a file cannot be moved.
    """
    findings = validate_dataset(path)
    if not fix or not findings:
        return Validation(path, tuple(findings), left=tuple(findings))
    if any(finding.kind == "unfinished" for finding in findings):
        raise ConfigError(
            f"{path} is not finished: nothing is put aside",
            hint="the same `g3d prepare` again finishes it, and makes anew what is damaged",
        )
    fixes = list(_restore_index(path))
    now = validate_dataset(path) if fixes else findings
    fixes += _quarantine(path, now)
    gone = {fix.file for fix in fixes}
    left = tuple(one for one in now if one.file not in gone and not _follows(one, fixes))
    return Validation(path, tuple(findings), tuple(fixes), left)


def _follows(finding: Finding, fixes: Sequence[Fix]) -> bool:
    """Whether the next `g3d prepare` writes the place of a finding anew because it must run."""
    return finding.file == INDEX and any(fix.uids for fix in fixes)


def _quarantine(path: Path, findings: Sequence[Finding]) -> Iterator[Fix]:
    """Move every shard that a finding is in."""
    data = Dataset.open(path, check=False)
    listed = {shard.file for shard in data.info.shards}
    stray = {finding.file for finding in findings if finding.kind == "unlisted"}
    damaged = {finding.file for finding in findings} & listed
    try:
        held = [record for record in data.records() if record.status == "accepted"]
    except DatasetError:
        # Without its records nobody knows what a shard should hold: they are left as they are.
        damaged, held = set(), []
    for file in sorted(damaged | stray):
        uids = tuple(r.uid for r in held if r.shard == file and file in listed)
        if (path / file).exists():
            yield Fix(file, "quarantined", _move(path, file), uids)
        else:
            yield Fix(file, "quarantined", "", uids)


def _move(path: Path, file: str) -> str:
    """Move a file into the quarantine, beside others of its name."""
    source = path / file
    number, target = 0, path / QUARANTINE / source.name
    while target.exists():
        number += 1
        target = path / QUARANTINE / f"{source.stem}.{number}{source.suffix}"
    try:
        target.parent.mkdir(exist_ok=True)
        source.rename(target)
    except OSError as error:
        raise disk_error(target, error) from error
    return f"{QUARANTINE}/{target.name}"


def _restore_index(path: Path) -> Iterator[Fix]:
    """Write ``index.parquet`` anew if it is damaged and the shards still tell what it was."""
    data = Dataset.open(path, check=False)
    file = path / INDEX
    old = file.read_bytes() if file.is_file() else b""
    if hashlib.sha256(old).hexdigest() == data.info.index_sha256:
        return
    try:
        index = encode_index([index_table(list(_all_rows(data, path)))])
    except (DatasetError, KeyError, TypeError, ValueError):
        return  # a shard is damaged too: `g3d prepare` writes both
    if hashlib.sha256(index).hexdigest() != data.info.index_sha256:
        return
    kept = ""
    if old:
        kept = f"{QUARANTINE}/{INDEX}"
        try:
            (path / QUARANTINE).mkdir(exist_ok=True)
            shutil.copyfile(file, path / kept)
        except OSError as error:
            raise disk_error(path / kept, error) from error
    write_atomic(file, index)
    yield Fix(INDEX, "rewritten", kept)


def _all_rows(data: Dataset, path: Path) -> Iterator[ViewRecord]:
    """The rows of all shards, in the order of the index."""
    held: dict[str, list[AssetRecord]] = {}
    for record in data.assets():
        held.setdefault(str(record.shard), []).append(record)
    for shard in sorted(data.info.shards, key=lambda one: one.file):
        yield from shard_rows(path / shard.file, shard.file, held.get(shard.file, ()))
