"""UV unwrapping behind one small interface: uvunwrap first, xatlas when it fails.

Both libraries give an atlas that need not be square and scale u and v each by its own side; here
both are divided by the longer side, so a texel is square on the surface in both directions.
"""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...errors import AssetError

log = logging.getLogger(__name__)

Backend = Callable[[np.ndarray, np.ndarray, int, int, float], "Atlas"]


@dataclass(frozen=True)
class Atlas:
    """A mesh cut along its seams, with texture coordinates.

    Attributes:
        vertices: float32 ``[V, 3]``; a seam vertex appears once per chart.
        faces: int64 ``[F, 3]``, the input's triangles in the input's order.
        uvs: float32 ``[V, 2]`` in 0..1, origin bottom-left, for a square texture.
        source: int64 ``[V]``, the input vertex that each vertex is a copy of.
        charts: Number of charts.
        backend: Library that made it.
    """

    vertices: np.ndarray
    faces: np.ndarray
    uvs: np.ndarray
    source: np.ndarray
    charts: int
    backend: str


def unwrap(
    vertices: np.ndarray,
    faces: np.ndarray,
    resolution: int,
    padding: int = 4,
    *,
    time_limit: float = 60.0,
    backends: tuple[str, ...] = ("uvunwrap", "xatlas"),
) -> Atlas:
    """Cut a mesh into charts and pack them into a square texture.

    Args:
        vertices: ``[V, 3]``, finite.
        faces: ``[F, 3]``; no faces gives an empty atlas.
        resolution: Side of the texture (texels).
        padding: Free texels between charts at that side.
        time_limit: Seconds that each library may take.
        backends: Libraries in the order in which they are tried.

    Raises:
        AssetError: ``unwrap``: no library could unwrap the mesh, or it is not finite.
    """
    vertices = np.ascontiguousarray(vertices, dtype=np.float32)
    faces = np.ascontiguousarray(faces, dtype=np.int64)
    if len(faces) == 0:
        return Atlas(
            np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int64), np.zeros((0, 2), np.float32),
            np.zeros(0, np.int64), 0, "none",
        )  # fmt: skip
    if not np.isfinite(vertices).all():
        # xatlas takes NaN without a word and returns nonsense.
        raise AssetError("unwrap", "the mesh has vertices that are not finite", stage="unwrap")
    problems = []
    for name in backends:
        try:
            atlas = _BACKENDS[name](vertices, faces, resolution, padding, time_limit)
            _check(atlas, faces)
        except Exception as error:  # a foreign library may raise anything; the next one is tried
            problems.append(f"{name}: {error}")
            log.debug("unwrap with %s failed: %s", name, error)
        else:
            return atlas
    raise AssetError("unwrap", "; ".join(problems), stage="unwrap")


def _check(atlas: Atlas, faces: np.ndarray) -> None:
    """Raise ValueError where a library returned something else than the mesh that it was given."""
    if not np.array_equal(atlas.source[atlas.faces], faces):
        raise ValueError("the triangles came back changed")
    uvs = atlas.uvs
    if not np.isfinite(uvs).all() or uvs.min() < -1e-4 or uvs.max() > 1 + 1e-4:
        raise ValueError("texture coordinates outside 0..1")


def _uvunwrap(
    vertices: np.ndarray, faces: np.ndarray, resolution: int, padding: int, time_limit: float
) -> Atlas:
    # One mesh a core is the parallelism here; the pool reads this once, at its first use.
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    import uvunwrap

    job = uvunwrap.start(
        [uvunwrap.Mesh(vertices, faces.astype(np.uint32))], page_size=resolution, padding=padding
    )
    try:
        atlas = job.result(time_limit)
    except TimeoutError:
        job.cancel()
        raise
    if atlas.page_count != 1:
        raise ValueError(f"{atlas.page_count} pages for one mesh")
    mesh = atlas.meshes[0]
    uvs = np.array(mesh.uv, dtype=np.float32).reshape(-1, 2)
    source = np.array(mesh.xref, dtype=np.int64)
    out = np.array(mesh.indices, dtype=np.int64).reshape(-1, 3)
    return Atlas(
        vertices[source], out, _square(uvs, atlas.width, atlas.height), source,
        int(atlas.chart_count), "uvunwrap",
    )  # fmt: skip


def _square(uvs: np.ndarray, width: int, height: int) -> np.ndarray:
    """UVs normalised by each side to UVs of a square of the longer side."""
    scale = np.array([width, height], dtype=np.float32) / max(width, height)
    return np.clip(uvs * scale, 0.0, 1.0)


def _xatlas(
    vertices: np.ndarray, faces: np.ndarray, resolution: int, padding: int, time_limit: float
) -> Atlas:
    # xatlas cannot be interrupted and takes minutes on non-manifold meshes, so it runs in a child
    # process that a deadline can end.
    request = io.BytesIO()
    np.savez(
        request, vertices=vertices, faces=faces.astype(np.uint32), options=[resolution, padding]
    )
    child = subprocess.run(
        [sys.executable, "-m", f"{__package__}.xatlas_child"],
        input=request.getvalue(),
        capture_output=True,
        timeout=time_limit,
        check=False,
    )
    if child.returncode != 0:
        tail = child.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise RuntimeError(f"exit {child.returncode} {' '.join(tail)}")
    with np.load(io.BytesIO(child.stdout), allow_pickle=False) as reply:
        width, height, charts = (int(v) for v in reply["size"])
        source = reply["source"].astype(np.int64)
        uvs = _square(reply["uvs"], width, height)
        out = reply["faces"].astype(np.int64)
    return Atlas(vertices[source], out, uvs, source, charts, "xatlas")


_BACKENDS: dict[str, Backend] = {"uvunwrap": _uvunwrap, "xatlas": _xatlas}
