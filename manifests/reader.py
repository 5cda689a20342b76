"""Views of a dataset for training loops of any kind: random access, and an order that resumes.

Nothing here imports torch: a map-style dataset and a sampler are known by their methods.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..config import seed_for
from ..errors import ConfigError, DatasetError
from .dataset import AGAIN, Dataset, View, Views
from .records import Split

OPEN_FILES = 256
"""Shards that a process holds open at most."""


class _File:
    """An open local shard, closed when nobody refers to it any more."""

    def __init__(self, path: str) -> None:
        self.handle = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            os.close(self.handle)


class ViewDataset:
    """The views of a split, each read from its shard when it is asked for.

    A map-style dataset for ``torch.utils.data.DataLoader`` and for everything else that calls
    ``len`` and ``[]``. One view is one ranged read; open files belong to one process and are
    opened anew after a fork or in a spawned worker. Threads may share it.

    Args:
        dataset: An open dataset, its folder, or a URL that fsspec opens.
        split: Which views; None for all.
        transform: Called with every item; what it returns is the item.
        verify: Compare the SHA-256 of every file that is read with the index.

    Raises:
        DatasetError: As :meth:`Dataset.open`, or the split holds no view.

    Example:
        >>> data = ViewDataset("datasets/procedural-chair")
        >>> sorted(data[0])
        ['azimuth', 'c2w', 'elevation', 'fov_y', 'index', 'rgba', 'uid', 'view']
    """

    def __init__(
        self,
        dataset: Dataset | Path | str,
        split: Split | None = "train",
        *,
        transform: Callable[[dict[str, Any]], Any] | None = None,
        verify: bool = False,
    ) -> None:
        data = dataset if isinstance(dataset, Dataset) else Dataset.open(dataset)
        self.views: Views = data.views(split)
        if not len(self.views):
            raise DatasetError(f"{data.root} has no view in its split {split}")
        self.size = data.info.size
        self.transform, self.verify = transform, verify
        self._dataset: Dataset | None = data
        self._url = data._fs.unstrip_protocol(data.root)
        # Other file systems than the local one read through fsspec.
        self._local = _is_local(data) and hasattr(os, "pread")
        self._root = data.root
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._process = os.getpid()

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, index: int | np.integer) -> Any:
        """One view.

        Returns:
            rgba: uint8 ``[H, W, 4]``, sRGB with straight alpha, row 0 = top.
            c2w: float64 ``[4, 4]``, camera to world, OpenGL axes.
            fov_y, azimuth, elevation: float, radians.
            uid, view: Which view of which asset.
            index: Its place in this dataset.

        Raises:
            DatasetError: The shard is missing or cut, or the view is damaged.
            IndexError: There is no such view.
        """
        row = int(index)
        if not -len(self) <= row < len(self):
            raise IndexError(f"view {row} of {len(self)}")
        row %= len(self)
        view = self.views[row]
        item = {
            "rgba": self._decode(view),
            "c2w": self.views.c2w[row].copy(),
            "fov_y": float(self.views.fov_y[row]),
            "azimuth": float(self.views.azimuth[row]),
            "elevation": float(self.views.elevation[row]),
            "uid": view.uid,
            "view": view.view,
            "index": row,
        }
        return item if self.transform is None else self.transform(item)

    def read_bytes(self, view: View) -> bytes:
        """The image file of one view, as it stands in its shard.

        Raises:
            DatasetError: The shard is missing or cut; with ``verify``, the file is not as listed.
        """
        if self._process != os.getpid():
            self._forget()
        if self._local:
            data = self._read_local(view)
        else:
            if self._dataset is None:
                self._dataset = Dataset.open(self._url, check=False)
            data = self._dataset.read_bytes(view.shard, view.offset, view.length)
        if self.verify and hashlib.sha256(data).hexdigest() != view.sha256:
            raise DatasetError(f"{_name(view)}: the SHA-256 differs from the index", hint=AGAIN)
        return data

    def _read_local(self, view: View) -> bytes:
        try:
            file = self._files.get(view.shard)
            if file is None:
                file = self._files[view.shard] = _File(posixpath.join(self._root, view.shard))
                while len(self._files) > OPEN_FILES:
                    self._files.popitem(last=False)  # a thread that reads it still holds it
            data = os.pread(file.handle, view.length, view.offset)
        except OSError as error:
            raise DatasetError(f"{_name(view)}: {error.strerror}", hint=AGAIN) from error
        if len(data) != view.length:
            raise DatasetError(f"{_name(view)}: the shard is cut", hint=AGAIN)
        return data

    def _decode(self, view: View) -> np.ndarray:
        from .png import decode_png

        data = self.read_bytes(view)
        try:
            image = decode_png(data)
        except ValueError as error:
            raise DatasetError(f"{_name(view)} is damaged: {error}", hint=AGAIN) from error
        if image.shape != (self.size, self.size, 4) or image.dtype != np.uint8:
            raise DatasetError(f"{_name(view)} is {image.dtype} {image.shape}", hint=AGAIN)
        return image

    def _forget(self) -> None:
        """Open everything anew: this is another process than the one that opened it."""
        self._files, self._dataset, self._process = OrderedDict(), None, os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": None, "_dataset": None, "_process": 0}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()


def _is_local(data: Dataset) -> bool:
    names = data._fs.protocol
    return "file" in ((names,) if isinstance(names, str) else names)


def _name(view: View) -> str:
    return f"{view.shard}: view {view.view} of {view.uid}"


class ShardOrder:
    """An order that stays within a few shards at a time, for stores where that is cheaper.

    The shards of an epoch are shuffled, then taken ``mix`` at a time, and the views of those are
    shuffled together.

    Args:
        views: The views to order.
        mix: Shards that are mixed.
    """

    def __init__(self, views: Views, mix: int = 4) -> None:
        if mix < 1:
            raise ConfigError(f"mix is {mix}, at least 1 shard is expected")
        self.mix = mix
        _, codes = np.unique(views.shard, return_inverse=True)
        self._rows = np.argsort(codes, kind="stable")
        self._ends = np.cumsum(np.bincount(codes))

    def __len__(self) -> int:
        return len(self._rows)

    def __call__(self, rng: np.random.Generator) -> np.ndarray:
        """Rows of one epoch, int64 ``[N]``: a permutation."""
        pieces = np.split(self._rows, self._ends[:-1])
        shards = rng.permutation(len(pieces))
        groups = [shards[n : n + self.mix] for n in range(0, len(shards), self.mix)]
        return np.concatenate(
            [rng.permutation(np.concatenate([pieces[n] for n in group])) for group in groups]
        )


class EpochSampler:
    """Indices of one rank (and worker), epoch after epoch; the order follows from the seed alone.

    All ranks and workers together take every index of an epoch exactly once. Iterating gives the
    rest of the present epoch, after which the next one begins. Pass it as ``sampler`` to a
    ``DataLoader``, which shares its indices out to the workers itself; give ``worker`` and
    ``workers`` only where every worker has a sampler of its own.

    Args:
        source: Number of items, something with a length, or a :class:`ShardOrder`.
        seed: Of the order.
        rank: This process.
        ranks: Processes that share an epoch.
        worker: This worker of the process.
        workers: Workers that share the part of a process.
        shuffle: Off: 0, 1, 2, ...
        even: Leave the last few out, another few in every epoch, so that all get equally many.

    Raises:
        ConfigError: A rank or a worker that is not among them.
    """

    def __init__(
        self,
        source: int | ShardOrder | Any,
        *,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
        worker: int = 0,
        workers: int = 1,
        shuffle: bool = True,
        even: bool = False,
    ) -> None:
        if not (0 <= rank < ranks and 0 <= worker < workers):
            raise ConfigError(f"rank {rank} of {ranks}, worker {worker} of {workers}")
        self.length = source if isinstance(source, int) else len(source)
        self.seed, self.shuffle, self.even = seed, shuffle, even
        self.epoch = 0
        self._order = source if isinstance(source, ShardOrder) else None
        self._part, self._parts = rank * workers + worker, ranks * workers
        self._start = 0  # of the epoch's order, done by all parts before this one was made
        self._taken = 0  # by this part since

    def order(self, epoch: int) -> np.ndarray:
        """All indices of an epoch, int64 ``[N]``, before they are shared out."""
        if not self.shuffle:
            return np.arange(self.length)
        rng = np.random.default_rng(seed_for("epoch", self.seed, epoch))
        return rng.permutation(self.length) if self._order is None else self._order(rng)

    def _end(self) -> int:
        """Where the epoch ends in its order."""
        rest = self.length - self._start
        return self._start + rest - rest % self._parts if self.even else self.length

    def __len__(self) -> int:
        """What is left of the present epoch for this part."""
        first = self._start + self._part + self._taken * self._parts
        return max(0, -(-(self._end() - first) // self._parts))

    def __iter__(self) -> Iterator[int]:
        order = self.order(self.epoch)
        first = self._start + self._part + self._taken * self._parts
        for place in range(first, self._end(), self._parts):
            self._taken += 1
            yield int(order[place])
        self.set_epoch(self.epoch + 1)

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch."""
        self.epoch, self._start, self._taken = epoch, 0, 0

    def state_dict(self, used: int | None = None) -> dict[str, int | bool]:
        """All that a resumed run needs, the same on every rank.

        Args:
            used: Items of this part that were used since the epoch began or the state was loaded.
                Workers of a loader fetch ahead, so the sampler has given out more than were
                trained on. Default: all that were given out.
        """
        taken = self._taken if used is None else used
        return {
            "epoch": self.epoch,
            "done": min(self._start + taken * self._parts, self.length),
            "seed": self.seed,
            "length": self.length,
            "shuffle": self.shuffle,
        }

    def load_state_dict(self, state: Mapping[str, int | bool]) -> None:
        """Go on where ``state`` was taken; the number of ranks and workers may be another.

        Raises:
            ConfigError: It belongs to another seed or another dataset.
        """
        mine = self.state_dict()
        wrong = [n for n in ("seed", "length", "shuffle") if state.get(n) != mine[n]]
        if wrong:
            raise ConfigError(
                "the order is another: "
                + ", ".join(f"{name} {state.get(name)} is now {mine[name]}" for name in wrong)
            )
        self.epoch, self._start, self._taken = int(state["epoch"]), int(state["done"]), 0
