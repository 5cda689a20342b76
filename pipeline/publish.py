"""The records of a whole dataset, written from its finished shards; the manifest comes last."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from ..config import canonical_json
from ..manifests.atomic import write_atomic
from ..manifests.dataset import ASSETS, INDEX, INFO
from ..manifests.index import encode_index
from ..manifests.records import (
    SPLITS,
    AssetRecord,
    DatasetInfo,
    RendererRecord,
    ShardRecord,
    SplitCount,
    ViewRecord,
)
from ..manifests.shards import ShardReader
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
    index = encode_index([row for ledger in ordered for row in view_rows(out, ledger)])
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


def view_rows(out: Path, ledger: ShardLedger) -> list[ViewRecord]:
    """The index rows of a shard, from the JSON members that it holds."""
    rows: list[ViewRecord] = []
    if ledger.shard is None:
        return rows
    reader = ShardReader(out / ledger.shard.file)
    members = {member.name: member for member in reader.members()}
    for record in ledger.assets:
        if record.status != "accepted":
            continue
        meta = members[f"{record.uid}.json"]
        data = json.loads(reader.read(meta.offset, meta.length))
        digits = max(3, len(str(len(data["views"]) - 1)))
        for view in data["views"]:
            rows += [
                _view_row(
                    record, ledger.shard, view, part, members[name].offset, members[name].length
                )
                for part in view["sha256"]
                for name in (f"{record.uid}.{view['view']:0{digits}d}.{part}.png",)
            ]
    return rows


def _view_row(
    record: AssetRecord,
    shard: ShardRecord,
    view: Mapping[str, Any],
    part: str,
    offset: int,
    length: int,
) -> ViewRecord:
    return ViewRecord(
        uid=record.uid,
        view=view["view"],
        part=part,
        split=record.split,
        shard=shard.file,
        offset=offset,
        length=length,
        sha256=view["sha256"][part],
        c2w=tuple(np.asarray(view["c2w"], np.float64).reshape(-1).tolist()),
        fov_y_deg=view["fov_y_deg"],
        azimuth=float(np.deg2rad(view["azimuth_deg"])),
        elevation=float(np.deg2rad(view["elevation_deg"])),
        radius=view["radius"],
        coverage=view["coverage"],
        touches_border=view["touches_border"],
    )


def encode_records(records: Sequence[AssetRecord]) -> bytes:
    """``assets.jsonl``: one line a record."""
    return "".join(
        canonical_json(record.model_dump(mode="json")) + "\n" for record in records
    ).encode()
