"""The one exception by which code inside Blender refuses an asset."""

from __future__ import annotations


class Refused(Exception):
    """An asset cannot be used; becomes an ``AssetError`` on the other side.

    Args:
        reason: ``import``, ``empty_mesh``, ``missing_texture``, ``memory`` or ``render_crash``.
        message: What was found.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
