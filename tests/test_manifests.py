"""Shards, splits, atomic files, and the records of a dataset."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import subprocess
import sys
import tarfile
from collections import Counter
from typing import BinaryIO

import pytest
from g3d.errors import DatasetError, DiskError
from g3d.manifests.atomic import atomic_file, remove_temporaries, write_atomic
from g3d.manifests.records import AssetRecord, DatasetInfo
from g3d.manifests.shards import (
    UID_LIMIT,
    ShardReader,
    decode_members,
    encode_piece,
    sha256_file,
    write_shard,
)
from g3d.manifests.splits import SplitFractions, require_train, split_of
from hypothesis import given, settings
from hypothesis import strategies as st

UIDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,83}", fullmatch=True)


@given(
    st.lists(
        st.tuples(UIDS, st.lists(st.binary(max_size=1500), min_size=1, max_size=3)),
        min_size=1,
        max_size=4,
        unique_by=lambda item: item[0],
    )
)
@settings(deadline=None, max_examples=40)
def test_a_shard_is_what_plain_tarfile_reads(tmp_path_factory, assets):
    path = tmp_path_factory.mktemp("shard") / "shards" / "train-00000.tar"
    files = [[(f"{uid}.{n:03d}.rgba.png", d) for n, d in enumerate(data)] for uid, data in assets]
    pieces = [encode_piece(group) for group in files]
    written = write_shard(path, (piece.data for piece in pieces))
    assert (written.bytes, written.sha256) == (path.stat().st_size, sha256_file(path))
    with tarfile.open(path) as archive:
        found = [(m.name, archive.extractfile(m).read()) for m in archive.getmembers()]
        assert {(m.mtime, m.uid, m.gid, m.mode, m.uname) for m in archive} == {(0, 0, 0, 0o644, "")}
    assert found == [file for group in files for file in group]
    reader, start = ShardReader(path), 0
    for piece, group in zip(pieces, files, strict=True):
        assert decode_members(piece.data) == piece.members
        for member, (name, data) in zip(piece.members, group, strict=True):
            assert member.name == name
            assert reader.read(start + member.offset, member.length) == data
            # What WebDataset takes for the key.
            assert member.uid == name.split(".")[0]
        start += len(piece.data)


def test_equal_members_give_equal_bytes_and_other_order_does_not():
    files = [("a.000.rgba.png", b"x" * 700), ("a.json", b"{}")]
    assert encode_piece(files) == encode_piece(list(files))
    assert encode_piece(files).data != encode_piece(files[::-1]).data


def test_the_longest_uid_fits_and_a_longer_name_is_refused():
    encode_piece([("u" * UID_LIMIT + ".0000.normal.png", b"")])
    with pytest.raises(ValueError):
        encode_piece([("u" * 90 + ".0000.normal.png", b"")])


@pytest.mark.parametrize("cut", [1, 300, 513])
def test_a_cut_piece_is_noticed(cut):
    data = encode_piece([("a.000.rgba.png", b"x" * 700), ("a.json", b"{}")]).data
    with pytest.raises(DatasetError):
        decode_members(data[:-cut])


def test_reading_past_the_end_is_an_error(tmp_path):
    path = tmp_path / "s.tar"
    write_shard(path, [encode_piece([("a.json", b"{}")]).data])
    with pytest.raises(DatasetError, match="cut"):
        ShardReader(path).read(1000, 5000)
    with pytest.raises(DatasetError, match="cannot read"):
        ShardReader(tmp_path / "none.tar").read(0, 1)


def _write_and_fail(file: BinaryIO) -> None:
    file.write(b"new")
    raise ZeroDivisionError


def test_an_error_inside_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_atomic(path, b"old")
    with pytest.raises(ZeroDivisionError), atomic_file(path) as file:
        _write_and_fail(file)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EIO, "I/O|nput"),
    ],
)
def test_a_full_disk_is_a_disk_error_and_leaves_the_old_shard(tmp_path, monkeypatch, number, words):
    path = tmp_path / "train-00000.tar"
    pieces = [encode_piece([(f"{uid}.json", os.urandom(2000))]).data for uid in "abc"]
    write_shard(path, pieces)
    before = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match=words) as caught:
        write_shard(path, pieces[:1])
    assert caught.value.hint
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_midway_is_removed(tmp_path):
    """The operating system refuses real writes: a file size limit in a child process."""
    code = f"""
import resource, signal
from pathlib import Path
from g3d.errors import DiskError
from g3d.manifests.shards import write_shard
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    write_shard(Path({str(tmp_path)!r}) / "big.tar", [bytes(20_480)] * 10)
except DiskError as error:
    raise SystemExit(0 if "big.tar" in error.message and error.hint else 5)
raise SystemExit(6)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_temporaries_of_a_killed_process_are_removed_and_only_those(tmp_path):
    for name in ("a.tar.tmp-123", "a.tar", "tmp.json"):
        (tmp_path / name).write_bytes(b"")
    remove_temporaries(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar", "tmp.json"]


@given(UIDS, st.floats(0, 1), st.floats(0, 1))
@settings(deadline=None, max_examples=200)
def test_the_split_depends_on_the_uid_and_the_fractions_alone(uid, one, two):
    low, high = sorted((one, two))
    fractions = SplitFractions(train=low, val=high - low, test=1 - high)
    split = split_of(uid, fractions)
    assert split_of(uid, fractions) == split
    assert getattr(fractions, split) > 0
    # More train never takes an asset out of train.
    if split == "train":
        assert split_of(uid, SplitFractions(train=1, val=0, test=0)) == "train"


def test_splits_have_their_shares():
    counts = Counter(split_of(f"chair-{n:05d}", SplitFractions()) for n in range(20_000))
    assert counts["train"] / 20_000 == pytest.approx(0.80, abs=0.01)
    assert counts["val"] / 20_000 == pytest.approx(0.05, abs=0.006)
    assert counts["test"] / 20_000 == pytest.approx(0.15, abs=0.01)


def test_the_split_is_the_same_for_ever():
    """Known values: a change of the rule would move assets of existing datasets."""
    word = hashlib.blake2b(b"split\x1fchair-00000", digest_size=8).digest()
    share = int.from_bytes(word, "little") / 2**64
    fractions = SplitFractions(train=0.5, val=0.25, test=0.25)
    expected = "train" if share < 0.5 else "val" if share < 0.75 else "test"
    assert split_of("chair-00000", fractions) == expected


def test_fractions_must_add_up():
    with pytest.raises(ValueError, match="add up"):
        SplitFractions(train=0.8, val=0.1, test=0.2)


def test_nothing_to_train_on_is_an_error():
    with pytest.raises(DatasetError, match="'train'"):
        require_train(["test", "val"])
    require_train(["val", "train"])


def test_records_of_a_later_version_are_read_and_wrong_ones_are_not():
    line = {
        "uid": "a", "source": "folder", "source_id": "a.glb", "category": "car", "sha256": "0" * 64,
        "split": "train", "status": "failed", "stage": "load", "reason": "import", "new_field": 3,
    }  # fmt: skip
    record = AssetRecord.model_validate(line)
    assert (record.reason, record.views, record.shard) == ("import", 0, None)
    with pytest.raises(ValueError):
        AssetRecord.model_validate({**line, "status": "perhaps"})
    assert DatasetInfo.model_fields["schema_version"].alias == "schema"


def test_decode_members_reads_a_foreign_tar_piece():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        info = tarfile.TarInfo("b.json")
        info.size = 5
        archive.addfile(info, io.BytesIO(b"hello"))
    member = decode_members(buffer.getvalue()[:1024])[0]
    assert (member.name, member.offset, member.length) == ("b.json", 512, 5)
