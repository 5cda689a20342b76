"""Zips: only what is needed is read, nothing hostile gets out, and what comes out is whole."""

from __future__ import annotations

import io
import os
import stat
import struct
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
from g3d.errors import AssetError, MissingDependency
from g3d.pipeline.transfer.archives import Archive, Limits, safe_place
from g3d.pipeline.transfer.cache import cache_folder
from g3d.pipeline.transfer.ranges import LocalRanges, RangeFile, UrlRanges
from g3d.tests.hub_server import Hub, serving
from hypothesis import given, settings
from hypothesis import strategies as st

MIB = 1 << 20


def packed(files: dict[str, bytes], **options: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **{"compression": zipfile.ZIP_DEFLATED, **options}) as pack:
        for name, data in files.items():
            pack.writestr(name, data)
    return buffer.getvalue()


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


class Counted:
    """Ranges of bytes in memory that write down what was read."""

    def __init__(self, data: bytes) -> None:
        self.data, self.size = data, len(data)
        self.asked: list[tuple[int, int]] = []

    def read(self, start: int, end: int) -> bytes:
        self.asked.append((start, end))
        return self.data[start:end]

    @property
    def total(self) -> int:
        return sum(end - start for start, end in self.asked)


class Cut(Counted):
    """A connection that gives half of what it should."""

    def read(self, start: int, end: int) -> bytes:
        return super().read(start, end)[: (end - start) // 2]


def refused(archive: Archive, wanted: object, folder: Path, limits: Limits | None = None) -> str:
    """The reason for which an extraction is refused; nothing of it is left."""
    with pytest.raises(AssetError) as caught:
        archive.extract(wanted, folder, limits)
    assert caught.value.stage == "fetch"
    assert not list(folder.parent.glob("out*"))
    return caught.value.reason


def test_extracts_what_is_asked_for_and_nothing_else(tmp_path: Path) -> None:
    files = {"a/model.obj": b"v 0 0 0\n" * 50, "a/images/t.png": os.urandom(900), "b/x": b"no"}
    archive = Archive(put(tmp_path / "x.zip", packed(files)))
    assert sorted(archive.members) == sorted(files)
    assert archive.members["a/model.obj"].size == 400
    assert archive.read("b/x") == b"no"
    out = archive.extract(
        {"a/model.obj": "model.obj", "a/images/t.png": "images/t.png"}, tmp_path / "deep" / "out"
    )
    found = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert found == {"model.obj": files["a/model.obj"], "images/t.png": files["a/images/t.png"]}
    assert [p.name for p in out.parent.iterdir()] == ["out"]
    (out / "model.obj").write_bytes(b"mine")
    archive.extract(["b/x"], out)
    assert (out / "model.obj").read_bytes() == b"mine"  # a folder that is there is done
    with pytest.raises(AssetError, match="gone"):
        archive.extract(["c"], tmp_path / "no")


@pytest.mark.parametrize(
    "name",
    ["../evil", "a/../../evil", "/tmp/evil", "C:/evil", "C:evil", "..\\evil", "\\evil", "a/..", ""],
)
def test_no_name_leads_out(tmp_path: Path, name: str) -> None:
    if name:
        archive = Archive(put(tmp_path / "x.zip", packed({name: b"evil", "good": b"1"})))
        # Whatever a member is called, the place that it is given has to be inside as well.
        wanted = [n for n in archive.members if n != "good"]
        assert refused(archive, ["good", *wanted], tmp_path / "sub" / "out") == "import"
        assert refused(archive, {"good": name}, tmp_path / "sub" / "out") == "import"
    with pytest.raises(AssetError, match="leads out"):
        safe_place(tmp_path, name)
    assert not [p for p in tmp_path.rglob("*") if "evil" in p.name]


def test_links_and_other_files_are_refused(tmp_path: Path) -> None:
    for kind in (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR):
        info = zipfile.ZipInfo("link")
        info.create_system, info.external_attr = 3, (kind | 0o777) << 16
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as pack:
            pack.writestr(info, "/etc/passwd")
        archive = Archive(Counted(buffer.getvalue()))
        assert refused(archive, ["link"], tmp_path / "out") == "import"
        with pytest.raises(AssetError, match="no plain file"):
            archive.read("link")


def test_a_bomb_is_refused_before_it_goes_off(tmp_path: Path) -> None:
    bomb = Counted(packed({f"{n}": bytes(3 * MIB) for n in range(4)}))
    archive = Archive(bomb)
    before = len(bomb.asked)
    names = list(archive.members)
    assert refused(archive, names, tmp_path / "out", Limits(free_bytes=MIB)) == "import"
    assert refused(archive, names, tmp_path / "out", Limits(bytes=10 * MIB)) == "import"
    assert refused(archive, names, tmp_path / "out", Limits(members=3)) == "import"
    with pytest.raises(AssetError, match="import"):
        archive.read("0", limit=MIB)
    assert len(bomb.asked) == before
    assert archive.extract(names, tmp_path / "out").is_dir()  # 12 MiB are none by the defaults


def test_a_size_that_lies_is_no_way_around_the_limits(tmp_path: Path) -> None:
    data = bytearray(packed({"a": bytes(5 * MIB)}))
    start = data.rfind(b"PK\x01\x02")
    data[start + 24 : start + 28] = struct.pack("<I", 100)
    archive = Archive(Counted(bytes(data)))
    assert archive.members["a"].size == 100
    assert refused(archive, ["a"], tmp_path / "out") == "checksum"


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_flipped_byte_is_found(tmp_path: Path, compression: int) -> None:
    data = bytearray(packed({"good": b"1", "a": os.urandom(5000)}, compression=compression))
    data[2000] ^= 1
    archive = Archive(Counted(bytes(data)))
    assert refused(archive, ["good", "a"], tmp_path / "out") == "checksum"
    assert archive.read("good") == b"1"
    with pytest.raises(AssetError, match="checksum"):
        archive.read("a")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_cut_zip_is_told_when_it_is_opened(tmp_path: Path, share: float) -> None:
    data = packed({"a": os.urandom(3000), "b": b"2"})
    with pytest.raises(AssetError, match="not a whole zip") as caught:
        Archive(put(tmp_path / "cut.zip", data[: int(share * len(data))]))
    assert caught.value.reason == "import"
    assert "cut.zip" in caught.value.message


def test_a_directory_that_points_nowhere(tmp_path: Path) -> None:
    for offset in (0xFFFFFF0, 3):
        data = bytearray(packed({"a": b"1" * 100, "b": b"2" * 100}))
        start = data.rfind(b"PK\x01\x02")
        data[start + 42 : start + 46] = struct.pack("<I", offset)
        archive = Archive(put(tmp_path / f"{offset}.zip", bytes(data)))
        assert refused(archive, ["b"], tmp_path / "out") == "checksum"
        assert archive.read("a") == b"1" * 100


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    data = bytearray(packed({"a": b"1" * 100}))
    for mark, at in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        data[data.find(mark) + at] |= 1
    assert refused(Archive(Counted(bytes(data))), ["a"], tmp_path / "out") == "import"


def test_a_file_in_the_place_of_a_folder_is_the_asset_s_fault(tmp_path: Path) -> None:
    archive = Archive(Counted(packed({"a": b"1", "a/b": b"2", "c": b"3"})))
    assert refused(archive, ["a", "a/b"], tmp_path / "out") == "import"
    assert refused(archive, {"a": "x", "c": "x"}, tmp_path / "out") == "import"
    assert refused(archive, {"a": "x" * 300}, tmp_path / "out") == "import"


def test_absent_cut_and_unknown_places(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="gone"):
        Archive(tmp_path / "no.zip")
    with pytest.raises(AssetError, match="gone"):
        Archive("memory://no/such.zip")
    with pytest.raises(AssetError, match="download"):
        Archive(Cut(packed({"a": b"1"})))
    with pytest.raises(MissingDependency, match="nosuch"):
        Archive("nosuch://a/b.zip")


def many(count: int = 300, size: int = 4000) -> dict[str, bytes]:
    return {f"m{n:03d}/{f}": os.urandom(size) for n in range(count) for f in ("a", "b")}


def test_only_what_is_needed_is_read(tmp_path: Path) -> None:
    files = many()
    ranges = Counted(packed(files, compression=zipfile.ZIP_STORED))
    archive = Archive(ranges)
    directory = ranges.total
    assert directory < 140_000 < 0.1 * ranges.size
    assert len(ranges.asked) <= 3
    before = len(ranges.asked)
    out = archive.extract(["m200/a", "m200/b"], tmp_path / "out")
    assert (out / "m200/b").read_bytes() == files["m200/b"]
    assert len(ranges.asked) == before + 1  # neighbours: one range
    assert ranges.total - directory < 8000 + 200
    archive.extract(["m100/a", "m102/b"], tmp_path / "apart")
    assert len(ranges.asked) == before + 3
    assert ranges.total - directory < 16000 + 400


def test_over_http_the_bytes_of_the_members_travel(tmp_path: Path) -> None:
    files = many()
    data = packed(files, compression=zipfile.ZIP_STORED)
    with serving(Hub(plain={"/x.zip": data})) as hub:
        archive = Archive(f"{hub.store}/x.zip")
        assert len(hub.log) <= 3
        directory = hub.sent
        out = archive.extract(["m007/a", "m007/b"], tmp_path / "out")
        assert (out / "m007/a").read_bytes() == files["m007/a"]
        assert hub.sent - directory < 8000 + 300
        assert hub.sent < 0.1 * len(data)
        far = Archive(f"{hub.store}/x.zip", gap=20_000)
        before = len(hub.log)
        far.extract(["m100/a", "m102/b", "m200/a"], tmp_path / "near")
        assert len(hub.log) == before + 2  # what lies near is one request


def test_threads_wait_for_a_server_side_by_side(tmp_path: Path) -> None:
    class Slow(Counted):
        now = most = 0

        def read(self, start: int, end: int) -> bytes:
            self.now += 1
            self.most = max(self.most, self.now)
            time.sleep(0.05)
            self.now -= 1
            return super().read(start, end)

    files = many(40)
    slow = Slow(packed(files))
    archive = Archive(slow)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: archive.extract([n], tmp_path / n.replace("/", "-")), files))
    assert slow.most >= 3
    for name, data in files.items():
        assert (tmp_path / name.replace("/", "-") / name).read_bytes() == data


def test_any_file_system_of_fsspec(tmp_path: Path) -> None:
    data = packed({"a": b"1" * 1000, "b": os.urandom(500)})
    fsspec.filesystem("memory").pipe("/g3d-test/x.zip", data)
    archive = Archive("memory://g3d-test/x.zip")
    assert (archive.extract(["a"], tmp_path / "out") / "a").read_bytes() == b"1" * 1000
    assert UrlRanges("memory://g3d-test/x.zip").read(3, 9) == data[3:9]
    local = put(tmp_path / "x.zip", data)
    assert Archive(f"file://{local}").read("b") == Archive(local).read("b")


def test_a_zip_in_a_zip(tmp_path: Path) -> None:
    inner = packed({"a": b"x" * 999})
    outer = packed({"first": os.urandom(70_000), "in.zip": inner}, compression=zipfile.ZIP_STORED)
    ranges = Counted(outer)
    nested = Archive(ranges, "o.zip").nested("in.zip")
    assert nested.read("a") == b"x" * 999
    assert nested.name == "o.zip/in.zip"
    assert ranges.total < 80_000
    with pytest.raises(AssetError, match="packed twice"):
        Archive(Counted(packed({"in.zip": inner * 9}))).nested("in.zip")


def test_two_at_once_and_what_a_killed_process_left(tmp_path: Path) -> None:
    archive = Archive(Counted(packed({"a": b"1" * 100_000, "b": b"2"})))
    old, young = tmp_path / "out.tmp-1-dead", tmp_path / "out.tmp-2-alive"
    for folder in (old, young):
        folder.mkdir()
        (folder / "a").write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: archive.extract(["a", "b"], tmp_path / "out"), range(8)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "out.tmp-2-alive"]
    assert (tmp_path / "out" / "a").read_bytes() == b"1" * 100_000


@given(st.binary(max_size=300), st.lists(st.tuples(st.integers(0, 350), st.integers(-1, 400))))
@settings(deadline=None, max_examples=60)
def test_a_range_file_reads_as_a_file_does(data: bytes, steps: list[tuple[int, int]]) -> None:
    file, plain = RangeFile(Counted(data), "x"), io.BytesIO(data)
    file.fetch(len(data) // 3, len(data) // 2)
    for offset, size in steps:
        assert file.seek(offset) == plain.seek(offset)
        assert file.read(size) == plain.read(size)
        assert file.tell() == plain.tell()


@given(st.dictionaries(st.from_regex(r"[a-z]{1,6}(/[a-z]{1,6})?\.[a-z]", fullmatch=True),
                       st.binary(max_size=2000), min_size=1, max_size=8))  # fmt: skip
@settings(deadline=None, max_examples=25)
def test_what_goes_in_comes_out(files: dict[str, bytes]) -> None:
    archive = Archive(Counted(packed(files)))
    assert {name: archive.read(name) for name in archive.members} == files


def test_the_cache_is_below_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("G3D_CACHE", raising=False)
    monkeypatch.setenv("G3D_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.setenv("G3D_CACHE", str(tmp_path / "else"))
    assert cache_folder() == tmp_path / "else"
    assert LocalRanges(put(tmp_path / "f", b"abc")).read(1, 9) == b"bc"
