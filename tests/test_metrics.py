"""Chamfer distance, MMD, coverage, 1-NNA and the learning table."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import trimesh
from g3d.errors import AssetError
from g3d.renderers.meshes import Mesh
from g3d.trainer.metrics.chamfer import (
    chamfer,
    coverage,
    mmd,
    normalise_points,
    one_nna,
    pairwise_chamfer,
    sample_points,
)
from g3d.trainer.metrics.table import ShapeSet, learning_table, shape_set
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree


def by_trees(a: np.ndarray, b: np.ndarray) -> float:
    return (cKDTree(b).query(a)[0] ** 2).mean() + (cKDTree(a).query(b)[0] ** 2).mean()


def test_chamfer_by_hand():
    a = np.array([[0, 0, 0], [1, 0, 0]], np.float32)
    b = np.array([[0, 2, 0]], np.float32)
    # a to b: 4 and 5, mean 4.5; b to a: 4. Squared, both means summed, not halved.
    assert chamfer(a, b) == pytest.approx(8.5)
    assert chamfer(b, a) == pytest.approx(8.5)
    assert chamfer(a, a) == 0.0


@settings(max_examples=15)
@given(st.integers(0, 2**31), st.integers(1, 90), st.integers(1, 70), st.floats(0.01, 10))
def test_chamfer_agrees_with_kd_trees(seed, p, q, scale):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, scale, (3, p, 3)), rng.normal(0, scale, (4, q, 3))
    found = pairwise_chamfer(a, b)
    expected = [[by_trees(x, y) for y in b] for x in a]
    assert found == pytest.approx(np.array(expected), rel=1e-4, abs=1e-6 * scale**2)


def test_chamfer_at_full_size_is_exact_to_six_digits():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 2048, 3)) - 0.5, rng.random((2, 2048, 3)) - 0.4
    expected = [[by_trees(x, y) for y in b] for x in a]
    assert pairwise_chamfer(a, b) == pytest.approx(np.array(expected), rel=1e-6)


def test_pairwise_with_itself_and_workers():
    rng = np.random.default_rng(1)
    a = rng.random((7, 50, 3))
    full = pairwise_chamfer(a, a, workers=1)
    assert pairwise_chamfer(a, workers=3) == pytest.approx(full, rel=1e-6)
    assert np.array_equal(np.diag(pairwise_chamfer(a)), np.zeros(7))
    assert pairwise_chamfer(np.zeros((0, 5, 3)), a).shape == (0, 7)
    assert pairwise_chamfer(a, np.zeros((0, 5, 3))).shape == (7, 0)


def test_chamfer_refuses_bad_sets():
    good = np.zeros((2, 4, 3))
    for bad in (np.zeros((4, 3)), np.zeros((2, 0, 3)), np.full((2, 4, 3), np.nan)):
        with pytest.raises(ValueError, match="point sets"):
            pairwise_chamfer(bad, good)


def test_mmd_and_coverage_by_hand():
    distances = np.array([[1.0, 5.0, 9.0], [2.0, 4.0, 9.0], [3.0, 9.0, 8.0]])
    # Nearest generated of each reference (columns): 1, 4, 8.
    assert mmd(distances) == pytest.approx(13 / 3)
    # Nearest reference of each generated (rows): 0, 0, 0.
    assert coverage(distances) == pytest.approx(1 / 3)
    # More generated than references is allowed.
    assert coverage(np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])) == 1.0
    assert mmd(np.array([[2.0], [0.5]])) == 0.5
    for bad in (np.zeros((0, 3)), np.zeros((3, 0)), np.zeros(3)):
        with pytest.raises(ValueError, match="matrix"):
            mmd(bad)
        with pytest.raises(ValueError, match="matrix"):
            coverage(bad)


def line(*values: float) -> np.ndarray:
    return np.array(values, float)


def matrices(generated: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, ...]:
    def gap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a[:, None] - b[None]) ** 2

    return (
        gap(generated, generated),
        gap(generated, references),
        gap(references, references),
    )


def test_one_nna_by_hand():
    # Two clusters far apart: every nearest neighbour is of the own set.
    assert one_nna(*matrices(line(0, 1, 2.5), line(100, 101, 102.5))) == 1.0
    # Interleaved pairs: every nearest neighbour is of the other set.
    assert one_nna(*matrices(line(0, 10, 20), line(1, 11, 21))) == 0.0
    # Copies of the references: the nearest is the copy, so the classifier is always wrong.
    assert one_nna(*matrices(line(3, 8), line(3, 8))) == 0.0
    # 0, 1 and 2 are generated, 2.2 is not: 0 -> 1 right, 1 -> 0 or 2 right, 2 -> 2.2 wrong;
    # references 2.2 -> 2 wrong, 50 -> 60 right, 60 -> 50 right.
    assert one_nna(*matrices(line(0, 1, 2), line(2.2, 50, 60))) == pytest.approx(4 / 6)
    with pytest.raises(ValueError, match="as many"):
        one_nna(np.zeros((2, 2)), np.zeros((2, 3)), np.zeros((3, 3)))


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.integers(1, 12))
def test_one_nna_agrees_with_a_plain_loop(seed, n):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(2 * n, 2))
    gap = ((points[:, None] - points[None]) ** 2).sum(-1)
    right = 0
    for i in range(2 * n):
        others = [j for j in range(2 * n) if j != i]
        nearest = min(others, key=lambda j: gap[i, j])
        right += (nearest < n) == (i < n)
    assert one_nna(gap[n:, n:], gap[n:, :n], gap[:n, :n]) == pytest.approx(right / (2 * n))


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.floats(0.1, 50), st.integers(2, 30))
def test_normalising_removes_place_and_size(seed, scale, count):
    rng = np.random.default_rng(seed)
    points = rng.random((3, count, 3))
    out = normalise_points(points)
    assert np.ptp(out, axis=1).max(axis=1) == pytest.approx(np.ones(3), abs=1e-5)
    assert out.max(axis=1) + out.min(axis=1) == pytest.approx(np.zeros((3, 3)), abs=1e-5)
    moved = normalise_points(points * scale + rng.normal(0, 3, 3))
    assert moved == pytest.approx(out, abs=1e-4)
    assert np.isfinite(normalise_points(np.ones((4, 3)))).all()


def body(scale: tuple[float, float, float], offset: float = 0.0) -> Mesh:
    box = trimesh.creation.box(scale)
    return Mesh((box.vertices + offset).astype(np.float32), box.faces.astype(np.int64))


def test_sample_points_are_on_the_normalised_surface():
    points = sample_points(body((2, 1, 1), offset=5), np.random.default_rng(0), 3000)
    assert points.shape == (3000, 3)
    # On a box of half-sides 0.5, 0.25, 0.25: one coordinate at its bound, none beyond.
    ratio = np.abs(points) / [0.5, 0.25, 0.25]
    assert ratio.max(axis=1) == pytest.approx(np.ones(3000), abs=1e-3)
    with pytest.raises(AssetError):
        sample_points(Mesh(np.zeros((3, 3), np.float32), np.zeros((0, 3), np.int64)),
                      np.random.default_rng(0))  # fmt: skip


def test_shape_set_counts_empty_ones_and_pieces():
    none = Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int64))
    one, other = body((1, 1, 1)), body((1, 1, 1), offset=3)
    two = Mesh(
        np.concatenate([one.vertices, other.vertices]),
        np.concatenate([one.faces, other.faces + len(one.vertices)]),
    )
    found = shape_set([one, none, two], points=64)
    assert found.points.shape == (2, 64, 3)
    assert found.empty == 1
    assert found.components == 1.5
    # A prefix of a set gives the same points.
    assert np.array_equal(shape_set([one], points=64).points[0], found.points[0])
    empty = shape_set([none, none], points=64)
    assert empty.points.shape == (0, 64, 3)
    assert empty.empty == 2
    assert empty.components is None


def shapes(rng: np.random.Generator, count: int, points: int = 200) -> np.ndarray:
    """Boxes of two kinds: tall and flat."""
    sets = []
    for i in range(count):
        tall = i % 2
        size = rng.uniform(0.2, 0.35, 3)
        size[1] = 1.0 if tall else 0.1
        size[0] = 0.3 if tall else 1.0
        sets.append(sample_points(body(tuple(size)), rng, points))
    return np.stack(sets)


def test_the_table_puts_the_references_in_order():
    rng = np.random.default_rng(0)
    held_out, training = shapes(rng, 24), shapes(rng, 60)
    good = ShapeSet(shapes(rng, 24), components=1.0)
    blob = trimesh.creation.icosphere(3)
    ball = Mesh(blob.vertices.astype(np.float32), blob.faces.astype(np.int64))
    untrained = shape_set([ball] * 20 + [body((0, 0, 0))] * 4, points=200)
    table = learning_table(good, held_out, training, untrained, candidates=40)
    assert [row.name for row in table.rows] == ["ceiling", "single", "untrained", "generated"]
    ceiling, single, raw, made = table.rows
    assert ceiling.mmd < single.mmd < raw.mmd
    assert made.mmd == pytest.approx(ceiling.mmd, rel=0.3)
    assert single.coverage == pytest.approx(1 / 24)
    assert raw.one_nna == 1.0
    assert raw.empty == pytest.approx(4 / 24)
    assert 0.3 < made.one_nna < 0.75
    assert made.empty == 0
    assert table.progress == pytest.approx((single.mmd - made.mmd) / (single.mmd - ceiling.mmd))
    # The best single shape is the best of those tried, by brute force.
    each = [
        np.mean([by_trees(x, y) for y in normalise_points(held_out)])
        for x in normalise_points(training)
    ]
    assert min(each) <= single.mmd * (1 + 1e-5)
    assert single.mmd == pytest.approx(each[table.best_single], rel=1e-4)
    assert single.mmd <= np.sort(each)[20] * (1 + 1e-5)  # 40 of 60 tried: in the best third
    every = learning_table(good, held_out, training, candidates=60)
    assert every.best_single == int(np.argmin(each))
    # The same call gives the same table.
    assert learning_table(good, held_out, training, untrained, candidates=40) == table


def test_the_table_of_a_run_that_makes_nothing(tmp_path):
    rng = np.random.default_rng(0)
    nothing = ShapeSet(np.zeros((0, 100, 3), np.float32), empty=8)
    table = learning_table(nothing, shapes(rng, 8, 100), shapes(rng, 8, 100))
    row = table.row("generated")
    assert (row.count, row.mmd, row.empty) == (0, None, 1.0)
    assert table.progress is None
    markdown, data = table.write(tmp_path)
    assert "| generated | 0 | - | - | - | 100.0 | - |" in markdown.read_text()
    assert json.loads(data.read_text())["rows"][-1]["mmd"] is None
    with pytest.raises(ValueError, match="held-out"):
        learning_table(nothing, np.zeros((0, 100, 3)), shapes(rng, 2, 100))


def test_markdown_scales_and_names(tmp_path):
    rng = np.random.default_rng(2)
    training = shapes(rng, 10, 100)
    table = learning_table(ShapeSet(training, components=1.25), shapes(rng, 10, 100), training)
    text = table.to_markdown()
    made = table.row("generated")
    assert f"| generated | 10 | {made.mmd * 1000:.2f} | {made.coverage * 100:.1f} |" in text
    assert "| 0.0 | 1.25 |" in text
    # The training shapes themselves are the ceiling.
    assert table.progress == pytest.approx(1.0)
    loaded = json.loads(table.write(tmp_path, "t")[1].read_text())
    assert math.isclose(loaded["progress"], table.progress)
    assert loaded["held_out"] == 10
