"""Parametric shapes: hundreds of distinct assets from a seed, with nothing to download.

Every asset can be made alone: its parameters are drawn from a generator seeded by its uid, and the
mesh is a pure function of the parameters. ``sha256`` covers the parameters and :data:`VERSION`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from ....config import canonical_json, did_you_mean
from ....errors import AssetError, ConfigError
from ....manifests.categories import get_category
from ....manifests.records import CameraPrior
from ....renderers.meshes import Mesh
from ..base import AssetList, SourceAsset, framing_camera
from . import car, chair, motorbike, mug, table
from .draw import Draw, Params

VERSION = 1
"""Goes into every digest: raise it when the same parameters make another mesh."""
DEFAULT_COUNT = 500
LICENSE = "CC0-1.0"


@dataclass(frozen=True)
class Shape:
    """One parametric family.

    Attributes:
        draw: Draws the parameters of one shape.
        build: Makes the mesh of given parameters: +Y up, +Z front, not normalised.
        half_frame: Half of what a camera sees at the origin, in units of the extent.
    """

    draw: Callable[[Draw], Params]
    build: Callable[[Params], Mesh]
    half_frame: float = 0.68


SHAPES: dict[str, Shape] = {
    "chair": Shape(chair.draw, chair.build),
    "table": Shape(table.draw, table.build),
    "mug": Shape(mug.draw, mug.build),
    "car": Shape(car.draw, car.build, half_frame=0.60),
    "motorbike": Shape(motorbike.draw, motorbike.build, half_frame=0.60),
}
"""All families by category name."""


@dataclass(frozen=True)
class ProceduralSource:
    """The first ``count`` shapes of a family and a seed.

    Args:
        category: A canonical category name with an entry in :data:`SHAPES`.
        count: Number of shapes.
        seed: Shapes of different seeds are different.
    """

    category: str
    count: int = DEFAULT_COUNT
    seed: int = 0

    def __post_init__(self) -> None:
        if self.category not in SHAPES:
            raise ConfigError(
                f"there are no procedural shapes of category {self.category!r}"
                f"{did_you_mean(self.category, SHAPES)}",
                hint=f"one of: {', '.join(SHAPES)}",
            )

    @property
    def name(self) -> str:
        """The name that ``g3d prepare`` takes."""
        return "procedural"

    @property
    def remote(self) -> bool:
        """Whether files come over a network."""
        return False

    @property
    def default_camera(self) -> CameraPrior:
        """Further away than GET3D's, with a longer lens, and from higher up.

        At the origin a camera sees ``2 half_frame`` extents: 74 to 83 % is the longest side.
        """
        extent = get_category(self.category).extent
        return framing_camera(extent, SHAPES[self.category].half_frame, (0.0, 40.0))

    def list(self) -> AssetList:
        """All assets, by index."""
        return [self.asset(index) for index in range(self.count)]

    def asset(self, index: int) -> SourceAsset:
        """The record of one asset; any ``index`` >= 0, also beyond ``count``."""
        uid = f"{self.category}-s{self.seed}-{index:06d}"
        body = {
            "category": self.category,
            "params": self.params(uid),
            "version": VERSION,
        }
        return SourceAsset(
            uid=uid,
            source_id=uid,
            category=self.category,
            license=LICENSE,
            author="g3d",
            url="",
            sha256=hashlib.sha256(canonical_json(body).encode()).hexdigest(),
            bytes=0,
            spec={"params": body["params"]},
        )

    def params(self, uid: str) -> Params:
        """The parameters that belong to ``uid``."""
        return SHAPES[self.category].draw(Draw("procedural", uid))

    def file(self, asset: SourceAsset) -> None:
        """None: the meshes are made, not read."""

    def load(self, asset: SourceAsset) -> Mesh:
        """Make the mesh of ``asset`` from the parameters in its record."""
        try:
            return SHAPES[self.category].build(dict(asset.spec["params"]))
        except (KeyError, TypeError, ValueError) as error:
            raise AssetError(
                "import", f"{asset.uid}: not parameters of a {self.category}: {error!r}"
            ) from error
