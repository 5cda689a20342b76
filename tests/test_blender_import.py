"""Importing model files in Blender: every format, and the failure matrix. The tests make the files.

FBX, USD, DAE and Draco files are exported by Blender itself, from a mesh that is not symmetric.
"""

from __future__ import annotations

import io
import json
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from g3d.errors import AssetError, MissingDependency
from g3d.renderers.base import RenderSettings
from g3d.renderers.blender import process as process_module
from g3d.renderers.blender.process import find_python
from g3d.renderers.blender.renderer import BlenderRenderer
from g3d.renderers.blender.settings import BlenderSettings
from g3d.renderers.cameras import Camera, look_at
from g3d.renderers.meshes import Mesh, bounds, normalise
from PIL import Image


def installed() -> bool:
    try:
        find_python()
    except MissingDependency:
        return False
    return True


pytestmark = [
    pytest.mark.blender,
    pytest.mark.skipif(not installed(), reason="bpy is not installed"),
]
SMALL = RenderSettings(size=32)

# A slab 1 wide, 2 high, 3 deep, and a knob on its +X side near the top front: no symmetry at all.
BOXES = [((-0.5, -1.0, -1.5), (0.5, 1.0, 1.5)), ((0.5, 0.5, 1.0), (0.7, 0.8, 1.4))]
LOW, HIGH = np.array([-0.5, -1.0, -1.5]), np.array([0.7, 1.0, 1.5])
VOLUME = 1 * 2 * 3 + 0.2 * 0.3 * 0.4
QUADS = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]


def slab() -> tuple[np.ndarray, np.ndarray]:
    vertices, faces = [], []
    for n, (low, high) in enumerate(BOXES):
        ends = list(zip(low, high, strict=True))
        vertices += [(x, y, z) for x in ends[0] for y in ends[1] for z in ends[2]]
        faces += [[q[0] + 8 * n, q[a] + 8 * n, q[a + 1] + 8 * n] for q in QUADS for a in (1, 2)]
    return np.array(vertices, np.float32), np.array(faces, np.int64)


VERTICES, FACES = slab()


def obj_text(vertices: np.ndarray = VERTICES, faces: np.ndarray = FACES, head: str = "") -> str:
    rows = [head, *(f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in vertices.tolist())]
    rows += [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in faces.tolist()]
    return "\n".join(rows) + "\n"


def stl_bytes(vertices: np.ndarray = VERTICES, faces: np.ndarray = FACES) -> bytes:
    rows = np.zeros(len(faces), np.dtype([("n", "<f4", 3), ("v", "<f4", (3, 3)), ("a", "<u2")]))
    rows["v"] = vertices[faces]
    return bytes(80) + struct.pack("<I", len(faces)) + rows.tobytes()


def ply_bytes(vertices: np.ndarray = VERTICES, faces: np.ndarray = FACES, count: int = 0) -> bytes:
    head = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {count or len(vertices)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    rows = np.zeros(len(faces), np.dtype([("n", "u1"), ("i", "<i4", 3)]))
    rows["n"], rows["i"] = 3, faces
    return head.encode() + vertices.astype("<f4").tobytes() + rows.tobytes()


def png(color: tuple[int, int, int] = (20, 200, 40), size: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), color).save(buffer, "PNG")
    return buffer.getvalue()


def gltf(**changes: Any) -> tuple[dict[str, Any], bytes]:
    """A glTF of the slab with one texture; ``changes`` replace parts of its header."""
    uvs = np.zeros((len(VERTICES), 2), "<f4")
    parts = [VERTICES.astype("<f4").tobytes(), FACES.astype("<u2").tobytes(), uvs.tobytes(), png()]
    views, blob = [], b""
    for part in parts:
        views.append({"buffer": 0, "byteOffset": len(blob), "byteLength": len(part)})
        blob += part + bytes(-len(part) % 4)
    header: dict[str, Any] = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "TEXCOORD_0": 2}, "indices": 1,
                                    "material": 0}]}],
        "materials": [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}],
        "textures": [{"source": 0}],
        "images": [{"bufferView": 3, "mimeType": "image/png"}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": len(VERTICES), "type": "VEC3",
             "min": LOW.tolist(), "max": HIGH.tolist()},
            {"bufferView": 1, "componentType": 5123, "count": FACES.size, "type": "SCALAR"},
            {"bufferView": 2, "componentType": 5126, "count": len(VERTICES), "type": "VEC2"},
        ],
        "bufferViews": views,
        "buffers": [{"byteLength": len(blob)}],
    }  # fmt: skip
    return {**header, **changes}, blob


def glb(header: dict[str, Any], blob: bytes) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + len(blob)
    head = struct.pack("<4s4I", b"glTF", 2, total, len(text), 0x4E4F534A)
    return head + text + struct.pack("<2I", len(blob), 0x004E4942) + blob


def edited(edit: Callable[[dict[str, Any]], Any]) -> bytes:
    header, blob = gltf()
    edit(header)
    return glb(header, blob)


@pytest.fixture(scope="module")
def renderer() -> Iterator[BlenderRenderer]:
    settings = BlenderSettings(look="flat", samples=1, deadline_s=60)
    out = BlenderRenderer(settings)
    yield out
    out.close()


EXPORT = """
import sys
sys.path.append(sys.argv[1])
import json
from pathlib import Path
import bpy
import numpy as np
from inside import build, scene
out = Path(sys.argv[2])
data = np.load(out / "slab.npz")
white = {"name": "red", "base_color": [0.8, 0.1, 0.1, 1], "texture": None, "alpha_mode": "opaque",
         "alpha_cutoff": 0.5, "metallic": 0.0, "roughness": 0.5, "metallic_roughness": None,
         "emissive": [0, 0, 0], "emissive_texture": None}
scene.reset()
arrays = {"vertices": data["vertices"], "faces": data["faces"],
          "material_index": np.zeros(len(data["faces"]), np.int32)}
item = build.build(arrays, [white])
for other in (bpy.data.cameras.new("camera"), bpy.data.lights.new("light", "POINT")):
    bpy.context.scene.collection.objects.link(bpy.data.objects.new(other.name, other))
bpy.ops.export_scene.fbx(filepath=str(out / "slab.fbx"))
for suffix in ("usd", "usda", "usdc", "usdz"):
    bpy.ops.wm.usd_export(filepath=str(out / f"slab.{suffix}"))
bpy.ops.wm.collada_export(filepath=str(out / "slab.dae"))
bpy.ops.export_scene.gltf(filepath=str(out / "draco.glb"), export_yup=True,
                          export_draco_mesh_compression_enable=True)
item.location.x = 0.0
item.keyframe_insert("location", frame=1)
item.location.x = 9.0
item.keyframe_insert("location", frame=2)
item.location.x = 0.0
bpy.context.scene.frame_set(1)
bpy.ops.export_scene.gltf(filepath=str(out / "moving.glb"), export_yup=True)
bpy.ops.wm.usd_export(filepath=str(out / "moving.usdc"), export_animation=True)
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that Blender wrote."""
    out = tmp_path_factory.mktemp("exported")
    np.savez(out / "slab.npz", vertices=VERTICES, faces=FACES)
    inside = Path(process_module.__file__).parent
    done = subprocess.run(
        [str(find_python()), "-s", "-P", "-c", EXPORT, str(inside), str(out)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


def volume(mesh: Mesh) -> float:
    a, b, c = (mesh.vertices[mesh.faces[:, k]].astype(np.float64) for k in range(3))
    return float((np.cross(a, b) * c).sum() / 6)


def check_slab(mesh: Mesh) -> None:
    """It is the slab: upright, turned as it was, outside outside."""
    assert len(mesh.faces) == len(FACES)
    np.testing.assert_allclose(bounds(mesh), [LOW, HIGH], atol=2e-4)
    assert volume(mesh) == pytest.approx(VOLUME, rel=1e-3)
    knob = mesh.vertices[np.isclose(mesh.vertices[:, 0], 0.7, atol=1e-3)]
    np.testing.assert_allclose(knob.min(axis=0)[1:], [0.5, 1.0], atol=2e-4)
    np.testing.assert_allclose(knob.max(axis=0)[1:], [0.8, 1.4], atol=2e-4)


def put(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def view(renderer: BlenderRenderer, path: Path) -> np.ndarray:
    """One small image of the normalised asset from the front, above."""
    scene = renderer.open(path)
    _, transform = normalise(scene.mesh, 0.9)
    camera = Camera(look_at(np.array([[0.8, 0.9, 1.6]])), np.full(1, 0.8))
    return scene.render(camera, SMALL, transform).rgba[0]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("slab.obj", obj_text()),
        ("slab.stl", stl_bytes()),
        ("slab.ply", ply_bytes()),
        ("slab.glb", glb(*gltf())),
    ],
)
def test_formats_that_both_renderers_read(renderer, tmp_path, name, data):
    from g3d.renderers.meshes.load import load_mesh

    path = put(tmp_path / name, data)
    mesh = renderer.open(path).mesh
    check_slab(mesh)
    check_slab(load_mesh(path))
    assert view(renderer, path)[..., 3].any()


@pytest.mark.parametrize(
    "name",
    ["slab.fbx", "slab.usd", "slab.usda", "slab.usdc", "slab.usdz", "slab.dae", "draco.glb",
     "moving.glb", "moving.usdc"],
)  # fmt: skip
def test_formats_that_blender_reads(renderer, exported, name):
    mesh = renderer.open(exported / name).mesh
    check_slab(mesh)
    assert len(mesh.materials) == 1
    np.testing.assert_allclose(mesh.materials[0].base_color, (0.8, 0.1, 0.1, 1), atol=0.02)
    image = view(renderer, exported / name).astype(int)
    solid = image[image[..., 3] == 255]
    assert len(solid) > 50
    assert (solid[:, 0] > 2 * solid[:, 1]).all()


def refused(renderer: BlenderRenderer, path: Path) -> AssetError:
    with pytest.raises(AssetError) as caught:
        renderer.open(path)
    assert caught.value.stage == "load"
    assert caught.value.message
    return caught.value


FAR = VERTICES * np.float32(1e20)
BAD_FACE = obj_text() + "f 1 2 99\n"
TEXTURED = "mtllib m.mtl\nusemtl m\n"
MATRIX: list[tuple[str, str, bytes | str, str]] = [
    # glTF
    ("glb truncated", "a.glb", glb(*gltf())[:-700], "import"),
    ("glb of zeros", "a.glb", bytes(4000), "import"),
    ("glb of html", "a.glb", "<html><body>404</body></html>", "import"),
    ("glb empty", "a.glb", b"", "import"),
    ("huge accessor", "a.glb", edited(lambda h: h["accessors"][0].update(count=2**31 - 1)),
     "import"),
    ("buffer view outside", "a.glb",
     edited(lambda h: h["bufferViews"][0].update(byteOffset=10**7)), "import"),
    ("node cycle", "a.glb", edited(lambda h: h.update(nodes=[{"mesh": 0, "children": [0]}])),
     "import"),
    ("unknown extension", "a.glb", edited(lambda h: h.update(extensionsRequired=["X_no"])),
     "import"),
    ("header is nan", "a.gltf", '{"asset": {"version": "2.0"}, "scene": NaN}', "import"),
    ("header is a list", "a.gltf", "[1, 2]", "import"),
    ("index type", "a.glb", edited(lambda h: h["accessors"][1].update(componentType=5121)),
     "import"),
    ("image without a decoder", "a.glb",
     edited(lambda h: h["textures"][0].update(
         {"extensions": {"KHR_texture_basisu": {"source": h["textures"][0].pop("source")}}})),
     "missing_texture"),
    ("image of another kind", "a.glb",
     edited(lambda h: h["images"][0].update(bufferView=0, mimeType="image/x-no")),
     "missing_texture"),
    ("image not there", "a.glb", edited(lambda h: h.update(images=[{"uri": "none.png"}])),
     "missing_texture"),
    ("points", "a.glb", edited(lambda h: h["meshes"][0]["primitives"][0].update(mode=0)),
     "empty_mesh"),
    ("no mesh", "a.glb", edited(lambda h: h.update(nodes=[{}])), "empty_mesh"),
    ("all zero positions", "a.glb", glb(gltf()[0], bytes(len(gltf()[1]))), "empty_mesh"),
    ("nan position", "a.glb", glb(gltf()[0], b"\xff\xff\xff\x7f" + gltf()[1][4:]), "import"),
    # OBJ
    ("obj empty", "a.obj", "", "empty_mesh"),
    ("obj of html", "a.obj", "<html><body>404</body></html>", "empty_mesh"),
    ("obj of random bytes", "a.obj", np.random.default_rng(1).bytes(3000), "empty_mesh"),
    ("obj truncated in a vertex", "a.obj", obj_text()[: obj_text().index("f ")][:-12], "import"),
    ("obj bad index", "a.obj", BAD_FACE, "import"),
    ("obj nan", "a.obj", obj_text().replace("v 0.5 ", "v nan ", 1), "import"),
    ("obj inf", "a.obj", obj_text().replace("v 0.5 ", "v -inf ", 1), "import"),
    ("obj x 1e20", "a.obj", obj_text(FAR), "import"),
    ("obj x 1e-9", "a.obj", obj_text(VERTICES * np.float32(1e-9)), "import"),
    ("obj of one point", "a.obj", obj_text(VERTICES * 0), "empty_mesh"),
    ("obj of edges", "a.obj", "v 0 0 0\nv 1 0 0\nl 1 2\nf 1 2\n", "empty_mesh"),
    ("mtl missing", "a.obj", obj_text(head=TEXTURED), "missing_texture"),
    # STL
    ("stl garbage", "a.stl", np.random.default_rng(2).bytes(3000), "import"),
    ("stl truncated", "a.stl", stl_bytes()[:-30], "import"),
    ("stl lying count", "a.stl", stl_bytes()[:80] + b"\xff\xff\xff\x7f" + stl_bytes()[84:],
     "import"),
    ("stl bit rot", "a.stl", stl_bytes()[:96] + b"\x71\x71\x71\x71" + stl_bytes()[100:], "import"),
    ("stl nan", "a.stl", stl_bytes()[:96] + b"\xff\xff\xff\x7f" + stl_bytes()[100:], "import"),
    # PLY
    ("ply garbage", "a.ply", np.random.default_rng(3).bytes(3000), "import"),
    ("ply truncated", "a.ply", ply_bytes()[:-30], "import"),
    ("ply lying count", "a.ply", ply_bytes(count=10**9), "import"),
    ("ply nan", "a.ply", ply_bytes(np.where(VERTICES > 1.2, np.nan, VERTICES)), "import"),
    ("ascii ply nan", "a.ply",
     "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\n"
     "property float z\nelement face 1\nproperty list uchar int vertex_indices\nend_header\n"
     "0 0 0\n1 0 0\n0 nan 1\n3 0 1 2\n", "import"),
    ("ply of points", "a.ply", ply_bytes(faces=FACES[:0]), "empty_mesh"),
    # the others
    ("dae garbage", "a.dae", "<COLLADA><", "import"),
    ("fbx garbage", "a.fbx", b"Kaydara FBX Binary  \0" + bytes(300), "import"),
    ("usda garbage", "a.usda", "#usda 1.0\ndef Mesh (", "import"),
    ("usdc garbage", "a.usdc", b"PXR-USDC" + bytes(300), "import"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "data", "reason"), [row[1:] for row in MATRIX], ids=[row[0] for row in MATRIX]
)
def test_a_broken_file_is_refused_with_its_reason(renderer, tmp_path, name, data, reason):
    error = refused(renderer, put(tmp_path / name, data))
    assert error.reason == reason, error


@pytest.mark.parametrize("name", ["slab.fbx", "slab.usdc", "slab.usdz", "slab.dae", "draco.glb"])
def test_a_file_cut_in_half_is_refused(renderer, exported, tmp_path, name):
    data = (exported / name).read_bytes()
    error = refused(renderer, put(tmp_path / name, data[: len(data) // 2]))
    assert error.reason in ("import", "empty_mesh")


@pytest.mark.parametrize("name", ["slab.fbx", "slab.usdc", "slab.ply", "slab.glb", "draco.glb"])
def test_rotten_bits_end_in_a_reason_or_in_a_mesh_that_can_be_rendered(
    renderer, exported, tmp_path, name
):
    made = {"slab.ply": ply_bytes(), "slab.glb": glb(*gltf())}
    data = made.get(name) or (exported / name).read_bytes()
    rng = np.random.default_rng(5)
    for n in range(6):
        rotten = bytearray(data)
        for at in rng.integers(0, len(rotten), 20):
            rotten[at] = rng.integers(256)
        path = put(tmp_path / f"{n}-{name}", bytes(rotten))
        reason = "accepted"
        try:
            view(renderer, path)
        except AssetError as error:
            reason = error.reason
        known = {"accepted", "import", "empty_mesh", "missing_texture", "render_crash", "memory"}
        assert reason in known


@pytest.mark.parametrize("data", [None, b"", png()[:60], b"no image at all"])
@pytest.mark.parametrize("where", ["obj", "gltf"])
def test_a_texture_that_cannot_be_read_is_refused(renderer, tmp_path, where, data):
    if where == "obj":
        put(tmp_path / "m.mtl", "newmtl m\nmap_Kd skin.png\n")
        path = put(tmp_path / "a.obj", obj_text(head="vt 0 0\n" + TEXTURED).replace("f ", "f "))
    else:
        header, blob = gltf(images=[{"uri": "skin.png"}])
        path = put(tmp_path / "a.glb", glb(header, blob))
    if data is not None:
        put(tmp_path / "skin.png", data)
    assert refused(renderer, path).reason == "missing_texture"
    put(tmp_path / "skin.png", png())
    image = view(renderer, path).astype(int)
    solid = image[image[..., 3] == 255]
    np.testing.assert_allclose(solid.mean(axis=0)[:3], (20, 200, 40), atol=4)


def test_the_texture_is_seen_and_counted(renderer, tmp_path):
    path = put(tmp_path / "a.glb", glb(*gltf()))
    mesh = renderer.open(path).mesh
    assert [m.texture is not None for m in mesh.materials] == [True]
    solid = view(renderer, path)
    solid = solid[solid[..., 3] == 255]
    np.testing.assert_allclose(solid.mean(axis=0)[:3], (20, 200, 40), atol=4)


def test_vertex_colours_are_seen_and_said(renderer, tmp_path):
    rows = ply_bytes().replace(b"property float z\n", b"property float z\n" + "".join(
        f"property uchar {name}\n" for name in ("red", "green", "blue")).encode())  # fmt: skip
    start = rows.index(b"end_header\n") + 11
    table = np.zeros(len(VERTICES), np.dtype([("p", "<f4", 3), ("c", "u1", 3)]))
    table["p"], table["c"] = VERTICES, (255, 0, 255)
    data = rows[:start] + table.tobytes() + rows[start + 12 * len(VERTICES) :]
    path = put(tmp_path / "a.ply", data)
    mesh = renderer.open(path).mesh
    np.testing.assert_allclose(mesh.materials[0].base_color, (1, 0, 1, 1), atol=1e-3)
    shown = view(renderer, path)
    np.testing.assert_allclose(shown[shown[..., 3] == 255].mean(axis=0)[:3], (255, 0, 255), atol=2)


@pytest.mark.parametrize(
    ("change", "mode"),
    [
        ({"alphaMode": "BLEND"}, "blend"),
        ({"alphaMode": "MASK", "alphaCutoff": 0.3}, "mask"),
        ({}, "opaque"),
    ],
)
def test_the_alpha_mode_is_told(renderer, tmp_path, change, mode):
    path = put(tmp_path / "a.glb", edited(lambda h: h["materials"][0].update(change)))
    assert renderer.open(path).mesh.materials[0].alpha_mode == mode


def test_a_flat_one_and_one_far_away_come_in(renderer, tmp_path):
    flat = renderer.open(put(tmp_path / "flat.obj", obj_text(VERTICES * (1, 0, 1)))).mesh
    assert np.ptp(bounds(flat)[:, 1]) < 1e-6
    far = renderer.open(put(tmp_path / "far.obj", obj_text(VERTICES + np.float32(1e3)))).mesh
    np.testing.assert_allclose(bounds(far), [LOW + 1e3, HIGH + 1e3], atol=1e-3)


def test_small_flaws_of_obj_files_are_forgiven(renderer, tmp_path):
    doubled = obj_text() + "f 1 1 2\n" + "f 3 4 \\\n 2\n" + "f -1 -2 -3\n" + "f 1 2\n"
    assert len(renderer.open(put(tmp_path / "a.obj", doubled)).mesh.faces) >= len(FACES)
    colors = obj_text().replace("v 0.5 -1 -1.5", "v 0.5 -1 -1.5 nan nan nan")
    check_slab(renderer.open(put(tmp_path / "b.obj", colors)).mesh)


def test_of_several_scenes_the_default_one_counts(renderer, tmp_path):
    def edit(header: dict[str, Any]) -> None:
        nodes = [{"mesh": 0}, {"mesh": 0, "translation": [40, 0, 0]}, {"translation": [1, 0, 0]}]
        header.update(nodes=nodes, scenes=[{"nodes": [1]}, {"nodes": [0, 2]}], scene=1)

    check_slab(renderer.open(put(tmp_path / "a.glb", edited(edit))).mesh)


def test_cameras_and_lights_go_and_their_children_stay_in_place(renderer, tmp_path):
    def edit(header: dict[str, Any]) -> None:
        light = {"KHR_lights_punctual": {"light": 0}}
        header.update(
            nodes=[
                {"camera": 0, "children": [1], "translation": [10, 0, 0]},
                {"extensions": light, "children": [2], "rotation": [0, 1, 0, 0]},
                {"mesh": 0, "translation": [10, 0, 0], "rotation": [0, 1, 0, 0]},
            ],
            cameras=[{"type": "perspective", "perspective": {"yfov": 1, "znear": 0.1}}],
            extensions={"KHR_lights_punctual": {"lights": [{"type": "point"}]}},
            extensionsUsed=["KHR_lights_punctual"],
        )

    path = put(tmp_path / "a.glb", edited(edit))
    check_slab(renderer.open(path).mesh)
    assert view(renderer, path)[..., 3].any()


def test_an_animation_does_not_move_the_asset(renderer, tmp_path):
    header, blob = gltf()
    start = len(blob)
    blob += np.array([0, 1], "<f4").tobytes() + np.array([[9, 0, 0], [0, 9, 0]], "<f4").tobytes()
    header["bufferViews"] += [
        {"buffer": 0, "byteOffset": start, "byteLength": 8},
        {"buffer": 0, "byteOffset": start + 8, "byteLength": 24},
    ]
    header["accessors"] += [
        {"bufferView": 4, "componentType": 5126, "count": 2, "type": "SCALAR", "min": [0],
         "max": [1]},
        {"bufferView": 5, "componentType": 5126, "count": 2, "type": "VEC3"},
    ]  # fmt: skip
    header["buffers"][0]["byteLength"] = len(blob)
    header["animations"] = [
        {"channels": [{"sampler": 0, "target": {"node": 0, "path": "translation"}}],
         "samplers": [{"input": 3, "output": 4}]}
    ]  # fmt: skip
    check_slab(renderer.open(put(tmp_path / "a.glb", glb(header, blob))).mesh)


def test_instances_and_mirrors_are_joined(renderer, tmp_path):
    def edit(header: dict[str, Any]) -> None:
        nodes = [{"mesh": 0}, {"mesh": 0, "scale": [-1, 1, 1], "translation": [10, 0, 0]}]
        header.update(nodes=nodes, scenes=[{"nodes": [0, 1]}])

    mesh = renderer.open(put(tmp_path / "a.glb", edited(edit))).mesh
    assert len(mesh.faces) == 2 * len(FACES)
    assert len(mesh.materials) == 1
    assert volume(mesh) == pytest.approx(2 * VOLUME, rel=1e-3)
    np.testing.assert_allclose(bounds(mesh)[1], [10.5, 1.0, 1.5], atol=1e-4)


USDA = """#usda 1.0
(
  defaultPrim = "root"
  upAxis = "{up}"
)
def Xform "root" {{
{prims}
}}
"""
MESH = """def Mesh "{name}" {{
  int[] faceVertexCounts = [{counts}]
  int[] faceVertexIndices = [{indices}]
  point3f[] points = [{points}]
  {more}
}}"""


def usda_mesh(name: str, vertices: np.ndarray, more: str = "") -> str:
    return MESH.format(
        name=name, more=more, counts=", ".join(["3"] * len(FACES)),
        indices=", ".join(map(str, FACES.reshape(-1))),
        points=", ".join(f"({x:.7g}, {y:.7g}, {z:.7g})" for x, y, z in vertices.tolist()),
    )  # fmt: skip


def test_usd_carries_its_up_axis_and_what_is_hidden(renderer, tmp_path):
    prims = [
        usda_mesh("shown", VERTICES),
        usda_mesh("hidden", VERTICES + 50, 'token visibility = "invisible"'),
        usda_mesh("helper", VERTICES + 50, 'uniform token purpose = "guide"'),
    ]
    text = USDA.format(up="Y", prims="\n".join(prims))
    check_slab(renderer.open(put(tmp_path / "y.usda", text)).mesh)
    turned = np.stack([VERTICES[:, 0], -VERTICES[:, 2], VERTICES[:, 1]], axis=1)
    text = USDA.format(up="Z", prims=usda_mesh("shown", turned))
    check_slab(renderer.open(put(tmp_path / "z.usda", text)).mesh)
    text = USDA.format(up="Y", prims="\n".join(prims[1:]))
    assert refused(renderer, put(tmp_path / "none.usda", text)).reason == "empty_mesh"


def test_other_formats_and_files_that_are_not_there(renderer, tmp_path):
    for name in ("a.blend", "a.abc", "a"):
        assert refused(renderer, put(tmp_path / name, b"data")).reason == "import"
    with pytest.raises(AssetError) as caught:
        renderer.open(tmp_path / "none.glb")
    assert (caught.value.reason, caught.value.stage) == ("gone", "fetch")


def test_nothing_of_a_refused_asset_is_left(renderer, tmp_path):
    refused(renderer, put(tmp_path / "bad.obj", BAD_FACE))
    check_slab(renderer.open(put(tmp_path / "good.obj", obj_text())).mesh)
