"""The scene around an asset: reset, settings, lights, cameras, and views of it.

The conversion between the +Y-up world of g3d and Blender's +Z-up one happens here and nowhere
else: (x, y, z) becomes (x, -z, y), as Blender's importers of glTF and OBJ do.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy
import numpy as np
from mathutils import Matrix

from . import colors, framing, materials, passes
from .looks import Look

Z_UP = np.array([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], np.float64)
"""+Y up to +Z up."""
NEAR, FAR = 0.05, 100.0
SENSOR = 32.0
"""Height of the sensor, millimetres: with a lens of 35 the field of view of GET3D."""
CAMERA, ROOT, POINT, AREA, WORLD = "g3d camera", "g3d root", "g3d point", "g3d area", "g3d world"
OURS = (CAMERA, ROOT, POINT, AREA)


@dataclass(frozen=True)
class Request:
    """Views to render of what was imported.

    Attributes:
        c2w: float64 ``[N, 4, 4]``, OpenGL camera axes, +Y-up world.
        fov_y: float64 ``[N]``, vertical full angle (radians).
        height: Pixels.
        width: Pixels.
        transform: float64 ``[4, 4]``, the asset as imported, +Y up, to the world.
        look: How.
        passes: ``memory``, ``exr`` or ``auto``: see :func:`.passes.render`.
    """

    c2w: np.ndarray
    fov_y: np.ndarray
    height: int
    width: int
    transform: np.ndarray
    look: Look
    passes: str = "auto"


@dataclass(frozen=True)
class Images:
    """Views, row 0 = top.

    Depth, normal and albedo are means over what a pixel shows of the asset.

    Attributes:
        rgba: uint8 ``[N, H, W, 4]``, sRGB, straight alpha = coverage.
        depth: float32 ``[N, H, W]``, planar, along the camera axis; 0 = background.
        normal: float32 ``[N, H, W, 3]``, unit, +Y-up world, turned to the viewer; 0 = background.
        albedo: uint8 ``[N, H, W, 3]``, sRGB, base colour; 0 = background.
    """

    rgba: np.ndarray
    depth: np.ndarray
    normal: np.ndarray
    albedo: np.ndarray


def reset() -> None:
    """Leave an empty Blender: nothing of the last asset, no setting of the user."""
    with passes.quiet():
        bpy.ops.wm.read_factory_settings(use_empty=True)


def render(request: Request) -> Images:
    """Render the asset that is in the scene.

    Raises:
        RuntimeError: Blender failed, or gave no pixels.
    """
    look = request.look
    scene = bpy.context.scene
    prepare(scene, request)
    count, height, width = len(request.c2w), request.height, request.width
    images = Images(
        rgba=np.zeros((count, height, width, 4), np.uint8),
        depth=np.zeros((count, height, width), np.float32),
        normal=np.zeros((count, height, width, 3), np.float32),
        albedo=np.zeros((count, height, width, 3), np.uint8),
    )
    wanted = (passes.COMBINED, *aovs(look))
    # A denoiser looks at pixels around: it gets the whole image.
    box = None if look.denoise else _bounding_box()
    with tempfile.TemporaryDirectory(dir=passes.scratch(), prefix="g3d-") as folder:
        for n in range(count):
            c2w, fov_y = request.c2w[n], float(request.fov_y[n])
            aim(scene.camera, c2w, fov_y)
            window = framing.crop(scene, box, Z_UP @ c2w, fov_y)
            found = passes.render(scene, wanted, request.passes)
            found = {k: framing.paste(v, window, height, width) for k, v in found.items()}
            _resolve(found, look, images, n, Path(folder))
    return images


def _resolve(found: passes.Passes, look: Look, images: Images, n: int, folder: Path) -> None:
    """Turn the passes of a view into its images."""
    combined = found[passes.COMBINED]
    if look.view_transform == "Standard":
        images.rgba[n] = colors.encode_rgba(combined)
    else:
        images.rgba[n] = colors.managed_rgba(combined, bpy.context.scene, folder / "view.png")
    shown = images.rgba[n, ..., 3] > 0
    images.rgba[n][~shown] = 0
    hits = found[materials.HIT][..., 0]
    solid = shown & (hits > 0)
    share = 1.0 / hits[solid]
    images.depth[n][solid] = found[materials.DEPTH][..., 0][solid] * share
    normal = found[materials.NORMAL][solid].astype(np.float64)
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    normal = np.divide(normal, length, out=np.zeros_like(normal), where=length > 0)
    images.normal[n][solid] = normal @ Z_UP[:3, :3]
    if materials.ALBEDO in found:
        images.albedo[n][solid] = colors.encode(found[materials.ALBEDO][solid] * share[:, None])
    else:
        images.albedo[n] = images.rgba[n, ..., :3]


def aovs(look: Look) -> tuple[str, ...]:
    """Names of the passes that the materials write for a look."""
    # What a flat look renders is the base colour: a pass of its own would say it again.
    flat = look.shading == "flat"
    return tuple(name for name in materials.AOVS if not (flat and name == materials.ALBEDO))


def prepare(scene: Any, request: Request) -> None:
    """Write every setting, place the asset, and make its materials fit the look."""
    look = request.look
    materials.prepare()
    materials.choose(flat=look.shading == "flat")
    _place(scene, request.transform)
    _light(scene, look)
    _configure(scene, look)
    scene.render.resolution_x, scene.render.resolution_y = request.width, request.height
    layer = scene.view_layers[0]
    for name in materials.AOVS:
        wanted, there = name in aovs(look), name in layer.aovs
        if wanted and not there:
            aov = layer.aovs.add()
            aov.name, aov.type = name, materials.AOVS[name]
        elif there and not wanted:
            layer.aovs.remove(layer.aovs[name])


def _object(scene: Any, name: str, data: Any) -> Any:
    """The object of that name, made and put into the scene if it is not there."""
    item = bpy.data.objects.get(name)
    if item is None:
        item = bpy.data.objects.new(name, data() if data else None)
        scene.collection.objects.link(item)
    return item


def _place(scene: Any, transform: np.ndarray) -> None:
    """Parent what was imported to one empty object, and give that the transform."""
    root = _object(scene, ROOT, None)
    for item in bpy.data.objects:
        ours = item.name in OURS
        if item.parent is None and not ours:
            item.parent = root
            item.matrix_parent_inverse = Matrix.Identity(4)
        if item.type == "LIGHT" and not ours:
            item.hide_render = True
    world = Matrix((Z_UP @ np.asarray(transform, np.float64) @ Z_UP.T).tolist())
    if root.get("g3d transform") != _flat(world):
        root.matrix_world = world
        root["g3d transform"] = _flat(world)
        root["g3d box"] = ""


def _bounding_box() -> np.ndarray | None:
    """:func:`.framing.bounding_box`, found once for an asset and a transform."""
    root = bpy.data.objects[ROOT]
    if not root["g3d box"]:
        box = framing.bounding_box()
        root["g3d box"] = json.dumps([] if box is None else box.tolist())
    return np.array(json.loads(root["g3d box"])) if len(root["g3d box"]) > 2 else None


def _flat(matrix: Matrix) -> str:
    return repr([list(row) for row in matrix])


def aim(camera: Any, c2w: np.ndarray, fov_y: float) -> None:
    """Put the camera at ``c2w`` (+Y up) with a vertical field of view (radians)."""
    camera.data.sensor_fit = "VERTICAL"
    camera.data.sensor_height = SENSOR
    camera.data.lens = 0.5 * SENSOR / np.tan(0.5 * fov_y)
    camera.matrix_world = Matrix((Z_UP @ np.asarray(c2w, np.float64)).tolist())


def _light(scene: Any, look: Look) -> None:
    """The camera, and the lights of the look."""
    camera = _object(scene, CAMERA, lambda: bpy.data.cameras.new(CAMERA))
    _write(camera, {
        "data.type": "PERSP", "data.clip_start": NEAR, "data.clip_end": FAR,
        "data.shift_x": 0.0, "data.shift_y": 0.0, "data.dof.use_dof": False,
    })  # fmt: skip
    lit = look.shading == "lights"
    always = {"hide_render": not lit, "visible_camera": False, "data.use_shadow": True,
              "data.color": (1.0, 1.0, 1.0), "rotation_euler": (0.0, 0.0, 0.0)}  # fmt: skip
    point = _object(scene, POINT, lambda: bpy.data.lights.new(POINT, "POINT"))
    _write(point, {
        **always, "location": look.point_position,
        "data.energy": look.point_energy, "data.shadow_soft_size": look.point_radius,
    })  # fmt: skip
    area = _object(scene, AREA, lambda: bpy.data.lights.new(AREA, "AREA"))
    _write(area, {
        **always, "location": (0.0, 0.0, look.area_height), "scale": (look.area_size,) * 3,
        "data.energy": look.area_energy, "data.shape": "SQUARE", "data.size": 1.0,
    })  # fmt: skip
    world = bpy.data.worlds.get(WORLD) or bpy.data.worlds.new(WORLD)
    _write(world, {"use_nodes": True, "cycles.sampling_method": "AUTOMATIC"})
    _write(scene, {"camera": camera, "world": world})
    color, strength = world.node_tree.nodes["Background"].inputs[:2]
    grey = look.world if lit else 0.0
    _write(color, {"default_value": (grey, grey, grey, 1.0)})
    _write(strength, {"default_value": 1.0})


def _configure(scene: Any, look: Look) -> None:
    """Write every setting of the scene that changes a pixel or the cost."""
    threads = look.threads or int(os.environ.get("G3D_BLENDER_THREADS") or 1)
    _write(scene, {**_render_settings(look, threads), **_cycles_settings(look)})
    _write(scene, {
        "display_settings.display_device": "sRGB",
        "view_settings.view_transform": look.view_transform,
        "view_settings.look": "None",
    })  # fmt: skip
    _write(scene.view_layers[0], {
        "use": True, "samples": 0, "pass_alpha_threshold": materials.SEE_THROUGH,
        "use_pass_combined": True, "use_pass_z": False, "use_pass_normal": False,
        "material_override": None, "world_override": None,
        "cycles.use_denoising": look.denoise,
    })  # fmt: skip


def _render_settings(look: Look, threads: int) -> dict[str, Any]:
    return {
        "render.engine": "CYCLES",
        "render.resolution_percentage": 100,
        "render.pixel_aspect_x": 1.0,
        "render.pixel_aspect_y": 1.0,
        "render.use_compositing": False,
        "render.use_sequencer": False,
        "render.use_motion_blur": False,
        "render.use_simplify": False,
        "render.use_freestyle": False,
        "render.use_crop_to_border": False,
        "render.use_multiview": False,
        "render.use_stamp": False,
        "render.film_transparent": True,
        "render.dither_intensity": 0.0,
        "render.use_persistent_data": True,
        "render.threads_mode": "FIXED",
        "render.threads": threads,
        "render.use_file_extension": False,
        "render.use_overwrite": True,
        "view_settings.exposure": look.exposure,
        "view_settings.gamma": look.gamma,
        "view_settings.use_curve_mapping": False,
        "use_nodes": False,
    }


def _cycles_settings(look: Look) -> dict[str, Any]:
    flat = look.shading == "flat"
    values = {
        "device": "CPU",
        "feature_set": "SUPPORTED",
        "samples": look.samples,
        "use_sample_subset": False,
        "time_limit": 0.0,
        "seed": look.seed,
        "use_animated_seed": False,
        "use_adaptive_sampling": False,
        "auto_scrambling_distance": False,
        "scrambling_distance": 1.0,
        "use_denoising": look.denoise,
        "denoiser": "OPENIMAGEDENOISE",
        "denoising_quality": look.denoise_quality,
        "denoising_prefilter": look.denoise_prefilter,
        "denoising_input_passes": "RGB_ALBEDO_NORMAL",
        "denoising_use_gpu": False,
        "pixel_filter_type": look.filter_type,
        "filter_width": look.filter_width,
        "max_bounces": 0 if flat else 12,
        "diffuse_bounces": look.diffuse_bounces,
        "glossy_bounces": look.glossy_bounces,
        "transmission_bounces": look.transmission_bounces,
        "volume_bounces": 0,
        "transparent_max_bounces": 64 if flat else look.transparent_bounces,
        "min_light_bounces": 0,
        "min_transparent_bounces": 0,
        "light_sampling_threshold": 0.01,
        "direct_light_sampling_type": "MULTIPLE_IMPORTANCE_SAMPLING",
        "use_light_tree": look.light_tree and not flat,
        "use_guiding": False,
        "use_fast_gi": False,
        "caustics_reflective": look.caustics,
        "caustics_refractive": look.caustics,
        "blur_glossy": 1.0,
        "sample_clamp_direct": 0.0,
        "sample_clamp_indirect": look.clamp_indirect,
        "film_exposure": 1.0,
        "film_transparent_glass": False,
        "use_auto_tile": False,
        "texture_limit_render": "OFF",
        "debug_bvh_type": "STATIC_BVH",
        "debug_use_spatial_splits": False,
        "use_camera_cull": False,
        "use_distance_cull": False,
        "rolling_shutter_type": "NONE",
        "sampling_pattern": look.sampling_pattern,
    }
    return {f"cycles.{name}": value for name, value in values.items()}


def _write(target: Any, values: dict[str, Any]) -> None:
    """Set dotted attributes, only those that differ: a change makes Blender build things anew."""
    for path, value in values.items():
        *owners, name = path.split(".")
        owner = target
        for part in owners:
            owner = getattr(owner, part)
        if not _equal(getattr(owner, name), value):
            setattr(owner, name, value)


def _equal(have: Any, want: Any) -> bool:
    """Whether a property has a value already, in the single precision that Blender keeps."""
    if isinstance(want, tuple):
        return len(have) == len(want) and all(map(_equal, have, want))
    if isinstance(want, float):
        return bool(np.float32(have) == np.float32(want))
    return bool(have == want)
