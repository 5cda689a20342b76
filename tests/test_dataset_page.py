"""The report of a dataset: what it says, that it needs nothing else, that it stays small."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from g3d.commands.describe import as_text, describe
from g3d.errors import DatasetError
from g3d.manifests.dataset import REPORT, Dataset
from g3d.manifests.index import read_columns
from g3d.pipeline.config import PrepareConfig
from g3d.pipeline.page.build import dataset_page
from g3d.pipeline.page.charts import directions, escape, histogram
from g3d.pipeline.page.facts import by_reason, evenly
from g3d.pipeline.page.pictures import GREY, SIDE
from g3d.pipeline.prepare import prepare
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

HOSTILE = (
    "<script>alert('x')</script><img src=https://evil.example/x.png onerror=alert(1)> & \" \x00"
)
VOID = {"meta", "img"}

Edit = Callable[[list[dict[str, Any]]], None]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten chairs, three views of each."""
    out = tmp_path_factory.mktemp("data") / "chairs"
    values = {"limit": 10, "views": 3, "render": {"size": 48}, "workers": 0}
    prepare(PrepareConfig(source="procedural", category="chair", **values), out)
    return out


@pytest.fixture
def edited(made: Path, tmp_path: Path) -> Callable[[Edit], Path]:
    """A copy of the dataset, its records changed by a function."""

    def make(edit: Edit) -> Path:
        out = tmp_path / "chairs"
        shutil.copytree(made, out)
        lines = (out / "assets.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        edit(records)
        (out / "assets.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        return out

    return make


def ended(
    record: dict[str, Any], uid: str, stage: str, reason: str, **more: object
) -> dict[str, Any]:
    """A record of an asset that a gate stopped, or that failed."""
    status = "rejected" if stage == "gate" else "failed"
    empty = {"shard": None, "offset": None, "length": None, "views": 0, "triangles": None}
    return {
        **record,
        **empty,
        "uid": uid,
        "status": status,
        "stage": stage,
        "reason": reason,
    } | more


class Page(HTMLParser):
    """A page taken apart; every element must be closed in its place."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.text = data.decode("utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(self.text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.words.append(data)

    def pictures(self, section: str) -> list[Image.Image]:
        """The images of a section, decoded."""
        part = self.text.split(f'<section id="{section}">')[1].split("</section>")[0]
        found = re.findall(r'<img src="data:image/webp;base64,([^"]+)"', part)
        return [Image.open(io.BytesIO(base64.b64decode(one))) for one in found]

    def section(self, name: str) -> str:
        """The source of a section."""
        return self.text.split(f'<section id="{name}">')[1].split("</section>")[0]

    def assert_alone(self) -> None:
        """No script, no handler, and nothing loaded from elsewhere."""
        for tag, attrs in self.tags:
            assert tag not in {"script", "iframe", "object", "embed", "link", "base", "form"}
            assert not [name for name in attrs if name.startswith("on")]
            if "src" in attrs:
                assert str(attrs["src"]).startswith("data:image/webp;base64,")
            if "href" in attrs:
                assert str(attrs["href"]).startswith(("#", "https://", "http://"))
        assert "url(" not in self.text
        assert "@import" not in self.text


def test_it_says_what_the_dataset_is(made: Path) -> None:
    data = Dataset.open(made)
    page = Page(dataset_page(data))
    page.assert_alone()
    said = " ".join(page.words)
    for fact in (data.info.name, "procedural", "chair", data.info.params_hash, "raster", "48 × 48"):
        assert fact in said
    assert data.info.command in said
    assert "10 of 10" in said
    assert "Every asset was accepted." in said
    heads = "Camera directions|Azimuth|Elevation|Radius|Coverage|Triangles|Pose IoU"
    for head in heads.split("|"):
        assert re.search(f"<figcaption>{head}", page.text), head
    assert len(page.pictures("accepted")) == 10


def test_equal_datasets_give_equal_bytes(edited: Callable[[Edit], Path], made: Path) -> None:
    def slower(records: list[dict[str, Any]]) -> None:
        for record in records:
            record["seconds"] = 99.0

    first = dataset_page(Dataset.open(made))
    assert first == dataset_page(Dataset.open(made))
    assert first == dataset_page(Dataset.open(edited(slower)))


def test_a_dataset_behind_a_url_gives_the_same_page(made: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(made), "/page-test/chairs", recursive=True)
    try:
        there = Dataset.open("memory://page-test/chairs")
        assert dataset_page(there) == dataset_page(Dataset.open(made))
    finally:
        memory.rm("/page-test", recursive=True)


def test_pictures_are_the_assets_on_grey(made: Path) -> None:
    data = Dataset.open(made)
    pictures = Page(dataset_page(data, samples=4)).pictures("accepted")
    assert len(pictures) == 4
    uids = sorted(record.uid for record in data.assets())
    for picture, uid in zip(pictures, (uids[0], uids[3], uids[6], uids[9]), strict=True):
        shown = np.asarray(picture.convert("RGB"), np.float64)
        assert shown.shape == (48, 48, 3)
        views = data.views()
        candidates = data.read_views(views.take(views.uid == uid)).astype(np.float64)
        alpha = candidates[..., 3:] / 255
        flat = candidates[..., :3] * alpha + np.array(GREY) * (1 - alpha)
        # WebP is lossy, and keeps colours at half the resolution.
        assert np.abs(flat - shown).mean((1, 2, 3)).min() < 6
    assert SIDE == 128


def test_other_peoples_text_is_text(edited: Callable[[Edit], Path]) -> None:
    def edit(records: list[dict[str, Any]]) -> None:
        urls = ("javascript:alert(1)", "https://x.example/?a=1&b=<i>")
        for record, url in zip(records, urls, strict=False):
            record |= {"title": HOSTILE, "author": HOSTILE, "license": HOSTILE, "url": url}
            record["source_id"] = HOSTILE + '" onmouseover="alert(1)'
        records[2]["duplicate_of"] = records[0]["uid"]
        records[3]["duplicate_of"] = HOSTILE
        texts = {"message": HOSTILE, "log": HOSTILE, "title": HOSTILE}
        records += [
            ended(records[0], "a", "load", HOSTILE, **texts),
            ended(records[0], "<b>b</b>", "gate", "coverage", **texts),
        ]

    page = Page(dataset_page(Dataset.open(edited(edit))))
    page.assert_alone()
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a" and "rel" in attrs]
    assert set(links) == {"https://x.example/?a=1&b=<i>"}
    assert not {"b"} & {attrs.get("class") for _, attrs in page.tags}
    assert "<script" not in page.text
    assert "<i>" not in page.section("accepted")
    assert "".join(page.words).count("<script>alert('x')</script>") >= 6
    assert "\x00" not in page.text
    policy = next(a["content"] for t, a in page.tags if "http-equiv" in a)
    assert policy is not None
    assert "default-src 'none'" in policy


@given(st.text())
def test_escaped_text_reads_as_it_was(text: str) -> None:
    made = escape(text)
    made.encode()
    assert not set("<>\"'") & set(made)
    if text.isprintable():
        seen = Page(f"<p>{made}</p>".encode())
        assert "".join(seen.words) == text


def test_reasons_messages_and_logs(edited: Callable[[Edit], Path]) -> None:
    def edit(records: list[dict[str, Any]]) -> None:
        base = records[0]
        records += [
            ended(base, f"gate-{n}", "gate", "coverage", message="1% is below 2%") for n in range(3)
        ]
        records += [
            ended(base, "big", "render", "memory", log="x" * 9000 + "\nKilled", attempts=2),
            ended(base, "gone", "fetch", "gone", message="404"),
        ]
        records[1]["missing_textures"] = 7

    page = Page(dataset_page(Dataset.open(edited(edit))))
    outcome = page.section("outcome")
    rows = re.findall(r"<tr><td>(\S+) <small>(\w+)</small></td><td>(\d+)</td>", outcome)
    assert rows == [
        ("gate/coverage", "rejected", "3"),
        ("fetch/gone", "failed", "1"),
        ("render/memory", "failed", "1"),
    ]
    bars = [float(width) for width in re.findall(r'style="width:([\d.]+)%"', outcome)]
    assert bars == [100.0, 33.3, 33.3]
    assert page.section("rejected").count("1% is below 2%") == 3
    failed = page.section("failed")
    log = re.findall(r"<pre>(.*?)</pre>", failed, re.DOTALL)
    assert len(log) == 1
    assert log[0].startswith("… x")
    assert log[0].endswith("Killed")
    assert "404" in failed
    assert "7 in 1 assets" in page.text


def test_licences_are_those_of_accepted_assets(edited: Callable[[Edit], Path]) -> None:
    def edit(records: list[dict[str, Any]]) -> None:
        for n, record in enumerate(records):
            record["license"] = "CC0-1.0" if n < 7 else "CC-BY-4.0"
            record["author"] = ("", "ann", "bob")[n % 3]
        records.append(ended(records[0], "x", "gate", "coverage", license="CC-BY-NC-4.0"))

    found = Page(dataset_page(Dataset.open(edited(edit)))).section("licences")
    rows = re.findall(r"<tr><td>([^<]+)</td><td>(\d+)</td><td>([\d.]+)%</td><td>(\d+)</td>", found)
    assert rows == [("CC0-1.0", "7", "70.0", "2"), ("CC-BY-4.0", "3", "30.0", "2")]


def test_rejected_assets_have_their_thumbnails(edited: Callable[[Edit], Path]) -> None:
    def edit(records: list[dict[str, Any]]) -> None:
        records += [ended(records[0], uid, "gate", "blank") for uid in ("red", "none", "broken")]

    out = edited(edit)
    (out / "rejected").mkdir()
    Image.new("RGBA", (300, 200), (255, 0, 0, 255)).save(out / "rejected" / "red.png")
    (out / "rejected" / "broken.png").write_bytes(b"\x89PNG nonsense")
    page = Page(dataset_page(Dataset.open(out)))
    (picture,) = page.pictures("rejected")
    assert max(picture.size) == SIDE
    assert picture.convert("RGB").getpixel((5, 5))[0] > 240
    assert page.section("rejected").count("no picture") == 2
    blue = io.BytesIO()
    Image.new("RGB", (8, 8), (0, 0, 255)).save(blue, "PNG")
    given_one = Page(dataset_page(Dataset.open(out), {"none": blue.getvalue()}.get))
    (picture,) = given_one.pictures("rejected")
    assert picture.convert("RGB").getpixel((4, 4))[2] > 240


def test_near_duplicates_stand_side_by_side(edited: Callable[[Edit], Path]) -> None:
    def edit(records: list[dict[str, Any]]) -> None:
        records[4]["duplicate_of"] = records[1]["uid"]
        copy = ended(records[0], "copy", "gate", "duplicate", duplicate_of=records[0]["uid"])
        records.append(copy)

    page = Page(dataset_page(Dataset.open(edited(edit))))
    section = page.section("duplicates")
    assert section.count('class="pair"') == 2
    assert section.count("equal files") == 1
    assert section.count("nearly the same shape") == 1
    assert len(page.pictures("duplicates")) == 3  # the copy was never rendered


def test_long_lists_are_cut(edited: Callable[[Edit], Path]) -> None:
    def edit(records: list[dict[str, Any]]) -> None:
        base, accepted = records[0], [record["uid"] for record in records]
        for n in range(4000):
            many = {"message": "m" * 2000, "log": "l" * 20000, "license": f"license-{n}"}
            records.append(ended(base, f"failed-{n:04d}", "load", "import", **many))
            records.append(
                ended(base, f"dup-{n}", "gate", "duplicate", duplicate_of=accepted[n % 10])
            )
        records.append(ended(base, "rare", "render", "timeout"))
        records.append(ended(base, "other", "gate", "animated"))

    out = edited(edit)
    start = time.perf_counter()
    data = dataset_page(Dataset.open(out))
    assert time.perf_counter() - start < 5
    assert len(data) < 3e6
    page = Page(data)
    assert "and 3,801 more" in page.section("failed")
    assert "render/timeout" in page.section("failed")
    assert "and 3,953 more" in page.section("rejected")
    assert "gate/animated" in page.section("rejected")
    assert "and 3,976 more" in page.section("duplicates")


def test_nothing_accepted_has_a_page_too(edited: Callable[[Edit], Path]) -> None:
    def edit(records: list[dict[str, Any]]) -> None:
        records[:] = [ended(record, record["uid"], "gate", "coverage") for record in records]

    out = edited(edit)
    info = json.loads((out / "dataset.json").read_text())
    info |= {"shards": [], "statuses": {"rejected": 10}, "licenses": {}}
    (out / "dataset.json").write_text(json.dumps(info))
    page = Page(dataset_page(Dataset.open(out, check=False)))
    assert "0 of 10" in page.text
    assert "<figure>" not in page.text
    facts = describe(out)
    assert facts["reasons"] == {"gate/coverage": 10}
    assert as_text(facts)


def test_a_damaged_image_is_left_out_and_a_damaged_record_is_an_error(
    edited: Callable[[Edit], Path],
) -> None:
    out = edited(lambda records: None)
    data = Dataset.open(out)
    for shard in (out / "shards").iterdir():
        shard.write_bytes(b"\0" * shard.stat().st_size)
    page = Page(dataset_page(data))
    assert not page.pictures("accepted")
    assert page.section("accepted").count("no picture") == 10
    (out / "index.parquet").write_bytes(b"nonsense")
    with pytest.raises(DatasetError, match=r"index\.parquet"):
        dataset_page(Dataset.open(out))
    (out / "index.parquet").unlink()
    with pytest.raises(DatasetError, match=r"lacks index\.parquet"):
        dataset_page(Dataset.open(out))


def test_read_columns_are_those_of_the_views(made: Path) -> None:
    data = Dataset.open(made)
    table, views = read_columns(data, ("view", "azimuth", "shard")), data.views()
    assert table.column_names == ["view", "azimuth", "shard"]
    assert np.array_equal(table["azimuth"].to_numpy(), views.azimuth)
    assert table["shard"].to_pylist() == views.shard.tolist()
    data.info = data.info.model_copy(update={"shards": data.info.shards[:1]})
    fewer = read_columns(data, ("view",))
    assert 0 < fewer.num_rows == data.info.shards[0].views < len(views)
    with pytest.raises(DatasetError, match="not readable"):
        read_columns(data, ("nothing",))


def test_a_process_that_read_an_index_ends_in_peace(made: Path) -> None:
    """Threads of pyarrow that read Python objects aborted one process in four as it ended."""
    program = (
        "from g3d.manifests.dataset import Dataset; from g3d.manifests.index import read_columns;"
        f"d = Dataset.open({str(made)!r}); d.views(); read_columns(d, ('view',))"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE) for _ in range(5)
    ]
    ends = [(process.communicate()[1], process.returncode) for process in running]
    assert [code for _, code in ends] == [0] * 5, ends


@given(st.lists(st.floats(-50, 2000), min_size=1, max_size=200), st.booleans())
def test_a_histogram_counts_every_value(values: list[float], log: bool) -> None:
    made = histogram(np.array(values), "x", span=(1, 100), log=log)
    counted = [value for value in values if value > 0] if log else values
    if not counted:
        assert made == ""
        return
    shares = re.findall(r": ([\d,]+)</title>", made)
    assert sum(int(share.replace(",", "")) for share in shares) == len(counted)
    Page(made.encode())


def test_a_histogram_of_one_value_says_it() -> None:
    assert "all 1.2" in histogram(np.full(9, 1.2), "Radius")
    assert histogram(np.array([np.nan]), "x") == ""


def test_directions_are_seen_from_above() -> None:
    azimuth, elevation = np.deg2rad([0, 90, 180, 0, 0]), np.deg2rad([0, 0, 0, 30, -90])
    above, below = directions(azimuth, elevation).split('aria-label="cameras ')[1:]
    dots = re.search(r'class="dots" d="([^"]+)"', above)
    assert dots is not None
    # Front below, +X to the right; 30 degrees above the horizon is half the area of the disc.
    assert dots[1] == "M0 150h0M150 0h0M0 -150h0M0 106h0"
    assert 'd="M0 0h0"' in below
    many = directions(np.zeros(50_000), np.zeros(50_000))
    assert many.count("h0") == 2000
    assert directions(np.zeros(0), np.zeros(0)) == ""


@given(st.integers(0, 60), st.integers(1, 70))
def test_evenly(total: int, count: int) -> None:
    picked = evenly(range(total), count)
    assert len(picked) == min(total, count)
    assert len(set(picked)) == len(picked)
    assert picked == sorted(picked)
    if count > 1 and total:
        assert (picked[0], picked[-1]) == (0, total - 1)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(8, 60))
def test_by_reason_shows_every_reason(sizes: list[int], count: int) -> None:
    from g3d.manifests.records import AssetRecord

    base = {"source": "s", "source_id": "x", "category": "c", "sha256": "0", "split": "train"}
    records = [
        AssetRecord(**base, uid=f"{kind}-{n}", status="failed", stage="load", reason=f"r{kind}")
        for kind, size in enumerate(sizes)
        for n in range(size)
    ]
    shown = by_reason(records, count)
    assert len(shown) == min(count, len(records))
    assert len({record.uid for record in shown}) == len(shown)
    assert len({record.reason for record in shown}) == len(sizes)


def test_inspect_tells_the_same(edited: Callable[[Edit], Path]) -> None:
    def edit(records: list[dict[str, Any]]) -> None:
        records[0] |= {"license": "MIT", "author": "ann", "duplicate_of": records[1]["uid"]}
        records.append(ended(records[2], "x", "gate", "coverage", missing_textures=3))

    out = edited(edit)
    data = Dataset.open(out)
    facts = json.loads(json.dumps(describe(out)))
    assert facts["reasons"] == {"gate/coverage": 1}
    assert (facts["licenses"]["MIT"], facts["authors"]["MIT"]) == (1, 1)
    assert sum(facts["licenses"].values()) == 10
    assert facts["missing_textures"] == 3
    assert [d["status"] for d in facts["near_duplicates"]] == ["accepted"]
    assert facts["coverage"]["mean"] == pytest.approx(data.views().coverage.mean())
    assert facts["border_views"] == data.views().touches_border.sum()
    (out / REPORT).unlink()
    assert describe(out)["report"] is None
    assert re.search(r"near_duplicates +1\n", as_text(facts))
    (out / REPORT).write_bytes(dataset_page(data))
    assert describe(out)["report"] == str(out / REPORT)
