"""g3d: generate textured 3D meshes by category.

Layers, each importing only what stands before it::

    errors, config, console, cluster      the ground
    manifests                             what a dataset is on disk
    renderers                             meshes + cameras -> views
    pipeline | trainer                    assets -> dataset | dataset -> model -> assets
    commands, cli                         the command line
"""

__version__ = "0.1.0"
