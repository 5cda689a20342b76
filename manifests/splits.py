"""Train, val and test: by the hash of the uid, so that adding assets never moves one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from pydantic import Field, model_validator

from ..config import Config
from ..errors import DatasetError
from .records import SPLITS, Split


class SplitFractions(Config):
    """Share of the assets in every split; they add up to 1."""

    train: float = Field(0.8, ge=0, le=1)
    val: float = Field(0.05, ge=0, le=1)
    test: float = Field(0.15, ge=0, le=1)

    @model_validator(mode="after")
    def _whole(self) -> SplitFractions:
        total = self.train + self.val + self.test
        if abs(total - 1.0) > 1e-6:
            raise ValueError(f"the fractions must add up to 1, found {total:g}")
        return self


def split_of(uid: str, fractions: SplitFractions) -> Split:
    """The split of an asset; a function of the uid and the fractions alone."""
    word = hashlib.blake2b(b"split\x1f" + uid.encode(), digest_size=8).digest()
    position = int.from_bytes(word, "little") / 2**64
    edge = 0.0
    for split in SPLITS:
        edge += getattr(fractions, split)
        if position < edge:
            return split
    # Rounding of the sum: the last split that holds anything.
    return next(s for s in reversed(SPLITS) if getattr(fractions, s) > 0)


def require_train(splits: Iterable[Split]) -> None:
    """Check that there is something to train on.

    Args:
        splits: Of every asset.

    Raises:
        DatasetError: No asset falls into ``train``.
    """
    splits = list(splits)
    if "train" not in splits:
        raise DatasetError(
            f"none of the {len(splits)} assets falls into the split 'train'",
            hint="--set splits.train=1 --set splits.val=0 --set splits.test=0",
        )
