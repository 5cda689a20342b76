"""``index.parquet``: its rows from a shard; fixed schema and settings: equal rows, equal bytes."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DatasetError
from .dataset import AGAIN, INDEX, Dataset, read_parquet
from .records import AssetRecord, ViewRecord
from .shards import ShardReader

if TYPE_CHECKING:
    import pyarrow

ROW_GROUP = 65536


def index_table(rows: Sequence[ViewRecord]) -> pyarrow.Table:
    """The rows as columns."""
    import pyarrow as pa

    schema = pa.schema(
        [
            ("uid", pa.string()),
            ("view", pa.int32()),
            ("part", pa.string()),
            ("split", pa.string()),
            ("shard", pa.string()),
            ("offset", pa.int64()),
            ("length", pa.int64()),
            ("sha256", pa.string()),
            ("c2w", pa.list_(pa.float64(), 16)),
            ("fov_y_deg", pa.float64()),
            ("azimuth", pa.float64()),
            ("elevation", pa.float64()),
            ("radius", pa.float64()),
            ("coverage", pa.float64()),
            ("touches_border", pa.bool_()),
        ]
    )
    columns = {name: [getattr(row, name) for row in rows] for name in schema.names}
    return pa.table(columns, schema=schema)


def encode_index(tables: Sequence[pyarrow.Table]) -> bytes:
    """The Parquet file of the rows of all tables, in their order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(
        pa.concat_tables(tables or [index_table([])]).combine_chunks(),
        out,
        row_group_size=ROW_GROUP,
        compression="zstd",
        use_dictionary=["uid", "part", "split", "shard"],
    )
    return out.getvalue()


def decode_index(data: bytes) -> pyarrow.Table:
    """The rows of a Parquet file that :func:`encode_index` wrote.

    Raises:
        DatasetError: It is something else.
    """
    import pyarrow as pa

    expected = index_table([]).schema
    try:
        return read_parquet(io.BytesIO(data)).select(expected.names).cast(expected)
    except (pa.ArrowException, KeyError, OSError) as error:
        raise DatasetError(f"not an index of views: {error}") from error


def read_columns(data: Dataset, names: Sequence[str]) -> pyarrow.Table:
    """Some columns of the index, a row an image of the listed shards, in their order.

    Of a large index this reads a small part: cameras and hashes are most of its bytes.

    Raises:
        DatasetError: The index is missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = list(dict.fromkeys((*names, "shard", "part")))
    try:
        with data._fs.open(data._path(INDEX), "rb") as file:
            table = read_parquet(file, columns).select(columns)
    except FileNotFoundError as error:
        raise DatasetError(f"{data.root} lacks {INDEX}", hint=AGAIN) from error
    except (ValueError, KeyError, OSError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise DatasetError(f"{data._path(INDEX)} is not readable: {error}", hint=AGAIN) from error
    listed = pa.array([shard.file for shard in data.info.shards], pa.string())
    images = pc.and_(pc.is_in(table["shard"], value_set=listed), pc.equal(table["part"], "rgba"))
    return table.filter(images).select(list(names))


def shard_rows(file: Path, shard: str, records: Iterable[AssetRecord]) -> Iterator[ViewRecord]:
    """The rows of a shard, from the JSON members that it holds.

    Args:
        file: The shard.
        shard: Its path below the dataset.
        records: Its accepted assets, in their order.

    Raises:
        DatasetError: The shard is missing or damaged.
        KeyError: A member is missing.
    """
    reader = ShardReader(file)
    members = {member.name: member for member in reader.members()}
    for record in records:
        meta = members[f"{record.uid}.json"]
        views = json.loads(reader.read(meta.offset, meta.length))["views"]
        digits = max(3, len(str(len(views) - 1)))
        for view in views:
            for part in view["sha256"]:
                member = members[f"{record.uid}.{view['view']:0{digits}d}.{part}.png"]
                yield _row(record, shard, view, part, member.offset, member.length)


def _row(
    record: AssetRecord, shard: str, view: Mapping[str, Any], part: str, offset: int, length: int
) -> ViewRecord:
    return ViewRecord(
        uid=record.uid,
        view=view["view"],
        part=part,
        split=record.split,
        shard=shard,
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
