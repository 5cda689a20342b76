"""The ``raster`` renderer: textured meshes to images on the CPU, numba only, no torch.

Every pixel is the box filter of ``supersample`` squared samples, averaged in linear light over the
samples that hit the mesh; alpha is the share of samples that hit. Textures are mip-mapped by the
footprint of a *sample* (trilinear, wrapped), so minified textures average instead of aliasing.

Materials: base colour factor x texture x vertex colour, all linear. `mask` samples below the cutoff
are discarded; `blend` is drawn opaque where its opacity is at least 0.1 and discarded below (glass
keeps its colour, the empty part of a decal vanishes). Both sides of every face are drawn, with the
shading normal turned to the viewer, since real models often have inconsistent winding.
A hole of a masked surface shows what is opaque behind it, and the nearest masked surface that faces
the other way, but not a second masked layer of the same facing.

Lights: see :class:`g3d.renderers.shading.LightRig`. Without vertex normals shading is flat.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import AssetError
from . import mipmaps, shading
from .base import RenderSettings, Views
from .cameras import Camera
from .meshes import Mesh, face_normals, transformed
from .ops.kernels import FLOAT_IDS, rasterize_numpy


@dataclass(frozen=True)
class _Surface:
    """A mesh packed for the kernels: contiguous float32/int32 arrays, empty where absent."""

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
    textures: tuple[np.ndarray, np.ndarray, np.ndarray]
    textured: np.ndarray
    holes: np.ndarray


def _pack(mesh: Mesh, settings: RenderSettings) -> _Surface:
    # A quarter of a sample is finer than the filter can show, unless an atlas is mostly empty.
    longest = 4 * settings.size * settings.supersample
    chains, index = mipmaps.build_textures(mesh.materials, longest)
    if mesh.uvs is None:
        index = np.full_like(index, -1)
    material = mesh.material_index
    cutoff = np.asarray([mipmaps.alpha_cutoff(m) for m in mesh.materials], np.float32)
    opacity = np.asarray([mipmaps.least_opacity(m) for m in mesh.materials])[material]
    if mesh.colors is not None:
        opacity = opacity * mesh.colors[mesh.faces, 3].min(axis=1)
    count = len(mesh.vertices)
    return _Surface(
        vertices=np.ascontiguousarray(mesh.vertices, np.float32),
        tri=np.ascontiguousarray(mesh.faces, np.int32),
        uvs=np.zeros((count, 2), np.float32) if mesh.uvs is None else mesh.uvs,
        colors=np.zeros((0, 4), np.float32) if mesh.colors is None else mesh.colors,
        normals=np.zeros((0, 3), np.float32) if mesh.normals is None else mesh.normals,
        face_normals=face_normals(mesh).astype(np.float32),
        face_material=material.astype(np.int64),
        factors=np.asarray([m.base_color for m in mesh.materials], np.float32),
        cutoff=cutoff,
        texture_index=index,
        textures=(chains.texels, chains.levels, chains.first),
        textured=index[material] >= 0,
        holes=opacity < cutoff[material],
    )


class RasterRenderer:
    """Implements :class:`g3d.renderers.base.Renderer`; holds no state."""

    name = "raster"
    version = "2"
    imports: frozenset[str] = frozenset()

    def open(self, asset: Mesh | Path) -> RasterScene:
        """A mesh, or a file that :func:`.meshload.load_mesh` reads, ready to be rendered."""
        if isinstance(asset, Path):
            from .meshload import load_mesh

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
        """Render once from each of ``cameras`` (``[N]``), one after the other.

        Memory: the result, and 16 bytes a sample of one view.

        Raises:
            AssetError: ``memory``: more triangles than the id channel can count.
        """
        mesh = self.mesh if transform is None else transformed(self.mesh, transform)
        if len(mesh.faces) > FLOAT_IDS:
            raise AssetError("memory", f"{len(mesh.faces)} triangles", stage="render")
        surface = _pack(mesh, settings)
        light = shading.LightRig().packed() if settings.light == "rig" else shading.FLAT
        count, size = len(cameras), settings.size
        rgba = np.zeros((count, size, size, 4), np.uint8)
        depth = np.zeros((count, size, size), np.float32)
        normal = np.zeros((count, size, size, 3), np.float32)
        albedo = np.zeros((count, size, size, 3), np.uint8)
        matrices = cameras.world_to_clip()
        if len(mesh.faces):
            for n in range(count):
                self._view(
                    surface, matrices[n], cameras.eye[n], settings, light,
                    rgba[n], depth[n], normal[n],
                )  # fmt: skip
        return Views(rgba, depth, normal, albedo)

    def _view(
        self,
        surface: _Surface,
        matrix: np.ndarray,
        eye: np.ndarray,
        settings: RenderSettings,
        light: np.ndarray,
        rgba: np.ndarray,
        depth: np.ndarray,
        normal: np.ndarray,
    ) -> None:
        """Render one view into ``rgba``, ``depth`` and ``normal``."""
        s = surface
        clip = (s.vertices @ matrix[:, :3].T + matrix[:, 3]).astype(np.float32)
        facing = np.zeros(len(s.tri), np.float32)
        planes = np.zeros((len(s.tri), 9), np.float32)
        shading.triangle_setup(
            clip, s.tri, s.uvs, s.vertices, s.face_normals, eye, s.textured, facing, planes
        )
        samples = settings.size * settings.supersample
        if not s.holes.any():
            rast = rasterize_numpy(clip[None], s.tri, samples, samples)[0]
        else:
            rast = self._layers(s, clip, facing, planes, samples)
        shading.resolve(
            rast, clip, s.tri, s.uvs, s.colors, s.normals, s.face_normals, facing,
            s.face_material, s.factors, s.texture_index, s.textures, planes, light,
            mipmaps.ENCODE, settings.supersample, rgba, depth, normal,
        )  # fmt: skip

    @staticmethod
    def _layers(
        s: _Surface, clip: np.ndarray, facing: np.ndarray, planes: np.ndarray, samples: int
    ) -> np.ndarray:
        """Rasterise opaque faces, then the masked ones of either facing, alpha tested."""
        rast = np.zeros((samples, samples, 4), np.float32)
        for faces in (~s.holes, s.holes & (facing > 0), s.holes & (facing < 0)):
            ids = np.flatnonzero(faces)
            if not len(ids):
                continue
            extra = rasterize_numpy(clip[None], s.tri[ids], samples, samples)[0]
            shading.merge_masked(
                rast, extra, ids, clip, s.tri, s.uvs, s.colors, s.face_material, s.factors,
                s.texture_index, s.cutoff, s.textures, planes,
            )  # fmt: skip
        return rast
