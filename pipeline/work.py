"""The assets of a plan through the pool of workers, and into the ledger as they end."""

from __future__ import annotations

import functools
import io
import logging
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing

import numpy as np

from .. import console
from ..cluster import Failure, Needs, Outcome, run_pool
from ..errors import DatasetError
from ..manifests.atomic import write_atomic
from ..manifests.records import AssetRecord
from ..renderers.base import Renderer
from .config import PrepareConfig, RenderParams
from .duplicates import Duplicate, near_duplicates
from .job import Job, JobResult, base_facts, failed_record
from .ledger import Ledger, ShardLedger
from .plan import Group, Plan
from .publish import encode_records
from .report import count_reasons
from .sources.base import Source, SourceAsset

logger = logging.getLogger(__name__)

FAILURES = "failures.jsonl"
RECYCLE_AFTER = 500
"""Assets that a worker prepares before it is replaced."""
SHOWN = 3
"""Reasons that the progress line names, the most frequent first."""
_KILLED = {"timeout": "timeout", "memory": "memory"}
_REASON = {
    "work": {**_KILLED, "crash": "render_crash", "error": "render_crash"},
    "fetch": {**_KILLED, "crash": "download", "error": "download"},
}
"""Of a record, by the stage and the reason of a failure of the pool."""
_STAGE = {"work": "render", "fetch": "fetch"}


class Work:
    """The assets that a run prepares.

    Args:
        config: Of the run.
        params: Resolved from it.
        source: Where they come from.
        renderer: What draws them.
        ledger: Where they end.
        origin: Number of the source in ``config.sources`` of the dataset.
    """

    def __init__(
        self,
        config: PrepareConfig,
        params: RenderParams,
        source: Source,
        renderer: Renderer,
        ledger: Ledger,
        origin: int,
    ) -> None:
        self.config, self.params, self.source, self.renderer = config, params, source, renderer
        self.ledger, self.origin = ledger, origin

    def run(
        self,
        plan: Plan,
        ledgers: dict[str, ShardLedger],
        records: dict[str, AssetRecord],
        twins: Mapping[str, str],
    ) -> None:
        """Prepare the assets of a plan.

        Args:
            plan: Of the run.
            ledgers: Finished groups by file; the groups that get closed are added.
            records: Of the assets that were ended before, by uid; emptied.
            twins: uid of the asset with the same files, for those that are not prepared for that.

        Raises:
            DatasetError: Too many of the first assets were not accepted.
            DiskError: The disk is full.
        """
        home = {uid: group for group in plan.open for uid in group.uids}
        missing = Counter(home[asset.uid].file for asset in plan.todo)
        total = sum(len(group.uids) for group in plan.open)
        reasons = Counter(_reason_of(r) for r in records.values())
        breaker = _Breaker(self.config, sum(asset.uid not in twins for asset in plan.todo))
        complete = [group for group in plan.open if not missing[group.file]]
        # To tell which shapes are nearly the same, all of them have to be known.
        hold = self.config.duplicates == "drop"
        with (
            console.track("rendering", total=total, unit="asset") as task,
            closing(self._results(plan.todo, twins)) as results,
        ):
            task.update(completed=total - len(plan.todo), **_shown(reasons))
            self._close(complete, ledgers, records, not hold)
            for result in results:
                record = result.record
                self.ledger.stage(result)
                records[record.uid] = record
                reasons[_reason_of(record)] += 1
                task.advance(1, **_shown(reasons))
                if record.status != "accepted":
                    logger.info("%s: %s %s", record.uid, _reason_of(record), record.message)
                # That files are there twice says nothing about the others.
                if record.uid not in twins and breaker.trips(record):
                    self._stop(breaker)
                group = home[record.uid]
                missing[group.file] -= 1
                if not missing[group.file]:
                    complete.append(group)
                # What the breaker may yet call off must not be final.
                self._close(complete, ledgers, records, breaker.decided and not hold)
        if hold:
            self._drop_near(ledgers, records)
        self._close(complete, ledgers, records, True)

    def _close(
        self,
        complete: list[Group],
        ledgers: dict[str, ShardLedger],
        records: dict[str, AssetRecord],
        now: bool,
    ) -> None:
        """Write the shards of groups all of whose assets are ended."""
        while complete and now:
            group = complete.pop(0)
            mine = [records.pop(uid) for uid in group.uids]
            ledgers[group.file] = self.ledger.close_group(group, mine)

    def _results(
        self, todo: Sequence[SourceAsset], twins: Mapping[str, str]
    ) -> Generator[JobResult]:
        """Every asset's result, as the workers give them."""
        for asset in todo:
            if asset.uid in twins:
                yield self._twin(asset, twins[asset.uid])
        todo = [asset for asset in todo if asset.uid not in twins]
        if not todo:
            return
        factory = functools.partial(Job, self.config, self.params, self.source, self.renderer)
        outcomes: Iterator[Outcome[SourceAsset, JobResult]] = run_pool(
            factory,
            todo,
            workers=self.config.workers,
            deadline_s=self.config.deadline_s,
            strikes=self.config.strikes,
            recycle_after=RECYCLE_AFTER,
            needs=_needs(self.config, self.renderer),
            fetch=self.source.file if self.source.remote else None,
            fetch_parallel=self.config.fetch.parallel,
        )
        with closing(self.renderer):  # without Ray it is this one that rendered
            yield from self._records(outcomes)

    def _records(self, outcomes: Iterator[Outcome[SourceAsset, JobResult]]) -> Generator[JobResult]:
        for outcome in outcomes:
            if outcome.value is not None:
                update = {"attempts": outcome.attempts, "origin": self.origin}
                record = outcome.value.record.model_copy(update=update)
                yield JobResult(record, outcome.value.data, outcome.value.thumbnail)
            elif outcome.failure is not None:
                record = _lost_record(outcome, outcome.failure, self.config)
                yield JobResult(record.model_copy(update={"origin": self.origin}))

    def _twin(self, asset: SourceAsset, other: str) -> JobResult:
        """The end of an asset whose files are those of another one."""
        facts = base_facts(asset, self.config) | {"origin": self.origin}
        return JobResult(_duplicate(AssetRecord(**facts, status="rejected"), other, "its files"))

    def _drop_near(
        self, ledgers: Mapping[str, ShardLedger], records: dict[str, AssetRecord]
    ) -> None:
        """Reject what is nearly the same as an asset of the dataset, or as an earlier one."""
        settled = [r for ledger in ledgers.values() for r in ledger.assets if _is_shape(r)]
        new = [record for record in records.values() if _is_shape(record)]

        def points(record: AssetRecord) -> bytes:
            if record.uid in records:
                start = record.points_offset or 0
                return self.ledger.piece(record)[start : start + (record.points_length or 0)]
            return _stored_points(self.ledger, record)

        for found in _near(settled, new, points):
            record = _duplicate(records[found.uid], found.of, f"its shape ({found.distance:.2g})")
            records[found.uid] = record
            self.ledger.stage(JobResult(record))

    def _stop(self, breaker: _Breaker) -> None:
        """End a run whose first assets mostly fail; they are tried again by the next."""
        path = self.ledger.work / FAILURES
        write_atomic(path, encode_records(breaker.bad))
        self.ledger.drop([record.uid for record in breaker.bad])
        reason, count = next(iter(count_reasons(breaker.bad).items()))
        raise DatasetError(
            f"stopped: {len(breaker.bad)} of the first {breaker.seen} assets were not accepted, "
            f"{count} of them for {reason}; see {path}",
            hint="mend the cause and run the same command again, "
            "or go on with --set breaker_share=1",
        )


def _needs(config: PrepareConfig, renderer: Renderer) -> Needs:
    """What a worker asks the cluster for: a share of a GPU where it draws on one."""
    if renderer.name == "raster" and config.device == "cuda":
        return Needs(gpus=config.gpu_share)
    return Needs(avoid_gpu_nodes=True)


def _lost_record(
    outcome: Outcome[SourceAsset, JobResult], failure: Failure, config: PrepareConfig
) -> AssetRecord:
    """The record of an asset that could not be fetched, or whose worker did not live to tell."""
    error = failure.error
    reason = error.reason if error else _REASON[failure.stage][failure.reason]
    return failed_record(
        outcome.job,
        config,
        reason,
        failure.message,
        outcome.attempts,
        failure.log or None,
        _STAGE[failure.stage],
    )


def with_duplicates(ledger: Ledger, ledgers: Mapping[str, ShardLedger]) -> dict[str, ShardLedger]:
    """The groups; every accepted asset names the earlier one that it is nearly the same as."""
    shapes = [r for one in ledgers.values() for r in one.assets if _is_shape(r)]
    found = _near([], shapes, functools.partial(_stored_points, ledger))
    near = {one.uid: one.of for one in found}

    def named(record: AssetRecord) -> AssetRecord:
        if record.status != "accepted" or record.duplicate_of == near.get(record.uid):
            return record
        return record.model_copy(update={"duplicate_of": near.get(record.uid)})

    return {
        file: one.model_copy(update={"assets": tuple(map(named, one.assets))})
        for file, one in ledgers.items()
    }


def _is_shape(record: AssetRecord) -> bool:
    return record.status == "accepted" and record.fingerprint is not None


def _near(
    settled: Sequence[AssetRecord],
    new: Sequence[AssetRecord],
    points: Callable[[AssetRecord], bytes],
) -> list[Duplicate]:
    """Which of ``new`` are nearly the same as one of ``settled``, or as an earlier one of them."""
    by_uid = {record.uid: record for record in (*settled, *new)}

    def points_of(uid: str) -> np.ndarray:
        return np.load(io.BytesIO(points(by_uid[uid])), allow_pickle=False)

    uids = sorted(by_uid)
    codes = [np.frombuffer(bytes.fromhex(by_uid[uid].fingerprint or ""), np.uint8) for uid in uids]
    known = {record.uid for record in settled}
    return near_duplicates(uids, codes, points_of, settled=known)


def _stored_points(ledger: Ledger, record: AssetRecord) -> bytes:
    """The file of surface points of an asset that is in a shard."""
    assert record.shard is not None
    return ledger.place.read_range(
        record.shard, record.points_offset or 0, record.points_length or 0
    )


def _duplicate(record: AssetRecord, other: str, what: str) -> AssetRecord:
    """The record of an asset that is left out because another one is the same."""
    empty = dict.fromkeys(
        ("offset", "length", "points_offset", "points_length", "meta_offset", "meta_length",
         "members_sha256")
    )  # fmt: skip
    said = {"stage": "gate", "reason": "duplicate", "message": f"{what}: that of {other}"}
    return record.model_copy(
        update={**empty, **said, "status": "rejected", "views": 0, "duplicate_of": other}
    )


class _Breaker:
    """Looks at the first assets of a run; trips if too many of them are not accepted."""

    def __init__(self, config: PrepareConfig, todo: int) -> None:
        self._share, self._after = config.breaker_share, config.breaker_after
        self._never = todo < config.breaker_after
        self.seen = 0
        self.bad: list[AssetRecord] = []

    @property
    def decided(self) -> bool:
        """It has let the run pass, or never will stop it."""
        return self._never or self.seen >= self._after

    def trips(self, record: AssetRecord) -> bool:
        """Count an ended asset; True once, when the first assets are all seen and mostly bad."""
        self.seen += 1
        if self.seen <= self._after and record.status != "accepted":
            self.bad.append(record)
        return self.seen == self._after and len(self.bad) > self._share * self.seen


def _reason_of(record: AssetRecord) -> str:
    return "accepted" if record.status == "accepted" else f"{record.stage}/{record.reason}"


def _shown(reasons: Mapping[str, int]) -> dict[str, int]:
    """The most frequent reasons why assets were not accepted."""
    bad = [(name, count) for name, count in reasons.items() if name != "accepted" and count]
    return dict(sorted(bad, key=lambda one: (-one[1], one[0]))[:SHOWN])
