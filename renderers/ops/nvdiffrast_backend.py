"""The CUDA backend: an adapter to nvdiffrast 0.3.2 or later, where that package is installed.

nvdiffrast is NVIDIA's, under a licence for non-commercial use; g3d neither contains nor installs
it. What it refuses or leaves undefined (empty meshes, batches without a triangle, vertices that are
not finite, indices that an attribute buffer lacks) goes to the torch reference on the same device.
Its gradients are summed with atomics: two equal runs differ in the last bits.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import threading
from functools import cache
from typing import Any

import torch

from .backend import Topology
from .torch_antialiasing import opposite_vertices
from .torch_backend import TorchBackend

log = logging.getLogger(__name__)


@cache
def nvdiffrast_module() -> Any | None:
    """``nvdiffrast.torch``, or None where it is not installed or does not load."""
    if importlib.util.find_spec("nvdiffrast") is None:
        return None
    try:
        return importlib.import_module("nvdiffrast.torch")
    except (ImportError, OSError) as error:  # built for another torch, or without its extension
        log.warning("nvdiffrast does not load, the torch backend is used: %s", error)
        return None


def _aligned(tensor: torch.Tensor) -> torch.Tensor:
    # nvdiffrast reads four floats at once; a contiguous view may begin in between.
    return tensor.clone() if tensor.data_ptr() % 16 else tensor


class NvdiffrastBackend:
    """nvdiffrast on CUDA tensors.

    One rasteriser context a device, made on first use; calls on one device wait for one another.
    Callers that rasterise on several CUDA streams of one device must order the streams themselves.

    Args:
        module: ``nvdiffrast.torch``.
    """

    name = "nvdiffrast"

    def __init__(self, module: Any) -> None:
        self._module = module
        self._reference = TorchBackend()
        self._contexts: dict[torch.device, Any] = {}
        self._lock = threading.Lock()

    def _context(self, device: torch.device) -> Any:
        if device not in self._contexts:
            self._contexts[device] = self._module.RasterizeCudaContext(device=device)
        return self._contexts[device]

    def rasterize(
        self,
        pos: torch.Tensor,
        tri: torch.Tensor,
        resolution: tuple[int, int],
        ranges: torch.Tensor | None,
        want_db: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See :class:`.backend.Backend`."""
        empty = pos.numel() == 0 or len(tri) == 0
        if ranges is not None:
            empty = empty or not bool((ranges[:, 1] > 0).any())
        # The kernel draws triangles with such vertices somewhere. It waits for the device in any
        # case, so that asking costs little.
        if empty or not bool(torch.isfinite(pos.detach()).all()):
            return self._reference.rasterize(pos, tri, resolution, ranges, want_db)
        with self._lock:
            rast, rast_db = self._module.rasterize(
                self._context(pos.device), _aligned(pos), tri, resolution, ranges, grad_db=want_db
            )
        return rast, rast_db if want_db else rast.new_zeros((*rast.shape[:3], 0))

    def interpolate(
        self, attr: torch.Tensor, rast: torch.Tensor, tri: torch.Tensor
    ) -> torch.Tensor:
        """See :class:`.backend.Backend`."""
        empty = attr.numel() == 0 or rast.numel() == 0 or len(tri) == 0
        # Pixels of triangles without such vertices would keep what the memory held before.
        if empty or bool(((tri < 0) | (tri >= attr.shape[1])).any()):
            return self._reference.interpolate(attr, rast, tri)
        out, _ = self._module.interpolate(attr, _aligned(rast), tri)
        return out

    def antialias(
        self,
        color: torch.Tensor,
        rast: torch.Tensor,
        pos: torch.Tensor,
        tri: torch.Tensor,
        topology: Topology,
        pos_gradient_boost: float,
    ) -> torch.Tensor:
        """See :class:`.backend.Backend`."""
        if color.numel() == 0 or pos.numel() == 0 or len(tri) == 0:
            return self._reference.antialias(color, rast, pos, tri, topology, pos_gradient_boost)
        native = topology.native
        if native is None:
            native = self._module.antialias_construct_topology_hash(tri)
        images = len(rast) if pos.ndim == 3 else 1
        # Image by image: nvdiffrast 0.4 sums the gradients of a triangle's edge over neighbouring
        # threads before it writes them, whichever image of an instanced batch they are from, so
        # that some reach the vertex of another image. In range mode no two images share triangles.
        parts = [
            self._module.antialias(
                color[part],
                _aligned(rast.detach()[part]),
                _aligned(pos[part] if pos.ndim == 3 else pos),
                tri,
                topology_hash=native,
                pos_gradient_boost=pos_gradient_boost,
            )
            for part in (slice(n, n + 1) if images > 1 else slice(None) for n in range(images))
        ]
        return torch.cat(parts)

    def build_topology(self, tri: torch.Tensor) -> Topology:
        """See :class:`.backend.Backend`; both kinds of table, ours and nvdiffrast's."""
        native = self._module.antialias_construct_topology_hash(tri) if len(tri) else None
        return Topology(opposite_vertices(tri), native)
