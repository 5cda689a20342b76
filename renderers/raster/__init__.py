"""The ``raster`` renderer: numba on the CPU, and its torch twin for CUDA (:mod:`.torch_renderer`).

``renderer`` packs a mesh into arrays and draws view by view; ``visibility`` finds what a sample
sees, ``sampling`` reads textures, ``shading`` lights them, ``resolve`` averages samples into
pixels, ``mipmaps`` makes texture chains. The ``torch_*`` modules do it for many views.
"""

from .renderer import RasterRenderer, RasterScene, thread_count

__all__ = ["RasterRenderer", "RasterScene", "thread_count"]
