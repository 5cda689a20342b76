"""Where ShapeNetCore lies and in which layout: an unpacked tree, or zips as the hub has them."""

from __future__ import annotations

import logging
import os
import re
import shutil
import threading
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Protocol

from ...errors import AssetError, ConfigError, DatasetError
from ...manifests.categories import list_categories
from ..transfer.archives import Archive, Limits
from ..transfer.cache import cache_folder
from ..transfer.fetch import FetchSettings
from ..transfer.web import Patience, shown
from .hub import SCHEME, Found, HubFile, HubRanges, find
from .shapenet_layout import LAYOUTS, Layout, used

REMOTE_GAP = 256 << 10
"""Bytes that are read in vain rather than with a request of their own."""
_OPENING = threading.Lock()  # lru_cache alone would let two threads open the same zip
_CHUNK = 1 << 20
_SYNSET = re.compile(r"\d{8}")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Access:
    """How what is remote is reached.

    Attributes:
        cache: Where the directory of a zip on the hub is kept.
        settings: Retries, offline.
        revision: Of the hub, in place of the one that the address names.
    """

    cache: Path
    settings: FetchSettings = field(default_factory=FetchSettings)
    revision: str = ""


@dataclass(frozen=True)
class Entry:
    """One file of an asset: its name from the asset's folder, its size, its CRC-32."""

    name: str
    size: int
    crc: int


class Store(Protocol):
    """The assets of one synset."""

    name: str
    """What messages call it."""
    reads_are_cheap: bool
    """Small files may be read while the assets are listed."""

    def models(self) -> dict[str, Layout]:
        """The layout of every asset, by its id, sorted."""
        ...

    def entries(self, model: str, layout: Layout) -> list[Entry]:
        """The files that the model uses, sorted by name."""
        ...

    def read(self, model: str, name: str) -> bytes:
        """One small file of an asset."""
        ...

    def unpack(self, model: str, names: Iterable[str], folder: Path) -> None:
        """Put files of an asset into a new folder."""
        ...


class TreeStore:
    """The unpacked folder of a synset."""

    reads_are_cheap = True

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, str(folder)

    def models(self) -> dict[str, Layout]:
        """The layout of every asset, by its id, sorted."""
        with os.scandir(self.folder) as found:
            ids = sorted(e.name for e in found if e.is_dir() and not e.name.startswith("."))
        out = {}
        for model in ids:
            for layout in LAYOUTS:
                if (self.folder / model / layout.model).is_file():
                    out[model] = layout
                    break
        return out

    def entries(self, model: str, layout: Layout) -> list[Entry]:
        """The files that the model uses; every one is read for its CRC."""
        root = self.folder / model
        names = [
            (Path(place) / file).relative_to(root).as_posix()
            for place, _, files in os.walk(root)
            for file in files
        ]
        return [Entry(name, *_size_and_crc(root / name)) for name in used(names, layout)]

    def read(self, model: str, name: str) -> bytes:
        """One file of an asset."""
        try:
            return (self.folder / model / name).read_bytes()
        except OSError as error:
            message = f"{self.folder / model / name} cannot be read: {error.strerror or error}"
            raise AssetError("gone", message, stage="fetch") from error

    def unpack(self, model: str, names: Iterable[str], folder: Path) -> None:
        """Link the files, or copy them where links are not possible."""
        for name in names:
            source, target = self.folder / model / name, folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, target)
                continue
            except OSError as error:
                log.debug("%s is copied: %s", source, error)
            try:
                shutil.copyfile(source, target)
            except (FileNotFoundError, PermissionError) as error:
                message = f"{source} cannot be read: {error.strerror}"
                raise AssetError("gone", message, stage="fetch") from error


def _size_and_crc(path: Path) -> tuple[int, int]:
    crc = size = 0
    try:
        with path.open("rb") as file:
            while data := file.read(_CHUNK):
                crc, size = zlib.crc32(data, crc), size + len(data)
    except OSError as error:  # of one asset, which fails when it is unpacked
        log.warning("cannot read %s: %s", path, error.strerror or error)
        return 0, 0
    return size, crc


class ZipStore:
    """A synset in a zip: of that synset, of all of ShapeNetCore, or with a zip for each in it."""

    def __init__(self, archive: Archive, synset: str, *, remote: bool, revision: str = "") -> None:
        self.synset, self.name, self.archive = synset, archive.name, archive
        self.reads_are_cheap = not remote
        self.revision = revision
        """Commit of the hub, where it comes from there."""
        inner = [n for n in self.archive.members if PurePosixPath(n).name == f"{synset}.zip"]
        if inner:
            self.archive = self.archive.nested(inner[0])
        self._index = self._read_index(PurePosixPath(self.archive.name).stem == synset)

    def _read_index(self, of_synset: bool) -> dict[str, dict[str, str]]:
        """Names in the archive of the files of every asset, by asset and by their names there."""
        out: dict[str, dict[str, str]] = {}
        for name in self.archive.members:
            parts = PurePosixPath(name).parts
            if self.synset in parts[:-1]:
                parts = parts[parts.index(self.synset) + 1 :]
            elif not of_synset:
                continue
            if len(parts) > 1:
                out.setdefault(parts[0], {})["/".join(parts[1:])] = name
        return out

    def synsets(self) -> list[str]:
        """Synsets that the archive holds, as far as its names tell."""
        found = {p for n in self.archive.members for p in PurePosixPath(n).parts[:2]}
        return sorted({p.removesuffix(".zip") for p in found if _SYNSET.match(p)})

    def models(self) -> dict[str, Layout]:
        """The layout of every asset, by its id, sorted."""
        out = {}
        for model in sorted(self._index):
            for layout in LAYOUTS:
                if layout.model in self._index[model]:
                    out[model] = layout
                    break
        return out

    def entries(self, model: str, layout: Layout) -> list[Entry]:
        """The files that the model uses, by the directory of the zip; none of them is read."""
        files = self._index.get(model, {})
        members = [(name, self.archive.members[files[name]]) for name in used(files, layout)]
        return [Entry(name, member.size, member.crc) for name, member in members]

    def read(self, model: str, name: str) -> bytes:
        """One file of an asset."""
        return self.archive.read(self._index[model][name])

    def packed_size(self, model: str, names: Iterable[str]) -> int:
        """Bytes that files of an asset have in the archive."""
        files = self._index.get(model, {})
        return sum(self.archive.members[files[name]].compressed for name in names)

    def unpack(self, model: str, names: Iterable[str], folder: Path) -> None:
        """Extract the files, and nothing else; what comes damaged is asked for once more."""
        places = {self._index[model][name]: name for name in names}
        try:
            self.archive.extract(places, folder, Limits())
        except AssetError as error:
            if error.reason != "checksum" or self.reads_are_cheap:
                raise
            log.warning("%s: it is read once more", error.message)
            self.archive.extract(places, folder, Limits())


@lru_cache(maxsize=4)
def _zip_store(
    location: str, synset: str, stamp: tuple[int, int], patience: Patience | None = None
) -> ZipStore:
    """Opened once a process: the directory of a large zip takes a second to read."""
    del stamp
    remote = "://" in location
    archive = Archive(location, gap=REMOTE_GAP if remote else 0, patience=patience)
    return ZipStore(archive, synset, remote=remote)


@lru_cache(maxsize=4)
def _hub_store(
    file: HubFile, found: Found, synset: str, settings: FetchSettings, cache: Path
) -> tuple[ZipStore, HubRanges]:
    ranges = HubRanges(file, found, settings, cache)
    archive = Archive(ranges, file.name, gap=REMOTE_GAP)
    ranges.keep()
    return ZipStore(archive, synset, remote=True, revision=found.pin.commit), ranges


def _open_hub(root: str, synset: str, access: Access) -> ZipStore:
    """Of a repository of the hub, or of one folder or file of it."""
    file = HubFile.parse(root, f"{synset}.zip")
    if access.revision:
        file = replace(file, revision=access.revision)
    found = find(file, access.settings, access.cache)
    pinned = replace(file, revision=found.pin.commit)
    with _OPENING:
        store, ranges = _hub_store(pinned, found, synset, access.settings, access.cache)
    ranges.offer(found.location)
    return store


def open_store(root: str, synset: str, access: Access | None = None) -> TreeStore | ZipStore:
    """What ``root`` holds of a synset.

    ``root`` is an unpacked tree, the folder of the synset, a zip of either, a folder of zips, or
    one of these zips or folders of zips behind a URL, or in a repository of the hub
    (``hf://datasets/OWNER/NAME``).

    Raises:
        ConfigError: ``root`` is not there, is no archive, or holds the synset more than once.
        DatasetError: It holds nothing of the synset.
        AssetError: The archive cannot be read, or the user may not read it.
        MissingDependency: The package that reads this kind of address is missing.
    """
    access = access or Access(cache=cache_folder())
    if root.startswith(SCHEME):
        return _open_hub(root, synset, access)
    if "://" in root:
        url = root if root.endswith(".zip") else f"{root.rstrip('/')}/{synset}.zip"
        if access.settings.offline:
            raise access.settings.absent(shown(url))
        with _OPENING:
            return _zip_store(url, synset, (0, 0), access.settings.patience)
    path = Path(root)
    if path.is_file():
        if path.suffix.lower() != ".zip":
            raise ConfigError(
                f"--root {path} is no zip", hint="give a zip of ShapeNetCore, or a folder"
            )
        return _local_zip(path, synset)
    if not path.is_dir():
        raise ConfigError(f"--root {path} does not exist", hint="give ShapeNetCore, or its zips")
    places = [path] if path.name == synset else _below(path, synset)
    if not places:
        raise nothing_of(synset, str(path), _synsets_below(path))
    if len(places) > 1:
        raise ConfigError(
            f"--root {path} holds {synset} {len(places)} times: {', '.join(map(str, places))}",
            hint=f"--root {places[0]}",
        )
    return TreeStore(places[0]) if places[0].is_dir() else _local_zip(places[0], synset)


def _local_zip(path: Path, synset: str) -> ZipStore:
    stat = path.stat()
    return _zip_store(str(path), synset, (stat.st_mtime_ns, stat.st_size))


def _below(path: Path, synset: str) -> list[Path]:
    """Places of a synset in ``path`` and one folder deeper: trees, else its zips, else whole zips.

    Only the first kind that is there counts: who unpacked a zip often keeps it.
    """
    folders = [path, *sorted(p for p in path.iterdir() if p.is_dir() and p.name[0] != ".")]
    trees = [f / synset for f in folders if (f / synset).is_dir()]
    zips = [f / f"{synset}.zip" for f in folders if (f / f"{synset}.zip").is_file()]
    whole = [p for p in sorted(path.glob("*.zip")) if not _SYNSET.match(p.name)]
    return trees or zips or whole


def _synsets_below(path: Path) -> list[str]:
    names = {p.name.removesuffix(".zip") for p in [*path.glob("*"), *path.glob("*/*")]}
    return sorted(n for n in names if _SYNSET.fullmatch(n))


def nothing_of(synset: str, name: str, others: Sequence[str]) -> DatasetError:
    """The error for a place without models of a synset, naming the categories that it does hold."""
    known = {c.synset: c.name for c in list_categories() if c.synset}
    there = [known[other] for other in others if other in known and other != synset]
    hint = "it should hold SYNSET/ID/model.obj (v1), SYNSET/ID/models/model_normalized.obj (v2), "
    hint += f"or {synset}.zip"
    if there:
        hint = f"it holds {', '.join(there[:12])}{' ...' if len(there) > 12 else ''}"
    what = f"{known.get(synset, '?')} ({synset})"
    return DatasetError(f"no models of {what} in {name}", hint=hint)
