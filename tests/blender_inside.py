"""What tests/test_blender_render.py runs inside Blender: checks that need its scene.

    python blender_inside.py FOLDER-OF-inside OUT.npz

Every check is a function that gives arrays by name; all go into one file.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import bpy
import numpy as np

sys.path.insert(0, sys.argv[1])
from inside import colors, framing, looks, materials, passes, scene, selftest

Arrays = dict[str, np.ndarray]
FOV = 0.8


def look_at(eye: tuple[float, float, float]) -> np.ndarray:
    """Camera to world, towards the origin, +Y up."""
    back = np.asarray(eye) / np.linalg.norm(eye)
    right = np.cross([0, 1, 0], back)
    right /= np.linalg.norm(right)
    out = np.eye(4)
    out[:3, 0], out[:3, 1], out[:3, 2], out[:3, 3] = right, np.cross(back, right), back, eye
    return out


def request(look: looks.Look, height: int = 32, width: int = 32, route: str = "memory",
            eye: tuple[float, float, float] = (1.2, 0.8, 1.5)) -> scene.Request:  # fmt: skip
    c2w = look_at(eye)[None]
    return scene.Request(c2w, np.full(1, FOV), height, width, np.eye(4), look, route)


def asset() -> None:
    """A monkey's head with a colourful checker and a half transparent plate behind it."""
    scene.reset()
    bpy.ops.mesh.primitive_monkey_add(size=1.0)
    material = bpy.data.materials.new("checker")
    material.use_nodes = True
    tree = material.node_tree
    node = tree.nodes.new("ShaderNodeTexChecker")
    node.inputs["Color1"].default_value = (0.9, 0.1, 0.05, 1)
    node.inputs["Color2"].default_value = (0.05, 0.2, 0.8, 1)
    tree.links.new(node.outputs["Color"], tree.nodes["Principled BSDF"].inputs["Base Color"])
    bpy.context.object.data.materials.append(material)
    bpy.ops.mesh.primitive_plane_add(size=1.6, location=(0, 0.6, 0), rotation=(1.5, 0, 0))
    glass = bpy.data.materials.new("glass")
    glass.use_nodes = True
    glass.node_tree.nodes["Principled BSDF"].inputs["Alpha"].default_value = 0.4
    bpy.context.object.data.materials.append(glass)


def as_arrays(images: scene.Images, name: str) -> Arrays:
    return {f"{name}.{key}": value for key, value in vars(images).items()}


def small(name: str) -> looks.Look:
    return replace(looks.LOOKS[name], samples=4)


def check_cameras() -> Arrays:
    """The Position pass of three shapes of image, in the +Y-up world."""
    out: Arrays = {}
    passes.CHANNELS["Position"] = "RGB"
    asset()
    look = replace(looks.LOOKS["flat"], samples=1, filter_width=0.01)
    for name, height, width in (("square", 64, 64), ("portrait", 80, 48), ("landscape", 48, 96)):
        one = request(look, height, width)
        scene.render(one)
        framing.crop(bpy.context.scene, None, one.c2w[0], FOV)
        bpy.context.view_layer.use_pass_position = True
        found = passes.render(bpy.context.scene, ("Position", materials.HIT), "memory")
        bpy.context.view_layer.use_pass_position = False
        out[f"{name}.position"] = found["Position"] @ scene.Z_UP[:3, :3]
        out[f"{name}.hit"] = found[materials.HIT][..., 0]
        out[f"{name}.c2w"] = one.c2w[0]
    return out


def check_same() -> Arrays:
    """The same view by each look: again, by the other route, without persistent data, ..."""
    out: Arrays = {}
    for name in looks.LOOKS:
        look = small(name)
        asset()
        out |= as_arrays(scene.render(request(look)), f"{name}.first")
        out |= as_arrays(scene.render(request(look)), f"{name}.again")
        out |= as_arrays(scene.render(request(look, route="exr")), f"{name}.exr")
        for other in looks.LOOKS:
            scene.render(request(small(other), eye=(-1.0, 0.3, 1.0)))
        out |= as_arrays(scene.render(request(look)), f"{name}.after others")
        asset()
        out |= as_arrays(scene.render(request(replace(look, threads=2))), f"{name}.threads")
        asset()
        spoil()
        out |= as_arrays(scene.render(request(look)), f"{name}.spoiled")
        asset()
        out |= as_arrays(not_persistent(request(look)), f"{name}.not persistent")
        asset()
        out |= as_arrays(not_cropped(request(look)), f"{name}.not cropped")
    return out


def not_persistent(one: scene.Request) -> scene.Images:
    """Render with persistent data off."""
    settings = scene._render_settings
    scene._render_settings = lambda *a: {**settings(*a), "render.use_persistent_data": False}
    try:
        return scene.render(one)
    finally:
        scene._render_settings = settings


def not_cropped(one: scene.Request) -> scene.Images:
    """Render the whole image, not only where the asset is."""
    find = framing.bounding_box
    framing.bounding_box = lambda: None
    try:
        return scene.render(one)
    finally:
        framing.bounding_box = find


def check_crop() -> Arrays:
    """Views of a small asset from all sides, cropped and not: also half outside, and inside it."""
    out: Arrays = {}
    asset()
    for n, eye in enumerate([(4, 1, 2), (-3, 2, 5), (0.5, 0.1, -6), (0.3, 0.2, 0.4), (0, -3, 2)]):
        one = request(small("flat"), 40, 56, eye=eye)
        one.c2w[0, :3, 3] += 0.7 * one.c2w[0, :3, 0]
        out |= as_arrays(scene.render(one), f"cropped {n}")
        out[f"border {n}"] = np.array(bpy.context.scene.render.use_border)
        bpy.data.objects[scene.ROOT]["g3d box"] = ""
        out |= as_arrays(not_cropped(one), f"whole {n}")
        bpy.data.objects[scene.ROOT]["g3d box"] = ""
    return out


def spoil() -> None:
    """Set all that an imported file or a user's start-up file might have set."""
    s = bpy.context.scene
    s.render.engine = "CYCLES"
    s.render.resolution_percentage, s.render.pixel_aspect_x = 50, 2.0
    s.render.use_border, s.render.border_max_x = True, 0.5
    s.render.film_transparent, s.render.dither_intensity = False, 2.0
    s.render.use_motion_blur = s.render.use_simplify = s.render.use_multiview = True
    s.render.simplify_subdivision_render = 0
    s.cycles.samples, s.cycles.seed, s.cycles.use_animated_seed = 1, 5, True
    s.cycles.use_adaptive_sampling, s.cycles.adaptive_threshold = True, 0.5
    s.cycles.pixel_filter_type, s.cycles.filter_width = "GAUSSIAN", 4.0
    s.cycles.film_exposure, s.cycles.max_bounces, s.cycles.sample_clamp_direct = 2.0, 0, 0.1
    s.cycles.use_fast_gi, s.cycles.blur_glossy, s.cycles.sampling_pattern = True, 5.0, "BLUE_NOISE"
    s.view_settings.exposure, s.view_settings.gamma = 1.0, 2.0
    s.view_settings.view_transform = "AgX"
    s.use_nodes = True
    s.node_tree.nodes.clear()
    s.world = bpy.data.worlds.new("bright")
    s.view_layers[0].samples = 1
    s.view_layers[0].material_override = bpy.data.materials.new("override")
    s.collection.objects.link(bpy.data.objects.new("sun", bpy.data.lights.new("sun", "SUN")))
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    s.collection.objects.link(camera)
    s.camera = camera


def check_png() -> Arrays:
    """What Blender itself writes as PNG, and what we encode, by look."""
    out: Arrays = {}
    for name in looks.LOOKS:
        asset()
        out[f"{name}.ours"] = scene.render(request(small(name), 64, 64)).rgba[0]
        path = Path(sys.argv[2]).with_name(f"{name}.png")
        s = bpy.context.scene
        s.render.image_settings.file_format, s.render.image_settings.color_mode = "PNG", "RGBA"
        s.render.filepath = str(path)
        for dither in (0.0, 1.0):
            s.render.dither_intensity = dither
            with passes.quiet():
                bpy.ops.render.render(write_still=True)
            out[f"{name}.dither {dither:.0f}"] = colors.read_png(path)
    return out


def check_transform() -> Arrays:
    """A transform of the asset against the inverse one of the camera; then no transform again."""
    asset()
    look = small("flat")
    plain = request(look)
    move = np.array([[0, -1, 0, 0.1], [1, 0, 0, 0.2], [0, 0, 1, -0.3], [0, 0, 0, 1]], np.float64)
    moved = replace(plain, transform=move, c2w=move @ plain.c2w)
    return {
        **as_arrays(scene.render(plain), "plain"),
        **as_arrays(scene.render(moved), "moved"),
        **as_arrays(scene.render(plain), "back"),
    }


def new_material(name: str) -> tuple[Any, Any]:
    """A material and its Principled node."""
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    return material, material.node_tree.nodes["Principled BSDF"]


COLOR, HALF = (0.6, 0.3, 0.1, 1.0), (0.5, 0.5, 0.5, 1.0)


def picture(tree: Any, alpha: float = 1.0) -> Any:
    """An image node of sRGB (200, 100, 50)."""
    image = bpy.data.images.new("picture", 4, 4, alpha=True)
    image.pixels.foreach_set(
        np.tile([200 / 255, 100 / 255, 50 / 255, alpha], 16).astype(np.float32)
    )
    node = tree.nodes.new("ShaderNodeTexImage")
    node.image = image
    return node


def shade(material: Any, kind: str) -> Any:
    """Replace the Principled node by one of another kind, which is given back."""
    tree = material.node_tree
    node = tree.nodes.new(kind)
    tree.nodes.remove(tree.nodes["Principled BSDF"])
    if node.outputs:  # a group has none yet
        tree.links.new(node.outputs[0], tree.nodes["Material Output"].inputs["Surface"])
    return node


def factor() -> Any:
    material, shader = new_material("factor")
    shader.inputs["Base Color"].default_value = COLOR
    return material


def metal() -> Any:
    material, shader = new_material("metal")
    shader.inputs["Base Color"].default_value = COLOR
    shader.inputs["Metallic"].default_value = 1.0
    return material


def image() -> Any:
    material, shader = new_material("image")
    tree = material.node_tree
    tree.links.new(picture(tree).outputs["Color"], shader.inputs["Base Color"])
    return material


def image_times_factor() -> Any:
    material, shader = new_material("image x factor")
    tree = material.node_tree
    mix = tree.nodes.new("ShaderNodeMix")
    mix.data_type, mix.blend_type = "RGBA", "MULTIPLY"
    mix.inputs["Factor"].default_value = 1.0
    mix.inputs[7].default_value = HALF
    tree.links.new(picture(tree).outputs["Color"], mix.inputs[6])
    tree.links.new(mix.outputs[2], shader.inputs["Base Color"])
    return material


def holes() -> Any:
    """An alpha mask that cuts everything away: the black plate behind shows."""
    material, shader = new_material("holes")
    tree = material.node_tree
    node = picture(tree, alpha=0.2)
    below = tree.nodes.new("ShaderNodeMath")
    below.operation = "GREATER_THAN"
    tree.links.new(node.outputs["Alpha"], below.inputs[0])
    tree.links.new(node.outputs["Color"], shader.inputs["Base Color"])
    tree.links.new(below.outputs[0], shader.inputs["Alpha"])
    return material


def blend() -> Any:
    """Glass of opacity 0.2: drawn as if it were opaque, as the rasteriser does."""
    material, shader = new_material("blend")
    tree = material.node_tree
    node = picture(tree, alpha=0.2)
    tree.links.new(node.outputs["Color"], shader.inputs["Base Color"])
    tree.links.new(node.outputs["Alpha"], shader.inputs["Alpha"])
    return material


def invisible() -> Any:
    material, shader = new_material("invisible")
    shader.inputs["Alpha"].default_value = 0.05
    return material


def emission() -> Any:
    material, _ = new_material("emission")
    shade(material, "ShaderNodeEmission").inputs["Color"].default_value = COLOR
    return material


def glowing() -> Any:
    """Principled, black, with an emission colour."""
    material, shader = new_material("glowing")
    shader.inputs["Base Color"].default_value = (0, 0, 0, 1)
    shader.inputs["Emission Color"].default_value = COLOR
    shader.inputs["Emission Strength"].default_value = 1.0
    return material


def unlit() -> Any:
    """As the glTF importer makes KHR_materials_unlit."""
    material, _ = new_material("unlit")
    mix = shade(material, "ShaderNodeMixShader")
    tree = material.node_tree
    glow = tree.nodes.new("ShaderNodeEmission")
    glow.inputs["Color"].default_value = COLOR
    path = tree.nodes.new("ShaderNodeLightPath")
    tree.links.new(path.outputs["Is Camera Ray"], mix.inputs[0])
    tree.links.new(tree.nodes.new("ShaderNodeBsdfTransparent").outputs[0], mix.inputs[1])
    tree.links.new(glow.outputs[0], mix.inputs[2])
    return material


def mixture() -> Any:
    """Two thirds of one diffuse colour and one of a glossy one."""
    material, _ = new_material("mixture")
    mix = shade(material, "ShaderNodeMixShader")
    tree = material.node_tree
    for kind, color, socket in (
        ("ShaderNodeBsdfDiffuse", (0.6, 0.3, 0.0, 1), 1),
        ("ShaderNodeBsdfGlossy", (0.0, 0.3, 0.9, 1), 2),
    ):
        node = tree.nodes.new(kind)
        node.inputs["Color"].default_value = color
        tree.links.new(node.outputs[0], mix.inputs[socket])
    mix.inputs[0].default_value = 1 / 3
    return material


def sum_with_glow() -> Any:
    material, _ = new_material("sum")
    add = shade(material, "ShaderNodeAddShader")
    tree = material.node_tree
    tree.links.new(tree.nodes.new("ShaderNodeEmission").outputs[0], add.inputs[0])
    node = tree.nodes.new("ShaderNodeBsdfDiffuse")
    node.inputs["Color"].default_value = COLOR
    tree.links.new(node.outputs[0], add.inputs[1])
    return material


def group() -> Any:
    """A shader inside a group, its colour an input of the group."""
    tree = bpy.data.node_groups.new("paint", "ShaderNodeTree")
    tree.interface.new_socket("Paint", in_out="INPUT", socket_type="NodeSocketColor")
    tree.interface.new_socket("Shader", in_out="OUTPUT", socket_type="NodeSocketShader")
    start, end = tree.nodes.new("NodeGroupInput"), tree.nodes.new("NodeGroupOutput")
    inner = tree.nodes.new("ShaderNodeBsdfDiffuse")
    tree.links.new(start.outputs["Paint"], inner.inputs["Color"])
    tree.links.new(inner.outputs[0], end.inputs["Shader"])
    material, _ = new_material("group")
    node = shade(material, "ShaderNodeGroup")
    node.node_tree = tree
    node.inputs["Paint"].default_value = COLOR
    output = material.node_tree.nodes["Material Output"]
    material.node_tree.links.new(node.outputs[0], output.inputs["Surface"])
    return material


def no_nodes() -> Any:
    material = bpy.data.materials.new("no nodes")
    material.use_nodes = False
    material.diffuse_color = COLOR
    return material


def no_output() -> Any:
    material, _ = new_material("no output")
    material.diffuse_color = COLOR
    material.node_tree.nodes.clear()
    return material


def nothing_linked() -> Any:
    material, _ = new_material("nothing linked")
    material.diffuse_color = COLOR
    material.node_tree.links.clear()
    return material


def none() -> Any:
    return None


def vertex_colors() -> Any:
    return None


def vertex_colors_times_factor() -> Any:
    return factor()


def vertex_colors_used() -> Any:
    """The material reads them itself: they must not count twice."""
    material, shader = new_material("used")
    node = material.node_tree.nodes.new("ShaderNodeVertexColor")
    node.layer_name = "Col"
    material.node_tree.links.new(node.outputs[0], shader.inputs["Base Color"])
    return material


KINDS: tuple[Callable[[], Any], ...] = (
    factor, metal, image, image_times_factor, holes, blend, invisible, emission, glowing, unlit,
    mixture, sum_with_glow, group, no_nodes, no_output, nothing_linked, none, vertex_colors,
    vertex_colors_times_factor, vertex_colors_used,
)  # fmt: skip
COLUMNS = 5


def check_kinds() -> Arrays:
    """One square of each kind of material: flat colour, albedo of a lit view, alpha, depth."""
    scene.reset()
    for n, kind in enumerate(KINDS):
        row, column = divmod(n, COLUMNS)
        bpy.ops.mesh.primitive_plane_add(
            size=0.8, location=(column - 2, 0, 1.5 - row), rotation=(np.pi / 2, 0, 0)
        )
        square = bpy.context.object
        if kind.__name__.startswith("vertex_colors"):
            square.data.color_attributes.new("Col", "FLOAT_COLOR", "POINT").data.foreach_set(
                "color", np.tile(HALF, 4).astype(np.float32)
            )
        material = kind()
        if material is not None:
            square.data.materials.append(material)
    bpy.ops.mesh.primitive_plane_add(size=8, location=(0, 0.5, 0), rotation=(np.pi / 2, 0, 0))
    behind, shader = new_material("behind")
    shader.inputs["Base Color"].default_value = (0.0, 0.0, 0.0, 1.0)
    bpy.context.object.data.materials.append(behind)
    out: Arrays = {}
    size, eye = 100, (0.0, 0.0, 6.0)
    for name in ("flat", "lit"):
        out |= as_arrays(scene.render(request(small(name), size, size, eye=eye)), name)
    focal = 0.5 * size / np.tan(FOV / 2) / eye[2]
    at = [divmod(n, COLUMNS) for n in range(len(KINDS))]
    out["at"] = np.array(
        [(size / 2 - (1.5 - r) * focal, size / 2 + (c - 2) * focal) for r, c in at]
    )
    out["names"] = np.array([kind.__name__ for kind in KINDS])
    return out


def check_fallback() -> Arrays:
    """With a hook that gives other pixels, and with one that fails: EXR takes over."""
    copy = passes._copy
    found = []
    passes._copy = lambda *a: {name: 2 * array for name, array in copy(*a).items()}
    found.append(selftest.self_test())
    passes._copy = lambda *a: 1 / 0
    found.append(selftest.self_test())
    asset()
    out = as_arrays(scene.render(request(small("flat"), route="auto")), "auto")
    passes._copy = copy
    return {**out, "self_test": np.array([*found, selftest.self_test()])}


def check_leaks() -> Arrays:
    """Data blocks after 5 assets and after 10."""
    counts = []
    for _ in range(10):
        asset()
        scene.render(request(small("flat")))
        names = ("meshes", "materials", "images", "objects", "worlds", "node_groups", "cameras")
        counts.append([len(getattr(bpy.data, name)) for name in names])
    return {"counts": np.array(counts)}


def main() -> None:
    out: Arrays = {"self_test": np.array(selftest.self_test())}
    checks = {
        "cameras": check_cameras, "same": check_same, "png": check_png,
        "transform": check_transform, "kinds": check_kinds, "leaks": check_leaks,
        "fallback": check_fallback, "crop": check_crop,
    }  # fmt: skip
    for name, check in checks.items():
        out |= {f"{name}.{key}": value for key, value in check().items()}
    np.savez(sys.argv[2], **out)


main()
