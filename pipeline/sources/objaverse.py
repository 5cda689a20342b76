"""Objaverse 1.0: objects with a label of LVIS, through the package ``objaverse`` and its cache."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...config import canonical_json
from ...errors import AssetError, ConfigError, DatasetError
from ...manifests.categories import Category, get_category
from ...manifests.records import CameraPrior
from ...renderers.meshes import Mesh
from ..transfer.fetch import FetchSettings
from ..transfer.ranges import location_of
from .base import AssetList, SourceAsset, framing_camera
from .folder import HALF_FRAME
from .licenses import UNKNOWN, spdx_of_label
from .objaverse_store import Store, base_folder, require_package

log = logging.getLogger(__name__)

LABELS, PATHS = "lvis-annotations.json.gz", "object-paths.json.gz"
_VERSION = "objaverse-1"  # of the digest


def needs_labels(category: Category) -> ConfigError:
    """What to say of a category that LVIS has no label for."""
    return ConfigError(
        f"Objaverse is labelled with LVIS, which has no label for {category.name!r}",
        hint="g3d prepare --list-categories objaverse; or choose objects yourself: "
        f"g3d prepare objaverse-xl --category {category.name} --table FILE",
    )


@dataclass(frozen=True)
class ObjaverseSource:
    """The objects of Objaverse 1.0 with the LVIS labels of one category, by uid.

    Args:
        category: Canonical category name, one that has LVIS labels.
        root: The folder that holds ``hf-objaverse-v1``; None: the package's own.
        limit: At most this many, the first by uid; uids are random.
        fetch: How files are brought.

    Raises:
        ConfigError: The category has no LVIS label.
    """

    category: str
    root: str | None = None
    limit: int | None = None
    fetch: FetchSettings = field(default_factory=FetchSettings)

    def __post_init__(self) -> None:
        category = get_category(self.category)
        if not category.lvis:
            raise needs_labels(category)
        if self.root is not None:
            object.__setattr__(self, "root", location_of(self.root))

    @property
    def name(self) -> str:
        """The name that ``g3d prepare`` takes."""
        return "objaverse"

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
        """The assets, sorted by uid, by the package's annotations; no object is fetched.

        Raises:
            ConfigError: ``root`` is no cache; something is missing and nothing may be fetched.
            DatasetError: There is no object of the category, or an annotation is out of reach.
            MissingDependency: The package is not there.
        """
        if not self.fetch.offline:
            require_package()
        store = self._store()
        labelled = labelled_uids(store, get_category(self.category).lvis)
        paths = object_paths(store)
        there = [uid for uid in labelled if uid in paths]
        if len(there) < len(labelled):
            log.warning("%d labelled objects are no longer listed", len(labelled) - len(there))
        if not there:
            labels = ", ".join(get_category(self.category).lvis)
            raise DatasetError(
                f"no object of {store.versioned} is labelled {labels}",
                hint="g3d prepare --list-categories objaverse",
            )
        chosen = there[: self.limit]
        facts = annotated(store, {uid: paths[uid] for uid in chosen})
        return [self._asset(uid, paths[uid], facts.get(uid, {})) for uid in chosen]

    def file(self, asset: SourceAsset) -> Path:
        """The GLB of an asset in the cache, fetched if it is not there or not whole.

        Raises:
            AssetError: ``gone``, ``gated``, ``download`` or ``checksum``.
            DiskError: The cache cannot be written.
            MissingDependency: The package is needed and not there.
        """
        store, path = self._store(), str(asset.spec["path"])
        place, most = store.versioned / path, self.fetch.max_bytes
        if most is not None and asset.bytes > most and not place.is_file():
            message = f"{asset.uid} has {asset.bytes} bytes, more than fetch.max_bytes, {most}"
            raise AssetError("download", message, stage="fetch")
        return store.glb(asset.uid, path)

    def load(self, asset: SourceAsset) -> Mesh:
        """The mesh of an asset: glTF, +Y up; which way its front looks is its author's choice.

        Raises:
            AssetError: It cannot be fetched or read.
        """
        from ...renderers.meshes.load import load_mesh

        return load_mesh(self.file(asset))

    def _store(self) -> Store:
        return Store(base_folder(self.root, self.fetch.offline), self.fetch)

    def _asset(self, uid: str, path: str, facts: Mapping[str, Any]) -> SourceAsset:
        glb = facts.get("glb") or {}
        return SourceAsset(
            uid=uid,
            source_id=uid,
            category=self.category,
            license=facts.get("license", UNKNOWN),
            author=facts.get("author", ""),
            url=facts.get("url") or page_of(uid),
            sha256=digest_of(uid, path, glb),
            bytes=int(glb.get("size") or 0),
            spec={"path": path},
            title=facts.get("title", ""),
        )


def page_of(uid: str) -> str:
    """Where an object can be seen."""
    return f"https://sketchfab.com/3d-models/{uid}"


def digest_of(uid: str, path: str, glb: Mapping[str, Any]) -> str:
    """SHA-256 over an object's uid, its path in the collection and what its annotation says of it.

    Not over its bytes, which are not known before it was fetched.
    """
    text = canonical_json([_VERSION, uid, path, dict(glb)])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def labelled_uids(store: Store, labels: Iterable[str]) -> Sequence[str]:
    """The uids with any of the labels, sorted."""
    table = store.read(LABELS, "labels")
    absent = [label for label in labels if label not in table]
    if absent:
        log.info("no objects are labelled %s", ", ".join(absent))
    return sorted({str(uid) for label in labels for uid in table.get(label, ())})


def object_paths(store: Store) -> dict[str, str]:
    """The path of every labelled object, below ``hf-objaverse-v1``.

    The file lists all 800,000 objects; what is needed of it is kept.
    """

    def make() -> dict[str, str]:
        labelled = {uid for uids in store.read(LABELS, "labels").values() for uid in uids}
        every = store.read(PATHS, "paths")
        return {uid: every[uid] for uid in sorted(labelled) if uid in every}

    files = (store.versioned / LABELS, store.versioned / PATHS)
    return store.extract(files, "paths", make)


def annotated(store: Store, paths: Mapping[str, str]) -> dict[str, Any]:
    """What is recorded of objects, by uid: licence, author, title, address, facts of the GLB.

    The annotations come in files of 5,000 objects; what is needed of each is kept.
    """
    chunks: dict[str, list[str]] = {}
    for uid, path in paths.items():
        chunks.setdefault(path.split("/")[1], []).append(uid)
    out: dict[str, Any] = {}
    for number, (chunk, uids) in enumerate(sorted(chunks.items()), 1):
        log.debug("annotations %s, %d of %d", chunk, number, len(chunks))
        name = f"metadata/{chunk}.json.gz"

        def make(name: str = name, uids: list[str] = uids) -> dict[str, Any]:
            every = store.read(name, "metadata", uid=uids[0], path=paths[uids[0]])
            return {uid: facts_of(every[uid]) for uid in uids if uid in every}

        out |= store.extract((store.versioned / name,), uids, make)
    return out


def facts_of(annotation: Mapping[str, Any]) -> dict[str, Any]:
    """What a record needs of an annotation as the package gives it."""
    user = annotation.get("user") or {}
    archives = annotation.get("archives") or {}
    glb = archives.get("glb") if isinstance(archives, dict) else None
    return {
        "license": spdx_of_label(str(annotation.get("license") or "")),
        "author": str(user.get("displayName") or user.get("username") or ""),
        "title": str(annotation.get("name") or ""),
        "url": str(annotation.get("viewerUrl") or annotation.get("uri") or ""),
        "glb": glb if isinstance(glb, dict) else {},
    }
