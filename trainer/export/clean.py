"""Clean, decimate and shade a generated mesh before it is unwrapped.

Never used on the meshes that metrics read. Only ``vertices`` and ``faces`` go in and come out.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...renderers.meshes import Mesh, face_areas, vertex_normals


def clean(mesh: Mesh, *, min_component: float = 0.0) -> Mesh:
    """Weld, drop triangles without area, then floaters, then unused vertices.

    Args:
        mesh: The surface; a mesh without faces stays one.
        min_component: See :func:`drop_floaters`.
    """
    mesh = drop_floaters(drop_degenerate(weld(mesh)), min_component)
    used, compact = np.unique(mesh.faces, return_inverse=True)
    return Mesh(mesh.vertices[used], compact.reshape(-1, 3).astype(np.int64))


def weld(mesh: Mesh, tolerance: float = 1e-6) -> Mesh:
    """Merge vertices that fall into one cell of ``tolerance`` x longest side.

    The vertices that faces use remain, in the order of their first use.
    """
    if len(mesh.faces) == 0:
        return Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int64))
    keys = np.round((mesh.vertices - mesh.vertices.min(axis=0)) / (_side(mesh) * tolerance))
    _, first, group = np.unique(
        keys.astype(np.int64), axis=0, return_index=True, return_inverse=True
    )
    used, position, compact = np.unique(
        group.reshape(-1)[mesh.faces], return_index=True, return_inverse=True
    )
    order = np.argsort(position)
    rank = np.zeros(len(used), np.int64)
    rank[order] = np.arange(len(used))
    return Mesh(mesh.vertices[first[used[order]]], rank[compact.reshape(-1)].reshape(-1, 3))


def drop_degenerate(mesh: Mesh) -> Mesh:
    """Without the faces that name a vertex twice or have no area."""
    a, b, c = mesh.faces.T
    distinct = (a != b) & (b != c) & (c != a)
    solid = face_areas(mesh) > 1e-12 * _side(mesh) ** 2
    return replace(mesh, faces=mesh.faces[distinct & solid])


def component_labels(mesh: Mesh) -> tuple[int, np.ndarray]:
    """Components connected by shared vertices: their number and each face's label int64 ``[F]``."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    faces = mesh.faces
    if len(faces) == 0:
        return 0, np.zeros(0, np.int64)
    rows = np.concatenate([faces[:, 0], faces[:, 1]])
    columns = np.concatenate([faces[:, 1], faces[:, 2]])
    shape = (len(mesh.vertices),) * 2
    graph = coo_matrix((np.ones(len(rows), np.int8), (rows, columns)), shape=shape)
    _, labels = connected_components(graph, directed=False)
    names, of_face = np.unique(labels[faces[:, 0]], return_inverse=True)
    return len(names), of_face.reshape(-1)


def drop_floaters(mesh: Mesh, min_share: float) -> Mesh:
    """Without the components whose share of the area is under ``min_share`` (0..1).

    The largest always stays.
    """
    if min_share <= 0:
        return mesh
    count, labels = component_labels(mesh)
    if count <= 1:
        return mesh
    area = np.bincount(labels, weights=face_areas(mesh), minlength=count)
    keep = area >= min_share * area.sum()
    keep[np.argmax(area)] = True
    return replace(mesh, faces=mesh.faces[keep[labels]])


def decimate(mesh: Mesh, target_faces: int) -> Mesh:
    """Quadric edge collapse to about ``target_faces``; a smaller mesh comes back as it is."""
    if len(mesh.faces) <= target_faces:
        return mesh
    import fast_simplification

    vertices, faces = fast_simplification.simplify(
        np.ascontiguousarray(mesh.vertices, np.float32),
        np.ascontiguousarray(mesh.faces, np.int32),
        target_count=target_faces,
    )[:2]
    return clean(Mesh(np.asarray(vertices, np.float32), np.asarray(faces, np.int64)))


def unit_normals(mesh: Mesh) -> np.ndarray:
    """Smooth vertex normals float32 ``[V, 3]``, +Y where a vertex has none.

    A file must hold unit vectors, so the zeros of :func:`g3d.renderers.meshes.vertex_normals` go.
    """
    normals = vertex_normals(mesh)
    lost = ~(np.linalg.norm(normals, axis=1) > 0.5)
    normals[lost] = (0.0, 1.0, 0.0)
    return normals


def _side(mesh: Mesh) -> float:
    """Longest side of the box around all vertices, at least a tiny number."""
    if len(mesh.vertices) == 0:
        return 1e-12
    return max(float(np.ptp(mesh.vertices, axis=0).max()), 1e-12)
