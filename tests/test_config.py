"""Configuration: layers, overrides, messages, dumps."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from g3d.config import (
    Config,
    canonical_json,
    diff,
    digest,
    dump,
    flatten,
    home,
    list_presets,
    load_preset,
    load_yaml,
    merge,
    parse_set,
    resolve,
    seed_for,
    validate,
)
from g3d.errors import ConfigError
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field


class Inner(Config):
    size: int = Field(64, gt=0)
    name: str = "a"


class Outer(Config):
    inner: Inner = Inner()
    rate: float = 0.1


VALUES = st.one_of(st.integers(), st.text(max_size=4), st.booleans())
KEYS = st.text("abc", min_size=1, max_size=2)
TREES = st.recursive(
    st.dictionaries(KEYS, VALUES, max_size=3),
    lambda inner: st.dictionaries(KEYS, st.one_of(VALUES, inner), max_size=3),
    max_leaves=8,
)


@given(TREES, TREES)
def test_merge_keeps_the_later_and_loses_nothing(a: dict, b: dict) -> None:
    before = canonical_json(a)
    out = merge(a, b)
    assert set(out) == {*a, *b}
    assert merge(out, b) == out
    assert canonical_json(a) == before


def test_precedence(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("inner: {size: 3, name: file}\nrate: 0.3\n")
    config = resolve(
        Outer,
        preset={"rate": 0.2, "inner": {"size": 2}},
        files=[file],
        flags={"inner": {"size": 4}},
        sets=["inner.size=5"],
    )
    assert config == Outer(inner=Inner(size=5, name="file"), rate=0.3)
    assert resolve(Outer, preset={"inner": {"size": 2}}).inner.size == 2


def test_set_takes_yaml_values() -> None:
    assert parse_set(["a.b=1", "a.c=[1, 2]", "d=x=y", "e="]) == {
        "a": {"b": 1, "c": [1, 2]},
        "d": "x=y",
        "e": None,
    }


@pytest.mark.parametrize("bad", ["a", "=1", "a=[1"])
def test_set_refuses_what_is_no_assignment(bad: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        parse_set([bad])


def test_messages_carry_the_path_and_the_nearest_key() -> None:
    with pytest.raises(ConfigError, match=r"inner\.sise: unknown key, did you mean 'size'\?"):
        validate(Outer, {"inner": {"sise": 1}})
    with pytest.raises(ConfigError, match=r"inner\.size: Input should be greater than 0"):
        validate(Outer, {"inner": {"size": 0}})


def test_a_config_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Outer().rate = 1


@given(st.integers(1, 10**6), st.text(max_size=8), st.floats(allow_nan=False))
def test_dump_reads_back(size: int, name: str, rate: float) -> None:
    config = Outer(inner=Inner(size=size, name=name), rate=rate)
    assert validate(Outer, yaml.safe_load(dump(config))) == config


def test_diff_names_every_change() -> None:
    old = Outer().model_dump()
    new = {**old, "rate": 0.5, "extra": 1}
    assert diff(old, new) == ["extra  (absent) -> 1", "rate  0.1 -> 0.5"]
    assert diff(old, old) == []


@given(TREES)
def test_flatten_loses_no_leaf(tree: dict) -> None:
    def leaves(node: dict) -> int:
        return sum(leaves(v) if isinstance(v, dict) else 1 for v in node.values())

    assert len(flatten(tree)) == leaves(tree)


def test_digest_is_of_the_content_and_stays() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})
    assert digest({"a": [1.5, "é"]}) == "6e67b8eb9b8a8672"


def test_seeds_are_the_same_on_every_machine() -> None:
    assert seed_for("chair-1", "camera", 3) == 612362904314221981
    assert seed_for("ab", "c") != seed_for("a", "bc")
    assert 0 <= seed_for() < 2**63


@pytest.mark.parametrize(
    ("text", "message"),
    [("- 1\n", "must hold a mapping"), ("a: [\n", "is not YAML"), (None, "cannot read config")],
)
def test_a_bad_file(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "c.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_yaml(file)


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'smoke'") as caught:
        load_preset("g3d.trainer.presets", "smokey")
    assert caught.value.hint is not None
    assert "cpu" in caught.value.hint


@pytest.mark.parametrize("package", ["g3d.trainer.presets", "g3d.pipeline.presets"])
def test_presets_hold_only_what_differs_from_the_defaults(package: str) -> None:
    from g3d.pipeline.config import PrepareConfig
    from g3d.trainer.config import TrainConfig

    model = TrainConfig if "trainer" in package else PrepareConfig
    names = list_presets(package)
    assert "trainer" not in package or {"smoke", "cpu"} <= set(names)
    required = {k: f for k, f in model.model_fields.items() if f.is_required()}
    filler = {"source": "procedural", "category": "chair"}
    base = {key: filler[key] for key in required}
    default = flatten(validate(model, base).model_dump(mode="json"))
    for name in names:
        preset = load_preset(package, name)
        config = validate(model, merge(base, preset))
        values = flatten(config.model_dump(mode="json"))
        # Of several kinds one is named, also the default's: it says which keys may follow, and
        # those of another kind have other defaults.
        kinds = [key for key in flatten(preset) if key.endswith(".kind")]
        other = tuple(key.removesuffix("kind") for key in kinds if values[key] != default[key])
        given = [key for key in flatten(preset) if key not in kinds and not key.startswith(other)]
        same = [key for key in given if key in values and values[key] == default.get(key)]
        assert not same, f"{name}: {same} repeat the default"
        assert validate(model, yaml.safe_load(dump(config))) == config


def test_home_is_the_environment_or_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("G3D_HOME", "/some/place")
    assert home() == Path("/some/place")
    monkeypatch.setenv("G3D_HOME", "")
    assert home() == Path()
