"""Errors cross processes: workers send them to the driver."""

from __future__ import annotations

import copy
import pickle  # noqa: TID251

import pytest
from g3d.errors import AssetError, G3DError

AFTER = {"copied": copy.copy, "pickled": lambda error: pickle.loads(pickle.dumps(error))}


@pytest.mark.parametrize("way", AFTER)
def test_an_asset_error_keeps_its_stage(way: str) -> None:
    for error in (AssetError("blank", "nothing to see", stage="gate"), AssetError("gone", "x")):
        other = AFTER[way](error)
        assert type(other) is AssetError
        assert vars(other) == vars(error)
        assert (str(other), other.args) == (str(error), error.args)


@pytest.mark.parametrize("way", AFTER)
@pytest.mark.parametrize("kind", [G3DError, *G3DError.__subclasses__()])
def test_every_error_of_a_user_keeps_its_hint(kind: type[G3DError], way: str) -> None:
    other = AFTER[way](kind("what was found", hint="what mends it"))
    assert type(other) is kind
    assert (other.message, other.hint) == ("what was found", "what mends it")
    assert str(other) == "what was found"
