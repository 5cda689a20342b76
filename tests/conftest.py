"""Shared by the whole suite: fixed seeds, no colours, a home of its own for every test."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "g3d", deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("g3d")

# Workers and child processes inherit these. Tests compute on arrays so small that threads would
# only wait for one another, for seconds where the machine is busy; some tests ask for more.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(NO_COLOR="1", RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0")
os.environ.update(TERM="dumb", COLUMNS="100")


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Same random numbers in every test."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``$G3D_HOME`` is a folder of the test's own, so that nothing is left in the checkout."""
    place = tmp_path / "home"
    monkeypatch.setenv("G3D_HOME", str(place))
    monkeypatch.delenv("G3D_DEBUG", raising=False)
    return place


@pytest.fixture(autouse=True)
def quiet_console() -> Iterator[None]:
    """Every test starts and ends with the console as a library user has it."""
    from g3d import console

    console.reset()
    yield
    console.reset()
