"""The records of a whole dataset, written from its finished shards; the manifest comes last."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from ..config import canonical_json
from ..manifests.atomic import write_atomic
from ..manifests.dataset import ASSETS, INDEX, INFO
from ..manifests.index import encode_index, shard_rows
from ..manifests.records import (
    SPLITS,
    AssetRecord,
    DatasetInfo,
    RendererRecord,
    ShardRecord,
    SplitCount,
    ViewRecord,
)
from .config import PrepareConfig, RenderParams, identity
from .ledger import ShardLedger


def publish(
    out: Path,
    config: PrepareConfig,
    params: RenderParams,
    renderer: RendererRecord,
    ledgers: Mapping[str, ShardLedger],
) -> DatasetInfo:
    """Write ``assets.jsonl``, ``index.parquet`` and then ``dataset.json`` into ``out``.

    Args:
        out: The dataset.
        config: Of the run.
        params: Resolved from it.
        renderer: Which renderer made the images.
        ledgers: Every group of the dataset by file.

    Raises:
        DiskError: The disk is full; each file is the old or the new one, whole.
    """
    ordered = [ledgers[file] for file in sorted(ledgers)]
    records = [record for ledger in ordered for record in ledger.assets]
    index = encode_index([row for ledger in ordered for row in _rows(out, ledger)])
    shards = [ledger.shard for ledger in ordered if ledger.shard is not None]
    same = identity(config, params)
    accepted = [record for record in records if record.status == "accepted"]
    info = DatasetInfo(
        name=out.resolve().name,
        source=config.source,
        category=same["category"],
        extent=params.extent,
        camera=params.camera,
        size=params.render.size,
        views=params.views,
        renderer=renderer,
        params=same.pop("params"),
        params_hash=params.params_hash,
        config=same,
        splits={split: _count(shards, split) for split in SPLITS},
        statuses=dict(sorted(Counter(r.status for r in records).items())),
        shards=tuple(shards),
        licenses=dict(sorted(Counter(r.license for r in accepted).items())),
        index_sha256=hashlib.sha256(index).hexdigest(),
        g3d_version=metadata.version("g3d"),
        command=shlex.join(sys.argv),
    )
    write_atomic(out / ASSETS, encode_records(records))
    write_atomic(out / INDEX, index)
    data = info.model_dump(mode="json", by_alias=True)
    write_atomic(out / INFO, (json.dumps(data, indent=1) + "\n").encode())
    return info


def _count(shards: Sequence[ShardRecord], split: str) -> SplitCount:
    mine = [shard for shard in shards if shard.split == split]
    return SplitCount(assets=sum(s.assets for s in mine), views=sum(s.views for s in mine))


def _rows(out: Path, ledger: ShardLedger) -> Iterator[ViewRecord]:
    if ledger.shard is not None:
        accepted = [record for record in ledger.assets if record.status == "accepted"]
        yield from shard_rows(out, ledger.shard.file, accepted)


def encode_records(records: Sequence[AssetRecord]) -> bytes:
    """``assets.jsonl``: one line a record."""
    return "".join(
        canonical_json(record.model_dump(mode="json")) + "\n" for record in records
    ).encode()
