"""A sample of a trained GET3D generator."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from ...config import seed_for
from ...renderers.cameras import Camera
from ...renderers.meshes import Mesh
from ..isosurface.marching import MeshBatch
from ..networks.synthesis import Planes
from .generator import Generator
from .render import render


class _State(NamedTuple):
    planes: Planes
    w_tex: torch.Tensor
    meshes: MeshBatch


class GET3DAsset:
    """One shape with its texture field; implements :class:`g3d.trainer.asset.Asset`."""

    CHUNK = 65536  # texture queries at once

    def __init__(self, generator: Generator, seed: int, psi: float) -> None:
        self.seed, self.psi = seed, psi
        self._generator = generator

    @cached_property
    def _state(self) -> _State:
        g = self._generator
        rng = np.random.default_rng(seed_for("latent", self.seed))
        z = rng.standard_normal((2, 1, g.config.z_dim), dtype=np.float32)
        with torch.no_grad():
            z_geo, z_tex = torch.from_numpy(z).to(g.base.device).unbind(0)
            w_geo, w_tex = g.map(z_geo, z_tex, self.psi)
            planes = g.planes(w_geo, w_tex)
            return _State(planes, w_tex, g.meshes(g.field(planes)))

    def to_mesh(self) -> Mesh:
        """The surface, world units."""
        vertices, faces = self._state.meshes.sample(0)
        return Mesh(vertices.cpu().numpy().astype(np.float32), faces.cpu().numpy().astype(np.int64))

    @torch.no_grad()
    def color(self, points: np.ndarray) -> np.ndarray:
        """The texture field at ``points [P, 3]``: sRGB in [0, 1]."""
        device = self._generator.base.device
        parts = [
            self._query(
                torch.from_numpy(np.ascontiguousarray(chunk, dtype=np.float32)).to(device)[None]
            )[0]
            for chunk in np.array_split(points, max(1, -(-len(points) // self.CHUNK)))
        ]
        return torch.cat(parts).cpu().numpy()

    @torch.no_grad()
    def render(self, cameras: Camera, size: int) -> np.ndarray:
        """uint8 ``[N, size, size, 4]``, straight alpha."""
        matrices = torch.from_numpy(cameras.world_to_clip()).float()[:, None]
        device = self._generator.base.device
        images = render(
            self._state.meshes,
            matrices.to(device),
            self._query,
            size,
            supersample=4,
            color_samples=2,
        )
        rgba = torch.cat([images.rgb, images.alpha], dim=1).clamp(0, 1)
        return (rgba * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()

    def _query(self, points: torch.Tensor) -> torch.Tensor:
        return self._generator.colors(self._state.planes, points, self._state.w_tex)
