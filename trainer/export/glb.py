"""A textured mesh as binary glTF; equal meshes give equal bytes."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from ...renderers.meshes import Mesh

TextureFormat = Literal["png", "jpeg"]

# glTF's enumerations.
_ARRAY_BUFFER, _ELEMENT_ARRAY_BUFFER = 34962, 34963
_SAMPLER = {"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}

_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "png": {"optimize": False, "compress_level": 6},
    # No chroma subsampling: it bleeds colour over chart edges.
    "jpeg": {"quality": 92, "subsampling": 0},
}


def encode_glb(
    mesh: Mesh,
    *,
    name: str = "mesh",
    texture_format: TextureFormat = "png",
    extras: Mapping[str, Any] | None = None,
) -> bytes:
    """A textured mesh as binary glTF 2.0.

    Args:
        mesh: ``uvs`` (bottom-left) and the first material's ``texture`` (uint8 ``[h, w, 3 or 4]``,
            row 0 = top) are needed; ``normals`` are written where there are any.
        name: Name of the node, the mesh and the material.
        texture_format: How the base colour texture is stored.
        extras: JSON-able facts for ``asset.extras``.

    Raises:
        ValueError: The mesh has no face, no uvs or no texture.
    """
    import trimesh
    from PIL import Image
    from trimesh.exchange.gltf import export_glb
    from trimesh.visual import TextureVisuals
    from trimesh.visual.material import PBRMaterial

    material = mesh.materials[0]
    if len(mesh.faces) == 0 or mesh.uvs is None or material.texture is None:
        raise ValueError("a GLB needs faces, uvs and a texture")
    image = Image.fromarray(np.ascontiguousarray(material.texture[..., :3]))
    image.format = texture_format.upper()
    # trimesh saves with Pillow's defaults (JPEG quality 75): fix the options on the image itself.
    save = functools.partial(image.save, **_SAVE_OPTIONS[texture_format])
    image.save = save  # type: ignore[method-assign]
    visual = TextureVisuals(
        uv=mesh.uvs.astype(np.float64),
        material=PBRMaterial(
            name=name,
            baseColorTexture=image,
            metallicFactor=float(material.metallic),
            roughnessFactor=float(material.roughness),
            doubleSided=bool(material.double_sided),
        ),
    )
    body = trimesh.Trimesh(
        vertices=mesh.vertices,
        faces=mesh.faces,
        vertex_normals=mesh.normals,
        visual=visual,
        process=False,
        validate=False,
    )
    scene = trimesh.Scene()
    scene.add_geometry(body, node_name=name, geom_name=name)
    return export_glb(
        scene,
        include_normals=mesh.normals is not None,
        tree_postprocessor=functools.partial(_finish_tree, extras=dict(extras or {})),
    )


def _finish_tree(tree: dict[str, Any], extras: dict[str, Any]) -> None:
    """What trimesh leaves out: buffer targets, a clamping sampler, where the file comes from."""
    views = tree["bufferViews"]
    accessors = tree["accessors"]
    for mesh in tree["meshes"]:
        mesh["extras"] = {}
        for primitive in mesh["primitives"]:
            views[accessors[primitive["indices"]]["bufferView"]]["target"] = _ELEMENT_ARRAY_BUFFER
            for accessor in primitive["attributes"].values():
                views[accessors[accessor]["bufferView"]]["target"] = _ARRAY_BUFFER
    tree["samplers"] = [dict(_SAMPLER)]
    for texture in tree["textures"]:
        texture["sampler"] = 0
    tree["asset"] = {"version": "2.0", "generator": "g3d"}
    if extras:
        tree["asset"]["extras"] = extras
