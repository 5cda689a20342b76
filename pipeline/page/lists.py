"""The lists of a report: assets with pictures, reasons, messages; cut where they are long."""

from __future__ import annotations

from collections.abc import Sequence

from ...manifests.records import AssetRecord
from .charts import escape
from .facts import Facts
from .pictures import Album

LINES = 200
"""Rows of a plain table at most."""
MESSAGE, LOG = 400, 4000
"""Characters that are shown of a message, and of the end of a log."""


def and_more(total: int, shown: int) -> str:
    """A line that says how many are not shown; empty if all are."""
    return (
        f'<p class="more">and {total - shown:,} more in assets.jsonl</p>' if total > shown else ""
    )


def accepted(records: Sequence[AssetRecord], album: Album, total: int) -> str:
    """One picture of each asset."""
    if not records:
        return "<p>None.</p>"
    cards = "".join(
        _card(album, record, _name(record), f"{record.split} · {record.triangles or 0:,} triangles")
        for record in records
    )
    return f'<ul class="sheet">{cards}</ul>{and_more(total, len(records))}'


def rejected(records: Sequence[AssetRecord], album: Album, total: int) -> str:
    """One picture of each asset that a gate stopped, and why."""
    if not records:
        return "<p>None.</p>"
    cards = "".join(
        _card(album, record, _name(record), f"{record.stage}/{record.reason}", record.message or "")
        for record in records
    )
    return f'<ul class="sheet">{cards}</ul>{and_more(total, len(records))}'


def failed(records: Sequence[AssetRecord], total: int) -> str:
    """A row an asset, with the end of its worker's log where there is one."""
    if not records:
        return "<p>None.</p>"
    rows = "".join(
        f"<tr><td>{escape(record.uid)}<small>{escape(record.source_id)}</small></td>"
        f"<td>{escape(record.stage)}/{escape(record.reason)}</td><td>{record.attempts}</td>"
        f"<td>{escape(cut(record.message or '', MESSAGE))}{_log(record)}</td></tr>"
        for record in records
    )
    head = "<tr><th>asset</th><th>stage/reason</th><th>attempts</th><th>message</th></tr>"
    table = f'<div class="wide"><table class="top"><thead>{head}</thead>{rows}</table></div>'
    return table + and_more(total, len(records))


def duplicates(records: Sequence[AssetRecord], facts: Facts, album: Album) -> str:
    """Pairs of assets that are nearly the same, side by side."""
    if not records:
        return "<p>None.</p>"
    wanted = {record.duplicate_of for record in records}
    others = {record.uid: record for record in facts.records if record.uid in wanted}
    pairs = []
    for record in records:
        other = others.get(str(record.duplicate_of))
        same = other is not None and other.sha256 == record.sha256
        first = _card(album, record, _name(record), f"{record.status} · {record.license}")
        if other is None:
            second = f'<li><div class="none">not listed</div>{_bold(str(record.duplicate_of))}</li>'
        else:
            second = _card(album, other, _name(other), f"{other.status} · {other.license}")
        kind = "equal files" if same else "nearly the same shape"
        pairs.append(f'<li class="pair"><ul>{first}{second}</ul><p>{kind}</p></li>')
    more = and_more(len(facts.duplicates), len(records))
    return f'<ul class="pairs">{"".join(pairs)}</ul>{more}'


def cut(text: str, length: int, *, end: bool = False) -> str:
    """The start of a text, or its end, with a mark where it was cut."""
    if len(text) <= length:
        return text
    return "… " + text[-length:] if end else text[:length] + " …"


def _name(record: AssetRecord) -> str:
    return record.title or record.uid


def _bold(text: str) -> str:
    return f"<b>{escape(cut(text, 100))}</b>"


def _card(album: Album, record: AssetRecord, name: str, line: str, note: str = "") -> str:
    """A picture with two or three lines below it; all that is known of its origin as a hint."""
    hint = [record.uid, record.source_id, f"{record.license}, {record.author or 'author unknown'}"]
    uri = album[record.uid]
    picture = (
        '<div class="none">no picture</div>'
        if uri is None
        else f'<img src="{uri}" alt="{escape(cut(name, 100))}" loading="lazy">'
    )
    # A page of someone else is linked only if it is one: never `javascript:` and the like.
    if record.url.startswith(("https://", "http://")):
        picture = f'<a href="{escape(record.url)}" rel="noopener noreferrer">{picture}</a>'
    more = f"<small>{escape(cut(note, 120))}</small>" if note else ""
    return (
        f'<li title="{escape(cut(chr(10).join(hint), 400))}">{picture}{_bold(name)}'
        f"<span>{escape(line)}</span>{more}</li>"
    )


def _log(record: AssetRecord) -> str:
    if not record.log:
        return ""
    text = escape(cut(record.log, LOG, end=True))
    return f"<details><summary>log</summary><pre>{text}</pre></details>"
