"""``g3d prepare``: assets to a rendered dataset, on Ray, resumable at any moment."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import diff
from ..errors import ConfigError, DatasetError
from ..manifests.dataset import ASSETS
from ..manifests.place import open_place
from ..manifests.records import AssetRecord, RendererRecord
from ..manifests.splits import require_train
from ..renderers.base import Renderer
from .config import (
    PrepareConfig,
    RenderParams,
    build_renderer,
    build_source,
    identity,
    origin_of,
    resolve_params,
    upgraded,
)
from .duplicates import exact_duplicates
from .estimate import Estimate, estimate
from .ledger import Known, Ledger, ShardLedger
from .plan import WHOLE, Plan, Share, check_assets, make_plan
from .publish import Facts, publish, write_page
from .report import PrepareReport, count_reasons, make_report
from .sources.base import FileSource, Source, SourceAsset
from .sources.licenses import parse_policy
from .work import Work, with_duplicates

logger = logging.getLogger(__name__)

RETRIED = frozenset({"download", "gated"})
"""Reasons that a later run tries again."""


def prepare(
    config: PrepareConfig,
    out: Path | str,
    *,
    overwrite: bool = False,
    add: bool = False,
    dry_run: bool = False,
    share: Share = WHOLE,
    source: Source | None = None,
    renderer: Renderer | None = None,
) -> PrepareReport:
    """Make the dataset that ``config`` describes in ``out``, or what is missing of it.

    Args:
        config: All options.
        out: Folder of the dataset, or its URL; made if it is missing.
        overwrite: Delete a dataset that is in ``out`` first.
        add: Add the assets to the dataset that another source was made into.
        dry_run: Only say what there is to do, and what a few assets took that were tried.
        share: Which of its shards to make; the last one to end writes the manifest.
        source: In place of the one that the config names.
        renderer: In place of the one that the config names.

    Raises:
        ConfigError: A wrong option; ``out`` holds a dataset of another config, or something else.
        DatasetError: No asset was accepted, none is in ``train``, or too many failed at once.
        DiskError: The disk is full. What was finished is kept.
        MissingDependency: Ray or the renderer is not available.
    """
    start = time.monotonic()
    _check(config, overwrite=overwrite, add=add, share=share)
    source = source or build_source(config)
    renderer = renderer or build_renderer(config, source)
    if isinstance(source, FileSource):
        source = source.reading(renderer.imports)
    params = resolve_params(config, source, renderer)
    assets, excluded = _listed(config, source)
    ledger = Ledger(open_place(out))
    run = _Run(config, params, source, renderer, ledger, assets, excluded, share, add, start)
    ledger.check_place()
    if dry_run:
        return run.preview(overwrite)
    with ledger.lock("" if share.whole else str(share.index)):
        return run.make(overwrite)


def _check(config: PrepareConfig, *, overwrite: bool, add: bool, share: Share) -> None:
    """Refuse what does not go together.

    Raises:
        ConfigError: Two options that exclude each other.
    """
    if share.whole:
        if overwrite and add:
            raise ConfigError("--add and --overwrite exclude each other", hint="give one of them")
        return
    if overwrite:
        raise ConfigError(
            "--overwrite with --shard-index would delete what the other runs make",
            hint="delete the dataset first, or give another -o",
        )
    if config.duplicates == "drop":
        raise ConfigError(
            "duplicates=drop compares all shapes, so it cannot be split by --shard-index",
            hint="-s duplicates=report names them",
        )


def _listed(config: PrepareConfig, source: Source) -> tuple[list[SourceAsset], dict[str, int]]:
    """The assets to prepare, and how many were left out for which licence.

    Raises:
        ConfigError: An unknown licence.
        DatasetError: The source holds nothing, or nothing under these licences; uids collide.
    """
    found = source.list()
    excluded: Counter[str] = Counter()
    if config.license:
        policy = parse_policy(config.license)
        excluded.update(f"license {a.license}" for a in found if not policy.allows(a.license))
        found = [asset for asset in found if policy.allows(asset.license)]
        if not found:
            there = ", ".join(f"{n} {what}" for what, n in excluded.most_common(8))
            raise DatasetError(
                f"no asset is under {', '.join(config.license)}: {there}",
                hint="leave --license out for all, or name more of them",
            )
    assets = found[: config.limit]
    check_assets(assets)
    return assets, dict(excluded)


@dataclass
class _Run:
    """One call of :func:`prepare`."""

    config: PrepareConfig
    params: RenderParams
    source: Source
    renderer: Renderer
    ledger: Ledger
    assets: Sequence[SourceAsset]
    excluded: Mapping[str, int]
    share: Share
    add: bool
    started: float
    origins: list[dict[str, Any]] = field(default_factory=list)
    origin: int = 0

    def preview(self, overwrite: bool) -> PrepareReport:
        """What :meth:`make` would do."""
        known = None if overwrite else self._known()
        plan, ledgers, staged = self._look(known)
        done = [ledgers[file] for file in sorted(plan.done)]
        records = [r for ledger in done for r in ledger.assets]
        records += [staged[uid] for uid in sorted(plan.left)]
        shards = [ledger.shard for ledger in done if ledger.shard is not None]
        probe = estimate(self.config, self.params, self.source, self.renderer, plan.todo)
        return self._report(records, shards, len(plan.todo), dry_run=True, estimate=probe)

    def make(self, overwrite: bool) -> PrepareReport:
        """Do what is missing."""
        if overwrite:
            self.ledger.clear()
        known = None if overwrite else self._known()
        plan, ledgers, staged = self._look(known)
        if known and self._is_fine(known, plan):
            return self._end(plan, ledgers, made=0)
        if known and self._salvage(known, ledgers):
            plan, ledgers, staged = self._look(known)
        require_train(group.split for group in plan.groups)
        self.ledger.start(self._identity(), plan.groups, alone=self.share.whole)
        mine = {uid for group in plan.open for uid in group.uids}
        self.ledger.drop((set(staged) & mine) - plan.left)
        finished = {file: ledgers[file] for file in plan.done}
        work = Work(self.config, self.params, self.source, self.renderer, self.ledger, self.origin)
        work.run(plan, finished, {uid: staged[uid] for uid in plan.left}, self._twins(ledgers))
        if not self.share.whole:
            finished |= self.ledger.closed()
        if all(group.file in finished for group in plan.groups):
            if self.config.duplicates != "keep":
                finished = with_duplicates(self.ledger, finished)
            self._finish(finished)
        elif (now := self.ledger.load()) and now.finished:  # by another run, in this moment
            finished = now.ledgers
        return self._end(plan, finished, made=len(plan.todo))

    def _is_fine(self, known: Known, plan: Plan) -> bool:
        """The dataset is finished, and nothing has to be done to it."""
        same = upgraded(known.identity)["sources"] == self._identity()["sources"]
        return known.finished and not plan.open and same

    def _identity(self) -> dict[str, Any]:
        return identity(self.config, self.params, self.origins)

    def _known(self) -> Known | None:
        """What is there; refuses a dataset of another config."""
        known = self.ledger.load()
        origin = origin_of(self.config)
        if known is None:
            self.origins = [origin]
            return None
        was = upgraded(known.identity)
        self.origins = list(was["sources"])
        new = origin not in self.origins
        mine = self._identity() | {"sources": None}
        changes = diff({**was, "sources": None}, mine)
        if new and not self.add:
            changes += diff(self.origins[-1] if self.origins else {}, origin)
        if changes:
            only = new and len(changes) == len(diff(self.origins[-1], origin))
            more = "--add adds these assets to it; " if only else ""
            raise ConfigError(
                f"{self.ledger.place} was made with another config: {'; '.join(changes)}",
                hint=f"{more}--overwrite makes it anew; another -o keeps both",
            )
        if new and not known.finished:
            raise ConfigError(
                f"{self.ledger.place} is not finished: nothing is added to it yet",
                hint="first the command that it was started with, then this one",
            )
        self.origins += [origin] if new else []
        self.origin = self.origins.index(origin)
        self._check_names(known)
        return known

    def _check_names(self, known: Known) -> None:
        """Refuse uids that another source has used.

        Raises:
            ConfigError: There is one.
        """
        listed = {asset.uid for asset in self.assets}
        taken = [
            record
            for ledger in known.ledgers.values()
            for record in ledger.assets
            if record.uid in listed and record.origin != self.origin
        ]
        if taken:
            where = self.origins[taken[0].origin]
            raise ConfigError(
                f"{len(taken)} uids are already there from {where['source']} {where['root'] or ''}"
                f" ({taken[0].uid})",
                hint="give other uids by a table, see docs/sources.md",
            )

    def _look(
        self, known: Known | None
    ) -> tuple[Plan, dict[str, ShardLedger], dict[str, AssetRecord]]:
        """The plan, the groups that are closed and verified, and the assets that wait for theirs.

        A run beside others verifies what is its own, and trusts them with theirs.
        """
        config, share = self.config, self.share
        groups = known.groups if known else ()
        ledgers = dict(known.ledgers) if known else {}
        verified = self.ledger.verify({f: one for f, one in ledgers.items() if share.has(f)})
        ledgers = {f: one for f, one in ledgers.items() if not share.has(f)} | verified
        mine = {uid for group in groups if share.has(group.file) for uid in group.uids}
        staged = self.ledger.staged(mine) if known else {}
        staged = {uid: record for uid, record in staged.items() if not may_pass(record)}
        plan = make_plan(
            self.assets,
            groups,
            {f: {r.uid: _key(r) for r in ledger.assets} for f, ledger in ledgers.items()},
            {uid: record.sha256 for uid, record in staged.items()},
            config.splits,
            config.shard_size,
            share,
        )
        return plan, ledgers, staged

    def _salvage(self, known: Known, verified: Mapping[str, ShardLedger]) -> bool:
        """Stage what is good of shards that are damaged, or hold an asset that has changed."""
        listed = {asset.uid: asset.sha256 for asset in self.assets}
        found = False
        for group in known.groups:
            ledger = known.ledgers.get(group.file)
            if ledger is None or not self.share.has(group.file):
                continue
            changed = any(listed.get(r.uid, r.sha256) != r.sha256 for r in ledger.assets)
            again = any(r.uid in listed and may_pass(r) for r in ledger.assets)
            if group.file in verified and not changed and not again:
                continue
            what = "is damaged"
            if group.file in verified:
                what = f"holds assets that {'have changed' if changed else 'were not fetched'}"
            logger.warning("%s %s: it is made anew", group.file, what)
            self.ledger.salvage(group, ledger)
            found = True
        return found

    def _twins(self, ledgers: Mapping[str, ShardLedger]) -> dict[str, str]:
        """For every asset with the same files as another one: that other."""
        if self.config.duplicates == "keep":
            return {}
        known = {
            record.sha256: record.uid
            for ledger in ledgers.values()
            for record in ledger.assets
            if record.status == "accepted"
        }
        return exact_duplicates(self.assets, known)

    def _finish(self, ledgers: Mapping[str, ShardLedger]) -> None:
        """Publish the dataset, then see whether there is anything to train on."""
        if self.share.whole:
            self._publish(ledgers)
        else:
            try:
                with self.ledger.lock("publish"):
                    self._publish(ledgers)
            except ConfigError:
                logger.info("another run, which ended at the same time, writes the manifest")
                return
        records = [record for ledger in ledgers.values() for record in ledger.assets]
        accepted = [record for record in records if record.status == "accepted"]
        if not accepted:
            worst = ", ".join(f"{n} {reason}" for reason, n in count_reasons(records).items())
            raise DatasetError(
                f"no asset of {len(records)} was accepted ({worst})",
                hint=f"the reasons are in {self.ledger.place}/{ASSETS}",
            )
        require_train(record.split for record in accepted)

    def _publish(self, ledgers: Mapping[str, ShardLedger]) -> None:
        values = self.params.values()
        renderer = RendererRecord(
            name=self.renderer.name,
            version=self.renderer.version,
            settings=values["render"] | ({"look": values["look"]} if "look" in values else {}),
        )
        facts = Facts(self._identity(), self.params, renderer, self.excluded)
        publish(self.ledger, ledgers, facts)
        self.ledger.finish()
        write_page(self.ledger.place)

    def _end(self, plan: Plan, ledgers: Mapping[str, ShardLedger], *, made: int) -> PrepareReport:
        chosen = [ledgers[group.file] for group in plan.groups if group.file in ledgers]
        records = [record for ledger in chosen for record in ledger.assets]
        shards = [ledger.shard for ledger in chosen if ledger.shard is not None]
        waiting = sum(group.file not in ledgers for group in plan.groups)
        return self._report(records, shards, made, waiting=waiting)

    def _report(
        self,
        records: Sequence[AssetRecord],
        shards: Sequence[Any],
        made: int,
        *,
        dry_run: bool = False,
        waiting: int = 0,
        estimate: Estimate | None = None,
    ) -> PrepareReport:
        place = self.ledger.place
        return make_report(
            place.url or Path(str(place)),
            records,
            shards,
            made=made,
            seconds=time.monotonic() - self.started,
            dry_run=dry_run,
            excluded=self.excluded,
            waiting=waiting,
            estimate=estimate,
        )


def may_pass(record: AssetRecord) -> bool:
    """Whether an asset that failed may not fail the next time: a server was away, or closed."""
    return record.status == "failed" and record.reason in RETRIED


def _key(record: AssetRecord) -> str:
    """What an asset must still be for its record to hold; nothing is, if it is tried again."""
    return "" if may_pass(record) else record.sha256
