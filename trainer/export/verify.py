"""Checking exported files: the Khronos validator's findings, and colours against the generator."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import MissingDependency
from ..asset import Asset

MODULES = "G3D_GLTF_VALIDATOR"
"""Environment variable: the ``node_modules`` folder that holds npm's ``gltf-validator``."""

_SCRIPT = """
const fs = require("fs"), validator = require("gltf-validator");
validator.validateBytes(new Uint8Array(fs.readFileSync(process.argv[1])))
  .then(report => console.log(JSON.stringify(report.issues)));
"""


@dataclass(frozen=True)
class Issues:
    """What the Khronos validator found in a file."""

    errors: int
    warnings: int
    messages: tuple[str, ...]


@dataclass(frozen=True)
class ColorError:
    """Distance of a file's colours from the generator's, sRGB 0..1, largest channel.

    Attributes:
        mean: Over random surface points.
        p99: 99th percentile.
    """

    mean: float
    p99: float


def validator_modules() -> Path | None:
    """The ``node_modules`` folder with ``gltf-validator``, or None where it or node is missing."""
    place = os.environ.get(MODULES)
    folder = Path(place) if place else Path(__file__).parents[2] / "third_party" / "node_modules"
    there = (folder / "gltf-validator" / "package.json").is_file()
    return folder if there and shutil.which("node") else None


def khronos_issues(path: Path) -> Issues:
    """Run the Khronos glTF validator on a file.

    Raises:
        MissingDependency: No node, or no ``gltf-validator``.
    """
    modules = validator_modules()
    if modules is None:
        raise MissingDependency(
            "the Khronos validator is not installed",
            hint="npm install --prefix third_party gltf-validator (needs node)",
        )
    done = subprocess.run(
        ["node", "-e", _SCRIPT, str(path)],
        env={**os.environ, "NODE_PATH": str(modules)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = json.loads(done.stdout)
    messages = tuple(f"{m['code']}: {m['message']}" for m in found["messages"])
    return Issues(int(found["numErrors"]), int(found["numWarnings"]), messages)


def color_error(path: Path, asset: Asset, count: int = 10_000, seed: int = 0) -> ColorError:
    """Compare a textured GLB with the texture field of the asset that it was made from.

    The file is read back with trimesh, as another program would; its texture is looked up
    bilinearly at random points of its surface.

    Args:
        path: A GLB with one mesh and one base colour texture.
        asset: The asset of the same seed.
        count: Surface points.
        seed: Of the points.
    """
    import trimesh
    from scipy.ndimage import map_coordinates

    mesh = trimesh.load(path, force="mesh", process=False)
    rng = np.random.default_rng(seed)
    face = rng.choice(len(mesh.faces), count, p=mesh.area_faces / mesh.area_faces.sum())
    weight = rng.dirichlet(np.ones(3), count)[..., None]
    points = (mesh.vertices[mesh.faces[face]] * weight).sum(axis=1)
    uv = (mesh.visual.uv[mesh.faces[face]] * weight).sum(axis=1)  # origin bottom-left
    image = mesh.visual.material.baseColorTexture.convert("RGB")
    texture = np.asarray(image, dtype=np.float64) / 255.0
    height, width = texture.shape[:2]
    at = np.stack([(1.0 - uv[:, 1]) * height - 0.5, uv[:, 0] * width - 0.5])
    found = [map_coordinates(texture[..., k], at, order=1, mode="nearest") for k in range(3)]
    wanted = asset.color(points.astype(np.float32))
    error = np.abs(np.stack(found, axis=1) - wanted).max(axis=1)
    return ColorError(float(error.mean()), float(np.percentile(error, 99)))
