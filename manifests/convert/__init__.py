"""To and from layouts that other programs read: ``transforms.json`` and GET3D's folders."""

from __future__ import annotations

from .get3d import export_get3d, import_get3d
from .loose import Exported, LooseViews
from .transforms import export_transforms, import_transforms

__all__ = [
    "Exported",
    "LooseViews",
    "export_get3d",
    "export_transforms",
    "import_get3d",
    "import_transforms",
]
