"""Where ShapeNetCore lies and in which layout: an unpacked tree, or zips as the hub has them."""

from __future__ import annotations

import logging
import os
import re
import shutil
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import unquote

from ...errors import AssetError, ConfigError, DatasetError
from ...manifests.categories import list_categories
from ..archives import Archive, Limits

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tga", ".tif", ".tiff", ".dds", ".webp"}
_NOT_TEXTURES = "screenshots"
_CHUNK = 1 << 20
_SYNSET = re.compile(r"\d{8}")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """One release of ShapeNetCore.

    Attributes:
        name: ``v1`` or ``v2``.
        model: The OBJ, from the folder of the asset.
        turn: The axis of the file, and its sign, that each of our axes is: +Y up, +Z front.
    """

    name: str
    model: str
    turn: tuple[tuple[int, int], ...]


LAYOUTS = (
    # Both READMEs: up is +Y. Front is -Z in v2: half a turn about Y. It is +X in v1: a quarter.
    Layout("v2", "models/model_normalized.obj", ((0, -1), (1, 1), (2, -1))),
    Layout("v1", "model.obj", ((2, -1), (1, 1), (0, 1))),
)


def turn_obj(data: bytes, turn: Sequence[tuple[int, int]]) -> bytes:
    """An OBJ file with its positions and normals in other axes; all else stays as it is.

    Axes are exchanged and negated as text, so no digit changes.
    """
    out = []
    for line in data.replace(b"\\\r\n", b" ").replace(b"\\\n", b" ").split(b"\n"):
        words = line.split()
        if len(words) >= 4 and words[0] in (b"v", b"vn"):
            turned = [_signed(words[1 + axis], sign) for axis, sign in turn]
            end = b"\r" if line.endswith(b"\r") else b""
            line = b" ".join([words[0], *turned, *words[4:]]) + end
        out.append(line)
    return b"\n".join(out)


def _signed(word: bytes, sign: int) -> bytes:
    if sign > 0:
        return word
    return word[1:] if word.startswith(b"-") else b"-" + word.removeprefix(b"+")


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


def used(names: Iterable[str], layout: Layout) -> list[str]:
    """Of the files of an asset, the model, the MTL files beside it and all textures; sorted.

    Not its voxels, its metadata and its screenshots.
    """
    beside = PurePosixPath(layout.model).parent
    out = []
    for name in names:
        path = PurePosixPath(name)
        suffix = path.suffix.lower()
        library = suffix == ".mtl" and path.parent == beside
        texture = suffix in IMAGES and _NOT_TEXTURES not in path.parts
        if name == layout.model or library or texture:
            out.append(name)
    return sorted(out)


def missing_textures(libraries: Sequence[tuple[str, bytes]], names: Iterable[str]) -> list[str]:
    """What MTL files ``(name, bytes)`` refer to and is not among ``names``, as it is written."""
    there = {os.path.normpath(name).lower() for name in names}
    out: dict[str, None] = {}
    for library, data in libraries:
        for line in data.decode("utf-8", "replace").splitlines():
            words = line.strip().split(None, 1)
            if len(words) < 2 or not re.fullmatch(r"map_\w+|bump|disp|decal|refl|norm", words[0],
                                                  re.IGNORECASE):  # fmt: skip
                continue
            name = words[1].split()[-1] if words[1].startswith("-") else words[1].strip()
            place = PurePosixPath(library).parent / unquote(name.replace("\\", "/"))
            if os.path.normpath(place).lower() not in there:
                out[name] = None
    return list(out)


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

    def __init__(self, location: str, synset: str) -> None:
        self.synset, self.name = synset, location
        self.reads_are_cheap = "://" not in location
        self.archive = Archive(location)
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

    def unpack(self, model: str, names: Iterable[str], folder: Path) -> None:
        """Extract the files, and nothing else."""
        self.archive.extract({self._index[model][name]: name for name in names}, folder, Limits())


@lru_cache(maxsize=4)
def _zip_store(location: str, synset: str, stamp: tuple[int, int]) -> ZipStore:
    """Opened once a process: the directory of a large zip takes a second to read."""
    del stamp
    return ZipStore(location, synset)


def open_store(root: str, synset: str) -> TreeStore | ZipStore:
    """What ``root`` holds of a synset.

    ``root`` is an unpacked tree, the folder of the synset, a zip of either, a folder of zips, or
    one of these zips or folders of zips behind a URL.

    Raises:
        ConfigError: ``root`` is not there, is no archive, or holds the synset more than once.
        DatasetError: It holds nothing of the synset.
        AssetError: The archive cannot be read.
    """
    if "://" in root:
        url = root if root.endswith(".zip") else f"{root.rstrip('/')}/{synset}.zip"
        return _zip_store(url, synset, (0, 0))
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
