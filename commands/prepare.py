"""``g3d prepare``: assets to a dataset of rendered views."""

from __future__ import annotations

from typing import Annotated

from .. import __version__, console
from ..errors import ConfigError
from .options import (
    CONFIG,
    INPUT,
    OUTPUT,
    RUN,
    WORKFLOW,
    Files,
    OutPlace,
    Overwrite,
    Preset,
    Sets,
    argument,
    command,
    given,
    option,
)

Source = Annotated[
    str | None, argument("procedural, folder, shapenet, objaverse, objaverse-xl or abo.")
]
Category = Annotated[
    str | None, option(INPUT, "--category", help="What the assets are (default: anything).")
]
ListCategories = Annotated[
    bool, option(INPUT, "--list-categories", help="Show the categories of SOURCE, or all.")
]
Root = Annotated[
    str | None, option(INPUT, "--root", help="Models: a folder, zips, or the URL of either.")
]
Table = Annotated[
    str | None, option(INPUT, "--table", help="CSV or JSON Lines that chooses or describes.")
]
Offline = Annotated[
    bool, option(INPUT, "--offline", help="Fetch nothing: what is in the cache has to do.")
]
Limit = Annotated[int | None, option(INPUT, "--limit", help="At most so many assets.")]
License = Annotated[
    str | None, option(INPUT, "--license", help="Only these: cc0,by,mit (default: all).")
]
Views = Annotated[int | None, option(CONFIG, "--views", help="Images an asset (default: 24).")]
Size = Annotated[int | None, option(CONFIG, "--size", help="Side of an image (default: 128).")]
Renderer = Annotated[
    str | None, option(CONFIG, "--renderer", help="auto, raster or blender (default: auto).")
]
Add = Annotated[bool, option(OUTPUT, "--add", help="Add to what another source was made into.")]
Workers = Annotated[
    int | None, option(RUN, "--workers", help="Processes; 0: here, no Ray (default: one a core).")
]
ShardIndex = Annotated[
    str | None, option(RUN, "--shard-index", help="i/n: one of n runs that share the work, from 0.")
]
Try = Annotated[bool, option(RUN, "-n", "--dry-run", help="Try a few; show time, bytes and disk.")]


@command(
    "prepare",
    WORKFLOW,
    "g3d prepare procedural --category chair",
    "g3d prepare folder --root my/cars --category car",
    "g3d prepare shapenet --category motorbike",
    "g3d prepare objaverse --category chair --license cc0,by -o s3://bucket/chairs",
    "g3d prepare procedural --category mug --limit 50 --views 8 --size 64 -o mugs",
)
def prepare_command(
    source: Source = None,
    category: Category = None,
    list_categories: ListCategories = False,
    root: Root = None,
    table: Table = None,
    offline: Offline = False,
    limit: Limit = None,
    license: License = None,
    views: Views = None,
    size: Size = None,
    renderer: Renderer = None,
    preset: Preset = None,
    files: Files = None,
    sets: Sets = None,
    out: OutPlace = None,
    overwrite: Overwrite = False,
    add: Add = False,
    workers: Workers = None,
    shard_index: ShardIndex = None,
    dry_run: Try = False,
) -> None:
    """Make a dataset of rendered views.

    The same command again goes on where it stopped.

    Values: defaults < --preset < --config < named options < --set.
    """
    from ..config import load_preset, resolve
    from ..pipeline.config import PrepareConfig
    from ..pipeline.plan import WHOLE, Share
    from ..pipeline.prepare import prepare
    from ..pipeline.sources.registry import SOURCES, categories_of
    from . import places, reports
    from .describe import PRESETS

    if list_categories:
        reports.categories(categories_of(source))
        return
    if source is None:
        raise ConfigError("prepare needs a source", hint=f"one of: {', '.join(SOURCES)}")
    flags = given(
        source=source, category=category, root=root, table=table, limit=limit, license=license,
        views=views, renderer=renderer, workers=workers, render=given(size=size) or None,
        fetch={"offline": True} if offline else None,
    )  # fmt: skip
    base = load_preset(PRESETS["prepare"], preset) if preset else {}
    base = {"category": "default", **base}
    config = resolve(PrepareConfig, preset=base, files=files or (), flags=flags, sets=sets or ())
    place = out or places.dataset_place(config.source, config.category)
    console.say(
        f"g3d {__version__} prepare: {config.source} {config.category}, "
        f"{config.views} views at {config.render.size} px -> {place}"
    )
    share = Share.parse(shard_index) if shard_index else WHOLE
    report = prepare(config, place, overwrite=overwrite, add=add, dry_run=dry_run, share=share)
    reports.prepared(report)
