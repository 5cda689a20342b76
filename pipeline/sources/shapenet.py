"""ShapeNetCore, versions 1 and 2: from the gated hub, or a copy here or behind a URL."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import AssetError, ConfigError, DatasetError
from ...manifests.categories import get_category
from ...manifests.shards import UID_PATTERN
from ...renderers.meshes import Mesh
from ..transfer.cache import cache_folder, make_room, new_folder, touch
from ..transfer.fetch import FetchSettings
from ..transfer.ranges import location_of
from .base import AssetList, SourceAsset
from .hub import HubRefusal
from .shapenet_layout import LAYOUTS, Layout, missing_textures, turn_obj
from .shapenet_store import Access, Entry, Store, TreeStore, ZipStore, nothing_of, open_store

log = logging.getLogger(__name__)

LICENSE = "LicenseRef-ShapeNet"
"""ShapeNet's own terms: non-commercial research, not to be passed on."""
HUB = "hf://datasets/ShapeNet/ShapeNetCore"
"""Where its makers give it to whom they granted access: a zip for each synset."""
_VERSION = "shapenet-1"  # of the digest and of the turned copies


def synset_of(category: str) -> str:
    """The synset of a category.

    Raises:
        ConfigError: ShapeNetCore has no such category.
    """
    found = get_category(category)
    if found.synset is None:
        raise ConfigError(
            f"ShapeNetCore has no category {found.name!r}",
            hint="g3d prepare --list-categories shapenet",
        )
    return found.synset


@dataclass(frozen=True)
class ShapenetSource:
    """The models of one category of ShapeNetCore, by their ids.

    Args:
        category: Canonical category name, one that has a synset.
        root: An unpacked tree, a zip of it or of one synset, a folder of such zips, a URL of
            a zip or of such a folder, or a repository of the hub. A path is made absolute, because
            a worker runs elsewhere.
        limit: At most this many, the first by id.
        cache: Folder for unpacked models; the shared cache if it is left out.
        fetch: How a server is borne with, limits, offline.

    Raises:
        ConfigError: ShapeNetCore has no such category.
    """

    category: str
    root: str = HUB
    limit: int | None = None
    cache: str = ""
    fetch: FetchSettings = field(default_factory=FetchSettings)
    synset: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "synset", synset_of(self.category))
        object.__setattr__(self, "root", location_of(self.root))
        cache = Path(self.cache).expanduser().resolve() if self.cache else cache_folder()
        object.__setattr__(self, "cache", str(cache))

    @property
    def name(self) -> str:
        """The name that ``g3d prepare`` takes."""
        return "shapenet"

    @property
    def remote(self) -> bool:
        """Whether files come over a network."""
        return "://" in self.root

    @property
    def default_camera(self) -> None:
        """None: the category's, which for car, chair and motorbike is GET3D's."""
        return None

    def list(self) -> AssetList:
        """All assets, sorted by id, with a digest over the sizes and CRCs of what they use.

        Raises:
            ConfigError: ``root`` is not there or is ambiguous.
            DatasetError: It holds nothing of the category, is a broken archive, or its server does
                not answer.
            MissingDependency: It is gated and the user has no access; a package is missing.
        """
        try:
            store = self._store()
            models = store.models()
            if not models:
                others = store.synsets() if isinstance(store, ZipStore) else []
                raise nothing_of(self.synset, store.name, others)
            chosen = sorted(models)[: self.limit]
            return [self._asset(store, model, models[model]) for model in chosen]
        except HubRefusal as error:
            raise error.for_user() from error
        except (AssetError, OSError) as error:
            what = error.message if isinstance(error, AssetError) else str(error)
            hint = "download it again if it is damaged"
            if self.remote and self.fetch.offline:
                hint = "or give a copy with --root"
            elif self.remote:
                hint = "check the address and the network; or give a copy with --root"
            raise DatasetError(f"{self.root} cannot be listed: {what}", hint=hint) from error

    def file(self, asset: SourceAsset) -> Path:
        """The OBJ of an asset, in the cache, turned to +Y up and +Z front; beside it its textures.

        Raises:
            AssetError: ``gone``, ``gated``, ``download``, ``checksum`` or ``import``: it cannot be
                fetched or unpacked, or has changed since it was listed.
            DiskError: The cache cannot be written.
        """
        layout = next(one for one in LAYOUTS if one.name == asset.spec["layout"])
        model = str(asset.spec["model"])
        place = Path(self.cache) / "shapenet" / asset.uid / asset.sha256[:20]
        path = place / "asset" / layout.model
        if path.is_file():
            touch(place)
            return path
        try:
            store = self._store(str(asset.spec.get("revision", "")))
        except (ConfigError, DatasetError) as error:
            raise AssetError("gone", error.message, stage="fetch") from error
        entries = store.entries(model, layout)
        if digest_of(entries, layout) != asset.sha256:
            message = f"{store.name}: {model} has changed since it was listed"
            raise AssetError("checksum", message, stage="fetch")
        names = [entry.name for entry in entries]
        if self.remote and isinstance(store, ZipStore):
            self.fetch.check_size(model, store.packed_size(model, names))
        with new_folder(place) as folder:
            store.unpack(model, names, folder / "asset")
            obj = folder / "asset" / layout.model
            data = turn_obj(obj.read_bytes(), layout.turn)
            obj.unlink()  # it may be a link to the user's own file
            with obj.open("xb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
        make_room(Path(self.cache), self.fetch.cache_bytes, asset.bytes)
        return path

    def load(self, asset: SourceAsset) -> Mesh:
        """The mesh of an asset, +Y up and +Z front.

        Raises:
            AssetError: It cannot be unpacked or read.
        """
        from ...renderers.meshes.load import load_mesh

        return load_mesh(self.file(asset))

    def _store(self, revision: str = "") -> TreeStore | ZipStore:
        return open_store(self.root, self.synset, Access(Path(self.cache), self.fetch, revision))

    def _asset(self, store: Store, model: str, layout: Layout) -> SourceAsset:
        entries = store.entries(model, layout)
        names = [entry.name for entry in entries]
        spec = {
            "model": model,
            "layout": layout.name,
            "missing": self._missing(store, model, layout, names),
        }
        if isinstance(store, ZipStore) and store.revision:
            spec["revision"] = store.revision  # so that all workers read the same one
        return SourceAsset(
            uid=uid_of(self.synset, model),
            source_id=f"{self.synset}/{model}",
            category=self.category,
            license=LICENSE,
            author="",
            url="",
            sha256=digest_of(entries, layout),
            bytes=sum(entry.size for entry in entries),
            spec=spec,
        )

    def _missing(
        self, store: Store, model: str, layout: Layout, names: Sequence[str]
    ) -> Sequence[str]:
        """Textures that the MTL files name and that are not there; the MTL itself if there is none.

        An archive behind a URL is not asked: that would be one request for every asset.
        """
        libraries = [name for name in names if name.lower().endswith(".mtl")]
        if not libraries:
            return [Path(layout.model).with_suffix(".mtl").name]
        if not store.reads_are_cheap:
            return []
        try:
            return missing_textures([(n, store.read(model, n)) for n in libraries], names)
        except AssetError as error:  # it fails again, and is recorded, when the model is unpacked
            log.debug("%s: %s", model, error)
            return []


def uid_of(synset: str, model: str) -> str:
    """``<synset>-<id>``; an id that cannot be part of a shard's key is replaced by a slug of it."""
    uid = f"{synset}-{model}"
    if UID_PATTERN.fullmatch(uid):
        return uid
    slug = re.sub(r"[^A-Za-z0-9]+", "-", model).strip("-")[:40] or "asset"
    return f"{synset}-{slug}-{hashlib.sha256(model.encode('utf-8', 'replace')).hexdigest()[:10]}"


def digest_of(entries: list[Entry], layout: Layout) -> str:
    """SHA-256 over the names, sizes and CRC-32 of an asset's files, and the layout.

    Not over their bytes: a zip tells these without being read, and a tree and the zip that it came
    from get the same digest.
    """
    rows = [f"{_VERSION} {layout.name}"]
    rows += [f"{entry.name} {entry.size} {entry.crc:08x}" for entry in entries]
    return hashlib.sha256("\n".join(rows).encode("utf-8", "surrogatepass")).hexdigest()
