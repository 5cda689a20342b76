"""Categories: the figures of GET3D, aliases, and what an unknown name says."""

from __future__ import annotations

import re

import pytest
from g3d.errors import ConfigError
from g3d.manifests.categories import Category, get_category, list_categories

GET3D = {
    # name: (extent, elevation)
    "car": (0.9, (0.0, 30.0)),
    "chair": (0.7, (0.0, 30.0)),
    "motorbike": (0.9, (0.0, 30.0)),
    "animal": (0.7, (0.0, 45.0)),
    "house": (0.8, (0.0, 30.0)),
    "human": (0.9, (0.0, 20.0)),
}


@pytest.mark.parametrize("name", GET3D)
def test_figures_of_get3d(name: str) -> None:
    category = get_category(name)
    extent, elevation = GET3D[name]
    assert category.extent == extent
    assert category.camera.elevation_deg == elevation
    assert category.camera.azimuth_deg == (0.0, 360.0)
    assert category.camera.radius == (1.2, 1.2)
    assert category.camera.fov_y_deg == 49.134


def test_scale_and_views_of_get3d() -> None:
    found = {c.name: c.get3d for c in list_categories() if c.get3d}
    assert found.keys() == GET3D.keys()
    views = {"car": 24, "chair": 24, "motorbike": 100, "animal": 100, "house": 100, "human": 100}
    for name, figures in found.items():
        assert figures.views == views[name]
        assert figures.scale == get_category(name).extent
    assert {n for n in found if get_category(n).synset is None} == {"animal", "house", "human"}


def test_synsets_of_shapenet() -> None:
    found = {c.name: c.synset for c in list_categories() if c.synset}
    assert len(found) == len(set(found.values())) == 55
    assert found["airplane"] == "02691156"
    assert found["watercraft"] == "04530566"
    assert found["car"] == "02958343"
    assert found["chair"] == "03001627"
    assert found["motorbike"] == "03790512"
    assert all(len(s) == 8 and s.isdigit() for s in found.values())


@pytest.mark.parametrize("word", ["motorcycle", "Motorbikes", " motorbike ", "MOTORBIKE"])
def test_aliases_resolve_to_the_canonical_name(word: str) -> None:
    assert get_category(word).name == "motorbike"


@pytest.mark.parametrize("word", ["03790512", "n03790512", " 03790512 "])
def test_a_synset_is_a_name_too(word: str) -> None:
    assert get_category(word).name == "motorbike"


def test_words_may_be_joined_in_any_way() -> None:
    for word in ("trash can", "Trash_Can", "trash-can", "ashcan"):
        assert get_category(word).name == "trash-can"


def test_no_word_means_two_categories() -> None:
    words = [w for c in list_categories() for w in (c.name, *c.aliases, *filter(None, [c.synset]))]
    assert len(words) == len(set(words))
    # Names are parts of paths of data sets, and every word is what `get_category` makes of it.
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*|\d{8}", w) for w in words)
    for category in list_categories():
        for word in (category.name, *category.aliases):
            assert get_category(word) == category


def test_no_label_of_lvis_means_two_categories() -> None:
    labels = [label for c in list_categories() for label in c.lvis]
    assert len(labels) == len(set(labels))
    assert get_category("car").lvis[0] == "car_(automobile)"
    assert get_category("display").lvis[0] == "monitor_(computer_equipment) computer_monitor"


def test_default_is_there_for_anything_else() -> None:
    assert isinstance(get_category("default"), Category)


def test_unknown_category_names_the_nearest_and_lists_all() -> None:
    with pytest.raises(ConfigError) as caught:
        get_category("motorbyke")
    assert caught.value.exit_code == 2
    assert "'motorbike'" in caught.value.message
    for name in GET3D:
        assert name in (caught.value.hint or "")
    with pytest.raises(ConfigError, match="unknown category ''"):
        get_category("")


def test_objects_fit_into_the_frame_of_their_camera() -> None:
    import math

    for category in list_categories():
        camera = category.camera
        visible = 2 * camera.radius[0] * math.tan(math.radians(camera.fov_y_deg) / 2)
        assert category.extent < visible
