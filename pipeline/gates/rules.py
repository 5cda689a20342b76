"""The quality gates: a table of named rules, and the functions that apply it.

A rule looks at facts of an asset and says why it is rejected, or nothing. Rules run in the order of
the table; the first that finds something ends the asset. ``docs/gates.md`` shows the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ...errors import AssetError
from ...renderers.base import Views
from ...renderers.meshes import Mesh
from .mesh import MeshFacts, see_through_area, side_ratio
from .settings import GateSettings
from .views import ViewFacts, luminance, magenta_share, see_through

PROBES = 4
"""First views of which one must show a sensible part of the object, or the rest is not rendered."""
FINEST = 1e-3
"""Largest distance between neighbouring float32 positions, in extents of the asset."""
MAGENTA_SHARE = 0.5
"""Share of an asset's solid pixels in the colour of a texture that is not there."""

When = Literal["mesh", "views", "poses"]


@dataclass(frozen=True)
class Finding:
    """Why a rule rejects an asset: a typed reason, and what was found."""

    reason: str
    message: str


@dataclass(frozen=True)
class PoseFacts:
    """The pose self-test of an asset.

    Attributes:
        cover: Share of the saved alpha that the projected mesh explains, least of the views.
        iou: Of both, mean of the views.
        opaque: All materials are.
    """

    cover: float
    iou: float
    opaque: bool


@dataclass(frozen=True)
class Rule:
    """One gate.

    Attributes:
        name: What it is called in the documentation.
        when: ``mesh``: before anything is rendered; ``views``: on all images; ``poses``: on the
            self-test of the saved matrices.
        measures: In a few words.
        thresholds: Fields of :class:`GateSettings`; none: it cannot be moved.
        reasons: That it may give.
        find: From :class:`MeshFacts`, :class:`ViewFacts` or :class:`PoseFacts`, and thresholds.
    """

    name: str
    when: When
    measures: str
    thresholds: tuple[str, ...]
    reasons: tuple[str, ...]
    find: Callable[[Any, GateSettings], Finding | None]


def _faces(facts: MeshFacts, gates: GateSettings) -> Finding | None:
    mesh = facts.mesh
    if not len(mesh.faces) or not len(mesh.vertices):
        return Finding("empty_mesh", "the mesh has no face")
    return None


def _finite(facts: MeshFacts, gates: GateSettings) -> Finding | None:
    if not np.isfinite(facts.mesh.vertices).all():
        return Finding("import", "vertices hold NaN or infinite values")
    return None


def _triangles(facts: MeshFacts, gates: GateSettings) -> Finding | None:
    count = len(facts.mesh.faces)
    if count <= gates.max_triangles:
        return None
    return Finding(
        "triangles",
        f"{count} triangles, the limit is {gates.max_triangles} (--set gates.max_triangles)",
    )


def _area(facts: MeshFacts, gates: GateSettings) -> Finding | None:
    return None if facts.areas.any() else Finding("empty_mesh", "no triangle has an area")


def _precision(facts: MeshFacts, gates: GateSettings) -> Finding | None:
    step = float(np.spacing(np.float32(np.abs(facts.box).max())))
    side = float((facts.box[1] - facts.box[0]).max())
    if step <= FINEST * side:
        return None
    return Finding(
        "import",
        f"it is {side:.3g} long and so far from its origin that positions "
        f"are rounded to {step:.3g}",
    )


def _extent(facts: MeshFacts, gates: GateSettings) -> Finding | None:
    ratio = side_ratio(facts.box)
    if ratio >= gates.min_side_ratio:
        return None
    return Finding(
        "extent",
        f"its shortest side is {ratio:.4f} of its longest, the least is {gates.min_side_ratio:g}",
    )


def _animated(facts: MeshFacts, gates: GateSettings) -> Finding | None:
    if not facts.animated or gates.allow_animated:
        return None
    return Finding("animated", "its file holds an animation (--set gates.allow_animated=true)")


def _missing(facts: MeshFacts, gates: GateSettings) -> Finding | None:
    limit, total = gates.max_missing_textures, facts.missing + facts.textures
    if limit is None or facts.missing <= limit * total:
        return None
    return Finding(
        "missing_texture",
        f"{facts.missing} of {total} textures are not there, the largest share is {limit:g}",
    )


def _objects(facts: MeshFacts, gates: GateSettings) -> Finding | None:
    limit = gates.max_objects
    count = 1 if limit is None else objects_of(facts, gates)
    if limit is None or count <= limit:
        return None
    return Finding(
        "several_objects", f"{count} things stand apart from each other, the most is {limit}"
    )


def _surface(facts: MeshFacts, gates: GateSettings) -> Finding | None:
    limit = gates.max_transparent_area
    share = see_through_area(facts) if limit < 1 else 0.0
    if share <= limit:
        return None
    return Finding(
        "transparent", f"{share:.2f} of its surface is see-through, the most is {limit:g}"
    )


def _coverage(facts: ViewFacts, gates: GateSettings) -> Finding | None:
    return _covered(facts.covered, gates)


def _covered(covered: np.ndarray, gates: GateSettings) -> Finding | None:
    empty = int((covered == 0).sum())
    if empty:
        return Finding("blank", f"{empty} of {len(covered)} views show nothing")
    mean = float(covered.mean())
    if mean < gates.min_coverage:
        least = gates.min_coverage
        return Finding("blank", f"covers {mean:.4f} of the image, the least is {least}")
    if mean > gates.max_coverage:
        most = gates.max_coverage
        return Finding("out_of_frame", f"fills {mean:.4f} of the image, the most is {most}")
    return None


def _clipped(facts: ViewFacts, gates: GateSettings) -> Finding | None:
    border = facts.border
    if border.mean() <= gates.max_border_share:
        return None
    return Finding(
        "out_of_frame",
        f"{int(border.sum())} of {len(border)} views are cut by the edge of the image",
    )


def _transparent(facts: ViewFacts, gates: GateSettings) -> Finding | None:
    limit = gates.max_transparent
    share = see_through(facts.rgba, enough=limit) if limit < 1 else 0.0
    if share <= limit:
        return None
    return Finding(
        "transparent", f"{share:.2f} of its pixels are see-through, the most is {limit:g}"
    )


def _single_colour(facts: ViewFacts, gates: GateSettings) -> Finding | None:
    if facts.colours is None or facts.colours.spread >= gates.min_colour_spread:
        return None
    return Finding(
        "single_colour",
        f"its colours spread by {facts.colours.spread:.4f}, "
        f"the least is {gates.min_colour_spread:g}",
    )


def _luminance(facts: ViewFacts, gates: GateSettings) -> Finding | None:
    low, high = gates.min_luminance, gates.max_luminance
    if low <= 0 and high >= 1:
        return None
    value = luminance(facts.rgba)
    if low <= value <= high:
        return None
    return Finding("luminance", f"its mean brightness is {value:.3f}, not {low:g} to {high:g}")


def _pose(facts: PoseFacts, gates: GateSettings) -> Finding | None:
    # What is transparent is in the projection and not in the image.
    low_iou = facts.opaque and facts.iou < gates.min_pose_iou
    if facts.cover >= gates.min_pose_cover and not low_iou:
        return None
    return Finding(
        "pose",
        "the mesh projected with the saved matrices is not what the images show: "
        f"it explains {facts.cover:.3f} of one, the mean IoU is {facts.iou:.3f}",
    )


RULES: tuple[Rule, ...] = (
    Rule("faces", "mesh", "whether there is a face", (), ("empty_mesh",), _faces),
    Rule("finite", "mesh", "NaN and infinite positions", (), ("import",), _finite),
    Rule("triangles", "mesh", "triangles", ("max_triangles",), ("triangles",), _triangles),
    Rule("area", "mesh", "whether a triangle has an area", (), ("empty_mesh",), _area),
    Rule("precision", "mesh", "float32 steps of its positions", (), ("import",), _precision),
    Rule("extent", "mesh", "shortest by longest side of its box", ("min_side_ratio",),
         ("extent",), _extent),
    Rule("animated", "mesh", "animations in its file", ("allow_animated",), ("animated",),
         _animated),
    Rule("missing_texture", "mesh", "share of its textures that are not there",
         ("max_missing_textures",), ("missing_texture",), _missing),
    Rule("several_objects", "mesh", "things that stand apart",
         ("max_objects", "object_gap", "min_object_share"), ("several_objects",), _objects),
    Rule("see_through_material", "mesh", "share of its surface that its materials blend",
         ("max_transparent_area",), ("transparent",), _surface),
    Rule("coverage", "views", "share of the image that it covers",
         ("min_coverage", "max_coverage"), ("blank", "out_of_frame"), _coverage),
    Rule("clipped", "views", "share of views that it leaves", ("max_border_share",),
         ("out_of_frame",), _clipped),
    Rule("transparent", "views", "share of its pixels that are see-through",
         ("max_transparent",), ("transparent",), _transparent),
    Rule("single_colour", "views", "standard deviation of its colours without light",
         ("min_colour_spread",), ("single_colour",), _single_colour),
    Rule("luminance", "views", "mean brightness", ("min_luminance", "max_luminance"),
         ("luminance",), _luminance),
    Rule("pose", "poses", "mesh through the saved matrices against the saved alpha",
         ("min_pose_cover", "min_pose_iou"), ("pose",), _pose),
)  # fmt: skip
"""All rules, in the order in which they run. A lost texture that shows as magenta is found while
views are made: :func:`check_magenta`."""


def check(when: When, facts: MeshFacts | ViewFacts | PoseFacts, gates: GateSettings) -> None:
    """Apply all rules of one kind.

    Raises:
        AssetError: With the reason of the first rule that rejects the asset.
    """
    for rule in RULES:
        if rule.when == when:
            _raise(rule.find(facts, gates))


def objects_of(facts: MeshFacts, gates: GateSettings) -> int:
    """Things that stand apart, as the thresholds define them."""
    return facts.objects(gates.object_gap, gates.min_object_share)


def check_mesh(mesh: Mesh, gates: GateSettings) -> None:
    """Reject a mesh of whose files nothing is known.

    Raises:
        AssetError: With the reason of the first rule that rejects it.
    """
    check("mesh", MeshFacts(mesh), gates)


def check_magenta(views: Views, mesh: Mesh) -> None:
    """Reject images in the colour by which Blender shows that a texture is not there.

    Args:
        views: Their albedo counts, which no light has changed.
        mesh: Of the images; one with magenta in its own colours passes.

    Raises:
        AssetError: ``missing_texture``.
    """
    share = magenta_share(views, mesh, enough=MAGENTA_SHARE)
    if share > MAGENTA_SHARE:
        raise AssetError(
            "missing_texture",
            f"{share:.2f} of its pixels are magenta: a texture is lost",
            stage="gate",
        )


def is_worth_the_rest(covered: np.ndarray, gates: GateSettings) -> bool:
    """Whether the first views let expect that the others show something.

    A thin object may be seen from its edge, and a cube may fill a view: only if the first
    :data:`PROBES` views are all like that is the asset given up before the others are rendered.

    Args:
        covered: Share of covered pixels of the views so far ``[n]``.
        gates: The thresholds.

    Returns:
        False if one more view should be looked at alone.

    Raises:
        AssetError: ``blank`` or ``out_of_frame``.
    """
    sensible = (covered >= gates.min_coverage) & (covered <= gates.max_coverage)
    if len(covered) >= PROBES and not sensible.any():
        _raise(_covered(covered, gates))
    if not covered.all():  # not one view may be empty, so the verdict is known
        _raise(Finding("blank", f"view {len(covered) - 1} shows nothing"))
    return bool(sensible.any()) or len(covered) >= PROBES


def _raise(found: Finding | None) -> None:
    if found is not None:
        raise AssetError(found.reason, found.message, stage="gate")
