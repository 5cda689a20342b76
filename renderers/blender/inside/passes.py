"""Getting pixels out of a render: through memory by a hook, or through an EXR file.

In background mode Blender keeps no render result that Python could read. Cycles does, for as long
as its engine's ``render`` runs: :func:`install` wraps that method and copies the passes there. It
is no public interface, so :mod:`.selftest` compares it with the EXR file of the same render.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bpy
import numpy as np

from . import exr, materials

Passes = dict[str, np.ndarray]
"""By name, float32 ``[H, W, C]``, scene-linear, premultiplied, row 0 = top."""

COMBINED = "Combined"
CHANNELS = {
    COMBINED: "RGBA",
    **{name: "RGB" if kind == "COLOR" else "X" for name, kind in materials.AOVS.items()},
}
_LETTERS = {"RGBA": ("R", "G", "B", "A"), "RGB": ("R", "G", "B"), "X": ("V",)}


class _Hook:
    """State of this process: what the wrapped method should copy, and what it copied."""

    wanted: tuple[str, ...] = ()
    found: Passes | None = None
    error: str = ""
    tested: str = ""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Send what Blender writes to the file descriptor of stdout to nowhere.

    Not stderr: the last words of a crash are there.
    """
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def install() -> None:
    """Wrap ``CyclesRender.render``, once.

    Raises:
        RuntimeError: There is no Cycles in this Blender.
    """
    engines = bpy.types.RenderEngine.__subclasses__()
    engine = next((e for e in engines if getattr(e, "bl_idname", "") == "CYCLES"), None)
    if engine is None:
        raise RuntimeError("this Blender has no Cycles")
    original = engine.render
    if getattr(original, "is_g3d", False):
        return

    def render(self: Any, depsgraph: Any) -> None:
        original(self, depsgraph)
        if _Hook.wanted:
            try:
                _Hook.found = _copy(self.get_result(), _Hook.wanted)
            except Exception as error:  # A failure here must not end the render: EXR may do.
                _Hook.error = f"{type(error).__name__}: {error}"

    render.is_g3d = True  # type: ignore[attr-defined]
    engine.render = render


def _copy(result: Any, wanted: tuple[str, ...]) -> Passes:
    """The passes of the first layer."""
    height, width = result.resolution_y, result.resolution_x
    found = {item.name: item for item in result.layers[0].passes}
    out: Passes = {}
    for name in wanted:
        item = found[name]
        pixels = np.zeros(height * width * item.channels, np.float32)
        item.rect.foreach_get(pixels)
        out[name] = _upright(pixels.reshape(height, width, item.channels), name)
    return out


def _upright(pixels: np.ndarray, name: str) -> np.ndarray:
    """Row 0 = top, with the channels that the pass has (an AOV of colour carries an alpha)."""
    return np.ascontiguousarray(pixels[::-1, :, : len(CHANNELS[name])])


def render(scene: Any, wanted: tuple[str, ...], route: str) -> Passes:
    """Render ``scene`` as it is set, and give the passes.

    Args:
        scene: Of Blender.
        wanted: Names among :data:`CHANNELS`.
        route: ``memory``, ``exr``, or ``auto``: what :func:`use` was told, memory before it.

    Raises:
        RuntimeError: Blender failed, or gave no pixels.
    """
    if route == "exr" or (route == "auto" and _Hook.tested == "exr"):
        return _render_exr(scene, wanted)
    install()
    _Hook.wanted, _Hook.found, _Hook.error = wanted, None, ""
    try:
        with quiet():
            bpy.ops.render.render(scene=scene.name)
    finally:
        found, _Hook.found, _Hook.wanted = _Hook.found, None, ()
    if found is not None:
        return found
    if route == "auto":
        return _render_exr(scene, wanted)
    raise RuntimeError(f"no pixels came through memory ({_Hook.error or 'the hook did not run'})")


def scratch() -> str | None:
    """Folder for temporary files: in memory where the system has that, else the default (None)."""
    shared = Path("/dev/shm")
    return str(shared) if shared.is_dir() and os.access(shared, os.W_OK) else None


def _render_exr(scene: Any, wanted: tuple[str, ...]) -> Passes:
    """By one uncompressed file of 32 bit floats with all passes."""
    layer = scene.view_layers[0].name
    with tempfile.TemporaryDirectory(dir=scratch(), prefix="g3d-") as folder:
        path = Path(folder) / "view.exr"
        with _file_output(scene, path), quiet():
            bpy.ops.render.render(write_still=True, scene=scene.name)
        if not path.is_file():
            raise RuntimeError("Blender rendered and wrote no file")
        channels = exr.read_exr(path)
    out: Passes = {}
    for name in wanted:
        letters = _LETTERS[CHANNELS[name]]
        # A pass of one value is called V or X, by version.
        rows = [_channel(channels, f"{layer}.{name}", letter) for letter in letters]
        out[name] = np.stack(rows, axis=-1)
    return out


def _channel(channels: dict[str, np.ndarray], prefix: str, letter: str) -> np.ndarray:
    for key in (f"{prefix}.{letter}", *(f"{prefix}.{other}" for other in "VXZ")):
        if key in channels:
            return channels[key]
    raise RuntimeError(f"the EXR file has no {prefix}.{letter}, only {', '.join(sorted(channels))}")


@contextlib.contextmanager
def _file_output(scene: Any, path: Path) -> Iterator[None]:
    image, old = scene.render.image_settings, scene.render.filepath
    if hasattr(image, "media_type"):  # Blender 5
        image.media_type = "MULTI_LAYER_IMAGE"
    image.file_format = "OPEN_EXR_MULTILAYER"
    image.color_depth, image.exr_codec = "32", "NONE"
    if hasattr(image, "use_exr_interleave"):  # Blender 5: all passes in one part
        image.use_exr_interleave = True
    scene.render.filepath = str(path)
    try:
        yield
    finally:
        scene.render.filepath = old


def use(route: str) -> None:
    """What ``auto`` means from now on: ``memory`` or ``exr``."""
    _Hook.tested = route
