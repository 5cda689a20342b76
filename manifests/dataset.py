"""Reading a dataset: its records as typed rows, its images by one ranged read each."""

from __future__ import annotations

import hashlib
import io
import json
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from pydantic import ValidationError

from ..errors import DatasetError
from .records import SCHEMA_VERSION, AssetRecord, DatasetInfo, Split

if TYPE_CHECKING:
    import pyarrow

INFO, ASSETS, INDEX, SHARDS = "dataset.json", "assets.jsonl", "index.parquet", "shards"
REPORT, ATTRIBUTION, REJECTED = "report.html", "ATTRIBUTION.md", "rejected"
"""For people: the page, whom to name, and a picture of what was rejected, by uid."""
STAGING = ".staging"
"""Folder of what a run has not yet finished; a finished dataset has none."""

AGAIN = "run the same `g3d prepare` again: it makes only what is missing or damaged"


@dataclass(frozen=True)
class View:
    """Where one image is. The scalars of one row of :class:`Views`."""

    uid: str
    view: int
    shard: str
    offset: int
    length: int
    sha256: str


@dataclass(frozen=True)
class Views:
    """The index, one row a view, column by column; rows are in the order of the shards.

    Attributes:
        uid: str ``[N]``.
        view: int32 ``[N]``, number of the view within its asset.
        split: str ``[N]``.
        shard: str ``[N]``, path below the dataset.
        offset: int64 ``[N]``, first byte of the image file in the shard.
        length: int64 ``[N]``, bytes of the image file.
        sha256: str ``[N]``, of the image file.
        c2w: float64 ``[N, 4, 4]``, camera to world, OpenGL axes.
        fov_y: float64 ``[N]``, vertical full angle (radians).
        azimuth: float64 ``[N]`` in [0, 2 pi).
        elevation: float64 ``[N]``, above the horizon (radians).
        radius: float64 ``[N]``.
        coverage: float64 ``[N]``, mean alpha.
        touches_border: bool ``[N]``.
    """

    uid: np.ndarray
    view: np.ndarray
    split: np.ndarray
    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    sha256: np.ndarray
    c2w: np.ndarray
    fov_y: np.ndarray
    azimuth: np.ndarray
    elevation: np.ndarray
    radius: np.ndarray
    coverage: np.ndarray
    touches_border: np.ndarray

    def __len__(self) -> int:
        return len(self.view)

    def __getitem__(self, row: int | np.integer) -> View:
        """One row. For several use :meth:`take`."""
        return View(
            uid=str(self.uid[row]),
            view=int(self.view[row]),
            shard=str(self.shard[row]),
            offset=int(self.offset[row]),
            length=int(self.length[row]),
            sha256=str(self.sha256[row]),
        )

    def __iter__(self) -> Iterator[View]:
        return (self[row] for row in range(len(self)))

    def take(self, rows: np.ndarray | slice) -> Views:
        """The rows picked by indices ``[M]``, a mask ``[N]`` or a slice."""
        return Views(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


class Dataset:
    """A finished dataset, local or behind any URL that fsspec opens. Reading needs no torch.

    Example:
        >>> data = Dataset.open("datasets/procedural-chair")
        >>> views = data.views("train")
        >>> data.read_view(views[0]).shape
        (128, 128, 4)
    """

    def __init__(self, root: str, info: DatasetInfo, filesystem: Any) -> None:
        """Use :meth:`open`."""
        self.root = root
        self.info = info
        self._fs = filesystem

    @classmethod
    def open(cls, path: Path | str, *, check: bool = True) -> Dataset:
        """Open a dataset and check that its shards are there, whole.

        Args:
            path: Its folder, or a URL such as ``s3://bucket/chairs``.
            check: Look at its shards, and refuse a dataset without an accepted asset.

        Raises:
            DatasetError: Missing, unfinished, of another schema, with a shard missing or cut, or
                without an accepted asset.
        """
        import fsspec

        filesystem, root = fsspec.core.url_to_fs(str(path))
        info = _read_info(filesystem, root)
        data = cls(root, info, filesystem)
        if not check:
            return data
        if not info.statuses.get("accepted"):
            raise DatasetError(
                f"{path} holds no accepted asset ({_counts(info.statuses)})",
                hint=f"the reasons are in {posixpath.join(root, ASSETS)}",
            )
        data._check_shards()
        return data

    def _check_shards(self) -> None:
        for shard in self.info.shards:
            try:
                size = self._fs.size(self._path(shard.file))
            except FileNotFoundError as error:
                raise DatasetError(
                    f"{self.root} lacks its shard {shard.file}", hint=AGAIN
                ) from error
            if size != shard.bytes:
                raise DatasetError(
                    f"{self._path(shard.file)} is truncated or changed: "
                    f"{size} bytes, expected {shard.bytes}",
                    hint=AGAIN,
                )

    def _path(self, name: str) -> str:
        return posixpath.join(self.root, name)

    @cached_property
    def _records(self) -> list[AssetRecord]:
        text = self.read_file(ASSETS).decode()
        listed = {shard.file for shard in self.info.shards}
        records = []
        for number, line in enumerate(text.splitlines(), 1):
            try:
                record = AssetRecord.model_validate_json(line)
            except ValidationError as error:
                raise DatasetError(f"{self._path(ASSETS)} line {number}: {error}") from error
            # Records run ahead of dataset.json for a moment while a set is being extended.
            if record.status != "accepted" or record.shard in listed:
                records.append(record)
        return records

    @cached_property
    def _by_uid(self) -> dict[str, AssetRecord]:
        return {record.uid: record for record in self._records}

    @cached_property
    def _views(self) -> Views:
        try:
            table = read_parquet(io.BytesIO(self.read_file(INDEX)))
        except (ValueError, OSError) as error:  # pyarrow's ArrowInvalid is a ValueError
            raise DatasetError(
                f"{self._path(INDEX)} is not readable: {error}", hint=AGAIN
            ) from error
        views = _views_of(table)
        listed = np.array([shard.file for shard in self.info.shards])
        return views.take(np.isin(views.shard, listed))

    def read_file(self, name: str) -> bytes:
        """A whole file of the dataset, by its path below it.

        Raises:
            DatasetError: It is not there.
        """
        try:
            return self._fs.cat_file(self._path(name))
        except FileNotFoundError as error:
            raise DatasetError(f"{self.root} lacks {name}", hint=AGAIN) from error

    def assets(self, split: Split | None = None) -> list[AssetRecord]:
        """The accepted assets, in the order of the shards."""
        return [
            record
            for record in self._records
            if record.status == "accepted" and split in (None, record.split)
        ]

    def records(self) -> list[AssetRecord]:
        """All assets, the rejected and the failed too."""
        return list(self._records)

    def asset(self, uid: str) -> AssetRecord:
        """The record of one asset.

        Raises:
            DatasetError: There is no such asset.
        """
        if uid not in self._by_uid:
            raise DatasetError(f"{self.root} has no asset {uid!r}", hint=f"see {ASSETS}")
        return self._by_uid[uid]

    def views(self, split: Split | None = None) -> Views:
        """The views of the accepted assets, in the order of the shards."""
        if split is None:
            return self._views
        return self._views.take(self._views.split == split)

    def read_bytes(self, shard: str, offset: int, length: int) -> bytes:
        """A range of a shard, by one read.

        Raises:
            DatasetError: The shard is missing or cut.
        """
        try:
            data = self._fs.cat_file(self._path(shard), start=offset, end=offset + length)
        except OSError as error:
            raise DatasetError(
                f"cannot read {self._path(shard)}: {error.strerror or error}", hint=AGAIN
            ) from error
        if len(data) != length:
            raise DatasetError(f"{self._path(shard)} is truncated at {offset}", hint=AGAIN)
        return data

    def read_view(self, row: View) -> np.ndarray:
        """One image: uint8 ``[H, W, 4]``, sRGB with straight alpha, row 0 = top.

        Raises:
            DatasetError: The shard is cut, or the bytes are not an image of the right size.
        """
        return self._decode(self.read_bytes(row.shard, row.offset, row.length), row)

    def read_views(self, views: Views) -> np.ndarray:
        """All images of ``views`` in its order: uint8 ``[N, H, W, 4]``, one read an asset."""
        size = self.info.size
        out = np.zeros((len(views), size, size, 4), np.uint8)
        groups: dict[tuple[str, str], list[int]] = {}
        for row, key in enumerate(zip(views.shard.tolist(), views.uid.tolist(), strict=True)):
            groups.setdefault(key, []).append(row)
        for (shard, _), rows in groups.items():
            start = int(views.offset[rows].min())
            end = int((views.offset[rows] + views.length[rows]).max())
            data = self.read_bytes(shard, start, end - start)
            for row in rows:
                view = views[row]
                first = view.offset - start
                out[row] = self._decode(data[first : first + view.length], view)
        return out

    def _decode(self, data: bytes, row: View) -> np.ndarray:
        from PIL import Image

        size = self.info.size
        try:
            image = np.asarray(Image.open(io.BytesIO(data)))
        except (OSError, SyntaxError, ValueError) as error:
            raise DatasetError(
                f"view {row.view} of {row.uid} in {self._path(row.shard)} is damaged: {error}",
                hint=AGAIN,
            ) from error
        if image.shape != (size, size, 4) or image.dtype != np.uint8:
            raise DatasetError(
                f"view {row.view} of {row.uid} is {image.dtype} {image.shape}, "
                f"expected uint8 {(size, size, 4)}"
            )
        return image

    def points(self, uid: str) -> np.ndarray:
        """Surface samples of the normalised mesh: float32 ``[2048, 3]``, uniform by area.

        Raises:
            DatasetError: No such asset, it has no points, or they are damaged.
        """
        record = self.asset(uid)
        if record.shard is None or record.points_offset is None or record.points_length is None:
            raise DatasetError(f"{self.root}: the asset {uid!r} ({record.status}) has no points")
        data = self.read_bytes(record.shard, record.points_offset, record.points_length)
        try:
            return np.load(io.BytesIO(data), allow_pickle=False)
        except ValueError as error:
            raise DatasetError(f"the points of {uid!r} are damaged: {error}", hint=AGAIN) from error

    def verify_view(self, row: View) -> bool:
        """Whether the image file has the SHA-256 that the index lists."""
        data = self.read_bytes(row.shard, row.offset, row.length)
        return hashlib.sha256(data).hexdigest() == row.sha256


def _read_info(filesystem: Any, root: str) -> DatasetInfo:
    path = posixpath.join(root, INFO)
    try:
        data = json.loads(filesystem.cat_file(path))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        if filesystem.exists(posixpath.join(root, STAGING)):
            raise DatasetError(f"the dataset {root} is not finished", hint=AGAIN) from error
        raise DatasetError(
            f"{root} is not a dataset: it has no {INFO}",
            hint="make one: g3d prepare procedural --category chair",
        ) from error
    except ValueError as error:
        raise DatasetError(f"{path} is not JSON: {error}", hint=AGAIN) from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA_VERSION:
        raise DatasetError(
            f"{path} has schema {schema!r}, this version of g3d reads {SCHEMA_VERSION}",
            hint="prepare the dataset again, or install the version of g3d that made it",
        )
    try:
        return DatasetInfo.model_validate(data)
    except ValidationError as error:
        raise DatasetError(f"{path} does not fit schema {SCHEMA_VERSION}: {error}") from error


def read_parquet(file: BinaryIO, columns: Sequence[str] | None = None) -> pyarrow.Table:
    """Columns of a Parquet file, by this thread alone.

    Threads of pyarrow (those of ``read_table``) that hold a Python object may outlive the
    interpreter, and then abort the process as it ends: one short process in four.
    """
    import pyarrow.parquet as pq

    keys = ["uid", "split", "shard", "part"]
    parquet = pq.ParquetFile(file, read_dictionary=keys, pre_buffer=False)
    return parquet.read(columns, use_threads=False)


def _views_of(table: pyarrow.Table) -> Views:
    def text(name: str) -> np.ndarray:
        return np.array(table[name].to_pylist(), dtype=np.str_)

    def number(name: str) -> np.ndarray:
        return table[name].to_numpy()

    c2w = table["c2w"].combine_chunks()
    flat = c2w.flatten().to_numpy(zero_copy_only=False) if len(c2w) else np.zeros(0)
    return Views(
        uid=text("uid"),
        view=number("view"),
        split=text("split"),
        shard=text("shard"),
        offset=number("offset"),
        length=number("length"),
        sha256=text("sha256"),
        c2w=flat.reshape(-1, 4, 4),
        fov_y=np.deg2rad(number("fov_y_deg")),
        azimuth=number("azimuth"),
        elevation=number("elevation"),
        radius=number("radius"),
        coverage=number("coverage"),
        touches_border=number("touches_border"),
    )


def newest_dataset(home: Path) -> Path:
    """The dataset below ``home/datasets`` that was finished last.

    Raises:
        DatasetError: There is none.
    """
    found = [path for path in (home / "datasets").glob(f"*/{INFO}") if path.is_file()]
    if not found:
        raise DatasetError(
            f"there is no dataset below {home / 'datasets'}",
            hint="make one: g3d prepare procedural --category chair",
        )
    return max(found, key=lambda path: (path.stat().st_mtime_ns, str(path))).parent


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none listed"
