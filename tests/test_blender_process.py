"""The child process that Blender runs in: found, asked, killed, and gone with its parent."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from g3d.errors import AssetError, MissingDependency
from g3d.renderers.base import RenderSettings
from g3d.renderers.blender import process as process_module
from g3d.renderers.blender.cores import Cores
from g3d.renderers.blender.inside import protocol
from g3d.renderers.blender.process import BlenderProcess, find_python
from g3d.renderers.blender.renderer import BlenderRenderer
from g3d.renderers.blender.settings import BlenderSettings
from g3d.renderers.cameras import Camera, look_at
from g3d.renderers.meshes import Material, Mesh, make_mesh
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

FAULTS = "G3D_TEST_BLENDER_FAULTS"
SMALL = RenderSettings(size=32)
FLAT = BlenderSettings(look="flat", samples=1)


def installed() -> bool:
    try:
        find_python()
    except MissingDependency:
        return False
    return True


needs_blender = [
    pytest.mark.blender,
    pytest.mark.skipif(not installed(), reason="bpy is not installed"),
]


def blender(test):
    for mark in needs_blender:
        test = mark(test)
    return test


def cube(side: float = 1.0, color: tuple[float, float, float, float] = (1, 0, 0, 1)) -> Mesh:
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * side / 2
    quads = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    faces = [[q[0], q[a], q[a + 1]] for q in quads for a in (1, 2)]
    return make_mesh(corners, np.array(faces), materials=(Material(base_color=color),))


def write_obj(path: Path, mesh: Mesh) -> Path:
    rows = [f"v {x} {y} {z}" for x, y, z in mesh.vertices]
    rows += [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in mesh.faces]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n")
    return path


def cameras(count: int = 1) -> Camera:
    angle = np.linspace(0.3, 0.3 + np.pi, count)
    eye = 2.5 * np.stack([np.sin(angle), np.full(count, 0.4), np.cos(angle)], axis=1)
    return Camera(look_at(eye), np.full(count, np.deg2rad(49.0)))


@pytest.fixture(scope="module")
def renderer() -> Iterator[BlenderRenderer]:
    faults = {"killed": "kill", "aborts": "abort", "sleeps": "sleep", "hangs": "hang",
              "greedy": "memory", "hungry": "malloc"}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FAULTS, json.dumps(faults))
        out = BlenderRenderer(FLAT)
        yield out
        out.close()


def gone(pid: int, within_s: float) -> bool:
    """Whether a process that is not our child ends in time."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


arrays = hnp.arrays(
    st.sampled_from([np.uint8, np.int32, np.int64, np.float32, np.float64]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)


@settings(max_examples=50)
@given(
    st.dictionaries(st.text(max_size=5), st.one_of(st.integers(), st.text(), st.none())),
    st.dictionaries(st.text(max_size=5), arrays, max_size=3),
)
def test_frames_survive_the_way(header, given_arrays):
    data = bytearray(b"".join(bytes(part) for part in protocol.encode(header, given_arrays)))
    place = 0

    def read(count: int) -> bytearray:
        nonlocal place
        place += count
        return data[place - count : place]

    frame = protocol.decode(read)
    assert place == len(data)
    assert frame.header == header
    assert frame.arrays.keys() == given_arrays.keys()
    for name, array in given_arrays.items():
        assert frame.arrays[name].dtype == array.dtype
        assert frame.arrays[name].shape == array.shape
        assert frame.arrays[name].tobytes() == array.tobytes()


def test_what_is_no_frame_is_refused():
    with pytest.raises(protocol.ProtocolError, match="starts with"):
        protocol.decode(lambda count: bytearray(count))
    with pytest.raises(protocol.ProtocolError, match="object"):
        protocol.encode({}, {"a": np.array(["text"], object)})


def executable(path: Path, text: str = "#!/bin/sh\nexit 0\n") -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_the_setting_comes_before_the_environment(tmp_path, monkeypatch):
    first, second = executable(tmp_path / "first"), executable(tmp_path / "second")
    monkeypatch.setenv("G3D_BLENDER_PYTHON", str(second))
    assert find_python(str(first)) == first
    assert find_python() == second
    monkeypatch.setenv("G3D_BLENDER_PYTHON", str(tmp_path / "none"))
    with pytest.raises(MissingDependency, match=r"G3D_BLENDER_PYTHON.*none"):
        find_python()


def test_without_blender_the_hint_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.delenv("G3D_BLENDER_PYTHON", raising=False)
    monkeypatch.setattr(process_module.importlib.util, "find_spec", lambda name: None)
    elsewhere = tmp_path / "site-packages" / "g3d" / "renderers" / "blender" / "process.py"
    monkeypatch.setattr(process_module, "__file__", str(elsewhere))
    with pytest.raises(MissingDependency) as caught:
        find_python()
    assert caught.value.exit_code == 4
    assert "g3d[blender]" in (caught.value.hint or "")


def test_an_interpreter_without_bpy_is_refused_when_the_renderer_is_made(tmp_path):
    with pytest.raises(MissingDependency, match="has no bpy"):
        BlenderRenderer(BlenderSettings(python=str(executable(tmp_path / "python"))))


@blender
def test_blender_says_what_it_is(renderer):
    facts = renderer.process.facts
    assert facts["blender"] == renderer.version
    assert facts["passes"] in ("memory", "exr")
    assert "bpy" not in sys.modules
    assert renderer.process.pid != os.getpid()


@blender
def test_a_mesh_is_rendered_and_a_copy_has_a_blender_of_its_own(renderer):
    views = renderer.open(cube()).render(cameras(2), SMALL)
    assert views.rgba.shape == (2, 32, 32, 4)
    middle = views.rgba[:, 16, 16].astype(int)
    assert (middle[:, 3] == 255).all()
    assert (middle[:, 0] > 250).all()
    assert (middle[:, 1:3] < 5).all()
    assert (views.depth[:, 16, 16] > 1.5).all()
    twin = copy.copy(renderer)
    try:
        again = twin.open(cube()).render(cameras(2), SMALL)
        assert twin.process.pid != renderer.process.pid
        assert np.array_equal(again.rgba, views.rgba)
        assert np.array_equal(again.depth, views.depth)
    finally:
        twin.close()


@blender
def test_a_scene_ends_with_the_next_one(renderer):
    old = renderer.open(cube())
    renderer.open(cube())
    with pytest.raises(AssetError, match="no longer") as caught:
        old.render(cameras(), SMALL)
    assert caught.value.reason == "render_crash"


@blender
@pytest.mark.parametrize(
    ("stem", "reason", "told"),
    [
        ("killed", "import", "SIGKILL"),
        ("aborts", "import", "SIGABRT"),
        ("sleeps", "timeout", "took longer than 1.5 s"),
        ("hangs", "timeout", "took longer than 1.5 s"),
        ("greedy", "memory", "llocate"),
        ("hungry", "memory", "bad_alloc"),
    ],
)
def test_an_accident_is_one_asset_and_the_next_gets_another_blender(
    renderer, tmp_path, stem, reason, told
):
    good = write_obj(tmp_path / "good.obj", cube())
    bad = write_obj(tmp_path / f"{stem}.obj", cube())
    renderer.open(good)
    first = renderer.process.pid
    renderer.settings = FLAT.model_copy(update={"deadline_s": 1.5})
    start = time.monotonic()
    with pytest.raises(AssetError, match=told) as caught:
        renderer.open(bad)
    assert time.monotonic() - start < 1.5 + 5
    assert (caught.value.reason, caught.value.stage) == (reason, "load")
    assert gone(first, 1.0)
    renderer.settings = FLAT
    scene = renderer.open(good)
    assert renderer.process.pid != first
    assert scene.render(cameras(), SMALL).rgba[..., 3].any()


@blender
def test_blender_that_dies_between_views_is_a_render_crash(renderer):
    scene = renderer.open(cube())
    os.kill(renderer.process.pid, signal.SIGSEGV)
    with pytest.raises(AssetError) as caught:
        scene.render(cameras(), SMALL)
    assert (caught.value.reason, caught.value.stage) == ("render_crash", "render")


@blender
def test_more_memory_than_the_limit_is_told_apart_from_a_crash():
    tight = BlenderRenderer(FLAT.model_copy(update={"memory_gb": 0.2}))
    side = 600
    x, y = np.meshgrid(np.linspace(-0.5, 0.5, side), np.linspace(-0.5, 0.5, side))
    points = np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], axis=1)
    at = np.arange(side * side).reshape(side, side)
    a, b, c, d = (x.ravel() for x in (at[:-1, :-1], at[:-1, 1:], at[1:, 1:], at[1:, :-1]))
    faces = np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
    try:
        with pytest.raises(AssetError) as caught:
            tight.open(make_mesh(points, faces)).render(cameras(), SMALL)
        assert caught.value.reason == "memory"
    finally:
        tight.close()


@blender
def test_an_interrupted_request_leaves_no_answer_for_the_next(renderer, monkeypatch):
    renderer.open(cube())
    first = renderer.process.pid

    def interrupted(read):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(protocol, "decode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            renderer.open(cube())
    assert gone(first, 1.0)
    assert renderer.open(cube()).render(cameras(), SMALL).rgba[..., 3].any()


@blender
def test_blender_is_replaced_after_so_many_assets():
    renderer = BlenderRenderer(FLAT.model_copy(update={"recycle_after": 2}))
    try:
        pids = []
        for _ in range(5):
            renderer.open(cube())
            pids.append(renderer.process.pid)
        assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]
    finally:
        renderer.close()


PARENT = """
import sys
from pathlib import Path
from g3d.renderers.blender.renderer import BlenderRenderer
from g3d.renderers.blender.settings import BlenderSettings
renderer = BlenderRenderer(BlenderSettings(look="flat"))
sys.stdout.write(f"{renderer.process.pid}\\n")
sys.stdout.flush()
if sys.argv[1] == "idle":
    sys.stdin.read()
renderer.open(Path(sys.argv[1]))
"""


@blender
@pytest.mark.parametrize("doing", ["idle", "sleeps", "hangs"])
def test_blender_dies_with_its_parent_whatever_it_does(tmp_path, monkeypatch, doing):
    monkeypatch.setenv(FAULTS, json.dumps({"sleeps": "sleep", "hangs": "hang"}))
    path = write_obj(tmp_path / f"{doing}.obj", cube())
    argument = "idle" if doing == "idle" else str(path)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, argument],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        time.sleep(0.5)
        assert not gone(child, 0.1)
    finally:
        parent.kill()
        parent.wait()
    assert gone(child, 5.0)


@blender
def test_its_preferences_are_nobodys(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    started = BlenderProcess(FLAT)
    try:
        assert started.alive
    finally:
        started.kill()
        started.kill()
    assert not started.alive


@blender
@pytest.mark.slow
def test_a_hundred_assets_leave_the_memory_where_it_was(renderer, tmp_path):
    rng = np.random.default_rng(0)
    sizes = []
    for n in range(100):
        texture = rng.integers(0, 255, (64, 64, 4), dtype=np.uint8)
        mesh = cube(1.0 + 0.01 * n)
        if n % 2:
            uvs = rng.random((8, 2), np.float32)
            mesh = make_mesh(
                mesh.vertices, mesh.faces, uvs=uvs, materials=[Material(texture=texture)]
            )
            scene = renderer.open(mesh)
        else:
            scene = renderer.open(write_obj(tmp_path / f"{n}.obj", mesh))
        scene.render(cameras(), SMALL)
        sizes.append(renderer.process.resident_bytes())
    assert max(sizes[10:]) - sizes[10] < 50 * 2**20
    assert sizes[10] > 100 * 2**20  # it was Blender that was measured


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_cores_are_held_by_one_each(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    one, two = Cores(1, [4, 7]), Cores(1, [4, 7])
    assert (one.numbers, two.numbers) == ((4,), (7,))
    assert Cores(1, [4, 7]).numbers == ()
    one.free()
    assert Cores(2, [4, 7]).numbers == ()  # two are not free: none is taken
    assert Cores(1, [4, 7]).numbers == (4,)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_a_process_is_kept_on_its_cores(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    held = Cores(1)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        held.give(child.pid)
        assert os.sched_getaffinity(child.pid) == set(held.numbers)
    finally:
        child.kill()
        child.wait()
    held.give(child.pid)  # it is gone: nothing happens
