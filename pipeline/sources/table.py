"""The table that tells of the files of a folder: CSV as spreadsheets write it, or JSON Lines."""

from __future__ import annotations

import csv
import io
import json
import logging
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ...errors import ConfigError, DatasetError
from ...manifests.categories import get_category
from ...manifests.records import SPLITS
from ...manifests.shards import UID_LIMIT, UID_PATTERN
from .licenses import UNKNOWN, recognise

log = logging.getLogger(__name__)

TABLES = ("g3d.csv", "g3d.jsonl")
"""Names of a table at the root that is read without being named."""
_DELIMITERS = ",;\t|"
_SPDX = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*(?: (?:AND|OR|WITH) [A-Za-z0-9][A-Za-z0-9.+-]*)*")
_NAMED = 5


@dataclass(frozen=True)
class Row:
    """One line of a table. An empty string: it does not say.

    Attributes:
        place: What messages call it.
        file: Path below the root, with ``/``.
        uid: Id of the asset.
        category: A category, as it is written.
        license: SPDX identifier or expression, or ``LicenseRef-...``.
        author: Who made it.
        url: Where it was got.
        title: What it is called.
        split: ``train``, ``val`` or ``test``.
    """

    place: str
    file: str
    uid: str = ""
    category: str = ""
    license: str = ""
    author: str = ""
    url: str = ""
    title: str = ""
    split: str = ""


COLUMNS = tuple(f.name for f in fields(Row) if f.name != "place")


@dataclass(frozen=True)
class Table:
    """The rows of a table.

    Attributes:
        name: What messages call it.
        columns: The known columns that it has.
        rows: In its order.
    """

    name: str
    columns: frozenset[str]
    rows: tuple[Row, ...]

    def of_category(self, category: str) -> list[Row]:
        """The rows of a category; all, if it has no such column or ``category`` is ``default``.

        Raises:
            DatasetError: There are none.
        """
        if "category" not in self.columns or category == "default":
            return list(self.rows)
        names = {row.category: _canonical(row.category) for row in self.rows}
        unknown = sorted(n for n, known in names.items() if known is None and n)
        if unknown:
            log.warning("%s: unknown categories: %s", self.name, ", ".join(unknown[:_NAMED]))
        empty = sum(not row.category for row in self.rows)
        if empty:
            log.warning("%s: %d rows without a category are passed over", self.name, empty)
        rows = [row for row in self.rows if names[row.category] == category]
        if not rows:
            count = Counter(names[r.category] or r.category or "none" for r in self.rows)
            told = ", ".join(f"{name} ({n})" for name, n in count.most_common(_NAMED))
            raise DatasetError(f"{self.name} has no rows of the category {category}; it has {told}",
                               hint=f"--category {count.most_common(1)[0][0]}")  # fmt: skip
        return rows


def read_table(name: str, data: bytes) -> Table:
    """Read a table.

    A CSV may be UTF-8 or UTF-16 with or without a mark, or the code page of Windows; its values may
    be apart by ``,``, ``;``, a tab or ``|``. Columns that are not known are told and ignored.

    Args:
        name: What messages call it; JSON Lines if it ends with ``.jsonl`` or ``.ndjson``.
        data: Its bytes.

    Raises:
        DatasetError: It has no column ``file``, no rows, a line that cannot be read, or a value
            that is not allowed.
    """
    text = _decoded(data)
    lines = name.lower().endswith((".jsonl", ".ndjson"))
    raw = list(_json_lines(name, text) if lines else _csv_rows(name, text))
    if not raw:
        raise DatasetError(f"{name} has no rows", hint=f"columns: {', '.join(COLUMNS)}")
    columns = dict.fromkeys(key for _, values in raw for key in values)
    if "file" not in columns:
        raise DatasetError(
            f"{name} has no column 'file', only {', '.join(filter(None, columns))}",
            hint="file is a path relative to --root; the other columns are "
            + ", ".join(c for c in COLUMNS if c != "file"),
        )
    unknown = [c for c in columns if c and c not in COLUMNS]
    if unknown:
        log.warning("%s: unknown columns are ignored: %s", name, ", ".join(unknown))
    rows = tuple(_row(f"{name}:{number}", values) for number, values in raw)
    _check_uids(rows)
    return Table(name, frozenset(columns) & frozenset(COLUMNS), rows)


def _decoded(data: bytes) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _csv_rows(name: str, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and values of every row that is not empty."""
    skipped = 0
    if re.match(r"sep=.\r?\n", text):  # a note to Excel
        skipped, text = 1, text.partition("\n")[2]
    source = io.StringIO(text, newline="")
    reader = csv.reader(source, delimiter=_delimiter(text), strict=True, skipinitialspace=True)
    head: list[str] | None = None
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            number = reader.line_num + skipped
            if not any(cells):
                continue
            if head is None:
                head = [cell.lower() for cell in cells]
                twice = [c for c, n in Counter(head).items() if n > 1 and c]
                if twice:
                    raise DatasetError(f"{name} has the column {twice[0]!r} twice")
                continue
            if len(cells) > len(head) and any(cells[len(head) :]):
                raise DatasetError(
                    f"{name}:{number}: {len(cells)} values for {len(head)} columns",
                    hint='a value that holds the separator stands in quotes: "a, b"',
                )
            yield number, dict(zip(head, cells, strict=False))
    except csv.Error as error:
        raise DatasetError(f"{name}:{reader.line_num + skipped}: {error}") from error


def _delimiter(text: str) -> str:
    """What divides the first line into most columns that are known.

    Not ``csv.Sniffer``: it guesses from the values, and there from commas and spaces in titles.
    """
    head = next((line for line in text.splitlines() if line.strip()), "")

    def known(delimiter: str) -> tuple[int, int]:
        cells = [c.strip().strip('"').strip().lower() for c in head.split(delimiter)]
        return len(set(cells) & set(COLUMNS)), len(cells)

    return max(_DELIMITERS, key=known)


def _json_lines(name: str, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            values: Any = json.loads(line)
        except ValueError as error:
            raise DatasetError(f"{name}:{number} is not JSON: {error}") from error
        if not isinstance(values, dict):
            raise DatasetError(f"{name}:{number} is no JSON object")
        yield number, {str(k).strip().lower(): _text(v) for k, v in values.items()}


def _text(value: Any) -> str:
    return "" if value is None else value.strip() if isinstance(value, str) else json.dumps(value)


def _row(place: str, values: dict[str, str]) -> Row:
    known = {key: value for key, value in values.items() if key in COLUMNS}
    written = known.get("file", "").replace("\\", "/")
    file = posixpath.normpath(written) if written else ""
    if not file or file == ".":
        raise DatasetError(f"{place}: the column file is empty")
    if file.startswith(("/", "../")) or file == ".." or re.match(r"[A-Za-z]:", file):
        raise DatasetError(
            f"{place}: {known['file']} is not below --root", hint="give a path relative to --root"
        )
    uid = known.get("uid", "")
    if uid and not UID_PATTERN.fullmatch(uid):
        raise DatasetError(
            f"{place}: {uid!r} cannot be a uid",
            hint=f"up to {UID_LIMIT} letters, digits, '-' and '_', the first a letter or digit",
        )
    split = known.get("split", "").lower()
    if split and split not in SPLITS:
        raise DatasetError(f"{place}: unknown split {split!r}", hint=f"one of {', '.join(SPLITS)}")
    license_ = license_of(known.get("license", ""))
    return Row(place, **{**known, "file": file, "split": split, "license": license_})


def license_of(text: str) -> str:
    """What a cell says of the licence, as an SPDX identifier or expression.

    A text that is neither that nor recognised is kept as ``LicenseRef-`` with its words.
    """
    known = recognise(text) if " OR " not in text and " AND " not in text else UNKNOWN
    if known != UNKNOWN:
        return known
    if not text or text.lower() == UNKNOWN:
        return ""
    if _SPDX.fullmatch(text):
        return text
    return "LicenseRef-" + re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")[:60]


def _check_uids(rows: Sequence[Row]) -> None:
    seen: dict[str, Row] = {}
    for row in rows:
        if row.uid and row.uid in seen:
            raise DatasetError(f"{seen[row.uid].place} and {row.place} have the uid {row.uid!r}")
        seen[row.uid] = row


def _canonical(name: str) -> str | None:
    try:
        return get_category(name).name if name else None
    except ConfigError:
        return None
