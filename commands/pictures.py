"""What ``g3d render`` and ``g3d view`` make: sheets and turntables as files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from .. import console
from ..config import Config, home, merge, parse_set, resolve
from ..errors import ConfigError, MissingDependency
from ..manifests.atomic import write_atomic
from ..manifests.records import AnyCameraPrior, CameraPrior, RingPrior
from ..renderers import sheets
from ..renderers.animation import WRITERS, check_suffix, encode_animation
from ..renderers.base import Renderer, RenderSettings, Scene, Views
from ..renderers.cameras import Camera, move_back, orbit, ring, sample_cameras
from ..renderers.meshes import Mesh, bounding_radius, bounds, normalise
from .subjects import Subject, as_error, find_subject

SHEET = ".png"
AT_ONCE = 6
"""Views rendered between two steps of the progress bar."""
LOOP_S, FRAMES = 4.0, 36
"""Length of a turn (seconds), and its frames where their number is not given."""
RING = {"sampler": "ring", "elevation_deg": 20, "random_start": False, "fov_y_deg": 30}
# So near that `fit` decides the distance: the object fills the frame.
RING |= {"radius": 0.01}
PAIR_DEG, PAIR_ELEVATION_DEG = (35.0, 215.0), 22.0
"""Azimuths and elevation of the two views of a mesh among many."""


class RenderConfig(Config):
    """All options of ``g3d render``."""

    views: int = Field(6, ge=1, le=200)
    """Rows of the sheet."""
    extent: float | None = Field(None, gt=0, le=2)
    """Longest side of the normalised object; unset: 1, or that of the dataset."""
    camera: AnyCameraPrior = RingPrior.model_validate({**RING, "fit": True})
    """Where the views are from."""
    render: RenderSettings = RenderSettings(size=256)
    renderer: Literal["auto", "raster", "blender"] = "auto"
    turntable: int | None = Field(None, ge=2, le=720)
    """Frames of a turntable; unset: none, unless the file to write is one."""
    seed: int = Field(0, ge=0)
    """Of samplers that draw at random."""


@dataclass(frozen=True)
class Picture:
    """What was made.

    Attributes:
        path: The file that was asked for.
        sheet: The contact sheet, if one was made.
        turntable: The animation, if one was made.
        size: Width and height of what is at ``path`` (pixels).
        shown: How many views, assets or meshes are on it.
        facts: More to report.
        problems: What could not be drawn, a line each.
        seconds: Wall time.
    """

    path: Path
    sheet: Path | None
    turntable: Path | None
    size: tuple[int, int]
    shown: int
    facts: Mapping[str, Any]
    problems: tuple[str, ...]
    seconds: float


def build(name: str) -> Renderer:
    """The renderer of that name.

    Raises:
        MissingDependency: It is not part of this installation.
    """
    from ..pipeline.config import PrepareConfig, build_renderer

    values = {"source": "procedural", "category": "default", "renderer": name}
    return build_renderer(PrepareConfig.model_validate(values))


def render_config(flags: Mapping[str, Any], sets: Sequence[str] = ()) -> RenderConfig:
    """The options given, over defaults that suit the sampler: every object whole in its frame.

    Raises:
        ConfigError: A value does not fit.
    """
    wanted = merge(flags, parse_set(sets)).get("camera") or {}
    sampler = wanted.get("sampler", "ring") if isinstance(wanted, Mapping) else None
    # The values of the usual ring mean nothing to another sampler.
    usual = RING if sampler == "ring" else {}
    base = {"camera": {**usual, "fit": True}, "render": {"size": 256}}
    try:
        return resolve(RenderConfig, preset=base, flags=flags, sets=sets)
    except ConfigError as error:
        raise ConfigError(error.message, hint="see g3d render --help") from error


def render(
    path: Path, config: RenderConfig | None = None, *, uid: str | None = None,
    out: Path | None = None,
) -> Picture:  # fmt: skip
    """Render a mesh file, or an asset of a dataset anew: a sheet, a turntable, or both.

    Args:
        path: A model file, or a dataset with ``uid``.
        config: See :class:`RenderConfig`.
        uid: Of the asset.
        out: A ``.png`` for the sheet, or a name of ``renderers.animation.WRITERS`` for the
            turntable; default: the sheet, below the home.

    Raises:
        G3DError: There is nothing there, or nothing that can be rendered.
    """
    start = time.monotonic()
    config = config or RenderConfig()
    kind = out.suffix.lower() if out else SHEET
    if kind != SHEET:
        check_out(kind, (SHEET, *WRITERS))
        check_suffix(kind)
    renderer = build(config.renderer)
    try:
        subject = find_subject(path, uid, renderer)
        out = out or default_out(subject.name)
        with as_error(subject.name):
            scene = renderer.open(subject.asset)
            return _render(scene, subject, config, renderer, out, start)
    finally:
        renderer.close()


def _render(
    scene: Scene,
    subject: Subject,
    config: RenderConfig,
    renderer: Renderer,
    out: Path,
    start: float,
) -> Picture:
    extent = config.extent or subject.extent or 1.0
    mesh, transform = normalise(scene.mesh, extent)
    radius = bounding_radius(mesh)
    look = _Look(scene, config, transform, radius)
    animated = out.suffix.lower() != SHEET
    frames = config.turntable or (FRAMES if animated else None)
    turntable = out if animated else out.with_suffix(".gif") if frames else None
    # Both are in memory before the first is written: an error leaves no half of a pair.
    loop = look.turntable(frames, turntable.suffix.lower()) if frames and turntable else b""
    picture = None
    if not animated:
        cameras = look.cameras()
        title = [*subject.facts, mesh_line(scene.mesh), _look_line(config, renderer, extent)]
        picture = sheets.views_sheet(look.views(cameras), cameras, subject.name, title)
        write_atomic(out, sheets.encode_png(picture), sync=False)
    if turntable:
        write_atomic(turntable, loop, sync=False)
    height, width = config.render.resolution if picture is None else picture.shape[:2]
    return Picture(
        path=out,
        sheet=None if animated else out,
        turntable=turntable,
        size=(width, height),
        shown=config.views if picture is not None else frames or 0,
        facts={
            "renderer": f"{renderer.name} {renderer.version}",
            "triangles": len(mesh.faces),
            "extent": extent,
            "bounding_radius": radius,
            "camera": config.camera.model_dump(mode="json"),
        },
        problems=(),
        seconds=time.monotonic() - start,
    )


@dataclass(frozen=True)
class _Look:
    """One open asset and how it is looked at."""

    scene: Scene
    config: RenderConfig
    transform: np.ndarray
    radius: float

    @property
    def aspect(self) -> float:
        height, width = self.config.render.resolution
        return width / height

    def cameras(self) -> Camera:
        """Those of the sheet."""
        rng = np.random.default_rng(self.config.seed)
        # A little more than the object, so that it does not touch the edge.
        held = 1.02 * self.radius
        return sample_cameras(self.config.camera, self.config.views, rng, held, self.aspect)

    def views(self, cameras: Camera) -> Views:
        """Rendered a few at a time, so that the progress is seen."""
        parts = []
        with console.track("rendering", len(cameras), "view") as task:
            for start in range(0, len(cameras), AT_ONCE):
                some = cameras[start : start + AT_ONCE]
                parts.append(self.scene.render(some, self.config.render, self.transform))
                task.advance(len(some))
        columns = {f.name: [getattr(part, f.name) for part in parts] for f in fields(Views)}
        return Views(**{name: np.concatenate(arrays) for name, arrays in columns.items()})

    def turntable(self, frames: int, suffix: str) -> bytes:
        """One turn at the middle of the prior, on white."""
        check_suffix(suffix)
        cameras = ring(self.config.camera, frames)
        if self.config.camera.fit:
            cameras = move_back(cameras, 1.02 * self.radius, self.aspect)
        pictures = sheets.over_plain(self.views(cameras).rgba)
        return encode_animation(pictures, suffix, LOOP_S)


# --- text and places ------------------------------------------------------------------------------


def mesh_line(mesh: Mesh) -> str:
    """Triangles, materials, textures and sides of a mesh as its file has it."""
    textures = len({id(m.texture) for m in mesh.materials if m.texture is not None})
    low, high = bounds(mesh)
    sides = " × ".join(f"{side:.3g}" for side in high - low)
    return (
        f"{plural(len(mesh.faces), 'triangle')} · {plural(len(mesh.materials), 'material')} · "
        f"{plural(textures, 'texture')} · {sides} in its own units"
    )


def _look_line(config: RenderConfig, renderer: Renderer, extent: float) -> str:
    return (
        f"{renderer.name} {renderer.version}, {renderer.describe(config.render)} · longest side "
        f"{extent:g} · camera {prior_line(config.camera)}"
    )


def prior_line(prior: CameraPrior) -> str:
    """A camera prior in a few words."""

    def span(values: Iterable[float], unit: str = "") -> str:
        return "–".join(f"{value:.4g}{unit}" for value in dict.fromkeys(values)).replace("-", "−")

    where = f"elevation {span(prior.band_deg, '°')}, lens {span(prior.lens_deg, '°')}"
    radius = "fitted" if prior.fit else f"radius {span(prior.radius)}"
    return f"{prior.sampler}, {where}, {radius}"


def plural(count: int, noun: str) -> str:
    """``1 mesh``, ``1,234 meshes``."""
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun}{'es' if noun.endswith('sh') else 's'}"


def default_out(name: str) -> Path:
    """``renders/<name>.png`` below the home."""
    return home() / "renders" / f"{Path(name).stem if '.' in name else name}{SHEET}"


def check_out(suffix: str, known: Iterable[str]) -> None:
    """Refuse a name that no picture has, so that no model is overwritten by a slip.

    Raises:
        ConfigError: It ends otherwise.
    """
    names = list(known)
    if suffix not in names:
        raise ConfigError(
            f"-o needs a name that ends in {' or '.join(names)}", hint=f"for example -o car{SHEET}"
        )


def pair_cameras(radius: float) -> Camera:
    """Two views, front and back, that hold a ball (``[2]``)."""
    azimuth, elevation = np.deg2rad(PAIR_DEG), np.deg2rad(PAIR_ELEVATION_DEG)
    return move_back(orbit(azimuth, elevation, 1e-3, np.deg2rad(30.0)), 1.02 * radius)


def open_with_desktop(path: Path) -> None:
    """Open a picture with the desktop's viewer.

    Raises:
        MissingDependency: There is none.
    """
    if sys.platform == "win32":
        os.startfile(path)
        return
    program = shutil.which("open" if sys.platform == "darwin" else "xdg-open")
    if program is None:
        raise MissingDependency("no program here opens pictures", hint=f"open {path} elsewhere")
    subprocess.Popen(
        [program, str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
