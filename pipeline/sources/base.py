"""Where assets come from: one record, one protocol.

A source is a frozen dataclass of plain values, so that a worker process can be handed either the
source itself (it pickles) or the arguments of :func:`.registry.get_source`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from ...manifests.records import CameraPrior, Get3dPrior, Split
from ...renderers.meshes import Mesh
from ..transfer.fetch import FetchSettings


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
        title: What its author calls it, or an empty string.
        split: Where it belongs, if the source says so; None: by the hash of its uid.
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
    title: str = ""
    split: Split | None = None


@dataclass(frozen=True)
class SourceOptions:
    """What a source is made from: plain values.

    Attributes:
        category: Canonical category name.
        root: A folder or archive, as an absolute path or a URL; None: the source's own place.
        limit: At most this many assets; None for the source's default.
        seed: Base seed of sources that make assets.
        table: CSV or JSON Lines that tells of the files below ``root``, of the source folder.
        fetch: How files are brought over a network.
    """

    category: str
    root: str | None = None
    limit: int | None = None
    seed: int = 0
    table: str | None = None
    fetch: FetchSettings = field(default_factory=FetchSettings)


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
    return Get3dPrior(
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
    def remote(self) -> bool:
        """Whether files come over a network: they are then fetched ahead of rendering."""
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

    def file(self, asset: SourceAsset) -> Path | None:
        """The model file of an asset, for renderers that import files themselves; None: made.

        Of a remote source: in the cache, fetched if it is not there yet.

        Raises:
            AssetError: ``gone``: the file is no longer there; ``download``, ``gated`` or
                ``checksum``: it cannot be fetched.
        """
        ...

    def load(self, asset: SourceAsset) -> Mesh:
        """The mesh of one asset, as the source has it (not normalised).

        Raises:
            AssetError: This asset cannot be loaded.
        """
        ...


@runtime_checkable
class FileSource(Source, Protocol):
    """A source of model files, in formats that not every renderer reads."""

    def formats(self) -> Mapping[str, int]:
        """How many files there are of every suffix that some renderer reads.

        Raises:
            ConfigError: The source is not usable as configured.
        """
        ...

    def reading(self, suffixes: Set[str]) -> FileSource:
        """The same source, listing the files of these formats."""
        ...
