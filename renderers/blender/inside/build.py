"""A mesh of g3d into Blender: arrays and materials to data blocks.

g3d is +Y up, Blender +Z up: ``(x, y, z)`` becomes ``(x, -z, y)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import bpy
import numpy as np

OBJECT = "asset"


def build(arrays: Mapping[str, np.ndarray], materials: Sequence[Mapping[str, Any]]) -> Any:
    """Make one object of a mesh in the scene that is open.

    Args:
        arrays: ``vertices`` ``[V, 3]``, ``faces`` ``[F, 3]``, ``material_index`` ``[F]``; where
            the mesh has them ``uvs`` ``[V, 2]``, ``colors`` ``[V, 4]`` (linear), ``normals``
            ``[V, 3]``; ``texture_<n>`` uint8 ``[h, w, 4]`` sRGB, row 0 = top.
        materials: The fields of ``g3d.renderers.meshes.Material``; textures are the n of an
            array, or None.

    Returns:
        The object.
    """
    mesh = _mesh(arrays)
    images = _Images(arrays)
    for values in materials:
        mesh.materials.append(_material(values, images, "colors" in arrays))
    item = bpy.data.objects.new(OBJECT, mesh)
    bpy.context.scene.collection.objects.link(item)
    bpy.context.view_layer.update()
    return item


def z_up(vectors: np.ndarray) -> np.ndarray:
    """``[N, 3]`` from +Y up to +Z up."""
    return np.stack([vectors[:, 0], -vectors[:, 2], vectors[:, 1]], axis=1)


def _mesh(arrays: Mapping[str, np.ndarray]) -> Any:
    faces = arrays["faces"]
    # A corner that is there twice makes a face without area, which confuses Blender.
    whole = (faces != np.roll(faces, 1, axis=1)).all(axis=1)
    faces = faces[whole].astype(np.int32)
    corners = np.ascontiguousarray(faces.reshape(-1))
    mesh = bpy.data.meshes.new(OBJECT)
    mesh.vertices.add(len(arrays["vertices"]))
    mesh.vertices.foreach_set("co", _flat(z_up(arrays["vertices"])))
    mesh.loops.add(len(corners))
    mesh.loops.foreach_set("vertex_index", corners)
    mesh.polygons.add(len(faces))
    mesh.polygons.foreach_set("loop_start", np.arange(0, len(corners), 3, dtype=np.int32))
    index = np.ascontiguousarray(arrays["material_index"][whole], np.int32)
    mesh.polygons.foreach_set("material_index", index)
    mesh.update(calc_edges=True)
    if "uvs" in arrays:
        layer = mesh.uv_layers.new(name="UVMap", do_init=False)
        layer.uv.foreach_set("vector", _flat(arrays["uvs"][corners]))
    if "colors" in arrays:
        colors = mesh.color_attributes.new("Color", "FLOAT_COLOR", "POINT")
        colors.data.foreach_set("color", _flat(arrays["colors"]))
    if "normals" in arrays:
        mesh.shade_smooth()
        normals = mesh.attributes.new("custom_normal", "FLOAT_VECTOR", "POINT")
        normals.data.foreach_set("vector", _flat(z_up(arrays["normals"])))
    else:
        mesh.shade_flat()
    mesh.update()
    return mesh


def _flat(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.float32).reshape(-1)


class _Images:
    """The textures of a mesh, each made once for every colour space that it is read in."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays = arrays
        self._made: dict[tuple[int, str], Any] = {}

    def get(self, number: int | None, space: str = "sRGB") -> Any:
        """The image, or None where there is none or it could not be placed."""
        if number is None or "uvs" not in self._arrays:
            return None
        if (number, space) not in self._made:
            pixels = self._arrays[f"texture_{number}"]
            height, width = pixels.shape[:2]
            image = bpy.data.images.new(f"texture {number}", width, height, alpha=True)
            image.colorspace_settings.name = space
            image.alpha_mode = "CHANNEL_PACKED"  # colours of transparent texels stay as they are
            image.pixels.foreach_set(_flat(pixels[::-1]) / np.float32(255.0))
            image.update()
            self._made[number, space] = image
        return self._made[number, space]


def _material(values: Mapping[str, Any], images: _Images, colored: bool) -> Any:
    """Principled: base colour = factor x texture x vertex colour, and so its alpha."""
    material = bpy.data.materials.new(values["name"] or "material")
    material.use_nodes = True
    tree = material.node_tree
    shader = next(n for n in tree.nodes if n.bl_idname == "ShaderNodeBsdfPrincipled")
    factor = [float(value) for value in values["base_color"]]
    sources = _textured(tree, images.get(values["texture"]))
    if colored:
        node = tree.nodes.new("ShaderNodeVertexColor")
        node.layer_name = "Color"
        sources.append(node.outputs)
    shader.inputs["Base Color"].default_value = [*factor[:3], 1.0]
    color, alpha = None, None
    for source in sources:
        before = [*factor[:3], 1.0] if color is None else color
        color = _multiply_colors(tree, before, source["Color"])
        alpha = _multiply(tree, factor[3] if alpha is None else alpha, source["Alpha"])
    if color is not None:
        tree.links.new(color, shader.inputs["Base Color"])
    _set_alpha(tree, shader.inputs["Alpha"], values, factor[3] if alpha is None else alpha)
    _set_gloss(tree, shader, values, images)
    _set_emission(tree, shader, values, images)
    return material


def _textured(tree: Any, image: Any) -> list[Any]:
    """The outputs of a node that shows ``image``; none without one."""
    if image is None:
        return []
    node = tree.nodes.new("ShaderNodeTexImage")
    node.image = image
    return [node.outputs]


def _set_gloss(tree: Any, shader: Any, values: Mapping[str, Any], images: _Images) -> None:
    """Factors, times green (roughness) and blue (metallic) of their texture."""
    shader.inputs["Metallic"].default_value = values["metallic"]
    shader.inputs["Roughness"].default_value = values["roughness"]
    for source in _textured(tree, images.get(values["metallic_roughness"], "Non-Color")):
        split = tree.nodes.new("ShaderNodeSeparateColor")
        tree.links.new(source["Color"], split.inputs["Color"])
        for name, channel in (("metallic", "Blue"), ("roughness", "Green")):
            product = _multiply(tree, float(values[name]), split.outputs[channel])
            tree.links.new(product, shader.inputs[name.title()])


def _set_emission(tree: Any, shader: Any, values: Mapping[str, Any], images: _Images) -> None:
    factor = [float(value) for value in values["emissive"]]
    if not any(factor):
        return
    shader.inputs["Emission Strength"].default_value = 1.0
    shader.inputs["Emission Color"].default_value = [*factor, 1.0]
    for source in _textured(tree, images.get(values["emissive_texture"])):
        color = _multiply_colors(tree, [*factor, 1.0], source["Color"])
        tree.links.new(color, shader.inputs["Emission Color"])


def _set_alpha(tree: Any, target: Any, values: Mapping[str, Any], alpha: Any) -> None:
    """Opaque, cut at a threshold, or as transparent as it says."""
    mode = values["alpha_mode"]
    if mode == "opaque":
        return
    if mode == "mask":
        if isinstance(alpha, float):
            alpha = float(alpha >= values["alpha_cutoff"])
        else:
            below = _node(tree, "LESS_THAN", alpha, values["alpha_cutoff"])
            alpha = _node(tree, "SUBTRACT", 1.0, below)
    if isinstance(alpha, float):
        target.default_value = alpha
    else:
        tree.links.new(alpha, target)


def _multiply(tree: Any, first: Any, second: Any) -> Any:
    return second if first == 1.0 else _node(tree, "MULTIPLY", first, second)


def _node(tree: Any, operation: str, *operands: Any) -> Any:
    """The output of a new math node."""
    node = tree.nodes.new("ShaderNodeMath")
    node.operation = operation
    for operand, socket in zip(operands, node.inputs, strict=False):
        if isinstance(operand, float):
            socket.default_value = operand
        else:
            tree.links.new(operand, socket)
    return node.outputs[0]


def _multiply_colors(tree: Any, first: Any, second: Any) -> Any:
    if isinstance(first, list) and first == [1.0] * 4:
        return second
    node = tree.nodes.new("ShaderNodeMix")
    node.data_type, node.blend_type = "RGBA", "MULTIPLY"
    node.inputs["Factor"].default_value = 1.0
    for value, socket in ((first, node.inputs[6]), (second, node.inputs[7])):
        if isinstance(value, list):
            socket.default_value = value
        else:
            tree.links.new(value, socket)
    return node.outputs[2]
