"""The folder layout that GET3D's trainer reads.

    OUT/img/<synset>/<uid>/000.png ...                   OUT/img/<synset>/<uid>/transforms.json
    OUT/camera/<synset>/<uid>/{rotation,elevation}.npy   OUT/split/<synset>/{train,val,test}.txt

Its cameras are two angles in degrees: all look at the origin from a distance of 1.2 through one
lens. Elevation is above the horizon, as here. ``rotation`` is 0 on -Z and grows the way our azimuth
does, so it is azimuth + 180. What two angles cannot say stands, exactly, in ``transforms.json``,
which GET3D's own renderer writes too and its trainer does not read.
"""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np

from ... import console
from ...errors import ConfigError, DatasetError
from ..dataset import Dataset, Views
from ..records import SPLITS, Split
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
from .transforms import FILE, document, to_y_up

RADIUS = 1.2
FOV_Y = 2 * math.atan(16 / 35)
"""35 mm lens before a 32 mm sensor: 49.134 degrees."""
RADIUS_TOLERANCE = 1e-3
FOV_TOLERANCE = math.radians(0.01)
POSE_TOLERANCE = 1e-6
ROTATION, ELEVATION = "rotation.npy", "elevation.npy"


def angles_of(c2w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``rotation`` and ``elevation`` in degrees, each float64 ``[N]``, of cameras ``[N, 4, 4]``.

    They come from the viewing axis, which still tells the azimuth straight above the object.
    """
    right, back = c2w[:, :3, 0], c2w[:, :3, 2]
    azimuth = np.arctan2(-right[:, 2], right[:, 0])
    elevation = np.arcsin(np.clip(back[:, 1], -1.0, 1.0))
    return np.mod(np.rad2deg(azimuth) + 180.0, 360.0), np.rad2deg(elevation)


def cameras_of(rotation: np.ndarray, elevation: np.ndarray, radius: float = RADIUS) -> np.ndarray:
    """Cameras float64 ``[N, 4, 4]`` of angles in degrees ``[N]``: inverse of :func:`angles_of`."""
    turn, rise = np.deg2rad(rotation), np.deg2rad(elevation)
    sin_t, cos_t, sin_e, cos_e = np.sin(turn), np.cos(turn), np.sin(rise), np.cos(rise)
    zero = np.zeros_like(turn)
    c2w = np.zeros((*turn.shape, 4, 4))
    c2w[..., :3, 0] = np.stack([-cos_t, zero, sin_t], axis=-1)
    c2w[..., :3, 1] = np.stack([sin_e * sin_t, cos_e, sin_e * cos_t], axis=-1)
    c2w[..., :3, 2] = np.stack([-cos_e * sin_t, sin_e, -cos_e * cos_t], axis=-1)
    c2w[..., :3, 3] = radius * c2w[..., :3, 2]
    c2w[..., 3, 3] = 1.0
    return c2w


def unheld(views: Views) -> list[str]:
    """What of the cameras the two angles cannot say, in words."""
    reasons = []
    far = np.abs(views.radius - RADIUS) > RADIUS_TOLERANCE
    if far.any():
        low, high = views.radius.min(), views.radius.max()
        reasons.append(f"{far.sum()} views are {low:.4g} to {high:.4g} away, the layout has 1.2")
    wide = np.abs(views.fov_y - FOV_Y) > FOV_TOLERANCE
    if wide.any():
        low, high = np.rad2deg(views.fov_y.min()), np.rad2deg(views.fov_y.max())
        reasons.append(
            f"{wide.sum()} views have a fov_y of {low:.5g} to {high:.5g} degrees, "
            "the layout has 49.134"
        )
    rebuilt = cameras_of(*angles_of(views.c2w))
    rebuilt[:, :3, 3] *= views.radius[:, None] / RADIUS
    rolled = np.abs(rebuilt - views.c2w).max(axis=(1, 2)) > POSE_TOLERANCE
    if rolled.any():
        reasons.append(f"{rolled.sum()} cameras are rolled, or do not look at the origin")
    return reasons


def export_get3d(
    dataset: Dataset | Path | str,
    out: Path,
    *,
    synset: str | None = None,
    split: Split | None = None,
    force: bool = False,
) -> Exported:
    """Write the layout of GET3D. The same call again goes on.

    Args:
        dataset: Open, or where it is.
        out: Folder of the export: ``--data OUT/img/SYNSET --camera_path OUT/camera``.
        synset: Name of the category's folder, such as 02958343; default: its name.
        split: Only these assets.
        force: Also where the layout does not hold the cameras; GET3D then sees wrong ones.

    Raises:
        ConfigError: The layout cannot hold the cameras; ``out`` holds something else.
        DatasetError: The dataset is damaged.
        DiskError: The disk is full.
    """
    data = dataset if isinstance(dataset, Dataset) else Dataset.open(dataset)
    reasons = unheld(data.views(split))
    if reasons and not force:
        raise ConfigError(
            f"GET3D's layout cannot hold {data.root}: {'; '.join(reasons)}",
            hint="prepare with the get3d sampler, radius 1.2 and its lens; or force the export",
        )
    name = synset or data.info.category
    if Path(name).name != name or name in (".", ".."):
        raise ConfigError(f"the synset {name!r} is not the name of a folder")
    claim(out, data, "get3d")
    listed: dict[str, list[str]] = {one: [] for one in SPLITS}
    count = 0
    with console.track("exporting", total=len(data.assets(split)), unit="asset") as task:
        for record, rows in asset_rows(data, split):
            _write_asset(out, name, read_asset(data, record, rows), data.info.size)
            listed[record.split].append(record.uid)
            count += len(rows)
            task.advance(1)
    for part, uids in listed.items():
        text = "".join(f"{uid}\n" for uid in sorted(uids))
        write_file(out / "split" / name / f"{part}.txt", text.encode())
    return Exported(out, "get3d", sum(map(len, listed.values())), count, tuple(reasons))


def _write_asset(out: Path, synset: str, asset: AssetViews, size: int) -> None:
    uid = asset.record.uid
    images, cameras = out / "img" / synset / uid, out / "camera" / synset / uid
    for view, file in zip(asset.views, asset.files, strict=True):
        write_file(images / f"{view.view:0{asset.digits}d}.png", file)
    order = np.argsort(asset.views.view)
    rotation, elevation = angles_of(asset.views.c2w[order])
    for name, values in ((ROTATION, rotation), (ELEVATION, elevation)):
        buffer = io.BytesIO()
        np.save(buffer, values)
        write_file(cameras / name, buffer.getvalue())
    write_json(images / FILE, document(asset, size, "", "z"))


def import_get3d(
    folder: Path, *, synset: str | None = None, radius: float = RADIUS, fov_y: float = FOV_Y
) -> LooseViews:
    """Read a layout of GET3D, made here or by GET3D's own renderer.

    Where an export of g3d left exact cameras beside the images, those are used; they must agree
    with the angles.

    Args:
        folder: Holds ``img`` and ``camera``.
        synset: Only this category; default: all.
        radius: Distance of cameras that are angles alone.
        fov_y: Their vertical full angle (radians).

    Raises:
        DatasetError: Not such a layout; cameras are missing, too few, or contradict each other.
    """
    rows: list[LooseView] = []
    for group in sorted(path for path in folder.glob(f"img/{synset or '*'}") if path.is_dir()):
        splits = _splits(folder, group.name)
        for images in sorted(path for path in group.iterdir() if path.is_dir()):
            rows += _read_asset(folder, images, splits.get(images.name), radius, fov_y)
    return collect(rows, folder)


def _read_asset(
    folder: Path, images: Path, split: Split | None, radius: float, fov_y: float
) -> list[LooseView]:
    synset, uid = images.parts[-2:]
    cameras = folder / "camera" / synset / uid
    files = sorted(p for p in images.iterdir() if p.suffix.lower() in (".png", ".jpg"))
    bad = [path.name for path in files if not path.stem.isdecimal()]
    if bad:
        raise DatasetError(f"{images / bad[0]}: the name of an image must be a number")
    try:
        angles = [np.load(cameras / n, allow_pickle=False) for n in (ROTATION, ELEVATION)]
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(
            f"the cameras of {uid} are not readable: {error}",
            hint="every object needs camera/<synset>/<id>/rotation.npy and elevation.npy",
        ) from error
    rotation, elevation = (np.asarray(a, np.float64).reshape(-1) for a in angles)
    numbers = [int(path.stem) for path in files]
    if len(rotation) != len(elevation) or max(numbers, default=-1) >= len(rotation):
        raise DatasetError(
            f"{cameras}: {len(rotation)} rotations and {len(elevation)} elevations "
            f"for images up to {max(numbers, default=-1)}"
        )
    exact = _exact(images / FILE)
    rows = []
    for number, path in zip(numbers, files, strict=True):
        c2w = cameras_of(rotation[number], elevation[number], radius)
        lens = fov_y
        if number in exact:
            c2w, lens = exact[number]
            _compare(path, c2w, rotation[number], elevation[number])
        rows.append(LooseView(uid, number, split, path, c2w, lens))
    return rows


def _exact(file: Path) -> dict[int, tuple[np.ndarray, float]]:
    """Cameras and lenses by number, where g3d has written them."""
    data = read_json(file) if file.is_file() else {}
    if "g3d" not in data:
        return {}
    try:
        return {
            int(Path(frame["file_path"]).stem): (
                to_y_up(np.array(frame["transform_matrix"], np.float64).reshape(4, 4)),
                float(frame["camera_angle_y"]),
            )
            for frame in data["frames"]
        }
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{file} is damaged: {error}") from error


def _compare(path: Path, c2w: np.ndarray, rotation: float, elevation: float) -> None:
    """Raise if angles and matrix differ; a turn at the poles shows in the matrix alone."""
    turn, rise = (float(one[0]) for one in angles_of(c2w[None]))
    apart = cameras_of(np.array(turn), np.array(rise)) - cameras_of(
        np.array(rotation), np.array(elevation)
    )
    if np.abs(apart).max() > POSE_TOLERANCE:
        raise DatasetError(
            f"{path}: {ROTATION} and {ELEVATION} say {rotation:.6g} and {elevation:.6g} degrees, "
            f"{FILE} says {turn:.6g} and {rise:.6g}"
        )


def _splits(folder: Path, synset: str) -> dict[str, Split]:
    """The split of every object that is in a list of one."""
    files = {split: folder / "split" / synset / f"{split}.txt" for split in SPLITS}
    return {
        uid: split
        for split, file in files.items()
        if file.is_file()
        for uid in file.read_text(encoding="utf-8").split()
    }
