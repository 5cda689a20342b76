"""Materials: what colour a surface has without light, for any node tree that an importer makes.

:func:`prepare` adds to every material, once, beside what it has:

- a second output, which emits the base colour and lets light through where opacity is below
  ``SEE_THROUGH``: the look `flat`. :func:`choose` switches between the two outputs;
- outputs of arbitrary values (AOVs): base colour, shading normal, planar depth and 1, which are
  summed over the samples whose first solid surface this is. Divided by the sum of ones they are
  means over what the pixel shows of the asset, as the rasteriser's are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import bpy

SEE_THROUGH = 0.1
"""Opacity below which a surface is not there for depth, normal and albedo: the rasteriser's."""
ALBEDO, NORMAL, DEPTH, HIT = "g3d albedo", "g3d normal", "g3d depth", "g3d hit"
AOVS = {ALBEDO: "COLOR", NORMAL: "COLOR", DEPTH: "VALUE", HIT: "VALUE"}
FLAT_OUTPUT = "g3d flat"
ALMOST_BLACK = 1e-6
WHITE = (1.0, 1.0, 1.0, 1.0)

Source = Any
"""A node socket, or a constant: 4 numbers for a colour, one for an opacity."""
Pair = tuple[Source, Source]
"""Base colour and opacity."""


def prepare() -> None:
    """Make every surface of the file ready for both kinds of look. Calling it again does nothing.

    A surface without a material gets a white one, as glTF has it. Vertex colours that the
    material does not use already are multiplied into a base colour without texture: so they are
    shown for PLY and OBJ too, whose importers leave them aside.
    """
    made: dict[tuple[str, str], Any] = {}
    for item in list(bpy.data.objects):
        if not hasattr(item.data, "materials"):
            continue
        if not item.material_slots:
            item.data.materials.append(None)
        for slot in item.material_slots:
            if slot.material is None:
                slot.material = _plain_material()
            name = _unused_colors(item.data, slot.material)
            if name is not None:
                key = (slot.material.name, name)
                if key not in made:
                    made[key] = _with_vertex_colors(slot.material, name)
                slot.material = made[key]
    for material in bpy.data.materials:
        if material.grease_pencil is None:
            _prepare_material(material)


def choose(flat: bool) -> None:
    """Let every material shine by itself (``flat``), or be lit."""
    for material in bpy.data.materials:
        if material.node_tree is None or FLAT_OUTPUT not in material.node_tree.nodes:
            continue
        node = material.node_tree.nodes[FLAT_OUTPUT]
        if node.is_active_output == flat:
            continue
        others = [n for n in _nodes(material.node_tree, "ShaderNodeOutputMaterial") if n != node]
        target = node if flat else next(n for n in others if n.get("g3d chosen"))
        target.is_active_output = True
        # As lights, 20k glowing triangles would take longer to list than to render.
        material.cycles.emission_sampling = "NONE" if flat else "AUTO"


def _plain_material() -> Any:
    name = "g3d white"
    if name in bpy.data.materials:
        return bpy.data.materials[name]
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    shader = next(_nodes(material.node_tree, "ShaderNodeBsdfPrincipled"))
    shader.inputs["Base Color"].default_value = WHITE
    shader.inputs["Roughness"].default_value = 0.6
    return material


def _unused_colors(data: Any, material: Any) -> str | None:
    """Name of the vertex colours that ``material`` should show and does not; None if none."""
    colors = getattr(data, "color_attributes", None)
    if not colors or not 0 <= colors.render_color_index < len(colors):
        return None
    if material.node_tree is not None and _reads_attributes(material.node_tree):
        return None
    return str(colors[colors.render_color_index].name)


def _reads_attributes(tree: Any) -> bool:
    for node in tree.nodes:
        if node.bl_idname in ("ShaderNodeVertexColor", "ShaderNodeAttribute"):
            return True
        group = node.node_tree if node.bl_idname == "ShaderNodeGroup" else None
        if group is not None and _reads_attributes(group):
            return True
    return False


def _with_vertex_colors(material: Any, name: str) -> Any:
    """A copy of ``material`` with vertex colours in every base colour that no texture makes."""
    copy = material.copy()
    _ensure_nodes(copy)
    tree = copy.node_tree
    attribute = tree.nodes.new("ShaderNodeVertexColor")
    attribute.layer_name = name
    for node in list(tree.nodes):
        color = _color_input(node)
        if color is None or color.is_linked:
            continue
        tree.links.new(
            _mix(tree, "MULTIPLY", 1.0, color.default_value, attribute.outputs[0]), color
        )
        alpha = node.inputs.get("Alpha")
        if alpha is not None and not alpha.is_linked:
            product = _math(tree, "MULTIPLY", attribute.outputs["Alpha"], alpha.default_value)
            tree.links.new(product, alpha)
    return copy


def _prepare_material(material: Any) -> None:
    _ensure_nodes(material)
    tree = material.node_tree
    if FLAT_OUTPUT in tree.nodes:
        return
    chosen = tree.get_output_node("CYCLES")
    if chosen is None:
        chosen = tree.nodes.new("ShaderNodeOutputMaterial")
    chosen["g3d chosen"] = True
    if not chosen.inputs["Surface"].is_linked:
        _add_shader(tree, chosen, _opaque(material.diffuse_color))
    found = _flatten(tree, chosen.inputs["Surface"])
    color, opacity = found or (_opaque(material.diffuse_color), 1.0)
    solid = opacity
    if not isinstance(opacity, float):
        solid = _math(tree, "GREATER_THAN", opacity, SEE_THROUGH)
    _add_aovs(tree, color, solid)
    output = tree.nodes.new("ShaderNodeOutputMaterial")
    output.name, output.target, output.is_active_output = FLAT_OUTPUT, chosen.target, False
    chosen.is_active_output = True
    shader = tree.nodes.new("ShaderNodeEmission")
    # Cycles drops a surface that emits nothing: a black one would not even hide what is behind.
    least = tree.nodes.new("ShaderNodeVectorMath")
    least.operation = "MAXIMUM"
    _plug(tree, color, least.inputs[0])
    least.inputs[1].default_value = (ALMOST_BLACK,) * 3
    tree.links.new(least.outputs[0], shader.inputs["Color"])
    surface = shader.outputs[0]
    if not (isinstance(solid, float) and solid > SEE_THROUGH):
        mix = tree.nodes.new("ShaderNodeMixShader")
        _plug(tree, solid if not isinstance(solid, float) else 0.0, mix.inputs[0])
        tree.links.new(tree.nodes.new("ShaderNodeBsdfTransparent").outputs[0], mix.inputs[1])
        tree.links.new(surface, mix.inputs[2])
        surface = mix.outputs[0]
    tree.links.new(surface, output.inputs["Surface"])


def _add_shader(tree: Any, output: Any, color: tuple[float, ...]) -> None:
    shader = tree.nodes.new("ShaderNodeBsdfPrincipled")
    shader.inputs["Base Color"].default_value = color
    tree.links.new(shader.outputs[0], output.inputs["Surface"])


def _ensure_nodes(material: Any) -> None:
    """Give a material without nodes the ones that show its viewport colour."""
    if material.use_nodes and material.node_tree is not None:
        return
    color = _opaque(material.diffuse_color)
    material.use_nodes = True
    for node in _nodes(material.node_tree, "ShaderNodeBsdfPrincipled"):
        node.inputs["Base Color"].default_value = color


def _add_aovs(tree: Any, color: Source, solid: Source) -> None:
    """Outputs for the passes; what is see-through adds nothing, so the surface behind counts."""
    normal = tree.nodes.new("ShaderNodeNewGeometry").outputs["Normal"]
    depth = tree.nodes.new("ShaderNodeCameraData").outputs["View Z Depth"]
    for name, value in ((ALBEDO, color), (NORMAL, normal), (DEPTH, depth), (HIT, 1.0)):
        node = tree.nodes.new("ShaderNodeOutputAOV")
        node.aov_name = name
        if isinstance(solid, float):
            if solid <= SEE_THROUGH:
                continue
        elif name in (ALBEDO, NORMAL):
            scale = tree.nodes.new("ShaderNodeVectorMath")
            scale.operation = "SCALE"
            _plug(tree, value, scale.inputs[0])
            tree.links.new(solid, scale.inputs["Scale"])
            value = scale.outputs[0]
        else:
            value = _math(tree, "MULTIPLY", solid, value)
        _plug(tree, value, node.inputs["Color" if AOVS[name] == "COLOR" else "Value"])


def _flatten(tree: Any, socket: Any) -> Pair | None:
    """Base colour and opacity of the shader that goes into ``socket``; None if there is none."""
    if not socket.is_linked:
        return None
    link = socket.links[0]
    node = link.from_node
    kind = node.bl_idname
    if kind == "NodeReroute":
        return _flatten(tree, node.inputs[0])
    if node.mute:
        return next((_flatten(tree, i) for i in node.inputs if i.type == "SHADER"), None)
    if kind == "ShaderNodeGroup" and node.node_tree is not None:
        return _flatten_group(node, link.from_socket)
    if kind == "ShaderNodeMixShader":
        return _flatten_mix(tree, node)
    if kind == "ShaderNodeAddShader":
        return _flatten_sum(tree, node)
    if kind in ("ShaderNodeBsdfTransparent", "ShaderNodeHoldout"):
        return WHITE, 0.0
    color = _color_input(node)
    if color is None:
        return None
    alpha = node.inputs.get("Alpha")
    return _value(color), 1.0 if alpha is None else _value(alpha)


def _flatten_mix(tree: Any, node: Any) -> Pair | None:
    first, second = _flatten(tree, node.inputs[1]), _flatten(tree, node.inputs[2])
    if first is None or second is None:
        return first or second
    share = _value(node.inputs[0])
    opacity = _lerp(tree, share, first[1], second[1])
    if first[1] == 0.0 or second[1] == 0.0:
        return (second if first[1] == 0.0 else first)[0], opacity
    if isinstance(share, float) and share in (0.0, 1.0):
        return second if share else first
    return _mix(tree, "MIX", share, first[0], second[0]), opacity


def _flatten_sum(tree: Any, node: Any) -> Pair | None:
    """Of a surface and a glow the surface; of two surfaces the sum of their colours."""
    first, second = _flatten(tree, node.inputs[0]), _flatten(tree, node.inputs[1])
    if first is None or second is None:
        return first or second
    if first[1] == 0.0 or second[1] == 0.0:
        return (second if first[1] == 0.0 else first)[0], 1.0
    glows = [_is_glow(i) for i in node.inputs]
    if glows[0] != glows[1]:
        return second if glows[0] else first
    return _mix(tree, "ADD", 1.0, first[0], second[0]), first[1]


def _is_glow(socket: Any) -> bool:
    return socket.is_linked and socket.links[0].from_node.bl_idname == "ShaderNodeEmission"


def _flatten_group(node: Any, out: Any) -> Pair | None:
    """Base colour and opacity brought out of a group, by two more outputs of the group."""
    tree = node.node_tree
    name = f"g3d {out.identifier}"
    if f"{name} color" not in node.outputs:
        end = next((n for n in tree.nodes if n.bl_idname == "NodeGroupOutput"), None)
        socket = None if end is None else end.inputs.get(out.name)
        found = None if socket is None else _flatten(tree, socket)
        if end is None or found is None:
            return None
        for part, kind, value in (("color", "NodeSocketColor", found[0]),
                                  ("alpha", "NodeSocketFloat", found[1])):  # fmt: skip
            tree.interface.new_socket(f"{name} {part}", in_out="OUTPUT", socket_type=kind)
            _plug(tree, value, end.inputs[f"{name} {part}"])
    opacity = node.outputs[f"{name} alpha"]
    return node.outputs[f"{name} color"], opacity


def _color_input(node: Any) -> Any:
    """The socket of a shader node that holds its base colour; None if it is not such a node."""
    if not any(out.type == "SHADER" for out in node.outputs):
        return None
    base, glow = node.inputs.get("Base Color"), node.inputs.get("Emission Color")
    if base is None:
        return node.inputs.get("Color")
    strength = node.inputs.get("Emission Strength")
    black = not base.is_linked and max(base.default_value[:3]) == 0.0
    if black and glow is not None and strength is not None and _shines(glow, strength):
        return glow
    return base


def _shines(color: Any, strength: Any) -> bool:
    some = color.is_linked or max(color.default_value[:3]) > 0.0
    return bool(some and (strength.is_linked or strength.default_value > 0.0))


def _value(socket: Any) -> Source:
    """What feeds ``socket``: the socket at the other end, or the constant."""
    if socket.is_linked:
        return socket.links[0].from_socket
    value = socket.default_value
    return float(value) if isinstance(value, int | float) else tuple(value)


def _opaque(color: Any) -> tuple[float, ...]:
    return (*tuple(color)[:3], 1.0)


def _plug(tree: Any, source: Source, socket: Any) -> None:
    if isinstance(source, float | int):
        socket.default_value = source
    elif isinstance(source, tuple):
        socket.default_value = source[: len(socket.default_value)]
    else:
        tree.links.new(source, socket)


def _math(tree: Any, operation: str, first: Source, second: Source) -> Any:
    node = tree.nodes.new("ShaderNodeMath")
    node.operation = operation
    _plug(tree, first, node.inputs[0])
    _plug(tree, second, node.inputs[1])
    return node.outputs[0]


def _lerp(tree: Any, share: Source, first: Source, second: Source) -> Source:
    if all(isinstance(value, float) for value in (share, first, second)):
        return first + share * (second - first)
    node = tree.nodes.new("ShaderNodeMix")
    for source, socket in zip((share, first, second), (0, 2, 3), strict=True):
        _plug(tree, source, node.inputs[socket])
    return node.outputs[0]


def _mix(tree: Any, blend: str, share: Source, first: Source, second: Source) -> Any:
    node = tree.nodes.new("ShaderNodeMix")
    node.data_type, node.blend_type = "RGBA", blend
    for source, socket in zip((share, first, second), (0, 6, 7), strict=True):
        _plug(
            tree, source if not hasattr(source, "__len__") else tuple(source), node.inputs[socket]
        )
    return node.outputs[2]


def _nodes(tree: Any, kind: str) -> Iterator[Any]:
    return (node for node in tree.nodes if node.bl_idname == kind)
