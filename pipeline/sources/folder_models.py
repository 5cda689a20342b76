"""Which model files there are below a root, and which of them are one asset."""

from __future__ import annotations

import logging
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import AssetError, DatasetError
from .folder_files import suffix_of
from .table import Row
from .trees import DiskTree, Tree, archive_ending, open_archive

log = logging.getLogger(__name__)

PREFERENCE = (
    ".glb", ".gltf", ".obj", ".usdz", ".usdc", ".usd", ".usda", ".fbx", ".dae", ".ply", ".stl"
)  # fmt: skip
"""Formats of one model, the one that is taken first: materials come over best, and without Blender.
"""
_CLOSED = (".rar", ".7z")
_NAMED = 5


@dataclass(frozen=True)
class Model:
    """A model file.

    Attributes:
        archive: Path below the root of the archive that it is in, or an empty string.
        name: Path in the archive, or else below the root.
    """

    archive: str
    name: str

    @property
    def path(self) -> str:
        """Path below the root, with the archive as a folder."""
        return f"{self.archive}/{self.name}" if self.archive else self.name

    @property
    def unpacked(self) -> str:
        """The path that it has where every archive was unpacked to a folder of its name."""
        ending = archive_ending(self.archive)
        return f"{self.archive[: -len(ending)]}/{self.name}" if ending else self.name

    @property
    def suffix(self) -> str:
        """Its format, with a dot, in lower case."""
        return suffix_of(self.name)


@dataclass(frozen=True)
class Group:
    """The files of one asset: one name in one folder, in several formats, the best first."""

    models: tuple[Model, ...]

    def best(self, suffixes: Iterable[str]) -> Model | None:
        """The file of the first format of :data:`PREFERENCE` that is among ``suffixes``."""
        return next((m for m in self.models if m.suffix in suffixes), None)


@dataclass(frozen=True)
class Root:
    """A folder with archives in it, or an archive.

    Attributes:
        path: On this machine.
        cache: Where compressed tars are uncompressed to.
    """

    path: Path
    cache: Path

    @property
    def packed(self) -> bool:
        """Whether it is an archive."""
        return not self.path.is_dir()

    def tree(self, archive: str = "") -> Tree:
        """The files of the root itself, or of an archive below it.

        Not kept by the models: with a thousand archives there would be too many open files.

        Raises:
            AssetError: The archive cannot be read.
            DiskError: The cache cannot be written.
        """
        if archive:
            return open_archive(self.path / archive, self.cache)
        return open_archive(self.path, self.cache) if self.packed else DiskTree(self.path)


@dataclass
class Found:
    """What is below a root.

    Attributes:
        models: All files of a known format, sorted by path.
        closed: How many archives there are that are not read, by suffix.
    """

    models: list[Model] = field(default_factory=list)
    closed: Counter[str] = field(default_factory=Counter)

    def groups(self) -> list[Group]:
        """The models by asset: same folder, same name without the suffix."""
        together: dict[tuple[str, str], list[Model]] = {}
        for model in self.models:
            together.setdefault((model.archive, posixpath.splitext(model.name)[0]), []).append(
                model
            )
        return [
            Group(tuple(sorted(models, key=lambda m: (PREFERENCE.index(m.suffix), m.name))))
            for models in together.values()
        ]


def find_models(root: Root) -> Found:
    """All model files below ``root``; hidden files and folders are passed over.

    An archive beside a folder of its name that holds models is passed over: who unpacked it often
    keeps it. So is one that cannot be read; another archive in an archive is counted and not read.

    Raises:
        AssetError: ``root`` is an archive that cannot be read.
        DiskError: The cache cannot be written.
    """
    found, archives = Found(), []
    for name in root.tree().files():
        if suffix_of(name) in PREFERENCE:
            found.models.append(Model("", name))
        elif archive_ending(name) and not root.packed:
            archives.append(name)
        elif archive_ending(name) or suffix_of(name) in _CLOSED:
            found.closed[suffix_of(name)] += 1
    taken = {parent for model in found.models for parent in _parents(model.name)}
    for archive in archives:
        unpacked = archive[: -len(archive_ending(archive) or "")]
        if unpacked in taken:
            log.warning("passed over %s: %s/ has its models", archive, unpacked)
            continue
        try:
            names = list(root.tree(archive).files())
        except AssetError as error:
            log.warning("passed over %s: %s", archive, error.message)
            continue
        inside = [Model(archive, n) for n in names if suffix_of(n) in PREFERENCE]
        found.models += inside
        found.closed.update(
            suffix_of(n) for n in names if archive_ending(n) or suffix_of(n) in _CLOSED
        )
        if inside:
            taken.add(unpacked)
    found.models.sort(key=lambda m: m.path.split("/"))
    return found


def _parents(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]


@dataclass
class Chosen:
    """What is to be listed.

    Attributes:
        models: The file of every asset with what the table says of it, sorted by path.
        unread: How many assets there are in formats that are not read, by suffix.
    """

    models: list[tuple[Model, Row | None]] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)

    def _add(self, group: Group, suffixes: Set[str], row: Row | None, named: str = "") -> None:
        exact = next((m for m in group.models if named and named in _names(m)), None)
        model = exact if exact and exact.suffix in suffixes else group.best(suffixes)
        if model is None:
            self.unread[group.models[0].suffix] += 1
        else:
            self.models.append((model, row))


def choose(groups: Sequence[Group], rows: Sequence[Row] | None, suffixes: Set[str]) -> Chosen:
    """One file for each asset: of all groups, or of those that a table names.

    A row names one of the files of an asset, or a folder or archive that holds a single asset.

    Raises:
        DatasetError: Something is not there, or is named twice, or a folder holds several assets.
    """
    out = Chosen()
    if rows is None:
        for group in groups:
            out._add(group, suffixes, None)
    else:
        index = _Index(groups)
        seen: dict[int, Row] = {}
        missing = []
        for row in rows:
            number = index.find(row)
            if number is None:
                missing.append(f"{row.file} ({row.place})")
            elif number in seen:
                raise DatasetError(f"{seen[number].place} and {row.place} name the same asset, "
                                   f"{groups[number].models[0].path}")  # fmt: skip
            else:
                seen[number] = row
                out._add(groups[number], suffixes, row, _plain(row.file))
        if missing:
            told = ", ".join(missing[:_NAMED]) + (" ..." if len(missing) > _NAMED else "")
            raise DatasetError(
                f"{len(missing)} of {len(rows)} files of the table are not there, or no models: "
                f"{told}",
                hint="the column file holds paths relative to --root; a file in an archive is "
                "ARCHIVE.zip/PATH",
            )
    out.models.sort(key=lambda one: one[0].path.split("/"))
    return out


class _Index:
    """Groups by everything that a row may call them."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = groups
        self.files: dict[str, int] = {}
        self.folders: dict[str, set[int]] = {}
        for number, group in enumerate(groups):
            for model in group.models:
                for name in _names(model):
                    self.files[name] = number
                    for parent in _parents(name):
                        self.folders.setdefault(parent, set()).add(number)

    def find(self, row: Row) -> int | None:
        """The number of the group that a row names; None: there is none."""
        name = _plain(row.file)
        if name in self.files:
            return self.files[name]
        inside = self.folders.get(name, set())
        if len(inside) > 1:
            names = sorted(self.groups[n].models[0].path for n in inside)
            raise DatasetError(
                f"{row.place}: {row.file} holds {len(inside)} assets: {', '.join(names[:_NAMED])}",
                hint="a row names one of them",
            )
        return next(iter(inside), None)


def _names(model: Model) -> tuple[str, str]:
    return _plain(model.path), _plain(model.unpacked)


def _plain(name: str) -> str:
    """A name as it is compared: some systems write é as two characters."""
    return unicodedata.normalize("NFC", name)
