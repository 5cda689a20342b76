"""Fingerprints, distances of shapes, near and exact duplicates."""

from __future__ import annotations

import time

import numpy as np
import pytest
from g3d.pipeline.config import PrepareConfig, build_source
from g3d.pipeline.duplicates import (
    THRESHOLD,
    Duplicate,
    _candidates,
    exact_duplicates,
    fingerprint,
    near_duplicates,
    shape_distance,
)
from g3d.pipeline.sources.base import SourceAsset
from g3d.renderers.meshes import Mesh, make_mesh, normalise, sample_surface
from hypothesis import given
from hypothesis import strategies as st


def procedural(category: str, count: int) -> list[Mesh]:
    values = {"source": "procedural", "category": category, "limit": count}
    source = build_source(PrepareConfig.model_validate(values))
    return [normalise(source.load(asset), 0.7)[0] for asset in source.list()]


def sampled(mesh: Mesh, seed: int) -> np.ndarray:
    return sample_surface(mesh, 2048, np.random.default_rng(seed))


def split(mesh: Mesh) -> Mesh:
    """Every triangle in three, about its centre."""
    a, b, c = mesh.faces.T
    middle = len(mesh.vertices) + np.arange(len(mesh.faces))
    vertices = np.concatenate([mesh.vertices, mesh.vertices[mesh.faces].mean(axis=1)])
    faces = np.concatenate(
        [np.stack(x, 1) for x in ((a, b, middle), (b, c, middle), (c, a, middle))]
    )
    return make_mesh(vertices, faces)


def rough(mesh: Mesh, seed: int) -> Mesh:
    """Positions moved by 0.5 % of the longest side, equal ones alike."""
    places, index = np.unique(mesh.vertices, axis=0, return_inverse=True)
    side = np.ptp(places, axis=0).max()
    places = places + np.random.default_rng(seed).normal(0, 0.005 * side, places.shape)
    return normalise(make_mesh(places[index.reshape(-1)], mesh.faces), float(side))[0]


def turned(mesh: Mesh) -> Mesh:
    x, y, z = mesh.vertices.T
    return make_mesh(np.stack([z, y, -x], 1), mesh.faces)


CHANGES = {
    "sampled again": lambda mesh, seed: mesh,
    "other triangles": lambda mesh, seed: split(mesh),
    "0.5 % noise": rough,
    "turned by 90": lambda mesh, seed: turned(mesh),
    "twice the surface": lambda mesh, seed: make_mesh(
        mesh.vertices, np.concatenate([mesh.faces, mesh.faces[: len(mesh.faces) // 2, ::-1]])
    ),
}


@pytest.fixture(scope="module")
def chairs() -> dict[str, np.ndarray]:
    return {f"a{n:03d}": sampled(mesh, n) for n, mesh in enumerate(procedural("chair", 120))}


def prints_of(shapes: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [fingerprint(points) for points in shapes.values()]


def find(shapes: dict[str, np.ndarray], **options) -> list[Duplicate]:
    return near_duplicates(list(shapes), prints_of(shapes), shapes.__getitem__, **options)


def test_a_fingerprint_is_64_bytes_and_the_same_every_time(chairs):
    points = chairs["a003"]
    one = fingerprint(points)
    assert (one.shape, one.dtype) == ((64,), np.uint8)
    np.testing.assert_array_equal(one, fingerprint(points.astype(np.float64)))
    np.testing.assert_array_equal(one, fingerprint(points.copy()))
    # All of it is used, and little of it cut off.
    all_of_them = np.array([fingerprint(p) for p in chairs.values()])
    assert (all_of_them.std(axis=0) > 0).all()
    assert (all_of_them == 255).mean() < 0.01


@pytest.mark.parametrize("points", [np.zeros((2048, 3)), np.ones((1, 3)), np.eye(3)[:2] * 1e-8])
def test_a_degenerate_shape_has_a_fingerprint(points):
    assert fingerprint(points).shape == (64,)


def test_a_quarter_turn_changes_next_to_nothing_of_a_fingerprint(chairs):
    for points in list(chairs.values())[:10]:
        x, y, z = points.T
        difference = fingerprint(points) - fingerprint(np.stack([z, y, -x], 1)).astype(int)
        assert np.abs(difference).max() <= 1


def test_different_chairs_are_all_different(chairs):
    assert find(chairs) == []


@pytest.mark.parametrize("name", CHANGES)
def test_changed_copies_are_found_with_their_original(chairs, name):
    meshes = procedural("chair", 12)
    copies = {
        f"z{n:03d}": sampled(CHANGES[name](mesh, n), 1000 + n) for n, mesh in enumerate(meshes)
    }
    found = find(chairs | copies)
    assert {(d.uid, d.of) for d in found} == {(f"z{n:03d}", f"a{n:03d}") for n in range(12)}
    assert max(d.distance for d in found) <= THRESHOLD


def test_the_distance_is_the_rms_of_the_surfaces_as_a_share_of_the_side():
    low, high = np.zeros(3), np.ones(3)
    rng = np.random.default_rng(0)
    one = rng.uniform(low, high, (4096, 3)) * [1, 0, 1]
    for gap in (0.02, 0.05, 0.1):
        # A second sheet: half of the points of the one are ``gap`` away from the other.
        two = rng.uniform(low, high, (4096, 3)) * [1, 0, 1]
        two[::2, 1] = gap
        assert shape_distance(one, two) == pytest.approx(gap / 2, rel=0.35)
    other = rng.uniform(low, high, (4096, 3)) * [1, 0, 1]
    assert shape_distance(one, other) < 0.004
    assert shape_distance(5 * one, 5 * other) == pytest.approx(shape_distance(one, other))


def test_a_mirror_image_is_another_shape():
    rng = np.random.default_rng(1)
    hook = np.concatenate(
        [rng.random((1500, 3)) * s + o for s, o in (
            ([0.1, 1, 0.1], [0, 0, 0]), ([0.6, 0.1, 0.1], [0.1, 0.9, 0]),
            ([0.1, 0.1, 0.8], [0.6, 0.9, 0.1]),
        )]
    )  # fmt: skip
    hook -= 0.5 * (hook.min(axis=0) + hook.max(axis=0))
    assert shape_distance(hook, hook) == 0.0
    assert shape_distance(hook, hook * [-1, 1, 1]) > 2 * THRESHOLD


def family(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """``count`` samples of each of three shapes, shuffled."""
    meshes = procedural("chair", 3)
    shapes = {f"s{n}{c}": sampled(meshes[n], 10 * c + n) for c in range(count) for n in range(3)}
    names = np.random.default_rng(seed).permutation(list(shapes))
    return {str(name): shapes[name] for name in names}


def test_of_many_copies_the_smallest_uid_is_kept_in_any_order():
    found = find(family(4))
    assert found == find(family(4, seed=1))
    assert [d.uid for d in found] == sorted(d.uid for d in found)
    assert {(d.uid, d.of) for d in found} == {
        (f"s{n}{c}", f"s{n}0") for n in range(3) for c in range(1, 4)
    }


def test_what_is_settled_is_kept_whatever_its_uid():
    shapes = family(3)
    found = find(shapes, settled={"s02", "s12", "s11"})
    assert {d.uid for d in found} == {"s00", "s01", "s10", "s21", "s22"}
    of = {d.uid: d.of for d in found}
    assert of["s00"] == of["s01"] == "s02"
    assert of["s10"] in {"s11", "s12"}
    assert of["s21"] == of["s22"] == "s20"


def test_points_are_read_of_likely_duplicates_alone(chairs):
    read = []

    def points_of(uid: str) -> np.ndarray:
        read.append(uid)
        return shapes[uid]

    shapes = dict(list(chairs.items())[:40]) | {"z": chairs["a007"][::-1]}
    found = near_duplicates(list(shapes), prints_of(shapes), points_of)
    assert [(d.uid, d.of) for d in found] == [("z", "a007")]
    assert len(read) == len(set(read)) < 15
    assert near_duplicates([], [], points_of) == []


@given(st.integers(0, 99), st.integers(1, 60))
def test_candidates_are_the_nearest_kept_ones_before(seed, count):
    rng = np.random.default_rng(seed)
    prints = rng.integers(0, 256, (count, 64)).astype(np.float32)
    prints[rng.random(count) < 0.5] = prints[0]  # many at the distance 0, and just beside it
    prints += rng.integers(0, 9, prints.shape)
    start, keep = int(rng.integers(0, count)), rng.random(count) < 0.7
    kept = np.zeros(count, bool)
    kept[:start] = keep[:start]
    for n, likely in _candidates(prints, kept, start):
        gap = {k: float(((prints[k] - prints[n]) ** 2).sum()) for k in range(n) if keep[k]}
        best = sorted((g, k) for k, g in gap.items() if g <= 3600.0)
        assert likely == [k for _, k in best[:16]]
        kept[n] = keep[n]


@pytest.mark.slow
def test_ten_thousand_shapes_are_looked_up_quickly():
    rng = np.random.default_rng(0)
    few = rng.integers(20, 200, (300, 64))
    prints = (few[rng.integers(0, 300, 10_000)] + rng.normal(0, 4, (10_000, 64))).round()
    kept = np.zeros(len(prints), bool)
    start, total = time.process_time(), 0
    for n, likely in _candidates(prints.astype(np.float32), kept, 0):
        total += len(likely)
        kept[n] = True
    assert time.process_time() - start < 10
    assert total > 0


def _asset(uid: str, sha256: str) -> SourceAsset:
    return SourceAsset(uid, uid, "chair", "CC0-1.0", "", "", sha256, 0)


def test_equal_files_keep_the_known_one_or_the_smallest_uid():
    assets = [_asset("d", "1"), _asset("b", "1"), _asset("c", "2"), _asset("a", "3"),
              _asset("e", "3"), _asset("f", "4")]  # fmt: skip
    assert exact_duplicates(assets, {}) == {"d": "b", "e": "a"}
    known = {"3": "e", "4": "f", "2": "elsewhere"}
    assert exact_duplicates(assets, known) == {"d": "b", "a": "e", "c": "elsewhere"}
    assert exact_duplicates(assets[::-1], known) == exact_duplicates(assets, known)
    assert known == {"3": "e", "4": "f", "2": "elsewhere"}
