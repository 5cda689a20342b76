"""The Khronos validator finds no error in an exported GLB. Needs node and npm's gltf-validator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import trimesh
from g3d.renderers.meshes import Mesh
from g3d.trainer.export.driver import ExportConfig, texture_mesh
from g3d.trainer.export.glb import encode_glb
from g3d.trainer.export.verify import khronos_issues, validator_modules

needs_validator = pytest.mark.skipif(
    validator_modules() is None,
    reason="needs node, and gltf-validator: npm install --prefix third_party gltf-validator",
)


@dataclass
class Blob:
    seed: int
    body: trimesh.Trimesh

    def to_mesh(self) -> Mesh:
        return Mesh(
            np.asarray(self.body.vertices, np.float32), np.asarray(self.body.faces, np.int64)
        )

    def color(self, points: np.ndarray) -> np.ndarray:
        return np.clip(points + 0.5, 0, 1).astype(np.float32)

    def render(self, cameras, size):
        raise NotImplementedError


def bodies() -> dict[str, trimesh.Trimesh]:
    rng = np.random.default_rng(0)
    noisy = trimesh.creation.icosphere(4, 0.4)
    noisy.vertices += rng.normal(0, 0.004, noisy.vertices.shape)
    flat = trimesh.creation.box((0.8, 0.001, 0.8)).subdivide()
    two = trimesh.util.concatenate([trimesh.creation.box((0.1,) * 3), noisy])
    # Opposite windings in one place: the normals cancel, and must still be unit vectors.
    sheet = trimesh.Trimesh(
        np.array([[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0]]), [[0, 1, 2], [0, 2, 1]], process=False
    )
    return {"noisy": noisy, "flat": flat, "two": two, "sheet": sheet}


@needs_validator
@pytest.mark.parametrize("texture_format", ["png", "jpeg"])
@pytest.mark.parametrize("name", ["noisy", "flat", "two", "sheet"])
def test_no_errors_and_no_warnings(tmp_path, name, texture_format):
    config = ExportConfig(texture_size=128, texture_format=texture_format)
    mesh, _ = texture_mesh(Blob(0, bodies()[name]), config)
    path = tmp_path / "x.glb"
    path.write_bytes(
        encode_glb(mesh, texture_format=texture_format, extras={"seed": 0, "psi": 0.7})
    )
    found = khronos_issues(path)
    assert found.errors == 0, found.messages
    assert found.warnings == 0, found.messages


@needs_validator
def test_the_validator_would_complain(tmp_path):
    mesh, _ = texture_mesh(Blob(0, bodies()["noisy"]), ExportConfig(texture_size=32))
    path = tmp_path / "bad.glb"
    data = bytearray(encode_glb(mesh))
    at = data.index(b'"POSITION"')
    data[at : at + 10] = b'"POSITIOM"'
    path.write_bytes(data)
    assert khronos_issues(path).errors > 0
