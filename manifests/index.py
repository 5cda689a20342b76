"""Writing ``index.parquet``: fixed schema and settings, so that equal rows give equal bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence

from .records import ViewRecord

ROW_GROUP = 65536


def encode_index(rows: Sequence[ViewRecord]) -> bytes:
    """The Parquet file of ``rows``, in their order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

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
    out = io.BytesIO()
    pq.write_table(
        pa.table(columns, schema=schema),
        out,
        row_group_size=ROW_GROUP,
        compression="zstd",
        use_dictionary=["uid", "part", "split", "shard"],
    )
    return out.getvalue()
