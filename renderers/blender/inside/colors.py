"""Scene-linear colours to 8 bit sRGB."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import bpy
import numpy as np

STEPS = 65535


@cache
def _table() -> np.ndarray:
    """uint8 sRGB for linear 0..1 in 65535 steps (IEC 61966-2-1)."""
    linear = np.arange(STEPS + 1) / STEPS
    curve = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (255.0 * curve + 0.5).astype(np.uint8)


def encode(linear: np.ndarray) -> np.ndarray:
    """uint8 sRGB of linear colours of any shape; NaN becomes 0."""
    steps = np.clip(np.nan_to_num(linear), 0.0, 1.0) * STEPS + 0.5
    return _table()[steps.astype(np.int32)]


def encode_rgba(combined: np.ndarray) -> np.ndarray:
    """uint8 sRGB with straight alpha ``[H, W, 4]`` of premultiplied linear colours."""
    out = np.zeros(combined.shape, np.uint8)
    alpha = np.clip(np.nan_to_num(combined[..., 3]), 0.0, 1.0)
    out[..., 3] = (255.0 * alpha + 0.5).astype(np.uint8)
    shown = out[..., 3] > 0
    out[shown, :3] = encode(combined[shown, :3] / combined[shown, 3:])
    return out


def managed_rgba(combined: np.ndarray, scene: Any, path: Path) -> np.ndarray:
    """As :func:`encode_rgba`, by the view transform of ``scene``; ``path``: a file to use.

    Blender gives its colour management to no Python call but the one that writes a picture.
    """
    height, width = combined.shape[:2]
    image = bpy.data.images.new("g3d view", width, height, alpha=True, float_buffer=True)
    try:
        image.alpha_mode = "PREMUL"
        image.pixels.foreach_set(np.ascontiguousarray(combined[::-1], np.float32).ravel())
        settings = scene.render.image_settings
        if hasattr(settings, "media_type"):  # Blender 5
            settings.media_type = "IMAGE"
        settings.file_format, settings.color_mode = "PNG", "RGBA"
        settings.color_depth, settings.compression = "8", 0
        settings.color_management = "FOLLOW_SCENE"
        image.save_render(str(path), scene=scene)
    finally:
        bpy.data.images.remove(image)
    return read_png(path)


def read_png(path: Path) -> np.ndarray:
    """The pixels of an 8 bit picture, uint8 ``[H, W, 4]``, row 0 = top, as they are in the file."""
    image = bpy.data.images.load(str(path), check_existing=False)
    try:
        width, height = image.size
        pixels = np.zeros(width * height * 4, np.float32)
        image.pixels.foreach_get(pixels)
    finally:
        bpy.data.images.remove(image)
    return (255.0 * pixels.reshape(height, width, 4)[::-1] + 0.5).astype(np.uint8)
