"""Contact sheets: pictures of views, side by side and labelled. Arrays in, one picture out."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .base import Views
from .cameras import Camera

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

MARGIN, GAP, GUTTER, LINE = 20, 6, 78, 17
INK, PALE, PAPER, PLAIN = (34, 34, 38), (122, 122, 130), (255, 255, 255), (246, 246, 248)
DARK, WARNING = (38, 38, 44), (176, 64, 48)
ROWS = 8
"""Views below one another; more go into another block beside them."""


@dataclass(frozen=True)
class Tile:
    """One picture of a grid.

    Attributes:
        image: uint8 ``[H, W, 3]``, or None where there is none.
        caption: One line below it.
        note: Written in the place of a picture that is not there.
    """

    image: np.ndarray | None
    caption: str = ""
    note: str = ""


def over_checker(rgba: np.ndarray, cell: int = 8) -> np.ndarray:
    """Images with straight alpha on a pale checkerboard: uint8 ``[..., H, W, 3]``."""
    height, width = rgba.shape[-3:-1]
    odd = (np.arange(height)[:, None] // cell + np.arange(width) // cell) % 2
    return _blend(rgba[..., :3], rgba[..., 3], (252 - 15 * odd)[..., None])


def over_plain(rgba: np.ndarray, color: tuple[int, int, int] = PAPER) -> np.ndarray:
    """Images with straight alpha on one colour: uint8 ``[..., H, W, 3]``."""
    return _blend(rgba[..., :3], rgba[..., 3], np.asarray(color))


def mask_picture(rgba: np.ndarray) -> np.ndarray:
    """Alpha from dark to white: uint8 ``[..., H, W, 3]``."""
    return _blend(np.full(3, 255), rgba[..., 3], np.asarray(DARK))


def normal_picture(normal: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """World normals as colours, x, y, z from -1..1 to red, green, blue: uint8 ``[..., 3]``."""
    return _blend(127.5 * (normal + 1.0), alpha, np.asarray(PLAIN))


def depth_picture(depth: np.ndarray, alpha: np.ndarray, near: float, far: float) -> np.ndarray:
    """Depth by viridis, near bright and far dark: uint8 ``[..., H, W, 3]``."""
    share = (far - depth) / max(far - near, 1e-9)
    return _blend(_viridis(share), np.where(depth > 0, alpha, 0), np.asarray(PLAIN))


def _viridis(share: np.ndarray) -> np.ndarray:
    from matplotlib import colormaps

    return 255.0 * colormaps["viridis"](np.clip(share, 0.0, 1.0))[..., :3]


def _blend(front: np.ndarray, alpha: np.ndarray, back: np.ndarray) -> np.ndarray:
    weight = alpha[..., None].astype(np.float32) / 255.0
    return np.rint(front * weight + back * (1.0 - weight)).astype(np.uint8)


def depth_range(depth: np.ndarray) -> tuple[float, float]:
    """Least and greatest depth of what is covered; 0 and 1 where nothing is."""
    seen = depth[depth > 0]
    return (float(seen.min()), float(seen.max())) if seen.size else (0.0, 1.0)


def views_sheet(views: Views, cameras: Camera, title: str, facts: Sequence[str]) -> np.ndarray:
    """A row a view, the columns RGB, mask, depth and normal: uint8 ``[H, W, 3]``.

    Args:
        views: ``[N]``.
        cameras: ``[N]``, for the labels.
        title: First line.
        facts: Lines below it.
    """
    alpha = views.rgba[..., 3]
    near, far = depth_range(views.depth)
    columns = {
        "rgb": over_checker(views.rgba),
        "mask": mask_picture(views.rgba),
        "depth": depth_picture(views.depth, alpha, near, far),
        "normal": normal_picture(views.normal, alpha),
    }
    count, height, width = alpha.shape
    blocks = -(-count // ROWS)
    rows = -(-count // blocks)
    block_width = GUTTER + len(columns) * (width + GAP)
    size = (blocks * (block_width + MARGIN) - MARGIN - GAP, LINE + 8 + rows * (height + GAP))
    sheet = _Sheet(size, title, facts)
    for block in range(blocks):
        left = block * (block_width + MARGIN)
        for place, name in enumerate(columns):
            at = (left + GUTTER + place * (width + GAP), 0)
            sheet.write(at, name, 12, INK, width)
            if name == "depth":
                sheet.colour_bar(at, width, near, far)
    for n in range(count):
        left, top = n // rows * (block_width + MARGIN), LINE + 8 + n % rows * (height + GAP)
        for line, text in enumerate(_camera_lines(n, cameras[n])):
            if (line + 1) * LINE <= height:
                sheet.write((left, top + line * LINE), text, 11, PALE if line else INK, GUTTER - 6)
        for place, pictures in enumerate(columns.values()):
            sheet.paste(pictures[n], (left + GUTTER + place * (width + GAP), top))
    return sheet.pixels()


def _camera_lines(number: int, camera: Camera) -> list[str]:
    azimuth, elevation, fov = (
        float(np.rad2deg(a)) for a in (camera.azimuth, camera.elevation, camera.fov_y)
    )
    return [
        f"view {number}",
        f"az {azimuth:.0f}°",
        f"el {elevation:.0f}°".replace("-", "−"),
        f"r {float(camera.radius):.2f}",
        f"fov {fov:.0f}°",
    ]


def grid_sheet(
    tiles: Sequence[Tile], title: str, facts: Sequence[str], columns: int | None = None
) -> np.ndarray:
    """Tiles in rows, each with its caption: uint8 ``[H, W, 3]``.

    Args:
        tiles: At least one; pictures of one size.
        title: First line.
        facts: Lines below it.
        columns: Tiles in a row; None for a sheet about as wide as high.
    """
    shapes = {tile.image.shape[:2] for tile in tiles if tile.image is not None}
    height, width = max(shapes, default=(64, 256))
    columns = columns or max(1, round((len(tiles) * (height + LINE + GAP) / width * 1.25) ** 0.5))
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    step_x, step_y = width + 2 * GAP, height + LINE + 2 * GAP
    sheet = _Sheet((columns * step_x - 2 * GAP, rows * step_y - 2 * GAP), title, facts)
    for n, tile in enumerate(tiles):
        at = (n % columns * step_x, n // columns * step_y)
        if tile.image is None:
            sheet.paste(np.full((height, width, 3), PLAIN, np.uint8), at)
            for line, text in enumerate(textwrap.wrap(tile.note, max(8, (width - 20) // 7))):
                if (line + 1) * LINE + 10 < height:
                    sheet.write((at[0] + 10, at[1] + 10 + line * LINE), text, 11, WARNING, width)
        else:
            sheet.paste(tile.image, at)
        sheet.write((at[0] + 1, at[1] + height + 2), tile.caption, 11, PALE, width - 2)
    return sheet.pixels()


def _font(size: int) -> FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: pillow's own font lacks ``×`` and most letters."""
    import matplotlib
    from PIL import ImageFont

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size)


class _Sheet:
    """White paper with a head; places count from below the head, inside the margins."""

    def __init__(self, size: tuple[int, int], title: str, facts: Sequence[str]) -> None:
        from PIL import Image, ImageDraw

        self.top = MARGIN + 30 + len(facts) * (LINE + 1) + 10
        whole = (max(size[0], 600) + 2 * MARGIN, size[1] + self.top + MARGIN)
        self.image = Image.new("RGB", whole, PAPER)
        self.draw: ImageDraw.ImageDraw = ImageDraw.Draw(self.image)
        self.fonts: dict[int, FreeTypeFont] = {}
        width = whole[0] - 2 * MARGIN
        self.write((0, MARGIN - self.top), title, 18, INK, width)
        for line, text in enumerate(facts):
            self.write((0, MARGIN - self.top + 30 + line * (LINE + 1)), text, 12, PALE, width)

    def write(
        self, at: tuple[int, int], text: str, size: int, ink: tuple[int, int, int], width: int
    ) -> None:
        """One line of text, its end cut off where it is wider than ``width``."""
        font = self.fonts.setdefault(size, _font(size))
        if self.draw.textlength(text, font=font) > width:
            while text and self.draw.textlength(text + "…", font=font) > width:
                text = text[:-1]
            text += "…"
        self.draw.text((at[0] + MARGIN, at[1] + self.top), text, fill=ink, font=font)

    def paste(self, picture: np.ndarray, at: tuple[int, int]) -> None:
        """Put uint8 ``[H, W, 3]`` at a place."""
        from PIL import Image

        place = (at[0] + MARGIN, at[1] + self.top)
        self.image.paste(Image.fromarray(np.ascontiguousarray(picture)), place)

    def colour_bar(self, at: tuple[int, int], width: int, near: float, far: float) -> None:
        """The scale of depth at the right end of a column's head, as far as there is room."""
        texts = (f"{near:.2f}", f"{far:.2f}")
        room = width - 52 - 2 * 34
        if room < 16:
            self.write((at[0] + 46, at[1]), f"{texts[0]}–{texts[1]}", 12, PALE, width - 46)
            return
        bar = np.repeat(_viridis(np.linspace(1.0, 0.0, room))[None], 9, axis=0)
        self.write((at[0] + 52, at[1]), texts[0], 11, PALE, 34)
        self.paste(np.rint(bar).astype(np.uint8), (at[0] + 52 + 32, at[1] + 4))
        self.write((at[0] + 52 + 32 + room + 5, at[1]), texts[1], 11, PALE, 34)

    def pixels(self) -> np.ndarray:
        """uint8 ``[H, W, 3]``."""
        return np.asarray(self.image)


def shrink(picture: np.ndarray, longest: int) -> np.ndarray:
    """uint8 ``[H, W, 3]`` made smaller until neither side is above ``longest`` (pixels)."""
    from PIL import Image

    height, width = picture.shape[:2]
    if max(height, width) <= longest:
        return picture
    scale = longest / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def encode_png(picture: np.ndarray) -> bytes:
    """PNG of uint8 ``[H, W, 3]``."""
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(picture).save(data, "PNG", optimize=True)
    return data.getvalue()
