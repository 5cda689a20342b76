"""A folder of GLB files as a contact sheet and a web page that needs no network."""

from __future__ import annotations

import hashlib
import html
import io
import logging
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from ...config import canonical_json
from ...errors import AssetError
from ...manifests.atomic import write_atomic
from ...renderers.base import RenderSettings
from ...renderers.cameras import Camera, look_at
from ...renderers.meshes import Mesh, bounds
from ...renderers.meshes.load import load_mesh

log = logging.getLogger(__name__)

POSTERS = "posters"
SHEET = "sheet.png"
PAGE = "index.html"

AZIMUTHS_DEG = (35.0, 215.0)
ELEVATION_DEG = 22.0
FOV_Y_DEG = 30.0


def framing_cameras(mesh: Mesh) -> Camera:
    """Two three-quarter views, front and back, that hold the mesh's bounding sphere (``[2]``)."""
    low, high = bounds(mesh)
    centre = 0.5 * (low + high)
    used = mesh.vertices[mesh.faces.reshape(-1)]
    radius = max(float(np.linalg.norm(used - centre, axis=1).max()), 1e-6)
    fov = np.deg2rad(FOV_Y_DEG)
    azimuth, elevation = np.deg2rad(AZIMUTHS_DEG), np.deg2rad(ELEVATION_DEG)
    away = np.stack(
        [
            np.cos(elevation) * np.sin(azimuth),
            np.full(len(azimuth), np.sin(elevation)),
            np.cos(elevation) * np.cos(azimuth),
        ],
        axis=-1,
    )
    eye = centre + away * (1.02 * radius / np.sin(fov / 2))
    return Camera(look_at(eye, centre), np.full(len(azimuth), fov))


def render_poster(mesh: Mesh, size: int) -> np.ndarray:
    """Front and back view side by side on white: uint8 ``[size, 2 * size, 3]``."""
    from ...renderers.raster import RasterRenderer

    settings = RenderSettings(size=size, supersample=3, light="rig")
    rgba = RasterRenderer().render(mesh, framing_cameras(mesh), settings).rgba.astype(np.float32)
    alpha = rgba[..., 3:] / 255.0
    rgb = rgba[..., :3] * alpha + 255.0 * (1.0 - alpha)
    return np.round(np.concatenate(list(rgb), axis=1)).astype(np.uint8)


def build_gallery(
    out: Path,
    records: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
    *,
    poster_size: int = 256,
) -> Path | None:
    """Render posters that are missing, then write the contact sheet and the page.

    Args:
        out: Folder of the GLB files.
        records: One mapping a file: ``seed``, ``file``, ``sha256``, ``vertices``, ``faces``,
            ``bytes``.
        facts: Shown at the head of the page (``title`` first, then name: value).
        poster_size: Side of one view (pixels).

    Returns:
        The page, or None where there is nothing to show.

    Raises:
        DiskError: Something cannot be written.
    """
    shown = []
    for record in records:
        try:
            name = _poster(out, record, poster_size)
        except AssetError as error:
            log.warning("no poster of %s: %s", record["file"], error)
            continue
        shown.append({**record, "poster": name})
    if not shown:
        return None
    _drop_other_posters(out, {r["poster"] for r in shown})
    write_atomic(out / SHEET, _sheet(out, shown, poster_size))
    page = out / PAGE
    write_atomic(page, _page(shown, facts).encode())
    return page


def _poster(out: Path, record: Mapping[str, Any], size: int) -> str:
    """Path of the poster below ``out``; its name holds the mesh's hash, so it is never stale."""
    from PIL import Image

    key = hashlib.sha256(canonical_json([record["sha256"], size]).encode()).hexdigest()[:8]
    name = f"{POSTERS}/{record['seed']:06d}-{key}.webp"
    if not (out / name).exists():
        image = Image.fromarray(render_poster(load_mesh(out / record["file"]), size))
        data = io.BytesIO()
        image.save(data, format="WEBP", quality=88, method=4)
        write_atomic(out / name, data.getvalue())
    return name


def _drop_other_posters(out: Path, keep: set[str]) -> None:
    for file in (out / POSTERS).glob("*.webp"):
        if f"{POSTERS}/{file.name}" not in keep:
            file.unlink(missing_ok=True)


def _sheet(out: Path, records: Sequence[Mapping[str, Any]], size: int, limit: int = 64) -> bytes:
    """PNG of the first ``limit`` posters in rows, each with its seed."""
    from PIL import Image, ImageDraw, ImageFont

    records = records[:limit]
    columns = min(len(records), max(1, round((len(records) / 2) ** 0.5) + 1))
    rows = -(-len(records) // columns)
    gap, label = 12, 22
    width, height = 2 * size + gap, size + label + gap
    sheet = Image.new("RGB", (columns * width + gap, rows * height + gap), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=14)
    for i, record in enumerate(records):
        x, y = gap + (i % columns) * width, gap + (i // columns) * height
        with Image.open(out / record["poster"]) as poster:
            sheet.paste(poster, (x, y))
        text = f"seed {record['seed']} · {record['faces']:,} faces"
        draw.text((x + 4, y + size + 2), text, fill=(90, 90, 90), font=font)
    data = io.BytesIO()
    sheet.save(data, format="PNG")
    return data.getvalue()


def _page(records: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    """The page: the template with its head, its facts and one card a mesh."""
    template = (resources.files(__package__) / "gallery.html").read_text(encoding="utf-8")
    rest = dict(facts)
    title = html.escape(str(rest.pop("title", "g3d export")))
    lines = [
        f"<dt>{html.escape(str(k))}</dt><dd>{html.escape(str(v))}</dd>" for k, v in rest.items()
    ]
    values = {
        "TITLE": title,
        "FACTS": "\n".join(lines),
        "COUNT": str(len(records)),
        "CARDS": "\n".join(_card(r) for r in records),
    }
    for key, value in values.items():
        template = template.replace(f"<!--{key}-->", value)
    return template


def _card(record: Mapping[str, Any]) -> str:
    file, seed = html.escape(str(record["file"])), int(record["seed"])
    size = f"{int(record['bytes']) / 1000:,.0f} kB"
    return (
        f'<li class="card" data-seed="{seed}"><a href="{file}" download>'
        f'<span class="view"><img src="{html.escape(record["poster"])}" loading="lazy" '
        f'alt="{file}, front and back view"></span></a>'
        f'<div class="text"><b>seed {seed}</b><a href="{file}" download>{file}</a>'
        f"<span>{int(record['faces']):,} faces · {int(record['vertices']):,} vertices · {size}"
        "</span></div></li>"
    )
