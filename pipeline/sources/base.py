"""Where assets come from: one record, one protocol, one table of constructors.

A source is a frozen dataclass of plain values, so that a worker process can be handed either the
source itself (it pickles) or the arguments of :func:`get_source`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from ...config import did_you_mean
from ...errors import ConfigError
from ...manifests.records import CameraPrior
from ...renderers.meshes import Mesh


@dataclass(frozen=True)
class SourceAsset:
    """One asset as its source lists it, before anything was loaded.

    Attributes:
        uid: Stable id, key-safe (``manifests.shards.UID_PATTERN``), unique in its source.
        source_id: The source's own name of the asset (a relative path, an object id).
        category: Canonical category name.
        license: SPDX identifier, or ``unknown``.
        author: Who made it, or an empty string.
        url: Where it can be seen or fetched, or an empty string.
        sha256: 64 hex digits over all that determines the mesh.
        bytes: Size of the files that ``sha256`` covers; 0 for a made asset.
        spec: Plain JSON values that :meth:`Source.load` needs besides the above.
    """

    uid: str
    source_id: str
    category: str
    license: str
    author: str
    url: str
    sha256: str
    bytes: int
    spec: Mapping[str, Any] = field(default_factory=dict)


AssetList: TypeAlias = list[SourceAsset]
"""Named here because inside :class:`Source` the word ``list`` is a method."""


def framing_camera(
    extent: float, half_frame: float, elevation_deg: tuple[float, float]
) -> CameraPrior:
    """Cameras at 2.6 extents, with the lens that shows ``2 half_frame`` extents at the origin.

    Further away and with a longer lens than GET3D's (1.2 units, 49 degrees), which cuts off
    everything whose bounding sphere is wider than 0.499.
    """
    radius = round(2.6 * extent, 6)
    fov_y = 2.0 * math.degrees(math.atan(half_frame / 2.6))
    return CameraPrior(
        elevation_deg=elevation_deg, radius=(radius, radius), fov_y_deg=round(fov_y, 4)
    )


@runtime_checkable
class Source(Protocol):
    """A place that assets come from."""

    @property
    def name(self) -> str:
        """The name that ``g3d prepare`` takes."""
        ...

    @property
    def default_camera(self) -> CameraPrior | None:
        """The camera prior that fits the assets best, or None for the category's."""
        ...

    def list(self) -> AssetList:
        """All assets, in an order that does not depend on the machine.

        Raises:
            ConfigError: The source is not usable as configured.
            DatasetError: It is usable and holds nothing.
        """
        ...

    def load(self, asset: SourceAsset) -> Mesh:
        """The mesh of one asset, as the source has it (not normalised).

        Raises:
            AssetError: This asset cannot be loaded.
        """
        ...


def _procedural(category: str, root: Path | None, limit: int | None, seed: int) -> Source:
    from .procedural import DEFAULT_COUNT, ProceduralSource

    if root is not None:
        raise ConfigError(
            f"the procedural source makes its assets, it does not read --root {root}",
            hint=f"g3d prepare folder --root {root} --category {category}",
        )
    return ProceduralSource(category, DEFAULT_COUNT if limit is None else limit, seed)


def _folder(category: str, root: Path | None, limit: int | None, seed: int) -> Source:
    from .folder import FolderSource

    del seed  # files are what they are
    if root is None:
        raise ConfigError(
            "the folder source needs --root, the folder that holds the models",
            hint=f"g3d prepare folder --root PATH --category {category}",
        )
    return FolderSource(category, str(root), limit)


SOURCES: dict[str, Callable[[str, Path | None, int | None, int], Source]] = {
    "procedural": _procedural,
    "folder": _folder,
}
"""Constructor of every source by name: ``(category, root, limit, seed) -> Source``."""


def get_source(
    name: str,
    *,
    category: str,
    root: Path | str | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> Source:
    """Build a source from plain values.

    Args:
        name: One of :data:`SOURCES`.
        category: Category name or alias (see ``manifests/categories``).
        root: Folder or archive that is already here, for the sources that read one.
        limit: At most this many assets; None for the source's default.
        seed: Base seed of sources that make assets.

    Raises:
        ConfigError: Unknown source or category, a missing root, a limit below 1.
    """
    from ...manifests.categories import get_category

    if name not in SOURCES:
        raise ConfigError(
            f"unknown source {name!r}{did_you_mean(name, SOURCES)}",
            hint=f"one of: {', '.join(SOURCES)}",
        )
    if limit is not None and limit < 1:
        raise ConfigError(
            f"--limit must be 1 or more, found {limit}", hint="leave --limit out for all"
        )
    canonical = get_category(category).name
    return SOURCES[name](canonical, None if root is None else Path(root), limit, seed)
