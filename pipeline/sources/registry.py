"""The table of sources by name; a new source is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...config import did_you_mean
from ...errors import ConfigError
from ...manifests.categories import Category, get_category, list_categories
from .base import Source


def _procedural(category: str, root: Path | None, limit: int | None, seed: int) -> Source:
    from .procedural import DEFAULT_COUNT, ProceduralSource

    if root is not None:
        raise ConfigError(
            f"the procedural source makes its assets, it does not read --root {root}",
            hint=f"g3d prepare folder --root {root} --category {category}",
        )
    return ProceduralSource(category, DEFAULT_COUNT if limit is None else limit, seed)


def _folder(category: str, root: Path | None, limit: int | None, seed: int) -> Source:
    from .folder import FolderSource

    del seed  # files are what they are
    if root is None:
        raise ConfigError(
            "the folder source needs --root, the folder that holds the models",
            hint=f"g3d prepare folder --root PATH --category {category}",
        )
    return FolderSource(category, str(root), limit)


def _shapenet(category: str, root: Path | None, limit: int | None, seed: int) -> Source:
    from .shapenet import ShapenetSource, needs_root

    del seed
    if root is None:
        raise needs_root(category)
    return ShapenetSource(category, str(root), limit)


SOURCES: dict[str, Callable[[str, Path | None, int | None, int], Source]] = {
    "procedural": _procedural,
    "folder": _folder,
    "shapenet": _shapenet,
}
"""Constructor of every source by name: ``(category, root, limit, seed) -> Source``."""


def _has_procedure(category: Category) -> bool:
    from .procedural import SHAPES

    return category.name in SHAPES


_GIVES: dict[str, Callable[[Category], bool]] = {
    "procedural": _has_procedure,
    "shapenet": lambda category: category.synset is not None,
}
"""Whether a source has a category; one that is not listed takes what it is given for any."""


def _known(name: str) -> None:
    if name not in SOURCES:
        raise ConfigError(
            f"unknown source {name!r}{did_you_mean(name, SOURCES)}",
            hint=f"one of: {', '.join(SOURCES)}",
        )


def categories_of(source: str | None) -> list[Category]:
    """The categories that a source can give, in the order of the data file; None: all.

    Raises:
        ConfigError: Unknown source.
    """
    if source is None:
        return list(list_categories())
    _known(source)
    gives = _GIVES.get(source)
    return [c for c in list_categories() if gives is None or gives(c)]


def get_source(
    name: str,
    *,
    category: str,
    root: Path | str | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> Source:
    """Build a source from plain values.

    Args:
        name: One of :data:`SOURCES`.
        category: Category name or alias (see ``manifests/categories``).
        root: Folder or archive that is already here, for the sources that read one.
        limit: At most this many assets; None for the source's default.
        seed: Base seed of sources that make assets.

    Raises:
        ConfigError: Unknown source or category, a missing root, a limit below 1.
    """
    _known(name)
    if limit is not None and limit < 1:
        raise ConfigError(
            f"--limit must be 1 or more, found {limit}", hint="leave --limit out for all"
        )
    canonical = get_category(category).name
    return SOURCES[name](canonical, None if root is None else Path(root), limit, seed)
