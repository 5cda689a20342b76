"""Text and numbers for HTML."""

from __future__ import annotations

import html
from collections.abc import Mapping


def escape(text: object) -> str:
    """Other people's text for HTML: markup and control characters are made harmless."""
    shown = "".join(
        c if c >= " " or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in str(text)
    )
    # Lone surrogates, which file names can hold, cannot be written as UTF-8.
    return html.escape(shown.encode("utf-8", "replace").decode())


def number(value: float) -> str:
    """At most four digits, large ones with separators."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def kimg(nimg: float) -> str:
    """Images as thousands of images."""
    return f"{number(nimg / 1000)} kimg"


def rows(facts: Mapping[str, object]) -> str:
    """A list of names and values."""
    return "\n".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())
