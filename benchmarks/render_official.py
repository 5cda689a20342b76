"""The approach of GET3D's data script, for benchmarks/render.py; runs in Blender's interpreter.

    python render_official.py ASSET CAMERAS.npz OUT-FOLDER [JSON OPTIONS]

One process an asset: Blender's start-up scene without its cube (the point light stays), the asset,
one large square light, Cycles with 32 samples and OpenImageDenoise, and one PNG a view. Written
from a description of that script. Options: ``samples``, ``denoise``, and ``encodings``: more view
transforms in which every view is written, for comparisons.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import bpy
import numpy as np
from mathutils import Matrix

Z_UP = np.array([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], np.float64)


def build(asset: str) -> Any:
    """The scene: the asset under the start-up point light and one panel."""
    bpy.ops.wm.read_factory_settings()
    bpy.data.objects.remove(bpy.data.objects["Cube"])
    bpy.ops.import_scene.gltf(filepath=asset)
    bpy.ops.object.light_add(type="AREA", location=(0, 0, 0.5))
    bpy.context.object.data.energy = 30000
    bpy.context.object.scale = (100, 100, 100)
    return bpy.context.scene


def configure(scene: Any, size: int, samples: int, denoise: bool) -> None:
    """What that script sets; the rest is Blender's default, and Filmic, which was it."""
    scene.render.engine = "CYCLES"
    scene.cycles.device = "CPU"
    scene.cycles.samples = samples
    scene.cycles.use_denoising = denoise
    scene.cycles.diffuse_bounces = scene.cycles.glossy_bounces = 1
    scene.cycles.transparent_max_bounces = scene.cycles.transmission_bounces = 3
    scene.cycles.filter_width = 0.01
    scene.render.film_transparent = True
    scene.render.resolution_x = scene.render.resolution_y = size
    scene.render.image_settings.file_format = "PNG"
    scene.render.image_settings.color_mode = "RGBA"
    scene.view_settings.view_transform = "Filmic"
    camera = scene.camera.data
    camera.lens, camera.sensor_width = 35, 32


def main(asset: str, cameras: str, out: str, options: str = "{}") -> None:
    """Render every camera of the file to ``NNN.png``."""
    given = {"samples": 32, "denoise": True, "encodings": [], **json.loads(options)}
    with np.load(cameras) as file:
        c2w, size = file["c2w"], int(file["size"])
    scene = build(asset)
    configure(scene, size, given["samples"], given["denoise"])
    for n, matrix in enumerate(c2w):
        scene.camera.matrix_world = Matrix((Z_UP @ matrix).tolist())
        scene.render.filepath = str(Path(out) / f"{n:03d}.png")
        bpy.ops.render.render(write_still=True)
        for name in given["encodings"]:
            scene.view_settings.view_transform = name
            path = Path(out) / f"{n:03d}.{name}.png"
            bpy.data.images["Render Result"].save_render(str(path), scene=scene)
            scene.view_settings.view_transform = "Filmic"


if __name__ == "__main__":
    main(*sys.argv[1:])
