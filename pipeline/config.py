"""The configuration of ``g3d prepare``, and which part of it decides the pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from ..config import Config, canonical_json, digest
from ..errors import ConfigError
from ..manifests.categories import get_category
from ..manifests.records import AnyCameraPrior
from ..manifests.splits import SplitFractions
from ..renderers.base import Renderer, RenderSettings
from ..renderers.blender.renderer import BlenderRenderer
from ..renderers.blender.settings import BlenderSettings
from .gates import GateSettings
from .sources.base import FileSource, Source
from .sources.folder import RASTER_FORMATS
from .sources.registry import MADE, get_source
from .transfer.fetch import FetchSettings
from .transfer.ranges import location_of

Location = Annotated[str, BeforeValidator(lambda v: str(v) if isinstance(v, Path) else v)]
"""A path, or a URL: kept as text, because a ``Path`` would take one of two slashes away."""


Words = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda v: v.replace(",", " ").split() if isinstance(v, str) else v),
]
"""Words in a list, or in one text between commas."""


class PrepareConfig(Config):
    """All options of ``g3d prepare``."""

    source: str
    """Where the assets come from: `procedural`, `folder`, ..."""
    category: str
    """What they are; decides the scale and the cameras unless those are given."""
    root: Location | None = None
    """Folder or archive, or its URL, for sources that read one."""
    table: Location | None = None
    """CSV or JSON Lines with a line a file of the source folder: see docs/sources.md."""
    license: Words = ()
    """Only assets under these licences, as `cc0,by,mit`; empty: all."""
    duplicates: Literal["keep", "report", "drop"] = "report"
    """`report`: equal files once, and nearly equal shapes are named; `drop`: those once, too."""
    fetch: FetchSettings = FetchSettings()
    limit: int | None = Field(None, ge=1)
    """At most this many assets. A larger limit later adds to the same dataset."""
    seed: int = Field(0, ge=0)
    """Base seed of the cameras, and of sources that make assets."""
    views: int = Field(24, ge=1, le=9999)
    """Images of every asset."""
    render: RenderSettings = RenderSettings()
    renderer: Literal["auto", "raster", "blender"] = "auto"
    """`auto`: raster, unless only Blender can read the files."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where `raster` draws; `cuda` draws many views at once, in every worker."""
    gpu_share: float = Field(0.25, gt=0, le=1)
    """What a worker takes of a GPU where `raster` draws on one: 0.25 puts four on each."""
    blender: BlenderSettings = BlenderSettings()
    """Of the renderer blender."""
    camera: AnyCameraPrior | None = None
    """Where cameras are drawn from; unset: the source's, or the category's."""
    extent: float | None = Field(None, gt=0, le=2)
    """Longest side of the normalised object; unset: the category's."""
    splits: SplitFractions = SplitFractions()
    gates: GateSettings = GateSettings()
    shard_size: int = Field(32, ge=1)
    """Assets in a shard."""
    workers: int | None = Field(None, ge=0)
    """Processes that render; 0 renders in this process, without Ray; unset: one a core."""
    deadline_s: float = Field(300.0, gt=0)
    """An asset that takes longer is stopped, tried again and then recorded as `timeout`."""
    strikes: int = Field(2, ge=1)
    """Tries of an asset that kills its worker or overruns its deadline."""
    breaker_share: float = Field(0.5, gt=0, le=1)
    """The run stops if more than this share of the first assets is not accepted; 1 never stops."""
    breaker_after: int = Field(100, ge=1)
    """How many first assets the breaker looks at."""


def build_source(config: PrepareConfig) -> Source:
    """The source that the config names.

    Raises:
        ConfigError: Unknown source or category, or a root that does not fit.
    """
    return get_source(
        config.source,
        category=config.category,
        root=config.root,
        # What a licence leaves out does not count.
        limit=None if config.license and config.source not in MADE else config.limit,
        seed=config.seed,
        table=config.table,
        fetch=config.fetch,
    )


def build_renderer(config: PrepareConfig, source: Source | None = None) -> Renderer:
    """The renderer that the config names.

    ``auto`` is the rasteriser, unless ``source`` has files and Blender alone can read them.

    Raises:
        MissingDependency: Blender, or a CUDA device, is needed and not there.
    """
    name = config.renderer
    if name == "auto" and isinstance(source, FileSource):
        found = {suffix for suffix, count in source.formats().items() if count}
        name = "blender" if found and not found & set(RASTER_FORMATS) else "raster"
    if name == "blender":
        return BlenderRenderer(config.blender)
    if config.device == "cuda":
        from ..renderers.raster.torch_renderer import TorchRasterRenderer

        return TorchRasterRenderer("cuda")
    from ..renderers.raster import RasterRenderer

    return RasterRenderer()


class RenderParams(Config):
    """All that changes a pixel or a pose, resolved: no value is left to a default elsewhere."""

    views: int
    seed: int
    extent: float
    sampler: str
    """Name and version of the camera sampler."""
    camera: AnyCameraPrior
    render: RenderSettings
    renderer: str
    renderer_version: str
    """Major and minor number."""
    look: dict[str, Any] | None = None
    """Of Blender: all values that decide how an image looks."""

    def values(self) -> dict[str, Any]:
        """Plain JSON values, without what the renderer does not read."""
        data = self.model_dump(mode="json")
        if self.look is None:
            del data["look"]
        else:
            data["render"] = {key: data["render"][key] for key in ("size", "width")}
        return data

    @property
    def params_hash(self) -> str:
        """16 hex digits; with the asset's sha256 the key of a piece of work."""
        return digest(self.values())


def resolve_params(config: PrepareConfig, source: Source, renderer: Renderer) -> RenderParams:
    """Fill in what the category and the source decide.

    Raises:
        ConfigError: Unknown category, or a size that is not positive.
    """
    category = get_category(config.category)
    if config.render.size < 8 or config.render.supersample < 1:
        raise ConfigError(
            f"render.size {config.render.size} with supersample {config.render.supersample} "
            "gives no image",
            hint="--size 128",
        )
    camera = config.camera or source.default_camera or category.camera
    return RenderParams(
        views=config.views,
        seed=config.seed,
        extent=config.extent or category.extent,
        sampler=camera.version,
        camera=camera,
        render=config.render,
        renderer=renderer.name,
        renderer_version=".".join(renderer.version.split(".")[:2]),
        look=renderer.pixels if isinstance(renderer, BlenderRenderer) else None,
    )


def origin_of(config: PrepareConfig) -> dict[str, Any]:
    """Where the assets of a config come from: what may differ between runs that add to a set."""
    out: dict[str, Any] = {"source": config.source}
    for name in ("root", "table"):
        value = getattr(config, name)
        out[name] = None if value is None else location_of(value)
    return out | {"license": list(config.license)}


def identity(
    config: PrepareConfig, params: RenderParams, origins: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """What must be equal for two runs to work on the same dataset, as plain JSON values.

    Args:
        config: Of the run.
        params: Resolved from it.
        origins: Of all assets of the dataset, see :func:`origin_of`; none: this config's.
    """
    data = config.model_dump(mode="json", include={"gates", "splits", "shard_size", "duplicates"})
    # In one order, whether they come from a config or were read back from a file.
    data["sources"] = [dict(sorted(one.items())) for one in origins or [origin_of(config)]]
    data["category"] = get_category(config.category).name
    data["params"] = params.values()
    canonical_json(data)  # fails early on a value that JSON cannot hold
    return data


def upgraded(saved: Mapping[str, Any]) -> dict[str, Any]:
    """An identity that an older version wrote, with what has been added since at its default."""
    data = dict(saved)
    data["gates"] = GateSettings().model_dump(mode="json") | dict(data.get("gates", {}))
    if "sources" not in data:
        origin = {name: data.pop(name, None) for name in ("source", "root")}
        data["sources"] = [{**origin, "table": None, "license": []}]
    return {"duplicates": "report"} | data
