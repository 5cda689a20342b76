"""What a model file says about itself and refers to, read without loading it."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import posixpath
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote, urlsplit

from ...errors import AssetError
from .licenses import NO_TERMS, Terms, recognise
from .references import referenced
from .trees import Tree

log = logging.getLogger(__name__)

RASTER_FORMATS = (".glb", ".gltf", ".obj", ".ply", ".stl")
"""Suffixes that every renderer reads."""
BLENDER_FORMATS = (".fbx", ".usd", ".usda", ".usdc", ".usdz", ".dae")
"""Suffixes that Blender alone reads."""
_GLB_MAGIC, _JSON_CHUNK = 0x46546C67, 0x4E4F534A


@dataclass(frozen=True)
class FileFacts:
    """What a model file says about itself without being loaded.

    Attributes:
        sides: The files that it refers to (buffers, images, material files and their textures).
        missing: What it refers to and is not there, as it is written in the file.
        terms: Licence and author from its own metadata.
        url: Where it came from, by its own metadata.
        title: What it is called, by its own metadata.
    """

    sides: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    terms: Terms = NO_TERMS
    url: str = ""
    title: str = ""


def suffix_of(name: str) -> str:
    """The ending of a name with its dot, in lower case."""
    return posixpath.splitext(name)[1].lower()


def inspect(tree: Tree, name: str) -> FileFacts:
    """Read the references of a model file; a file that cannot be read has none.

    Only files of its tree count as its side files: a model does not get to name others.
    """
    suffix = suffix_of(name)
    try:
        if suffix in (".gltf", ".glb"):
            document = _gltf_json(tree, name)
            facts = _gltf_terms(document)
            names = [str(item["uri"]) for kind in ("buffers", "images")
                     for item in document.get(kind) or [] if item.get("uri")]  # fmt: skip
            names = [unquote(n) for n in names if urlsplit(n).scheme == ""]
            return _resolved(facts, tree, name, names)
        if suffix == ".obj":
            return _obj_facts(tree, name)
        if suffix in BLENDER_FORMATS:
            return _resolved(FileFacts(), tree, name, referenced(tree, name), suffix == ".fbx")
    except (AssetError, OSError, ValueError, KeyError, TypeError, AttributeError,
            struct.error) as error:  # fmt: skip
        log.debug("cannot read the references of %s in %s: %r", name, tree.name, error)
    return FileFacts()


def _resolved(
    facts: FileFacts, tree: Tree, name: str, names: Sequence[str], or_beside: bool = False
) -> FileFacts:
    """``facts`` with the file names in ``name`` sorted into present and missing.

    ``or_beside``: a file that is not where it should be is looked for beside the model, as Blender
    does; an FBX names the folders of the machine that it was made on.
    """
    sides, missing = list(facts.sides), list(facts.missing)
    folder = posixpath.dirname(name)
    for written in dict.fromkeys(names):
        place = written.replace("\\", "/")
        side = tree.resolve(folder, place)
        if side is None and or_beside:
            side = tree.resolve(folder, posixpath.basename(place))
        if side is None:
            missing.append(written)
        else:
            sides.append(side)
    return replace(facts, sides=tuple(sides), missing=tuple(missing))


def _gltf_json(tree: Tree, name: str) -> dict[str, Any]:
    """The JSON of a ``.gltf`` file, or of the first chunk of a ``.glb`` file."""
    with tree.open(name) as file:
        if suffix_of(name) == ".gltf":
            return json.loads(file.read().decode("utf-8-sig"))
        magic, _, _, length, kind = struct.unpack("<5I", file.read(20))
        if magic != _GLB_MAGIC or kind != _JSON_CHUNK:
            raise ValueError("not a binary glTF file")
        return json.loads(file.read(length).decode("utf-8"))


def _gltf_terms(document: dict[str, Any]) -> FileFacts:
    """Licence, author, title and address that collections write into ``asset.extras``."""
    asset = document.get("asset") or {}
    extras = asset.get("extras")
    extras = extras if isinstance(extras, dict) else {}
    text = f"{extras.get('license', '')}\n{asset.get('copyright', '')}"
    author = re.sub(r"\s*\(.*", "", str(extras.get("author", "")))
    return FileFacts(
        terms=Terms(recognise(text), author),
        url=str(extras.get("source", "")),
        title=str(extras.get("title", "")),
    )


def _obj_facts(tree: Tree, name: str) -> FileFacts:
    """Material files of an OBJ and the textures that they name."""
    libraries: list[str] = []
    folder = posixpath.dirname(name)
    with io.TextIOWrapper(tree.open(name), encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("mtllib"):
                library = line[6:].strip()
                # The name may hold spaces; only where that file is absent is it a list of names.
                whole = tree.resolve(folder, library.replace("\\", "/")) is not None
                libraries += [library] if whole else library.split()
    facts = _resolved(FileFacts(), tree, name, libraries)
    for library in facts.sides:
        with tree.open(library) as material:
            lines = material.read().decode("utf-8", "replace").splitlines()
        names = [n for n in map(_texture_name, lines) if n]
        facts = _resolved(facts, tree, library, names)
    return facts


def _texture_name(line: str) -> str:
    """File name of a texture statement of an MTL file without its options, or an empty string."""
    words = line.strip().split(None, 1)
    if len(words) < 2 or not re.fullmatch(
        r"map_\w+|bump|disp|decal|refl|norm", words[0], re.IGNORECASE
    ):
        return ""
    options = r"(?:-(?:o|s|t)(?:\s+[-+\d.eE]+){1,3}|-mm\s+\S+\s+\S+|-[a-zA-Z]+\s+\S+)\s+"
    return re.sub(rf"^(?:{options})*", "", words[1]).strip()


class Digests:
    """SHA-256 of files, each read once however many models refer to it."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[str, int]] = {}

    def file(self, tree: Tree, name: str) -> tuple[str, int]:
        """Digest and size of one file; an unreadable one has the digest of its absence."""
        key = (tree.name, name)
        if key not in self._known:
            try:
                with tree.open(name) as file:
                    value = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
                    self._known[key] = (value, file.seek(0, io.SEEK_END))
            except (AssetError, OSError) as error:
                log.warning("cannot read %s in %s: %s", name, tree.name, error)
                self._known[key] = (hashlib.sha256(b"unreadable").hexdigest(), 0)
        return self._known[key]

    def asset(self, tree: Tree, name: str, facts: FileFacts) -> tuple[str, int]:
        """Digest and size of a model and its side files.

        A model that refers to nothing has the plain digest of its file. Otherwise the digest is
        over the digests of all files, with the names that they have beside the model, so that a
        moved tree keeps it; a missing file counts as missing, and changes the digest when it comes.
        An archive and the tree that comes out of it give the same.
        """
        main, size = self.file(tree, name)
        if not facts.sides and not facts.missing:
            return main, size
        rows = []
        for side in facts.sides:
            value, more = self.file(tree, side)
            size += more
            rows.append(f"side {posixpath.relpath(side, posixpath.dirname(name) or '.')} {value}")
        rows += [f"missing {written}" for written in facts.missing]
        text = "\n".join([f"main {main}", *sorted(rows)])
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(), size
