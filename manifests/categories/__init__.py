"""Categories as data: names, aliases, labels of collections, scale and camera prior.

All of it is read from ``categories.yaml``.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib import resources

from pydantic import Field

from ...config import Config, did_you_mean
from ...errors import ConfigError
from ..records import Get3dPrior

_SYNSET = re.compile(r"n?(\d{8})")


class Get3dFigures(Config):
    """What GET3D used for a category (its paper and its rendering script)."""

    scale: float = Field(gt=0, le=2)
    """Longest side of the object."""
    views: int = Field(ge=1)
    """Images of every shape."""


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
    """Offset of the WordNet 3.0 noun under which ShapeNet files it, 8 digits."""
    lvis: tuple[str, ...] = ()
    """Labels of LVIS, as Objaverse has them, that mean this category."""
    abo: tuple[str, ...] = ()
    """Product types of Amazon Berkeley Objects that mean this category."""
    get3d: Get3dFigures | None = None
    """GET3D's own figures, for the categories that it was trained on."""


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


@lru_cache(maxsize=1)
def _words() -> dict[str, str]:
    """Canonical name of everything that a category may be called."""
    return {
        word: c.name
        for c in list_categories()
        for word in (c.name, *c.aliases, *((c.synset,) if c.synset else ()))
    }


def list_categories() -> tuple[Category, ...]:
    """All categories, in the order of the data file."""
    return tuple(_read().values())


def get_category(name: str) -> Category:
    """Find a category by its name, an alias or its synset (``03790512`` or ``n03790512``).

    Upper or lower case, spaces around it, and ``_`` or a space in the place of ``-`` do not matter.

    Raises:
        ConfigError: There is no such category; the message names the nearest and all of them.
    """
    categories, words = _read(), _words()
    word = re.sub(r"[\s_]+", "-", name.strip().lower())
    synset = _SYNSET.fullmatch(word)
    if synset:
        word = synset[1]
    if word not in words:
        raise ConfigError(
            f"unknown category {name!r}{did_you_mean(word, words)}",
            hint=f"one of: {', '.join(categories)} (default fits anything)",
        )
    return categories[words[word]]
