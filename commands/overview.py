"""The sheets of ``g3d view``: many assets of a dataset, one asset's views, a folder of meshes."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .. import console
from ..errors import AssetError, ConfigError, G3DError
from ..manifests.atomic import write_atomic
from ..manifests.dataset import Dataset
from ..renderers import sheets
from ..renderers.base import Renderer, RenderSettings
from ..renderers.meshes import bounding_radius, normalise
from ..renderers.meshes.load import FORMATS
from ..renderers.sheets import Tile
from . import places
from .pictures import (
    SHEET,
    Picture,
    build,
    check_out,
    default_out,
    pair_cameras,
    plural,
    prior_line,
    render,
)
from .subjects import open_file

LONGEST, STORED, LABEL = 160, 4, 34
"""Side of a picture among many (pixels); its asset's stored views; letters of its name."""


def view(
    path: Path, *, uid: str | None = None, limit: int = 24, out: Path | None = None
) -> Picture:
    """A sheet of whatever is at ``path``.

    Args:
        path: A model file, a dataset, a run, an export, or a folder of models.
        uid: Of an asset of the dataset: all its stored views.
        limit: At most so many assets or meshes, evenly spaced over all.
        out: The PNG; default: below the home.

    Raises:
        G3DError: There is nothing there, or nothing to show.
    """
    if limit < 1:
        raise ConfigError(f"--limit must be 1 or more, found {limit}", hint="--limit 24")
    if out:
        check_out(out.suffix.lower(), (SHEET,))
    if not path.exists():
        raise G3DError(f"there is nothing at {path}", hint="give a file or folder that is here")
    if path.is_file():
        return _view_file(path, out)
    if uid is not None or (path / "dataset.json").is_file():
        return _view_dataset(path, uid, limit, out)
    if (path / "run.json").is_file():
        export = places.export_place(path)
        if not (export / "export.json").is_file():
            raise G3DError(f"no meshes of {path} are exported yet", hint=f"g3d export {path}")
        path = export
    return _view_models(path, limit, out)


def _view_file(path: Path, out: Path | None) -> Picture:
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        raise G3DError(f"{path} holds weights, no pictures", hint=f"g3d export {path}")
    if suffix == ".tar":
        folder = path.parent.parent if path.parent.name == "shards" else path.parent
        raise G3DError(f"{path} is part of a dataset", hint=f"g3d view {folder}")
    return render(path, out=out)


def _view_dataset(path: Path, uid: str | None, limit: int, out: Path | None) -> Picture:
    start = time.monotonic()
    data = Dataset.open(path)
    out = out or default_out(uid or data.info.name)
    sheet, shown = _stored_views(data, uid) if uid else _many_assets(data, limit)
    return _write(sheet, out, shown, (), start)


def _many_assets(data: Dataset, limit: int) -> tuple[np.ndarray, int]:
    """A sheet of assets, each with some of its stored views; how many there are on it."""
    info, views, assets = data.info, data.views(), data.assets()
    tiles = []
    with console.track("reading", min(limit, len(assets)), "asset") as task:
        for n in spread(len(assets), limit):
            rows = np.flatnonzero(views.uid == assets[n].uid)
            some = views.take(rows[spread(len(rows), STORED)])
            row = [sheets.shrink(p, LONGEST) for p in sheets.over_checker(data.read_views(some))]
            tiles.append(Tile(np.concatenate(row, axis=1), f"{assets[n].uid} · {assets[n].split}"))
            task.advance()
    splits = ", ".join(f"{count.assets} {name}" for name, count in info.splits.items())
    lost = {name: count for name, count in info.statuses.items() if name != "accepted" and count}
    rest = "".join(f", {count} {name}" for name, count in lost.items())
    facts = [
        f"{plural(len(assets), 'asset')} ({splits}{rest}) · {info.views} views of {info.size} px "
        f"each · shown: {len(tiles)} × {min(STORED, info.views)}",
        f"{info.renderer.name} {info.renderer.version} · longest side {info.extent:g} · "
        f"camera {prior_line(info.camera)}",
    ]
    return sheets.grid_sheet(tiles, info.name, facts), len(tiles)


def _stored_views(data: Dataset, uid: str) -> tuple[np.ndarray, int]:
    """A sheet of all stored views of one asset beside their masks; how many there are."""
    record, views = data.asset(uid), data.views()
    views = views.take(views.uid == uid)
    if not len(views):
        raise G3DError(
            f"{uid} has no views: {record.status}, {record.reason} at {record.stage}",
            hint=f"{record.message or 'see assets.jsonl'}",
        )
    rgba = data.read_views(views)
    pictures = np.concatenate([sheets.over_checker(rgba), sheets.mask_picture(rgba)], axis=2)
    angles = np.rad2deg(np.stack([views.azimuth, views.elevation], axis=1))
    tiles = [
        Tile(
            sheets.shrink(picture, 2 * LONGEST),
            f"view {number} · az {azimuth:.0f}° · el {elevation:.0f}°".replace("-", "−"),
        )
        for picture, number, (azimuth, elevation) in zip(
            pictures, views.view.tolist(), angles, strict=True
        )
    ]
    sides = " × ".join(f"{side:.3g}" for side in record.extent or ())
    facts = [
        f"of {data.info.name}, {record.split} · {record.triangles or 0:,} triangles · {sides}",
        f"coverage {record.coverage or 0:.0%} · pose IoU {record.pose_iou or 0:.3f} · views that "
        f"touch the border {record.border_views or 0} · licence {record.license}",
    ]
    return sheets.grid_sheet(tiles, uid, facts), len(tiles)


def _view_models(path: Path, limit: int, out: Path | None) -> Picture:
    """A sheet of the models below a folder: front and back of each."""
    start = time.monotonic()
    files = _models(path)
    if not files:
        raise G3DError(
            f"{path} holds no dataset, run, export or model",
            hint=f"models are files that end in {', '.join(FORMATS)}",
        )
    chosen = [files[n] for n in spread(len(files), limit)]
    renderer, problems, tiles = build("auto"), [], []
    try:
        with console.track("rendering", len(chosen), "mesh") as task:
            for file in chosen:
                name = file.relative_to(path).as_posix()
                tiles.append(_model_tile(file, name, renderer))
                if tiles[-1].image is None:
                    problems.append(f"{name}: {tiles[-1].note}")
                task.advance()
    finally:
        renderer.close()
    shown = len(tiles) - len(problems)
    facts = [f"{plural(len(files), 'mesh')} · shown: {shown}, front and back", *_provenance(path)]
    name = path.resolve().name
    picture = sheets.grid_sheet(tiles, name, facts)
    return _write(picture, out or default_out(name), shown, tuple(problems), start)


def _models(path: Path) -> list[Path]:
    """Model files below a folder, in the order of their paths; hidden ones are passed over."""
    found = (p.relative_to(path) for p in path.rglob("*") if p.suffix.lower() in FORMATS)
    kept = sorted(p for p in found if not any(part.startswith(".") for part in p.parts))
    return [path / p for p in kept]


def _model_tile(file: Path, name: str, renderer: Renderer) -> Tile:
    # The end of a path says more than its beginning.
    short = name if len(name) <= LABEL else "…" + name[1 - LABEL :]
    try:
        scene = renderer.open(open_file(file, renderer))
        mesh, transform = normalise(scene.mesh, 1.0)
        radius = bounding_radius(mesh)
        settings = RenderSettings(size=LONGEST)
        views = scene.render(pair_cameras(radius), settings, transform)
    except AssetError as error:
        return Tile(None, short, str(error))
    picture = np.concatenate(list(sheets.over_checker(views.rgba)), axis=1)
    return Tile(picture, f"{short} · {plural(len(mesh.faces), 'triangle')}")


def _provenance(path: Path) -> list[str]:
    """Where an export is from, as its own list says."""
    try:
        known = json.loads((path / "export.json").read_text(encoding="utf-8"))["provenance"]
    except (OSError, ValueError, KeyError):
        return []
    return [f"of {known.get('run')} · {known.get('nimg', 0) / 1000:g} kimg of {known['dataset']}"]


def spread(count: int, limit: int) -> np.ndarray:
    """At most ``limit`` of ``count`` indices, evenly spaced, the first among them."""
    return np.arange(min(count, limit)) * count // max(min(count, limit), 1)


def _write(
    picture: np.ndarray, out: Path, shown: int, problems: Sequence[str], start: float
) -> Picture:
    write_atomic(out, sheets.encode_png(picture), sync=False)
    return Picture(
        path=out,
        sheet=out,
        turntable=None,
        size=(picture.shape[1], picture.shape[0]),
        shown=shown,
        facts={},
        problems=tuple(problems),
        seconds=time.monotonic() - start,
    )
