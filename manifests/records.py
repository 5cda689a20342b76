"""What a dataset records: typed rows, each written as JSON or Parquet.

Format 1 of the dataset on disk; ``docs/dataset.md`` describes it field by field.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Len
from pydantic import ConfigDict, Field

from ..config import Config

SCHEMA_VERSION = 1
"""Version of the layout on disk. Added fields leave it; changed meanings raise it."""

POINTS_COUNT = 2048
"""Surface samples stored with every asset, the reference geometry of the metrics."""

Range = Annotated[tuple[float, float], Len(2, 2)]
Status = Literal["accepted", "rejected", "failed"]
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class CameraPrior(Config):
    """The distribution that the cameras of a dataset are drawn from; uniform in every angle."""

    azimuth_deg: Range = (0.0, 360.0)
    elevation_deg: Range = (0.0, 30.0)
    radius: Range = (1.2, 1.2)
    """Distance from the origin, in units of the normalised object."""
    fov_y_deg: float = Field(49.134, gt=0, lt=180)
    """Vertical, full angle. GET3D's 35 mm lens on a 32 mm sensor is 49.134."""


class Record(Config):
    """Base of what is read back from disk: fields of later versions are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class AssetRecord(Record):
    """One line of ``assets.jsonl``: an asset of the source and what became of it."""

    uid: str
    source: str
    source_id: str
    category: str
    url: str = ""
    license: str = "unknown"
    """SPDX identifier, or ``unknown``."""
    author: str = ""
    sha256: str
    """Over all that determines the mesh, as the source lists it."""
    bytes: int = 0
    split: Split
    status: Status
    stage: str | None = None
    """Where it ended if not accepted: ``fetch``, ``load``, ``gate``, ``render``, ``write``."""
    reason: str | None = None
    """Typed reason, one of those in ``docs/dataset.md``."""
    message: str | None = None
    attempts: int = 1
    vertices: int | None = None
    triangles: int | None = None
    materials: int | None = None
    textures: int | None = None
    missing_textures: int = 0
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
    camera: CameraPrior
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
    shards: tuple[ShardRecord, ...]
    licenses: dict[str, int]
    """Accepted assets by licence."""
    index_sha256: str
    g3d_version: str
    command: str
