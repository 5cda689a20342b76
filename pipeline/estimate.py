"""What a run will take, from a few of its assets that are prepared and thrown away."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ..cluster import cores
from ..config import home
from ..renderers.base import Renderer
from .config import PrepareConfig, RenderParams
from .job import Job
from .sources.base import Source, SourceAsset

PROBES = 4
"""Assets that are tried; the first also pays for what happens once, and is not counted."""


@dataclass(frozen=True)
class Estimate:
    """What the assets of a plan will take.

    Attributes:
        tried: Assets that were prepared to find out.
        accepted: Of those.
        seconds: Wall time of the whole run, on ``workers`` workers.
        workers: Processes of this machine.
        bytes: Of the shards.
        download: Bytes of the assets in their source, if that is not on this machine.
        free: Bytes that the disk of the home has left.
    """

    tried: int
    accepted: int
    seconds: float
    workers: int
    bytes: int
    download: int
    free: int


def estimate(
    config: PrepareConfig,
    params: RenderParams,
    source: Source,
    renderer: Renderer,
    todo: Sequence[SourceAsset],
) -> Estimate | None:
    """Prepare a few assets, spread over ``todo``, and throw them away; None if there are none.

    What a source fetches for that stays in its cache.

    Raises:
        G3DError: The fault is not an asset's: a missing package, a full disk.
    """
    if not todo:
        return None
    count = min(PROBES, len(todo))
    chosen = [todo[n * len(todo) // count] for n in range(count)]
    seconds, sizes = [], []
    with closing(renderer):
        job = Job(config, params, source, renderer)
        for asset in chosen:
            start = time.monotonic()
            result = job(asset)
            seconds.append(time.monotonic() - start)
            if result.record.status == "accepted":
                sizes.append(len(result.data))
    workers = max(1, min(len(todo), cores() if config.workers is None else config.workers))
    share = len(sizes) / count
    each = statistics.fmean(seconds[1:] or seconds)
    return Estimate(
        tried=count,
        accepted=len(sizes),
        seconds=each * len(todo) / workers,
        workers=workers,
        bytes=round(share * statistics.fmean(sizes) * len(todo)) if sizes else 0,
        download=sum(asset.bytes for asset in todo) if source.remote else 0,
        free=shutil.disk_usage(_existing(home())).free,
    )


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    path = path.resolve()
    return next(folder for folder in (path, *path.parents) if folder.exists())
