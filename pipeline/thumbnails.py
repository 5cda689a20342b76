"""Small pictures of assets that were rejected, so that a person sees what the gates turned away."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..renderers.base import Renderer, RenderSettings, Scene
from ..renderers.cameras import orbit
from ..renderers.meshes import Mesh, bounding_radius, normalise

LONGEST = 128
"""Pixels of a thumbnail's longest side."""
AZIMUTH, ELEVATION, LENS = np.deg2rad(35.0), np.deg2rad(20.0), np.deg2rad(35.0)
"""Where a quick view is taken from."""
MOST_TRIANGLES = 2_000_000
"""Of more only some are drawn: what is too large to be accepted is not worth its memory."""


def thumbnail(
    rendered: Sequence[np.ndarray], scene: Scene, renderer: Renderer, settings: RenderSettings
) -> bytes:
    """A picture of an asset: of the views that there are the one that shows it best, or a new one.

    Args:
        rendered: Views so far, uint8 ``[n, H, W, 4]`` each.
        scene: The asset.
        renderer: That opened it, and still has it open.
        settings: Look of a new view.

    Returns:
        PNG with straight alpha, at most :data:`LONGEST` pixels a side; nothing of a mesh that
        cannot be drawn.

    Raises:
        AssetError: It cannot be rendered.
    """
    best = clearest(np.concatenate(rendered)) if rendered else None
    if best is None:
        best = _quick_view(scene, renderer, settings)
    return b"" if best is None else shrunk_png(best)


def clearest(rgba: np.ndarray) -> np.ndarray | None:
    """The view ``[H, W, 4]`` of ``[N, H, W, 4]`` that is nearest to half full; None: all empty."""
    covered = rgba[..., 3].sum(axis=(1, 2), dtype=np.uint64) / (255.0 * rgba[0, ..., 3].size)
    merit = covered * (1.0 - covered)
    best = int(merit.argmax())
    return rgba[best] if covered[best] > 0 else None


def shrunk_png(rgba: np.ndarray) -> bytes:
    """PNG of uint8 ``[H, W, 4]``, made smaller if a side is above :data:`LONGEST`."""
    from PIL import Image

    image = Image.fromarray(rgba, "RGBA")
    if max(image.size) > LONGEST:
        scale = LONGEST / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        # Pillow weighs colours by alpha when it resizes, so edges do not darken.
        image = image.resize((width, height), Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def _quick_view(scene: Scene, renderer: Renderer, settings: RenderSettings) -> np.ndarray | None:
    """One view ``[H, W, 4]`` that holds all of the asset; None of a mesh that cannot be placed."""
    mesh = scene.mesh
    if not len(mesh.faces) or not np.isfinite(mesh.vertices).all():
        return None
    if len(mesh.faces) > MOST_TRIANGLES:
        mesh = _thinned(mesh)
        scene = renderer.open(mesh)
    placed, transform = normalise(mesh, 1.0)
    distance = 1.02 * bounding_radius(placed) / np.sin(LENS / 2)
    settings = settings.model_copy(update={"size": LONGEST, "width": None})
    rgba = scene.render(
        orbit(np.array([AZIMUTH]), ELEVATION, distance, LENS), settings, transform
    ).rgba
    return clearest(rgba)


def _thinned(mesh: Mesh) -> Mesh:
    """``mesh`` with every n-th of its triangles."""
    keep = np.arange(0, len(mesh.faces), -(-len(mesh.faces) // MOST_TRIANGLES))
    used, index = np.unique(mesh.faces[keep], return_inverse=True)

    def chosen(value: np.ndarray | None) -> np.ndarray | None:
        return None if value is None else value[used]

    return replace(
        mesh,
        vertices=mesh.vertices[used],
        faces=index.reshape(-1, 3),
        uvs=chosen(mesh.uvs),
        colors=chosen(mesh.colors),
        normals=chosen(mesh.normals),
        face_materials=None if mesh.face_materials is None else mesh.face_materials[keep],
    )
