"""The mesh that Blender would render, as arrays: all objects joined, +Y up.

Textures stay in Blender: a material's ``texture`` only says whether it has one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import bpy
import numpy as np

from .refused import Refused

LEAST_EXTENT, LARGEST_EXTENT = 1e-6, 1e6

Arrays = dict[str, np.ndarray]


def extract() -> tuple[list[dict[str, Any]], Arrays]:
    """All meshes as they are rendered, modifiers and instances included.

    Returns:
        Materials: fields of ``g3d.renderers.meshes.Material`` as plain values, ``texture`` true
        or false. Arrays: ``vertices`` float32 ``[V, 3]``, ``faces`` int64 ``[F, 3]``,
        ``material_index`` int32 ``[F]``.

    Raises:
        Refused: ``empty_mesh``: no face; ``import``: a position is not finite, or the whole is
            smaller or larger than any model can be.
    """
    rows: dict[str, int] = {}
    materials: list[dict[str, Any]] = []
    vertices, faces, index, count = [], [], [], 0
    graph = bpy.context.evaluated_depsgraph_get()
    for instance in graph.object_instances:
        if instance.object.type != "MESH":
            continue
        part = _part(instance.object.data, np.array(instance.matrix_world, np.float64))
        if part is None:
            continue
        slots = _slots(instance.object, rows, materials)
        vertices.append(part[0])
        faces.append(part[1] + count)
        index.append(slots[np.clip(part[2], 0, len(slots) - 1)])
        count += len(part[0])
    if not faces:
        raise Refused("empty_mesh", "there is no face in what Blender imported")
    arrays = {
        "vertices": np.concatenate(vertices),
        "faces": np.concatenate(faces),
        "material_index": np.concatenate(index).astype(np.int32),
    }
    _check_extent(arrays)
    arrays["vertices"] = arrays["vertices"].astype(np.float32)
    return materials, arrays


def _part(mesh: Any, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """World vertices (+Y up), triangles and material slots of one mesh; None without a face."""
    mesh.calc_loop_triangles()
    total = len(mesh.loop_triangles)
    if not total:
        return None
    points = np.zeros(3 * len(mesh.vertices), np.float32)
    mesh.vertices.foreach_get("co", points)
    triangles = np.zeros(3 * total, np.int32)
    mesh.loop_triangles.foreach_get("vertices", triangles)
    slots = np.zeros(total, np.int32)
    mesh.loop_triangles.foreach_get("material_index", slots)
    with np.errstate(all="ignore"):
        world = points.reshape(-1, 3).astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
    faces = triangles.reshape(-1, 3).astype(np.int64)
    if np.linalg.det(matrix[:3, :3]) < 0:
        faces = faces[:, ::-1]  # a mirror turns the winding
    return np.stack([world[:, 0], world[:, 2], -world[:, 1]], axis=1), faces, slots


def _check_extent(arrays: Arrays) -> None:
    used = arrays["vertices"][arrays["faces"].reshape(-1)]
    if not np.isfinite(used).all():
        raise Refused("import", "positions are NaN or infinite")
    # A vertex that no face uses may be anything; float32 must hold it all the same.
    np.nan_to_num(arrays["vertices"], copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    extent = float((used.max(axis=0) - used.min(axis=0)).max())
    if not extent > 0.0:
        raise Refused("empty_mesh", "all vertices are at one point")
    if not LEAST_EXTENT < extent < LARGEST_EXTENT:
        raise Refused(
            "import",
            f"it is {extent:.3g} long; expected is {LEAST_EXTENT:g} to {LARGEST_EXTENT:g}",
        )


def _slots(item: Any, rows: dict[str, int], materials: list[dict[str, Any]]) -> np.ndarray:
    """For every material slot of an object the row of its material, added if it is new."""
    used = [slot.material for slot in item.material_slots] or [None]
    out = []
    for material in used:
        key = "" if material is None else material.name_full
        if key not in rows:
            rows[key] = len(materials)
            materials.append(_facts(None if material is None else material.original, item.data))
        out.append(rows[key])
    return np.asarray(out, np.int32)


def _facts(material: Any, mesh: Any) -> dict[str, Any]:
    """What is known of a material, as far as it is a Principled shader.

    The base colour is that of vertex colours, on the average, if ``mesh`` has some.
    """
    facts: dict[str, Any] = {
        "name": "default" if material is None else material.name,
        "base_color": [1.0, 1.0, 1.0, 1.0],
        "texture": False,
        "alpha_mode": "opaque",
        "metallic": 0.0,
        "roughness": 0.6,
    }
    tint = _mean_color(mesh)
    facts["base_color"][:3] = tint
    shader = None if material is None else _shader(material)
    if shader is None:
        return facts
    color, alpha = shader.inputs["Base Color"], shader.inputs["Alpha"]
    facts["texture"] = any(n.bl_idname == "ShaderNodeTexImage" for n in _upstream(color))
    if not color.is_linked:
        facts["base_color"][:3] = [
            float(a * b) for a, b in zip(color.default_value[:3], tint, strict=True)
        ]
    if alpha.is_linked:
        cuts = {"LESS_THAN", "GREATER_THAN", "ROUND"}
        found = {getattr(node, "operation", "") for node in _upstream(alpha)}
        facts["alpha_mode"] = "mask" if cuts & found else "blend"
    elif alpha.default_value < 1.0:
        facts["alpha_mode"] = "blend"
        facts["base_color"][3] = float(alpha.default_value)
    for name in ("metallic", "roughness"):
        socket = shader.inputs[name.title()]
        if not socket.is_linked:
            facts[name] = float(socket.default_value)
    return facts


def _mean_color(mesh: Any) -> list[float]:
    """Mean of the vertex colours, linear; white without any."""
    table = mesh.color_attributes
    if not 0 <= table.render_color_index < len(table):
        return [1.0, 1.0, 1.0]
    data = table[table.render_color_index].data
    values = np.zeros(4 * len(data), np.float32)
    data.foreach_get("color", values)
    finite = np.nan_to_num(values.reshape(-1, 4)[:, :3], nan=1.0, posinf=1.0, neginf=0.0)
    return [float(v) for v in finite.mean(axis=0)] if len(finite) else [1.0, 1.0, 1.0]


def _shader(material: Any) -> Any:
    if material.node_tree is None:
        return None
    nodes = material.node_tree.nodes
    return next((n for n in nodes if n.bl_idname == "ShaderNodeBsdfPrincipled"), None)


def _upstream(socket: Any) -> Iterator[Any]:
    """The nodes that a socket depends on, each once, groups not entered."""
    waiting, seen = [socket], set()
    while waiting:
        for link in waiting.pop().links:
            if link.from_node.name not in seen:
                seen.add(link.from_node.name)
                yield link.from_node
                waiting.extend(link.from_node.inputs)
