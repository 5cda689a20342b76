"""A sample of a trained GET3D generator."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from ...config import seed_for
from ...renderers.cameras import Camera
from ...renderers.meshes import Mesh
from ..isosurface.marching import MeshBatch
from ..networks.mapping import Codes
from .generator import Generator
from .render import render


class _State(NamedTuple):
    planes: Any
    codes: Codes
    meshes: MeshBatch


class GET3DAsset:
    """One shape with its texture field; implements :class:`g3d.trainer.asset.Asset`."""

    CHUNK = 65536  # texture queries at once

    def __init__(
        self, generator: Generator, seed: int, psi: float, label: int | None = None
    ) -> None:
        self.seed, self.psi, self.label = seed, psi, label
        self._generator = generator

    @cached_property
    def _state(self) -> _State:
        g = self._generator
        rng = np.random.default_rng(seed_for("latent", self.seed))
        z = rng.standard_normal((2, 1, g.config.network.z_dim), dtype=np.float32)
        with torch.no_grad():
            z_geo, z_tex = torch.from_numpy(z).to(g.device).unbind(0)
            codes = g.map(z_geo, z_tex, self.psi, self._label())
            planes = g.planes(codes)
            return _State(planes, codes, g.meshes(g.field(planes, codes)))

    def _label(self) -> torch.Tensor | None:
        """The class ``[1, classes]`` of the asset, where the generator has classes."""
        classes = self._generator.config.network.label_dim
        if not classes:
            return None
        rng = np.random.default_rng(seed_for("label", self.seed))
        index = int(rng.integers(classes)) if self.label is None else self.label
        return torch.eye(classes, device=self._generator.device)[index][None]

    def to_mesh(self) -> Mesh:
        """The surface, world units."""
        vertices, faces = self._state.meshes.sample(0)
        return Mesh(vertices.cpu().numpy().astype(np.float32), faces.cpu().numpy().astype(np.int64))

    @torch.no_grad()
    def color(self, points: np.ndarray) -> np.ndarray:
        """The texture field at ``points [P, 3]``: sRGB in [0, 1]."""
        device = self._generator.device
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
        device = self._generator.device
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
        state = self._state
        return self._generator.colors(state.planes, state.codes, points)
