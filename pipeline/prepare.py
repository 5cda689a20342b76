"""``g3d prepare``: assets to a rendered dataset, on Ray, resumable at any moment."""

from __future__ import annotations

import functools
import logging
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from .. import console
from ..cluster import Outcome, run_pool
from ..config import diff
from ..errors import ConfigError, DatasetError
from ..manifests.atomic import write_atomic
from ..manifests.dataset import ASSETS
from ..manifests.records import (
    AssetRecord,
    RendererRecord,
)
from ..manifests.splits import require_train
from ..renderers.base import Renderer
from .config import (
    PrepareConfig,
    RenderParams,
    build_renderer,
    build_source,
    identity,
    resolve_params,
)
from .job import Job, JobResult, failed_record
from .ledger import Known, Ledger, ShardLedger
from .plan import Group, Plan, check_assets, make_plan
from .publish import encode_records, publish
from .report import PrepareReport, count_reasons, make_report
from .sources.base import FileSource, Source, SourceAsset

logger = logging.getLogger(__name__)

FAILURES = "failures.jsonl"
RECYCLE_AFTER = 500
"""Assets that a worker prepares before it is replaced."""
_REASON = {
    "timeout": "timeout",
    "memory": "memory",
    "crash": "render_crash",
    "error": "render_crash",
}


def prepare(
    config: PrepareConfig,
    out: Path,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    source: Source | None = None,
    renderer: Renderer | None = None,
) -> PrepareReport:
    """Make the dataset that ``config`` describes in ``out``, or what is missing of it.

    Args:
        config: All options.
        out: Folder of the dataset; made if it is missing.
        overwrite: Delete a dataset that is in ``out`` first.
        dry_run: Only say what there is to do.
        source: In place of the one that the config names.
        renderer: In place of the one that the config names.

    Raises:
        ConfigError: A wrong option; ``out`` holds a dataset of another config, or something else.
        DatasetError: No asset was accepted, none is in ``train``, or too many failed at once.
        DiskError: The disk is full. What was finished is kept.
        MissingDependency: Ray or the renderer is not available.
    """
    start = time.monotonic()
    source = source or build_source(config)
    renderer = renderer or build_renderer(config, source)
    if isinstance(source, FileSource):
        source = source.reading(renderer.imports)
    params = resolve_params(config, source, renderer)
    assets = source.list()[: config.limit]
    check_assets(assets)
    run = _Run(config, params, source, renderer, Ledger(out), assets)
    run.ledger.check_place()
    if dry_run:
        return run.preview(overwrite, start)
    with run.ledger.lock():
        return run.make(overwrite, start)


@dataclass
class _Run:
    """One call of :func:`prepare`."""

    config: PrepareConfig
    params: RenderParams
    source: Source
    renderer: Renderer
    ledger: Ledger
    assets: Sequence[SourceAsset]

    def preview(self, overwrite: bool, start: float) -> PrepareReport:
        """What :meth:`make` would do."""
        known = None if overwrite else self._known()
        ledgers = self.ledger.verify(known.ledgers) if known else {}
        staged = self.ledger.staged() if known else {}
        plan = self._plan(known, ledgers, staged)
        done = [ledgers[file] for file in sorted(plan.done)]
        records = [r for ledger in done for r in ledger.assets]
        records += [staged[uid] for uid in sorted(plan.left)]
        shards = [ledger.shard for ledger in done if ledger.shard is not None]
        return make_report(
            self.ledger.out,
            records,
            shards,
            made=len(plan.todo),
            seconds=time.monotonic() - start,
            dry_run=True,
        )

    def make(self, overwrite: bool, start: float) -> PrepareReport:
        """Do what is missing."""
        if overwrite:
            self.ledger.clear()
        known = None if overwrite else self._known()
        ledgers = self.ledger.verify(known.ledgers) if known else {}
        staged = self.ledger.staged() if known else {}
        if known:
            staged |= self._salvage(known, ledgers)
        plan = self._plan(known, ledgers, staged)
        require_train((uid for g in plan.groups for uid in g.uids), self.config.splits)
        if known and known.finished and not plan.open:
            return self._report(plan, ledgers, made=0, start=start)
        self.ledger.start(identity(self.config, self.params), plan.groups)
        self.ledger.drop([uid for uid in staged if uid not in plan.left])
        ledgers = {file: ledgers[file] for file in plan.done}
        records = {uid: staged[uid] for uid in plan.left}
        self._work(plan, ledgers, records)
        self._finish(ledgers)
        return self._report(plan, ledgers, made=len(plan.todo), start=start)

    def _known(self) -> Known | None:
        """What is there; refuses a dataset of another config."""
        known = self.ledger.load()
        if known is None:
            return None
        changes = diff(known.identity, identity(self.config, self.params))
        if changes:
            raise ConfigError(
                f"{self.ledger.out} was made with another config: {'; '.join(changes)}",
                hint="--overwrite makes it anew; another -o keeps both",
            )
        return known

    def _plan(
        self,
        known: Known | None,
        ledgers: Mapping[str, ShardLedger],
        staged: Mapping[str, AssetRecord],
    ) -> Plan:
        return make_plan(
            self.assets,
            known.groups if known else (),
            {f: {r.uid: r.sha256 for r in ledger.assets} for f, ledger in ledgers.items()},
            {uid: record.sha256 for uid, record in staged.items()},
            self.config.splits,
            self.config.shard_size,
        )

    def _salvage(self, known: Known, verified: Mapping[str, ShardLedger]) -> dict[str, AssetRecord]:
        """Stage what is good of shards that are damaged, or hold an asset that has changed."""
        listed = {asset.uid: asset.sha256 for asset in self.assets}
        out: dict[str, AssetRecord] = {}
        for group in known.groups:
            ledger = known.ledgers.get(group.file)
            if ledger is None:
                continue
            changed = any(listed.get(r.uid, r.sha256) != r.sha256 for r in ledger.assets)
            if group.file in verified and not changed:
                continue
            logger.warning(
                "%s %s: it is made anew",
                group.file,
                "holds assets that have changed" if group.file in verified else "is damaged",
            )
            out |= self.ledger.salvage(group, ledger)
        return out

    def _work(
        self, plan: Plan, ledgers: dict[str, ShardLedger], records: dict[str, AssetRecord]
    ) -> None:
        """Prepare the assets of ``plan``; fills ``ledgers`` with the shards that get written."""
        home = {uid: group for group in plan.open for uid in group.uids}
        missing = Counter(home[asset.uid].file for asset in plan.todo)

        def close(group: Group) -> None:
            ledger = self.ledger.close_group(group, [records.pop(uid) for uid in group.uids])
            ledgers[group.file] = ledger

        for group in plan.open:
            if not missing[group.file]:
                close(group)
        total = sum(len(group.uids) for group in plan.groups)
        status: Counter[str] = Counter(r.status for r in records.values())
        status.update(r.status for ledger in ledgers.values() for r in ledger.assets)
        breaker = _Breaker(self.config, len(plan.todo))
        complete: list[Group] = []
        with (
            console.track("rendering", total=total, unit="asset") as task,
            closing(self._results(plan.todo)) as results,
        ):
            task.update(completed=total - len(plan.todo), **_shown(status))
            for result in results:
                record = result.record
                self.ledger.stage(result)
                records[record.uid] = record
                status[record.status] += 1
                task.advance(1, **_shown(status))
                if record.status != "accepted":
                    logger.info(
                        "%s: %s/%s %s", record.uid, record.stage, record.reason, record.message
                    )
                if breaker.trips(record):
                    self._stop(breaker)
                group = home[record.uid]
                missing[group.file] -= 1
                if not missing[group.file]:
                    complete.append(group)
                # What the breaker may yet call off must not be final.
                while complete and breaker.decided:
                    close(complete.pop(0))

    def _results(self, todo: Sequence[SourceAsset]) -> Generator[JobResult]:
        """Every asset's result, as the workers give them."""
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
        )
        with closing(self.renderer):  # without Ray it is this one that rendered
            yield from self._records(outcomes)

    def _records(self, outcomes: Iterator[Outcome[SourceAsset, JobResult]]) -> Generator[JobResult]:
        for outcome in outcomes:
            if outcome.value is not None:
                record = outcome.value.record.model_copy(update={"attempts": outcome.attempts})
                yield JobResult(record, outcome.value.data)
            elif outcome.failure is not None:
                failure = outcome.failure
                yield JobResult(
                    failed_record(
                        outcome.job,
                        self.config,
                        _REASON[failure.reason],
                        failure.message,
                        outcome.attempts,
                    )
                )

    def _stop(self, breaker: _Breaker) -> None:
        """End a run whose first assets mostly fail; they are tried again by the next."""
        path = self.ledger.staging / FAILURES
        write_atomic(path, encode_records(breaker.bad))
        self.ledger.drop([record.uid for record in breaker.bad])
        reason, count = next(iter(count_reasons(breaker.bad).items()))
        raise DatasetError(
            f"stopped: {len(breaker.bad)} of the first {breaker.seen} assets were not accepted, "
            f"{count} of them for {reason}; see {path}",
            hint="mend the cause and run the same command again, "
            "or go on with --set breaker_share=1",
        )

    def _finish(self, ledgers: Mapping[str, ShardLedger]) -> None:
        """Publish the dataset, then see whether there is anything to train on."""
        values = self.params.values()
        renderer = RendererRecord(
            name=self.renderer.name,
            version=self.renderer.version,
            settings=values["render"] | ({"look": values["look"]} if "look" in values else {}),
        )
        publish(self.ledger.out, self.config, self.params, renderer, ledgers)
        self.ledger.finish()
        records = [record for ledger in ledgers.values() for record in ledger.assets]
        accepted = [record for record in records if record.status == "accepted"]
        if not accepted:
            worst = ", ".join(f"{n} {reason}" for reason, n in count_reasons(records).items())
            raise DatasetError(
                f"no asset of {len(records)} was accepted ({worst})",
                hint=f"the reasons are in {self.ledger.out / ASSETS}",
            )
        require_train((record.uid for record in accepted), self.config.splits)

    def _report(
        self, plan: Plan, ledgers: Mapping[str, ShardLedger], *, made: int, start: float
    ) -> PrepareReport:
        chosen = [ledgers[group.file] for group in plan.groups]
        return make_report(
            self.ledger.out,
            [record for ledger in chosen for record in ledger.assets],
            [ledger.shard for ledger in chosen if ledger.shard is not None],
            made=made,
            seconds=time.monotonic() - start,
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


def _shown(status: Mapping[str, int]) -> dict[str, int | None]:
    return {name: status.get(name) or None for name in ("rejected", "failed")}
