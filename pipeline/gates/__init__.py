"""Quality gates: what a mesh and its images must be for the asset to be accepted."""

from .mesh import MeshFacts
from .rules import (
    RULES,
    PoseFacts,
    Rule,
    check,
    check_magenta,
    check_mesh,
    is_worth_the_rest,
    objects_of,
)
from .settings import GateSettings
from .views import VISIBLE, Colours, ViewFacts, coverage, touches_border

__all__ = [
    "RULES",
    "VISIBLE",
    "Colours",
    "GateSettings",
    "MeshFacts",
    "PoseFacts",
    "Rule",
    "ViewFacts",
    "check",
    "check_magenta",
    "check_mesh",
    "coverage",
    "is_worth_the_rest",
    "objects_of",
    "touches_border",
]
