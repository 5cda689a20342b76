"""The report of a dataset: what it is, what became of every asset, what its images are like."""

from __future__ import annotations

import re
from importlib import resources

import numpy as np

from ...console import format_bytes
from ...manifests.dataset import Dataset
from ...manifests.records import SPLITS, Status
from . import charts, lists
from .charts import bar, escape, histogram
from .facts import Facts, by_reason, evenly
from .pictures import Album, Thumbnails, stored_thumbnails

"""Name of the page in a dataset's folder."""
STATUSES: tuple[Status, ...] = ("accepted", "rejected", "failed")
ROWS = 200
"""Rows of the table of failed assets at most."""
PAIRS = 24
"""Near-duplicates that are shown at most."""


def dataset_page(
    dataset: Dataset, thumbnails: Thumbnails | None = None, *, samples: int = 48
) -> bytes:
    """One HTML file about a dataset, without scripts and without anything outside itself.

    It depends on the dataset alone: the same one gives the same bytes. Lists are cut, so that its
    size does not grow with the dataset's.

    Args:
        dataset: Local or behind a URL; without accepted assets too.
        thumbnails: Gives the picture (bytes of an image file) of an asset that is not accepted,
            by its uid. Default: ``rejected/<uid>.png`` of the dataset, where there is one.
        samples: Pictures of accepted assets at most, and of rejected ones.

    Returns:
        UTF-8.

    Raises:
        DatasetError: A record of the dataset is missing or damaged; damaged images are left out.
    """
    facts = Facts.of(dataset)
    accepted = evenly(facts.with_status("accepted"), samples)
    rejected = by_reason(facts.with_status("rejected"), samples)
    pairs = evenly(facts.duplicates, PAIRS)
    uids = [record.uid for record in (*accepted, *pairs)]
    uids += [str(record.duplicate_of) for record in pairs]
    album = Album(dataset, facts.places(uids), thumbnails or stored_thumbnails(dataset))
    values = {
        "TITLE": escape(facts.info.name),
        "LEAD": _lead(facts),
        "TILES": _tiles(facts),
        "FACTS": _facts(facts),
        "OUTCOME": _outcome(facts),
        "LICENSES": _licenses(facts),
        "CAMERAS": _cameras(facts),
        "IMAGES": _images(facts),
        "ACCEPTED": lists.accepted(accepted, album, len(facts.with_status("accepted"))),
        "REJECTED": lists.rejected(rejected, album, len(facts.with_status("rejected"))),
        "FAILED": lists.failed(
            by_reason(facts.with_status("failed"), ROWS), len(facts.with_status("failed"))
        ),
        "DUPLICATES": lists.duplicates(pairs, facts, album),
    }
    template = (resources.files(__package__) / "page.html").read_text(encoding="utf-8")
    # In one pass: what is put in is not looked at again.
    page = re.sub(r"<!--([A-Z]+)-->", lambda found: values[found[1]], template)
    return page.encode()


def _lead(facts: Facts) -> str:
    info = facts.info
    return (
        f"{len(facts.with_status('accepted')):,} assets of the category {escape(info.category)} "
        f"from {escape(info.source)}, {info.views} views each, {info.size} px, "
        f"by {escape(info.renderer.name)}"
    )


def _tiles(facts: Facts) -> str:
    border = facts.column("touches_border")
    missing = sum(record.missing_textures for record in facts.missing_textures)
    coverage = facts.column("coverage")
    tiles = {
        "accepted": f"{len(facts.with_status('accepted')):,} of {len(facts.records):,}",
        "images": f"{facts.table.num_rows:,}",
        "on disk": format_bytes(sum(shard.bytes for shard in facts.info.shards)),
        "median coverage": f"{np.median(coverage):.1%}" if len(coverage) else "-",
        "touch the border": f"{border.sum():,} ({border.mean():.1%})" if len(border) else "-",
        "near-duplicates": f"{len(facts.duplicates):,}",
        "missing textures": f"{missing:,} in {len(facts.missing_textures):,} assets"
        if missing
        else "0",
    }
    return "\n".join(f"<li><b>{escape(v)}</b><span>{k}</span></li>" for k, v in tiles.items())


def _facts(facts: Facts) -> str:
    info = facts.info
    settings = ", ".join(f"{k} {v}" for k, v in info.renderer.settings.items() if v is not None)
    camera = ", ".join(f"{k} {_plain(v)}" for k, v in info.camera.model_dump(mode="json").items())
    splits = "; ".join(
        f"{name} {info.splits[name].assets:,} assets, {info.splits[name].views:,} images"
        for name in SPLITS
        if name in info.splits
    )
    rows = {
        "name": info.name,
        "source": info.source,
        "category": info.category,
        "splits": splits,
        "views": f"{info.views} of every asset, {info.size} × {info.size} px",
        "channels": ", ".join(info.channels),
        "extent": f"{info.extent:g}, longest side of every object",
        "renderer": f"{info.renderer.name} {info.renderer.version} ({settings})",
        "camera": camera,
        "shards": f"{len(info.shards):,}",
        "params_hash": info.params_hash,
        "g3d": info.g3d_version,
        "command": info.command,
    }
    return "\n".join(f"<dt>{k}</dt><dd>{escape(v)}</dd>" for k, v in rows.items())


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return " to ".join(map(_plain, dict.fromkeys(value)))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _outcome(facts: Facts) -> str:
    parts = charts.parts_bar({name: len(facts.with_status(name)) for name in STATUSES})
    if not facts.reasons:
        return parts + "<p>Every asset was accepted.</p>"
    kinds = {f"{r.stage}/{r.reason}": r.status for r in facts.records if r.status != "accepted"}
    most, total = max(facts.reasons.values()), len(facts.records)
    rows = "".join(
        f"<tr><td>{escape(reason)} <small>{kinds[reason]}</small></td><td>{count:,}</td>"
        f"<td>{100 * count / total:.1f}%</td><td>{bar(count / most, kinds[reason])}</td></tr>"
        for reason, count in facts.reasons.items()
    )
    head = "<tr><th>stage/reason</th><th>assets</th><th>share</th><th></th></tr>"
    return f'{parts}<div class="wide"><table><thead>{head}</thead>{rows}</table></div>'


def _licenses(facts: Facts) -> str:
    if not facts.licenses:
        return "<p>No asset was accepted.</p>"
    most, total = facts.licenses[0].assets, sum(one.assets for one in facts.licenses)
    rows = "".join(
        f"<tr><td>{escape(one.name)}</td><td>{one.assets:,}</td>"
        f"<td>{100 * one.assets / total:.1f}%</td>"
        f"<td>{one.authors:,}</td><td>{bar(one.assets / most)}</td></tr>"
        for one in facts.licenses[: lists.LINES]
    )
    head = "<tr><th>licence</th><th>assets</th><th>share</th><th>authors</th><th></th></tr>"
    more = lists.and_more(len(facts.licenses), min(len(facts.licenses), lists.LINES))
    return f'<div class="wide"><table><thead>{head}</thead>{rows}</table></div>{more}'


def _cameras(facts: Facts) -> str:
    azimuth, elevation = facts.column("azimuth"), facts.column("elevation")
    return (
        charts.directions(azimuth, elevation)
        + histogram(
            np.rad2deg(azimuth), "Azimuth", span=(0, 360), ticks=(0, 90, 180, 270, 360), unit="°"
        )
        + histogram(np.rad2deg(elevation), "Elevation", span=facts.info.camera.band_deg, unit="°")
        + histogram(facts.column("radius"), "Radius")
    )


def _images(facts: Facts) -> str:
    accepted = facts.with_status("accepted")

    def of_assets(name: str) -> np.ndarray:
        values = (getattr(record, name) for record in accepted)
        return np.array([value for value in values if value is not None], np.float64)

    iou = of_assets("pose_iou")
    low = float(np.floor(iou.min() * 20) / 20) if iou.size else 0.0
    return (
        histogram(facts.column("coverage"), "Coverage (share of the image)", span=(0, 1), bins=50)
        + histogram(of_assets("triangles"), "Triangles of an asset", log=True)
        + histogram(iou, "Pose IoU of an asset", span=(min(low, 0.95), 1.0))
    )
