"""Objaverse-XL: objects that a table names, through the package ``objaverse`` and its cache."""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ...errors import AssetError, DatasetError, MissingDependency
from ...manifests.atomic import TEMP_MARK, disk_error
from ...manifests.categories import get_category
from ...manifests.records import CameraPrior
from ...renderers.meshes import Mesh
from ..transfer.archives import safe_place
from ..transfer.fetch import FetchSettings
from ..transfer.ranges import location_of
from .base import AssetList, SourceAsset, framing_camera
from .folder import BLENDER_FORMATS, HALF_FRAME, RASTER_FORMATS
from .objaverse_calls import CallFailure, too_large
from .objaverse_store import VERSIONED, Store, base_folder, glb_problem, require_package
from .objaverse_tables import Row, complete, read_table

log = logging.getLogger(__name__)

ALONE = (".glb", ".stl", ".ply", ".usdz")
"""Formats that hold all they need: the digest of the file is the digest of the asset."""
_KEPT = {
    *RASTER_FORMATS, *BLENDER_FORMATS, ".mtl", ".bin", ".png", ".jpg", ".jpeg", ".tga", ".bmp",
    ".tif", ".tiff", ".gif", ".dds", ".webp", ".exr", ".hdr",
}  # fmt: skip
"""Of a repository: models and what models refer to. The rest is not kept."""
_VERSION = "objaverse-xl-1"  # of the digest


@dataclass(frozen=True)
class ObjaverseXLSource:
    """The objects of Objaverse-XL that a table names, in its order.

    Args:
        category: Canonical category name: what the user says that the objects are.
        table: CSV, JSON Lines or Parquet with a column ``fileIdentifier`` or ``sha256``; of a
            column ``category``, the rows of this category count.
        root: The package's cache folder; None: its own.
        limit: At most this many, the first of the table.
        fetch: How files are brought.
        suffixes: Formats that are listed.
    """

    category: str
    table: str
    root: str | None = None
    limit: int | None = None
    fetch: FetchSettings = field(default_factory=FetchSettings)
    suffixes: tuple[str, ...] = RASTER_FORMATS

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", location_of(self.table))
        if self.root is not None:
            object.__setattr__(self, "root", location_of(self.root))

    @property
    def name(self) -> str:
        """The name that ``g3d prepare`` takes."""
        return "objaverse-xl"

    @property
    def remote(self) -> bool:
        """Files come over a network, unless they are in the cache."""
        return True

    @property
    def default_camera(self) -> CameraPrior:
        """The category's elevations, from where models of any proportions are in frame."""
        category = get_category(self.category)
        return framing_camera(category.extent, HALF_FRAME, category.camera.elevation_deg)

    def list(self) -> AssetList:
        """The assets, in the order of the table; no object is fetched.

        Raises:
            ConfigError: The table or ``root`` cannot be used; something is missing and nothing
                may be fetched.
            DatasetError: The table has nothing of the category in a format that is read.
            MissingDependency: The package, or git for objects on GitHub, is not there.
        """
        if not self.fetch.offline:
            require_package()
        store, rows = self._store(), self._rows()
        read = [row for row in rows if row.suffix in ("", *self.suffixes)]
        local = None if "://" in self.table else Path(self.table)
        found = [row for row in complete(read, store, local) if row.suffix in self.suffixes]
        if not found:
            count = Counter(row.suffix or "unknown format" for row in rows)
            told = ", ".join(f"{number} {suffix}" for suffix, number in count.most_common())
            hint = f"it has {told}; read are {', '.join(self.suffixes)}"
            raise DatasetError(f"{self.table} names nothing that can be read", hint=hint)
        if len(read) < len(rows):
            log.warning("passed over %d rows in other formats", len(rows) - len(read))
        once: dict[str, Row] = {}
        for row in found:
            once.setdefault(row.identifier, row)
        chosen = [*once.values()][: self.limit]
        self._need_git(chosen)
        paths: Mapping[str, str] = {}
        if any(row.collection == "sketchfab" for row in chosen):
            wanted = sorted(_last(row.identifier) for row in chosen)
            paths = _object_paths(store, wanted)
        return [self._asset(row, paths) for row in chosen]

    def formats(self) -> dict[str, int]:
        """How many rows of the table there are of every suffix that some renderer reads.

        A row that names a digest alone is counted as GLB: its format is not known before the
        annotations are read.

        Raises:
            ConfigError: The table cannot be used.
            DatasetError: The table has nothing of the category.
        """
        count = Counter(row.suffix or ".glb" for row in self._rows())
        return {suffix: count[suffix] for suffix in RASTER_FORMATS + BLENDER_FORMATS}

    def reading(self, suffixes: Set[str]) -> ObjaverseXLSource:
        """The same table, listing the files of these formats beside those that g3d reads."""
        more = tuple(s for s in BLENDER_FORMATS if s in suffixes)
        return replace(self, suffixes=RASTER_FORMATS + more)

    def file(self, asset: SourceAsset) -> Path:
        """The model of an asset in the cache, fetched if it is not there.

        Its digest is checked with every call.

        Raises:
            AssetError: ``gone``, ``gated``, ``download`` or ``checksum``.
            DiskError: The cache cannot be written.
            MissingDependency: The package is needed and not there.
        """
        store, spec = self._store(), asset.spec
        places = [safe_place(store.base, place) for place in spec["places"]]
        for place in places:
            if place.is_file() and _sha256(place) == spec["sha256"]:
                return place
        if self.fetch.offline and any(place.is_file() for place in places):
            message = f"{asset.source_id} is in the cache with another digest"
            raise AssetError("checksum", message, stage="fetch")
        store.refuse_offline(asset.source_id)
        if not places:
            message = f"{asset.source_id} is not among the objects of Objaverse 1.0"
            raise AssetError("gone", message, stage="fetch")
        if spec["collection"] == "github":
            return self._from_github(store, asset, places[0])

        def attempt(folder: Path) -> Path:
            came = store.fetch_object(folder, "xl-object", **self._call(asset))
            _check(came, str(spec["sha256"]), asset.source_id, self.fetch.max_bytes)
            places[0].parent.mkdir(parents=True, exist_ok=True)
            came.replace(places[0])
            return places[0]

        return store.retried(attempt)

    def load(self, asset: SourceAsset) -> Mesh:
        """The mesh of an asset, in the axes of its file.

        Raises:
            AssetError: It cannot be fetched or read.
        """
        from ...renderers.meshes.load import load_mesh

        return load_mesh(self.file(asset))

    def _from_github(self, store: Store, asset: SourceAsset, place: Path) -> Path:
        """Fetch the repository of an asset, once for all assets that it holds."""
        digest = str(asset.spec["sha256"])
        repository = store.base.joinpath(*PurePosixPath(asset.spec["places"][0]).parts[:4])

        def attempt(folder: Path) -> Path:
            came = store.fetch_object(folder, "xl-object", **self._call(asset))
            _check(came, digest, asset.source_id, None)
            fetched = folder / "github" / "repos" / Path(*_github(asset.source_id).folder)
            _keep_models(fetched)
            if repository.exists():  # it was not whole
                repository.rename(folder / "old")
            repository.parent.mkdir(parents=True, exist_ok=True)
            fetched.rename(repository)
            return place

        with _locked(repository):
            if place.is_file() and _sha256(place) == digest:
                return place
            return store.retried(attempt)

    def _call(self, asset: SourceAsset) -> dict[str, Any]:
        spec = asset.spec
        values = {key: spec[key] for key in ("collection", "sha256")}
        if spec["collection"] == "sketchfab":
            path = str(spec["places"][0]).removeprefix(f"{VERSIONED}/")
            values |= {"uid": _last(asset.source_id), "path": path}
        return values | {"identifier": asset.source_id}

    def _rows(self) -> Sequence[Row]:
        return read_table(self.table, self.category)

    def _store(self) -> Store:
        return Store(base_folder(self.root, self.fetch.offline), self.fetch)

    def _need_git(self, rows: Sequence[Row]) -> None:
        if not any(row.collection == "github" for row in rows) or self.fetch.offline:
            return
        if shutil.which("git") is None:
            raise MissingDependency(
                "objects of Objaverse-XL on GitHub are fetched with git, which is not installed",
                hint="install git, or leave these rows out of the table",
            )

    def _asset(self, row: Row, paths: Mapping[str, str]) -> SourceAsset:
        collection = row.collection
        author = row.author
        if collection == "github":
            author = author or _github(row.identifier).folder[0]
        return SourceAsset(
            uid=uid_of(row),
            source_id=row.identifier,
            category=self.category,
            license=row.license,
            author=author,
            url=row.identifier,
            sha256=digest_of(row),
            bytes=0,  # the annotations do not tell
            spec={
                "collection": collection,
                "sha256": row.sha256,
                "places": places_of(row, paths),
            },
            title=row.title,
        )


@dataclass(frozen=True)
class _Blob:
    """A file on GitHub: organisation and repository, commit, path."""

    folder: tuple[str, str]
    commit: str
    path: str


def _github(identifier: str) -> _Blob:
    """The parts of ``https://github.com/ORG/REPO/blob/COMMIT/PATH``."""
    parts = identifier.split("/", 7)
    if len(parts) < 8:
        return _Blob(("", ""), "", "")
    return _Blob((parts[3], parts[4]), parts[6], parts[7])


def _last(identifier: str) -> str:
    return identifier.rstrip("/").rsplit("/", 1)[-1]


def uid_of(row: Row) -> str:
    """Of Sketchfab the uid that Objaverse 1.0 has too, so that an object keeps its split.

    Otherwise a readable name and 10 hex digits of the digest of the address.
    """
    if row.collection == "sketchfab" and re.fullmatch(r"[0-9a-f]{32}", _last(row.identifier)):
        return _last(row.identifier)
    name = re.sub(r"[^A-Za-z0-9]+", "-", row.identifier.split("//", 1)[-1].rsplit(".", 1)[0])
    digest = hashlib.sha256(row.identifier.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{row.collection}-{name[-40:].strip('-').lower() or 'asset'}-{digest}"


def digest_of(row: Row) -> str:
    """The digest of the file where the file is all there is; else one over its address too.

    The address on GitHub holds the commit, which decides all that the file refers to.
    """
    if row.suffix in ALONE:
        return row.sha256
    text = f"{_VERSION} {row.identifier} {row.sha256}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def places_of(row: Row, paths: Mapping[str, str]) -> Sequence[str]:
    """Where an object may lie below the cache folder; the first is where it is put.

    The package keeps a repository without saying of which commit; here the commit is in the name.
    """
    identifier = row.identifier
    if row.collection == "github":
        blob = _github(identifier)
        org, repository = blob.folder
        own = f"{repository}@{blob.commit[:12]}"
        return [f"github/repos/{org}/{name}/{blob.path}" for name in (own, repository)]
    if row.collection == "thingiverse":
        thing, file = re.search(r"thing:(\d+)", identifier), re.search(r"fileId=(\d+)", identifier)
        if thing is None or file is None:
            return []
        return [f"thingiverse/thing-{thing[1]}-file-{file[1]}.stl"]
    if row.collection == "smithsonian":
        return [f"smithsonian/objects/{uuid.uuid5(uuid.NAMESPACE_DNS, identifier)}.glb"]
    path = paths.get(_last(identifier))
    return [f"{VERSIONED}/{path}"] if path else []


def _object_paths(store: Store, uids: Sequence[str]) -> dict[str, str]:
    """The path of every object of Objaverse 1.0 among ``uids``."""
    name = "object-paths.json.gz"

    def make() -> dict[str, str]:
        every = store.read(name, "paths")
        return {uid: every[uid] for uid in uids if uid in every}

    return store.extract((store.versioned / name,), uids, make)


def _check(came: Path, digest: str, what: str, limit: int | None) -> None:
    """Compare what was fetched with the table."""
    if not came.is_file():
        raise CallFailure(AssetError("download", f"{what}: nothing came", stage="fetch"), 0.0)
    if limit is not None and came.stat().st_size > limit:
        raise too_large(what, limit)
    found = _sha256(came)
    if found != digest:
        cut = came.suffix == ".glb" and bool(glb_problem(came))
        message = f"{what} has the digest {found}, not {digest}"
        raise CallFailure(AssetError("checksum", message, stage="fetch"), 0.0 if cut else None)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _keep_models(folder: Path) -> None:
    """Remove of a repository what no model needs."""
    for path in folder.rglob("*"):
        if not path.is_dir() and path.suffix.lower() not in _KEPT:
            path.unlink()


@contextmanager
def _locked(repository: Path) -> Iterator[None]:
    """Let one process fetch a repository while others wait for it."""
    try:
        import fcntl
    except ImportError:  # Windows: it may be fetched twice
        yield
        return
    lock = repository.with_name(f".{repository.name}{TEMP_MARK}lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("wb")
    except OSError as error:
        raise disk_error(lock, error) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
