"""What is to be done: assets and what is known of them to shards and jobs. Pure, no files.

Shards are fixed groups of assets. A group once planned never changes its members, so that the bytes
of its shard depend neither on the workers nor on interruptions; assets that come later form groups
of their own behind the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import ConfigError, DatasetError
from ..manifests.dataset import SHARDS
from ..manifests.records import SPLITS, Split
from ..manifests.shards import UID_LIMIT, UID_PATTERN
from ..manifests.splits import SplitFractions, split_of
from .sources.base import SourceAsset


@dataclass(frozen=True)
class Group:
    """The assets of one shard.

    Attributes:
        file: Path of the shard below the dataset.
        split: All its assets are in it.
        uids: Sorted; the order of the members.
    """

    file: str
    split: Split
    uids: tuple[str, ...]

    @property
    def stem(self) -> str:
        """The shard's name without folder and ending."""
        return self.file.removeprefix(f"{SHARDS}/").removesuffix(".tar")


@dataclass(frozen=True)
class Share:
    """The part of a dataset that one of several runs beside each other makes.

    Attributes:
        index: Which one it is, from 0.
        count: How many there are.
    """

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Share:
        """From ``index/count``.

        Raises:
            ConfigError: It is something else, or the index is not below the count.
        """
        index, _, count = text.partition("/")
        if index.isdigit() and count.isdigit() and int(index) < int(count):
            return cls(int(index), int(count))
        raise ConfigError(
            f"--shard-index must be i/n with i from 0 to n - 1, found {text!r}",
            hint="--shard-index $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT",
        )

    @property
    def whole(self) -> bool:
        """All of it."""
        return self.count == 1

    def has(self, file: str) -> bool:
        """Whether the shard of this path is its: by the number, a later split starts one on."""
        split, _, number = Path(file).stem.rpartition("-")
        place = [str(one) for one in SPLITS].index(split)
        return (int(number) + place) % self.count == self.index

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@dataclass(frozen=True)
class Plan:
    """What a run does.

    Attributes:
        groups: All shards of the dataset, sorted by file.
        done: Files of the groups that need nothing.
        open: Groups whose shard this run writes.
        todo: Assets to prepare, in the order of the groups.
        left: uids of the groups to be written whose record is already there.
    """

    groups: tuple[Group, ...]
    done: frozenset[str]
    open: tuple[Group, ...]
    todo: tuple[SourceAsset, ...]
    left: frozenset[str]


WHOLE = Share()


def check_assets(assets: Sequence[SourceAsset]) -> None:
    """Check that the uids can be keys of a shard, and are different.

    Raises:
        DatasetError: A uid is used twice, too long or holds a character that is not allowed.
    """
    seen: dict[str, SourceAsset] = {}
    for asset in assets:
        if not UID_PATTERN.fullmatch(asset.uid):
            raise DatasetError(
                f"the uid {asset.uid!r} of {asset.source_id!r} cannot name members of a shard: "
                f"up to {UID_LIMIT} letters, digits, '-' and '_', the first a letter or digit"
            )
        if asset.uid in seen:
            raise DatasetError(
                f"{asset.source_id!r} and {seen[asset.uid].source_id!r} "
                f"have the same uid {asset.uid!r}"
            )
        seen[asset.uid] = asset


def make_plan(
    assets: Sequence[SourceAsset],
    known: Sequence[Group],
    done: Mapping[str, Mapping[str, str]],
    staged: Mapping[str, str],
    fractions: SplitFractions,
    shard_size: int,
    share: Share = WHOLE,
) -> Plan:
    """Decide which assets are to be prepared for which shards.

    Args:
        assets: What the source lists.
        known: Groups that were planned before.
        done: For every verified shard its file, and the sha256 of its assets by uid.
        staged: sha256 by uid of assets that are finished and wait for their shard.
        fractions: Of the splits.
        shard_size: Most assets of a new group.
        share: Which of the groups are this run's to write.
    """
    listed = {asset.uid: asset for asset in assets}

    def fresh(uid: str, sha256: str) -> bool:
        return uid not in listed or listed[uid].sha256 == sha256

    finished = frozenset(
        group.file
        for group in known
        if group.file in done and all(fresh(*item) for item in done[group.file].items())
    )
    ready = {uid for uid, sha256 in staged.items() if fresh(uid, sha256)}
    groups = []
    for group in known:
        # An asset that the source no longer has, and that was never finished, is forgotten.
        uids = tuple(u for u in group.uids if group.file in finished or u in listed or u in ready)
        if uids:
            groups.append(replace(group, uids=uids))
    placed = {uid for group in groups for uid in group.uids}
    new = [asset for uid, asset in sorted(listed.items()) if uid not in placed]
    groups += _new_groups(new, known, fractions, shard_size)
    groups.sort(key=lambda group: group.file)
    mine = tuple(group for group in groups if share.has(group.file) and group.file not in finished)
    waiting = [(uid, group.split) for group in mine for uid in group.uids]
    return Plan(
        groups=tuple(groups),
        done=finished,
        open=mine,
        # Its group says where an asset belongs, whatever a table says later.
        todo=tuple(replace(listed[uid], split=split) for uid, split in waiting if uid not in ready),
        left=frozenset(uid for uid, _ in waiting if uid in ready),
    )


def _new_groups(
    assets: Sequence[SourceAsset],
    known: Sequence[Group],
    fractions: SplitFractions,
    shard_size: int,
) -> list[Group]:
    """Groups of at most ``shard_size`` assets, numbered behind the known ones of their split."""
    out = []
    for split in SPLITS:
        members = [a.uid for a in assets if (a.split or split_of(a.uid, fractions)) == split]
        numbers = [int(g.stem.rpartition("-")[2]) for g in known if g.split == split]
        number = max(numbers, default=-1) + 1
        for start in range(0, len(members), shard_size):
            file = f"{SHARDS}/{split}-{number:05d}.tar"
            out.append(Group(file, split, tuple(members[start : start + shard_size])))
            number += 1
    return out
