"""Model files into Blender, and the gates: that an importer finished says very little.

Every check that fails raises :class:`Refused` with a reason of ``docs/dataset.md``; the table of
them is in ``docs/blender_import.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bpy

from .filechecks import CHECKS
from .refused import Refused

KEPT = {"MESH", "EMPTY", "ARMATURE", "LATTICE"}
"""Types of objects that make up an asset; cameras, lights, curves and volumes are taken out."""


def import_file(path: Path) -> None:
    """Import a file into the empty scene, and leave there only what is to be rendered.

    Animations are left out; of USD, which may hold nothing else, the first frame counts.

    Raises:
        Refused: ``import``, ``empty_mesh`` or ``missing_texture``.
    """
    suffix = path.suffix.lower()
    compare = CHECKS[suffix](path) if suffix in CHECKS else None
    _run(_OPERATORS[suffix], path)
    if suffix in (".glb", ".gltf"):
        _drop_other_scenes()
    _tidy()
    meshes = [item for item in bpy.data.objects if item.type == "MESH"]
    if not any(len(item.data.polygons) for item in meshes):
        what = "no object" if not meshes else f"{len(meshes)} objects without a face"
        raise Refused("empty_mesh", f"Blender imported {what}")
    if compare is not None:
        compare(sum(len(data.polygons) for data in {item.data for item in meshes}))
    _check_images(meshes)


def _gltf(path: str) -> set[str]:
    from io_scene_gltf2.blender.imp.scene import BlenderScene

    # An animation would move nodes away from where the file places them; there is no option.
    BlenderScene.create_animations = staticmethod(lambda gltf: None)
    return bpy.ops.import_scene.gltf(
        filepath=path, import_shading="NORMALS", merge_vertices=False, disable_bone_shape=True,
        guess_original_bind_pose=False, import_webp_texture=True, import_unused_materials=False,
        import_select_created_objects=False, import_scene_extras=False, import_pack_images=True,
    )  # fmt: skip


def _obj(path: str) -> set[str]:
    return bpy.ops.wm.obj_import(
        filepath=path, forward_axis="NEGATIVE_Z", up_axis="Y", global_scale=1.0, clamp_size=0.0,
        use_split_objects=False, use_split_groups=False, import_vertex_groups=False,
        validate_meshes=True,
    )  # fmt: skip


def _fbx(path: str) -> set[str]:
    # Not the importer in Python (import_scene.fbx), which broken files lead to gigabytes.
    return bpy.ops.wm.fbx_import(
        filepath=path, global_scale=1.0, import_colors="SRGB", use_custom_normals=True,
        use_custom_props=False, import_subdivision=False, use_anim=False, validate_meshes=True,
    )  # fmt: skip


def _ply(path: str) -> set[str]:
    return bpy.ops.wm.ply_import(
        filepath=path, forward_axis="NEGATIVE_Z", up_axis="Y", global_scale=1.0,
        use_scene_unit=False, merge_verts=False, import_colors="SRGB", import_attributes=False,
    )  # fmt: skip


def _stl(path: str) -> set[str]:
    return bpy.ops.wm.stl_import(
        filepath=path, forward_axis="NEGATIVE_Z", up_axis="Y", global_scale=1.0,
        use_scene_unit=False, use_facet_normal=False, use_mesh_validate=True,
    )  # fmt: skip


def _usd(path: str) -> set[str]:
    return bpy.ops.wm.usd_import(
        filepath=path, import_cameras=False, import_curves=False, import_lights=False,
        import_volumes=False, import_points=False, import_subdiv=False, import_visible_only=True,
        import_guide=False, import_proxy=False, import_render=True, set_frame_range=False,
        import_textures_mode="IMPORT_PACK", mtl_purpose="MTL_FULL", create_world_material=False,
        validate_meshes=True, apply_unit_conversion_scale=False,
    )  # fmt: skip


def _dae(path: str) -> set[str]:
    return bpy.ops.wm.collada_import(filepath=path, import_units=False, custom_normals=True)


_OPERATORS: dict[str, Callable[[str], set[str]]] = {
    ".glb": _gltf,
    ".gltf": _gltf,
    ".obj": _obj,
    ".fbx": _fbx,
    ".ply": _ply,
    ".stl": _stl,
    ".usd": _usd,
    ".usda": _usd,
    ".usdc": _usd,
    ".usdz": _usd,
    ".dae": _dae,
}


def _run(operator: Callable[[str], set[str]], path: Path) -> None:
    try:
        result = operator(str(path))
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = lines[-1].removeprefix("Error: ")[-300:] if lines else "the importer failed"
        raise Refused("import", said) from error
    if result != {"FINISHED"}:
        raise Refused("import", f"the importer ended with {', '.join(sorted(result))}")


def _drop_other_scenes() -> None:
    """glTF: the importer puts every scene into a collection and leaves out all but the default."""
    seen = set(bpy.context.view_layer.objects)
    for item in list(bpy.data.objects):
        if item not in seen:
            bpy.data.objects.remove(item, do_unlink=True)


def _tidy() -> None:
    """Stop animations; take out cameras, lights and what is hidden. Children keep their place."""
    owners = (bpy.data.objects, bpy.data.meshes, bpy.data.materials, bpy.data.armatures,
              bpy.data.shape_keys, bpy.data.node_groups)  # fmt: skip
    for owner in owners:
        for block in owner:
            block.animation_data_clear()
    bpy.context.scene.frame_set(1)
    bpy.context.view_layer.update()
    instanced = {
        inner.name
        for item in bpy.data.objects
        if item.instance_collection is not None
        for inner in item.instance_collection.all_objects
    }
    hidden = {
        inner.name for group in bpy.data.collections if group.hide_render for inner in group.objects
    } - instanced
    for item in list(bpy.data.objects):
        if item.type in KEPT and not item.hide_render and item.name not in hidden:
            item.hide_viewport = False  # so that extracting sees what rendering sees
            if item.name in bpy.context.view_layer.objects:
                item.hide_set(False)
            continue
        for child in item.children:
            place = child.matrix_world.copy()
            child.parent = None
            child.matrix_world = place
        bpy.data.objects.remove(item, do_unlink=True)
    for group in bpy.data.collections:
        group.hide_viewport = group.hide_render
    bpy.context.view_layer.update()


def _check_images(meshes: list[Any]) -> None:
    """Every image that a material of the asset shows must have pixels: Blender renders it magenta.

    Raises:
        Refused: ``missing_texture``.
    """
    used = {slot.material for item in meshes for slot in item.material_slots if slot.material}
    for material in sorted(used, key=lambda m: m.name):
        for node in _image_nodes(material.node_tree, set()):
            image = node.image
            if image is None:
                raise Refused("missing_texture", f"material {material.name!r} lost a texture")
            # Asking for the size makes Blender read the file.
            if 0 in tuple(image.size) or not image.has_data:
                name = Path(image.filepath.replace("\\", "/")).name or image.name
                raise Refused("missing_texture", f"texture {name!r} is not there or unreadable")


def _image_nodes(tree: Any, seen: set[str]) -> Iterator[Any]:
    """Image nodes that something depends on, in groups too."""
    if tree is None or tree.name in seen:
        return
    seen.add(tree.name)
    for node in tree.nodes:
        if node.bl_idname == "ShaderNodeGroup":
            yield from _image_nodes(node.node_tree, seen)
        elif node.bl_idname == "ShaderNodeTexImage" and any(s.is_linked for s in node.outputs):
            yield node
