"""The nvdiffrast adapter without a GPU: a stand-in with nvdiffrast's demands does its work."""

from __future__ import annotations

import importlib.util
import sys
import types

import pytest
import torch
from g3d.errors import MissingDependency
from g3d.renderers.ops import nvdiffrast_backend, registry
from g3d.renderers.ops.backend import Topology
from g3d.renderers.ops.nvdiffrast_backend import NvdiffrastBackend, nvdiffrast_module
from g3d.renderers.ops.torch_backend import TorchBackend

CUDA = torch.device("cuda")


class StandIn:
    """What the adapter uses of ``nvdiffrast.torch``: its demands, the torch backend's results."""

    def __init__(self):
        self.calls, self.hashes = [], []
        self._torch = TorchBackend()

    class RasterizeCudaContext:
        made = 0

        def __init__(self, device=None):
            type(self).made += 1
            self.device = device

    def _demand(self, *tensors):
        for tensor in tensors:
            assert tensor.is_contiguous()
            assert tensor.numel() > 0

    def rasterize(self, context, pos, tri, resolution, ranges=None, grad_db=True):
        assert isinstance(context, self.RasterizeCudaContext)
        assert grad_db is True or grad_db is False
        self._demand(pos, tri)
        assert pos.data_ptr() % 16 == 0
        assert torch.isfinite(pos).all()
        if ranges is not None:
            assert ranges.device.type == "cpu"
            assert ranges[:, 1].sum() > 0  # otherwise it would launch an empty grid
        self.calls.append(("rasterize", grad_db))
        return self._torch.rasterize(pos, tri, resolution, ranges, True)

    def interpolate(self, attr, rast, tri):
        self._demand(attr, rast, tri)
        assert rast.data_ptr() % 16 == 0
        assert int(tri.min()) >= 0
        assert int(tri.max()) < attr.shape[1]
        self.calls.append(("interpolate", len(attr)))
        out = self._torch.interpolate(attr, rast, tri)
        return out, out.new_zeros((*out.shape[:3], 0))

    def antialias(self, color, rast, pos, tri, topology_hash=None, pos_gradient_boost=1.0):
        self._demand(color, rast, pos, tri)
        assert pos.data_ptr() % 16 == 0
        assert not rast.requires_grad
        self.calls.append(("antialias", topology_hash))
        own = self._torch.build_topology(tri)
        return self._torch.antialias(color, rast, pos, tri, own, pos_gradient_boost)

    def antialias_construct_topology_hash(self, tri):
        self._demand(tri)
        self.hashes.append(object())
        return self.hashes[-1]


@pytest.fixture
def module():
    StandIn.RasterizeCudaContext.made = 0
    return StandIn()


@pytest.fixture
def backend(module):
    return NvdiffrastBackend(module)


def scene():
    corners = [[-0.8, -0.9, 0, 1], [0.9, -0.7, 0, 1], [0.1, 0.8, 0, 1], [-0.9, 0.7, 0.2, 1]]
    tri = torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32)
    return torch.tensor([corners, corners[::-1]]), tri


def test_it_serves_cuda_tensors_where_it_is_installed(monkeypatch, module):
    chosen = {}
    for found in (module, None):
        monkeypatch.setattr(nvdiffrast_backend, "nvdiffrast_module", lambda found=found: found)
        chosen[found] = registry.default_backend(CUDA)
        assert registry.default_backend(torch.device("cpu")) == "numba"
        assert registry.default_backend(torch.device("xpu")) == "torch"
    assert chosen == {module: "nvdiffrast", None: "torch"}


def test_it_refuses_other_devices_and_says_what_is_missing(monkeypatch):
    with pytest.raises(ValueError, match="works on cuda tensors, not on cpu"):
        registry.get_backend("nvdiffrast", torch.device("cpu"))
    monkeypatch.setattr(nvdiffrast_backend, "nvdiffrast_module", lambda: None)
    with pytest.raises(MissingDependency, match="not installed") as caught:
        registry.BACKENDS["nvdiffrast"].load()
    assert "'torch'" in caught.value.hint


def test_the_package_is_looked_for_once_and_a_broken_one_is_no_error(monkeypatch, caplog):
    asked = []

    def find_spec(name):
        asked.append(name)
        return None if len(asked) == 1 else object()

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    nvdiffrast_module.cache_clear()
    try:
        assert nvdiffrast_module() is None
        assert nvdiffrast_module() is None
        assert asked == ["nvdiffrast"]
        # Installed, but built for another torch.
        nvdiffrast_module.cache_clear()
        monkeypatch.setitem(sys.modules, "nvdiffrast.torch", None)
        monkeypatch.setitem(sys.modules, "nvdiffrast", types.ModuleType("nvdiffrast"))
        assert nvdiffrast_module() is None
        assert "does not load" in caplog.text
    finally:
        nvdiffrast_module.cache_clear()


@pytest.mark.parametrize("ranged", [False, True])
def test_all_ops_pass_through(backend, module, ranged):
    pos, tri = scene()
    ranges = torch.tensor([[0, 2], [1, 1], [0, 0]], dtype=torch.int32) if ranged else None
    leaf = (pos[0] if ranged else pos).clone().requires_grad_()
    rast, db = backend.rasterize(leaf, tri, (9, 13), ranges, False)
    assert rast.shape == (3 if ranged else 2, 9, 13, 4)
    assert db.shape == (*rast.shape[:3], 0)
    _, db = backend.rasterize(leaf, tri, (9, 13), ranges, True)
    assert db.shape == rast.shape
    out = backend.interpolate(leaf[None] if ranged else leaf, rast, tri)
    topology = backend.build_topology(tri)
    image = backend.antialias(out, rast, leaf, tri, topology, 2.0)
    reference = TorchBackend()
    wanted = reference.antialias(out, rast.detach(), leaf, tri, reference.build_topology(tri), 2.0)
    assert torch.equal(image, wanted)
    image.sum().backward()
    assert leaf.grad.abs().sum() > 0
    assert module.calls == [
        ("rasterize", False),
        ("rasterize", True),
        ("interpolate", 1 if ranged else 2),
        *[("antialias", module.hashes[0])] * (1 if ranged else 2),  # an instanced image at a time
    ]
    assert len(module.hashes) == 1
    assert module.RasterizeCudaContext.made == 1


def test_a_topology_without_nvdiffrasts_table_gets_one(backend, module):
    pos, tri = scene()
    rast, _ = backend.rasterize(pos, tri, (8, 8), None, False)
    built = backend.build_topology(tri)
    assert torch.equal(built.opposite, TorchBackend().build_topology(tri).opposite)
    backend.antialias(rast[..., :1].contiguous(), rast, pos, tri, Topology(built.opposite), 1.0)
    assert module.calls[-1] == ("antialias", module.hashes[-1])
    assert len(module.hashes) == 2, "built once for all images"


@pytest.mark.parametrize(("vertices", "triangles"), [(0, 0), (3, 0), (0, 2)])
def test_empty_meshes_give_zeros(backend, module, vertices, triangles):
    pos = torch.ones((2, vertices, 4), requires_grad=True)
    tri = torch.zeros((triangles, 3), dtype=torch.int32)
    rast, db = backend.rasterize(pos, tri, (6, 5), None, True)
    assert rast.shape == db.shape == (2, 6, 5, 4)
    out = backend.interpolate(pos, rast, tri)
    color = torch.rand((2, 6, 5, 3))
    topology = Topology(torch.full((triangles, 3), -1, dtype=torch.int32))
    if not triangles:
        assert backend.build_topology(tri).native is None
    assert torch.equal(backend.antialias(color, rast, pos, tri, topology, 1.0), color)
    assert not rast.any()
    assert not out.any()
    (rast.sum() + out.sum()).backward()
    assert pos.grad.shape == pos.shape
    assert not pos.grad.any()
    assert not module.calls


def test_a_batch_without_triangles_gives_zeros(backend, module):
    pos, tri = scene()
    for ranges in ([[0, 0], [2, 0]], []):
        given = torch.tensor(ranges, dtype=torch.int32).reshape(-1, 2)
        rast, _ = backend.rasterize(pos[0], tri, (6, 5), given, False)
        assert rast.shape == (len(ranges), 6, 5, 4)
        assert not rast.any()
    assert not module.calls


def test_what_nvdiffrast_leaves_undefined_goes_to_the_reference(backend, module):
    pos, tri = scene()
    broken = pos.clone()
    broken[1, 3, 1] = float("nan")
    rast, _ = backend.rasterize(broken, tri, (12, 12), None, False)
    assert torch.isfinite(rast).all()
    assert set(rast[0, ..., 3].unique().tolist()) == {0, 1, 2}
    assert set(rast[1, ..., 3].unique().tolist()) == {0, 1}
    for bad in (-1, 4):
        faces = tri.clone()
        faces[1, 2] = bad
        out = backend.interpolate(torch.ones((1, 4, 1)), rast, faces)
        torch.testing.assert_close(out[..., 0], (rast[..., 3] == 1).float())
    assert not module.calls


def test_views_that_begin_between_four_floats_are_copied(backend, module):
    pos, tri = scene()
    buffer = torch.zeros(pos.numel() + 1)
    shifted = buffer[1:].view(pos.shape)
    shifted.copy_(pos)
    assert shifted.data_ptr() % 16
    rast, _ = backend.rasterize(shifted, tri, (8, 8), None, False)
    color = torch.rand((2, 8, 8, 1))
    backend.antialias(color, rast, shifted, tri, backend.build_topology(tri), 1.0)
    assert len(module.calls) == 3
