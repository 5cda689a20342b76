"""Amazon Berkeley Objects: from a copy, and from a bucket that is served here."""

from __future__ import annotations

import gzip
import json
import struct
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from g3d.errors import AssetError, ConfigError, DatasetError
from g3d.manifests.categories import get_category, list_categories
from g3d.manifests.shards import UID_PATTERN
from g3d.pipeline.sources.abo import BUCKET, AboSource, digest_of, uid_of
from g3d.pipeline.sources.base import SourceAsset
from g3d.pipeline.sources.registry import categories_of, get_source
from g3d.pipeline.transfer.fetch import FetchSettings

HEAD = (
    "3dmodel_id,path,meshes,materials,textures,images,image_height_max,image_height_min,"
    "image_width_max,image_width_min,vertices,faces,extent_x,extent_y,extent_z"
)


def triangle() -> bytes:
    """A GLB with one triangle."""
    points = struct.pack("<9f", 0, 0, 0, 1, 0, 0, 0, 1, 0)
    document = {
        "asset": {"version": "2.0"},
        "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "buffers": [{"byteLength": 36}],
        "bufferViews": [{"buffer": 0, "byteLength": 36}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3",
                       "min": [0, 0, 0], "max": [1, 1, 0]}],
    }  # fmt: skip
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    body = struct.pack("<2I", len(text), 0x4E4F534A) + text
    body += struct.pack("<2I", 36, 0x004E4942) + points
    return struct.pack("<3I", 0x46546C67, 2, 12 + len(body)) + body


GLB = triangle()


def listing(item: str, model: str | None, kind: str, **more: Any) -> dict[str, Any]:
    values = {
        "brand": [{"language_tag": "de_DE", "value": "Marke"},
                  {"language_tag": "en_US", "value": "Rivet"}],
        "item_id": item,
        "domain_name": "amazon.com",
        "item_name": [{"language_tag": "de_DE", "value": f"{item} auf Deutsch"},
                      {"language_tag": "en_GB", "value": f"{item} British"},
                      {"language_tag": "en_US", "value": f"{item} Chair"}],
        "product_type": [{"value": kind}],
        **more,
    }  # fmt: skip
    return values | ({"3dmodel_id": model} if model else {})


LISTED = [
    listing("B1", "M1", "CHAIR"),
    listing("B2", "M2", "SOFA"),
    listing("B3", None, "CHAIR"),
    listing("B4", "GONE", "CHAIR"),
    # One model, three shops, and two of them call it something else.
    listing("B5", "M3", "HOME", domain_name="amazon.in"),
    listing("B6", "M3", "CHAIR", domain_name="amazon.co.uk"),
    listing("B7", "M3", "HOME", domain_name="amazon.de", brand=None,
            item_name=[{"language_tag": "de_DE", "value": "Stuhl"}]),
    listing("B8", "M4", "CHAIR", brand=[], product_type="CHAIR",
            item_name=[{"language_tag": "ja_JP", "value": "椅子"}]),
    listing("B9", "M5", "DESK"),
]  # fmt: skip


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def table(*models: str) -> bytes:
    rows = [f"{m},{m[-1]}/{m}.glb,1,1,3,3,4096,4096,4096,4096,3,1,1.0,1.0,0.0" for m in models]
    return gzip.compress("\n".join([HEAD, *rows, ""]).encode())


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    root = tmp_path / "bucket"
    put(root / "3dmodels/metadata/3dmodels.csv.gz", table("M4", "M1", "M2", "M3", "M5", "M9"))
    for model in ("M1", "M2", "M3", "M4"):
        put(root / f"3dmodels/original/{model[-1]}/{model}.glb", GLB)
    for n, digit in enumerate("0123456789abcdef"):
        lines = [json.dumps(one, ensure_ascii=n % 2 == 0) for one in LISTED[n::16]]
        data = gzip.compress("\n".join([*lines, ""]).encode())
        put(root / f"listings/metadata/listings_{digit}.json.gz", data)
    return root


@pytest.fixture
def served(bucket: Path) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(bucket)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def listed(root: Path | str, category: str = "chair", **more: Any) -> dict[str, SourceAsset]:
    source = get_source("abo", category=category, root=root, **more)
    return {a.source_id: a for a in source.list()}


def test_the_models_of_a_category(bucket: Path) -> None:
    chairs = listed(bucket)
    # By id; one of its shops calls M3 a chair; GONE is in no table of models.
    assert list(chairs) == ["M1", "M3", "M4"]
    first = chairs["M1"]
    assert first.uid == "abo-M1"
    assert (first.license, first.author) == ("CC-BY-4.0", "Amazon.com (Rivet)")
    assert first.url == f"{BUCKET}/3dmodels/original/1/M1.glb"
    assert (first.title, first.category, first.bytes) == ("B1 Chair", "chair", len(GLB))
    assert json.loads(json.dumps(first.spec)) == {"path": "1/M1.glb"}
    assert list(listed(bucket, "sofa")) == ["M2"]
    assert list(listed(bucket, "desk")) == ["M5"]
    assert list(listed(bucket, limit=2)) == ["M1", "M3"]
    assert all(UID_PATTERN.fullmatch(a.uid) for a in chairs.values())


def test_titles_are_english_where_there_is_one(bucket: Path) -> None:
    chairs = listed(bucket)
    assert chairs["M3"].title == "B6 Chair"  # neither of India nor the German one
    assert (chairs["M4"].title, chairs["M4"].author) == ("椅子", "Amazon.com")


def test_the_digest_covers_what_the_table_says(bucket: Path) -> None:
    before = listed(bucket)
    path = bucket / "3dmodels/metadata/3dmodels.csv.gz"
    text = gzip.decompress(path.read_bytes()).decode()
    path.write_bytes(gzip.compress(text.replace("3/M3.glb,1,1,3", "3/M3.glb,2,1,3").encode()))
    after = listed(bucket)
    assert {m for m in before if before[m].sha256 != after[m].sha256} == {"M3"}
    assert len({a.sha256 for a in after.values()}) == len(after)
    # Neither what a shop says nor what is not known of old copies.
    assert digest_of({"3dmodel_id": "a", "path": "p"}) == digest_of(
        {"3dmodel_id": "a", "path": "p", "faces": "", "image_height_max": "9"}
    )


def test_a_copy_may_be_uncompressed_and_lack_listings(bucket: Path, caplog: Any) -> None:
    whole = listed(bucket)
    for path in [*bucket.rglob("*.csv.gz"), *bucket.rglob("*.json.gz")]:
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert listed(bucket) == whole
    (bucket / "listings/metadata/listings_f.json").unlink()
    assert listed(bucket) == whole
    assert "15 of 16 listings" in caplog.text


def test_an_older_copy_keeps_its_licence(bucket: Path) -> None:
    put(bucket / "3dmodels/LICENSE-CC-BY-NC-4.0.txt", b"Attribution-NonCommercial")
    assert {a.license for a in listed(bucket).values()} == {"CC-BY-NC-4.0"}


def test_a_bucket(served: tuple[str, list[str]], bucket: Path) -> None:
    url, asked = served
    source = get_source("abo", category="chair", root=f"{url}/")
    assert source.remote
    local = listed(bucket)
    remote = source.list()
    assert [(a.uid, a.sha256, a.title, a.url) for a in remote] == [
        (a.uid, a.sha256, a.title, a.url) for a in local.values()
    ]
    assert not any("original" in path for path in asked)  # no model is read for the list
    assert len(asked) == 17
    path = source.file(remote[0])
    assert path.read_bytes() == GLB
    assert path.suffix == ".glb"
    assert source.load(remote[0]).faces.shape == (1, 3)
    assert asked[17:] == ["/3dmodels/original/1/M1.glb"]
    # All of it comes from the cache the second time.
    offline = get_source(
        "abo", category="chair", root=url, fetch=FetchSettings(offline=True, retries=0)
    )
    assert offline.list() == remote
    assert offline.file(remote[0]) == path
    with pytest.raises(AssetError):
        offline.file(remote[1])
    assert len(asked) == 18


def test_a_model_that_is_gone_or_cut(served: tuple[str, list[str]], bucket: Path) -> None:
    url, _ = served
    settings = FetchSettings(retries=0)
    near, far = (get_source("abo", category="chair", root=r, fetch=settings) for r in (bucket, url))
    for source in (near, far):
        first, second = source.list()[:2]
        glb = bucket / "3dmodels/original" / first.spec["path"]
        (bucket / "3dmodels/original" / second.spec["path"]).unlink(missing_ok=True)
        with pytest.raises(AssetError) as caught:
            source.file(second)
        assert caught.value.reason in ("gone", "download")
        for data in (GLB[:-4], b"<html>busy</html>", b""):
            glb.write_bytes(data)
            with pytest.raises(AssetError) as caught:
                source.file(first)
            assert (caught.value.reason, caught.value.stage) == ("checksum", "fetch")
        glb.write_bytes(GLB)
        assert source.file(first).read_bytes() == GLB  # a bad file does not stay in the cache


def test_a_path_that_leads_out(bucket: Path) -> None:
    source = AboSource("chair", str(bucket))
    asset = source.list()[0]
    wrong = SourceAsset(**{**asset.__dict__, "spec": {"path": "../../../secret.glb"}})
    put(bucket.parent / "secret.glb", GLB)
    with pytest.raises(AssetError, match="leads out"):
        source.file(wrong)


def test_places_that_are_no_copy(bucket: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a folder"):
        listed(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"has no 3dmodels/metadata/3dmodels\.csv\.gz"):
        listed(tmp_path)
    put(tmp_path / "part/3dmodels/metadata/3dmodels.csv.gz", table("M1"))
    with pytest.raises(DatasetError, match="listings_0") as caught:
        listed(tmp_path / "part")
    assert "abo-listings.tar" in (caught.value.hint or "")
    with pytest.raises(DatasetError, match="no models of BENCH"):
        listed(bucket, "bench")
    with pytest.raises(DatasetError, match="cannot be listed"):
        listed("memory://nothing/there", fetch=FetchSettings(retries=0))
    path = bucket / "listings/metadata/listings_3.json.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DatasetError, match="damaged"):
        listed(bucket)
    path.write_bytes(gzip.compress(b'{"3dmodel_id": "M1"\n'))
    with pytest.raises(DatasetError, match="broken line"):
        listed(bucket)
    put(bucket / "3dmodels/metadata/3dmodels.csv.gz", gzip.compress(b"id,name\n1,2\n"))
    with pytest.raises(DatasetError, match="no column 3dmodel_id, path"):
        listed(bucket)


def test_categories_and_the_default_place() -> None:
    with pytest.raises(ConfigError, match="no category 'car'") as caught:
        get_source("abo", category="car")
    assert caught.value.hint == "g3d prepare --list-categories abo"
    source = get_source("abo", category="couch")
    assert isinstance(source, AboSource)
    assert (source.root, source.category, source.remote) == (BUCKET, "sofa", True)
    names = [c.name for c in categories_of("abo")]
    assert {"chair", "sofa", "table", "lamp", "bed", "bench", "cabinet"} <= set(names)
    assert "car" not in names
    types = [kind for c in list_categories() for kind in c.abo]
    assert len(types) == len(set(types))
    assert all(kind == kind.upper() and " " not in kind for kind in types)
    assert get_category("desk").abo == ("TABLE", "DESK")


def test_uids() -> None:
    assert uid_of("B075X41RLD") == "abo-B075X41RLD"
    strange = [uid_of(m) for m in ("a b", "a/b", "é", "x" * 200)]
    assert len(set(strange)) == 4
    assert all(UID_PATTERN.fullmatch(u) for u in strange)
