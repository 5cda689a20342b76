"""What a run of ``g3d prepare`` did, for the command line to tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from ..manifests.records import AssetRecord, ShardRecord
from .estimate import Estimate


@dataclass(frozen=True)
class PrepareReport:
    """Counts of a run, and of the dataset that it left.

    Attributes:
        path: The dataset.
        total: Assets listed in it.
        accepted: Of those, the ones with images.
        rejected: Stopped by a gate.
        failed: Could not be loaded or rendered.
        reasons: How many were not accepted, by ``stage/reason``, most frequent first.
        made: Assets that this run prepared, or would prepare with ``dry_run``.
        kept: Assets that an earlier run had already ended.
        views: Images in the dataset.
        shards: Files they are in.
        bytes: Of all shards.
        seconds: Wall time of this run.
        dry_run: Nothing was written.
        excluded: Assets of the source that were not taken, by the reason.
        duplicates: Accepted assets that are nearly the same as another one.
        waiting: Shards that other runs beside this one have still to write.
        estimate: With ``dry_run``: what it would take.
    """

    path: Path | str
    total: int
    accepted: int
    rejected: int
    failed: int
    reasons: dict[str, int]
    made: int
    kept: int
    views: int
    shards: int
    bytes: int
    seconds: float
    dry_run: bool = False
    excluded: Mapping[str, int] = field(default_factory=dict)
    duplicates: int = 0
    waiting: int = 0
    estimate: Estimate | None = None

    @property
    def nothing_to_do(self) -> bool:
        """The dataset was already finished."""
        return self.made == 0


def count_reasons(records: Iterable[AssetRecord]) -> dict[str, int]:
    """How many assets ended with each ``stage/reason``, most frequent first."""
    found = Counter(f"{r.stage}/{r.reason}" for r in records if r.status != "accepted")
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def make_report(
    path: Path | str,
    records: Iterable[AssetRecord],
    shards: Iterable[ShardRecord],
    *,
    made: int,
    seconds: float,
    dry_run: bool = False,
    excluded: Mapping[str, int] = MappingProxyType({}),
    waiting: int = 0,
    estimate: Estimate | None = None,
) -> PrepareReport:
    """Count ``records`` and ``shards``."""
    records, shards = list(records), list(shards)
    status = Counter(record.status for record in records)
    return PrepareReport(
        path=path,
        total=len(records) + (made if dry_run else 0),
        accepted=status["accepted"],
        rejected=status["rejected"],
        failed=status["failed"],
        reasons=count_reasons(records),
        made=made,
        kept=len(records) if dry_run else len(records) - made,
        views=sum(shard.views for shard in shards),
        shards=len(shards),
        bytes=sum(shard.bytes for shard in shards),
        seconds=seconds,
        dry_run=dry_run,
        excluded=dict(excluded),
        duplicates=sum(r.status == "accepted" and r.duplicate_of is not None for r in records),
        waiting=waiting,
        estimate=estimate,
    )
