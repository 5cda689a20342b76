"""What a dataset records: typed rows, each written as JSON or Parquet.

Format 1 of the dataset on disk; ``docs/dataset.md`` describes it field by field.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from ..config import Config

SCHEMA_VERSION = 1
"""Version of the layout on disk. Added fields leave it; changed meanings raise it."""

POINTS_COUNT = 2048
"""Surface samples stored with every asset, the reference geometry of the metrics."""

Status = Literal["accepted", "rejected", "failed"]
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


def _pair(value: Any) -> Any:
    """One number stands for a range without width."""
    return (value, value) if isinstance(value, int | float) else value


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"the lower end {value[0]:g} is above the upper one {value[1]:g}")
    return value


Elevation = Annotated[float, Field(ge=-90, le=90)]
Positive = Annotated[float, Field(gt=0)]
Lens = Annotated[float, Field(gt=0, lt=180)]
_is_range = (BeforeValidator(_pair), AfterValidator(_ordered))
Range = Annotated[tuple[float, float], *_is_range]
ElevationRange = Annotated[tuple[Elevation, Elevation], *_is_range]
RadiusRange = Annotated[tuple[Positive, Positive], *_is_range]
LensRange = Annotated[tuple[Lens, Lens], *_is_range]


class CameraPrior(Config):
    """What the cameras of a dataset are drawn from: base of the samplers of `AnyCameraPrior`.

    All cameras look at the origin. ``renderers.cameras.sample_cameras`` draws them.
    """

    version: ClassVar[str]
    """Name and version of the way to draw: other numbers from the same seed, another version."""

    sampler: str
    """Which one it is."""
    radius: RadiusRange = (1.2, 1.2)
    """Distance from the origin, in units of the normalised object; uniform."""
    fit: bool = False
    """Move a camera back, never closer, until the asset's bounding sphere is in frame."""

    @property
    def band_deg(self) -> tuple[float, float]:
        """Lowest and highest elevation."""
        raise NotImplementedError

    @property
    def lens_deg(self) -> tuple[float, float]:
        """Narrowest and widest vertical field of view, full angle."""
        raise NotImplementedError

    @property
    def middle_elevation_deg(self) -> float:
        """Elevation with as many cameras above as below."""
        low, high = (math.sin(math.radians(angle)) for angle in self.band_deg)
        return math.degrees(math.asin(0.5 * (low + high)))


class _OneLens(CameraPrior):
    fov_y_deg: Lens = 49.134
    """Vertical, full angle. GET3D's 35 mm lens on a 32 mm sensor is 49.134."""

    @property
    def lens_deg(self) -> tuple[float, float]:
        """The one field of view, twice."""
        return self.fov_y_deg, self.fov_y_deg


class Get3dPrior(_OneLens):
    """GET3D: uniform in azimuth and in elevation *angle*, each in a range of the category."""

    version: ClassVar[str] = "uniform_angles-1"
    sampler: Literal["get3d"] = "get3d"
    azimuth_deg: Range = (0.0, 360.0)
    elevation_deg: ElevationRange = (0.0, 30.0)

    @property
    def band_deg(self) -> tuple[float, float]:
        """Lowest and highest elevation."""
        return self.elevation_deg

    @property
    def middle_elevation_deg(self) -> float:
        """Elevation with as many cameras above as below."""
        return sum(self.elevation_deg) / 2


class SpherePrior(_OneLens):
    """Uniform on the whole sphere, by area."""

    version: ClassVar[str] = "sphere-1"
    sampler: Literal["sphere"] = "sphere"

    @property
    def band_deg(self) -> tuple[float, float]:
        """Pole to pole."""
        return -90.0, 90.0


class HemispherePrior(_OneLens):
    """Uniform on the sphere's upper half, by area."""

    version: ClassVar[str] = "hemisphere-1"
    sampler: Literal["hemisphere"] = "hemisphere"

    @property
    def band_deg(self) -> tuple[float, float]:
        """Horizon to zenith."""
        return 0.0, 90.0


class RingPrior(_OneLens):
    """Equal steps of azimuth at one elevation."""

    version: ClassVar[str] = "ring-1"
    sampler: Literal["ring"] = "ring"
    elevation_deg: Elevation = 20.0
    random_start: bool = True
    """Turn the ring of every asset by a random angle; otherwise it starts at azimuth 0."""

    @property
    def band_deg(self) -> tuple[float, float]:
        """The one elevation, twice."""
        return self.elevation_deg, self.elevation_deg


class FibonacciPrior(_OneLens):
    """Even coverage of the sphere, or of a band of it, by a spiral of golden angles."""

    version: ClassVar[str] = "fibonacci-1"
    sampler: Literal["fibonacci"] = "fibonacci"
    elevation_deg: ElevationRange = (-90.0, 90.0)
    random_start: bool = True
    """Turn the spiral of every asset about +Y, and shift it along itself, at random."""

    @property
    def band_deg(self) -> tuple[float, float]:
        """Lowest and highest elevation."""
        return self.elevation_deg


class LrmPrior(CameraPrior):
    """The kind of LRM and Zero123: random radius and field of view, uniform on the sphere.

    Every view draws its own. The defaults are LRM's distances and lens.
    """

    version: ClassVar[str] = "lrm-1"
    sampler: Literal["lrm"] = "lrm"
    elevation_deg: ElevationRange = (-90.0, 90.0)
    radius: RadiusRange = (1.5, 2.8)
    fov_y_deg: LensRange = (50.0, 50.0)
    """Vertical, full angle; uniform."""

    @property
    def band_deg(self) -> tuple[float, float]:
        """Lowest and highest elevation."""
        return self.elevation_deg

    @property
    def lens_deg(self) -> tuple[float, float]:
        """Narrowest and widest field of view."""
        return self.fov_y_deg


def _sampler_of(value: Any) -> str:
    """The discriminator; datasets older than the field hold GET3D's prior."""
    if isinstance(value, Mapping):
        return str(value.get("sampler", "get3d"))
    return str(getattr(value, "sampler", ""))


AnyCameraPrior = Annotated[
    Annotated[Get3dPrior, Tag("get3d")]
    | Annotated[SpherePrior, Tag("sphere")]
    | Annotated[HemispherePrior, Tag("hemisphere")]
    | Annotated[RingPrior, Tag("ring")]
    | Annotated[FibonacciPrior, Tag("fibonacci")]
    | Annotated[LrmPrior, Tag("lrm")],
    Discriminator(
        _sampler_of,
        custom_error_type="sampler",
        custom_error_message="unknown sampler, one of: get3d, sphere, hemisphere, ring, "
        "fibonacci, lrm",
    ),
]
"""A camera prior read by its field ``sampler``: the type of a field of a config or a record."""


class Record(Config):
    """Base of what is read back from disk: fields of later versions are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class AssetRecord(Record):
    """One line of ``assets.jsonl``: an asset of the source and what became of it."""

    uid: str
    source: str
    origin: int = 0
    """Which of ``config.sources`` of the dataset it comes from."""
    source_id: str
    category: str
    url: str = ""
    license: str = "unknown"
    """SPDX identifier, or ``unknown``."""
    author: str = ""
    title: str = ""
    """What its author calls it, for attribution."""
    sha256: str
    """Over all that determines the mesh, as the source lists it."""
    bytes: int = 0
    split: Split
    split_by: Literal["uid", "source"] = "uid"
    """Whether the hash of its uid put it there, or its source said so."""
    status: Status
    stage: str | None = None
    """Where it ended if not accepted: ``fetch``, ``load``, ``gate``, ``render``, ``write``."""
    reason: str | None = None
    """Typed reason, one of those in ``docs/dataset.md``."""
    message: str | None = None
    log: str | None = None
    """The last lines that its worker wrote, if it failed."""
    attempts: int = 1
    vertices: int | None = None
    triangles: int | None = None
    materials: int | None = None
    textures: int | None = None
    missing_textures: int = 0
    objects: int | None = None
    """Things that stand apart from each other, as far as the gate `several_objects` tells."""
    animated: bool | None = None
    """The file holds an animation; the first frame is what is rendered."""
    extent: tuple[float, float, float] | None = None
    """Sides of the bounding box before normalisation, in the source's units."""
    transform: tuple[float, ...] | None = None
    """Source to normalised positions: 16 numbers, row by row."""
    bounding_radius: float | None = None
    """Radius of the sphere about the origin that holds the normalised mesh."""
    max_half_angle_deg: float | None = None
    """Largest half angle under which a camera sees that sphere; above ``fov_y / 2`` it is cut."""
    views: int = 0
    coverage: float | None = None
    """Mean share of covered pixels over all views."""
    border_views: int | None = None
    """Views in which the object touches the edge of the image."""
    pose_iou: float | None = None
    """Mesh projected with the saved matrices against the saved alpha: mean over the views."""
    pose_cover: float | None = None
    """Share of the saved alpha that the projected mesh explains: least over the views."""
    fingerprint: str | None = None
    """Descriptor of the shape in hex digits; shapes that are alike have similar ones."""
    duplicate_of: str | None = None
    """uid of an earlier asset with equal files, or of an accepted one with nearly its shape."""
    shard: str | None = None
    """Name of the shard that the asset is assigned to; rejected ones have no members in it."""
    offset: int | None = None
    """Byte at which the asset's members start in the shard (the first tar header)."""
    length: int | None = None
    """Bytes of all its members, headers included."""
    points_offset: int | None = None
    """Byte at which ``<uid>.points.npy`` starts in the shard (the file, not its header)."""
    points_length: int | None = None
    meta_offset: int | None = None
    """Byte at which ``<uid>.json`` starts in the shard."""
    meta_length: int | None = None
    members_sha256: str | None = None
    """Over the ``length`` bytes at ``offset``."""
    seconds: float | None = None
    """Time spent on it; the only field that differs between two runs of the same work."""


class ViewRecord(Record):
    """One row of ``index.parquet``: an image, where its bytes are, and its camera."""

    uid: str
    view: int
    part: str = "rgba"
    split: Split
    shard: str
    offset: int
    """Byte at which the image file starts in the shard."""
    length: int
    sha256: str
    c2w: tuple[float, ...]
    """Camera to world, OpenGL axes: 16 numbers, row by row."""
    fov_y_deg: float
    azimuth: float
    """Radians in [0, 2 pi)."""
    elevation: float
    """Radians above the horizon."""
    radius: float
    coverage: float
    """Mean alpha of the image, 0..1."""
    touches_border: bool


class ShardRecord(Record):
    """One shard of ``dataset.json``."""

    file: str
    """Path below the dataset, ``shards/train-00000.tar``."""
    split: Split
    sha256: str
    bytes: int
    assets: int
    views: int


class RendererRecord(Record):
    """Which renderer made the images."""

    name: str
    version: str
    settings: dict[str, Any]


class SplitCount(Record):
    """Size of one split."""

    assets: int = 0
    views: int = 0


class DatasetInfo(Record):
    """``dataset.json``: what the dataset is and what it holds."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", use_attribute_docstrings=True, populate_by_name=True
    )

    schema_version: int = Field(SCHEMA_VERSION, alias="schema")
    name: str
    source: str
    category: str
    extent: float
    """Longest side of every normalised object."""
    camera: AnyCameraPrior
    size: int
    """Height and width of every image (pixels)."""
    views: int
    """Views of every accepted asset."""
    channels: tuple[str, ...] = ("rgba",)
    """Parts stored for every view."""
    renderer: RendererRecord
    params: dict[str, Any]
    """All that changes a pixel or a pose, in clear."""
    params_hash: str
    config: dict[str, Any]
    """The whole config of the run, in clear."""
    splits: dict[str, SplitCount]
    statuses: dict[str, int]
    """Assets by status."""
    excluded: dict[str, int] = Field(default_factory=dict)
    """Assets that a source has and that were not taken, by the reason."""
    shards: tuple[ShardRecord, ...]
    licenses: dict[str, int]
    """Accepted assets by licence."""
    index_sha256: str
    g3d_version: str
    command: str
