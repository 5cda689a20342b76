"""Random single views: our shards against the folders of GET3D, the same images in one run.

    python benchmarks/reader.py [--quick] [--sizes 64 128 256]

The folder side works like GET3D's loader: from the path of an image it takes synset, object and
number, opens the PNG with Pillow, loads the object's `rotation.npy` and `elevation.npy` and takes
one number of each. Both sides end with uint8 RGBA and a camera; images are compared byte for byte.
What GET3D's loader does beyond that (colours times a binary mask, float64, channels first) is timed
as well, as `get3d_item`, and is in no ratio but `reader_vs_get3d_item`. One thread; the folder's
files and the shards are in the page cache. Rounds of both sides alternate; the figure of a side is
the median of its rounds. `reader_vs_folder` is the ratio at 128 squared.

Reading a file takes microseconds, so decoding bounds both sides, and the ratio hangs on what is in
the images: made chairs are smooth. `reader_vs_folder_busy` repeats the comparison in memory, with
what opening and angles cost the folder added to its decoding, on the same images with a strong
texture laid over the object, which makes the files several times as large.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
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


def make(out: Path, size: int, assets: int, views: int) -> None:
    """A data set of chairs through GET3D's camera."""
    prepare(
        PrepareConfig.model_validate(
            {
                "source": "procedural",
                "category": "chair",
                "limit": assets,
                "views": views,
                "render": {"size": size},
                "workers": 0,
                "camera": {"sampler": "get3d", "radius": 1.2, "fov_y_deg": 49.134},
            }
        ),
        out,
    )


def rate(read: Callable[[int], object], rows: Sequence[int]) -> float:
    """Calls a second; nothing that is read is kept."""
    start = time.perf_counter()
    for row in rows:
        read(row)
    return len(rows) / (time.perf_counter() - start)


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


def busy(files: Sequence[bytes], overhead: float, rounds: int) -> tuple[float, float]:
    """(shards / folder on textured images, mean bytes of one); ``overhead``: seconds a view."""
    rng = np.random.default_rng(1)
    textured = [with_texture(decode_png(file), rng) for file in files]
    rows = range(len(textured))
    ratios = []
    for _ in range(rounds):
        ours = 1 / rate(lambda row: decode_png(textured[row]), rows)
        theirs = 1 / rate(lambda row: np.asarray(Image.open(io.BytesIO(textured[row]))), rows)
        ratios.append((theirs + overhead) / ours)
    return statistics.median(ratios), float(np.mean([len(file) for file in textured]))


def compare(folder: Path, size: int, assets: int, views: int, rounds: int) -> dict[str, float]:
    """Both sides at one size."""
    make(folder / "data", size, assets, views)
    export_get3d(folder / "data", folder / "get3d", synset="03001627")
    ours, theirs = ViewDataset(folder / "data", None), FolderViews(folder / "get3d", "03001627")
    rows = {(v.uid, v.view): n for n, v in enumerate(ours.views)}
    assert len(rows) == len(theirs)
    for n in range(len(theirs)):
        item = theirs[n]
        mine = ours[rows[item["uid"], item["view"]]]
        assert np.array_equal(item["rgba"], mine["rgba"]), (item["uid"], item["view"])
        turn = item["azimuth"] - np.pi - mine["azimuth"]  # rotation 0 is on -Z
        assert abs(np.exp(1j * turn) - 1) < 1e-9
        assert abs(np.pi / 2 - item["polar"] - mine["elevation"]) < 1e-9
    files = [ours.read_bytes(view) for view in ours.views]
    sides: dict[str, Callable[[int], object]] = {
        "shards": ours.__getitem__,
        "folder": theirs.__getitem__,
        "get3d_item": lambda row: get3d_item(theirs[row]),
        "decode_pillow": lambda row: np.asarray(Image.open(io.BytesIO(files[row]))),
        "decode_ours": lambda row: decode_png(files[row]),
        "shards_read_only": lambda row: ours.read_bytes(ours.views[row]),
    }
    found: dict[str, list[float]] = {name: [] for name in sides}
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        order = rng.permutation(len(theirs)).tolist()
        for name, read in sides.items():
            found[name].append(rate(read, order))
    middle = {name: statistics.median(values) for name, values in found.items()}
    pairs = zip(found["shards"], found["folder"], strict=True)
    plain = [a / b for a, b in pairs]
    overhead = max(0.0, 1 / middle["folder"] - 1 / middle["decode_pillow"])
    ratio, size_busy = busy(files, overhead, rounds)
    full = [a / b for a, b in zip(found["shards"], found["get3d_item"], strict=True)]
    print(
        f"{size:4d} px, {np.mean([len(file) for file in files]) / 1024:.1f} KB a view: "
        + ", ".join(f"{name} {value:,.0f}/s" for name, value in middle.items())
        + f"; shards / folder {statistics.median(plain):.2f}"
        + f" ({min(plain):.2f} to {max(plain):.2f})"
        + f"; textured, {size_busy / 1024:.1f} KB a view: {ratio:.2f}"
    )
    return {
        **{f"{name}_per_s_{size}": round(value, 1) for name, value in middle.items()},
        f"reader_vs_folder_{size}": round(statistics.median(plain), 3),
        f"reader_vs_folder_busy_{size}": round(ratio, 3),
        f"reader_vs_get3d_item_{size}": round(statistics.median(full), 3),
    }


def main() -> None:
    """Compare at every size, then print the result line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--sizes", type=int, nargs="+", default=None)
    options = parser.parse_args()
    sizes = options.sizes or ([HEADLINE] if options.quick else [64, HEADLINE, 256])
    assets, views, rounds = (8, 6, 15) if options.quick else (40, 12, 15)
    results: dict[str, float] = {}
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            results |= compare(Path(folder), size, assets, views, rounds)
    headline = HEADLINE if HEADLINE in sizes else sizes[0]
    results["reader_vs_folder"] = results[f"reader_vs_folder_{headline}"]
    results["reader_vs_get3d_item"] = results[f"reader_vs_get3d_item_{headline}"]
    report("reader", options.quick, results)


if __name__ == "__main__":
    main()
