"""Models of one's own: any tree of model files, packed or not, with a table that tells of them."""

from __future__ import annotations

import hashlib
import logging
import os
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Set
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from ...errors import AssetError, ConfigError, DatasetError
from ...manifests.categories import get_category
from ...manifests.records import SPLITS, CameraPrior
from ...renderers.meshes import Mesh
from ..transfer.cache import cache_folder, make_room, new_folder, touch
from ..transfer.fetch import Fetcher, FetchSettings
from ..transfer.ranges import location_of
from .base import AssetList, SourceAsset, framing_camera
from .folder_files import BLENDER_FORMATS, RASTER_FORMATS, Digests, inspect
from .folder_models import PREFERENCE, Found, Model, Root, choose, find_models
from .licenses import UNKNOWN, Terms, folder_terms
from .table import TABLES, Row, Table, read_table
from .trees import ARCHIVES, ArchiveTree, DiskTree, Tree, archive_ending

log = logging.getLogger(__name__)

HALF_FRAME = 0.72
"""Half of what the cameras see at the origin, in extents: a sphere of 0.69 extents fits."""
LICENSE_BYTES = 100_000
"""Of a licence file, so much is read."""


@dataclass(frozen=True)
class FolderSource:
    """One asset for each model below ``root``, by path; the formats of one model are one asset.

    glTF and OBJ are +Y up by definition; PLY and STL have no convention and are taken as they are.

    Args:
        category: Canonical category name, the same for all files.
        root: A folder, in which archives count as folders, or an archive, or the URL of one. A
            path is made absolute, because a worker runs elsewhere.
        limit: At most this many, the first by path.
        suffixes: Formats that are listed.
        table: Path or URL of a table; left out: ``g3d.csv`` or ``g3d.jsonl`` at the root, if there
            is one.
        fetch: How a URL is brought here.
        cache: Folder for what is unpacked; the shared cache if it is left out.
    """

    category: str
    root: str
    limit: int | None = None
    suffixes: tuple[str, ...] = RASTER_FORMATS
    table: str | None = None
    fetch: FetchSettings = field(default_factory=FetchSettings)
    cache: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", location_of(self.root))
        if self.table is not None:
            object.__setattr__(self, "table", location_of(self.table))
        cache = Path(self.cache).expanduser().resolve() if self.cache else cache_folder()
        object.__setattr__(self, "cache", str(cache))

    @property
    def name(self) -> str:
        """The name that ``g3d prepare`` takes."""
        return "folder"

    @property
    def remote(self) -> bool:
        """Whether files come over a network."""
        return "://" in self.root

    @property
    def default_camera(self) -> CameraPrior:
        """The category's elevations, from where models of any proportions are in frame."""
        category = get_category(self.category)
        return framing_camera(category.extent, HALF_FRAME, category.camera.elevation_deg)

    def list(self) -> AssetList:
        """All assets, sorted by path, with digests over everything they refer to.

        Raises:
            ConfigError: ``root`` is no folder and no archive, or the table is not there.
            DatasetError: There is no model file below it, the archive cannot be read, or the table
                is wrong.
        """
        root, found = self._find()
        table = self._table(root)
        if not found.models:
            raise self._nothing(found)
        rows = None if table is None else table.of_category(self.category)
        chosen = choose(found.groups(), rows, frozenset(self.suffixes))
        if not chosen.models:
            raise self._nothing(found)
        if chosen.unread:
            told = _counted(chosen.unread)
            log.warning("passed over below %s: %s; --renderer blender reads them", self.root, told)
        if found.closed:
            told = _counted(found.closed)
            log.warning("passed over below %s: %s: unpack them first", self.root, told)
        reader = _Reader(root, self.category)
        return [reader.asset(model, row) for model, row in chosen.models[: self.limit]]

    def formats(self) -> dict[str, int]:
        """How many files there are of every suffix that some renderer reads.

        Raises:
            ConfigError: ``root`` is no folder and no archive.
            DatasetError: It is an archive that cannot be read.
        """
        count = Counter(model.suffix for model in self._find()[1].models)
        return {suffix: count[suffix] for suffix in RASTER_FORMATS + BLENDER_FORMATS}

    def reading(self, suffixes: Set[str]) -> FolderSource:
        """The same folder, listing the files of these formats beside those that g3d reads."""
        more = tuple(s for s in BLENDER_FORMATS if s in suffixes)
        return replace(self, suffixes=RASTER_FORMATS + more)

    def file(self, asset: SourceAsset) -> Path:
        """The file of ``asset``; out of an archive: in the cache, beside the files it refers to.

        Raises:
            AssetError: ``gone``; of an archive also ``import`` or ``checksum``: it cannot be
                unpacked, or has changed since it was listed; ``download``.
            DiskError: The cache cannot be written.
        """
        files = asset.spec.get("files")
        if files is None:
            path = Path(self.root) / asset.spec["path"]
            if not path.is_file():
                raise AssetError("gone", f"{path} is no longer there", stage="fetch")
            return path
        place = Path(self.cache) / "folder" / asset.uid / asset.sha256[:20]
        path = place / "files" / files[0]
        if not touch(place):
            with new_folder(place) as folder:
                _unpack(self._root().tree(asset.spec["archive"]), asset, folder / "files")
            make_room(Path(self.cache), self.fetch.cache_bytes, asset.bytes)
        return path

    def load(self, asset: SourceAsset) -> Mesh:
        """Read the file of ``asset``.

        Raises:
            AssetError: The file is gone or cannot be read.
        """
        from ...renderers.meshes.load import load_mesh

        return load_mesh(self.file(asset))

    def _root(self) -> Root:
        """The root on this machine.

        Raises:
            AssetError: It is behind a URL and cannot be fetched.
        """
        if not self.remote:
            return Root(Path(self.root), Path(self.cache))
        ending = archive_ending(urlsplit(self.root).path) or ""
        path = Fetcher(self.fetch, Path(self.cache)).download(self.root, suffix=ending)
        return Root(path, Path(self.cache))

    def _find(self) -> tuple[Root, Found]:
        place = urlsplit(self.root).path if self.remote else self.root
        if not (archive_ending(place) or (not self.remote and Path(place).is_dir())):
            there = self.remote or Path(place).exists()
            raise ConfigError(
                f"--root {self.root} " + ("is not a folder" if there else "does not exist"),
                hint=f"give the folder that holds the models, or an archive: {', '.join(ARCHIVES)}",
            )
        try:
            root = self._root()
            if not root.path.exists():
                raise ConfigError(f"--root {self.root} does not exist", hint="check the path")
            return root, find_models(root)
        except AssetError as error:
            raise DatasetError(
                f"{self.root} cannot be listed: {error.message}",
                hint="get it again if it is damaged",
            ) from error

    def _table(self, root: Root) -> Table | None:
        """The table that was named, or that lies at the root."""
        if self.table is not None:
            return read_table(*self._named_table(self.table))
        tree = root.tree()
        there = [name for name in TABLES if tree.resolve("", name)]
        if len(there) > 1:
            raise ConfigError(
                f"{self.root} holds {' and '.join(there)}",
                hint=f"--table {there[0]}, or remove one",
            )
        if not there:
            return None
        with tree.open(there[0]) as file:
            return read_table(there[0], file.read())

    def _named_table(self, table: str) -> tuple[str, bytes]:
        try:
            if "://" not in table:
                return PurePosixPath(table).name, Path(table).read_bytes()
            name = posixpath.basename(urlsplit(table).path)
            path = Fetcher(self.fetch, Path(self.cache)).download(
                table, suffix=posixpath.splitext(name)[1]
            )
            return name, path.read_bytes()
        except (AssetError, OSError) as error:
            what = error.message if isinstance(error, AssetError) else error.strerror
            raise ConfigError(
                f"--table {table} cannot be read: {what}", hint="check the path"
            ) from error

    def _nothing(self, found: Found) -> DatasetError:
        count = Counter(model.suffix for model in found.models)
        others = Counter({s: count[s] for s in PREFERENCE if s in count and s not in self.suffixes})
        told = _counted(others + found.closed)
        hint = f"accepted are {', '.join(self.suffixes)}, also in {', '.join(ARCHIVES)}"
        if others:
            hint = f"--renderer blender reads {', '.join(others)}"
        elif found.closed:
            hint = "unpack them first"
        return DatasetError(
            f"no model files below {self.root}" + (f", but {told}" if told else ""), hint=hint
        )


class _Reader:
    """Makes assets of model files; what several of them share is read once."""

    def __init__(self, root: Root, category: str) -> None:
        self.root, self.category = root, category
        self.digests = Digests()
        self._terms: dict[tuple[str, str], Terms] = {}

    def asset(self, model: Model, row: Row | None) -> SourceAsset:
        """One asset; what the table says of it counts before what the files say."""
        tree = self.root.tree(model.archive)
        facts = inspect(tree, model.name)
        known = self._terms_of(model, facts.terms)
        row = row or Row("", model.path)
        sha256, size = self.digests.asset(tree, model.name, facts)
        spec = {"path": model.path, "missing": list(facts.missing)}
        if isinstance(tree, ArchiveTree):
            files = list(dict.fromkeys([model.name, *facts.sides]))
            spec |= {"archive": model.archive, "files": files}
        return SourceAsset(
            uid=row.uid or uid_of(model.unpacked),
            # A name that is not UTF-8 must not stop the run when its record is written.
            source_id=os.fsencode(model.path).decode("utf-8", "replace"),
            category=self.category,
            license=row.license or known.license,
            author=row.author or known.author,
            url=row.url or facts.url,
            sha256=sha256,
            bytes=size,
            spec=spec,
            title=row.title or facts.title,
            split=next((split for split in SPLITS if split == row.split), None),
        )

    def _terms_of(self, model: Model, known: Terms) -> Terms:
        """The licence and the author that the file names, or else the nearest folder above it."""
        for archive, name in ((model.archive, model.name), ("", model.archive)):
            folder = name
            while folder:
                folder = posixpath.dirname(folder)
                near = self._folder_terms(archive, folder)
                known = Terms(
                    near.license if known.license == UNKNOWN else known.license,
                    known.author or near.author,
                )
        return known

    def _folder_terms(self, archive: str, folder: str) -> Terms:
        key = (archive, folder)
        if key not in self._terms:
            tree = self.root.tree(archive)
            names = tree.within(folder)
            self._terms[key] = folder_terms({n: _reading(tree, folder, n) for n in names})
        return self._terms[key]


def _reading(tree: Tree, folder: str, name: str) -> Callable[[], bytes]:
    def read() -> bytes:
        with tree.open(posixpath.join(folder, name)) as file:
            return file.read(LICENSE_BYTES)

    return read


def _unpack(tree: Tree, asset: SourceAsset, folder: Path) -> None:
    """Put the files of an asset into ``folder``, with the names that they have in the archive.

    Raises:
        AssetError: They cannot be unpacked, or are not those that were listed.
    """
    files = asset.spec["files"]
    if not isinstance(tree, ArchiveTree):
        raise AssetError("gone", f"{tree.name} is no longer an archive", stage="fetch")
    tree.extract(files, folder)
    there = DiskTree(folder)
    if Digests().asset(there, files[0], inspect(there, files[0]))[0] != asset.sha256:
        message = f"{tree.name}: {files[0]} has changed since it was listed"
        raise AssetError("checksum", message, stage="fetch")


def uid_of(relative: str) -> str:
    """A readable slug of a relative path, and 10 hex digits of its digest to keep it unique."""
    stem = relative.rsplit(".", 1)[0]
    slug = re.sub(r"[^A-Za-z0-9]+", "-", stem).strip("-").lower()
    if len(slug) > 60:  # the end says more than the beginning; start it at a whole word
        slug = slug[-60:].partition("-")[2] or slug[-60:]
    slug = slug or "asset"
    return f"{slug}-{hashlib.sha256(relative.encode('utf-8', 'surrogatepass')).hexdigest()[:10]}"


def _counted(count: Counter[str]) -> str:
    return ", ".join(f"{n} {suffix}" for suffix, n in count.items())
