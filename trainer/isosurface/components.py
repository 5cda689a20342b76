"""Connected components of a batch of meshes: floaters, a figure of health."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import torch

from .marching import MeshBatch


@dataclass(frozen=True)
class ComponentStats:
    """How the meshes of a batch fall apart.

    Attributes:
        count: int64 ``[B]``, connected components (faces that share a vertex); 0 for an empty mesh.
        largest_share: float32 ``[B]``, faces of the largest component / all faces; 1 for an
            empty mesh, which has no floaters.
    """

    count: torch.Tensor
    largest_share: torch.Tensor


def component_stats(meshes: MeshBatch) -> ComponentStats:
    """Count components and weigh the largest, on the CPU in one pass over the faces."""
    faces = meshes.faces.detach().cpu().numpy()
    count, largest = _components_kernel(
        faces, meshes.face_ranges.cpu().numpy(), len(meshes.vertices)
    )
    total = meshes.face_ranges[:, 1].cpu()
    share = torch.from_numpy(largest) / total.clamp(min=1)
    return ComponentStats(torch.from_numpy(count), torch.where(total > 0, share, 1.0).float())


@numba.njit(cache=True, nogil=True)
def _root(parent, vertex):  # type: ignore[no-untyped-def]
    # Root of a vertex; every second step of the path is shortened.
    while parent[vertex] != vertex:
        parent[vertex] = parent[parent[vertex]]
        vertex = parent[vertex]
    return vertex


@numba.njit(cache=True, nogil=True)
def _components_kernel(faces, ranges, vertices):  # type: ignore[no-untyped-def]
    # Components and faces of the largest, by sample. A union always keeps the lower root.
    parent = np.arange(vertices)
    for f in range(len(faces)):
        a = _root(parent, faces[f, 0])
        for k in range(1, 3):
            b = _root(parent, faces[f, k])
            if b < a:
                parent[a] = b
                a = b
            else:
                parent[b] = a
    size = np.zeros(vertices, np.int64)
    count = np.zeros(len(ranges), np.int64)
    largest = np.zeros(len(ranges), np.int64)
    for b in range(len(ranges)):
        for f in range(ranges[b, 0], ranges[b, 0] + ranges[b, 1]):
            root = _root(parent, faces[f, 0])
            if size[root] == 0:
                count[b] += 1
            size[root] += 1
            if size[root] > largest[b]:
                largest[b] = size[root]
    return count, largest
