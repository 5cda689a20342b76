"""What a dataset records: typed rows, each written as JSON or Parquet."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Len
from pydantic import Field

from ..config import Config

Range = Annotated[tuple[float, float], Len(2, 2)]


class CameraPrior(Config):
    """The distribution that the cameras of a dataset are drawn from; uniform in every angle."""

    azimuth_deg: Range = (0.0, 360.0)
    elevation_deg: Range = (0.0, 30.0)
    radius: Range = (1.2, 1.2)
    """Distance from the origin, in units of the normalised object."""
    fov_y_deg: float = Field(49.134, gt=0, lt=180)
    """Vertical, full angle. GET3D's 35 mm lens on a 32 mm sensor is 49.134."""
