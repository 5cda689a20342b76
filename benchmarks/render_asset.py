"""The object that benchmarks/render.py renders: a made car, 18k triangles, 13 materials."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import trimesh
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

EXTENT = 0.9


def write_car(path: Path, texture: int = 1024) -> int:
    """Write the car as GLB, centred, longest side ``EXTENT``, +Y up, +Z front; count triangles."""
    parts = _body(texture) + _cabin() + _details() + _wheels()
    low = np.min([p.bounds[0] for p in parts], axis=0)
    high = np.max([p.bounds[1] for p in parts], axis=0)
    scale = EXTENT / (high - low).max()
    for part in parts:
        part.apply_translation(-0.5 * (low + high))
        part.apply_scale(scale)
    trimesh.Scene({f"part{n}": part for n, part in enumerate(parts)}).export(path)
    return sum(len(part.faces) for part in parts)


def _paint(part: trimesh.Trimesh, material: PBRMaterial, tiles: float = 1.0) -> trimesh.Trimesh:
    """Give ``part`` a material, and uvs from above and from the side."""
    part.unmerge_vertices()
    p, n = part.vertices, part.vertex_normals
    top = np.abs(n[:, 1]) > 0.7
    uv = np.where(top[:, None], p[:, [0, 2]], np.c_[p[:, 2] + p[:, 0], p[:, 1]]) * tiles
    part.visual = TextureVisuals(uv=uv, material=material)
    return part


def _plain(name: str, color: tuple[int, int, int], metal: float, rough: float) -> PBRMaterial:
    return PBRMaterial(
        name=name, baseColorFactor=[*color, 255], metallicFactor=metal, roughnessFactor=rough
    )


def _textured(name: str, pixels: np.ndarray) -> PBRMaterial:
    return PBRMaterial(
        name=name, baseColorTexture=Image.fromarray(pixels), metallicFactor=0.0, roughnessFactor=0.5
    )


def _checker(size: int) -> np.ndarray:
    """High contrast squares."""
    at = np.arange(size) * 32 // size
    odd = ((at[:, None] + at) % 2).astype(bool)
    return np.where(odd[..., None], [225, 40, 30], [250, 245, 230]).astype(np.uint8)


def _noise(size: int) -> np.ndarray:
    """Noise of all scales down to the texel."""
    rng = np.random.default_rng(0)
    total = np.zeros((size, size, 3))
    for step in (64, 8, 1):
        cells = rng.random((size // step, size // step, 3))
        total += np.kron(cells, np.ones((step, step, 1)))
    return (255 * total / 3).astype(np.uint8)


def _box(size: tuple[float, float, float], at: tuple[float, float, float], cuts: int = 0,
         bulge: float = 0.0) -> trimesh.Trimesh:  # fmt: skip
    part = trimesh.creation.box((1, 1, 1))
    for _ in range(cuts):
        part = part.subdivide()
    p = part.vertices
    round_off = 1 - bulge * (p[:, [1, 2, 0]] ** 2 + p[:, [2, 0, 1]] ** 2)
    part.vertices = p * round_off * np.asarray(size) + np.asarray(at)
    return part


def _body(texture: int) -> list[trimesh.Trimesh]:
    body = _box((0.8, 0.34, 2.0), (0, 0.38, 0), cuts=4, bulge=0.35)
    hood = _box((0.66, 0.06, 0.5), (0, 0.55, 0.62), cuts=3, bulge=0.2)
    return [
        _paint(body, _textured("body", _checker(texture)), tiles=0.9),
        _paint(hood, _textured("hood", _noise(texture)), tiles=1.5),
    ]


def _cabin() -> list[trimesh.Trimesh]:
    cabin = _box((0.66, 0.32, 0.95), (0, 0.68, -0.12), cuts=4, bulge=0.5)
    roof = _box((0.5, 0.03, 0.6), (0, 0.83, -0.12), cuts=2)
    return [
        _paint(cabin, _plain("glass", (30, 40, 55), 0.0, 0.05)),
        _paint(roof, _plain("roof", (200, 60, 40), 0.0, 0.4)),
    ]


def _details() -> list[trimesh.Trimesh]:
    """Bumpers, lamps, grille, mirrors, a spoiler and a plate: seven materials."""
    two = ((-1, 1), (1, 1))
    lamps = [trimesh.creation.icosphere(3, 0.07) for _ in two]
    tails = [_box((0.14, 0.07, 0.05), (0.26 * s, 0.45, -0.93), cuts=2) for s, _ in two]
    mirrors = [trimesh.creation.icosphere(2, 0.05) for _ in two]
    for (side, _), lamp, mirror in zip(two, lamps, mirrors, strict=True):
        lamp.apply_translation((0.25 * side, 0.42, 0.9))
        mirror.apply_translation((0.41 * side, 0.62, 0.25))
    groups = [
        ([_box((0.74, 0.1, 0.12), (0, 0.26, z), cuts=2) for z in (0.93, -0.93)],
         _plain("bumper", (60, 60, 65), 0.0, 0.7)),
        (lamps, _plain("lamp", (245, 240, 210), 0.0, 0.2)),
        (tails, _plain("tail", (190, 15, 20), 0.0, 0.3)),
        (mirrors, _plain("mirror", (220, 220, 225), 1.0, 0.1)),
        ([_box((0.34, 0.1, 0.04), (0, 0.4, 0.95), cuts=2)],
         _plain("grille", (20, 20, 20), 0.6, 0.4)),
        ([_box((0.7, 0.03, 0.14), (0, 0.66, -0.86), cuts=2)],
         _plain("wing", (25, 60, 160), 0.0, 0.3)),
        ([_box((0.22, 0.07, 0.02), (0, 0.28, -1.0), cuts=1)],
         _plain("plate", (240, 220, 40), 0.0, 0.6)),
    ]  # fmt: skip
    return [_paint(trimesh.util.concatenate(meshes), material) for meshes, material in groups]


def _wheels() -> list[trimesh.Trimesh]:
    tyres, rims = [], []
    for x in (-0.38, 0.38):
        for z in (-0.6, 0.6):
            turn = trimesh.transformations.rotation_matrix(np.pi / 2, (0, 1, 0))
            turn[:3, 3] = (x, 0.2, z)
            tyre = trimesh.creation.torus(0.15, 0.06, major_sections=40, minor_sections=16)
            rim = trimesh.creation.cylinder(0.11, 0.08, sections=40)
            tyres.append(tyre.apply_transform(turn))
            rims.append(rim.apply_transform(turn))
    return [
        _paint(trimesh.util.concatenate(tyres), _plain("tyre", (25, 25, 27), 0.0, 0.9)),
        _paint(trimesh.util.concatenate(rims), _plain("rim", (190, 190, 195), 1.0, 0.25)),
    ]
