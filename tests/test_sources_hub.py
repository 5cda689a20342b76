"""ShapeNet from the gated hub: the real huggingface_hub against a hub on the loopback."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from g3d.errors import AssetError, DatasetError, G3DError, MissingDependency
from g3d.pipeline.sources.base import SourceAsset
from g3d.pipeline.sources.hub import HubFile
from g3d.pipeline.sources.registry import get_source
from g3d.pipeline.sources.shapenet import ShapenetSource
from g3d.pipeline.transfer.fetch import FetchSettings
from g3d.tests.hub_server import GRANTED, NOT_ASKED, PENDING, Hub, serving
from g3d.tests.shapenet_files import BIKE, collection, write_zip

pytest.importorskip("huggingface_hub", reason="the extra `hub`")

COUNT = 14
PAGE = "https://huggingface.co/datasets/ShapeNet/ShapeNetCore"
TOKEN = "hf_loopback"
ZIP = f"{BIKE}.zip"
RANGE = r"^/repos/"
RESOLVE = r"/resolve/"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zip as the hub has it, mostly of what is not needed."""
    files = collection("v2", COUNT, voxels=120_000)
    return write_zip(tmp_path_factory.mktemp("zip") / ZIP, files)


@pytest.fixture
def hub(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    tokens = {TOKEN: GRANTED, "hf_pending": PENDING, "hf_new": NOT_ASKED}
    with serving(Hub(files={ZIP: packed.read_bytes()}, tokens=tokens)) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("G3D_CACHE", str(tmp_path / "cache"))
        for name in ("HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "HF_TOKEN_PATH"):
            monkeypatch.delenv(name, raising=False)
        yield served


def source(limit: int | None = None, **fetch: Any) -> ShapenetSource:
    options = {"backoff_s": 0.01, "timeout_s": 5.0, "retries": 2, **fetch}
    found = get_source(
        "shapenet", category="motorbike", limit=limit, fetch=FetchSettings(**options)
    )
    assert isinstance(found, ShapenetSource)
    return found


def contents(path: Path) -> dict[str, bytes]:
    """All files of an unpacked asset, by the path of its model."""
    folder = path.parent.parent
    return {p.relative_to(folder).as_posix(): p.read_bytes()
            for p in folder.rglob("*") if p.is_file()}  # fmt: skip


def facts(assets: list[SourceAsset]) -> list[tuple[Any, ...]]:
    return [(a.uid, a.source_id, a.license, a.url, a.sha256, a.bytes) for a in assets]


def test_the_listing_and_the_files_are_those_of_the_zip(
    hub: Hub, packed: Path, tmp_path: Path
) -> None:
    far = source()
    assert far.remote
    assets = far.list()
    near = get_source("shapenet", category="motorbike", root=packed)
    assert facts(assets) == facts(near.list())
    assert len(assets) == COUNT
    assert {a.spec["revision"] for a in assets} == {hub.commit}
    assert len(hub.asked("hub", RESOLVE)) == 1
    assert len(hub.asked("store")) == 1  # the end of the zip has all of its directory here
    assert json.loads(json.dumps(dict(assets[0].spec))) == assets[0].spec
    here = contents(near.file(assets[1]) or Path())
    for path in (tmp_path / "cache" / "shapenet").iterdir():
        path.rename(tmp_path / path.name)
    assert contents(far.file(assets[1])) == here
    assert len(hub.asked("store")) == 2  # an asset is one range
    assert len(hub.asked("hub", RESOLVE)) == 1
    assert len(far.load(assets[1]).faces)
    assert {r.token for r in hub.asked("store")} == {None}  # the token is the hub's alone


def test_what_is_read_is_what_is_needed(hub: Hub) -> None:
    found = source(limit=2)
    for asset in found.list():
        found.file(asset)
    whole = len(hub.files[ZIP])
    assert hub.sent < 65_558 + 2 * 140_000 < whole / 4
    assert max(r.sent for r in hub.log) < whole / 8
    before = len(hub.log)
    for asset in found.list():
        found.file(asset)
    assert len(hub.asked("store")) == 3
    assert len(hub.log) == before + 1  # is it still the same?


@pytest.mark.parametrize(
    ("token", "message", "hint"),
    [
        ("hf_wrong", "does not accept the token in HF_TOKEN", "settings/tokens"),
        ("hf_new", "not in the authorized list", PAGE),
        ("hf_pending", "awaiting a review", PAGE),
    ],
)
def test_who_may_not_read_it_is_told_why(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, token: str, message: str, hint: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(MissingDependency) as caught:
        source().list()
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")
    assert PAGE in (caught.value.hint or "")
    assert "\n" not in caught.value.message + (caught.value.hint or "")
    assert token not in caught.value.message
    assert len(hub.asked("hub", RESOLVE)) == 1  # asking again would not help
    assert not hub.asked("store")


def listing_error() -> G3DError:
    with pytest.raises(G3DError) as caught:
        source(retries=1).list()
    assert caught.value.hint
    return caught.value


def test_a_hub_that_cannot_be_reached(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Hub()) as gone:
        address = gone.url
    monkeypatch.setenv("HF_ENDPOINT", address)
    error = listing_error()
    assert isinstance(error, DatasetError)
    assert f"the hub at {address} cannot be reached" in error.message
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    hub.fault(RESOLVE, status=500, times=9)
    assert "the hub answers 500" in listing_error().message
    assert len(hub.asked("hub", RESOLVE)) == 2
    hub.faults.clear()
    hub.files["other.zip"] = hub.files.pop(ZIP)
    assert f"no {ZIP}" in listing_error().message
    hub.repo = "ShapeNet/Other"
    assert listing_error().exit_code == 1


def test_without_the_package_of_the_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependency) as caught:
        source().list()
    assert "pip install 'g3d[hub]'" in (caught.value.hint or "")
    assert not hub.log


def test_a_rate_limit_is_waited_out(hub: Hub) -> None:
    hub.fault(RESOLVE, status=429, headers={"Retry-After": "1"})
    hub.fault(RANGE, status=429, headers={"RateLimit": '"resolvers";r=0;t=1', "Retry-After": "0"})
    start = time.monotonic()
    assert len(source().list()) == COUNT
    assert 1.0 < time.monotonic() - start < 6.0
    hub.fault(RESOLVE, status=429, headers={"RateLimit": '"api";r=0;t=1'})
    start = time.monotonic()
    assert len(source().list()) == COUNT
    assert 1.0 < time.monotonic() - start < 6.0


def test_what_breaks_on_the_way_is_mended(hub: Hub) -> None:
    hub.fault(RANGE, cut=30_000)
    found = source(retries=3)
    good, cut, flipped, lost, *_ = found.list()
    assert [r.range for r in hub.asked("store")][1].startswith("bytes=")
    expected = contents(found.file(good))
    hub.fault(RANGE, cut=50_000)
    hub.fault(RANGE, status=503)
    hub.fault(RANGE, hang=True)
    before = len(hub.asked("store"))
    assert contents(found.file(cut)).keys() == expected.keys()
    ranges = [r.range for r in hub.asked("store")][before:]
    first = int((ranges[0] or "").removeprefix("bytes=").split("-")[0])
    assert [r.split("-")[0] for r in ranges if r] == [f"bytes={first}"] + 3 * [
        f"bytes={first + 50_000}"
    ]
    hub.fault(RANGE, flip=60)
    found.file(flipped)
    hub.fault(RANGE, flip=60, times=2)
    with pytest.raises(AssetError) as caught:
        found.file(lost)
    assert (caught.value.reason, caught.value.stage) == ("checksum", "fetch")
    assert found.file(lost).is_file()  # another run is another chance


def test_an_address_that_is_no_longer_good(hub: Hub) -> None:
    found = source()
    assets = found.list()
    hub.expire()
    found.file(assets[0])
    assert len(hub.asked("hub", RESOLVE)) == 2
    assert f"/resolve/{hub.commit}/" in hub.log[-2].path
    hub.expire()
    before = len(hub.asked("hub", RESOLVE))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(found.file, assets[1:5]))
    assert 1 <= len(hub.asked("hub", RESOLVE)) - before <= 4
    # A token that is revoked while the run goes on is the trouble of what is left.
    hub.expire()
    hub.tokens.clear()
    with pytest.raises(AssetError) as caught:
        found.file(assets[6])
    assert (caught.value.reason, caught.value.stage) == ("gated", "fetch")
    assert found.file(assets[0]).is_file()


def test_bytes_that_come_from_the_hub_itself(hub: Hub) -> None:
    hub.redirects = False
    found = source()
    assets = found.list()
    assert found.file(assets[0]).is_file()
    asked = hub.asked("hub", RESOLVE)
    assert [r.method for r in asked] == ["HEAD", "GET", "GET"]
    assert {r.token for r in asked} == {TOKEN}  # there it is needed for every part
    assert not hub.asked("store")


def unpack(found: ShapenetSource, asset: SourceAsset) -> dict[str, bytes]:
    return contents(found.file(asset))


def test_all_workers_read_the_revision_that_was_listed(hub: Hub, packed: Path) -> None:
    found = source()
    assets = found.list()
    hub.history[hub.commit] = hub.files
    hub.commit, hub.files = "2" * 40, {ZIP: packed.read_bytes()[:-10]}
    before = len(hub.log)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        there = pool.submit(unpack, found, assets[3]).result(timeout=60)
        hub.expire()
        hub.tokens.clear()
        error = pool.submit(unpack, found, assets[4]).exception(timeout=60)
    assert there == unpack(found, assets[3])
    assert isinstance(error, AssetError)
    assert error.reason == "gated"
    asked = [r for r in hub.log[before:] if re.search(RESOLVE, r.path)]
    assert {r.path.split("/")[5] for r in asked} == {"1" * 40}
    # The worker took the directory of the zip from the cache: it read one asset, and nothing else.
    assert sum(r.sent for r in hub.log[before:] if r.status == 206) < 140_000


def test_offline_with_what_is_in_the_cache(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DatasetError, match="not in the cache") as caught:
        source(offline=True).list()
    assert "--offline (fetch.offline=true)" in caught.value.message
    assets = source().list()
    source().file(assets[0])
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    before = len(hub.log)
    off = source(offline=True)
    assert facts(off.list()) == facts(assets)
    assert off.file(off.list()[0]).is_file()
    with pytest.raises(AssetError, match="not in the cache") as missing:
        off.file(assets[1])
    assert (missing.value.reason, missing.value.stage) == ("download", "fetch")
    assert len(hub.log) == before


def test_the_limits_of_fetching(hub: Hub, tmp_path: Path) -> None:
    found = source(max_bytes=100)
    assets = found.list()
    with pytest.raises(AssetError, match=r"fetch\.max_bytes"):
        found.file(assets[0])
    sizes = source(cache_bytes=3000)
    for n, asset in enumerate(assets[:6]):
        folder = sizes.file(asset).parents[2]
        os.utime(folder, (time.time() - 5000 + n,) * 2)
    kept = list((tmp_path / "cache" / "shapenet").glob("*/*"))
    assert 1 <= len(kept) < 6
    assert sizes.file(assets[0]).is_file()  # comes again


def test_addresses_of_the_hub() -> None:
    core = "hf://datasets/ShapeNet/ShapeNetCore"
    assert HubFile.parse(core, ZIP) == HubFile("ShapeNet/ShapeNetCore", ZIP)
    assert HubFile.parse(f"{core}@v1/a/b", ZIP) == HubFile(
        "ShapeNet/ShapeNetCore", f"a/b/{ZIP}", "v1"
    )
    assert HubFile.parse(f"{core}/x.zip", ZIP).path == "x.zip"
    assert HubFile.parse(f"{core}/", ZIP).page == PAGE
    with pytest.raises(AssetError, match="not of the form"):
        HubFile.parse("hf://models/x", ZIP)


def g3d(*words: str, token: str | None = TOKEN) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k != "HF_TOKEN"}
    env |= {"HF_TOKEN": token} if token else {}
    command = [sys.executable, "-m", "g3d", "prepare", "shapenet", "--category", "motorbike"]
    look = ["--size", "32", "--views", "3", "--workers", "0", "--set", "fetch.backoff_s=0.01"]
    return subprocess.run([*command, *look, *words], env=env, capture_output=True, text=True,
                          timeout=200)  # fmt: skip


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if not line.startswith("g3d ")]


def test_a_person_without_a_token_reads_two_lines(hub: Hub, tmp_path: Path) -> None:
    done = g3d("-o", str(tmp_path / "out"), token=None)
    error, hint = said(done)
    assert (done.returncode, done.stdout) == (4, "")
    assert error.startswith("error: ")
    assert "no token" in error
    for words in (PAGE, "`hf auth login`", "HF_TOKEN", f"{ZIP} with --root"):
        assert words in hint
    assert not (tmp_path / "out").exists()
    assert not hub.asked(path=RESOLVE)


@pytest.mark.slow
def test_the_command_makes_what_the_zip_makes(hub: Hub, packed: Path, tmp_path: Path) -> None:
    token = tmp_path / "hf" / "token"  # where `hf auth login` puts it
    token.parent.mkdir(parents=True)
    token.write_text(TOKEN)
    with zipfile.ZipFile(packed) as pack:
        info = pack.getinfo(f"{BIKE}/{5:032x}/models/model_normalized.obj")
    hub.fault(RANGE, skip=2, status=429, headers={"Retry-After": "1"})
    hub.fault(RANGE, skip=4, cut=20_000)
    hub.fault(RANGE, skip=6, flip=info.compress_size // 2)
    done = g3d("-o", str(tmp_path / "far"), token=None)
    assert done.returncode == 0, done.stderr
    assert not [f for f in hub.faults if f.times]
    assert len(hub.asked("hub", RESOLVE)) == 1
    assert len(hub.asked("store")) == 1 + COUNT + 3
    sent = len(hub.log)
    near = g3d("-o", str(tmp_path / "near"), "--root", str(packed))
    assert near.returncode == 0, near.stderr
    assert len(hub.log) == sent

    def shards(place: str) -> dict[str, str]:
        return {p.name: hashlib.sha256(p.read_bytes()).hexdigest()
                for p in (tmp_path / place / "shards").iterdir()}  # fmt: skip

    assert shards("far") == shards("near") != {}
    rows = (tmp_path / "far" / "assets.jsonl").read_text().splitlines()
    assert [json.loads(row)["status"] for row in rows] == ["accepted"] * COUNT


@pytest.mark.slow
def test_a_limit_limits_what_is_fetched(hub: Hub, tmp_path: Path) -> None:
    one = ("--set", "splits={train: 1, val: 0, test: 0}", "--limit", "2")
    done = g3d("-o", str(tmp_path / "out"), *one)
    assert done.returncode == 0, done.stderr
    assert "prepared 2 of 2" in done.stderr
    assert len(hub.asked("store")) == 3
    assert hub.sent < len(hub.files[ZIP]) / 4
