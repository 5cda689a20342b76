"""Categories as data: names, aliases, scale and camera prior, read from ``categories.yaml``."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

from pydantic import Field

from ...config import Config, did_you_mean
from ...errors import ConfigError
from ..records import Get3dPrior


class Category(Config):
    """A kind of thing, and how it is scaled and looked at."""

    name: str
    """Canonical name, singular."""
    aliases: tuple[str, ...] = ()
    """Other words that mean this category."""
    extent: float = Field(gt=0, le=2)
    """Longest side of the normalised object."""
    camera: Get3dPrior = Get3dPrior()
    """Where the cameras of a dataset of this category are drawn from."""
    synset: str | None = None
    """WordNet offset under which ShapeNet files it."""


@lru_cache(maxsize=1)
def _read() -> dict[str, Category]:
    """The data file, by canonical name, in its order."""
    import yaml

    text = (resources.files(__package__) / "categories.yaml").read_text(encoding="utf-8")
    out: dict[str, Category] = {}
    for row in yaml.safe_load(text):
        camera = Get3dPrior(elevation_deg=tuple(row.pop("elevation_deg")))
        category = Category(camera=camera, **row)
        out[category.name] = category
    return out


def list_categories() -> tuple[Category, ...]:
    """All categories, in the order of the data file."""
    return tuple(_read().values())


def get_category(name: str) -> Category:
    """Find a category by name or alias; case, spaces around it and ``-`` for ``_`` do not matter.

    Raises:
        ConfigError: There is no such category; the message names the nearest and all of them.
    """
    categories = _read()
    words = {alias: c.name for c in categories.values() for alias in (c.name, *c.aliases)}
    word = name.strip().lower().replace("_", "-")
    if word not in words:
        raise ConfigError(
            f"unknown category {name!r}{did_you_mean(word, words)}",
            hint=f"one of: {', '.join(categories)} (default fits anything)",
        )
    return categories[words[word]]
