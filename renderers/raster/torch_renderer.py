"""The ``raster`` renderer on torch: many views at once, for CUDA.

The same images as :mod:`.raster` makes, step for step, so that a data set may be made by either.
What differs: colours are float32 here and float64 there, so that a sum may round to the next level.
Measured on the CPU over 210 images of meshes with textures, vertex colours, masks and every light:
alpha and depth are the same bits, colours too but for 1 pixel in 70,000, which is off by one level,
normals are within 2e-6. nvdiffrast, where it is installed, may see another triangle at up to 1
sample in 1,000: it orders depths in another way, which shows only where surfaces or edges meet.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from ...errors import AssetError, MissingDependency
from ..base import RenderSettings, Views
from ..cameras import Camera
from ..meshes import Mesh, transformed
from ..ops.kernels import FLOAT_IDS
from . import mipmaps, shading
from .renderer import RasterRenderer, pack
from .torch_lights import Light, light_of
from .torch_shading import (
    SETUP,
    SETUP_BYTES,
    Projected,
    Surface,
    base_color,
    project,
    shading_normal,
    take,
    upload,
)
from .torch_visibility import PAIR_BYTES, PAIRS, compiled, visible

CHUNK = {"cuda": 1 << 20, "cpu": 1 << 16}
"""Samples shaded at once, by kind of device."""
CPU_BUDGET = 256 << 20
"""Bytes that the samples of a batch may take on the CPU."""
SHARE = 0.7
"""Share of the free CUDA memory that a batch may take."""
MOST_VIEWS = 64
"""A batch is never larger on its own: beyond this nothing gets faster."""
SAMPLE_BYTES: dict[str | None, int] = {"numba": 48, "nvdiffrast": 64, None: 36}
"""Most bytes that a sample takes, by what makes it visible (:func:`.compiled`)."""
SHADING_BYTES = 1200
"""Most bytes that a sample takes while it is shaded."""
WORKING = max(SHADING_BYTES * CHUNK["cuda"], PAIR_BYTES * PAIRS["cuda"], SETUP_BYTES * SETUP)
"""Most bytes of device memory that are worked on at the moment."""


class TorchRasterRenderer:
    """Implements :class:`g3d.renderers.base.Renderer`, in batches of views.

    Args:
        device: Where it computes, ``cuda`` or ``cpu``.
        batch_views: Views rendered at once; None = as many as fit into the free memory. Where
            memory runs out all the same, half as many are tried, and half of that.

    Raises:
        MissingDependency: There is no such device.
        ValueError: ``batch_views`` is less than one.
    """

    name = RasterRenderer.name
    version = RasterRenderer.version
    imports: Set[str] = frozenset()

    def __init__(self, device: str | torch.device = "cuda", batch_views: int | None = None) -> None:
        if batch_views is not None and batch_views < 1:
            raise ValueError(f"batch_views must be at least 1, not {batch_views}")
        self.device = torch.device(device)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise MissingDependency(
                f"the raster renderer on {device} needs a CUDA device and a torch built for it",
                hint="use the device 'cpu', or the numba renderer",
            )
        self.batch_views = batch_views

    def describe(self, settings: RenderSettings) -> str:
        """The light."""
        return f"light {settings.light}"

    def open(self, asset: Mesh | Path) -> TorchRasterScene:
        """A mesh, or a file that :func:`..meshes.load.load_mesh` reads, ready to be rendered."""
        return TorchRasterScene(RasterRenderer().open(asset).mesh, self.device, self.batch_views)

    def close(self) -> None:
        """Give cached device memory back."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def render(self, mesh: Mesh, cameras: Camera, settings: RenderSettings) -> Views:
        """Open ``mesh`` and render it as it is; see :meth:`TorchRasterScene.render`."""
        return self.open(mesh).render(cameras, settings)


@dataclass(frozen=True)
class _Images:
    """Images of a batch on the device; the fields of :class:`.base.Views`, pixels flattened."""

    rgba: torch.Tensor
    depth: torch.Tensor
    normal: torch.Tensor
    albedo: torch.Tensor


@dataclass(frozen=True)
class _Look:
    """What the views of one call share.

    Attributes:
        surface: The mesh.
        light: What light makes of base colours.
        encode: uint8 ``[65536]``, sRGB of every uint16 linear value.
        height: Of an image (pixels).
        width: Of an image (pixels).
        supersample: Samples per pixel along each axis.
    """

    surface: Surface
    light: Light
    encode: torch.Tensor
    height: int
    width: int
    supersample: int


@dataclass(frozen=True)
class TorchRasterScene:
    """Implements :class:`g3d.renderers.base.Scene`."""

    mesh: Mesh
    device: torch.device
    batch_views: int | None = None

    @torch.no_grad()
    def render(
        self, cameras: Camera, settings: RenderSettings, transform: np.ndarray | None = None
    ) -> Views:
        """Render once from each of ``cameras`` (``[N]``), in batches.

        Raises:
            AssetError: ``memory``: more triangles than the id channel can count, or not even one
                view fits into the device's memory.
        """
        mesh = self.mesh if transform is None else transformed(self.mesh, transform)
        if len(mesh.faces) > FLOAT_IDS:
            raise AssetError("memory", f"{len(mesh.faces)} triangles", stage="render")
        height, width = settings.resolution
        count = len(cameras)
        views = Views(
            np.zeros((count, height, width, 4), np.uint8),
            np.zeros((count, height, width), np.float32),
            np.zeros((count, height, width, 3), np.float32),
            np.zeros((count, height, width, 3), np.uint8),
        )
        if not len(mesh.faces) or not count:
            return views
        look = _Look(
            surface=upload(pack(mesh, settings), self.device),
            light=light_of(shading.LIGHTS[settings.light]),
            encode=torch.tensor(mipmaps.ENCODE, device=self.device),
            height=height,
            width=width,
            supersample=settings.supersample,
        )
        matrices = cameras.world_to_clip(width / height)
        batch = self.batch_views or _fitting(look, count, self.device)

        def job(part: slice) -> None:
            _copy(_batch(look, matrices[part], cameras.eye[part]), views, part)

        _in_batches(job, count, batch, self.device)
        return views


def _in_batches(job: Callable[[slice], None], count: int, batch: int, device: torch.device) -> None:
    """Do ``count`` views, ``batch`` at once, fewer where memory runs out.

    Raises:
        AssetError: ``memory``: one view is too much.
    """
    done = 0
    while done < count:
        part = slice(done, min(done + batch, count))
        short = ""
        try:
            job(part)
            done = part.stop
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            short = str(error).splitlines()[0]
        # After the handler: the error holds the frames, and with them the tensors of the batch.
        if short:
            batch = (part.stop - part.start) // 2
            if not batch:
                raise AssetError("memory", f"one view is too large: {short}", stage="render")
            if device.type == "cuda":
                torch.cuda.empty_cache()


def _out_of_memory(error: RuntimeError) -> bool:
    # By its text, for nvdiffrast asks CUDA itself and its failures are plain runtime errors.
    return "out of memory" in str(error).lower()


def _bytes_of_view(look: _Look) -> int:
    """Most bytes that a view takes, apart from what is worked on at the moment."""
    surface = look.surface
    samples = look.height * look.width * look.supersample**2
    # float64 clip coordinates and facing, then what stays.
    setup = 80 * len(surface.vertices) + 60 * len(surface.tri)
    return samples * SAMPLE_BYTES[compiled(surface)] + 40 * look.height * look.width + setup


def _fitting(look: _Look, count: int, device: torch.device) -> int:
    """How many views to render at once."""
    budget = CPU_BUDGET
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        budget = int(SHARE * free) - WORKING
    return max(1, min(count, MOST_VIEWS, budget // _bytes_of_view(look)))


def _batch(look: _Look, matrices: np.ndarray, eyes: np.ndarray) -> _Images:
    """Render the views of one batch."""
    size = (look.height * look.supersample, look.width * look.supersample)
    projected = project(look.surface, matrices, eyes, size)
    return _resolve(look, projected, visible(look.surface, projected))


def _chunk(device: torch.device) -> int:
    return CHUNK.get(device.type, CHUNK["cpu"])


def _resolve(look: _Look, projected: Projected, ids: torch.Tensor) -> _Images:
    """Shade the samples that hit something and average them over the pixels."""
    views, _, columns = ids.shape
    s, height, width = look.supersample, look.height, look.width
    device, pixels = ids.device, views * height * width
    images = _Images(
        rgba=torch.zeros((pixels, 4), dtype=torch.uint8, device=device),
        depth=torch.zeros(pixels, device=device),
        normal=torch.zeros((pixels, 3), device=device),
        albedo=torch.zeros((pixels, 3), dtype=torch.uint8, device=device),
    )
    hit = (ids > 0).view(views * height, s, width, s).any(3).any(1)
    across = torch.arange(s, device=device)
    inside = (across[:, None] * columns + across).view(-1)
    flat = ids.view(-1)
    for pixel in hit.view(-1).nonzero()[:, 0].split(max(1, _chunk(device) // s**2)):
        row, column = pixel // width, pixel % width
        sample = ((row * (s * columns) + column * s)[:, None] + inside).view(-1)
        face = flat[sample]
        place = (face > 0).nonzero()[:, 0]
        count = (face > 0).view(-1, s * s).sum(1)
        values = _shade(look, projected, sample[place], face[place].to(torch.int64) - 1)
        grid = values.new_zeros((len(sample), values.shape[1]))
        grid[place] = values
        # Row 0 of the samples is at the bottom, row 0 of an image at the top.
        upright = (row // height * height + height - 1 - row % height) * width + column
        _average(look, images, upright, grid.view(len(pixel), s * s, values.shape[1]), count)
    return images


def _shade(
    look: _Look, projected: Projected, sample: torch.Tensor, face: torch.Tensor
) -> torch.Tensor:
    """Light (3), base colour (3), depth (1) and normal (3) of samples: float32 ``[n, 10]``."""
    samples = take(look.surface, projected, sample, face)
    color = base_color(look.surface, projected, samples)
    normal = shading_normal(look.surface, projected, samples)
    lit = look.light(look.surface, projected, samples, color, normal)
    return torch.cat([lit, color, samples.w[:, None], normal], dim=1)


def _average(
    look: _Look, images: _Images, pixel: torch.Tensor, grid: torch.Tensor, count: torch.Tensor
) -> None:
    """Write the means over ``grid`` ``[p, s s, 10]``, of which ``count`` ``[p]`` samples hit."""
    # Sums in float64 hardly depend on their order, and so not on the size of the batch.
    total = grid.sum(1, dtype=torch.float64)
    mean = total / count[:, None]
    levels = (mean[:, :6] * 65535.0 + 0.5).clamp(0.0, 65535.0).to(torch.int64)
    color = look.encode[levels]
    alpha = (255.0 * count / look.supersample**2 + 0.5).to(torch.uint8)
    images.rgba[pixel] = torch.cat([color[:, :3], alpha[:, None]], dim=1)
    images.albedo[pixel] = color[:, 3:]
    images.depth[pixel] = mean[:, 6].to(torch.float32)
    normal = total[:, 7:]
    length = torch.linalg.vector_norm(normal, dim=1, keepdim=True)
    # Opposite samples cancel: any of them is as good as another; the last, as in `shading`.
    filled = grid[..., 6] > 0
    last = filled.shape[1] - 1 - filled.flip(1).to(torch.uint8).argmax(1)
    one = grid[torch.arange(len(grid), device=grid.device), last, 7:]
    unit = torch.where(length > 1e-6, normal / length.clamp(min=1e-6), one)
    images.normal[pixel] = unit.to(torch.float32)


def _copy(images: _Images, views: Views, part: slice) -> None:
    """Put the images of a batch into their place in the result."""
    for field in fields(images):
        target = torch.from_numpy(getattr(views, field.name)[part])
        target.copy_(getattr(images, field.name).view(target.shape))
