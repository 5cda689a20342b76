"""Frames to animations: GIF, WebP and animated PNG by pillow, MP4 by ffmpeg or PyAV.

All through imageio.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ..errors import ConfigError, MissingDependency


def check_suffix(suffix: str) -> None:
    """Find out, before frames are rendered, whether this kind of file can be written here.

    Raises:
        ConfigError: No such kind of animation is known.
        MissingDependency: MP4, and there is no encoder.
    """
    if suffix not in WRITERS:
        raise ConfigError(
            f"{suffix or 'a name without an ending'} is not an animation",
            hint=f"one of: {', '.join(WRITERS)}",
        )
    if suffix == ".mp4" and not _video_plugin():
        raise MissingDependency(
            "MP4 needs an encoder that is not installed",
            hint="pip install imageio-ffmpeg; or give a name that ends in .webp or .gif",
        )


def encode_animation(frames: np.ndarray, suffix: str, seconds: float) -> bytes:
    """One loop of ``frames`` as the bytes of a file.

    Args:
        frames: uint8 ``[N, H, W, 3]``.
        suffix: One of :data:`WRITERS`.
        seconds: Length of the loop.

    Raises:
        ConfigError: No such kind of animation is known.
        MissingDependency: MP4, and there is no encoder.
    """
    check_suffix(suffix)
    return WRITERS[suffix](frames, seconds)


def _gif(frames: np.ndarray, seconds: float) -> bytes:
    import imageio.v3 as iio

    # The format counts in hundredths of a second, and viewers slow down what is below two.
    pause = 10 * max(2, round(100 * seconds / len(frames)))
    return iio.imwrite(
        "<bytes>", frames, extension=".gif", plugin="pillow", duration=pause, loop=0, disposal=1
    )


def _webp(frames: np.ndarray, seconds: float) -> bytes:
    import imageio.v3 as iio

    pause = max(1, round(1000 * seconds / len(frames)))
    return iio.imwrite(
        "<bytes>", frames, extension=".webp", plugin="pillow", duration=pause, loop=0, quality=88
    )


def _apng(frames: np.ndarray, seconds: float) -> bytes:
    import imageio.v3 as iio

    pause = max(1, round(1000 * seconds / len(frames)))
    return iio.imwrite(
        "<bytes>", frames, extension=".apng", plugin="pillow", duration=pause, loop=0
    )


def _mp4(frames: np.ndarray, seconds: float) -> bytes:
    import imageio.v3 as iio

    # The usual layout of colours halves both sides.
    odd = [(0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)]
    frames = np.pad(frames, odd, mode="edge")
    rate = len(frames) / seconds
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "loop.mp4"
        if _video_plugin() == "pyav":
            iio.imwrite(path, frames, plugin="pyav", codec="libx264", fps=round(rate) or 1)
        else:
            iio.imwrite(
                path, frames, plugin="FFMPEG", fps=rate, codec="libx264", quality=8,
                macro_block_size=2,
            )  # fmt: skip
        return path.read_bytes()


def _video_plugin() -> str | None:
    """Imageio's name of the encoder that is installed."""
    if find_spec("imageio_ffmpeg"):
        return "FFMPEG"
    return "pyav" if find_spec("av") else None


WRITERS: dict[str, Callable[[np.ndarray, float], bytes]] = {
    ".gif": _gif,
    ".webp": _webp,
    ".apng": _apng,
    ".mp4": _mp4,
}
"""How each kind of file is written, by the ending of its name."""
