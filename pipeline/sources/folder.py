"""Models that are already on this machine: any tree of model files."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import struct
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ...errors import AssetError, ConfigError, DatasetError
from ...manifests.categories import get_category
from ...manifests.records import CameraPrior
from ...renderers.meshes import Mesh
from .base import AssetList, SourceAsset, framing_camera
from .licenses import NO_TERMS, UNKNOWN, Terms, folder_terms, recognise
from .references import referenced

log = logging.getLogger(__name__)

RASTER_FORMATS = (".glb", ".gltf", ".obj", ".ply", ".stl")
"""Suffixes that every renderer reads."""
BLENDER_FORMATS = (".fbx", ".usd", ".usda", ".usdc", ".usdz", ".dae")
"""Suffixes that Blender alone reads."""
_GLB_MAGIC, _JSON_CHUNK = 0x46546C67, 0x4E4F534A
_SKIPPED = {"__MACOSX"}


HALF_FRAME = 0.72
"""Half of what the cameras see at the origin, in extents: a sphere of 0.69 extents fits."""


@dataclass(frozen=True)
class FolderSource:
    """One asset for each model file below ``root``, by path.

    glTF and OBJ are +Y up by definition; PLY and STL have no convention and are taken as they are.

    Args:
        category: Canonical category name, the same for all files.
        root: The folder; made absolute, because a worker runs elsewhere.
        limit: At most this many, the first by path.
        suffixes: Formats that are listed.
    """

    category: str
    root: str
    limit: int | None = None
    suffixes: tuple[str, ...] = RASTER_FORMATS

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", str(Path(self.root).expanduser().resolve()))

    @property
    def name(self) -> str:
        """The name that ``g3d prepare`` takes."""
        return "folder"

    @property
    def remote(self) -> bool:
        """Whether files come over a network."""
        return False

    @property
    def default_camera(self) -> CameraPrior:
        """The category's elevations, from where models of any proportions are in frame."""
        category = get_category(self.category)
        return framing_camera(category.extent, HALF_FRAME, category.camera.elevation_deg)

    def list(self) -> AssetList:
        """All assets, sorted by relative path, with digests over everything they refer to.

        Raises:
            ConfigError: ``root`` is not a folder.
            DatasetError: There is no model file below it.
        """
        root = Path(self.root)
        formats = self.formats()
        others = {s: n for s, n in formats.items() if n and s not in self.suffixes}
        told = ", ".join(f"{count} {suffix}" for suffix, count in others.items())
        found = find_models(root, self.suffixes)
        paths = sorted(found, key=lambda p: p.relative_to(root).parts)
        if not paths:
            hint = f"accepted are {', '.join(self.suffixes)}; archives have to be unpacked first"
            if others:
                hint = f"--renderer blender reads {', '.join(others)}"
            raise DatasetError(
                f"no model files below {root}" + (f", but {told}" if told else ""), hint=hint
            )
        if others:
            log.warning("passed over below %s: %s; --renderer blender reads them", root, told)
        hashes = _Hashes()
        terms: dict[Path, Terms] = {}
        return [self._asset(root, path, hashes, terms) for path in paths[: self.limit]]

    def formats(self) -> dict[str, int]:
        """How many files there are of every suffix that some renderer reads.

        Raises:
            ConfigError: ``root`` is not a folder.
        """
        root = Path(self.root)
        if not root.is_dir():
            what = "is not a folder" if root.exists() else "does not exist"
            raise ConfigError(f"--root {root} {what}", hint="give the folder that holds the models")
        known = RASTER_FORMATS + BLENDER_FORMATS
        count = Counter(path.suffix.lower() for path in find_models(root, known))
        return {suffix: count[suffix] for suffix in known}

    def reading(self, suffixes: Set[str]) -> FolderSource:
        """The same folder, listing the files of these formats beside those that g3d reads."""
        more = tuple(s for s in BLENDER_FORMATS if s in suffixes)
        return replace(self, suffixes=RASTER_FORMATS + more)

    def file(self, asset: SourceAsset) -> Path:
        """The file of ``asset``.

        Raises:
            AssetError: ``gone``.
        """
        path = Path(self.root) / asset.spec["path"]
        if not path.is_file():
            raise AssetError("gone", f"{path} is no longer there", stage="fetch")
        return path

    def load(self, asset: SourceAsset) -> Mesh:
        """Read the file of ``asset``.

        Raises:
            AssetError: The file is gone or cannot be read.
        """
        from ...renderers.meshes.load import load_mesh

        return load_mesh(self.file(asset))

    def _asset(
        self, root: Path, path: Path, hashes: _Hashes, terms: dict[Path, Terms]
    ) -> SourceAsset:
        relative = path.relative_to(root).as_posix()
        facts = inspect(path, root)
        known = facts.terms
        for folder in [path.parent, *path.parent.parents]:
            if folder not in terms:
                terms[folder] = folder_terms(folder)
            known = Terms(
                terms[folder].license if known.license == UNKNOWN else known.license,
                known.author or terms[folder].author,
            )
            if folder == root:
                break
        sha256, size = hashes.asset(path, facts.sides, facts.missing)
        return SourceAsset(
            uid=uid_of(relative),
            # A name that is not UTF-8 must not stop the run when its record is written.
            source_id=os.fsencode(relative).decode("utf-8", "replace"),
            category=self.category,
            license=known.license,
            author=known.author,
            url=facts.url,
            sha256=sha256,
            bytes=size,
            spec={"path": relative, "missing": list(facts.missing)},
        )


def uid_of(relative: str) -> str:
    """A readable slug of a relative path, and 10 hex digits of its digest to keep it unique."""
    stem = relative.rsplit(".", 1)[0]
    slug = re.sub(r"[^A-Za-z0-9]+", "-", stem).strip("-").lower()
    if len(slug) > 60:  # the end says more than the beginning; start it at a whole word
        slug = slug[-60:].partition("-")[2] or slug[-60:]
    slug = slug or "asset"
    return f"{slug}-{hashlib.sha256(relative.encode('utf-8', 'surrogatepass')).hexdigest()[:10]}"


def find_models(root: Path, suffixes: Sequence[str] = RASTER_FORMATS) -> Iterator[Path]:
    """Model files below ``root``; hidden files and folders are passed over."""
    for folder, names, files in os.walk(root):
        names[:] = sorted(n for n in names if not n.startswith(".") and n not in _SKIPPED)
        for file in files:
            if not file.startswith(".") and Path(file).suffix.lower() in suffixes:
                yield Path(folder) / file


@dataclass(frozen=True)
class FileFacts:
    """What a model file says about itself without being loaded.

    Attributes:
        sides: The files that it refers to (buffers, images, material files and their textures).
        missing: What it refers to and is not there, as it is written in the file.
        terms: Licence and author from its own metadata.
        url: Where it came from, by its own metadata.
    """

    sides: tuple[Path, ...] = ()
    missing: tuple[str, ...] = ()
    terms: Terms = NO_TERMS
    url: str = ""


def inspect(path: Path, root: Path) -> FileFacts:
    """Read the references of a model file; a file that cannot be read has none.

    Only files below ``root`` count as its side files: a model does not get to name others.
    """
    suffix = path.suffix.lower()
    try:
        if suffix in (".gltf", ".glb"):
            document = _gltf_json(path)
            facts = _gltf_terms(document)
            names = [str(item["uri"]) for kind in ("buffers", "images")
                     for item in document.get(kind) or [] if item.get("uri")]  # fmt: skip
            names = [unquote(n) for n in names if urlsplit(n).scheme == ""]
            return _resolved(facts, path, names, root)
        if suffix == ".obj":
            return _obj_facts(path, root)
        if suffix in BLENDER_FORMATS:
            return _resolved(FileFacts(), path, referenced(path), root)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        log.debug("cannot read the references of %s: %r", path, error)
    return FileFacts()


def _resolved(facts: FileFacts, path: Path, names: list[str], root: Path) -> FileFacts:
    """``facts`` with the file names of ``path`` sorted into present and missing."""
    sides, missing = list(facts.sides), list(facts.missing)
    for name in dict.fromkeys(names):
        side = Path(os.path.normpath(path.parent / name.replace("\\", "/")))
        if side.is_file() and side.is_relative_to(root):
            sides.append(side)
        else:
            missing.append(name)
    return replace(facts, sides=tuple(sides), missing=tuple(missing))


def _gltf_json(path: Path) -> dict[str, Any]:
    """The JSON of a ``.gltf`` file, or of the first chunk of a ``.glb`` file."""
    if path.suffix.lower() == ".gltf":
        return json.loads(path.read_text(encoding="utf-8-sig"))
    with path.open("rb") as file:
        magic, _, _, length, kind = struct.unpack("<5I", file.read(20))
        if magic != _GLB_MAGIC or kind != _JSON_CHUNK:
            raise ValueError("not a binary glTF file")
        return json.loads(file.read(length).decode("utf-8"))


def _gltf_terms(document: dict[str, Any]) -> FileFacts:
    """Licence, author and address that collections write into ``asset.extras``."""
    asset = document.get("asset") or {}
    extras = asset.get("extras")
    extras = extras if isinstance(extras, dict) else {}
    text = f"{extras.get('license', '')}\n{asset.get('copyright', '')}"
    author = re.sub(r"\s*\(.*", "", str(extras.get("author", "")))
    return FileFacts(terms=Terms(recognise(text), author), url=str(extras.get("source", "")))


def _obj_facts(path: Path, root: Path) -> FileFacts:
    """Material files of an OBJ and the textures that they name."""
    libraries: list[str] = []
    with path.open("r", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("mtllib"):
                name = line[6:].strip()
                # The name may hold spaces; only where that file is absent is it a list of names.
                whole = (path.parent / name).is_file()
                libraries += [name] if whole else name.split()
    facts = _resolved(FileFacts(), path, libraries, root)
    for library in facts.sides:
        names = [n for n in map(_texture_name, _lines(library)) if n]
        facts = _resolved(facts, library, names, root)
    return facts


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def _texture_name(line: str) -> str:
    """File name of a texture statement of an MTL file without its options, or an empty string."""
    words = line.strip().split(None, 1)
    if len(words) < 2 or not re.fullmatch(
        r"map_\w+|bump|disp|decal|refl|norm", words[0], re.IGNORECASE
    ):
        return ""
    options = r"(?:-(?:o|s|t)(?:\s+[-+\d.eE]+){1,3}|-mm\s+\S+\s+\S+|-[a-zA-Z]+\s+\S+)\s+"
    return re.sub(rf"^(?:{options})*", "", words[1]).strip()


class _Hashes:
    """SHA-256 of files, each read once however many models refer to it."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[str, int]] = {}

    def file(self, path: Path) -> tuple[str, int]:
        """Digest and size of one file; an unreadable one has the digest of its absence."""
        if path not in self._known:
            try:
                with path.open("rb") as file:
                    value = hashlib.file_digest(file, "sha256").hexdigest()
                    self._known[path] = (value, file.tell())
            except OSError as error:
                log.warning("cannot read %s: %s", path, error.strerror or error)
                self._known[path] = (hashlib.sha256(b"unreadable").hexdigest(), 0)
        return self._known[path]

    def asset(
        self, path: Path, sides: tuple[Path, ...], missing: tuple[str, ...]
    ) -> tuple[str, int]:
        """Digest and size of a model and its side files.

        A model that refers to nothing has the plain digest of its file. Otherwise the digest is
        over the digests of all files, with the names that they have beside the model, so that a
        moved tree keeps it; a missing file counts as missing, and changes the digest when it comes.
        """
        main, size = self.file(path)
        if not sides and not missing:
            return main, size
        rows = [f"main {main}"]
        for side in sides:
            value, more = self.file(side)
            size += more
            rows.append(f"side {Path(os.path.relpath(side, path.parent)).as_posix()} {value}")
        rows += [f"missing {name}" for name in missing]
        text = "\n".join([rows[0], *sorted(rows[1:])])
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(), size
