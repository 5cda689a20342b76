"""Watching a run: the report, its curves and pictures; TensorBoard and stats over a resume."""

import json
import math
import re
import shutil
import time
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from g3d.errors import CheckpointError
from g3d.pipeline.config import PrepareConfig
from g3d.pipeline.prepare import prepare
from g3d.renderers.base import RenderSettings
from g3d.trainer.checkpoint import SNAPSHOT, numbered
from g3d.trainer.config import preset_config
from g3d.trainer.grids import real_grid
from g3d.trainer.loop import train
from g3d.trainer.sampler import SnapshotSampler
from g3d.trainer.stats import Stats
from g3d.trainer.watch.build import REPORT, RunReport, run_page, spread, write_report
from g3d.trainer.watch.curves import BINS, Axis, charts, thin
from g3d.trainer.watch.environment import commit, environment
from g3d.trainer.watch.facts import RunFacts, columns
from g3d.trainer.watch.turntable import FRAMES, SECONDS, save_turntable
from hypothesis import given
from hypothesis import strategies as st

VOID = {"meta", "img", "source", "link", "br", "path", "circle"}


class Page(HTMLParser):
    """Tags that are closed in order, links, pictures, text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.images, self.words = [], [], [], []
        self.feed(text)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.images += [named[k] for k in ("src", "srcset") if k in named]
        self.links += [named["href"]] if "href" in named else []
        assert tag not in {"script", "iframe", "object", "embed", "form", "base"}
        assert not [k for k in named if k.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_startendtag(self, tag, attrs):
        if tag not in VOID:
            assert tag in {"path", "circle", "source"}

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "procedural-chair"
    settings = RenderSettings(size=32, supersample=1)
    config = PrepareConfig(
        source="procedural", category="chair", limit=10, views=2, workers=0, render=settings
    )
    prepare(config, out)
    return out


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "00000-procedural-chair-smoke"
    train(preset_config("smoke", get3d={"optim": {"lr": 0.004}}), dataset, out)
    return out


@pytest.fixture
def run(finished, tmp_path):
    out = tmp_path / finished.name
    shutil.copytree(finished, out)
    return out


def read(run, **options):
    return write_report(run, **options).read_text(encoding="utf-8")


def test_a_run_leaves_a_report(finished):
    """Made by the training itself: state, figures, config, dataset, versions."""
    text = (finished / REPORT).read_text(encoding="utf-8")
    page = Page(text)
    words = " ".join(page.words)
    for part in ("finished", "0.16 kimg of 0.16 kimg", "Logits of RGB", "Gradient penalties"):
        assert part in words, part
    for part in ("procedural-chair", "get3d.optim.lr", "smoke", torch.__version__, np.__version__):
        assert part in words, part
    assert "1 of them also from the preset smoke" in words
    assert text.count('<tr class="own">') == 2  # in the short table and in the whole one
    assert "http" not in text.replace("http-equiv", "")
    for name in page.images:
        assert (finished / name).is_file(), name


def test_equal_files_give_equal_bytes_also_elsewhere(finished, run, tmp_path):
    first = run_page(RunFacts.of(run))
    assert first == run_page(RunFacts.of(run)) == run_page(RunFacts.of(finished))
    assert write_report(run).read_bytes() == first
    assert not [p for p in run.iterdir() if "tmp" in p.name]


def test_states(run):
    assert "finished" in read(run, running=True)
    for path in numbered(run, SNAPSHOT)[-1:]:
        path.unlink()
    stopped = read(run)
    assert 'class="tiles stopped"' in stopped
    assert 'http-equiv="refresh"' not in stopped
    running = read(run, running=True)
    assert 'class="tiles running"' in running
    assert 'http-equiv="refresh" content="60"' in running
    assert re.search(r"running, last line \d{4}-\d\d-\d\d \d\d:\d\d UTC", running)


def test_a_run_that_has_only_begun(run):
    for pattern in (
        "fakes-*",
        "reals.png",
        "turntable-*",
        "snapshot-*",
        "stats.jsonl",
        "environment.json",
        "tensorboard/*",
    ):
        for path in run.glob(pattern):
            path.unlink()
    page = Page(read(run))
    assert "No tick was written yet." in page.words
    assert "No image grid was made yet." in page.words
    assert not page.images
    (run / "config.yaml").write_text("{damaged")
    Page(read(run))


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="not a run"):
        write_report(tmp_path)


def test_events_and_values_that_are_not_finite(run):
    with (run / "events.jsonl").open("w") as file:
        event = {"nimg": 80, "kind": "roll-back", "message": "loss/g is NaN", "step": 10}
        file.write(json.dumps(event) + "\n" + json.dumps({"kind": "odd", "nimg": "x"}) + "\n{cut")
    lines = (run / "stats.jsonl").read_text().splitlines()
    broken = {**json.loads(lines[1]), "loss/g": math.inf, "loss/d": math.nan}
    lines[1] = json.dumps(broken)
    (run / "stats.jsonl").write_text("\n".join([*lines, '{"nimg": 1']))
    text = read(run)
    words = " ".join(Page(text).words)
    assert "roll-back" in words
    assert "loss/g is NaN, step 10" in words
    assert "1 values are not finite" in words
    assert "nan" not in re.sub(r"(?i)loss/g is nan", "", text).lower().replace("nance", "")
    assert text.count('class="mark"') >= 6


def test_other_people_s_text_is_harmless(run):
    evil = "<script>alert(1)</script>\u0000\"'&"
    record = json.loads((run / "run.json").read_text())
    record["identity"]["context"].update(name=evil, category=evil)
    (run / "run.json").write_text(json.dumps(record))
    (run / "events.jsonl").write_text(json.dumps({"nimg": 1, "kind": evil, "message": evil}))
    (run / "config.yaml").write_text(f"preset: {json.dumps(evil)}\nrun: {{x: {json.dumps(evil)}}}")
    (run / "stats.jsonl").write_text(json.dumps({"nimg": 1, f"{evil}/a": 2.0}))
    text = read(run)
    assert "<script" not in text
    assert "\x00" not in text
    Page(text)


def test_pictures_are_the_newest_and_some_earlier_ones(run):
    for path in run.glob("turntable-*"):  # beside it stands a grid, for those who want no motion
        path.unlink()
    for nimg in range(200, 400):
        shutil.copy(run / "fakes-000000160.png", run / f"fakes-{nimg:09d}.png")
    shutil.copy(run / "fakes-000000160.png", run / "reals.png")
    page = Page(read(run))
    grids = [name for name in page.images if name.startswith("fakes")]
    assert grids[0] == "fakes-000000399.png"
    assert grids[1] == "fakes-000000000.png"
    assert grids[-1] == "fakes-000000398.png"
    assert len(grids) == 9
    assert "reals.png" in page.images


@given(st.integers(0, 300), st.integers(2, 20))
def test_spread_keeps_the_ends_and_the_count(size, count):
    values = list(range(0, 3 * size, 3))
    picked = spread(values, count)
    assert len(picked) == min(size, count)
    assert picked == sorted(set(picked))
    assert set(picked) <= set(values)
    assert not size or {values[0], values[-1]} <= set(picked)


@given(st.lists(st.floats(-1e6, 1e6) | st.just(math.nan), max_size=900), st.integers(1, 300))
def test_thinning_keeps_mean_and_range(values, bins):
    y = np.array(values, np.float64)
    line = thin(np.arange(len(y), dtype=np.float64), y, bins)
    good = y[np.isfinite(y)]
    assert len(line.x) == min(bins, len(good))
    if len(good):
        assert line.low.min() == good.min()
        assert line.high.max() == good.max()
        room = 1e-6 * (1 + abs(good).max())
        assert (line.low - room <= line.mean).all()
        assert (line.mean <= line.high + room).all()
        assert (np.diff(line.x) > 0).all()


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e5), st.booleans())
def test_axes_have_round_ticks_within_them(low, size, log):
    low = abs(low) + 1e-3 if log else low
    high = low * (8 + size) if log else low + size
    axis = Axis(low, high, 0.0, 100.0, log)
    ticks = np.array(axis.ticks())
    assert 1 <= len(ticks) <= 9
    room = 1e-6 * size
    assert (ticks >= low - room).all()
    assert (ticks <= high + room).all()
    assert (np.diff(axis(ticks)) > 0).all()
    assert axis(np.array([low, high])).tolist() == pytest.approx([0, 100])


def test_scalars_that_are_not_known_are_drawn_too():
    lines = [{"nimg": 100 * n, "ada/p": 0.1 * n, "ada/sign": 0.6, "odd": 1.0} for n in range(5)]
    text = charts(columns(lines))
    for part in ("<figcaption>ada</figcaption>", "<figcaption>odd</figcaption>", "sign <b>0.6</b>"):
        assert part in text
    assert "kimg" in text
    assert not charts({"nimg": np.arange(3.0), "loss/d": np.full(3, np.nan)})


def test_a_long_run_is_read_and_thinned_quickly(run):
    """5,000 ticks: the brief's bar is 0.3 s; a machine that is busy gets more."""
    names = list(json.loads((run / "stats.jsonl").read_text().splitlines()[0]))
    rng = np.random.default_rng(0)
    with (run / "stats.jsonl").open("w") as file:
        for n in range(5000):
            values = dict(zip(names, np.exp(rng.normal(size=len(names))).tolist(), strict=True))
            file.write(json.dumps({**values, "nimg": 400 * n, "time": 1.8e9 + n}) + "\n")
    seconds = []
    for _ in range(3):
        start = time.monotonic()
        path = write_report(run, running=True)
        seconds.append(time.monotonic() - start)
    assert min(seconds) < 1.0
    assert path.stat().st_size < 400_000
    longest = max(re.findall(r'class="line c\d" d="M([^"]+)"', path.read_text()), key=len)
    assert len(longest.split()) == 2 * BINS


def test_the_turntable_turns_and_is_small(finished, tmp_path):
    from PIL import Image

    sampler = SnapshotSampler(finished)
    shutil.copytree(finished, tmp_path / "run")
    parts = (sampler._method, sampler._generator, sampler.snapshot.context)
    path = save_turntable(tmp_path / "run", *parts, 160)
    again = path.read_bytes()
    assert save_turntable(tmp_path / "run", *parts, 160).read_bytes() == again
    with Image.open(path) as image:
        assert (image.n_frames, image.size) == (FRAMES, (384, 192))
        frames = []
        for n in range(FRAMES):
            image.seek(n)
            image.load()
            frames.append(np.asarray(image.convert("RGB"), np.float32))
        assert image.info["duration"] == pytest.approx(1000 * SECONDS / FRAMES, abs=1)
    steps = [np.abs(a - b).mean() for a, b in pairwise(frames)]
    assert min(steps) > 0.1
    page = Page(read(tmp_path / "run"))
    assert path.name in page.images
    assert page.images.count("fakes-000000160.png") == 2  # also the still


def test_real_views_are_tiled():
    rgba = torch.zeros(40, 4, 24, 24, dtype=torch.uint8)
    rgba[:, 0], rgba[:, 3, 6:18, 6:18] = 200, 255
    sheet = real_grid(rgba)
    assert sheet.shape == (192, 768, 3)
    assert sheet[48, 48].tolist() == [200, 0, 0]
    assert sheet[1, 1].tolist() == [255, 255, 255]
    assert real_grid(rgba[:3]).shape == (96, 768, 3)


def test_the_report_never_stops_a_run(run, caplog, monkeypatch):
    report = RunReport(run, 0)
    (run / "run.json").unlink()
    report.update()
    report.close()
    assert caplog.text.count("the report was not written") == 2


def test_the_page_is_rewritten_seldom(run, monkeypatch):
    report = RunReport(run, 0)
    report.update()
    stamp = (run / REPORT).stat().st_mtime_ns
    for _ in range(20):
        report.update()
    assert (run / REPORT).stat().st_mtime_ns == stamp
    report.close()
    assert (run / REPORT).stat().st_mtime_ns > stamp


def test_sessions_are_noted(run):
    RunReport(run, 80)
    facts = RunFacts.of(run)
    assert [one["nimg"] for one in facts.sessions] == [0, 80]
    assert [(e.nimg, e.kind) for e in facts.events] == [(80, "went on")]
    found = environment()
    assert {"g3d", "torch", "numpy", "python", "device"} <= found.keys()
    assert commit() is None or re.match(r"[0-9a-f]{7,40}", commit())
    RunReport(run, 0)  # started again from nothing
    assert len(RunFacts.of(run).sessions) == 1


def events(folder):
    """Scalars and images as TensorBoard shows them: ``{tag: [steps]}``."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    reader = accumulator.EventAccumulator(
        str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0}
    )
    reader.Reload()
    tags = reader.Tags()
    found = {tag: [e.step for e in reader.Scalars(tag)] for tag in tags["scalars"]}
    return found | {tag: [e.step for e in reader.Images(tag)] for tag in tags["images"]}


def test_tensorboard_has_every_tick_once(finished):
    found = events(finished)
    ticks = [json.loads(line) for line in (finished / "stats.jsonl").read_text().splitlines()]
    steps = [tick["nimg"] for tick in ticks]
    assert steps == [40, 80, 120, 160]
    for tag in ("loss/d", "loss/g", "logits/real_rgb", "empty", "speed/images_per_second"):
        assert found[tag] == steps, tag
    assert found["memory/memory_mb"] == steps
    assert found["fakes"] == [0, 80, 160]


def test_a_killed_session_leaves_no_step_twice(tmp_path):
    """Ticks after the checkpoint that the next session goes on from are written again, once."""

    def session(first, last, close):
        stats = Stats(tmp_path, first)
        for nimg in range(first + 10, last + 10, 10):
            stats.add({"loss/d": torch.tensor(float(nimg + last))})
            stats.tick(nimg)
            if nimg % 20 == 0:
                stats.image("fakes", np.zeros((4, 4, 3), np.uint8), nimg)
        if close:
            stats.__exit__(None, None, None)

    session(0, 50, close=False)  # killed at 50, its last checkpoint at 30
    session(30, 70, close=False)
    session(70, 90, close=True)
    steps = [*range(10, 100, 10)]
    found = events(tmp_path)
    assert found["loss/d"] == found["speed/images_per_second"] == steps
    assert found["fakes"] == [20, 40, 60, 80]
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert [line["nimg"] for line in lines] == steps
    assert [line["loss/d"] for line in lines] == [60, 70, 80, 110, 120, 130, 140, 170, 180]
    assert all(b["train_seconds"] >= a["train_seconds"] for a, b in pairwise(lines))


def test_speed_is_that_of_the_tick(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("g3d.trainer.stats.time.monotonic", lambda: clock[0])
    with Stats(tmp_path, 0) as stats:
        rates = []
        for nimg, seconds in ((100, 10), (300, 10), (400, 20)):
            clock[0] += seconds
            rates.append(stats.tick(nimg)["images_per_second"])
        assert rates == [10, 20, 5]
        assert stats.seconds == 40
    assert Path(tmp_path / "stats.jsonl").exists()
