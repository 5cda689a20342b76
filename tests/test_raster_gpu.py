"""The torch raster renderer on CUDA against the numba one, and its memory."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from g3d.renderers.base import RenderSettings, Views
from g3d.renderers.cameras import orbit
from g3d.renderers.meshes import Mesh
from g3d.renderers.raster import RasterRenderer, torch_renderer
from g3d.renderers.raster.torch_renderer import TorchRasterRenderer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def _beside(name: str) -> ModuleType:
    """Another test file, for its meshes."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its dataclass looks for its own module while it is made.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
    return module


cpu = _beside("test_raster_torch")
LOOK = RenderSettings(size=128)
MANY = orbit(np.linspace(0, 12, 64), np.linspace(-1.4, 1.4, 64), 1.4, cpu.FOV)


@pytest.fixture(autouse=True)
def whole_memory() -> Iterator[None]:
    torch.cuda.empty_cache()
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def cuda_views(mesh: Mesh, cameras, look: RenderSettings, batch: int | None = None) -> Views:
    return TorchRasterRenderer("cuda", batch).render(mesh, cameras, look)


def assert_agrees(want: Views, got: Views) -> None:
    found = cpu.difference(want, got)
    alpha = np.abs(want.rgba[..., 3].astype(int) - got.rgba[..., 3])
    assert (alpha == 0).mean() >= 0.998, found
    assert found.same >= 0.995, found
    assert found.mean < 0.1, found
    assert found.geometry >= 0.998, found


@pytest.mark.parametrize("shape", cpu.SHAPES)
@pytest.mark.parametrize("shot", cpu.SHOTS)
def test_agrees_with_numba(shape: str, shot: str) -> None:
    mesh, look = cpu.SHAPES[shape], cpu.SHOTS[shot]
    want = RasterRenderer().render(mesh, cpu.CAMERAS, look)
    assert_agrees(want, cuda_views(mesh, cpu.CAMERAS, look))


def test_albedo_agrees_with_numba() -> None:
    mesh, look = cpu.SHAPES["mixed"], cpu.SHOTS["rig"]
    want = RasterRenderer().render(mesh, cpu.CAMERAS, look)
    assert cpu.difference(want, cuda_views(mesh, cpu.CAMERAS, look)).albedo >= 0.995


def test_64_views_in_one_call() -> None:
    mesh = cpu.SHAPES["mixed"]
    got = cuda_views(mesh, MANY, LOOK, 64)
    assert_agrees(RasterRenderer().render(mesh, MANY, LOOK), got)
    cpu.assert_same(cuda_views(mesh, MANY, LOOK, 64), got)  # the same bits again
    for batch in (1, 7):
        cpu.assert_same(cuda_views(mesh, MANY, LOOK, batch), got)


@pytest.mark.parametrize("shape", ["textured", "mixed"])
def test_a_view_takes_no_more_memory_than_is_reckoned(
    shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `auto` counts on."""
    reckoned: list[int] = []
    bytes_of_view = torch_renderer._bytes_of_view

    def noted(look):
        reckoned.append(bytes_of_view(look))
        return reckoned[-1]

    monkeypatch.setattr(torch_renderer, "_bytes_of_view", noted)
    look = RenderSettings(size=256)
    cuda_views(cpu.SHAPES[shape], MANY[:8], look)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    cuda_views(cpu.SHAPES[shape], MANY[:8], look)
    peak = torch.cuda.max_memory_allocated() - before
    bound = 8 * reckoned[-1] + torch_renderer.WORKING
    assert peak < bound, f"{peak / 1e6:.0f} MB, reckoned {bound / 1e6:.0f} MB"


def test_a_full_device_halves_the_batch() -> None:
    mesh = cpu.SHAPES["textured"]
    want = cuda_views(mesh, MANY, LOOK, 8)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    cuda_views(mesh, MANY, LOOK, 8)
    limit = 1.3 * torch.cuda.max_memory_reserved()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(limit / total)
    cpu.assert_same(cuda_views(mesh, MANY, LOOK, 64), want)
    assert torch.cuda.max_memory_reserved() <= limit
