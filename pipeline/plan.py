"""What is to be done: assets and what is known of them to shards and jobs. Pure, no files.

Shards are fixed groups of assets. A group once planned never changes its members, so that the bytes
of its shard depend neither on the workers nor on interruptions; assets that come later form groups
of their own behind the others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from ..errors import DatasetError
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
class Plan:
    """What a run does.

    Attributes:
        groups: All shards of the dataset, sorted by file.
        done: Files of the groups that need nothing.
        todo: Assets to prepare, in the order of the groups.
        left: uids of the groups to be written whose record is already there.
    """

    groups: tuple[Group, ...]
    done: frozenset[str]
    todo: tuple[SourceAsset, ...]
    left: frozenset[str]

    @property
    def open(self) -> tuple[Group, ...]:
        """Groups whose shard is still to be written."""
        return tuple(group for group in self.groups if group.file not in self.done)


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
) -> Plan:
    """Decide which assets are to be prepared for which shards.

    Args:
        assets: What the source lists.
        known: Groups that were planned before.
        done: For every verified shard its file, and the sha256 of its assets by uid.
        staged: sha256 by uid of assets that are finished and wait for their shard.
        fractions: Of the splits.
        shard_size: Most assets of a new group.
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
    new = [uid for uid in sorted(listed) if uid not in placed]
    groups += _new_groups(new, known, fractions, shard_size)
    groups.sort(key=lambda group: group.file)
    waiting = [uid for group in groups if group.file not in finished for uid in group.uids]
    return Plan(
        groups=tuple(groups),
        done=finished,
        todo=tuple(listed[uid] for uid in waiting if uid not in ready),
        left=frozenset(uid for uid in waiting if uid in ready),
    )


def _new_groups(
    uids: Collection[str], known: Sequence[Group], fractions: SplitFractions, shard_size: int
) -> list[Group]:
    """Groups of at most ``shard_size`` assets, numbered behind the known ones of their split."""
    out = []
    for split in SPLITS:
        members = [uid for uid in uids if split_of(uid, fractions) == split]
        numbers = [int(g.stem.rpartition("-")[2]) for g in known if g.split == split]
        number = max(numbers, default=-1) + 1
        for start in range(0, len(members), shard_size):
            file = f"{SHARDS}/{split}-{number:05d}.tar"
            out.append(Group(file, split, tuple(members[start : start + shard_size])))
            number += 1
    return out
