"""Random single views: our shards against the folders of GET3D, the same images in one run.

    python benchmarks/reader.py [--quick] [--sizes 64 128 256] [--models FOLDER]

The folder side works like GET3D's loader: from the path of an image it takes synset, object and
number, opens the PNG with Pillow, loads the object's `rotation.npy` and `elevation.npy` and takes
one number of each. Both sides end with uint8 RGBA and a camera; images are compared byte for byte.
What GET3D's loader does beyond that (colours times a binary mask, float64, channels first) is timed
as well, as `get3d_item`, and is in no ratio but `reader_vs_get3d_item`. One thread; the folder's
files and the shards are in the page cache. The figure of a side is the median of its rounds.
`reader_vs_folder` is the ratio at 128 squared.

Reading a file takes microseconds, so decoding bounds both sides, and the ratio hangs on what is in
the images: made chairs are smooth. `reader_vs_folder_busy` repeats all of it, on both sides from
files, on the same images with a strong texture laid over the object, which makes the files several
times as large. `--models FOLDER` adds `reader_vs_folder_models`: images of textured models.

Both sides read in small pieces by turns: caches are as cold as between steps of training, and other
work on the machine hits both alike. Ratios are of wall time; with `_cpu` of processor time.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from common import report
from g3d.manifests.convert import export_get3d
from g3d.manifests.png import decode_png
from g3d.manifests.reader import ViewDataset
from g3d.pipeline.config import PrepareConfig
from g3d.pipeline.prepare import prepare
from PIL import Image

HEADLINE = 128
PIECE = 24
"""Views that one side reads before the next one has its turn."""

Key = tuple[str, int]
"""uid and view."""


class FolderViews:
    """Works like GET3D's loader: a list of image paths, two small files of angles an object."""

    def __init__(self, root: Path, synset: str) -> None:
        folder = root / "img" / synset
        self.cameras = str(root / "camera")
        self.paths = [str(path) for path in sorted(folder.glob("*/*.png"))]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, object]:
        synset, uid, name = self.paths[index].split("/")[-3:]
        number = int(name.split(".")[0])
        folder = os.path.join(self.cameras, synset, uid)  # noqa: PTH118 - as that loader does
        rotation = np.load(os.path.join(folder, "rotation.npy"))[number]  # noqa: PTH118
        elevation = np.load(os.path.join(folder, "elevation.npy"))[number]  # noqa: PTH118
        with Image.open(self.paths[index]) as image:
            rgba = np.asarray(image)
        azimuth, polar = rotation / 180 * np.pi, (90 - elevation) / 180 * np.pi
        return {"rgba": rgba, "azimuth": azimuth, "polar": polar, "uid": uid, "view": number}


def get3d_item(item: dict[str, object]) -> tuple[np.ndarray, np.ndarray]:
    """What that loader makes of an image: masked colours as float64, channels first; the mask."""
    rgba = np.asarray(item["rgba"])
    mask = (rgba[..., 3:] > 0).astype(np.uint8)
    return (rgba[..., :3] * mask).transpose(2, 0, 1).astype(np.float64), mask


def make(out: Path, size: int, assets: int, views: int, models: Path | None) -> None:
    """A data set of chairs, or of models, through GET3D's camera."""
    source = {"source": "procedural", "category": "chair", "limit": assets}
    if models is not None:
        source = {"source": "folder", "root": str(models), "category": "car", "limit": assets}
    camera = {"sampler": "get3d", "radius": 1.2, "fov_y_deg": 49.134}
    render = {"views": views, "render": {"size": size}, "workers": 0, "camera": camera}
    prepare(PrepareConfig.model_validate(source | render), out)


def rates(read: Callable[[int], object], rows: Sequence[int]) -> tuple[float, float]:
    """Calls a second of wall time, and of processor time; nothing that is read is kept."""
    wall, busy = time.perf_counter(), time.thread_time()
    for row in rows:
        read(row)
    return len(rows) / (time.perf_counter() - wall), len(rows) / (time.thread_time() - busy)


def with_texture(rgba: np.ndarray, rng: np.random.Generator) -> bytes:
    """The PNG of an image whose object carries smooth random colours and some grain."""
    out = rgba.astype(np.float64)
    coarse = rng.normal(size=(-(-len(rgba) // 3), -(-len(rgba) // 3), 3)) * 40
    coarse = coarse.repeat(3, 0).repeat(3, 1)[: len(rgba), : len(rgba)]
    smooth = (coarse + np.roll(coarse, 1, 0) + np.roll(coarse, 1, 1) + np.roll(coarse, 2, 1)) / 2
    out[..., :3] += (smooth + rng.normal(size=smooth.shape) * 3) * (rgba[..., 3:] > 0)
    buffer = io.BytesIO()
    Image.fromarray(out.clip(0, 255).astype(np.uint8)).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def lay_textures(ours: ViewDataset, theirs: FolderViews, rows: Mapping[Key, int]) -> None:
    """Put textured images in the place of all, in the folder and in one shard."""
    rng = np.random.default_rng(1)
    offset, length = ours.views.offset.copy(), ours.views.length.copy()
    place = Path(ours._root) / "shards" / "textured.tar"
    with place.open("wb") as shard:
        for path in theirs.paths:
            file = Path(path)
            data = with_texture(decode_png(file.read_bytes()), rng)
            file.write_bytes(data)
            row = rows[file.parent.name, int(file.stem)]
            offset[row], length[row] = shard.tell(), shard.write(data)
            shard.write(b"\0" * (-len(data) % 512))
    names = np.full(len(ours), "shards/textured.tar")
    ours.views = replace(ours.views, shard=names, offset=offset, length=length)


def check(ours: ViewDataset, theirs: FolderViews, rows: Mapping[Key, int]) -> None:
    """Both sides give the same images and cameras."""
    assert len(rows) == len(theirs) == len(ours)
    for n in range(len(theirs)):
        item = theirs[n]
        mine = ours[rows[item["uid"], item["view"]]]
        assert np.array_equal(item["rgba"], mine["rgba"]), (item["uid"], item["view"])
        turn = item["azimuth"] - np.pi - mine["azimuth"]  # rotation 0 is on -Z
        assert abs(np.exp(1j * turn) - 1) < 1e-9
        assert abs(np.pi / 2 - item["polar"] - mine["elevation"]) < 1e-9


def measure(ours: ViewDataset, theirs: FolderViews, rounds: int, label: str) -> dict[str, float]:
    """Rates of all that is compared, and the ratios, by name."""
    files = [ours.read_bytes(view) for view in ours.views]
    sides: dict[str, Callable[[int], object]] = {
        "shards": ours.__getitem__,
        "folder": theirs.__getitem__,
        "get3d_item": lambda row: get3d_item(theirs[row]),
        "decode_pillow": lambda row: np.asarray(Image.open(io.BytesIO(files[row]))),
        "decode_ours": lambda row: decode_png(files[row]),
        "shards_read_only": lambda row: ours.read_bytes(ours.views[row]),
    }
    wall: dict[str, list[float]] = {name: [] for name in sides}
    busy: dict[str, list[float]] = {name: [] for name in sides}
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        order = rng.permutation(len(theirs))
        # In small pieces by turns: what else runs on the machine hits all of them.
        pieces = np.array_split(order, max(1, len(order) // PIECE))
        seconds = {name: np.zeros(2) for name in sides}
        for piece in pieces:
            for name, read in sides.items():
                found = rates(read, piece.tolist())
                seconds[name] += [len(piece) / found[0], len(piece) / found[1]]
        for name in sides:
            wall[name].append(len(order) / seconds[name][0])
            busy[name].append(len(order) / seconds[name][1])
    middle = {name: statistics.median(values) for name, values in wall.items()}
    plain = [a / b for a, b in zip(wall["shards"], wall["folder"], strict=True)]
    full = [a / b for a, b in zip(wall["shards"], wall["get3d_item"], strict=True)]
    cpu = [a / b for a, b in zip(busy["shards"], busy["folder"], strict=True)]
    kilobytes = float(np.mean([len(file) for file in files])) / 1024
    print(
        f"{ours.size:4d} px, {label}, {kilobytes:.1f} KB a view: "
        + ", ".join(f"{name} {value:,.0f}/s" for name, value in middle.items())
        + f"; shards / folder {statistics.median(plain):.2f}"
        + f" ({min(plain):.2f} to {max(plain):.2f}), of processor time {statistics.median(cpu):.2f}"
    )
    return {
        **{f"{name}_per_s": round(value, 1) for name, value in middle.items()},
        "reader_vs_folder": round(statistics.median(plain), 3),
        "reader_vs_folder_cpu": round(statistics.median(cpu), 3),
        "reader_vs_get3d_item": round(statistics.median(full), 3),
        "kilobytes": round(kilobytes, 2),
    }


def compare(
    folder: Path, size: int, assets: int, views: int, rounds: int, models: Path | None = None
) -> dict[str, float]:
    """Both sides at one size: as made, and with textures laid over; or images of models."""
    make(folder / "data", size, assets, views, models)
    export_get3d(folder / "data", folder / "get3d", synset="03001627")
    ours, theirs = ViewDataset(folder / "data", None), FolderViews(folder / "get3d", "03001627")
    rows = {(v.uid, v.view): n for n, v in enumerate(ours.views)}
    check(ours, theirs, rows)
    label = "as made" if models is None else "models"
    found = measure(ours, theirs, rounds, label)
    if models is not None:
        return {f"{name}_models_{size}": value for name, value in found.items()}
    out = {f"{name}_{size}": value for name, value in found.items()}
    lay_textures(ours, theirs, rows)
    check(ours, theirs, rows)
    found = measure(ours, theirs, rounds, "textured")
    return out | {f"{name}_busy_{size}": value for name, value in found.items()}


def main() -> None:
    """Compare at every size, then print the result line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--sizes", type=int, nargs="+", default=None)
    parser.add_argument("--models", type=Path, default=None, help="folder of textured models")
    options = parser.parse_args()
    sizes = options.sizes or ([HEADLINE] if options.quick else [64, HEADLINE, 256])
    assets, views, rounds = (8, 6, 15) if options.quick else (40, 12, 15)
    results: dict[str, float] = {}
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            results |= compare(Path(folder), size, assets, views, rounds)
        if options.models is not None:
            with tempfile.TemporaryDirectory() as folder:
                results |= compare(Path(folder), size, assets, views, rounds, options.models)
    headline = HEADLINE if HEADLINE in sizes else sizes[0]
    results["reader_vs_folder"] = results[f"reader_vs_folder_{headline}"]
    results["reader_vs_get3d_item"] = results[f"reader_vs_get3d_item_{headline}"]
    report("reader", options.quick, results)


if __name__ == "__main__":
    main()
