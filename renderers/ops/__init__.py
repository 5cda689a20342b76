"""The differentiable ops: ``rasterize``, ``interpolate``, ``antialias``."""
