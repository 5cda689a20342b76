"""Amazon Berkeley Objects: models of real products, from its public bucket or a copy of it."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import logging
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from ...errors import AssetError, ConfigError, DatasetError
from ...manifests.categories import get_category
from ...manifests.records import CameraPrior
from ...manifests.shards import UID_PATTERN
from ...renderers.meshes import Mesh
from ..transfer.archives import safe_place
from ..transfer.cache import cache_folder
from ..transfer.fetch import Fetcher, FetchSettings
from ..transfer.ranges import location_of
from .base import AssetList, SourceAsset, framing_camera
from .licenses import UNKNOWN, recognise

log = logging.getLogger(__name__)

BUCKET = "https://amazon-berkeley-objects.s3.amazonaws.com"
"""The public bucket; ``s3://amazon-berkeley-objects`` is the same one."""
MODELS = "3dmodels/metadata/3dmodels.csv"
LISTINGS = tuple(f"listings/metadata/listings_{digit}.json" for digit in "0123456789abcdef")
LICENSE = "CC-BY-4.0"
AUTHOR = "Amazon.com"
"""Whom its README wants to be credited for the models."""
HALF_FRAME = 0.72
"""Half of what the cameras see at the origin, in extents: a sphere of 0.69 extents fits."""
FACTS = ("meshes", "materials", "textures", "images", "vertices", "faces",
         "extent_x", "extent_y", "extent_z")  # fmt: skip
"""Columns of the table of models that, with id and path, make up the digest of an asset."""
_VERSION = "abo-1"
_GLB_MAGIC = 0x46546C67


@dataclass(frozen=True)
class Listing:
    """A product of the shop, as far as it matters here.

    Attributes:
        item: Its id, unique within a shop.
        domain: The shop.
        types: Its product types.
        name: In English where there is such a name.
        english: Whether there is.
        brand: Likewise.
    """

    item: str
    domain: str
    types: frozenset[str]
    name: str
    english: bool
    brand: str

    @property
    def rank(self) -> tuple[bool, bool, str]:
        """The least one of a model's listings gives its title: in English, of amazon.com."""
        return not self.english, self.domain != "amazon.com", f"{self.domain}/{self.item}"


Listings: TypeAlias = dict[str, list[Listing]]
"""Of every model, by its id. Named here because inside the source ``list`` is a method."""


@dataclass(frozen=True)
class AboSource:
    """The models of the products of one category, by their ids.

    The files are glTF, +Y up and +Z front, in metres.

    Args:
        category: Canonical category name, one that has product types.
        root: The bucket, a mirror of it, or a folder with its ``3dmodels`` and ``listings``.
        limit: At most this many, the first by id.
        fetch: How files are brought here.
        cache: Folder for what is fetched; the shared cache if it is left out.

    Raises:
        ConfigError: No product type means the category.
    """

    category: str
    root: str = BUCKET
    limit: int | None = None
    fetch: FetchSettings = field(default_factory=FetchSettings)
    cache: str = ""

    def __post_init__(self) -> None:
        if not get_category(self.category).abo:
            raise ConfigError(
                f"Amazon Berkeley Objects has no category {self.category!r}",
                hint="g3d prepare --list-categories abo",
            )
        object.__setattr__(self, "root", location_of(self.root).rstrip("/"))
        cache = Path(self.cache).expanduser().resolve() if self.cache else cache_folder()
        object.__setattr__(self, "cache", str(cache))

    @property
    def name(self) -> str:
        """The name that ``g3d prepare`` takes."""
        return "abo"

    @property
    def remote(self) -> bool:
        """Whether files come over a network."""
        return "://" in self.root

    @property
    def default_camera(self) -> CameraPrior:
        """The category's elevations, from where products of any proportions are in frame."""
        category = get_category(self.category)
        return framing_camera(category.extent, HALF_FRAME, category.camera.elevation_deg)

    def list(self) -> AssetList:
        """All assets, sorted by id. The digest is over the table's facts, no model is read for it.

        Raises:
            ConfigError: ``root`` is a folder that is not there.
            DatasetError: The tables are not there or not as expected, or hold nothing of the
                category.
        """
        if not self.remote and not Path(self.root).is_dir():
            raise ConfigError(
                f"--root {self.root} is not a folder",
                hint="give a copy with 3dmodels/ and listings/, or leave --root out to fetch it",
            )
        try:
            models = self._models()
            listings = self._listings(models.keys())
        except AssetError as error:
            raise DatasetError(
                f"{self.root} cannot be listed: {error.message}",
                hint="--root FOLDER reads a copy of it: 3dmodels/ and listings/",
            ) from error
        types = frozenset(get_category(self.category).abo)
        chosen = [
            m for m in sorted(models) if any(one.types & types for one in listings.get(m, ()))
        ]
        if not chosen:
            raise DatasetError(
                f"no models of {', '.join(sorted(types))} in {self.root}: "
                f"{len(models)} models, {len(listings)} of them in the listings",
                hint="g3d prepare --list-categories abo",
            )
        license_ = self._license()
        return [self._asset(models[m], listings[m], license_) for m in chosen[: self.limit]]

    def file(self, asset: SourceAsset) -> Path:
        """The GLB of an asset.

        Raises:
            AssetError: ``gone``, ``download``: it is not there or cannot be fetched; ``checksum``:
                it is cut.
        """
        name = f"3dmodels/original/{asset.spec['path']}"
        if self.remote:
            path = self._fetched(name, ".glb")
        else:
            path = safe_place(Path(self.root), name)
            if not path.is_file():
                raise AssetError("gone", f"{path} is not there", stage="fetch")
        try:
            _check_whole(path)
        except AssetError:
            if self.remote:
                path.unlink(missing_ok=True)  # of the cache: the next try fetches it anew
            raise
        return path

    def load(self, asset: SourceAsset) -> Mesh:
        """The mesh of an asset.

        Raises:
            AssetError: It cannot be fetched or read.
        """
        from ...renderers.meshes.load import load_mesh

        return load_mesh(self.file(asset))

    def _fetched(self, name: str, suffix: str = "") -> Path:
        fetcher = Fetcher(self.fetch, Path(self.cache))
        return fetcher.download(f"{self.root}/{name}", suffix=suffix)

    def _table(self, name: str) -> Path | None:
        """A table of the collection on this machine, compressed or not; None: it is not there."""
        if self.remote:
            return self._fetched(f"{name}.gz", ".gz")
        paths = [Path(self.root) / f"{name}.gz", Path(self.root) / name]
        return next((path for path in paths if path.is_file()), None)

    def _models(self) -> dict[str, Mapping[str, str]]:
        """The rows of the table of models, by id."""
        path = self._table(MODELS)
        if path is None:
            raise DatasetError(
                f"{self.root} has no {MODELS}.gz",
                hint=f"it is in {BUCKET}/archives/abo-3dmodels.tar, or by itself at "
                f"{BUCKET}/{MODELS}.gz",
            )
        text = io.StringIO("".join(_lines(path)), newline="")
        reader = csv.DictReader(text)
        lacking = {"3dmodel_id", "path"} - set(reader.fieldnames or ())
        if lacking:
            raise DatasetError(f"{path} has no column {', '.join(sorted(lacking))}")
        return {row["3dmodel_id"]: row for row in reader if row["3dmodel_id"] and row["path"]}

    def _listings(self, models: Set[str]) -> Listings:
        """The listings of every model, by its id."""
        tables = [path for path in map(self._table, LISTINGS) if path is not None]
        if not tables:
            raise DatasetError(
                f"{self.root} has no {LISTINGS[0]}.gz: it tells which model is what",
                hint=f"unpack {BUCKET}/archives/abo-listings.tar there (83 MB)",
            )
        if len(tables) < len(LISTINGS):
            log.warning("%s has %d of %d listings", self.root, len(tables), len(LISTINGS))
        out: Listings = {}
        for path in tables:
            for line in _lines(path):
                if '"3dmodel_id"' not in line:  # most have none: parsing them all is slow
                    continue
                try:
                    values = json.loads(line)
                    model = values.get("3dmodel_id")
                except (ValueError, AttributeError) as error:
                    raise DatasetError(f"{path} holds a broken line: {error}") from error
                if model in models:
                    out.setdefault(model, []).append(_listing(values))
        return out

    def _license(self) -> str:
        """CC-BY-4.0, unless the copy is an older one, with a licence file that says another."""
        if self.remote:
            return LICENSE
        root = Path(self.root)
        names = {p.stem for folder in (root, root / "3dmodels") for p in folder.glob("LICENSE*")}
        known = {recognise(name) for name in names} - {UNKNOWN}
        return known.pop() if len(known) == 1 else LICENSE

    def _asset(
        self, row: Mapping[str, str], listings: Iterable[Listing], license_: str
    ) -> SourceAsset:
        best = min(listings, key=lambda one: one.rank)
        path = Path(self.root) / "3dmodels/original" / row["path"]
        return SourceAsset(
            uid=uid_of(row["3dmodel_id"]),
            source_id=row["3dmodel_id"],
            category=self.category,
            license=license_,
            author=f"{AUTHOR} ({best.brand})" if best.brand else AUTHOR,
            url=f"{BUCKET}/3dmodels/original/{row['path']}",
            sha256=digest_of(row),
            bytes=path.stat().st_size if not self.remote and path.is_file() else 0,
            spec={"path": row["path"]},
            title=best.name,
        )


def uid_of(model: str) -> str:
    """``abo-<id>``; an id that cannot be part of a shard's key is replaced by a slug of it."""
    uid = f"abo-{model}"
    if UID_PATTERN.fullmatch(uid):
        return uid
    slug = re.sub(r"[^A-Za-z0-9]+", "-", model).strip("-")[:40] or "asset"
    return f"abo-{slug}-{hashlib.sha256(model.encode('utf-8', 'replace')).hexdigest()[:10]}"


def digest_of(row: Mapping[str, str]) -> str:
    """SHA-256 over id, path and :data:`FACTS` of a model, as its table has them.

    Not over its bytes, which are not here while it is listed: a model whose content was replaced,
    with the same number of everything and the same extent, is not noticed.
    """
    rows = [_VERSION, *(f"{key} {row.get(key) or ''}" for key in ("3dmodel_id", "path", *FACTS))]
    return hashlib.sha256("\n".join(rows).encode("utf-8", "surrogatepass")).hexdigest()


def _lines(path: Path) -> Iterator[str]:
    opening = gzip.open if path.suffix == ".gz" else open
    try:
        with opening(path, "rt", encoding="utf-8", errors="replace", newline="") as file:
            yield from file
    except (EOFError, zlib.error, OSError) as error:
        raise AssetError("checksum", f"{path} is damaged: {error}", stage="fetch") from error


def _listing(values: Mapping[str, Any]) -> Listing:
    name, english = _value(values.get("item_name"))
    return Listing(
        item=str(values.get("item_id") or ""),
        domain=str(values.get("domain_name") or ""),
        types=frozenset(text for text, _ in _values(values.get("product_type"))),
        name=name,
        english=english,
        brand=_value(values.get("brand"))[0],
    )


def _values(value: Any) -> list[tuple[str, str]]:
    """Text and language of a value, which is a text or a list of ``{language_tag, value}``."""
    items = value if isinstance(value, list) else [value]
    pairs = [(i.get("value"), i.get("language_tag")) if isinstance(i, dict) else (i, "")
             for i in items]  # fmt: skip
    return [(str(text).strip(), str(tag or "")) for text, tag in pairs if text]


def _value(value: Any) -> tuple[str, bool]:
    """The English text of a value, or else its first, and whether it is English."""
    pairs = _values(value)
    english = sorted((tag != "en_US", tag) for _, tag in pairs if tag.startswith("en"))
    if english:
        return next(text for text, tag in pairs if tag == english[0][1]), True
    return (pairs[0][0] if pairs else ""), False


def _check_whole(path: Path) -> None:
    """Whether a GLB is as long as its header says."""
    try:
        with path.open("rb") as file:
            head = file.read(12)
        size = path.stat().st_size
    except OSError as error:
        raise AssetError("gone", f"{path}: {error.strerror}", stage="fetch") from error
    magic, _, length = struct.unpack("<3I", head.ljust(12, b"\0"))
    if magic != _GLB_MAGIC or length > size:
        raise AssetError("checksum", f"{path} is no whole GLB: {size} bytes", stage="fetch")
