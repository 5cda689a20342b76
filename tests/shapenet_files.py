"""Small assets in the layouts of ShapeNetCore, for tests."""

from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

BIKE = "03790512"
FRONT = {"v1": np.array([1.0, 0, 0]), "v2": np.array([0, 0, -1.0])}
UP = np.array([0, 1.0, 0])


def obj(version: str, library: str, scale: float = 1.0) -> str:
    """A box that is 2 long, 1 high and 0.6 wide, in the axes of a release of ShapeNet.

    Its front is textured, its right side (a driver's right) green, the rest blue; a single vertex
    stands out above the front right corner.
    """
    front = FRONT[version]
    right = np.cross(front, UP)
    corners = [
        scale * (f * front + 0.5 * u * UP + 0.3 * r * right)
        for f in (-1, 1) for u in (-1, 1) for r in (-1, 1)
    ]  # fmt: skip
    corners.append(scale * (front + 0.8 * UP + 0.3 * right))
    lines = [f"mtllib {library}"]
    lines += ["v " + " ".join(f"{x:.6f}" for x in corner) for corner in corners]
    lines += ["vt 0 0", "vt 1 0", "vt 1 1", "vt 0 1"]
    lines += ["vn " + " ".join(f"{x:g}" for x in normal) for normal in (front, right)]
    lines += ["usemtl front", "f 5/1/1 6/2/1 8/3/1 7/4/1", "f 7/1 8/2 9/3"]
    lines += ["usemtl right", "f 2//2 4//2 8//2 6//2"]
    lines += ["usemtl rest", "f 1 3 4 2", "f 1 5 7 3", "f 3 7 8 4", "f 1 2 6 5"]
    return "\n".join(lines) + "\n"


def mtl(texture: str) -> str:
    return (
        f"newmtl front\nKd 1 1 1\nmap_Kd {texture}\nnewmtl right\nKd 0 0.8 0\n"
        "newmtl rest\nKd 0 0 0.8\n"
    )


def png(color: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(buffer, "PNG")
    return buffer.getvalue()


def asset_files(version: str, scale: float = 1.0, voxels: int = 20_000) -> dict[str, bytes]:
    """The files of one asset, with all that a release puts beside them."""
    if version == "v1":
        return {
            "model.obj": obj("v1", "./model.mtl", scale).encode(),
            "model.mtl": mtl("./images/texture0.png").encode(),
            "images/texture0.png": png((255, 0, 0)),
        }
    return {
        "models/model_normalized.obj": obj("v2", "model_normalized.mtl", scale).encode(),
        "models/model_normalized.mtl": mtl("../images/texture0.png").encode(),
        "models/model_normalized.json": b"{}",
        "models/model_normalized.solid.binvox": random.Random(scale).randbytes(voxels),
        "screenshots/a-0.png": png((1, 2, 3)),
        "images/texture0.png": png((255, 0, 0)),
    }


def collection(
    version: str, count: int = 4, synset: str = BIKE, voxels: int = 20_000
) -> dict[str, bytes]:
    out = {}
    for n in range(count):
        for name, data in asset_files(version, 1 + 0.1 * n, voxels).items():
            out[f"{synset}/{n:032x}/{name}"] = data
    return out


def write_tree(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as pack:
        for folder in sorted({name.split("/")[0] for name in files}):
            pack.writestr(f"{folder}/", b"")
        for name, data in files.items():
            pack.writestr(name, data)
    return path
