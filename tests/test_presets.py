"""Presets of `g3d train`: inheritance, what the paper's say, each built and stepped when shrunk."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from g3d.config import diff, list_presets, load_preset
from g3d.errors import ConfigError
from g3d.pipeline.config import PrepareConfig
from g3d.pipeline.prepare import prepare
from g3d.renderers.base import RenderSettings
from g3d.trainer.config import PRESETS, preset_config
from g3d.trainer.loop import Session
from g3d.trainer.presets.table import preset_rows
from g3d.trainer.workers import Worker

ROOT = Path(__file__).resolve().parent.parent
NAMES = list_presets(PRESETS)
PAPER = ["animal", "car", "chair", "house", "human", "motorbike"]
SMALL = {
    "z_dim": 8, "w_dim": 8, "mapping_layers": 2, "hidden": 8, "resolution": 16,
    "channel_max": 8, "plane_channels": 4, "features": 8,
}  # fmt: skip
"""Sizes, by the last part of their key; every other value stays as the preset has it."""


def shrunk(config):
    """The same run with small networks, images and batch."""

    def cut(value, key=""):
        if isinstance(value, dict):
            return {name: cut(part, name) for name, part in value.items()}
        return min(value, SMALL[key]) if key in SMALL else value

    data = cut(config.model_dump())
    data["data"]["size"] = 16
    data["get3d"]["generator"]["surface"]["resolution"] = 6
    trunk = data["get3d"]["discriminator"]
    if "channels" in trunk:
        trunk["channels"] = [min(n, 8) for n in trunk["channels"][:3]]
    data["run"].update(batch=8, threads=1, device="cpu")
    return type(config).model_validate(data)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "procedural-chair"
    settings = RenderSettings(size=16, supersample=1)
    config = PrepareConfig(
        source="procedural", category="chair", limit=10, views=2, workers=0, render=settings
    )
    prepare(config, out)
    return out


def test_the_presets_that_the_docs_name_are_there():
    assert {"smoke", "cpu", "gpu-128", "gpu-256", "paper", *PAPER} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_is_built_and_stepped(name, dataset, tmp_path):
    config = shrunk(preset_config(name))
    session = Session(Worker(), config, dataset, tmp_path)
    before = {k: [p.clone() for p in net.parameters()] for k, net in session.nets.items()}
    terms = {**session.step(0, 10), **session.step(1, 10)}
    assert all(bool(torch.isfinite(value).all()) for value in terms.values())
    assert {"loss/d", "loss/g", "r1/rgb", "r1/mask"} <= terms.keys()
    for key, net in session.nets.items():
        moved = [not torch.equal(a, b) for a, b in zip(before[key], net.parameters(), strict=True)]
        assert np.mean(moved) > 0.9, key


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_holds_only_what_differs_from_its_base(name):
    text = (ROOT / "trainer" / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# ")
    base = yaml.safe_load(text).get("base")
    if base is not None:
        own = yaml.safe_load(text)
        own.pop("base")
        lines = diff(load_preset(PRESETS, base), load_preset(PRESETS, name))
        assert len(lines) == sum(1 for _ in leaves(own))


def leaves(data):
    for value in data.values():
        if isinstance(value, dict):
            yield from leaves(value)
        else:
            yield value


def test_the_paper_s_numbers():
    """``get3d.md`` sections 2 to 5: images, batch, optimiser, R1 of each category."""
    gammas = {"car": 40, "chair": 400, "motorbike": 80, "animal": 40, "house": 200, "human": 80}
    for name, gamma in gammas.items():
        config = preset_config(name)
        assert (config.data.size, config.run.batch, config.run.ema_kimg) == (1024, 32, 10)
        assert config.data.background == 0
        assert config.data.mask == "hard"
        assert config.get3d.render.matte == "hard"
        assert config.get3d.render.position_gradient == 0
        assert config.get3d.loss.adversarial == "non_saturating"
        assert (config.get3d.loss.r1_gamma, config.get3d.loss.r1_every) == (gamma, 16)
        assert config.get3d.loss.sdf_weight == 0.01
        assert (config.get3d.optim.lr, config.get3d.optim.betas) == (0.002, (0.0, 0.99))


def test_bases_are_laid_under_one_another(tmp_path, monkeypatch):
    files = {
        "a": "# a\nx: {p: 1, q: 2}\ny: 3\n",
        "b": "# b\nbase: a\nx: {q: 5}\n",
        "c": "# c\nbase: b\ny: null\n",
        "round": "# r\nbase: about\n",
        "about": "# r\nbase: round\n",
        "lost": "# l\nbase: nowhere\n",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    monkeypatch.setattr("g3d.config.resources.files", lambda package: tmp_path)
    assert load_preset("any", "a") == {"x": {"p": 1, "q": 2}, "y": 3}
    assert load_preset("any", "b") == {"x": {"p": 1, "q": 5}, "y": 3}
    assert load_preset("any", "c") == {"x": {"p": 1, "q": 5}, "y": None}
    with pytest.raises(ConfigError, match="laid over itself"):
        load_preset("any", "round")
    with pytest.raises(ConfigError, match="unknown preset 'nowhere'"):
        load_preset("any", "lost")


@pytest.mark.long
def test_the_page_of_presets_is_up_to_date():
    """Names, and rows of one preset of each size; the others differ in numbers alone."""
    page = (ROOT / "docs" / "presets.md").read_text(encoding="utf-8")
    for name in NAMES:
        assert sum(line.startswith(f"| `{name}` |") for line in page.splitlines()) == 3, name
    for name in ("smoke", "cpu", "gpu-128", "gpu-256", "paper"):
        for row in preset_rows(name):
            assert row in page, f"docs/presets.md is stale: make docs\n{row}"
    paper = [row.partition("` |")[2] for row in preset_rows("paper")]
    for name in PAPER:
        for row in paper:
            assert f"| `{name}` |{row}" in page
