"""``ATTRIBUTION.md``: who made the assets of a dataset, under which licences. Pure, no files."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence

from ..manifests.records import AssetRecord
from .sources.licenses import SHAPENET, UNKNOWN, LicenseFacts, facts_of, family_of

COLLECTIONS: dict[str, str] = {
    "objaverse": "Objaverse 1.0, Allen Institute for AI. The collection is under ODC-By-1.0, "
    "its objects under the licences below. <https://huggingface.co/datasets/allenai/objaverse>",
    "objaverse-xl": "Objaverse-XL, Allen Institute for AI. The collection is under ODC-By-1.0, "
    "its objects under the licences below. <https://huggingface.co/datasets/allenai/objaverse-xl>",
    "shapenet": "ShapeNetCore, ShapeNet: its terms ask that its paper is cited. "
    "<https://shapenet.org>",
}
"""What collections ask to be said of them, by the name of the source."""

_SPECIAL = "\\`*_[]<>|~&#$"
_ESCAPES = str.maketrans({mark: f"\\{mark}" for mark in _SPECIAL})
_PLAIN = re.compile(r"[A-Za-z0-9 .,()'/:;!?+=%\"-]*")
_IN_URL = str.maketrans({c: f"%{ord(c):02X}" for c in ' <>"\\^`{|}'})
_WEB = re.compile(r"https?://", re.IGNORECASE)
_ANSWER = {True: "yes", False: "no", None: "not known"}


def attribution(records: Sequence[AssetRecord]) -> str:
    """The text of ``ATTRIBUTION.md`` in Markdown.

    First what every licence asks for, then what does not go together, then a line for every
    accepted asset, by licence and uid. Equal records in any order give equal text. What authors
    wrote is escaped: it cannot make a link, a heading or HTML.

    Args:
        records: Of all assets; those that were not accepted are passed over.
    """
    groups: dict[str, list[AssetRecord]] = {}
    for record in records:
        if record.status == "accepted":
            groups.setdefault(record.license, []).append(record)
    if not groups:
        return "# Attribution\n\nThis dataset holds no assets.\n"
    facts = {name: facts_of(name) for name in sorted(groups, key=_order)}
    counts = {name: len(groups[name]) for name in facts}
    used = {record.source for found in groups.values() for record in found}
    total = sum(counts.values())
    lines = ["# Attribution", "", f"This dataset was made from {_number(total, 'asset')}.", ""]
    lines += [f"- {COLLECTIONS[name]}" for name in sorted(used & set(COLLECTIONS))]
    lines += ["", "## Licences", "", *_summary(facts, counts), ""]
    warnings = _warnings(facts, counts)
    if warnings:
        lines += ["## Take care", "", *warnings, ""]
    for name in facts:
        lines += [f"## {_text(name)}", ""]
        lines += [_line(record) for record in sorted(groups[name], key=_by_uid)]
        lines.append("")
    text = "\n".join(lines)
    return re.sub(r"\n{3,}", "\n\n", text)


def _order(name: str) -> tuple[bool, str]:
    """Licences by name, what has none at the end."""
    return name == UNKNOWN, name


def _by_uid(record: AssetRecord) -> tuple[str, str]:
    return record.uid, record.source


def _summary(facts: Mapping[str, LicenseFacts], counts: Mapping[str, int]) -> list[str]:
    rows = [
        "| licence | assets | name the author | no commercial use | no changed copies "
        "| same licence for changed copies |",
        "| --- | ---: | --- | --- | --- | --- |",
    ]
    for name, fact in facts.items():
        shown = f"[{_text(name)}](<{fact.url}>)" if fact.url else _text(name)
        answers = (fact.attribution, fact.no_commercial, fact.no_derivatives, fact.share_alike)
        told = " | ".join(_ANSWER[answer] for answer in answers)
        rows.append(f"| {shown} | {counts[name]} | {told} |")
    return rows


def _warnings(facts: Mapping[str, LicenseFacts], counts: Mapping[str, int]) -> list[str]:
    """What somebody who passes the dataset on, or trains with it, has to know."""

    def those(test: Callable[[LicenseFacts], bool | None]) -> list[str]:
        return [name for name, fact in facts.items() if test(fact)]

    def told(names: Iterable[str]) -> str:
        chosen = list(names)
        return f"{_number(sum(counts[n] for n in chosen), 'asset')} ({', '.join(chosen)})"

    out = []
    bound = those(lambda f: f.no_commercial)
    if bound:
        out.append(
            f"- {told(bound)}: commercial use is forbidden. Read it as holding for the images "
            "here, and for a generator that is trained on them and its meshes."
        )
    # ShapeNet's terms have a paragraph of their own.
    fixed = [name for name in those(lambda f: f.no_derivatives) if name != SHAPENET]
    if fixed:
        out.append(
            f"- {told(fixed)}: changed copies must not be passed on, and rendered images are "
            "changed copies. A generator that is trained on them may give copies of them. Leave "
            "them out of a dataset that others get: `--license open`."
        )
    if SHAPENET in facts:
        out.append(
            f"- {told([SHAPENET])}: for non-commercial research only, by those who agreed to "
            "the terms. Neither the models nor what can be turned back into them may be passed on."
        )
    sharing = those(lambda f: f.share_alike)
    if sharing:
        groups = {family_of(name) or name for name in sharing}
        mixed = bool(bound) and not all(facts[name].no_commercial for name in sharing)
        out.append(
            f"- {told(sharing)}: changed copies have to be passed on under the same licence."
            + (
                " What is made from assets under several of the licences here may have no licence "
                "that satisfies all of them."
                if len(groups) > 1 or mixed
                else ""
            )
        )
    unclear = those(lambda f: f.attribution is None)
    if unclear:
        out.append(
            f"- {told(unclear)}: nothing is known here of what may be done with them. Without "
            "a licence, nothing is allowed beyond what the law allows anyhow."
        )
    return out


def _line(record: AssetRecord) -> str:
    shown = _text(record.title or record.source_id or record.uid)
    url = record.url.strip()
    if _WEB.match(url) and url.isprintable():
        shown = f"[{shown}](<{url.translate(_IN_URL)}>)"
    author = f" by {_text(record.author)}" if record.author.strip() else ""
    return f"- {shown}{author}, {_text(record.license)}"


def _text(value: str) -> str:
    """``value`` on one line, with nothing in it that Markdown or HTML reads as more than text."""
    if not _PLAIN.fullmatch(value):
        kept = (c if unicodedata.category(c) not in _DROPPED else " " for c in value)
        value = "".join(kept).translate(_ESCAPES)
    # A bare address in running text would become a link in many viewers.
    value = value.replace("://", "\\://").replace("www.", "www\\.")
    return " ".join(value.split())


_DROPPED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Control characters, marks that turn the direction of text, lone surrogates, line ends."""


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
