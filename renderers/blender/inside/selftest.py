"""Does this Blender give the pixels that it should, and do they come through memory?"""

from __future__ import annotations

import bpy
import numpy as np

from . import framing, materials, passes, scene
from .looks import LOOKS


def self_test() -> str:
    """Render a small known scene both ways and compare: ``memory`` if it can be used, else ``exr``.

    It leaves an empty scene behind, and decides what ``auto`` means from then on.

    Raises:
        RuntimeError: Not even the EXR file has the right pixels.
    """
    file = _known_passes("exr")
    _check_known(file)
    try:
        memory = _known_passes("memory")
    except RuntimeError:
        memory = {}
    same = memory.keys() == file.keys() and all(
        np.array_equal(memory[name], file[name], equal_nan=True) for name in file
    )
    route = "memory" if same else "exr"
    passes.use(route)
    scene.reset()
    return route


def _known_passes(route: str) -> passes.Passes:
    """Reset, and render the scene of the self-test: a plain square at distance 2."""
    scene.reset()
    mesh = bpy.data.meshes.new("known")
    corners = [(-0.5, 0.0, -0.5), (0.5, 0.0, -0.5), (0.5, 0.0, 0.5), (-0.5, 0.0, 0.5)]
    mesh.from_pydata(corners, [], [(0, 1, 2, 3)])
    material = bpy.data.materials.new("known")
    material.use_nodes = True
    shader = material.node_tree.nodes["Principled BSDF"]
    shader.inputs["Base Color"].default_value = (0.5, 0.25, 0.125, 1.0)
    mesh.materials.append(material)
    current = bpy.context.scene
    current.collection.objects.link(bpy.data.objects.new("known", mesh))
    c2w = np.eye(4)
    c2w[2, 3] = 2.0
    look = LOOKS["flat"]
    request = scene.Request(c2w[None], np.full(1, 0.8), 12, 16, np.eye(4), look, route)
    scene.prepare(current, request)
    scene.aim(current.camera, c2w, 0.8)
    framing.crop(current, None, c2w, 0.8)
    return passes.render(current, (passes.COMBINED, *scene.aovs(look)), route)


def _check_known(found: passes.Passes) -> None:
    """Compare the middle and a corner of :func:`_known_passes` with what they must be.

    Raises:
        RuntimeError: They differ: this Blender cannot be used.
    """
    middle = {
        passes.COMBINED: (0.5, 0.25, 0.125, 1.0),
        materials.NORMAL: (0.0, -1.0, 0.0),
        materials.DEPTH: (2.0,),
        materials.HIT: (1.0,),
    }
    for name, want in middle.items():
        if not np.allclose(found[name][6, 8], want, atol=1e-4) or found[name][0, 0].any():
            raise RuntimeError(f"self-test: pass {name} is {found[name][6, 8]}, expected {want}")
