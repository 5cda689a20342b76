"""The configuration of ``g3d prepare``, and which part of it decides the pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ..config import Config, canonical_json, digest
from ..errors import ConfigError, MissingDependency
from ..manifests.categories import get_category
from ..manifests.records import CameraPrior
from ..manifests.splits import SplitFractions
from ..renderers.base import Renderer, RenderSettings
from .gates import GateSettings
from .sources.base import Source
from .sources.registry import get_source

SAMPLER = "uniform_angles-1"
"""Name and version of the camera sampler: azimuth, elevation and radius uniform in their ranges."""


class PrepareConfig(Config):
    """All options of ``g3d prepare``."""

    source: str
    """Where the assets come from: `procedural`, `folder`, ..."""
    category: str
    """What they are; decides the scale and the cameras unless those are given."""
    root: Path | None = None
    """Folder or archive that is already here, for sources that read one."""
    limit: int | None = Field(None, ge=1)
    """At most this many assets. A larger limit later adds to the same dataset."""
    seed: int = Field(0, ge=0)
    """Base seed of the cameras, and of sources that make assets."""
    views: int = Field(24, ge=1, le=9999)
    """Images of every asset."""
    render: RenderSettings = RenderSettings()
    renderer: Literal["auto", "raster", "blender"] = "auto"
    camera: CameraPrior | None = None
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
        limit=config.limit,
        seed=config.seed,
    )


def build_renderer(config: PrepareConfig) -> Renderer:
    """The renderer that the config names.

    Raises:
        MissingDependency: It is not part of this installation.
    """
    if config.renderer == "blender":
        raise MissingDependency(
            "the Blender renderer is not part of this version", hint="use --renderer raster"
        )
    from ..renderers.raster import RasterRenderer

    return RasterRenderer()


class RenderParams(Config):
    """All that changes a pixel or a pose, resolved: no value is left to a default elsewhere."""

    views: int
    seed: int
    extent: float
    sampler: str = SAMPLER
    camera: CameraPrior
    render: RenderSettings
    renderer: str
    renderer_version: str
    """Major and minor number."""

    @property
    def params_hash(self) -> str:
        """16 hex digits; with the asset's sha256 the key of a piece of work."""
        return digest(self.model_dump(mode="json"))


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
    return RenderParams(
        views=config.views,
        seed=config.seed,
        extent=config.extent or category.extent,
        camera=config.camera or source.default_camera or category.camera,
        render=config.render,
        renderer=renderer.name,
        renderer_version=".".join(renderer.version.split(".")[:2]),
    )


def identity(config: PrepareConfig, params: RenderParams) -> dict[str, Any]:
    """What must be equal for two runs to work on the same dataset, as plain JSON values."""
    keep = {"source", "root", "gates", "splits", "shard_size"}
    data = config.model_dump(mode="json", include=keep)
    data["root"] = None if config.root is None else str(config.root.resolve())
    data["category"] = get_category(config.category).name
    data["params"] = params.model_dump(mode="json")
    canonical_json(data)  # fails early on a value that JSON cannot hold
    return data
