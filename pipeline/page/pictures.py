"""Small pictures of assets as data URIs."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Callable, Mapping

import numpy as np

from ...errors import DatasetError
from ...manifests.dataset import Dataset
from ...renderers.sheets import over_plain, shrink
from .facts import Place

log = logging.getLogger(__name__)

Thumbnails = Callable[[str], bytes | None]
"""The picture of an asset that has none in the shards, by its uid."""

REJECTED = "rejected"
"""Folder of a dataset with ``<uid>.png`` of assets that a gate stopped."""
SIDE = 128
"""Longest side of a picture (pixels)."""
GREY = (142, 145, 150)
"""Behind it: dark and light objects both stand out."""


def stored_thumbnails(dataset: Dataset) -> Thumbnails:
    """The pictures in the folder `rejected/` of a dataset."""

    def read(uid: str) -> bytes | None:
        try:
            return dataset.read_file(f"{REJECTED}/{uid}.png")
        except (DatasetError, OSError):
            return None

    return read


def data_uri(data: bytes) -> str | None:
    """An image file as a small one on grey, or None where it is not an image."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            rgba = np.asarray(image.convert("RGBA"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        log.debug("not an image: %s", error)
        return None
    out = io.BytesIO()
    picture = Image.fromarray(shrink(over_plain(rgba, GREY), SIDE))
    picture.save(out, "WEBP", quality=80, method=4)
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode("ascii")


class Album:
    """Pictures of assets: from the shards where they are accepted, else from ``thumbnails``.

    Args:
        dataset: Where the shards are.
        places: Of the images to take, by uid.
        thumbnails: For assets without a place.
    """

    def __init__(
        self, dataset: Dataset, places: Mapping[str, Place], thumbnails: Thumbnails
    ) -> None:
        self._dataset, self._places, self._thumbnails = dataset, places, thumbnails

    def __getitem__(self, uid: str) -> str | None:
        """The data URI, or None where there is no readable picture."""
        place = self._places.get(uid)
        if place is None:
            data = self._thumbnails(uid)
            return None if data is None else data_uri(data)
        try:
            data = self._dataset.read_bytes(place.shard, place.offset, place.length)
        except DatasetError as error:
            log.warning("no picture of %s: %s", uid, error)
            return None
        return data_uri(data)
