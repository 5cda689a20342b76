"""``transforms.json`` as nerfstudio and instant-ngp read it: one folder an asset.

    OUT/<uid>/transforms.json    OUT/<uid>/images/000.png ...

Those programs have +Z up, this one has +Y: the world is turned by a signed permutation of the axes,
which is exact. Camera axes are OpenGL in both. Image files are copied byte for byte.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ... import console
from ...errors import DatasetError
from ..dataset import Dataset
from ..records import SPLITS, AssetRecord, Split
from .loose import (
    AssetViews,
    Exported,
    LooseView,
    LooseViews,
    asset_rows,
    claim,
    collect,
    read_asset,
    read_json,
    write_file,
    write_json,
)

FILE = "transforms.json"
Up = Literal["z", "y"]
_LENS = ("w", "h", "fl_x", "fl_y", "cx", "cy", "camera_angle_x", "camera_angle_y")


def to_z_up(c2w: np.ndarray) -> np.ndarray:
    """``c2w`` ``[..., 4, 4]`` of a +Y up world in a +Z up one: ``(x, y, z)`` is ``(x, -z, y)``."""
    out = np.array(c2w, np.float64)
    out[..., 1, :], out[..., 2, :] = -c2w[..., 2, :], c2w[..., 1, :]
    return out


def to_y_up(c2w: np.ndarray) -> np.ndarray:
    """Inverse of :func:`to_z_up`."""
    out = np.array(c2w, np.float64)
    out[..., 1, :], out[..., 2, :] = c2w[..., 2, :], -c2w[..., 1, :]
    return out


def lens(fov_y: float, size: int) -> dict[str, float | int]:
    """A square pinhole camera in every way that readers ask for. Angles are full, in radians."""
    focal = 0.5 * size / math.tan(0.5 * fov_y)
    values = (size, size, focal, focal, size / 2, size / 2, fov_y, fov_y)
    return dict(zip(_LENS, values, strict=True))


def document(asset: AssetViews, size: int, folder: str, up: Up) -> dict[str, Any]:
    """``transforms.json`` of one asset; ``folder`` is where its images are, with a slash."""
    lenses = [lens(float(fov), size) for fov in asset.views.fov_y]
    turned = to_z_up(asset.views.c2w) if up == "z" else asset.views.c2w
    frames = [
        {"file_path": f"{folder}{view.view:0{asset.digits}d}.png", **optics}
        | {"transform_matrix": matrix.tolist()}
        for view, optics, matrix in zip(asset.views, lenses, turned, strict=True)
    ]
    common = lenses[0] if all(one == lenses[0] for one in lenses) else {}
    return {
        "camera_model": "OPENCV",
        "orientation_override": "none",
        **common,
        "frames": frames,
        "g3d": {"up": up, **_about(asset.record)},
    }


def _about(record: AssetRecord) -> dict[str, Any]:
    names = ("uid", "split", "source", "source_id", "category", "url", "license", "author")
    return {name: getattr(record, name) for name in names}


def export_transforms(
    dataset: Dataset | Path | str, out: Path, *, split: Split | None = None, up: Up = "z"
) -> Exported:
    """Write every asset as images and a ``transforms.json``. The same call again goes on.

    Args:
        dataset: Open, or where it is.
        out: Folder of the export.
        split: Only these assets; their split is kept in the file in any case.
        up: Axis that points up in the file's world.

    Raises:
        ConfigError: ``out`` holds something else.
        DatasetError: The dataset is damaged.
        DiskError: The disk is full.
    """
    data = dataset if isinstance(dataset, Dataset) else Dataset.open(dataset)
    claim(out, data, "transforms")
    assets = views = 0
    with console.track("exporting", total=len(data.assets(split)), unit="asset") as task:
        for record, rows in asset_rows(data, split):
            asset = read_asset(data, record, rows)
            for view, file in zip(rows, asset.files, strict=True):
                name = f"{view.view:0{asset.digits}d}.png"
                write_file(out / record.uid / "images" / name, file)
            write_json(out / record.uid / FILE, document(asset, data.info.size, "images/", up))
            assets, views = assets + 1, views + len(rows)
            task.advance(1)
    return Exported(out, "transforms", assets, views)


def import_transforms(folder: Path, *, up: Up = "z") -> LooseViews:
    """Read ``transforms.json`` of one asset, or of every folder below.

    Files of other programs are read too: ``camera_angle_x`` or ``fl_x`` alone is enough, at the
    top or with every frame, and a ``file_path`` may lack its suffix. Distortion is refused.

    Args:
        folder: Holds the file, or folders that do.
        up: Axis that points up, where the file does not say.

    Raises:
        DatasetError: No such file, or it lacks what is needed.
    """
    files = [folder / FILE] if (folder / FILE).is_file() else sorted(folder.glob(f"*/{FILE}"))
    if not files:
        raise DatasetError(f"there is no {FILE} in {folder}, nor in a folder of it")
    rows: list[LooseView] = []
    for file in files:
        rows += _read_document(file, up)
    return collect(rows, folder)


def _read_document(file: Path, up: Up) -> list[LooseView]:
    data = read_json(file)
    own = data.get("g3d", {})
    split = own.get("split")
    rows = []
    for number, frame in enumerate(data.get("frames", ())):
        try:
            image = _image_of(file.parent, frame["file_path"])
            c2w = np.array(frame["transform_matrix"], np.float64).reshape(4, 4)
            fov_y = _fov_y({**data, **frame}, image)
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(
                f"{file}: frame {number}: {type(error).__name__} {error}",
                hint="a frame needs file_path, transform_matrix and a lens (camera_angle_x, fl_x)",
            ) from error
        rows.append(
            LooseView(
                uid=str(own.get("uid", file.parent.name)),
                view=int(image.stem) if image.stem.isdecimal() else number,
                split=split if split in SPLITS else None,
                path=image,
                c2w=to_y_up(c2w) if own.get("up", up) == "z" else c2w,
                fov_y=fov_y,
            )
        )
    return rows


def _image_of(folder: Path, name: str) -> Path:
    path = folder / name
    return path if path.suffix else path.with_suffix(".png")


def _fov_y(values: dict[str, Any], image: Path) -> float:
    """Vertical angle of a frame: said, or from the focal length, or from the horizontal angle."""
    bent = [k for k in ("k1", "k2", "k3", "k4", "p1", "p2") if values.get(k)]
    if bent:
        raise ValueError(f"the lens is distorted ({', '.join(bent)}): undistort the images first")
    if "camera_angle_y" in values:
        return float(values["camera_angle_y"])
    if "w" in values and "h" in values:
        width, height = float(values["w"]), float(values["h"])
    else:
        from PIL import Image

        with Image.open(image) as opened:
            width, height = opened.size
    if "fl_y" in values or "fl_x" in values:
        focal = float(values["fl_y"] if "fl_y" in values else values["fl_x"])
        return 2 * math.atan(0.5 * height / focal)
    angle = float(values["camera_angle_x"])
    return angle if width == height else 2 * math.atan(height / width * math.tan(0.5 * angle))
