"""The records of a whole dataset, written from its finished shards; the manifest comes last."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import shlex
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import canonical_json
from ..errors import DatasetError
from ..manifests.dataset import ASSETS, ATTRIBUTION, INDEX, INFO, REJECTED, REPORT, Dataset
from ..manifests.index import decode_index, encode_index, index_table, shard_rows
from ..manifests.place import LocalPlace, Place
from ..manifests.records import (
    SPLITS,
    AssetRecord,
    DatasetInfo,
    RendererRecord,
    ShardRecord,
    SplitCount,
)
from .attribution import attribution
from .config import RenderParams
from .ledger import Ledger, ShardLedger

if TYPE_CHECKING:
    import pyarrow

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Facts:
    """What the manifest says of a run besides its assets.

    Attributes:
        identity: See :func:`g3d.pipeline.config.identity`.
        params: Of the run.
        renderer: Which renderer made the images.
        excluded: Assets that the sources have and that were not taken, by the reason.
    """

    identity: Mapping[str, Any]
    params: RenderParams
    renderer: RendererRecord
    excluded: Mapping[str, int]


def publish(ledger: Ledger, groups: Mapping[str, ShardLedger], facts: Facts) -> DatasetInfo:
    """Write the records of all assets, what people read, and then ``dataset.json``.

    Args:
        ledger: Of the dataset.
        groups: Every closed group by file.
        facts: For the manifest.

    Raises:
        DiskError: The disk is full; each file is the old or the new one, whole.
    """
    place = ledger.place
    ordered = {file: groups[file] for file in sorted(groups)}
    records = [record for group in ordered.values() for record in group.assets]
    index = encode_index(_index(ledger, ordered))
    shards = [group.shard for group in ordered.values() if group.shard is not None]
    same = dict(facts.identity)
    accepted = [record for record in records if record.status == "accepted"]
    info = DatasetInfo(
        name=_name(place),
        source="+".join(dict.fromkeys(one["source"] for one in same["sources"])),
        category=same["category"],
        extent=facts.params.extent,
        camera=facts.params.camera,
        size=facts.params.render.size,
        views=facts.params.views,
        renderer=facts.renderer,
        params=same.pop("params"),
        params_hash=facts.params.params_hash,
        config=same,
        splits={split: _count(shards, split) for split in SPLITS},
        statuses=dict(sorted(Counter(r.status for r in records).items())),
        excluded=dict(sorted(facts.excluded.items())),
        shards=tuple(shards),
        licenses=dict(sorted(Counter(r.license for r in accepted).items())),
        index_sha256=hashlib.sha256(index).hexdigest(),
        g3d_version=metadata.version("g3d"),
        command=shlex.join(sys.argv),
    )
    place.write(ASSETS, encode_records(records))
    place.write(INDEX, index)
    place.write(ATTRIBUTION, attribution(accepted).encode())
    _forget_pictures(place, records)
    data = info.model_dump(mode="json", by_alias=True)
    place.write(INFO, (json.dumps(data, indent=1) + "\n").encode())
    return info


def write_page(place: Place) -> None:
    """Write the page of a published dataset; the dataset is complete without it."""
    from .page.build import dataset_page

    place.write(REPORT, dataset_page(Dataset.open(place.url or str(place), check=False)))


def _name(place: Place) -> str:
    text = str(place)
    return text.rpartition("/")[2] if place.url else Path(text).resolve().name


def _count(shards: Sequence[ShardRecord], split: str) -> SplitCount:
    mine = [shard for shard in shards if shard.split == split]
    return SplitCount(assets=sum(s.assets for s in mine), views=sum(s.views for s in mine))


def _forget_pictures(place: Place, records: Sequence[AssetRecord]) -> None:
    """Delete pictures of assets that are no longer rejected."""
    rejected = {f"{record.uid}.png" for record in records if record.status == "rejected"}
    for name in place.names(REJECTED):
        if name not in rejected:
            place.remove(f"{REJECTED}/{name}")


def _index(ledger: Ledger, groups: Mapping[str, ShardLedger]) -> list[pyarrow.Table]:
    """The rows of all groups: as they were written with a group, else as the old index has them."""
    old = _old_index(ledger.place)
    tables = []
    for file, group in groups.items():
        if group.shard is None:
            continue
        data = ledger.index_part(file, group)
        table = None if data is None else decode_index(data)
        if table is None and old is not None:
            table = old.get(file)
        if table is None or len(table) != group.shard.views:
            logger.info("the rows of %s are read from it again", file)
            table = _from_shard(ledger.place, file, group)
        tables.append(table)
    return tables


def _old_index(place: Place) -> dict[str, pyarrow.Table] | None:
    """The rows of ``index.parquet`` by shard, if it is the one that ``dataset.json`` names."""
    data, info = place.read(INDEX), place.read(INFO)
    if data is None or info is None:
        return None
    try:
        if hashlib.sha256(data).hexdigest() != json.loads(info).get("index_sha256"):
            return None
        table = decode_index(data)
    except (ValueError, DatasetError):
        return None
    column = table["shard"].to_numpy(zero_copy_only=False)
    starts = [0, *(n for n in range(1, len(column)) if column[n] != column[n - 1]), len(column)]
    return {
        str(column[low]): table.slice(low, high - low)
        for low, high in itertools.pairwise(starts)
        if high > low
    }


def _from_shard(place: Place, file: str, group: ShardLedger) -> pyarrow.Table:
    accepted = [record for record in group.assets if record.status == "accepted"]
    if isinstance(place, LocalPlace):
        return index_table(list(shard_rows(place.path / file, file, accepted)))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "shard.tar"
        copy.write_bytes(place.read(file) or b"")
        return index_table(list(shard_rows(copy, file, accepted)))


def encode_records(records: Sequence[AssetRecord]) -> bytes:
    """``assets.jsonl``: one line a record."""
    return "".join(
        canonical_json(record.model_dump(mode="json")) + "\n" for record in records
    ).encode()
