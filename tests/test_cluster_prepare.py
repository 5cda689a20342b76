"""``g3d prepare`` of a source behind a network: fetched ahead, and what becomes of failures."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from g3d.cluster import Failure, Outcome
from g3d.errors import AssetError, DiskError
from g3d.manifests.dataset import Dataset
from g3d.pipeline.config import PrepareConfig, build_renderer, build_source
from g3d.pipeline.prepare import prepare
from g3d.pipeline.work import _lost_record, _needs

CONFIG = {
    "source": "procedural",
    "category": "mug",
    "limit": 8,
    "views": 2,
    "render": {"size": 32, "supersample": 2},
    "workers": 0,
}


def config(**changes: Any) -> PrepareConfig:
    return PrepareConfig.model_validate({**CONFIG, **changes})


@dataclass(frozen=True)
class Remote:
    """Made shapes that have to be fetched first, some with trouble."""

    inner: Any
    cache: str
    trouble: dict[int, str]
    name: str = "procedural"
    remote: bool = True

    @property
    def default_camera(self) -> Any:
        return self.inner.default_camera

    def list(self) -> list:
        return self.inner.list()

    def file(self, asset) -> Path | None:
        position = [a.uid for a in self.inner.list()].index(asset.uid)
        place = Path(self.cache, asset.uid)
        if place.exists():
            return None
        reason = self.trouble.get(position)
        if reason == "disk":
            raise DiskError("the cache is full")
        if reason == "bug":
            raise KeyError("no such key")
        if reason is not None:
            raise AssetError(reason, "told so", stage="fetch")
        place.write_text(str(os.getpid()))
        return None

    def load(self, asset) -> Any:
        assert Path(self.cache, asset.uid).exists(), "it was not fetched"
        return self.inner.load(asset)


def source(folder: Path, trouble: dict[int, str] | None = None) -> Remote:
    folder.mkdir(exist_ok=True)
    return Remote(build_source(config()), str(folder), trouble or {})


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_failures_to_fetch_are_typed(tmp_path, workers):
    wrong = {0: "gated", 3: "download", 5: "checksum", 6: "bug"}
    report = prepare(
        config(workers=workers),
        tmp_path / "mugs",
        source=source(tmp_path / "cache", wrong),
    )
    assert (report.accepted, report.failed) == (4, 4)
    listed = [asset.uid for asset in build_source(config()).list()]
    records = {
        listed.index(record.uid): record for record in Dataset.open(tmp_path / "mugs").records()
    }
    found = {n: (r.stage, r.reason) for n, r in records.items() if r.status == "failed"}
    assert found == {n: ("fetch", "download" if why == "bug" else why) for n, why in wrong.items()}
    assert records[0].message == "told so"
    assert "KeyError" in records[6].message
    fetchers = {path.read_text() for path in (tmp_path / "cache").iterdir()}
    assert (str(os.getpid()) in fetchers) == (workers == 0)


def test_a_full_cache_stops_the_run_and_the_next_goes_on(tmp_path):
    out, cache = tmp_path / "mugs", tmp_path / "cache"
    with pytest.raises(DiskError, match="cache is full"):
        prepare(config(), out, source=source(cache, {6: "disk"}))
    assert prepare(config(), out, source=source(cache)).accepted == 8
    whole = tmp_path / "whole" / "mugs"
    prepare(config(), whole)
    for name in ("index.parquet", *(f"shards/{p.name}" for p in (whole / "shards").iterdir())):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_what_a_worker_asks_for():
    raster = build_renderer(config())
    assert _needs(config(), raster).gpus == 0
    assert _needs(config(), raster).avoid_gpu_nodes
    cuda = _needs(config(device="cuda", gpu_share=0.5), raster)
    assert (cuda.cpus, cuda.gpus, cuda.avoid_gpu_nodes) == (1.0, 0.5, False)


def test_the_log_of_a_lost_worker_is_in_the_record():
    asset = build_source(config()).list()[0]
    failure = Failure("crash", "SIGSEGV", log="the last words")
    record = _lost_record(Outcome(asset, None, failure, 2), failure, config())
    assert (record.status, record.stage, record.reason) == ("failed", "render", "render_crash")
    assert (record.log, record.attempts, record.message) == ("the last words", 2, "SIGSEGV")
    late = replace(failure, reason="timeout", stage="fetch", log=None)
    record = _lost_record(Outcome(asset, None, late, 1), late, config())
    assert (record.stage, record.reason, record.log) == ("fetch", "timeout", None)
