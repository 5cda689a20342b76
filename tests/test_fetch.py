"""Downloads into the cache: retries, resuming, checksums, limits, eviction, offline."""

from __future__ import annotations

import email.utils
import hashlib
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from g3d.errors import AssetError
from g3d.pipeline.transfer.cache import entries, make_room
from g3d.pipeline.transfer.fetch import Fetcher, FetchSettings
from g3d.pipeline.transfer.ranges import HttpRanges
from g3d.pipeline.transfer.web import Patience, content_range, retry_after, shown
from g3d.tests.hub_server import Hub, serving
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

DATA = os.urandom(3_000_000)
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Hub(plain={"/a.glb": DATA, "/b.glb": b"b" * 1000})) as served:
        yield served


def fetcher(cache: Path, **options: Any) -> Fetcher:
    return Fetcher(FetchSettings(**{"backoff_s": 0.01, "timeout_s": 5.0, **options}), cache)


def refused(call: Any, *args: Any, **options: Any) -> AssetError:
    with pytest.raises(AssetError) as caught:
        call(*args, **options)
    assert caught.value.stage == "fetch"
    assert type(caught.value) is AssetError or caught.value.reason in ("gated", "gone")
    return caught.value


def unfinished(cache: Path) -> list[Path]:
    return list(cache.rglob("*.tmp-*"))


def test_a_file_is_fetched_once(tmp_path: Path, hub: Hub) -> None:
    url = f"{hub.store}/a.glb"
    path = fetcher(tmp_path).download(url, sha256=SHA, size=len(DATA), suffix=".glb")
    assert path.read_bytes() == DATA
    assert path.suffix == ".glb"
    assert path.is_relative_to(tmp_path)
    assert fetcher(tmp_path).download(url, sha256=SHA, suffix=".glb") == path
    other = fetcher(tmp_path).download(url)  # known by its address
    assert other != path
    assert fetcher(tmp_path).download(url) == other
    assert len(hub.log) == 2
    assert not unfinished(tmp_path)
    assert SHA in path.name
    for bad in ({"sha256": "../x"}, {"suffix": "/../x"}):
        with pytest.raises(ValueError):
            fetcher(tmp_path).download(url, **bad)


def test_the_shared_cache_is_the_default(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("G3D_CACHE", str(tmp_path / "shared"))
    assert Fetcher().download(f"{hub.store}/b.glb").is_relative_to(tmp_path / "shared")


@pytest.mark.parametrize(
    ("status", "reason", "requests"),
    [(401, "gated", 1), (403, "gated", 1), (404, "gone", 1), (410, "gone", 1),
     (400, "download", 1), (500, "download", 3), (503, "download", 3), (429, "download", 3)],
)  # fmt: skip
def test_what_a_server_answers(
    tmp_path: Path, hub: Hub, status: int, reason: str, requests: int
) -> None:
    hub.fault(status=status, times=9)
    with pytest.raises(AssetError) as caught:
        fetcher(tmp_path, retries=2).download(f"{hub.store}/a.glb?token=secret")
    assert (caught.value.reason, caught.value.stage) == (reason, "fetch")
    assert str(status) in caught.value.message
    assert "secret" not in caught.value.message
    assert len(hub.log) == requests
    assert not list(tmp_path.rglob("*.glb"))


def test_what_passes_is_tried_again(tmp_path: Path, hub: Hub) -> None:
    for what in ({"status": 500}, {"status": 503}, {"hang": True}, {"cut": 0}):
        hub.fault(**what)
    path = fetcher(tmp_path, retries=4).download(f"{hub.store}/a.glb", sha256=SHA)
    assert path.read_bytes() == DATA
    assert len(hub.log) == 5


def test_nobody_there(tmp_path: Path) -> None:
    with serving(Hub()) as hub:
        address = hub.store
    error = refused(fetcher(tmp_path, retries=1).download, f"{address}/a.glb")
    assert error.reason == "download"
    assert "2 tries" in error.message
    assert "refused" in error.message
    assert "object at" not in error.message


def test_the_server_says_how_long_to_wait(tmp_path: Path, hub: Hub) -> None:
    hub.fault(status=429, headers={"Retry-After": "1"})
    start = time.monotonic()
    fetcher(tmp_path, backoff_s=0.0).download(f"{hub.store}/a.glb")
    assert 1.0 <= time.monotonic() - start < 4.0
    assert len(hub.log) == 2
    hub.fault(status=503, headers={"Retry-After": "86400"})
    start = time.monotonic()
    error = refused(fetcher(tmp_path).download, f"{hub.store}/b.glb")
    assert time.monotonic() - start < 1.0
    assert "wait" in error.message
    then = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert 25 < (retry_after({"Retry-After": then}) or 0) <= 30
    assert retry_after({"Retry-After": "soon"}) is None
    assert retry_after({}) is None


def test_a_cut_download_goes_on(tmp_path: Path, hub: Hub) -> None:
    for cut in (1_000_000, 700_000, 500_000):
        hub.fault(cut=cut)
    path = fetcher(tmp_path, retries=1).download(f"{hub.store}/a.glb")  # no checksum to lean on
    assert path.read_bytes() == DATA
    assert len(hub.log) == 4  # more cuts than retries: those that bring something do not count
    assert hub.sent == len(DATA)
    assert [r.range for r in hub.log[:2]] == [None, "bytes=1000000-"]
    assert all(r.headers["If-Range"].startswith('"') for r in hub.log[1:])
    assert not unfinished(tmp_path)


def test_a_later_run_goes_on(tmp_path: Path, hub: Hub) -> None:
    hub.fault(cut=2_000_000)
    error = refused(fetcher(tmp_path, retries=0).download, f"{hub.store}/a.glb")
    assert error.reason == "download"
    assert "cut off" in error.message
    assert unfinished(tmp_path)
    assert fetcher(tmp_path).download(f"{hub.store}/a.glb").read_bytes() == DATA
    assert hub.sent == len(DATA)


@pytest.mark.parametrize("no_etag", [False, True])
def test_a_file_that_changed_meanwhile_starts_anew(tmp_path: Path, hub: Hub, no_etag: bool) -> None:
    hub.no_etag = no_etag
    hub.fault(cut=2_000_000)
    refused(fetcher(tmp_path, retries=0).download, f"{hub.store}/a.glb")
    hub.plain["/a.glb"] = new = os.urandom(len(DATA) + 5)
    assert fetcher(tmp_path).download(f"{hub.store}/a.glb").read_bytes() == new
    assert hub.log[-1].status == 200


def test_a_file_that_became_shorter(tmp_path: Path, hub: Hub) -> None:
    hub.no_etag = True
    hub.fault(cut=2_000_000)
    refused(fetcher(tmp_path, retries=0).download, f"{hub.store}/a.glb", sha256=SHA)
    hub.plain["/a.glb"] = DATA[:1_500_000]
    assert refused(fetcher(tmp_path).download, f"{hub.store}/a.glb", sha256=SHA).reason == (
        "checksum"
    )
    assert not unfinished(tmp_path)


def test_a_wrong_content_is_asked_for_once_more(tmp_path: Path, hub: Hub) -> None:
    url = f"{hub.store}/a.glb"
    hub.fault(flip=1000)
    assert fetcher(tmp_path).download(url, sha256=SHA).read_bytes() == DATA
    assert len(hub.log) == 2
    error = refused(fetcher(tmp_path).download, url, sha256="0" * 64)
    assert error.reason == "checksum"
    assert SHA in error.message
    assert len(hub.log) == 4
    assert refused(fetcher(tmp_path).download, url, size=5).reason == "checksum"
    assert len(hub.log) == 5  # told by the header, before anything was written
    assert not unfinished(tmp_path)


def test_offline(tmp_path: Path, hub: Hub) -> None:
    url = f"{hub.store}/b.glb"
    error = refused(fetcher(tmp_path, offline=True).download, url)
    assert error.reason == "download"
    assert "--offline" in error.message
    assert "fetch.offline=true" in error.message
    path = fetcher(tmp_path).download(url)
    before = len(hub.log)
    assert fetcher(tmp_path, offline=True).download(url) == path
    assert len(hub.log) == before


def test_what_is_too_large(tmp_path: Path, hub: Hub) -> None:
    small = fetcher(tmp_path, max_bytes=100_000)
    url = f"{hub.store}/a.glb"
    assert "fetch.max_bytes" in refused(small.download, url, size=len(DATA)).message
    assert not hub.log  # by its listed size
    assert refused(small.download, url).reason == "download"
    hub.no_length = True
    assert "fetch.max_bytes" in refused(small.download, url).message
    assert len(hub.log) == 2  # and is not tried again
    assert sum(p.stat().st_size for p in unfinished(tmp_path)) <= 100_000 + 100
    assert small.download(f"{hub.store}/b.glb").read_bytes() == b"b" * 1000
    assert fetcher(tmp_path).download(url).read_bytes() == DATA  # its end alone tells its size


def one(cache: Path, url: str) -> tuple[int, bytes]:
    return os.getpid(), fetcher(cache).download(url).read_bytes()


def test_many_at_once_fetch_it_once(tmp_path: Path, hub: Hub) -> None:
    url = f"{hub.store}/a.glb"
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, spawn) as others, ThreadPoolExecutor(4) as threads:
        far = [others.submit(one, tmp_path, url) for _ in range(4)]
        near = [threads.submit(one, tmp_path, url) for _ in range(4)]
        found = [f.result(timeout=60) for f in far + near]
    assert all(data == DATA for _, data in found)
    assert len(hub.log) == 1
    # A fetcher goes to other processes.
    with ProcessPoolExecutor(1, spawn) as others:
        path = others.submit(fetcher(tmp_path).download, f"{hub.store}/b.glb").result(timeout=60)
        error = others.submit(fetcher(tmp_path).download, f"{hub.store}/no").exception(timeout=60)
    assert path.read_bytes() == b"b" * 1000
    assert isinstance(error, AssetError)
    assert (error.reason, error.stage) == ("gone", "fetch")


def test_a_secret_stays_with_its_server(tmp_path: Path, hub: Hub) -> None:
    headers = {"Authorization": "Bearer secret", "X-Key": "secret"}
    with pytest.raises(AssetError, match="gone"):
        fetcher(tmp_path).download(f"{hub.store}/redirect/x.glb", headers=headers)
    first, second = hub.log
    assert (first.server, first.token, first.headers["X-Key"]) == ("store", "secret", "secret")
    assert (second.server, second.token) == ("hub", None)
    assert "secret" not in str(second.headers)
    assert shown("https://me:pw@x.org/a?key=1#f") == "https://x.org/a"


def test_the_longest_unused_goes_first(tmp_path: Path, hub: Hub) -> None:
    names = [f"/{n}.glb" for n in range(6)]
    for name in names:
        hub.plain[name] = os.urandom(100_000)
    paths = [fetcher(tmp_path).download(hub.store + name) for name in names]
    for n, path in enumerate(paths):
        os.utime(path, (time.time() - 5000 + n,) * 2)
    folder = tmp_path / "shapenet" / "uid" / "digest"
    (folder / "asset").mkdir(parents=True)
    (folder / "asset" / "model.obj").write_bytes(bytes(100_000))
    os.utime(folder, (time.time() - 9000,) * 2)
    tight = fetcher(tmp_path, cache_bytes=500_000)
    tight.download(hub.store + names[0])  # used: it stays
    hub.plain["/new.glb"] = os.urandom(100_000)
    new = tight.download(f"{hub.store}/new.glb")
    assert not folder.exists()
    assert [p.exists() for p in paths] == [True, False, False, False, True, True]
    assert new.exists()
    assert sum(use.size for use in entries(tmp_path)) <= 450_000
    assert not unfinished(tmp_path)


def test_what_is_in_use_is_never_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for n in range(4):
        place = tmp_path / "files" / "ab" / f"{n}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(bytes(1000))
    assert make_room(tmp_path, None) == []
    with caplog.at_level("WARNING"):
        assert make_room(tmp_path, 2000, added=1000) == []
    assert "fetch.cache_bytes=2000" in caplog.text
    gone = make_room(tmp_path, 2000, added=1000, grace_s=0.0)
    assert len(gone) == 3  # to nine tenths of the limit
    assert make_room(tmp_path, 2000, added=10, grace_s=0.0) == []


def test_any_address_of_fsspec(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/g3d-fetch/a.glb", DATA)
    url = "memory://g3d-fetch/a.glb"
    assert fetcher(tmp_path).download(url, sha256=SHA).read_bytes() == DATA
    assert fetcher(tmp_path).download(url, size=len(DATA)).read_bytes() == DATA
    assert refused(fetcher(tmp_path).download, url + "x").reason == "gone"
    assert refused(fetcher(tmp_path).download, url, sha256="0" * 64).reason == "checksum"
    assert refused(fetcher(tmp_path, max_bytes=9).download, f"{url}?").reason in (
        "download", "gone"
    )  # fmt: skip
    (tmp_path / "here.glb").write_bytes(b"here")
    local = fetcher(tmp_path).download((tmp_path / "here.glb").as_uri())
    assert local.read_bytes() == b"here"


@given(st.lists(st.integers(0, 40_000), max_size=4), st.booleans())
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.differing_executors])
def test_cuts_anywhere_change_nothing(cuts: list[int], no_etag: bool) -> None:
    import tempfile

    data = DATA[:50_000]
    with serving(Hub(plain={"/x": data}, no_etag=no_etag)) as hub:
        for cut in cuts:
            hub.fault(cut=cut)
        with tempfile.TemporaryDirectory() as folder:
            found = fetcher(Path(folder), backoff_s=0.0).download(f"{hub.store}/x")
            assert found.read_bytes() == data
        for cut in cuts:
            hub.fault(cut=cut // 10)
        ranges = HttpRanges(f"{hub.store}/x", Patience(6, 0.0, 5.0))
        assert ranges.read(20_000, 31_000) == data[20_000:31_000]


def test_ranges_of_a_web_file(hub: Hub) -> None:
    url, patience = f"{hub.store}/a.glb", Patience(2, 0.0, 5.0)
    ranges = HttpRanges(url, patience)
    assert ranges.size == len(DATA)
    before = hub.sent
    hub.fault(cut=30_000)
    hub.fault(status=429, headers={"Retry-After": "0"})
    assert ranges.read(500_000, 600_000) == DATA[500_000:600_000]
    assert hub.sent - before == 100_000 + len(b"trouble")  # the rest alone is asked for again
    assert [r.range for r in hub.log[-3:]] == ["bytes=500000-599999"] + ["bytes=530000-599999"] * 2
    hub.plain["/a.glb"] = os.urandom(len(DATA))
    assert refused(ranges.read, 0, 10).reason == "checksum"
    hub.no_ranges = True
    before = hub.sent
    assert "no parts of files" in refused(HttpRanges, url, patience).message
    assert content_range("bytes 5-9/20") == (5, 10, 20)
    assert content_range("bytes */20") is None
    assert content_range(None) is None
