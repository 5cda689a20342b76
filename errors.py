"""Every error that a user of g3d meets: a message, the way out, and an exit code.

Library code raises these; only :func:`g3d.cli.main` catches them, prints two lines and exits.
"""

from __future__ import annotations

from functools import partial


class G3DError(Exception):
    """Base of all errors that are the user's to mend.

    Args:
        message: What was found, and what was expected.
        hint: The command or the change that mends it.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(G3DError):
    """A wrong option, preset or configuration value."""

    exit_code = 2


class DatasetError(G3DError):
    """A dataset that is missing, corrupt, empty or of another schema."""


class CheckpointError(G3DError):
    """A run, snapshot or checkpoint that cannot be loaded or continued."""


class DiskError(G3DError):
    """The disk is full, or a place cannot be written."""


class PartialFailure(G3DError):
    """The work is finished, with failures or findings that are listed on disk."""

    exit_code = 3


class MissingDependency(G3DError):
    """The environment lacks a package, a device or a tool."""

    exit_code = 4


class AssetError(Exception):
    """One asset cannot be used. Recorded in the dataset, never stops a run.

    Args:
        reason: One of the typed reasons of ``docs/dataset.md`` (``import``, ``empty_mesh``,
            ``missing_texture``, ``blank``, ``out_of_frame``, ...).
        message: What was found.
        stage: Where: ``fetch``, ``load``, ``gate``, ``render``, ``write``.
    """

    def __init__(self, reason: str, message: str, *, stage: str = "load") -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message
        self.stage = stage

    def __reduce__(self) -> tuple[object, ...]:
        # Exception would call the class with its positional arguments alone.
        return partial(type(self), stage=self.stage), self.args

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"
