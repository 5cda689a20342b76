"""The export of many seeds: files, records, resume, refusal, full disk, gallery."""

from __future__ import annotations

import hashlib
import io
import json
import re
import resource
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import trimesh
from g3d.errors import AssetError, ConfigError, DiskError
from g3d.manifests.atomic import TEMP_MARK
from g3d.renderers.meshes import Material, Mesh, make_mesh
from g3d.trainer.export.driver import ExportConfig, export, parse_seeds
from g3d.trainer.export.gallery import framing_cameras, render_poster
from PIL import Image

SMALL = {"texture_size": 64, "poster_size": 64}
SNAPSHOT = {"snapshot": "abc123", "run": "00000-chairs-cpu"}


@dataclass
class Egg:
    """An ellipsoid whose size and colour depend on the seed and on psi."""

    seed: int
    psi: float

    def to_mesh(self) -> Mesh:
        body = trimesh.creation.icosphere(2, 0.3)
        scale = np.array([1, 1 + self.psi * (self.seed % 5) / 5, 1])
        return Mesh((body.vertices * scale).astype(np.float32), body.faces.astype(np.int64))

    def color(self, points: np.ndarray) -> np.ndarray:
        out = np.zeros_like(points)
        out[:, self.seed % 3] = 0.9
        return out

    def render(self, cameras, size):
        raise NotImplementedError


class Sampler:
    """Makes eggs; counts them; some seeds are empty or fail."""

    def __init__(self, empty: tuple[int, ...] = (), broken: dict[int, Exception] | None = None):
        self.seeds: list[int] = []
        self.empty, self.broken = empty, broken or {}

    def __call__(self, seed: int, psi: float) -> Egg:
        self.seeds.append(seed)
        if seed in self.broken:
            raise self.broken[seed]
        egg = Egg(seed, psi)
        if seed in self.empty:
            none = Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int64))
            egg.to_mesh = lambda: none
        return egg


def read_glb(path: Path) -> Mesh:
    """Read a GLB through trimesh, which knows nothing of g3d's own loader."""
    body = trimesh.load(path, file_type="glb", force="mesh", process=False)
    image = body.visual.material.baseColorTexture.convert("RGBA")
    return make_mesh(
        body.vertices, body.faces, uvs=body.visual.uv, normals=body.vertex_normals,
        materials=[Material(texture=np.array(image))],
    )  # fmt: skip


def glbs(out: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.glob("*.glb"))}


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "export.jsonl").read_text().splitlines()]


def test_files_records_and_report(tmp_path):
    config = ExportConfig(seeds=(4, 0, 42), psi=0.5, **SMALL)
    report = export(Sampler(), tmp_path / "out", config, provenance=SNAPSHOT)
    out = report.out
    assert sorted(p.name for p in out.iterdir()) == [
        "000000.glb", "000004.glb", "000042.glb", "export.json", "export.jsonl", "index.html",
        "posters", "sheet.png",
    ]  # fmt: skip
    assert [r.seed for r in report.records] == [4, 0, 42]
    assert (report.made, report.kept, report.count("ok")) == (3, 0, 3)
    assert [line["seed"] for line in lines(out)] == [0, 4, 42]
    for line in lines(out):
        data = (out / line["file"]).read_bytes()
        assert line["sha256"] == hashlib.sha256(data).hexdigest()
        assert line["bytes"] == len(data)
        mesh = read_glb(out / line["file"])
        assert (len(mesh.vertices), len(mesh.faces)) == (line["vertices"], line["faces"])
        assert mesh.materials[0].texture[0, 0, line["seed"] % 3] == round(0.9 * 255)
    tall = read_glb(out / "000004.glb").vertices
    assert np.ptp(tall[:, 1]) == pytest.approx(0.6 * 1.4, rel=1e-3)  # psi reached the sampler
    manifest = json.loads((out / "export.json").read_text())
    assert manifest["provenance"] == SNAPSHOT
    assert manifest["config"]["psi"] == 0.5


def test_a_second_run_does_only_what_is_missing(tmp_path):
    config = ExportConfig(n=4, **SMALL)
    export(Sampler(), tmp_path, config, provenance=SNAPSHOT)
    before = glbs(tmp_path)
    (tmp_path / "000001.glb").unlink()
    (tmp_path / "000002.glb").write_bytes(b"damaged")
    (tmp_path / f"000003.glb{TEMP_MARK}99").write_bytes(b"half")
    with (tmp_path / "export.jsonl").open("a") as file:
        file.write('{"seed": 9, "status": "o')  # torn by a kill
    sampler = Sampler()
    report = export(sampler, tmp_path, config, provenance=SNAPSHOT)
    assert sampler.seeds == [1, 2]
    assert (report.made, report.kept) == (2, 2)
    assert glbs(tmp_path) == before
    assert not list(tmp_path.glob(f"*{TEMP_MARK}*"))
    # More seeds of the same config go into the same folder.
    sampler = Sampler()
    export(sampler, tmp_path, ExportConfig(n=6, **SMALL), provenance=SNAPSHOT)
    assert sampler.seeds == [4, 5]
    assert len(glbs(tmp_path)) == 6


KILLED = """
    import os, signal, sys
    from pathlib import Path
    import numpy as np, trimesh
    from g3d.renderers.meshes import Material, Mesh, make_mesh
    from g3d.trainer.export.driver import ExportConfig, export

    class Egg:
        def __init__(self, seed, psi):
            self.seed, self.psi = seed, psi
        def to_mesh(self):
            body = trimesh.creation.icosphere(2, 0.3 + 0.01 * self.seed)
            return Mesh(body.vertices.astype(np.float32), body.faces.astype(np.int64))
        def color(self, points):
            return np.abs(points)

    def run(out):
        config = ExportConfig(n=5, texture_size=64, poster_size=32)
        export(Egg, Path(out), config, provenance={"snapshot": "x"})

    # Runs happen in children only: a thread pool made in the parent would not survive a fork.
    child = os.fork()
    if not child:
        run(sys.argv[1] + "/whole")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    calls = 0
    for kill_at in range(1, 40):
        child = os.fork()
        if not child:
            # Die at the kill_at-th moment around a write: before a sync, before or after a rename.
            def count(function):
                def wrapped(*args, **kwargs):
                    global calls
                    calls += 1
                    if calls == kill_at:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return function(*args, **kwargs)
                return wrapped
            os.fsync, Path.replace = count(os.fsync), count(Path.replace)
            run(sys.argv[1] + "/killed")
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status):
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
    print(kill_at)
"""


def test_killed_anywhere_then_run_again_gives_the_same_files(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 5 < int(done.stdout.split()[-1]) < 39  # it was killed many times, and did finish
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert len(glbs(whole)) == 5
    assert glbs(killed) == glbs(whole)
    drop = {"seconds"}
    assert [{k: v for k, v in line.items() if k not in drop} for line in lines(killed)] == [
        {k: v for k, v in line.items() if k not in drop} for line in lines(whole)
    ]
    assert not list(killed.rglob(f"*{TEMP_MARK}*"))
    assert (killed / "sheet.png").read_bytes() == (whole / "sheet.png").read_bytes()


def test_another_config_is_refused_with_the_difference(tmp_path):
    config = ExportConfig(n=2, **SMALL)
    export(Sampler(), tmp_path, config, provenance=SNAPSHOT)
    before = glbs(tmp_path)
    with pytest.raises(ConfigError, match=r"config\.psi  0\.7 -> 1\.0") as error:
        export(Sampler(), tmp_path, ExportConfig(n=2, psi=1.0, **SMALL), provenance=SNAPSHOT)
    assert "--overwrite" in error.value.hint
    with pytest.raises(ConfigError, match="abc123 -> def456"):
        export(Sampler(), tmp_path, config, provenance={**SNAPSHOT, "snapshot": "def456"})
    assert glbs(tmp_path) == before
    (tmp_path / "notes.txt").write_text("mine")
    one = ExportConfig(n=1, psi=1.0, **SMALL)
    report = export(Sampler(), tmp_path, one, provenance=SNAPSHOT, overwrite=True)
    assert report.made == 1
    assert list(glbs(tmp_path)) == ["000000.glb"]
    assert len(list((tmp_path / "posters").iterdir())) == 1
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_overwrite_deletes_nothing_in_a_folder_that_is_not_an_export(tmp_path):
    (tmp_path / "000099.glb").write_bytes(b"somebody's")
    export(Sampler(), tmp_path, ExportConfig(n=1, **SMALL), provenance={}, overwrite=True)
    assert (tmp_path / "000099.glb").read_bytes() == b"somebody's"


def test_bad_seeds_are_recorded_and_stop_nothing(tmp_path):
    broken = {1: AssetError("unwrap", "no way"), 3: ValueError("NaN in the field")}
    sampler = Sampler(empty=(2,), broken=broken)
    config = ExportConfig(n=5, **SMALL)
    report = export(sampler, tmp_path, config, provenance=SNAPSHOT)
    assert [r.status for r in report.records] == ["ok", "failed", "empty", "failed", "ok"]
    assert report.records[1].reason == "unwrap: no way"
    assert "NaN in the field" in report.records[3].reason
    assert sorted(glbs(tmp_path)) == ["000000.glb", "000004.glb"]
    # A second run tries the failed ones again, and only those.
    sampler = Sampler()
    assert export(sampler, tmp_path, config, provenance=SNAPSHOT).count("ok") == 4
    assert sampler.seeds == [1, 3]


def test_all_empty_leaves_no_gallery(tmp_path):
    report = export(Sampler(empty=(0, 1)), tmp_path, ExportConfig(n=2, **SMALL), provenance={})
    assert report.gallery is None
    assert report.count("empty") == 2


def test_vertices_that_are_not_finite_fail_the_seed(tmp_path):
    def sampler(seed: int, psi: float) -> Egg:
        egg = Egg(seed, psi)
        mesh = egg.to_mesh()
        mesh.vertices[3] = np.nan
        egg.to_mesh = lambda: mesh
        return egg

    report = export(sampler, tmp_path, ExportConfig(n=1, **SMALL), provenance={})
    assert report.records[0].status == "failed"
    assert "finite" in report.records[0].reason


def test_a_full_disk_keeps_what_is_finished(tmp_path):
    config = ExportConfig(n=3, **SMALL)
    export(Sampler(), tmp_path / "whole", config, provenance=SNAPSHOT)
    out = tmp_path / "out"
    export(Sampler(), out, ExportConfig(n=1, **SMALL), provenance=SNAPSHOT)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        # A limit on the size of a file stops the write midway, as a full disk does.
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        with pytest.raises(DiskError, match=r"000001\.glb"):
            export(Sampler(), out, config, provenance=SNAPSHOT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(glbs(out)) == ["000000.glb"]
    assert not list(out.rglob(f"*{TEMP_MARK}*"))
    export(Sampler(), out, config, provenance=SNAPSHOT)
    assert glbs(out) == glbs(tmp_path / "whole")


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError):
        export(Sampler(), tmp_path / "file" / "out", ExportConfig(n=1), provenance={})


def test_parse_seeds():
    assert parse_seeds("0-9,42") == [*range(10), 42]
    assert parse_seeds(" 7 , 3 - 5,4") == [7, 3, 4, 5]
    for wrong in ("", "a", "1,,2", "3-", "-3", "5-2", "1.5", "0-9999999", "²", "1" * 30):
        with pytest.raises(ConfigError, match="--seeds"):
            parse_seeds(wrong)


def test_config_bounds():
    assert ExportConfig(n=3).seed_list() == [0, 1, 2]
    assert ExportConfig(seeds=(5, 5, 1)).seed_list() == [5, 1]
    for wrong in ({"n": 0}, {"texture_size": 1}, {"psi": -1}, {"texture_format": "bmp"}):
        with pytest.raises(ValueError):
            ExportConfig(**wrong)


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.cards: list[str] = []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.targets += [found[key] for key in ("src", "href") if key in found]
        if "data-seed" in found:
            self.cards.append(found["data-seed"])


def test_the_gallery_page_is_whole_and_needs_no_network(tmp_path):
    facts = {**SNAPSHOT, "run": "<b>sly</b>"}
    report = export(Sampler(), tmp_path, ExportConfig(n=5, **SMALL), provenance=facts)
    text = report.gallery.read_text()
    links = Links()
    links.feed(text)
    assert links.cards == ["0", "1", "2", "3", "4"]
    assert {f"{i:06d}.glb" for i in range(5)} <= set(links.targets)
    for target in links.targets:
        assert (tmp_path / target).is_file(), target  # relative, and there
    assert not re.search(r"https?:|//\w|@import|<b>sly", text)
    assert "<!--" not in text
    sheet = Image.open(tmp_path / "sheet.png")
    assert min(sheet.size) > 64
    # Five different eggs in three colours: the sheet shows saturated red, green and blue.
    pixels = np.asarray(sheet.convert("RGB")).reshape(-1, 3).astype(int)
    for k in range(3):
        others = np.delete(pixels, k, axis=1).max(axis=1)
        assert ((pixels[:, k] - others) > 60).mean() > 0.02


def test_posters_hold_the_whole_mesh():
    rng = np.random.default_rng(0)
    for _ in range(4):
        body = trimesh.creation.box(rng.uniform(0.05, 2, 3))
        body.apply_translation(rng.uniform(-3, 3, 3))
        mesh = Mesh(body.vertices.astype(np.float32), body.faces.astype(np.int64))
        assert len(framing_cameras(mesh)) == 2
        poster = render_poster(mesh, 48)
        assert poster.shape == (48, 96, 3)
        front = poster[:, :48].min(axis=2) < 250
        border = np.concatenate([front[0], front[-1], front[:, 0], front[:, -1]])
        assert not border.any()
        assert front.any(axis=0).sum() > 20 or front.any(axis=1).sum() > 20


def test_the_written_texture_decodes_without_our_reader(tmp_path):
    export(Sampler(), tmp_path, ExportConfig(n=1, texture_format="jpeg", **SMALL), provenance={})
    data = (tmp_path / "000000.glb").read_bytes()
    scene = trimesh.load(io.BytesIO(data), file_type="glb")
    (body,) = scene.geometry.values()
    image = body.visual.material.baseColorTexture
    assert image.format == "JPEG"
    assert image.size == (64, 64)
