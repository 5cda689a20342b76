"""How far a run has come, measured in one table with its own references.

Four rows against the same held-out shapes: as many training shapes (the ceiling), the best single
training shape repeated, an untrained generator, and the generator. `progress` is the share of the
way from the single shape to the ceiling.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...config import seed_for
from ...errors import AssetError
from ...manifests.atomic import write_atomic
from ...renderers.meshes import Mesh
from ..export.clean import component_labels, weld
from .chamfer import (
    POINTS,
    coverage,
    mmd,
    normalise_points,
    one_nna,
    pairwise_chamfer,
    sample_points,
)


@dataclass(frozen=True)
class ShapeSet:
    """Generated shapes as points.

    Attributes:
        points: float32 ``[N, P, 3]``, normalised; the shapes that are not empty.
        empty: How many more had no surface.
        components: Mean number of connected pieces a mesh, None where it was not counted.
    """

    points: np.ndarray
    empty: int = 0
    components: float | None = None


@dataclass(frozen=True)
class Row:
    """One line of the table; figures are None where the set is empty or was not counted.

    Attributes:
        name: What was compared with the held-out shapes.
        count: Shapes that were compared.
        mmd: Minimum matching distance, squared Chamfer (times 1000 in Markdown).
        coverage: 0..1.
        one_nna: 0..1, 0.5 is ideal.
        empty: Share of empty shapes, 0..1.
        components: Mean connected pieces a mesh.
    """

    name: str
    count: int
    mmd: float | None
    coverage: float | None
    one_nna: float | None
    empty: float | None = None
    components: float | None = None


@dataclass(frozen=True)
class LearningTable:
    """The table.

    Attributes:
        rows: ``ceiling``, ``single``, ``untrained`` where it was given, ``generated``.
        progress: ``(single - generated) / (single - ceiling)`` in MMD.
        held_out: Number of held-out shapes.
        points: Points a shape.
        best_single: Index of the best single shape in the training shapes.
        candidates: How many training shapes were tried for it.
    """

    rows: tuple[Row, ...]
    progress: float | None
    held_out: int
    points: int
    best_single: int
    candidates: int

    def row(self, name: str) -> Row:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able mapping of all figures, unscaled."""
        return asdict(self)

    def to_markdown(self) -> str:
        """A Markdown table and one line below it."""
        lines = [
            "| shapes | n | MMD-CD x10^3 | COV % | 1-NNA % | empty % | pieces |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        for row in self.rows:
            cells = [
                row.name, str(row.count), _text(row.mmd, 1000, 2), _text(row.coverage, 100, 1),
                _text(row.one_nna, 100, 1), _text(row.empty, 100, 1), _text(row.components, 1, 2),
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
        lines.append(
            f"Progress from the single shape to the ceiling in MMD: {_text(self.progress, 100, 1)}"
            f" % ({self.held_out} held-out shapes, {self.points:,} points, squared Chamfer; "
            f"single = best of {self.candidates} training shapes)."
        )
        return "\n".join(lines) + "\n"

    def write(self, folder: Path, name: str = "learning") -> tuple[Path, Path]:
        """Write ``<name>.md`` and ``<name>.json``.

        Raises:
            DiskError: The folder cannot be written.
        """
        paths = folder / f"{name}.md", folder / f"{name}.json"
        write_atomic(paths[0], self.to_markdown().encode())
        write_atomic(paths[1], (json.dumps(self.to_dict(), indent=2) + "\n").encode())
        return paths


def _text(value: float | None, scale: float, digits: int) -> str:
    return "-" if value is None else f"{value * scale:.{digits}f}"


def shape_set(meshes: Iterable[Mesh], *, points: int = POINTS, seed: int = 0) -> ShapeSet:
    """Points of generated meshes, counting empty ones and connected pieces.

    The n-th mesh is sampled with a seed of its own, so a set is a prefix of a longer one.
    """
    sets, pieces, empty = [], [], 0
    for index, mesh in enumerate(meshes):
        rng = np.random.default_rng(seed_for("shape_set", seed, index))
        try:
            sets.append(sample_points(mesh, rng, points))
        except AssetError:
            empty += 1
            continue
        pieces.append(component_labels(weld(mesh))[0])
    stacked = np.stack(sets) if sets else np.zeros((0, points, 3), np.float32)
    return ShapeSet(stacked, empty, float(np.mean(pieces)) if pieces else None)


def learning_table(
    generated: ShapeSet,
    held_out: np.ndarray,
    training: np.ndarray,
    untrained: ShapeSet | None = None,
    *,
    candidates: int | None = None,
    seed: int = 0,
    workers: int | None = None,
) -> LearningTable:
    """Compare generated shapes with held-out ones, beside the references of the same run.

    Every set is normalised here by the box of its points, so all are treated alike.

    Args:
        generated: The generator's shapes, as many as are held out for an unbiased table.
        held_out: ``[R, P, 3]``.
        training: ``[T, P, 3]``; a seeded choice of R makes the ceiling.
        untrained: Shapes of the same generator before training.
        candidates: Training shapes that are tried as the best single one; None is all.
        seed: Of that choice.
        workers: Threads.

    Raises:
        ValueError: There is no held-out or no training shape.
    """
    if not len(held_out) or not len(training):
        raise ValueError("the table needs held-out and training shapes")
    references = normalise_points(held_out)
    size = len(references)
    among = pairwise_chamfer(references, workers=workers)
    order = np.random.default_rng(seed_for("learning_table", seed)).permutation(len(training))
    candidates = len(training) if candidates is None else min(candidates, len(training))
    tried = order[: max(candidates, size)]
    known = normalise_points(training[tried])
    to_training = pairwise_chamfer(known, references, workers=workers)

    # A single shape's MMD is its mean distance to the references.
    best = int(to_training[:candidates].mean(axis=1).argmin())
    ceiling = _row(
        "ceiling", to_training[:size], pairwise_chamfer(known[:size], workers=workers), among
    )
    repeated = np.repeat(to_training[best : best + 1], size, axis=0)
    rows = [ceiling, _row("single", repeated, np.zeros((size, size)), among)]
    for name, shapes in (("untrained", untrained), ("generated", generated)):
        if shapes is not None:
            rows.append(_generated_row(name, shapes, references, among, workers))
    return LearningTable(
        rows=tuple(rows),
        progress=_progress(rows[1].mmd, rows[-1].mmd, ceiling.mmd),
        held_out=size,
        points=references.shape[1],
        best_single=int(tried[best]),
        candidates=candidates,
    )


def _progress(single: float | None, now: float | None, ceiling: float | None) -> float | None:
    if single is None or now is None or ceiling is None or single <= ceiling:
        return None
    return (single - now) / (single - ceiling)


def _generated_row(
    name: str, shapes: ShapeSet, references: np.ndarray, among: np.ndarray, workers: int | None
) -> Row:
    total = len(shapes.points) + shapes.empty
    empty = shapes.empty / total if total else None
    if not len(shapes.points):
        return Row(name, 0, None, None, None, empty, shapes.components)
    points = normalise_points(shapes.points)
    between = pairwise_chamfer(points, references, workers=workers)
    inside = pairwise_chamfer(points, workers=workers)
    return _row(name, between, inside, among, empty, shapes.components)


def _row(
    name: str,
    between: np.ndarray,
    inside: np.ndarray,
    among: np.ndarray,
    empty: float | None = None,
    components: float | None = None,
) -> Row:
    """Figures of one set; 1-NNA on as many shapes as both sets have."""
    n = min(between.shape)
    return Row(
        name=name,
        count=len(between),
        mmd=mmd(between),
        coverage=coverage(between),
        one_nna=one_nna(inside[:n, :n], between[:n, :n], among[:n, :n]),
        empty=empty,
        components=components,
    )
