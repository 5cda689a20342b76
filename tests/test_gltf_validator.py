"""The Khronos validator finds no error in an exported GLB. Needs node and npm's gltf-validator."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import trimesh
from g3d.renderers.meshes import Mesh
from g3d.trainer.export.driver import ExportConfig, texture_mesh
from g3d.trainer.export.glb import encode_glb

MODULES = Path(
    os.environ.get("G3D_GLTF_VALIDATOR")
    or Path(__file__).resolve().parents[1] / "third_party" / "node_modules"
)
SCRIPT = """
const fs = require("fs"), validator = require("gltf-validator");
validator.validateBytes(new Uint8Array(fs.readFileSync(process.argv[1])))
  .then(report => console.log(JSON.stringify(report.issues)));
"""

needs_validator = pytest.mark.skipif(
    not (shutil.which("node") and (MODULES / "gltf-validator" / "package.json").exists()),
    reason="needs node, and gltf-validator: npm install --prefix third_party gltf-validator",
)


def issues(path: Path) -> dict:
    done = subprocess.run(
        ["node", "-e", SCRIPT, str(path)],
        env={**os.environ, "NODE_PATH": str(MODULES)},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


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
    found = issues(path)
    assert found["numErrors"] == 0, found["messages"]
    assert found["numWarnings"] == 0, found["messages"]


@needs_validator
def test_the_validator_would_complain(tmp_path):
    mesh, _ = texture_mesh(Blob(0, bodies()["noisy"]), ExportConfig(texture_size=32))
    path = tmp_path / "bad.glb"
    data = bytearray(encode_glb(mesh))
    at = data.index(b'"POSITION"')
    data[at : at + 10] = b'"POSITIOM"'
    path.write_bytes(data)
    assert issues(path)["numErrors"] > 0
