"""The table of sources by name; a new source is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...config import did_you_mean
from ...errors import ConfigError
from ...manifests.categories import Category, get_category, list_categories
from ..transfer.fetch import FetchSettings
from ..transfer.ranges import location_of
from .base import Source, SourceOptions


def _procedural(options: SourceOptions) -> Source:
    from .procedural import DEFAULT_COUNT, ProceduralSource

    if options.root is not None:
        raise ConfigError(
            f"the procedural source makes its assets, it does not read --root {options.root}",
            hint=f"g3d prepare folder --root {options.root} --category {options.category}",
        )
    count = DEFAULT_COUNT if options.limit is None else options.limit
    return ProceduralSource(options.category, count, options.seed)


def _folder(options: SourceOptions) -> Source:
    from .folder import FolderSource

    if options.root is None:
        raise ConfigError(
            "the folder source needs --root, the folder or archive that holds the models",
            hint=f"g3d prepare folder --root PATH --category {options.category}",
        )
    return FolderSource(
        options.category, options.root, options.limit, table=options.table, fetch=options.fetch
    )


def _shapenet(options: SourceOptions) -> Source:
    from .shapenet import HUB, ShapenetSource

    root = HUB if options.root is None else options.root
    return ShapenetSource(options.category, root, options.limit, fetch=options.fetch)


def _objaverse(options: SourceOptions) -> Source:
    from .objaverse import ObjaverseSource

    return ObjaverseSource(options.category, options.root, options.limit, options.fetch)


def _objaverse_xl(options: SourceOptions) -> Source:
    from .objaverse_tables import needs_table
    from .objaverse_xl import ObjaverseXLSource

    if options.table is None:
        raise needs_table(options.category)
    return ObjaverseXLSource(
        options.category, options.table, options.root, options.limit, options.fetch
    )


def _abo(options: SourceOptions) -> Source:
    from .abo import BUCKET, AboSource

    return AboSource(options.category, options.root or BUCKET, options.limit, fetch=options.fetch)


SOURCES: dict[str, Callable[[SourceOptions], Source]] = {
    "procedural": _procedural,
    "folder": _folder,
    "shapenet": _shapenet,
    "objaverse": _objaverse,
    "objaverse-xl": _objaverse_xl,
    "abo": _abo,
}
"""Constructor of every source by name."""


MADE = frozenset({"procedural"})
"""Sources that make as many assets as they are asked for, by themselves."""


def _has_procedure(category: Category) -> bool:
    from .procedural import SHAPES

    return category.name in SHAPES


_GIVES: dict[str, Callable[[Category], bool]] = {
    "procedural": _has_procedure,
    "shapenet": lambda category: category.synset is not None,
    "objaverse": lambda category: bool(category.lvis),
    "abo": lambda category: bool(category.abo),
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
    table: Path | str | None = None,
    fetch: FetchSettings | None = None,
) -> Source:
    """Build a source from plain values.

    Args:
        name: One of :data:`SOURCES`.
        category: Category name or alias (see ``manifests/categories``).
        root: Folder or archive, or its URL, for the sources that read one.
        limit: At most this many assets; None for the source's default.
        seed: Base seed of sources that make assets.
        table: CSV or JSON Lines that tells of the files of the source folder.
        fetch: How files are brought over a network.

    Raises:
        ConfigError: Unknown source or category, a missing root, a limit below 1.
    """
    _known(name)
    if limit is not None and limit < 1:
        raise ConfigError(
            f"--limit must be 1 or more, found {limit}", hint="leave --limit out for all"
        )
    options = SourceOptions(
        category=get_category(category).name,
        root=None if root is None else location_of(str(root)),
        limit=limit,
        seed=seed,
        table=None if table is None else location_of(str(table)),
        fetch=fetch or FetchSettings(),
    )
    return SOURCES[name](options)
