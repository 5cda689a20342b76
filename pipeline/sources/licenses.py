"""Which licence a folder of models is under, as far as the files beside them say."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

UNKNOWN = "unknown"
_READ = 20_000  # characters; a licence is named near its beginning

_CREDITS = ("attribution*", "credits*", "authors*")
_LICENSES = ("license*", "licence*", "copying*", "*license*", "*licence*")

_VERSION = r"[^\n]{0,40}?\b(\d\.\d)"
_PATTERNS: tuple[tuple[str, str], ...] = (
    (r"\bcc0\b|publicdomain/zero|creative commons zero", "CC0-1.0"),
    (r"\bcc[ -]by[ -]nc[ -]sa\b" + _VERSION + r"|licenses/by-nc-sa/(\d\.\d)", "CC-BY-NC-SA-{}"),
    (r"\bcc[ -]by[ -]nc[ -]nd\b" + _VERSION + r"|licenses/by-nc-nd/(\d\.\d)", "CC-BY-NC-ND-{}"),
    (r"\bcc[ -]by[ -]nc\b(?![ -][sn])" + _VERSION + r"|licenses/by-nc/(\d\.\d)", "CC-BY-NC-{}"),
    (r"\bcc[ -]by[ -]sa\b" + _VERSION + r"|licenses/by-sa/(\d\.\d)", "CC-BY-SA-{}"),
    (r"\bcc[ -]by[ -]nd\b" + _VERSION + r"|licenses/by-nd/(\d\.\d)", "CC-BY-ND-{}"),
    (r"\bcc[ -]by\b(?![ -](?:sa|nd|nc))" + _VERSION + r"|licenses/by/(\d\.\d)", "CC-BY-{}"),
    (r"creative commons attribution (\d\.\d)|^\s*attribution (\d\.\d) international", "CC-BY-{}"),
    (r"\bmit license\b|\bmit licence\b|^\s*licen[cs]e:\s*mit\b"
     r"|permission is hereby granted, free of charge", "MIT"),
    (r"apache license,? version 2\.0|apache license\s+version 2\.0|\bapache-2\.0\b", "Apache-2.0"),
    (r"redistribution and use in source and binary forms", "BSD-3-Clause"),
    (r"this is free and unencumbered software released into the public domain", "Unlicense"),
)  # fmt: skip
_AUTHOR = re.compile(
    r"(?:created|distributed|made|modell?ed)\S* by[ :]+([^\n(,]+)"
    r"|copyright (?:\(c\)|©)?\s*[\d, -]*\s+([^\n(,]+)",
    re.IGNORECASE,
)
_CREDIT = re.compile(r"\bby ([^\n(,]+)")


@dataclass(frozen=True)
class Terms:
    """A licence (SPDX identifier or ``unknown``) and an author (or an empty string)."""

    license: str = UNKNOWN
    author: str = ""


NO_TERMS = Terms()


def recognise(text: str) -> str:
    """The SPDX identifier that ``text`` names, ``unknown`` if it names none or more than one."""
    found = set()
    for pattern, name in _PATTERNS:
        match = re.search(pattern, text, re.IGNORECASE | re.MULTILINE)
        if match:
            found.add(name.format(next((g for g in match.groups() if g), "")))
    return found.pop() if len(found) == 1 else UNKNOWN


def folder_terms(folder: Path) -> Terms:
    """What the files of one folder say: credits first, then licence files, by name."""
    license_, author = UNKNOWN, ""
    for patterns, by in ((_CREDITS, _CREDIT), (_LICENSES, _AUTHOR)):
        for path in _matching(folder, patterns):
            try:
                text = path.read_text(encoding="utf-8", errors="replace")[:_READ]
            except OSError:
                continue
            if license_ == UNKNOWN:
                license_ = recognise(text)
            if not author:
                match = by.search(text)
                author = next((g.strip() for g in match.groups() if g), "") if match else ""
    return Terms(license_, author)


def _matching(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    """Text files of ``folder`` whose lower-case names match, in the order of the patterns."""
    suffixes = {"", ".txt", ".md", ".rst", ".html"}
    try:
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes and p.is_file())
    except OSError:
        return []
    out: list[Path] = []
    for pattern in patterns:
        expression = re.compile(pattern.replace("*", ".*"))
        out += [p for p in files if expression.fullmatch(p.name.lower()) and p not in out]
    return out
