"""Licences: what files and labels name, what they ask for, and which of them a run takes."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from ...config import did_you_mean
from ...errors import AssetError, ConfigError

UNKNOWN = "unknown"
SHAPENET = "LicenseRef-ShapeNet"
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


def folder_terms(files: Mapping[str, Callable[[], bytes]]) -> Terms:
    """What the files of one folder say: credits first, then licence files, by name.

    Args:
        files: How each is read, by its name in the folder.
    """
    license_, author = UNKNOWN, ""
    for patterns, by in ((_CREDITS, _CREDIT), (_LICENSES, _AUTHOR)):
        for name in _matching(files, patterns):
            try:
                text = files[name]().decode("utf-8", "replace")[:_READ]
            except (AssetError, OSError):
                continue
            if license_ == UNKNOWN:
                license_ = recognise(text)
            if not author:
                match = by.search(text)
                author = next((g.strip() for g in match.groups() if g), "") if match else ""
    return Terms(license_, author)


def _matching(names: Iterable[str], patterns: tuple[str, ...]) -> list[str]:
    """Names of text files that match in lower case, in the order of the patterns."""
    suffixes = {"", ".txt", ".md", ".rst", ".html"}
    texts = sorted(name for name in names if posixpath.splitext(name)[1].lower() in suffixes)
    out: list[str] = []
    for pattern in patterns:
        expression = re.compile(pattern.replace("*", ".*"))
        out += [n for n in texts if expression.fullmatch(n.lower()) and n not in out]
    return out


_CC = re.compile(r"CC-(BY(?:-NC)?(?:-SA|-ND)?)-(\d\.\d)", re.IGNORECASE)
_CC_CODES = ("by", "by-sa", "by-nd", "by-nc", "by-nc-sa", "by-nc-nd")
_CC_VERSIONS = ("1.0", "2.0", "2.5", "3.0", "4.0")

_IDS: dict[str, tuple[str, ...]] = {
    "cc0": ("CC0-1.0",),
    "mit": ("MIT", "MIT-0"),
    "apache": ("Apache-1.1", "Apache-2.0"),
    "bsd": ("0BSD", "BSD-2-Clause", "BSD-3-Clause", "BSD-3-Clause-Clear", "BSD-4-Clause"),
    "unlicense": ("Unlicense",),
    "shapenet": (SHAPENET,),
    "": (
        "AGPL-3.0-only", "AGPL-3.0-or-later", "Artistic-2.0", "BSL-1.0", "CC-PDDC",
        "CERN-OHL-P-2.0", "CERN-OHL-S-2.0", "CERN-OHL-W-2.0", "EPL-1.0", "EPL-2.0", "EUPL-1.2",
        "GPL-2.0-only", "GPL-2.0-or-later", "GPL-3.0-only", "GPL-3.0-or-later", "ISC",
        "LGPL-2.1-only", "LGPL-2.1-or-later", "LGPL-3.0-only", "LGPL-3.0-or-later", "MPL-2.0",
        "ODC-By-1.0", "OFL-1.1", "WTFPL", "Zlib",
    ),
}  # fmt: skip
"""SPDX identifiers by short name; those under the empty name are known by their own alone."""

_KNOWN_IDS: dict[str, str] = {
    name.lower(): name
    for name in (
        *(name for names in _IDS.values() for name in names),
        *(f"CC-{code.upper()}-{version}" for code in _CC_CODES for version in _CC_VERSIONS),
    )
}
_FAMILY_OF = {name: family for family, names in _IDS.items() if family for name in names}

_OPEN = ("cc0", "by", "by-sa", "mit", "apache", "bsd", "unlicense")
GROUPS: dict[str, tuple[str, ...]] = {
    "open": _OPEN,
    "research": (*_OPEN, "by-nd", "by-nc", "by-nc-sa", "by-nc-nd", "shapenet"),
}
"""Words for several short names. ``open``: may be used commercially, and changed."""
SHORT_NAMES = tuple(dict.fromkeys(["cc0", *_CC_CODES, *filter(None, _IDS), UNKNOWN]))
"""Words for a licence in all its versions."""


def family_of(spdx: str) -> str:
    """The short name of an SPDX identifier; an empty string if it has none."""
    found = _CC.fullmatch(spdx)
    if found:
        return found[1].lower()
    if spdx.lower() == UNKNOWN or not spdx:
        return UNKNOWN
    return _FAMILY_OF.get(_KNOWN_IDS.get(spdx.lower(), spdx), "")


@dataclass(frozen=True)
class LicensePolicy:
    """Which licences are taken; made by :func:`parse_policy`.

    Attributes:
        families: Short names, every version of which is taken.
        ids: SPDX identifiers in lower case.
        everything: No word was given: all licences are taken, and unknown ones.
    """

    families: frozenset[str] = frozenset()
    ids: frozenset[str] = frozenset()
    everything: bool = False

    def allows(self, spdx: str) -> bool:
        """Whether an asset under ``spdx`` is taken. ``unknown`` is only if it was named."""
        return self.everything or spdx.lower() in self.ids or family_of(spdx) in self.families


def parse_policy(words: tuple[str, ...]) -> LicensePolicy:
    """The policy of ``--license``: short names, groups, SPDX identifiers, in upper or lower case.

    A word may hold several, with commas between them. ``cc-by`` is ``by``. No word at all: no
    licence is refused.

    Raises:
        ConfigError: A word is none of these; the message names the nearest.
    """
    parts = [part.strip().lower() for word in words for part in word.split(",") if part.strip()]
    families: set[str] = set()
    ids: set[str] = set()
    for part in parts:
        short = part.removeprefix("cc-")
        if part in GROUPS:
            families.update(GROUPS[part])
        elif short in SHORT_NAMES:
            families.add(short)
        elif part in _KNOWN_IDS or re.fullmatch(r"licenseref-[a-z0-9.-]+", part):
            ids.add(part)
        else:
            known = [*GROUPS, *SHORT_NAMES, *_KNOWN_IDS]
            raise ConfigError(
                f"unknown licence {part!r}{did_you_mean(part, known)}",
                hint=f"one of: {', '.join([*GROUPS, *SHORT_NAMES])}; or an SPDX identifier",
            )
    return LicensePolicy(frozenset(families), frozenset(ids), everything=not parts)


@dataclass(frozen=True)
class LicenseFacts:
    """What a licence asks for. None: it is not known here.

    Attributes:
        url: Its text, or an empty string.
        attribution: The author has to be named.
        no_commercial: Commercial use is forbidden.
        no_derivatives: Changed copies must not be passed on.
        share_alike: Changed copies have to be under the same licence.
    """

    url: str = ""
    attribution: bool | None = None
    no_commercial: bool | None = None
    no_derivatives: bool | None = None
    share_alike: bool | None = None


_COPYLEFT = re.compile(r"(A?GPL|LGPL|MPL|EPL|EUPL|CERN-OHL-[SW]|OFL)-", re.IGNORECASE)
_NO_NOTICE = {"MIT-0", "0BSD", "Unlicense", "WTFPL", "CC-PDDC"}


def facts_of(spdx: str) -> LicenseFacts:
    """What ``spdx`` asks for; of an identifier that is not known here, nothing is said."""
    found = _CC.fullmatch(spdx)
    if found:
        code, version = found[1].lower(), found[2]
        parts = code.split("-")
        url = f"https://creativecommons.org/licenses/{code}/{version}/"
        return LicenseFacts(url, True, "nc" in parts, "nd" in parts, "sa" in parts)
    name = _KNOWN_IDS.get(spdx.lower())
    if name is None:
        return LicenseFacts()
    if name == SHAPENET:  # its terms: research, to cite it, and not to pass the models on
        return LicenseFacts("https://shapenet.org/terms", True, True, True, False)
    if name == "CC0-1.0":
        url = "https://creativecommons.org/publicdomain/zero/1.0/"
        return LicenseFacts(url, False, False, False, False)
    return LicenseFacts(
        f"https://spdx.org/licenses/{name}.html",
        attribution=name not in _NO_NOTICE,
        no_commercial=False,
        no_derivatives=False,
        share_alike=bool(_COPYLEFT.match(name)),
    )


_LABELS: dict[str, str] = {
    "mit license": "MIT", "mit no attribution": "MIT-0", "apache license 2.0": "Apache-2.0",
    'bsd 2-clause "simplified" license': "BSD-2-Clause",
    'bsd 3-clause "new" or "revised" license': "BSD-3-Clause",
    "bsd 3-clause clear license": "BSD-3-Clause-Clear", "bsd zero clause license": "0BSD",
    "the unlicense": "Unlicense", "isc license": "ISC", "zlib license": "Zlib",
    "boost software license 1.0": "BSL-1.0", "mozilla public license 2.0": "MPL-2.0",
    "gnu general public license v2.0": "GPL-2.0-only",
    "gnu general public license v3.0": "GPL-3.0-only",
    "gnu lesser general public license v2.1": "LGPL-2.1-only",
    "gnu lesser general public license v3.0": "LGPL-3.0-only",
    "gnu affero general public license v3.0": "AGPL-3.0-only",
    "gpl-2.0": "GPL-2.0-only", "gpl-3.0": "GPL-3.0-only", "lgpl-2.1": "LGPL-2.1-only",
    "lgpl-3.0": "LGPL-3.0-only", "agpl-3.0": "AGPL-3.0-only",
    "eclipse public license 1.0": "EPL-1.0", "eclipse public license 2.0": "EPL-2.0",
    "artistic license 2.0": "Artistic-2.0", "european union public license 1.2": "EUPL-1.2",
    "sil open font license 1.1": "OFL-1.1",
    "do what the f*ck you want to public license": "WTFPL",
    "cc0": "CC0-1.0",
}  # fmt: skip


@lru_cache(maxsize=4096)
def spdx_of_label(label: str) -> str:
    """The SPDX identifier of a collection's own word for a licence; ``unknown`` if it has none.

    Known are Sketchfab's codes (``by-nc``), GitHub's names (``MIT License``), Thingiverse's
    (``Creative Commons - Attribution - Share Alike``) and SPDX identifiers. A Creative Commons
    licence without a version is taken for 4.0, which Sketchfab and Thingiverse give today.
    """
    text = " ".join(label.lower().split())
    if text in _CC_CODES:
        return f"CC-{text.upper()}-4.0"
    exact = _LABELS.get(text) or _KNOWN_IDS.get(text)
    if exact:
        return exact
    if "creative commons" not in text and not re.match(r"(cc|attribution)\b", text):
        return UNKNOWN
    if re.search(r"zero|public domain dedication|\bcc0\b", text):
        return "CC0-1.0"
    if not re.search(r"attribution|\bby\b", text):
        return UNKNOWN
    code = "BY"
    code += "-NC" if re.search(r"non-? ?commercial|\bnc\b", text) else ""
    code += "-SA" if re.search(r"share-? ?alike|\bsa\b", text) else ""
    code += "-ND" if re.search(r"no-? ?deriv|\bnd\b", text) else ""
    version = re.search(r"\b(\d\.\d)\b", text)
    return _KNOWN_IDS.get(f"cc-{code}-{version[1] if version else '4.0'}".lower(), UNKNOWN)
