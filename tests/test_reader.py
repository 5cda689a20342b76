"""Random access to views, and an order of epochs that ranks and workers share and that resumes."""

from __future__ import annotations

import copy
import io
import itertools
import multiprocessing
import shutil
import subprocess
import sys
import tarfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from g3d.errors import ConfigError, DatasetError
from g3d.manifests.dataset import Dataset
from g3d.manifests.png import decode_png
from g3d.manifests.reader import EpochSampler, ShardOrder, ViewDataset
from g3d.pipeline.config import PrepareConfig
from g3d.pipeline.prepare import prepare
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

CONFIG = PrepareConfig.model_validate(
    {
        "source": "procedural",
        "category": "table",
        "limit": 10,
        "views": 3,
        "render": {"size": 32, "supersample": 2},
        "shard_size": 2,
        "workers": 0,
    }
)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("made") / "tables"
    prepare(CONFIG, out)
    return out


def png(image: np.ndarray, mode: str = "RGBA", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image, mode).save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_items_are_what_the_dataset_reads(made):
    plain, data = Dataset.open(made), ViewDataset(made, None, verify=True)
    assert len(data) == len(plain.views()) == 30
    for row in (0, 7, 29, -1, np.int64(3)):
        item, view = data[row], plain.views()[row]
        np.testing.assert_array_equal(item["rgba"], plain.read_view(view))
        np.testing.assert_array_equal(item["c2w"], plain.views().c2w[row])
        assert item["fov_y"] == plain.views().fov_y[row]
        assert (item["uid"], item["view"], item["index"]) == (view.uid, view.view, int(row) % 30)
    assert len(ViewDataset(plain)) == len(plain.views("train"))
    assert ViewDataset(made, transform=lambda item: item["uid"])[0] == data[0]["uid"]
    for row in (30, -31):
        with pytest.raises(IndexError):
            data[row]


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_a_url_reads_the_same(made, scheme):
    near, url = ViewDataset(made, None), f"file://{made}"
    if scheme == "memory":
        import fsspec

        store, url = fsspec.filesystem("memory"), "memory://tables"
        store.put(str(made), "/tables", recursive=True)
    far = ViewDataset(url, None)
    assert far._local == (scheme == "file")
    for row in (3, 20):
        np.testing.assert_array_equal(far[row]["rgba"], near[row]["rgba"])
    # What a spawned worker gets: no open file, and the same views.
    twin = copy.deepcopy(far)
    assert not twin._files
    assert twin._dataset is None
    np.testing.assert_array_equal(twin[3]["rgba"], near[3]["rgba"])


def test_a_fork_opens_its_own_files_and_threads_share_them(made):
    data = ViewDataset(made, None)
    expected = [data[row]["rgba"].tobytes() for row in range(len(data))]
    mine = {name: file.handle for name, file in data._files.items()}
    assert len(mine) == len(data._dataset.info.shards)
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda row: data[row]["rgba"].tobytes(), list(range(30)) * 4))
    assert got == expected * 4
    context = multiprocessing.get_context("fork")
    queue = context.Queue()

    def child() -> None:
        before = data._process
        good = all(data[row]["rgba"].tobytes() == expected[row] for row in range(len(data)))
        queue.put((good, before != data._process))

    process = context.Process(target=child)
    process.start()
    assert queue.get(timeout=60) == (True, True)
    process.join(60)
    assert {name: file.handle for name, file in data._files.items()} == mine


def test_few_files_are_held_open(made, monkeypatch):
    monkeypatch.setattr("g3d.manifests.reader.OPEN_FILES", 2)
    data = ViewDataset(made, None)
    for row in range(len(data)):
        data[row]
    assert len(data._files) == 2


def test_damage_names_shard_view_and_asset(made, tmp_path):
    place = Path(shutil.copytree(made, tmp_path / "tables"))
    view = Dataset.open(place).views()[5]
    raw = bytearray((place / view.shard).read_bytes())
    raw[view.offset + view.length // 2] ^= 1
    (place / view.shard).write_bytes(raw)
    data = ViewDataset(place, None)
    with pytest.raises(DatasetError, match=f"{view.shard}: view {view.view} of {view.uid}"):
        data[5]
    with pytest.raises(DatasetError, match="SHA-256"):
        ViewDataset(place, None, verify=True)[5]
    (place / view.shard).write_bytes(raw[: view.offset + 10])
    with pytest.raises(DatasetError, match="cut"):
        data[5]


def test_torch_loader_with_workers_shared_out_to_two_ranks(made):
    torch = pytest.importorskip("torch")
    data, seen = ViewDataset(made, None), []
    for rank in range(2):
        sampler = EpochSampler(data, seed=3, rank=rank, ranks=2)
        loader = torch.utils.data.DataLoader(data, batch_size=4, sampler=sampler, num_workers=2)
        for batch in loader:
            assert batch["rgba"].dtype == torch.uint8
            assert batch["rgba"].shape[1:] == (32, 32, 4)
            assert batch["c2w"].dtype == torch.float64
            seen += batch["index"].tolist()
            for n, row in enumerate(batch["index"].tolist()):
                np.testing.assert_array_equal(batch["rgba"][n].numpy(), data[row]["rgba"])
    assert sorted(seen) == list(range(30))


def parts(length: int, ranks: int, workers: int, **options: object) -> list[EpochSampler]:
    return [
        EpochSampler(length, rank=r, ranks=ranks, worker=w, workers=workers, **options)
        for r, w in itertools.product(range(ranks), range(workers))
    ]


@given(st.integers(0, 60), st.integers(1, 4), st.integers(1, 3), st.booleans(), st.integers(0, 9))
def test_ranks_and_workers_partition_every_epoch(length, ranks, workers, shuffle, seed):
    samplers = parts(length, ranks, workers, shuffle=shuffle, seed=seed)
    epochs = []
    for _ in range(2):
        sizes = [len(sampler) for sampler in samplers]
        taken = [list(sampler) for sampler in samplers]
        assert [len(part) for part in taken] == sizes
        assert sorted(itertools.chain(*taken)) == list(range(length))
        epochs.append(taken)
    if shuffle and length > 20:
        assert epochs[0] != epochs[1]
    even = parts(length, ranks, workers, seed=seed, even=True)
    taken = [list(sampler) for sampler in even]
    assert {len(part) for part in taken} == {length // (ranks * workers)}
    assert len(set(itertools.chain(*taken))) == sum(map(len, taken))


@given(st.integers(1, 60), st.integers(0, 40), st.integers(1, 3), st.integers(1, 3))
def test_stopping_and_going_on_gives_the_same_order(length, stop, ranks, later):
    whole = [list(sampler) for sampler in parts(length, ranks, 1, seed=7)]
    stop = min(stop, min(map(len, whole)))
    states, head = [], []
    for sampler in parts(length, ranks, 1, seed=7):
        head.append(list(itertools.islice(sampler, stop)))
        states.append(sampler.state_dict())
    assert all(state == states[0] for state in states)
    resumed = parts(length, ranks, 1, seed=7)
    for n, sampler in enumerate(resumed):
        sampler.load_state_dict(states[0])
        assert head[n] + list(sampler) == whole[n]
        assert sampler.epoch == 1
    # Another number of ranks takes the rest, and nothing twice.
    rest = []
    for sampler in parts(length, later, 1, seed=7):
        sampler.load_state_dict(states[0])
        rest += list(sampler)
    assert sorted(rest + list(itertools.chain(*head))) == list(range(length))


def test_a_loader_that_fetched_ahead_says_how_many_were_used():
    sampler = EpochSampler(20, seed=1)
    whole = list(EpochSampler(20, seed=1))
    given_out = list(itertools.islice(sampler, 12))
    again = EpochSampler(20, seed=1)
    again.load_state_dict(sampler.state_dict(used=5))
    assert given_out[:5] + list(again) == whole
    for wrong in (EpochSampler(20, seed=2), EpochSampler(21, seed=1)):
        with pytest.raises(ConfigError, match="order is another"):
            wrong.load_state_dict(sampler.state_dict())
    with pytest.raises(ConfigError, match="rank 2 of 2"):
        EpochSampler(20, rank=2, ranks=2)


def test_shard_order_stays_within_a_few_shards(made):
    views = Dataset.open(made).views()
    order = ShardOrder(views, mix=2)
    sampler = EpochSampler(order, seed=5)
    rows = np.array(list(sampler))
    assert sorted(rows.tolist()) == list(range(len(views)))
    for start in range(0, len(rows), 12):  # two shards of six views
        near = np.unique(views.shard[rows[start : start + 6]])
        assert len(near) <= 4
    changes = (views.shard[rows][1:] != views.shard[rows][:-1]).mean()
    assert 0 < changes < 1
    assert list(EpochSampler(order, seed=5)) == rows.tolist()
    with pytest.raises(ConfigError, match="mix"):
        ShardOrder(views, mix=0)


def test_webdataset_streams_the_same_images(made):
    web = pytest.importorskip("webdataset")
    plain = Dataset.open(made)
    urls = [f"file:{made / shard.file}" for shard in plain.info.shards]
    found = {}
    for sample in web.WebDataset(urls, shardshuffle=False):
        for n in range(3):
            found[sample["__key__"], n] = np.array(
                Image.open(io.BytesIO(sample[f"{n:03d}.rgba.png"]))
            )
        assert b'"views"' in sample["json"]
        assert np.load(io.BytesIO(sample["points.npy"])).shape == (2048, 3)
    views = plain.views()
    assert len(found) == len(views)
    for row in views:
        np.testing.assert_array_equal(found[row.uid, row.view], plain.read_view(row))


def test_a_plain_stream_groups_by_key(made):
    """What every reader of that kind does: cut at the first dot, a new key is a new sample."""
    plain = Dataset.open(made)
    keys: list[str] = []
    for shard in plain.info.shards:
        with tarfile.open(made / shard.file, "r|") as archive:
            for member in archive:
                key = member.name.partition(".")[0]
                if not keys or keys[-1] != key:
                    keys.append(key)
    assert keys == [record.uid for record in plain.assets()]


@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(0, 9), st.integers(0, 3), st.integers(0, 99)
)
def test_the_decoder_agrees_with_pillow(width, height, level, kind, seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 4), np.uint8)
    if kind == 1:
        image //= 64
    elif kind == 2:
        image[:, : width // 2] = 0
    elif kind == 3:  # smooth: all filters are used
        ramp = np.add.outer(np.arange(height) * 3, np.arange(width) * 2)
        image = np.stack([ramp, ramp // 2, ramp * 3, ramp + seed], axis=-1).astype(np.uint8)
    data = png(image, compress_level=level)
    np.testing.assert_array_equal(decode_png(data), image)


def chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4)


@pytest.mark.parametrize("strategy", [zlib.Z_FIXED, zlib.Z_RLE, zlib.Z_HUFFMAN_ONLY])
@pytest.mark.parametrize("filter_type", [0, 1, 2, 3, 4, 5])
def test_every_filter_and_every_kind_of_block(filter_type, strategy):
    rng = np.random.default_rng(filter_type)
    rows = (rng.integers(0, 256, (50, 1 + 4 * 70)) ** 2 // 256).astype(np.uint8)
    rows[:, 0] = filter_type
    packer = zlib.compressobj(9, zlib.DEFLATED, 15, 9, strategy)
    packed = packer.compress(rows.tobytes()) + packer.flush()
    header = (70).to_bytes(4) + (50).to_bytes(4) + b"\x08\x06\x00\x00\x00"
    pieces = [chunk(b"IDAT", packed[n : n + 999]) for n in range(0, len(packed), 999)]
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(pieces) + chunk(b"IEND", b"")
    if filter_type == 5:
        with pytest.raises(ValueError, match="filter"):
            decode_png(data)
        return
    np.testing.assert_array_equal(decode_png(data), np.array(Image.open(io.BytesIO(data))))


def test_other_pngs_are_left_to_pillow():
    rng = np.random.default_rng(0)
    for mode, shape in (("RGB", (5, 6, 3)), ("L", (5, 6))):
        image = rng.integers(0, 256, shape, np.uint8)
        np.testing.assert_array_equal(decode_png(png(image, mode)), image)


@given(st.integers(0, 10_000), st.integers(1, 255), st.booleans())
def test_damaged_pngs_raise_and_nothing_else(place, flip, mend):
    """With the checksum mended the stream itself is wrong: it must end, and within its buffer."""
    image = np.random.default_rng(1).integers(0, 30, (20, 20, 4), np.uint8)
    data = bytearray(png(image))
    place = 41 + place % (len(data) - 61) if mend else place % len(data)
    data[place] ^= flip
    if mend:
        size = int.from_bytes(data[33:37])
        data[41 + size : 45 + size] = zlib.crc32(data[37 : 41 + size]).to_bytes(4)
    try:
        out = decode_png(bytes(data))
    except ValueError:
        return
    assert out.dtype == np.uint8
    with pytest.raises(ValueError):
        decode_png(bytes(data[:place]))


def test_reading_imports_no_torch_and_no_ray(made):
    code = (
        "import sys; from g3d.manifests.reader import ViewDataset\n"
        f"ViewDataset({str(made)!r})[0]\n"
        "assert not {'torch', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
