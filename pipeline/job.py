"""One asset from its source to the bytes of a shard. Knows nothing of Ray or of other assets."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config import canonical_json, seed_for
from ..errors import AssetError, G3DError
from ..manifests.records import POINTS_COUNT, SCHEMA_VERSION, AssetRecord
from ..manifests.shards import encode_piece
from ..manifests.splits import split_of
from ..renderers.base import Renderer, Scene
from ..renderers.cameras import Camera, sample_cameras
from ..renderers.meshes import Mesh, bounding_radius, normalise, sample_surface
from ..renderers.meshes.load import is_animated
from .config import PrepareConfig, RenderParams
from .duplicates import fingerprint
from .gates import (
    Colours,
    MeshFacts,
    PoseFacts,
    ViewFacts,
    check,
    check_magenta,
    coverage,
    is_worth_the_rest,
    objects_of,
)
from .poses import PoseCheck, check_poses
from .sources.base import Source, SourceAsset
from .thumbnails import thumbnail

logger = logging.getLogger(__name__)

RUN_FIELDS = frozenset(
    {"attempts", "seconds", "shard", "offset", "length", "points_offset", "points_length",
     "meta_offset", "meta_length", "members_sha256", "status", "stage", "reason", "message", "log",
     "duplicate_of", "origin"}
)  # fmt: skip
"""Fields of a record that are not written into a shard: they tell of the run, not of the asset."""

_REASON_OF_STAGE = {"load": "import", "gate": "import", "render": "render_crash", "write": "write"}


@dataclass(frozen=True)
class JobResult:
    """What became of one asset.

    Attributes:
        record: Offsets count from the start of ``data``.
        data: The asset's members as they go into a shard; empty unless it was accepted.
        thumbnail: PNG of an asset that was rejected and can be drawn, else empty.
    """

    record: AssetRecord
    data: bytes = b""
    thumbnail: bytes = b""


@dataclass(frozen=True)
class Job:
    """Prepares assets, one call each; made once in every worker."""

    config: PrepareConfig
    params: RenderParams
    source: Source
    renderer: Renderer

    def __call__(self, asset: SourceAsset) -> JobResult:
        """Prepare one asset. What is wrong with it ends in the record, never in an exception.

        Raises:
            G3DError: The fault is not the asset's: a missing package, a full disk.
        """
        start = time.monotonic()
        work = _Work(self, asset)
        data = picture = b""
        try:
            data = work.run()
        except AssetError as error:
            status = "rejected" if error.stage == "gate" else "failed"
            work.end(status, error.stage, error.reason, error.message)
            picture = work.picture() if status == "rejected" else b""
        except G3DError:
            raise
        except MemoryError as error:
            work.end("failed", work.stage, "memory", str(error) or "out of memory")
        except Exception as error:
            logger.debug("asset %s", asset.uid, exc_info=True)
            message = f"{type(error).__name__}: {error}"
            work.end("failed", work.stage, _REASON_OF_STAGE[work.stage], message)
        work.facts["seconds"] = round(time.monotonic() - start, 3)
        return JobResult(AssetRecord.model_validate(work.facts), data, picture)


class _Work:
    """The steps of one asset, and what is known of it so far."""

    def __init__(self, job: Job, asset: SourceAsset) -> None:
        self.job, self.asset = job, asset
        self.stage = "load"
        self.facts = base_facts(asset, job.config)
        self.scene: Scene | None = None
        self.rendered: list[np.ndarray] = []

    def end(self, status: str, stage: str, reason: str, message: str) -> None:
        self.facts.update(status=status, stage=stage, reason=reason, message=message[:500])

    def picture(self) -> bytes:
        """A thumbnail, if one can be made: an asset that was rejected must not end as failed."""
        try:
            if self.scene is None:
                return b""
            settings = self.job.params.render
            return thumbnail(self.rendered, self.scene, self.job.renderer, settings)
        except Exception:
            logger.debug("no thumbnail of %s", self.asset.uid, exc_info=True)
            return b""

    def run(self) -> bytes:
        params, gates = self.job.params, self.job.config.gates
        self.scene = scene = self._open()
        mesh = scene.mesh
        self.stage = "gate"
        self._check_mesh(mesh)
        mesh, transform = normalise(mesh, params.extent)
        radius = bounding_radius(mesh)
        cameras = asset_cameras(self.asset.uid, params, radius)
        self._placement_facts(radius, transform, cameras)
        self.stage = "render"
        found = self._images(scene, cameras, transform)
        rgba, covered, border = found.rgba, found.covered, found.border
        self.facts.update(
            views=len(rgba), coverage=float(covered.mean()), border_views=int(border.sum())
        )
        check("views", found, gates)
        self.stage = "write"
        files, views = _image_files(self.asset.uid, rgba, cameras)
        for n, view in enumerate(views):
            view.update(coverage=float(covered[n]), touches_border=bool(border[n]))
        # The self-test reads what a stranger will read: numbers that went through JSON.
        saved = json.loads(canonical_json(views))
        poses = check_poses(mesh, rgba, saved, rng_of("poses", self.asset.uid))
        self._check_poses(poses, all(m.alpha_mode == "opaque" for m in mesh.materials))
        points = sample_surface(mesh, POINTS_COUNT, rng_of("points", self.asset.uid))
        self.facts["fingerprint"] = fingerprint(points).tobytes().hex()
        return self._members(files, points, saved)

    def _open(self) -> Scene:
        """The asset's own file where the renderer reads such files, else what the source loads."""
        source, renderer = self.job.source, self.job.renderer
        path = source.file(self.asset)
        if path is not None:
            self.facts["animated"] = is_animated(path)
        if path is not None and path.suffix.lower() in renderer.imports:
            return renderer.open(path)
        return renderer.open(source.load(self.asset))

    def _images(self, scene: Scene, cameras: Camera, transform: np.ndarray) -> ViewFacts:
        """All views; the first alone, to see whether the rest is worth it.

        Raises:
            AssetError: ``blank``, ``out_of_frame`` or ``missing_texture``, or the renderer's.
        """
        gates = self.job.config.gates
        colours = Colours() if gates.min_colour_spread > 0 else None
        done, worth = 0, False
        while done < len(cameras):
            until = len(cameras) if worth else done + 1
            views = scene.render(cameras[done:until], self.job.params.render, transform)
            self.rendered.append(views.rgba)
            check_magenta(views, scene.mesh)
            if colours is not None:
                colours.add(views)
            done = until
            if not worth:
                covered = np.concatenate([coverage(part) for part in self.rendered])
                worth = is_worth_the_rest(covered, gates)
        return ViewFacts(np.concatenate(self.rendered), colours)

    def _check_mesh(self, mesh: Mesh) -> None:
        """Note what is known of the mesh, and let the gates look at it."""
        gates = self.job.config.gates
        found = MeshFacts(mesh, self.facts["missing_textures"], self.facts.get("animated"))
        self.facts.update(
            vertices=len(mesh.vertices),
            triangles=len(mesh.faces),
            materials=len(mesh.materials),
            textures=found.textures,
        )
        if len(mesh.faces) and np.isfinite(found.box).all():
            self.facts["extent"] = tuple((found.box[1] - found.box[0]).tolist())
        try:
            check("mesh", found, gates)
            objects_of(found, gates)
        finally:
            self.facts["objects"] = found.counted

    def _placement_facts(self, radius: float, transform: np.ndarray, cameras: Camera) -> None:
        half = np.arcsin(np.clip(radius / cameras.radius, 0.0, 1.0)).max()
        self.facts.update(
            transform=tuple(transform.reshape(-1).tolist()),
            bounding_radius=radius,
            max_half_angle_deg=float(np.rad2deg(half)),
        )

    def _check_poses(self, poses: PoseCheck, opaque: bool) -> None:
        cover, iou = float(poses.cover.min()), float(poses.iou.mean())
        self.facts.update(pose_iou=iou, pose_cover=cover)
        check("poses", PoseFacts(cover, iou, opaque), self.job.config.gates)

    def _members(
        self,
        files: list[tuple[str, bytes]],
        points: np.ndarray,
        views: list[dict[str, Any]],
    ) -> bytes:
        uid = self.asset.uid
        buffer = io.BytesIO()
        np.save(buffer, points.astype(np.float32), allow_pickle=False)
        record = AssetRecord.model_validate({**self.facts, "status": "accepted"})
        params = self.job.params
        meta = {
            "schema": SCHEMA_VERSION,
            "asset": record.model_dump(mode="json", exclude=set(RUN_FIELDS)),
            "params_hash": params.params_hash,
            "views": views,
        }
        piece = encode_piece(
            [
                *files,
                (f"{uid}.points.npy", buffer.getvalue()),
                (f"{uid}.json", canonical_json(meta).encode()),
            ]
        )
        cloud, info = piece.members[-2:]
        self.facts.update(
            status="accepted",
            offset=0,
            length=len(piece.data),
            points_offset=cloud.offset,
            points_length=cloud.length,
            meta_offset=info.offset,
            meta_length=info.length,
            members_sha256=hashlib.sha256(piece.data).hexdigest(),
        )
        return piece.data


def base_facts(asset: SourceAsset, config: PrepareConfig) -> dict[str, Any]:
    """What is known of an asset before anything is loaded, as fields of its record."""
    by_uid = split_of(asset.uid, config.splits)
    return {
        "uid": asset.uid,
        "source": config.source,
        "source_id": asset.source_id,
        "category": asset.category,
        "url": asset.url,
        "license": asset.license,
        "author": asset.author,
        "title": asset.title,
        "sha256": asset.sha256,
        "bytes": asset.bytes,
        "missing_textures": len(asset.spec.get("missing", ())),
        "split": asset.split or by_uid,
        "split_by": "uid" if asset.split in (None, by_uid) else "source",
    }


def failed_record(
    asset: SourceAsset,
    config: PrepareConfig,
    reason: str,
    message: str,
    attempts: int,
    log: str | None = None,
    stage: str = "render",
) -> AssetRecord:
    """The record of an asset whose worker did not live to write one.

    ``log`` is the end of what that worker wrote.
    """
    return AssetRecord.model_validate(
        {
            **base_facts(asset, config),
            "status": "failed",
            "stage": stage,
            "reason": reason,
            "message": message[:500],
            "attempts": attempts,
            "log": log,
        }
    )


def rng_of(*scope: object) -> np.random.Generator:
    """A generator that depends on ``scope`` alone."""
    return np.random.default_rng(seed_for(*scope))


def asset_cameras(uid: str, params: RenderParams, bounding_radius: float | None = None) -> Camera:
    """The cameras ``[N]`` of an asset: from its uid, the seed and the prior alone.

    The image size is left out, so that the same poses can be rendered at another size. Only a prior
    with ``fit`` also looks at ``bounding_radius``, of a ball about the origin, and at the aspect.
    """
    rng = rng_of("cameras", params.sampler, params.seed, uid)
    height, width = params.render.resolution
    return sample_cameras(params.camera, params.views, rng, bounding_radius, width / height)


def _image_files(
    uid: str, rgba: np.ndarray, cameras: Camera
) -> tuple[list[tuple[str, bytes]], list[dict[str, Any]]]:
    """The image members of an asset, and the camera of each as plain JSON values."""
    count, height, width = rgba.shape[:3]
    digits = max(3, len(str(count - 1)))
    files, views = [], []
    for n in range(count):
        data = encode_png(rgba[n])
        files.append((f"{uid}.{n:0{digits}d}.rgba.png", data))
        views.append(
            _view_meta(n, cameras[n], height, width)
            | {"sha256": {"rgba": hashlib.sha256(data).hexdigest()}}
        )
    return files, views


def _view_meta(view: int, camera: Camera, height: int, width: int) -> dict[str, Any]:
    """The camera of one view, with the redundant intrinsics that other readers expect."""
    focal = 0.5 * height / float(np.tan(0.5 * camera.fov_y))
    matrix: Sequence[Sequence[float]] = camera.c2w.tolist()
    return {
        "view": view,
        "c2w": matrix,
        "fov_y_deg": float(np.rad2deg(camera.fov_y)),
        "azimuth_deg": float(np.rad2deg(camera.azimuth)),
        "elevation_deg": float(np.rad2deg(camera.elevation)),
        "radius": float(camera.radius),
        "w": width,
        "h": height,
        "fl_x": focal,
        "fl_y": focal,
        "cx": width / 2,
        "cy": height / 2,
    }


def encode_png(image: np.ndarray) -> bytes:
    """PNG of uint8 ``[H, W, 4]``; equal images give equal bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image, "RGBA").save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()
