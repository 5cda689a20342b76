"""The ``raster`` renderer: textured meshes to images on the CPU, numba only, no torch.

Every pixel is the box filter of ``supersample`` squared samples, averaged in linear light over the
samples that hit the mesh; alpha is the share of samples that hit. Textures are mip-mapped by the
footprint of a *sample* (trilinear, wrapped), so minified textures average instead of aliasing.

Materials: base colour factor x texture x vertex colour, all linear. `mask` samples below the cutoff
are discarded; `blend` is drawn opaque where its opacity is at least 0.1 and discarded below (glass
keeps its colour, the empty part of a decal vanishes). Through the hole of a masked surface shows
whatever is behind, masked or not; where a masked and a solid surface coincide the masked one shows.
Both sides of every face are drawn, with the shading normal turned to the viewer, since real models
often have inconsistent winding.

Lights and their formulas: :mod:`.shading`. Without vertex normals shading is flat.
Views are drawn on several threads where ``NUMBA_NUM_THREADS`` and ``OMP_NUM_THREADS`` allow; the
images do not depend on it.
"""

from __future__ import annotations

import os
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np

from ...errors import AssetError
from ..base import RenderSettings, Views
from ..cameras import Camera
from ..meshes import Mesh, face_normals, transformed
from ..ops.kernels import FLOAT_IDS
from ..ops.parallel import each_image
from . import mipmaps, shading
from .resolve import draw_image


@dataclass(frozen=True)
class PackedMesh:
    """A mesh packed for the kernels: contiguous float32/int32 arrays, empty where absent.

    ``physical`` [M, 5]: metallic, roughness, emission; ``physical_index`` [M, 2]: their textures.
    """

    vertices: np.ndarray
    tri: np.ndarray
    uvs: np.ndarray
    colors: np.ndarray
    normals: np.ndarray
    face_normals: np.ndarray
    face_material: np.ndarray
    factors: np.ndarray
    cutoff: np.ndarray
    texture_index: np.ndarray
    physical: np.ndarray
    physical_index: np.ndarray
    textures: tuple[np.ndarray, np.ndarray, np.ndarray]
    textured: np.ndarray
    holes: np.ndarray


def pack(mesh: Mesh, settings: RenderSettings) -> PackedMesh:
    """Put ``mesh`` into arrays, its textures into chains of mip maps."""
    # A quarter of a sample is finer than the filter can show, unless an atlas is mostly empty.
    longest = 4 * max(settings.resolution) * settings.supersample
    table = mesh.materials
    chains, index = mipmaps.build_textures(table, longest, settings.light == "pbr")
    if mesh.uvs is None:
        index = np.full_like(index, -1)
    material = mesh.material_index
    cutoff = np.asarray([mipmaps.alpha_cutoff(m) for m in table], np.float32)
    opacity = np.asarray([mipmaps.least_opacity(m) for m in table])[material]
    if mesh.colors is not None:
        opacity = opacity * mesh.colors[mesh.faces, 3].min(axis=1)
    count = len(mesh.vertices)
    return PackedMesh(
        vertices=np.ascontiguousarray(mesh.vertices, np.float32),
        tri=np.ascontiguousarray(mesh.faces, np.int32),
        uvs=np.zeros((count, 2), np.float32) if mesh.uvs is None else mesh.uvs,
        colors=np.zeros((0, 4), np.float32) if mesh.colors is None else mesh.colors,
        normals=np.zeros((0, 3), np.float32) if mesh.normals is None else mesh.normals,
        face_normals=face_normals(mesh).astype(np.float32),
        face_material=material.astype(np.int64),
        factors=np.asarray([m.base_color for m in table], np.float32),
        cutoff=cutoff,
        texture_index=np.ascontiguousarray(index[:, 0]),
        physical=np.asarray([(m.metallic, m.roughness, *m.emissive) for m in table], np.float32),
        physical_index=np.ascontiguousarray(index[:, 1:]),
        textures=(chains.texels, chains.levels, chains.first),
        textured=index.max(axis=1)[material] >= 0,
        holes=opacity < cutoff[material],
    )


def thread_count() -> int:
    """Threads that views are spread over: what the environment grants, at most one a core."""
    granted = os.environ.get("OMP_NUM_THREADS", "")
    limit = numba.config.NUMBA_NUM_THREADS
    return max(1, min(limit, int(granted)) if granted.isdigit() else limit)


class RasterRenderer:
    """Implements :class:`g3d.renderers.base.Renderer`; holds no state."""

    name = "raster"
    version = "3"
    imports: Set[str] = frozenset()

    def describe(self, settings: RenderSettings) -> str:
        """The light."""
        return f"light {settings.light}"

    def open(self, asset: Mesh | Path) -> RasterScene:
        """A mesh, or a file that :func:`..meshes.load.load_mesh` reads, ready to be rendered."""
        if isinstance(asset, Path):
            from ..meshes.load import load_mesh

            asset = load_mesh(asset)
        return RasterScene(asset)

    def close(self) -> None:
        """Nothing is held."""

    def render(self, mesh: Mesh, cameras: Camera, settings: RenderSettings) -> Views:
        """Open ``mesh`` and render it as it is; see :meth:`RasterScene.render`."""
        return self.open(mesh).render(cameras, settings)


@dataclass(frozen=True)
class RasterScene:
    """Implements :class:`g3d.renderers.base.Scene`."""

    mesh: Mesh

    def render(
        self, cameras: Camera, settings: RenderSettings, transform: np.ndarray | None = None
    ) -> Views:
        """Render from each of ``cameras`` (``[N]``).

        Memory: the result, and about 50 bytes a triangle and 40 a vertex for every thread.

        Raises:
            AssetError: ``memory``: more triangles than the id channel can count.
        """
        mesh = self.mesh if transform is None else transformed(self.mesh, transform)
        if len(mesh.faces) > FLOAT_IDS:
            raise AssetError("memory", f"{len(mesh.faces)} triangles", stage="render")
        count, (height, width) = len(cameras), settings.resolution
        views = Views(
            rgba=np.zeros((count, height, width, 4), np.uint8),
            depth=np.zeros((count, height, width), np.float32),
            normal=np.zeros((count, height, width, 3), np.float32),
            albedo=np.zeros((count, height, width, 3), np.uint8),
        )
        if not len(mesh.faces):
            return views
        s, light = pack(mesh, settings), shading.LIGHTS[settings.light]
        geometry = (
            s.vertices, s.tri, s.uvs, s.colors, s.normals, s.face_normals, s.face_material,
        )  # fmt: skip
        materials = (
            s.factors, s.cutoff, s.texture_index, s.physical, s.physical_index, s.textures,
        )  # fmt: skip
        matrices = cameras.world_to_clip(width / height)
        masked = s.holes.astype(np.uint8)

        def draw(n: int) -> None:
            clip = s.vertices @ matrices[n][:, :3].T + matrices[n][:, 3]
            draw_image(
                clip.astype(np.float32), np.ascontiguousarray(cameras.eye[n]), light,
                settings.supersample, geometry, materials, masked, s.textured, mipmaps.ENCODE,
                (views.rgba[n], views.depth[n], views.normal[n], views.albedo[n]),
            )  # fmt: skip

        each_image(draw, count, thread_count())
        return views
