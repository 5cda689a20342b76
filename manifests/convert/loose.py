"""What the converters share: assets out of the shards, and views that lie about as files."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ConfigError, DatasetError
from ..atomic import write_atomic
from ..dataset import AGAIN, Dataset, Views
from ..records import AssetRecord, Split

MARK = "export.json"
"""At the top of every export: which dataset it came from, and in which layout."""


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        out: Its folder.
        layout: ``transforms`` or ``get3d``.
        assets: How many.
        views: How many.
        lost: What the layout does not hold, in words; empty if it holds everything.
    """

    out: Path
    layout: str
    assets: int
    views: int
    lost: tuple[str, ...] = ()


@dataclass(frozen=True)
class LooseViews:
    """Views that are image files of their own, column by column.

    Attributes:
        uid: str ``[N]``.
        view: int ``[N]``.
        split: ``[N]``, ``train``, ``val``, ``test`` or None where it is not known.
        path: ``[N]``, the image files.
        c2w: float64 ``[N, 4, 4]``, camera to world, OpenGL axes, +Y up.
        fov_y: float64 ``[N]``, vertical full angle (radians).
    """

    uid: np.ndarray
    view: np.ndarray
    split: tuple[Split | None, ...]
    path: tuple[Path, ...]
    c2w: np.ndarray
    fov_y: np.ndarray

    def __len__(self) -> int:
        return len(self.path)

    def read_bytes(self, row: int) -> bytes:
        """The image file of one view.

        Raises:
            DatasetError: It is missing.
        """
        try:
            return self.path[row].read_bytes()
        except OSError as error:
            raise DatasetError(f"cannot read {self.path[row]}: {error.strerror}") from error

    def read_view(self, row: int) -> np.ndarray:
        """One image: uint8 ``[H, W, 4]``; without an alpha channel all of it is covered.

        Raises:
            DatasetError: It is missing or damaged.
        """
        from PIL import Image

        try:
            image = Image.open(io.BytesIO(self.read_bytes(row)))
            return np.array(image if image.mode == "RGBA" else image.convert("RGBA"))
        except (OSError, SyntaxError) as error:
            raise DatasetError(f"{self.path[row]} is damaged: {error}") from error


@dataclass(frozen=True)
class LooseView:
    """One row of :class:`LooseViews`."""

    uid: str
    view: int
    split: Split | None
    path: Path
    c2w: np.ndarray
    fov_y: float


def collect(rows: Sequence[LooseView], folder: Path) -> LooseViews:
    """The columns of ``rows``.

    Raises:
        DatasetError: There is none.
    """
    if not rows:
        raise DatasetError(f"{folder} holds no view")
    return LooseViews(
        uid=np.array([row.uid for row in rows], dtype=np.str_),
        view=np.array([row.view for row in rows], np.int64),
        split=tuple(row.split for row in rows),
        path=tuple(row.path for row in rows),
        c2w=np.stack([row.c2w for row in rows]),
        fov_y=np.array([row.fov_y for row in rows], np.float64),
    )


@dataclass(frozen=True)
class AssetViews:
    """One asset of a dataset: its record, its views, and their image files."""

    record: AssetRecord
    views: Views
    files: tuple[bytes, ...]

    @property
    def digits(self) -> int:
        """Of the number in an image's name."""
        return max(3, len(str(len(self.views) - 1)))


def asset_rows(dataset: Dataset, split: Split | None) -> Iterator[tuple[AssetRecord, Views]]:
    """Every accepted asset with its views, in the order of the shards."""
    views = dataset.views(split)
    order = np.argsort(views.uid, kind="stable")
    uids, starts = np.unique(views.uid[order], return_index=True)
    rows = dict(zip(uids.tolist(), np.split(order, starts[1:]), strict=True))
    for record in dataset.assets(split):
        if record.uid in rows:
            yield record, views.take(rows[record.uid])


def read_asset(dataset: Dataset, record: AssetRecord, views: Views) -> AssetViews:
    """The image files of one asset, by one read, each of them checked.

    Raises:
        DatasetError: A file is not what the index says.
    """
    start = int(views.offset.min())
    data = dataset.read_bytes(
        str(views.shard[0]), start, int((views.offset + views.length).max()) - start
    )
    files = []
    for view in views:
        file = data[view.offset - start : view.offset - start + view.length]
        if hashlib.sha256(file).hexdigest() != view.sha256:
            raise DatasetError(
                f"{view.shard}: view {view.view} of {view.uid} is damaged", hint=AGAIN
            )
        files.append(file)
    return AssetViews(record, views, tuple(files))


def claim(out: Path, dataset: Dataset, layout: str) -> None:
    """Make ``out`` the place of this export; the same export may go on there.

    Raises:
        ConfigError: Something else is there.
    """
    info = dataset.info
    mark = {
        "layout": layout,
        "dataset": info.name,
        "source": info.source,
        "category": info.category,
        "params_hash": info.params_hash,
        "licenses": info.licenses,
        "g3d_version": info.g3d_version,
    }
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        old = read_json(out / MARK) if (out / MARK).is_file() else {}
        if any(old.get(name) != mark[name] for name in ("layout", "dataset", "params_hash")):
            raise ConfigError(
                f"{out} holds something else than this export", hint="give another folder"
            )
    write_json(out / MARK, mark)


def write_file(path: Path, data: bytes) -> None:
    """Write, unless it is there already.

    Raises:
        DiskError: The disk is full.
    """
    if not (path.is_file() and path.read_bytes() == data):
        write_atomic(path, data, sync=False)


def write_json(path: Path, value: Any) -> None:
    """JSON in which every float64 reads back as itself.

    Raises:
        DiskError: The disk is full.
    """
    write_file(path, (json.dumps(value, indent=1) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        DatasetError: It is missing, or something else.
    """
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} is not readable: {error}") from error
    if not isinstance(value, dict):
        raise DatasetError(f"{path} is not a JSON object")
    return value
