"""What a dataset's records and cameras add up to: for its page and for ``g3d inspect``."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ...manifests.dataset import Dataset
from ...manifests.index import read_columns
from ...manifests.records import AssetRecord, DatasetInfo, Status
from ..report import count_reasons

if TYPE_CHECKING:
    import pyarrow

Item = TypeVar("Item")

NUMBERS = ("azimuth", "elevation", "radius", "coverage", "touches_border")
PLACES = ("uid", "view", "shard", "offset", "length")
FACING = (np.deg2rad(35.0), np.deg2rad(20.0))
"""Azimuth and elevation of the direction from which an asset is shown, as far as it has one."""


@dataclass(frozen=True)
class LicenseCount:
    """Accepted assets under one licence, and how many authors they have."""

    name: str
    assets: int
    authors: int


@dataclass(frozen=True)
class Place:
    """Where the bytes of one image are."""

    shard: str
    offset: int
    length: int


@dataclass(frozen=True)
class Facts:
    """A dataset's records and the columns of its index, counted on demand.

    Attributes:
        info: ``dataset.json``.
        records: All assets, by uid.
        table: The columns `NUMBERS` and `PLACES` of the index, a row an image.
    """

    info: DatasetInfo
    records: tuple[AssetRecord, ...]
    table: pyarrow.Table

    @classmethod
    def of(cls, dataset: Dataset) -> Facts:
        """Read the records, and of the index what is needed.

        Raises:
            DatasetError: A file of the dataset is missing or damaged.
        """
        records = tuple(sorted(dataset.records(), key=lambda record: record.uid))
        return cls(dataset.info, records, read_columns(dataset, (*NUMBERS, *PLACES)))

    def with_status(self, status: Status) -> list[AssetRecord]:
        """The assets that ended so, by uid."""
        return [record for record in self.records if record.status == status]

    @cached_property
    def reasons(self) -> dict[str, int]:
        """How many assets ended with each ``stage/reason``, most frequent first."""
        return count_reasons(self.records)

    @cached_property
    def licenses(self) -> list[LicenseCount]:
        """The licences of the accepted assets, most frequent first."""
        assets: Counter[str] = Counter()
        authors: dict[str, set[str]] = defaultdict(set)
        for record in self.with_status("accepted"):
            assets[record.license] += 1
            if record.author:
                authors[record.license].add(record.author)
        order = sorted(assets.items(), key=lambda item: (-item[1], item[0]))
        return [LicenseCount(name, count, len(authors[name])) for name, count in order]

    @cached_property
    def duplicates(self) -> list[AssetRecord]:
        """Assets that are (nearly) the same as another one."""
        return [record for record in self.records if record.duplicate_of is not None]

    @cached_property
    def missing_textures(self) -> list[AssetRecord]:
        """Assets that name textures which are not there."""
        return [record for record in self.records if record.missing_textures]

    def column(self, name: str) -> np.ndarray:
        """One of `NUMBERS`, ``[N]``: a value an image."""
        return self.table[name].to_numpy()

    def places(self, uids: Iterable[str]) -> dict[str, Place]:
        """Of each asset that has images the one that faces the reader most."""
        import pyarrow as pa
        import pyarrow.compute as pc

        wanted = pa.array(sorted(set(uids)), pa.string())
        rows = self.table.filter(pc.is_in(self.table["uid"], value_set=wanted))
        away = _angle_to_facing(rows["azimuth"].to_numpy(), rows["elevation"].to_numpy())
        best: dict[str, tuple[float, int, Place]] = {}
        columns = [rows[name].to_pylist() for name in PLACES]
        for angle, (uid, view, *where) in zip(
            away.tolist(), zip(*columns, strict=True), strict=True
        ):
            if uid not in best or (angle, view) < best[uid][:2]:
                best[uid] = (angle, view, Place(*where))
        return {uid: place for uid, (_, _, place) in best.items()}


def _angle_to_facing(azimuth: np.ndarray, elevation: np.ndarray) -> np.ndarray:
    """Angle between the cameras' directions and `FACING`, ``[N]``, rounded against noise."""
    turn, rise = FACING
    cosine = np.sin(elevation) * np.sin(rise)
    cosine += np.cos(elevation) * np.cos(rise) * np.cos(azimuth - turn)
    return np.round(np.arccos(np.clip(cosine, -1, 1)), 6)


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """At most ``count`` of ``items``, evenly spread, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    picked = np.linspace(0, len(items) - 1, max(count, 0)).round().astype(int)
    return [items[n] for n in picked]


def by_reason(records: Iterable[AssetRecord], count: int) -> list[AssetRecord]:
    """At most ``count`` records, every reason in turn, so that the rare ones are there too."""
    groups: dict[str, list[AssetRecord]] = defaultdict(list)
    for record in records:
        groups[f"{record.stage}/{record.reason}"].append(record)
    room, shown = count, []
    # The smallest group first: what it leaves is shared by those that come after it.
    for left, name in enumerate(sorted(groups, key=lambda name: (len(groups[name]), name))):
        share = -(-room // (len(groups) - left))
        picked = evenly(groups[name], min(share, room))
        room -= len(picked)
        shown += picked
    return sorted(shown, key=lambda record: (str(record.stage), str(record.reason), record.uid))
