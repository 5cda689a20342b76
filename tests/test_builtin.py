"""The runs that come with g3d: small, whole, and good for textured meshes without any training."""

from __future__ import annotations

from pathlib import Path

import pytest
from g3d.errors import CheckpointError
from g3d.trainer.builtin import FOLDER, find_run, names
from g3d.trainer.checkpoint import load_snapshot
from g3d.trainer.export.driver import ExportConfig
from g3d.trainer.trained import export_run


def test_there_are_chairs():
    assert "chair" in names()
    assert find_run(Path("builtin:chair")) == FOLDER / "chair"
    assert find_run(Path("runs/mine")) == Path("runs/mine")
    with pytest.raises(CheckpointError, match="did you mean 'chair'") as refused:
        find_run(Path("builtin:chairs"))
    assert "builtin:chair" in str(refused.value.hint)


@pytest.mark.parametrize("name", names())
def test_a_run_is_small_and_has_its_report(name):
    folder = FOLDER / name
    assert sum(path.stat().st_size for path in folder.iterdir()) < 10_000_000
    assert "finished" in (folder / "report.html").read_text(encoding="utf-8")
    snapshot = load_snapshot(folder)
    assert snapshot.nimg >= 40_000
    for path in folder.iterdir():  # nothing of the machine that it was made on
        data = path.read_bytes()
        assert not any(place in data for place in (b"/home/", b"/tmp/", b"/root/"))


def test_it_gives_textured_meshes(tmp_path):
    config = ExportConfig(n=2, texture_size=64)
    done = export_run(find_run(Path("builtin:chair")), config, tmp_path / "chairs")
    assert done.count("ok") == 2
