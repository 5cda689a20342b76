"""Figures that show how a run is doing; none has a gradient."""

from __future__ import annotations

import numpy as np
import torch

from ..isosurface.marching import MeshBatch


@torch.no_grad()
def logit_figures(
    kind: str, real: torch.Tensor, fake: torch.Tensor, *, pairs: bool
) -> dict[str, torch.Tensor]:
    """Mean and deviation of logits ``[N]`` of one discriminator, and how often it is right.

    Args:
        kind: Of image; ends the names.
        real: At real images.
        fake: At generated ones.
        pairs: A pair is judged right if the real image has the higher logit; else every image is
            judged by the sign of its own.
    """
    right = [(real > fake)] if pairs else [real > 0, fake < 0]
    return {
        f"logits/real_{kind}": real.mean(),
        f"logits/fake_{kind}": fake.mean(),
        f"logits_std/real_{kind}": real.std(unbiased=False),
        f"logits_std/fake_{kind}": fake.std(unbiased=False),
        f"accuracy/{kind}": torch.stack([r.float().mean() for r in right]).mean(),
    }


@torch.no_grad()
def field_figures(sdf: torch.Tensor, empty: torch.Tensor) -> dict[str, torch.Tensor]:
    """Share of shapes without a surface, and of nodes inside, of ``sdf [B, V]``."""
    return {"empty": empty.float().mean(), "sdf/inside": (sdf > 0).float().mean()}


def mean_pieces(meshes: MeshBatch, limit: int = 4) -> torch.Tensor:
    """Mean number of connected components of the first ``limit`` meshes: 1 = no floaters.

    NaN of tensors without data, by which the memory of a step is estimated.
    """
    if meshes.faces.is_meta:
        return torch.tensor(torch.nan)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ranges = meshes.face_ranges[:limit].tolist()
    counts = []
    for start, count in ranges:
        faces = meshes.faces[start : start + count].detach().cpu().numpy()
        nodes, corner = np.unique(faces, return_inverse=True)
        corner = corner.reshape(-1, 3)
        rows, columns = corner[:, [0, 0]].ravel(), corner[:, 1:].ravel()
        shape = (len(nodes), len(nodes))
        graph = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=shape)
        counts.append(connected_components(graph, directed=False)[0] if len(nodes) else 0)
    return torch.tensor(counts, dtype=torch.float32).mean()
