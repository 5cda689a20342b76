"""The settings of the Blender renderer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ...config import Config


class BlenderSettings(Config):
    """How Blender is run, and what its images look like."""

    look: Literal["get3d", "lit", "flat"] = "lit"
    """`get3d`: as GET3D's script; `lit`: the same light, cheaper; `flat`: albedo as it is."""
    samples: int | None = Field(None, ge=1, le=4096)
    """Samples a pixel; unset: the look's."""
    python: str | None = None
    """Interpreter that has bpy; unset: $G3D_BLENDER_PYTHON, this one, or third_party/blender."""
    deadline_s: float = Field(120.0, gt=0)
    """Blender is killed if an import, or one view, takes longer; the asset ends as `timeout`."""
    memory_gb: float = Field(8.0, gt=0)
    """Memory that an asset may take; beyond it the asset ends as `memory`."""
    threads: int = Field(1, ge=1)
    """Threads of one Blender; the workers are the parallelism."""
    passes: Literal["auto", "memory", "exr"] = "auto"
    """How pixels come out of Blender; `auto`: through memory where its self-test passes."""
    recycle_after: int = Field(500, ge=1)
    """Assets after which Blender is replaced, against memory that creeps up."""
