"""The ``blender`` renderer: what the rest of g3d sees of it."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import AssetError
from ..base import RenderSettings, Views
from ..cameras import Camera
from ..meshes import Material, Mesh, make_mesh
from .inside.looks import LOOKS, Look
from .process import BlenderProcess, blender_version, find_python
from .settings import BlenderSettings

SUFFIXES = (
    ".glb", ".gltf", ".obj", ".ply", ".stl",
    ".fbx", ".usd", ".usda", ".usdc", ".usdz", ".dae",
)  # fmt: skip
"""Suffixes that Blender's importers read."""
TEXTURES = ("texture", "metallic_roughness", "emissive_texture")
"""Fields of a material that hold images."""


class BlenderRenderer:
    """Implements :class:`g3d.renderers.base.Renderer`; Blender starts with the first asset.

    It can be pickled: a copy starts a Blender of its own.
    """

    name = "blender"

    def __init__(self, settings: BlenderSettings | None = None) -> None:
        """Find Blender; do not start it.

        Raises:
            MissingDependency: There is none.
        """
        self.settings = settings or BlenderSettings()
        self.version = blender_version(find_python(self.settings.python))
        gone = {".dae"} if int(self.version.split(".")[0]) > 4 else set()
        self.imports: Set[str] = frozenset(SUFFIXES) - gone
        self._process: BlenderProcess | None = None
        self._opened = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_process": None, "_opened": 0}

    @property
    def look(self) -> Look:
        """All values that decide how an image looks."""
        return look_of(self.settings)

    @property
    def pixels(self) -> dict[str, Any]:
        """The values of the look that change a pixel, as plain values."""
        values = asdict(self.look)
        del values["threads"]
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}

    @property
    def process(self) -> BlenderProcess:
        """The child process; started if it is not there.

        Raises:
            MissingDependency: No interpreter with bpy.
            G3DError: It does not start.
        """
        if self._process is None or not self._process.alive:
            self.close()
            self._process = BlenderProcess(self.settings)
        return self._process

    def describe(self, settings: RenderSettings) -> str:
        """The look."""
        return f"look {self.settings.look}"

    def open(self, asset: Mesh | Path) -> BlenderScene:
        """Make ``asset`` the scene; what was open before is gone.

        Raises:
            AssetError: It cannot be imported, or Blender died or was stopped over it.
        """
        if self._opened >= self.settings.recycle_after:
            self.close()
        process = self.process
        self._opened += 1
        deadline = self.settings.deadline_s
        if isinstance(asset, Mesh):
            materials, arrays = pack_mesh(asset)
            header = {"do": "mesh", "materials": materials}
            process.request(header, arrays, stage="load", deadline_s=deadline)
            return BlenderScene(self, process, self._opened, asset)
        suffix = asset.suffix.lower()
        if suffix not in self.imports:
            raise AssetError(
                "import", f"format {suffix or '(none)'!r}, known are {', '.join(self.imports)}"
            )
        if not asset.is_file():
            raise AssetError("gone", f"{asset} is not there", stage="fetch")
        header = {"do": "file", "path": str(asset.resolve())}
        answer = process.request(header, stage="load", deadline_s=deadline)
        mesh = unpack_mesh(answer.header["materials"], answer.arrays)
        return BlenderScene(self, process, self._opened, mesh)

    def is_open(self, process: BlenderProcess, number: int) -> bool:
        """Whether the asset that was opened as ``number`` in ``process`` is still the scene."""
        return self._process is process and process.alive and self._opened == number

    def close(self) -> None:
        """End Blender."""
        if self._process is not None:
            self._process.kill()
        self._process, self._opened = None, 0


@dataclass(frozen=True)
class BlenderScene:
    """Implements :class:`g3d.renderers.base.Scene`."""

    renderer: BlenderRenderer
    process: BlenderProcess
    number: int
    mesh: Mesh

    def render(
        self, cameras: Camera, settings: RenderSettings, transform: np.ndarray | None = None
    ) -> Views:
        """Render from each of ``cameras`` (``[N]``), one request a view.

        Raises:
            AssetError: ``render_crash``, ``timeout`` or ``memory``.
        """
        if not self.renderer.is_open(self.process, self.number):
            raise AssetError("render_crash", "Blender no longer has this asset", stage="render")
        height, width = settings.resolution
        matrix = np.eye(4) if transform is None else np.asarray(transform, np.float64)
        views = Views(
            rgba=np.zeros((len(cameras), height, width, 4), np.uint8),
            depth=np.zeros((len(cameras), height, width), np.float32),
            normal=np.zeros((len(cameras), height, width, 3), np.float32),
            albedo=np.zeros((len(cameras), height, width, 3), np.uint8),
        )
        header = {"do": "render", "height": height, "width": width,
                  "look": asdict(self.renderer.look)}  # fmt: skip
        for n in range(len(cameras)):
            one = slice(n, n + 1)
            camera = {"c2w": cameras.c2w[one], "fov_y": cameras.fov_y[one]}
            arrays = {key: np.asarray(value, np.float64) for key, value in camera.items()}
            answer = self.process.request(
                header,
                {**arrays, "transform": matrix},
                stage="render",
                deadline_s=self.renderer.settings.deadline_s,
            )
            for name, array in answer.arrays.items():
                getattr(views, name)[one] = array
        return views


def look_of(settings: BlenderSettings) -> Look:
    """The look that the settings name, with the samples that they ask for."""
    look = LOOKS[settings.look]
    return look if settings.samples is None else replace(look, samples=settings.samples)


def pack_mesh(mesh: Mesh) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Materials as plain values, and all arrays by name; equal textures travel once."""
    arrays = {"vertices": mesh.vertices, "faces": mesh.faces, "material_index": mesh.material_index}
    for name in ("uvs", "colors", "normals"):
        value = getattr(mesh, name)
        if value is not None:
            arrays[name] = value
    numbers: dict[int, int] = {}
    materials = []
    for material in mesh.materials:
        values = asdict(material.without_textures())
        for name in TEXTURES:
            texture = getattr(material, name)
            if texture is not None:
                values[name] = numbers.setdefault(id(texture), len(numbers))
                arrays[f"texture_{values[name]}"] = texture
        materials.append(values)
    return materials, arrays


def unpack_mesh(materials: list[dict[str, Any]], arrays: dict[str, np.ndarray]) -> Mesh:
    """The mesh that Blender imported. Textures stay there: a white texel stands for each.

    Raises:
        AssetError: ``import``: the arrays do not make a mesh.
    """
    table = []
    for values in materials:
        texture = np.full((1, 1, 4), 255, np.uint8) if values["texture"] else None
        color = tuple(values["base_color"])
        table.append(Material(**{**values, "base_color": color, "texture": texture}))
    return make_mesh(
        arrays["vertices"],
        arrays["faces"],
        materials=table,
        face_materials=arrays["material_index"],
    )
