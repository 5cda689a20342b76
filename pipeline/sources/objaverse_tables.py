"""Tables of Objaverse-XL: the user's own choice, and what the package's annotations add to it."""

from __future__ import annotations

import csv
import io
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import ConfigError, DatasetError
from ...manifests.categories import get_category
from .licenses import UNKNOWN, spdx_of_label
from .objaverse_store import COLLECTIONS, Store

log = logging.getLogger(__name__)

_HOSTS = {
    "github.com": "github",
    "sketchfab.com": "sketchfab",
    "www.thingiverse.com": "thingiverse",
    "thingiverse.com": "thingiverse",
    "3d-api.si.edu": "smithsonian",
}
_DIGEST = re.compile(r"[0-9a-f]{64}")
_COLUMNS = {
    "fileidentifier": "identifier", "identifier": "identifier", "url": "identifier",
    "sha256": "sha256", "category": "category", "class": "category", "label": "category",
    "license": "license", "licence": "license", "author": "author", "title": "title",
    "name": "title", "filetype": "suffix",
}  # fmt: skip
"""What a column is, by its name in lower case without `_`, `-` and spaces."""


@dataclass(frozen=True)
class Row:
    """One object of Objaverse-XL; what is not known is an empty string.

    Attributes:
        identifier: Its address, as the annotations have it (``fileIdentifier``).
        sha256: Of its file, 64 hex digits.
        category: As the user's table has it.
        license: SPDX identifier, ``unknown`` if its collection names none.
        suffix: Of its file, with a dot, lower case.
    """

    identifier: str = ""
    sha256: str = ""
    category: str = ""
    license: str = ""
    author: str = ""
    title: str = ""
    suffix: str = ""

    @property
    def collection(self) -> str:
        """Which part of Objaverse-XL it belongs to, or an empty string."""
        parts = self.identifier.split("/")
        return _HOSTS.get(parts[2].lower(), "") if len(parts) > 3 else ""


def needs_table(category: str) -> ConfigError:
    """What to say when no table was named."""
    return ConfigError(
        "objaverse-xl needs --table: Objaverse-XL has no categories, so the objects have to be "
        "chosen by a list (CSV, JSON Lines or Parquet) with a column fileIdentifier or sha256",
        hint=f"g3d prepare objaverse-xl --category {category} --table FILE",
    )


def read_table(location: str, category: str) -> list[Row]:
    """The rows of a user's table that are of ``category``; all, if it has no such column.

    Raises:
        ConfigError: It cannot be read, or has neither ``fileIdentifier`` nor ``sha256``.
        DatasetError: No row is of the category.
    """
    try:
        rows = [_row(values) for values in _records(location)]
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--table {location} cannot be read: {error}",
            hint="give a CSV with a header line, JSON Lines, or Parquet",
        ) from error
    chosen = [row for row in rows if row.identifier or row.sha256]
    if not chosen:
        raise ConfigError(
            f"--table {location} has no column fileIdentifier or sha256, or they are empty",
            hint="its first line should name them: fileIdentifier,sha256,category",
        )
    named = {row.category for row in chosen if row.category}
    if named:
        wanted = {name for name in named if _canonical(name) == category}
        chosen = [row for row in chosen if row.category in wanted]
        if not chosen:
            told = ", ".join(sorted(named)[:12])
            raise DatasetError(
                f"no row of {location} is of the category {category}", hint=f"it has {told}"
            )
    once: dict[tuple[str, str], Row] = {}
    for row in chosen:
        once.setdefault((row.identifier, row.sha256), row)
    return list(once.values())


def _canonical(name: str) -> str:
    try:
        return get_category(name).name
    except ConfigError:
        return name.strip().lower()


def _records(location: str) -> Iterator[Mapping[str, Any]]:
    """The rows of a table as they are written."""
    import fsspec

    name = location.lower()
    with fsspec.open(location, "rb") as file:
        data = file.read()
    if name.endswith(".parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(pa.BufferReader(data))
        except pa.ArrowException as error:
            raise ValueError(str(error)) from error
        chosen = [column for column in table.column_names if _known(column)]
        yield from table.select(chosen).to_pylist()
        return
    text = data.decode("utf-8-sig")
    if name.endswith((".jsonl", ".ndjson")):
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                value = json.loads(line)
                if not isinstance(value, dict):
                    raise ValueError(f"line {number} is not an object")
                yield value
        return
    yield from csv.DictReader(io.StringIO(text))


def _known(column: str) -> str | None:
    return _COLUMNS.get(re.sub(r"[\s_-]+", "", str(column).lower()))


def _row(values: Mapping[str, Any]) -> Row:
    """A row of any table, the user's or the package's."""
    found: dict[str, str] = {}
    for column, value in values.items():
        field = _known(column)
        if field and value is not None and str(value).strip() and field not in found:
            found[field] = str(value).strip()
    sha256 = found.get("sha256", "").lower()
    if sha256 and not _DIGEST.fullmatch(sha256):
        raise ValueError(f"{sha256!r} is no SHA-256")
    if "license" in found:
        found["license"] = spdx_of_label(found["license"])
    suffix = found.get("suffix", "").lower()
    found["suffix"] = f".{suffix.lstrip('.')}" if suffix else ""
    row = Row(**found | {"sha256": sha256})
    return row if row.suffix else replace(row, suffix=_suffix(row))


def _suffix(row: Row) -> str:
    """The suffix of an object that nothing else tells it of."""
    fixed = {"sketchfab": ".glb", "smithsonian": ".glb", "thingiverse": ".stl"}
    return fixed.get(row.collection) or Path(row.identifier.split("?")[0]).suffix.lower()


def complete(rows: Sequence[Row], store: Store, table: Path | None) -> list[Row]:
    """Rows with address, digest and licence, from the annotations where the table lacks them.

    Args:
        rows: Of the user's table.
        store: The package's cache; annotations are fetched if they are not in it.
        table: The user's table if it is a file, to notice that it has changed.

    Returns:
        In the same order, without those that have no address or no digest anywhere.

    Raises:
        ConfigError: Annotations are needed and not in the cache, and nothing may be fetched.
        DatasetError: Annotations cannot be fetched.
    """
    open_rows = [row for row in rows if not (row.identifier and row.sha256 and row.license)]
    extra: dict[str, Row] = {}
    for collection in _needed(open_rows, store):
        wanted = [r for r in open_rows if not r.identifier or r.collection == collection]
        keys = sorted({key for row in wanted for key in (row.identifier, row.sha256) if key})
        path = _annotations(store, collection)

        def make(path: Path = path, keys: list[str] = keys) -> list[dict[str, str]]:
            return [vars(row) for row in _lookup(path, set(keys))]

        files = (path,) if table is None else (path, table)
        for values in store.extract(files, keys, make):
            row = Row(**values)
            if row.collection:
                for key in (row.identifier, row.sha256):
                    extra.setdefault(key, row)
    out = []
    for row in rows:
        known = extra.get(row.identifier) or extra.get(row.sha256) or Row()
        out.append(
            replace(
                row,
                identifier=row.identifier or known.identifier,
                sha256=row.sha256 or known.sha256,
                license=row.license or known.license or UNKNOWN,
                title=row.title or known.title,
                author=row.author or known.author,
                suffix=row.suffix or known.suffix,
            )
        )
    whole = [row for row in out if row.collection and row.sha256]
    if len(whole) < len(out):
        log.warning("%d rows of the table are not in Objaverse-XL", len(out) - len(whole))
    return whole


def _needed(rows: Iterable[Row], store: Store) -> list[str]:
    """The collections whose annotations have to be read.

    A licence alone is not worth a download of gigabytes when nothing may be fetched.
    """
    rows = [r for r in rows if not store.fetch.offline or not (r.identifier and r.sha256)
            or _local(store, r.collection)]  # fmt: skip
    if any(not row.identifier for row in rows):
        return list(COLLECTIONS)
    return [name for name in COLLECTIONS if any(row.collection == name for row in rows)]


def _local(store: Store, collection: str) -> Path | None:
    """A table of annotations in the cache: of the whole collection, or the alignment choice."""
    for name in (f"{collection}.parquet", "alignment.parquet"):
        path = store.base / collection / name
        if collection and path.is_file():
            return path
    return None


def _annotations(store: Store, collection: str) -> Path:
    found = _local(store, collection)
    if found is not None:
        return found
    path = store.base / collection / f"{collection}.parquet"
    place = f"{collection}/{collection}.parquet"
    store.bring(path, "table", place, _check_parquet, collection=collection)
    return path


def _check_parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        pq.ParquetFile(path).close()
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error


def _lookup(path: Path, keys: set[str]) -> Iterator[Row]:
    """The rows of annotations with one of these addresses or digests, read piece by piece."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    values = pa.array(sorted(keys), pa.string())
    try:
        with pq.ParquetFile(path) as file:
            names = set(file.schema_arrow.names)
            columns = [n for n in ("fileIdentifier", "sha256", "license", "fileType", "metadata")
                       if n in names]  # fmt: skip
            for batch in file.iter_batches(batch_size=65_536, columns=columns):
                hits = pa.array([False] * len(batch))
                for column in ("fileIdentifier", "sha256"):
                    if column in columns:
                        text = pc.cast(batch.column(column), pa.string())
                        hits = pc.or_(hits, pc.is_in(text, value_set=values))
                for found in batch.filter(hits).to_pylist():
                    yield _annotated(found)
    except pa.ArrowException as error:
        raise DatasetError(
            f"{path} cannot be read: {error}", hint="remove it: it is fetched again"
        ) from error


def _annotated(values: dict[str, Any]) -> Row:
    """A row of the annotations; its title, if it has one, is in a column of JSON."""
    try:
        metadata = json.loads(values.get("metadata") or "{}")
    except (TypeError, ValueError):
        metadata = {}
    title = str(metadata.get("title") or "") if isinstance(metadata, dict) else ""
    # What the table names no licence for, the collection knows none for.
    row = _row({key: value for key, value in values.items() if key != "metadata"})
    return replace(row, title=title, license=row.license or UNKNOWN)
