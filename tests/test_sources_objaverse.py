"""Objaverse through the real package: its cache laid out here, its addresses answered here.

The package's addresses are https. A loopback server is named as the proxy for https, takes the
place of every host, and shows a certificate that only these tests trust: no code is replaced.
"""

from __future__ import annotations

import datetime
import gzip
import hashlib
import json
import os
import signal
import ssl
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from g3d.errors import AssetError, ConfigError, DatasetError, DiskError, MissingDependency
from g3d.manifests.categories import get_category
from g3d.manifests.dataset import Dataset
from g3d.manifests.shards import UID_PATTERN
from g3d.pipeline.config import PrepareConfig
from g3d.pipeline.prepare import prepare
from g3d.pipeline.sources.base import FileSource, Source
from g3d.pipeline.sources.objaverse import ObjaverseSource
from g3d.pipeline.sources.objaverse_xl import ObjaverseXLSource
from g3d.pipeline.sources.registry import categories_of, get_source
from g3d.pipeline.transfer.fetch import FetchSettings
from g3d.renderers.base import RenderSettings

objaverse = pytest.importorskip("objaverse")

HUB = "https://huggingface.co/datasets/allenai/objaverse/resolve/main"
XL_HUB = "https://huggingface.co/datasets/allenai/objaverse-xl/resolve/main"
HOSTS = ["huggingface.co", "3d-api.si.edu", "www.thingiverse.com"]
QUICK = FetchSettings(retries=2, backoff_s=0.01, timeout_s=5.0)
OFFLINE = FetchSettings(offline=True)
BIKES = [hashlib.md5(f"bike {n}".encode()).hexdigest() for n in range(5)]
DIRT, MUG, LOST = (hashlib.md5(name).hexdigest() for name in (b"dirt", b"mug", b"lost"))


# --- what is served --------------------------------------------------------------------------


def box_glb(size: tuple[float, float, float] = (2.0, 1.0, 0.6)) -> bytes:
    """A box as a GLB, written byte by byte."""
    x, y, z = (0.5 * s for s in size)
    corners = [(i * x, j * y, k * z) for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)]
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [f for a, b, c, d in quads for f in (a, b, c, a, c, d)]
    positions = np.array(corners, "<f4").tobytes()
    indices = np.array(faces, "<u2").tobytes()
    document = {
        "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "materials": [{"pbrMetallicRoughness": {"baseColorFactor": [0.8, 0.2, 0.1, 1]}}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1, "material": 0}]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 8, "type": "VEC3",
             "min": [-x, -y, -z], "max": [x, y, z]},
            {"bufferView": 1, "componentType": 5123, "count": 36, "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": len(positions)},
            {"buffer": 0, "byteOffset": len(positions), "byteLength": len(indices)},
        ],
        "buffers": [{"byteLength": len(positions) + len(indices)}],
    }  # fmt: skip
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    body = struct.pack("<II", len(text), 0x4E4F534A) + text
    binary = positions + indices
    body += struct.pack("<II", len(binary), 0x004E4942) + binary
    return b"glTF" + struct.pack("<II", 2, 12 + len(body)) + body


def path_of(uid: str) -> str:
    return f"glbs/000-{int(uid[:2], 16) % 3:03d}/{uid}.glb"


def annotation(uid: str, **more: Any) -> dict[str, Any]:
    return {
        "uid": uid, "uri": f"https://api.sketchfab.com/v3/models/{uid}", "name": f"Bike {uid[:4]}",
        "license": "by", "viewerUrl": f"https://sketchfab.com/3d-models/{uid}",
        "user": {"username": "maker", "displayName": "The Maker"}, "viewCount": 7,
        "archives": {"glb": {"size": len(box_glb()), "faceCount": 12, "type": "glb"}},
    } | more  # fmt: skip


LICENSES = {BIKES[1]: "by-nc-sa", BIKES[2]: "cc0", BIKES[3]: "", DIRT: "by-nd"}
LVIS = {
    "motorcycle": [*BIKES, LOST], "dirt_bike": [DIRT, BIKES[0]], "mug": [MUG], "zebra": [LOST],
}  # fmt: skip
LISTED = sorted([*BIKES, DIRT])
EVERY = [*BIKES, DIRT, MUG]


def packed(value: Any) -> bytes:
    return gzip.compress(json.dumps(value).encode())


def hub_files() -> dict[str, bytes]:
    """All of a small Objaverse 1.0 but its objects, by path."""
    chunks: dict[str, dict[str, Any]] = {}
    for uid in EVERY:
        facts = annotation(uid, license=LICENSES.get(uid, "by"))
        chunks.setdefault(path_of(uid).split("/")[1], {})[uid] = facts
    out = {f"metadata/{chunk}.json.gz": packed(data) for chunk, data in chunks.items()}
    out["lvis-annotations.json.gz"] = packed(LVIS)
    out["object-paths.json.gz"] = packed({uid: path_of(uid) for uid in EVERY})
    return out


def lay_out(base: Path, objects: list[str]) -> Path:
    """The package's cache with everything but the objects that are left out."""
    files = hub_files() | {path_of(uid): box_glb() for uid in objects}
    for name, data in files.items():
        place = base / "hf-objaverse-v1" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    return base


# --- who serves it ---------------------------------------------------------------------------


class Web:
    """All of the internet that a test has: bytes or behaviours by address."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.pages: dict[str, Any] = {}
        self.asked: list[str] = []

    def hub(self, **pages: bytes) -> None:
        self.pages |= {f"{HUB}/{name}": data for name, data in (hub_files() | pages).items()}


Answer = Callable[[BaseHTTPRequestHandler], None]


def status(code: int, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def cut(data: bytes, keep: int, honest: bool = True) -> Answer:
    """A connection that ends early; not ``honest``: without saying how much there was to come."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        if honest:
            handler.send_header("Content-Length", str(len(data)))
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(data[:keep])
        handler.close_connection = True

    return answer


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(1 << 40))
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b"glTF" * 8192)
            time.sleep(0.002)
    except OSError:
        handler.close_connection = True


def silent(handler: BaseHTTPRequestHandler) -> None:
    handler.server.quiet.wait(20)  # type: ignore[attr-defined]
    handler.close_connection = True


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for all hosts, signed by itself, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "g3d tests")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(h) for h in HOSTS]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    cert, secret = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )  # fmt: skip
    return cert, secret


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def web(trust: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A proxy that answers for every host itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*trust)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_CONNECT(self) -> None:
            self.send_response(200)
            self.end_headers()
            try:
                self.connection = context.wrap_socket(self.connection, server_side=True)
            except (OSError, ssl.SSLError):
                self.close_connection = True
                return
            self.rfile = self.connection.makefile("rb")  # type: ignore[assignment]
            self.wfile = self.connection.makefile("wb", 0)  # type: ignore[assignment]
            self.close_connection = False

        def do_GET(self) -> None:
            address = f"https://{self.headers['Host']}{self.path}"
            found.asked.append(address)
            page = found.pages.get(address, status(404))
            if isinstance(page, list):
                page = page.pop(0) if len(page) > 1 else page[0]
            if callable(page):
                page(self)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        quiet = threading.Event()

        def handle_error(self, *_: Any) -> None:
            pass  # a client that is killed

    server = Server(("127.0.0.1", 0), Handler)
    found = Web(server.server_address[1])
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{found.port}")
    monkeypatch.setenv("SSL_CERT_FILE", str(trust[0]))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(trust[0]))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield found
    server.quiet.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package's folder; nothing half-made is left in it."""
    base = tmp_path / "dot-objaverse"
    monkeypatch.setattr(objaverse, "BASE_PATH", str(base))
    monkeypatch.setenv("G3D_CACHE", str(tmp_path / "cache"))
    yield base
    left = [p for p in base.rglob("*") if ".tmp" in p.name and not p.name.endswith("-lock")]
    assert not left


def bikes(fetch: FetchSettings = QUICK, **options: Any) -> ObjaverseSource:
    found = get_source("objaverse", category="motorcycle", fetch=fetch, **options)
    assert isinstance(found, ObjaverseSource)
    return found


# --- Objaverse 1.0 ---------------------------------------------------------------------------


def test_the_cache_is_listed_without_a_network(place: Path) -> None:
    lay_out(place, EVERY)
    source = bikes(OFFLINE)
    assets = source.list()
    assert isinstance(source, Source)
    assert not isinstance(source, FileSource)
    assert source.remote
    assert source.name == "objaverse"
    assert [a.uid for a in assets] == LISTED  # both labels, each object once, no lost one
    assert all(UID_PATTERN.fullmatch(a.uid) and len(a.sha256) == 64 for a in assets)
    found = {a.uid: a for a in assets}
    first = found[BIKES[0]]
    assert (first.license, first.author, first.title) == (
        "CC-BY-4.0", "The Maker", f"Bike {BIKES[0][:4]}",
    )  # fmt: skip
    assert first.url == f"https://sketchfab.com/3d-models/{BIKES[0]}"
    assert first.bytes == len(box_glb())
    assert found[BIKES[1]].license == "CC-BY-NC-SA-4.0"
    assert found[BIKES[2]].license == "CC0-1.0"
    assert found[BIKES[3]].license == "unknown"
    assert found[DIRT].license == "CC-BY-ND-4.0"
    assert source.load(first).vertices.shape == (8, 3)
    assert source.default_camera.fov_y_deg < 35
    assert source.list() == assets  # from g3d's own extracts now


def test_limit_takes_the_first_and_changes_no_asset(place: Path) -> None:
    lay_out(place, [])
    every = bikes(OFFLINE).list()
    assert bikes(OFFLINE, limit=2).list() == every[:2]


def test_digest_follows_the_object_and_not_its_popularity(place: Path) -> None:
    lay_out(place, [])
    before = {a.uid: a.sha256 for a in bikes(OFFLINE).list()}
    assert len(set(before.values())) == len(before)
    chunk = place / "hf-objaverse-v1" / "metadata" / f"{path_of(BIKES[0]).split('/')[1]}.json.gz"
    data = json.loads(gzip.decompress(chunk.read_bytes()))
    data[BIKES[0]] |= {"viewCount": 8_000_000, "license": "cc0"}
    chunk.write_bytes(packed(data))
    os.utime(chunk, ns=(1, 1))
    assert {a.uid: a.sha256 for a in bikes(OFFLINE).list()} == before
    assert {a.uid: a.license for a in bikes(OFFLINE).list()}[BIKES[0]] == "CC0-1.0"
    data[BIKES[0]]["archives"]["glb"]["faceCount"] = 13
    chunk.write_bytes(packed(data))
    os.utime(chunk, ns=(2, 2))
    after = {a.uid: a.sha256 for a in bikes(OFFLINE).list()}
    assert {uid for uid in after if after[uid] != before[uid]} == {BIKES[0]}


def test_root_names_the_cache(tmp_path: Path, place: Path) -> None:
    other = lay_out(tmp_path / "elsewhere", EVERY)
    expected = bikes(OFFLINE, root=other).list()
    assert bikes(OFFLINE, root=other / "hf-objaverse-v1").list() == expected
    assert bikes(OFFLINE, root=other).file(expected[0]).is_relative_to(other)
    assert not place.exists()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"")
    for root, words in (
        (tmp_path / "photos", "holds no hf-objaverse-v1"),
        (tmp_path / "nowhere", "not a folder"),
        ("s3://bucket/objaverse", "is a URL"),
    ):
        with pytest.raises(ConfigError, match=words):
            bikes(root=root).list()


def test_category_without_labels() -> None:
    with pytest.raises(ConfigError, match="no label for 'house'") as caught:
        get_source("objaverse", category="house")
    assert "objaverse-xl --category house" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="did you mean 'motorbike'"):
        get_source("objaverse", category="motorbyke")
    names = {c.name for c in categories_of("objaverse")}
    assert "motorbike" in names
    assert "house" not in names


def test_labels_without_objects(place: Path) -> None:
    lay_out(place, [])
    with pytest.raises(DatasetError, match=r"no object of .* labelled chair, armchair"):
        get_source("objaverse", category="chair", fetch=OFFLINE).list()


def test_offline_says_what_is_missing(place: Path) -> None:
    with pytest.raises(ConfigError, match=r"lvis-annotations.json.gz is not in the cache.*offline"):
        bikes(OFFLINE).list()
    lay_out(place, [])
    source = bikes(OFFLINE)
    with pytest.raises(AssetError, match="offline") as caught:
        source.load(source.list()[0])
    assert (caught.value.reason, caught.value.stage) == ("download", "fetch")


def test_package_is_missing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "objaverse", None)
    with pytest.raises(MissingDependency) as caught:
        bikes().list()
    assert caught.value.hint == "pip install 'g3d[objaverse]'"
    lay_out(place, EVERY)  # what is there can be read without it
    source = bikes(OFFLINE, root=place)
    assert source.load(source.list()[0]).faces.shape == (12, 3)


def test_all_of_it_is_fetched_once(place: Path, web: Web) -> None:
    web.hub(**{path_of(uid): box_glb() for uid in EVERY})
    source = bikes()
    assets = source.list()
    assert [a.uid for a in assets] == LISTED
    assert not [a for a in web.asked if a.endswith(".glb")]  # listing fetches no object
    path = source.file(assets[0])
    assert path.read_bytes() == box_glb()
    assert path == place / "hf-objaverse-v1" / path_of(LISTED[0])
    assert len(web.asked) == len(set(web.asked))
    asked = len(web.asked)
    assert source.file(assets[0]) == path
    assert source.list() == assets
    assert len(web.asked) == asked
    # What lies there is what the package itself would read.
    script = (
        "import objaverse, sys; objaverse._VERSIONED_PATH = sys.argv[1];"
        "print(objaverse.load_objects([sys.argv[2]])[sys.argv[2]])"
    )
    folder = str(place / "hf-objaverse-v1")
    read = subprocess.run(
        [sys.executable, "-c", script, folder, LISTED[0]],
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    assert read.stdout.strip() == str(path)


@pytest.mark.parametrize(
    "first",
    [
        status(500), status(503, Retry_After="0"), status(429), cut(box_glb(), 300),
        cut(box_glb(), 300, honest=False), b"<html>come back later</html>", b"",
    ],
    ids=["500", "503", "429", "cut", "cut-unsaid", "page", "empty"],
)  # fmt: skip
def test_passing_failures_are_tried_again(place: Path, web: Web, first: Any) -> None:
    lay_out(place, [])
    source = bikes(limit=1)
    address = f"{HUB}/{path_of(LISTED[0])}"
    web.pages[address] = [first, box_glb()]
    assert source.file(source.list()[0]).read_bytes() == box_glb()
    assert web.asked == [address] * 2


@pytest.mark.parametrize(
    ("page", "reason", "tries"),
    [
        (status(404), "gone", 1), (status(410), "gone", 1), (status(401), "gated", 1),
        (status(403), "gated", 1), (status(400), "download", 1), (status(500), "download", 3),
        (cut(box_glb(), 300), "download", 3), (b"<html>", "download", 3),
    ],
)  # fmt: skip
def test_lasting_failures_are_typed(
    place: Path, web: Web, page: Any, reason: str, tries: int
) -> None:
    lay_out(place, [])
    source = bikes(limit=1)
    asset = source.list()[0]
    web.pages[f"{HUB}/{path_of(asset.uid)}"] = page
    with pytest.raises(AssetError) as caught:
        source.load(asset)
    assert (caught.value.reason, caught.value.stage) == (reason, "fetch")
    assert asset.uid in caught.value.message
    assert len(web.asked) == tries
    assert not list(place.rglob("*.glb"))


def test_server_names_the_pause(place: Path, web: Web) -> None:
    lay_out(place, [])
    source = bikes(limit=1)
    asset = source.list()[0]
    web.pages[f"{HUB}/{path_of(asset.uid)}"] = [status(429, Retry_After="1"), box_glb()]
    start = time.monotonic()
    source.file(asset)
    assert time.monotonic() - start >= 1.0


def test_silent_server_and_byte_limit(place: Path, web: Web) -> None:
    lay_out(place, [])
    hasty = FetchSettings(retries=0, timeout_s=0.5)
    source = bikes(hasty, limit=2)
    one, two = source.list()
    web.pages |= {f"{HUB}/{path_of(one.uid)}": silent, f"{HUB}/{path_of(two.uid)}": endless}
    start = time.monotonic()
    with pytest.raises(AssetError, match="timed out") as caught:
        source.file(one)
    assert caught.value.reason == "download"
    strict = replace(source, fetch=FetchSettings(max_bytes=100_000, timeout_s=5))
    with pytest.raises(AssetError, match=r"larger than fetch.max_bytes, 100000"):
        strict.file(replace(two, bytes=0))  # the annotation does not tell
    assert time.monotonic() - start < 15
    asked = len(web.asked)
    with pytest.raises(AssetError, match=r"more than fetch.max_bytes, 100\b"):
        replace(source, fetch=FetchSettings(max_bytes=100)).file(two)
    assert len(web.asked) == asked  # refused by the annotation alone


def test_damaged_files_in_the_cache_are_fetched_again(place: Path, web: Web) -> None:
    lay_out(place, EVERY)
    web.hub(**{path_of(LISTED[0]): box_glb()})
    folder = place / "hf-objaverse-v1"
    used = {f"metadata/{path_of(uid).split('/')[1]}.json.gz" for uid in LISTED}
    used |= {"lvis-annotations.json.gz", "object-paths.json.gz"}
    good = {name: (folder / name).read_bytes() for name in used}
    expected = bikes().list()
    assert not web.asked
    for name, data in good.items():
        (folder / name).write_bytes(data[:-20])  # as a run that was killed leaves it
    glb = folder / path_of(LISTED[0])
    glb.write_bytes(box_glb()[:-1])
    with pytest.raises(DatasetError, match=r"is damaged"):
        bikes(OFFLINE).list()
    with pytest.raises(AssetError) as caught:
        bikes(OFFLINE).file(expected[0])
    assert caught.value.reason == "checksum"
    assert glb.is_file()  # offline, what there is of it is kept
    assert bikes().list() == expected
    assert {n: gzip.decompress((folder / n).read_bytes()) for n in good} == {
        n: gzip.decompress(data) for n, data in good.items()
    }
    assert bikes().file(expected[0]).read_bytes() == box_glb()


def test_annotations_out_of_reach(web: Web) -> None:
    web.pages[f"{HUB}/lvis-annotations.json.gz"] = packed(LVIS)[:-9]
    with pytest.raises(DatasetError, match=r"lvis-annotations.json.gz cannot be fetched"):
        bikes().list()
    assert len(web.asked) == 3


def test_cache_that_cannot_be_written(place: Path, web: Web) -> None:
    lay_out(place, [])
    source = bikes(limit=1)
    asset = source.list()[0]
    (place / ".g3d").write_bytes(b"in the way")
    with pytest.raises(DiskError):
        source.file(asset)


def test_two_processes_may_fetch_the_same_object(place: Path, web: Web) -> None:
    lay_out(place, [])
    source = bikes(limit=1)
    asset = source.list()[0]
    web.pages[f"{HUB}/{path_of(asset.uid)}"] = box_glb((1, 1, 1))
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(source.file(asset))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_bytes() for path in found] == [box_glb((1, 1, 1))] * 3


def test_a_killed_worker_takes_its_download_with_it(place: Path, web: Web) -> None:
    lay_out(place, [])
    asset = bikes(limit=1).list()[0]
    address = f"{HUB}/{path_of(asset.uid)}"
    web.pages[address] = endless
    script = (
        "import sys, objaverse; from g3d.pipeline.sources.registry import get_source;"
        "source = get_source('objaverse', category='motorbike', root=sys.argv[1], limit=1);"
        "source.file(source.list()[0])"
    )
    worker = subprocess.Popen([sys.executable, "-c", script, str(place)])
    folders: list[Path] = []
    start = time.monotonic()
    while not (address in web.asked and folders) and time.monotonic() - start < 20:
        folders = list((place / ".g3d").glob("call*/hf-objaverse-v1/glbs/*/*.tmp"))
        time.sleep(0.05)
    assert folders, "the download has begun"
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    sizes: list[int] = []
    while sizes[-3:].count(sizes[-1] if sizes else -1) < 3 and time.monotonic() - start < 30:
        time.sleep(0.3)
        sizes.append(folders[0].stat().st_size)
    assert sizes[-1] == sizes[-3]  # nobody writes to it any more
    for left in (place / ".g3d").iterdir():
        subprocess.run(["rm", "-r", str(left)], check=True)


def test_data_set_is_made_and_gone_objects_are_recorded(
    place: Path, web: Web, tmp_path: Path
) -> None:
    lay_out(place, LISTED[:2])
    web.pages[f"{HUB}/{path_of(LISTED[2])}"] = [status(500), box_glb((1.0, 1.2, 0.9))]
    config = PrepareConfig(
        source="objaverse", category="motorbike", limit=4, views=2, workers=0, fetch=QUICK,
        render=RenderSettings(size=32, supersample=1), breaker_share=1.0,
        splits={"train": 1.0, "val": 0.0, "test": 0.0},
    )  # fmt: skip
    prepare(config, tmp_path / "out")
    records = {a.uid: a for a in Dataset.open(tmp_path / "out").records()}
    assert {uid: r.status for uid, r in records.items()} == {
        **dict.fromkeys(LISTED[:3], "accepted"), LISTED[3]: "failed",
    }  # fmt: skip
    lost = records[LISTED[3]]
    assert (lost.stage, lost.reason) == ("fetch", "gone")
    assert records[LISTED[0]].title == f"Bike {LISTED[0][:4]}"


# --- Objaverse-XL ----------------------------------------------------------------------------

SI = "https://3d-api.si.edu/content/document/3d_package:1/resources/urn.glb"
THING = "https://www.thingiverse.com/thing:5024/files?fileId=77"
FAB = f"https://sketchfab.com/3d-models/{BIKES[0]}"
STL = b"solid a\n" + b"".join(
    b"facet normal 0 0 1\nouter loop\nvertex 0 0 %d\nvertex 1 0 0\nvertex 0 1 %d\nendloop\n"
    b"endfacet\n" % (n, n) for n in range(2)
) + b"endsolid a\n"  # fmt: skip


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def csv_of(path: Path, rows: list[dict[str, str]]) -> Path:
    columns = list(rows[0])
    lines = [",".join(columns), *(",".join(row.get(c, "") for c in columns) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def chosen(table: Path, fetch: FetchSettings = QUICK, **options: Any) -> ObjaverseXLSource:
    found = get_source(
        "objaverse-xl", category="motorbike", table=table, fetch=fetch, **options
    )  # fmt: skip
    assert isinstance(found, ObjaverseXLSource)
    return found


def write_annotations(base: Path, collection: str, rows: list[dict[str, Any]]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = base / collection / f"{collection}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    other = [
        {"fileIdentifier": f"https://x/{n}", "sha256": sha(b"%d" % n), "license": None}
        for n in range(20)
    ]
    columns = ["fileIdentifier", "source", "license", "fileType", "sha256", "metadata"]
    every = [{c: row.get(c) for c in columns} for row in other + rows]
    pq.write_table(pa.Table.from_pylist(every), path)
    return path


def test_xl_asks_for_a_table(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs --table"):
        get_source("objaverse-xl", category="motorbike")
    for name, text, words in (
        ("none.csv", None, "cannot be read"),
        ("other.csv", "uid,score\na,1\n", "no column fileIdentifier or sha256"),
        ("bad.csv", "sha256\nnot-a-digest\n", "is no SHA-256"),
        ("bad.jsonl", '{"sha256": 1\n', "cannot be read"),
        ("list.jsonl", '["a"]\n', "line 1 is not an object"),
        ("bad.parquet", "PAR1", "cannot be read"),
    ):
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match=words):
            chosen(tmp_path / name, OFFLINE).list()


def test_xl_tables_of_every_kind_give_the_same_assets(tmp_path: Path, place: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    lay_out(place, [])
    rows = [
        {"fileIdentifier": SI, "sha256": sha(b"1"), "license": "CC0", "category": "Motorcycles"},
        {"fileIdentifier": FAB, "sha256": sha(b"2"), "license": "by-sa", "category": "motorbike"},
        {"fileIdentifier": THING, "sha256": sha(b"3"), "license": "", "category": "03790512"},
        {"fileIdentifier": SI + "x", "sha256": sha(b"4"), "license": "by", "category": "mug"},
        {"fileIdentifier": SI, "sha256": sha(b"1"), "license": "CC0", "category": "motorbike"},
    ]
    csv_of(tmp_path / "a.csv", rows)
    other = [{"file_identifier": r["fileIdentifier"], "SHA256": r["sha256"].upper(),
              "license": r["license"], "class": r["category"]} for r in rows]  # fmt: skip
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, other)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    assets = chosen(tmp_path / "a.csv", OFFLINE).list()
    assert chosen(tmp_path / "b.jsonl", OFFLINE).list() == assets
    assert chosen(tmp_path / "c.parquet", OFFLINE).list() == assets
    assert [a.source_id for a in assets] == [SI, FAB, THING]
    found = {a.source_id: a for a in assets}
    assert [found[i].license for i in (SI, FAB, THING)] == [
        "CC0-1.0", "CC-BY-SA-4.0", "unknown",
    ]  # fmt: skip
    assert found[FAB].uid == BIKES[0]  # as in Objaverse 1.0: the same split
    assert all(UID_PATTERN.fullmatch(a.uid) for a in assets)
    assert len({a.uid for a in assets}) == 3
    assert found[SI].sha256 == sha(b"1")
    with pytest.raises(DatasetError, match=r"no row .* of the category chair") as caught:
        get_source("objaverse-xl", category="chair", table=tmp_path / "a.csv").list()
    assert "mug" in str(caught.value.hint)


def test_xl_annotations_fill_in_what_a_table_lacks(tmp_path: Path, place: Path, web: Web) -> None:
    made = write_annotations(
        tmp_path / "hub", "smithsonian",
        [{"fileIdentifier": SI, "sha256": sha(b"1"), "license": "CC0", "fileType": "glb",
          "metadata": json.dumps({"title": "A motorcycle"})}],
    )  # fmt: skip
    address = f"{XL_HUB}/smithsonian/smithsonian.parquet"
    web.pages[address] = [status(502), made.read_bytes()]
    table = csv_of(tmp_path / "t.csv", [{"fileIdentifier": SI}, {"fileIdentifier": SI + "?no"}])
    with pytest.raises(ConfigError, match="offline"):
        chosen(table, OFFLINE).list()
    (asset,) = chosen(table).list()
    assert (asset.sha256, asset.license, asset.title) == (sha(b"1"), "CC0-1.0", "A motorcycle")
    assert web.asked == [address] * 2  # nothing else of Objaverse-XL
    assert (place / "smithsonian" / "smithsonian.parquet").read_bytes() == made.read_bytes()
    # A digest alone is looked for everywhere.
    for collection in ("github", "thingiverse", "sketchfab"):
        write_annotations(place, collection, [])
    assert chosen(csv_of(tmp_path / "s.csv", [{"sha256": sha(b"1")}]), OFFLINE).list() == [asset]


def serve_xl(web: Web) -> dict[str, tuple[str, bytes]]:
    """Address that is asked for, and bytes, of an object of each collection that is on the web."""
    return {
        SI: (SI, box_glb()),
        THING: ("https://www.thingiverse.com/download:77", STL),
        FAB: (f"{HUB}/{path_of(BIKES[0])}", box_glb((1, 2, 3))),
    }


@pytest.mark.parametrize("identifier", [SI, THING, FAB], ids=["smithsonian", "thingi", "sketchfab"])
def test_xl_objects_on_the_web(tmp_path: Path, place: Path, web: Web, identifier: str) -> None:
    lay_out(place, [])
    address, data = serve_xl(web)[identifier]
    row = {"fileIdentifier": identifier, "sha256": sha(data), "license": "cc0"}
    source = chosen(csv_of(tmp_path / "t.csv", [row]))
    (asset,) = source.list()
    # The package takes a page about an error for a changed model.
    web.pages[address] = [b"<html>Bad gateway</html>", data] if identifier == SI else data
    path = source.file(asset)
    assert path.read_bytes() == data
    assert path.is_relative_to(place)
    assert web.asked == [address] * (2 if identifier == SI else 1)
    assert len(source.load(asset).faces) in (2, 12)
    assert replace(source, fetch=OFFLINE).file(asset) == path
    path.write_bytes(data + b"\n ")
    with pytest.raises(AssetError) as caught:
        replace(source, fetch=OFFLINE).file(asset)
    assert (caught.value.reason, caught.value.stage) == ("checksum", "fetch")
    # Another file than Objaverse saw, or none at all.
    for page, reason in ((data + b"\n  ", "checksum"), (status(404), "gone")):
        if (page, identifier) != (data + b"\n  ", SI):
            web.pages[address] = page
            with pytest.raises(AssetError) as caught:
                source.file(asset)
            assert (caught.value.reason, caught.value.stage) == (reason, "fetch")


def test_xl_object_that_sketchfab_never_had(tmp_path: Path, place: Path, web: Web) -> None:
    lay_out(place, [])
    row = {"fileIdentifier": f"https://sketchfab.com/3d-models/{LOST}", "sha256": sha(b"")}
    source = chosen(csv_of(tmp_path / "t.csv", [row | {"license": "by"}]))
    with pytest.raises(AssetError) as caught:
        source.file(source.list()[0])
    assert caught.value.reason == "gone"
    assert not web.asked


def test_xl_formats(tmp_path: Path) -> None:
    base = "https://github.com/org/repo/blob/" + "a" * 40
    rows = [{"fileIdentifier": f"{base}/m.{s}", "sha256": sha(s.encode()), "license": "MIT License"}
            for s in ("glb", "fbx", "OBJ", "blend")]  # fmt: skip
    source = chosen(csv_of(tmp_path / "t.csv", rows), OFFLINE)
    assert isinstance(source, FileSource)
    assert {s: n for s, n in source.formats().items() if n} == {".glb": 1, ".obj": 1, ".fbx": 1}
    assert [a.source_id[-3:] for a in source.list()] == ["glb", "OBJ"]
    assert len(source.reading({".fbx"}).list()) == 3
    glb, obj = source.list()
    assert glb.sha256 == sha(b"glb")
    assert obj.sha256 != sha(b"OBJ")  # it refers to other files: its commit counts too
    assert (glb.license, glb.author) == ("MIT", "org")
    only = csv_of(tmp_path / "u.csv", [rows[3]])
    with pytest.raises(DatasetError, match="nothing that can be read") as caught:
        chosen(only, OFFLINE).list()
    assert "1 .blend" in str(caught.value.hint)


# GitHub: real repositories on this disk, to which git is pointed by its own configuration.

OBJ = b"mtllib m.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nusemtl a\nf 1 2 3\nf 1 3 4\nf 1 4 2\n"


def git(folder: Path, *words: str) -> str:
    names = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(
        ["git", *names, *words], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A repository, and the commit that Objaverse-XL saw; the newest one has other files."""
    repository = tmp_path / "github" / "org" / "repo.git"
    repository.mkdir(parents=True)
    git(repository, "init", "-q")
    (repository / "models").mkdir()
    files = {"models/m.obj": OBJ, "models/m.mtl": b"newmtl a\nKd 1 0 0\n", "box.glb": box_glb(),
             "notes.txt": b"x" * 5000}  # fmt: skip
    for name, data in files.items():
        (repository / name).write_bytes(data)
    (repository / "secret.obj").symlink_to("/etc/hostname")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "one")
    commit = git(repository, "rev-parse", "HEAD")
    (repository / "box.glb").write_bytes(box_glb((9, 9, 9)))
    git(repository, "commit", "-qam", "two")
    config = tmp_path / "gitconfig"
    config.write_text(
        f'[url "file://{tmp_path}/github/"]\n\tinsteadOf = https://github.com/\n'
        "[uploadpack]\n\tallowAnySHA1InWant = true\n"
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    return repository, f"https://github.com/org/repo/blob/{commit}"


def test_xl_github(tmp_path: Path, place: Path, origin: tuple[Path, str]) -> None:
    repository, blob = origin
    rows = [
        {"fileIdentifier": f"{blob}/models/m.obj", "sha256": sha(OBJ), "license": "MIT"},
        {"fileIdentifier": f"{blob}/box.glb", "sha256": sha(box_glb()), "license": "MIT"},
        {"fileIdentifier": f"{blob}/secret.obj", "sha256": sha(b"?"), "license": "MIT"},
        {"fileIdentifier": f"{blob}/never.obj", "sha256": sha(b"!"), "license": "MIT"},
    ]
    source = chosen(csv_of(tmp_path / "t.csv", rows))
    obj, glb, link, never = source.list()
    mesh = source.load(obj)
    assert len(mesh.faces) == 3
    assert mesh.materials[0].base_color[:3] == pytest.approx((1, 0, 0))
    for asset, reason in ((link, "checksum"), (never, "gone")):
        with pytest.raises(AssetError) as caught:
            source.file(asset)
        assert caught.value.reason == reason
    repository.rename(repository.with_name("moved"))  # the second asset needs no second clone
    path = source.file(glb)
    assert path.read_bytes() == box_glb()  # of the commit, not of the newest
    assert replace(source, fetch=OFFLINE).file(glb) == path
    kept = {p.name for p in (place / "github").rglob("*") if p.is_file()}
    assert not kept & {"notes.txt", "HEAD", ".objaverse-file-hashes.json"}
    path.unlink()
    with pytest.raises(AssetError) as caught:
        source.file(glb)
    assert caught.value.reason == "gone"


def test_xl_github_out_of_reach_is_not_gone(
    tmp_path: Path, origin: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody is there
    row = {"fileIdentifier": f"{origin[1]}/box.glb", "sha256": sha(box_glb()), "license": "MIT"}
    source = chosen(csv_of(tmp_path / "t.csv", [row]), FetchSettings(retries=0))
    with pytest.raises(AssetError) as caught:
        source.file(source.list()[0])
    assert caught.value.reason == "download"


def test_xl_needs_git(
    tmp_path: Path, origin: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"fileIdentifier": f"{origin[1]}/box.glb", "sha256": sha(box_glb()), "license": "MIT"}
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependency, match="git"):
        chosen(csv_of(tmp_path / "t.csv", [row])).list()


def test_names_in_the_cache_are_the_package_s(place: Path) -> None:
    from objaverse.utils import get_uid_from_str

    assert get_uid_from_str(SI) == str(uuid.uuid5(uuid.NAMESPACE_DNS, SI))
    camera = bikes(OFFLINE).default_camera
    assert camera.elevation_deg == get_category("motorbike").camera.elevation_deg
