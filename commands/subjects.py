"""The meshes that ``g3d render`` and ``g3d view`` look at: files, and assets of datasets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import AssetError, ConfigError, DatasetError, G3DError
from ..manifests.dataset import INFO, Dataset
from ..renderers.base import Renderer
from ..renderers.meshes import Mesh
from ..renderers.meshes.load import FORMATS, load_mesh

HINTS = {
    "missing_texture": "put the file where the model looks for it, or save the model with it",
    "memory": "simplify the model, or ask for smaller pictures with --size",
}
"""The way out by the reason of an ``AssetError``; for all others: another file."""


@dataclass(frozen=True)
class Subject:
    """A mesh to look at.

    Attributes:
        name: For the title and the file.
        asset: What a renderer opens.
        extent: Longest side that it has in its dataset, or None.
        facts: A line about where it is from, if there is one.
    """

    name: str
    asset: Mesh | Path
    extent: float | None = None
    facts: tuple[str, ...] = ()


def find_subject(path: Path, uid: str | None, renderer: Renderer) -> Subject:
    """The mesh of a file, or of an asset of a dataset, made or loaded by its source again.

    Raises:
        G3DError: There is none.
    """
    if not path.exists():
        raise G3DError(f"there is nothing at {path}", hint="give a model file that is here")
    if uid is not None:
        return _asset_of(path, uid)
    if not path.is_dir():
        with as_error(str(path)):
            return Subject(path.name, open_file(path, renderer))
    hint = f"give a model file, or look at all of them: g3d view {path}"
    if (path / INFO).is_file():
        example = next((a.uid for a in Dataset.open(path, check=False).assets()), "UID")
        hint = f"choose an asset: g3d render {path} --uid {example}"
    raise ConfigError(f"{path} is a folder, not a mesh", hint=hint)


def open_file(path: Path, renderer: Renderer) -> Mesh | Path:
    """What the renderer opens: the file, if it imports that kind itself, or the loaded mesh.

    Raises:
        AssetError: The file cannot be read.
    """
    return path if path.suffix.lower() in renderer.imports else load_mesh(path)


def _asset_of(path: Path, uid: str) -> Subject:
    from ..pipeline.config import upgraded
    from ..pipeline.sources.registry import get_source

    data = Dataset.open(path, check=False)
    record, info = data.asset(uid), data.info
    stored = f"its stored views: g3d view {path} --uid {uid}"
    # A source without a limit may list fewer than the dataset was made of.
    origin = upgraded(info.config)["sources"][record.origin]
    for limit in (None, len(data.records())):
        source = get_source(
            origin["source"], category=info.config["category"], root=origin["root"],
            table=origin["table"], limit=limit, seed=info.params.get("seed", 0),
        )  # fmt: skip
        try:
            found = [asset for asset in source.list() if asset.uid == uid]
        except G3DError as error:
            message = f"the source of {uid} is not here: {error.message}"
            raise DatasetError(message, hint=stored) from error
        if found:
            break
    if not found or found[0].sha256 != record.sha256:
        what = "has changed" if found else "is gone"
        raise DatasetError(f"{uid} {what} since {path} was made", hint=stored)
    with as_error(uid):
        mesh = source.load(found[0])
    line = f"of {info.name}, {record.split} · {record.status} · licence {record.license}"
    return Subject(uid, mesh, info.extent, (line,))


@contextmanager
def as_error(name: str) -> Iterator[None]:
    """What is wrong with an asset becomes the user's two lines.

    Raises:
        G3DError: In place of an ``AssetError``.
    """
    try:
        yield
    except AssetError as error:
        hint = HINTS.get(error.reason, f"g3d reads {', '.join(FORMATS)}: save it anew as one")
        raise G3DError(f"{name}: {error}", hint=hint) from error
