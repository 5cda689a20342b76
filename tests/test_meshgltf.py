"""Reading glTF and GLB: against trimesh and hand-made files, and every kind of damage."""

from __future__ import annotations

import base64
import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from g3d.errors import AssetError
from g3d.renderers.meshes import face_areas
from g3d.renderers.meshes.load import load_mesh
from PIL import Image
from scipy.spatial.transform import Rotation


def png(color: tuple[int, ...] = (10, 200, 30), size: tuple[int, int] = (6, 4)) -> bytes:
    image = np.zeros((size[1], size[0], 3), np.uint8)
    image[:] = color
    image[0, 0] = (255, 0, 0)  # top left
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


class Gltf:
    """A glTF file under construction: every array becomes a buffer view and an accessor."""

    def __init__(self) -> None:
        self.data = b""
        self.json: dict[str, Any] = {
            "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0}], "meshes": [{"primitives": []}],
            "accessors": [], "bufferViews": [],
        }  # fmt: skip

    def view(self, blob: bytes) -> int:
        self.json["bufferViews"].append(
            {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(blob)}
        )
        self.data += blob + b"\0" * (-len(blob) % 4)
        return len(self.json["bufferViews"]) - 1

    def array(self, value: Any, dtype: type = np.float32, **extra: Any) -> int:
        value = np.asarray(value, dtype)
        codes = {np.uint8: 5121, np.uint16: 5123, np.uint32: 5125, np.int8: 5120, np.float32: 5126}
        kind = "SCALAR" if value.ndim == 1 else f"VEC{value.shape[1]}"
        self.json["accessors"].append(
            {"bufferView": self.view(value.tobytes()), "componentType": codes[dtype],
             "count": len(value), "type": kind, **extra}
        )  # fmt: skip
        return len(self.json["accessors"]) - 1

    def primitive(self, indices: int | None = None, mesh: int = 0, **extra: Any) -> dict[str, Any]:
        attributes = {k: v for k, v in extra.items() if k.isupper()}
        item = {"attributes": attributes} | {k: v for k, v in extra.items() if not k.isupper()}
        if indices is not None:
            item["indices"] = indices
        self.json["meshes"][mesh]["primitives"].append(item)
        return item

    def save(self, path: Path) -> Path:
        if path.suffix == ".glb":
            self.json["buffers"] = [{"byteLength": len(self.data)}]
            text = json.dumps(self.json).encode()
            text += b" " * (-len(text) % 4)
            body = struct.pack("<I4s", len(text), b"JSON") + text
            body += struct.pack("<I4s", len(self.data), b"BIN\0") + self.data
            path.write_bytes(b"glTF" + struct.pack("<II", 2, 12 + len(body)) + body)
        else:
            uri = "data:application/octet-stream;base64," + base64.b64encode(self.data).decode()
            self.json["buffers"] = [{"byteLength": len(self.data), "uri": uri}]
            path.write_text(json.dumps(self.json))
        return path


TRIANGLE = [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
UVS = [[0, 0], [1, 0], [0.25, 0.75]]


def textured(gltf: Gltf, image: dict[str, Any], **material: Any) -> None:
    gltf.primitive(POSITION=gltf.array(TRIANGLE), TEXCOORD_0=gltf.array(UVS), material=0)
    gltf.json["images"] = [image]
    gltf.json["textures"] = [{"source": 0}]
    gltf.json["materials"] = [
        {"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}, **material}
    ]


def check_texture(path: Path) -> None:
    mesh = load_mesh(path)
    (material,) = mesh.materials
    assert material.texture.shape == (4, 6, 4)
    assert material.texture.dtype == np.uint8
    np.testing.assert_array_equal(material.texture[0, 0], [255, 0, 0, 255])  # row 0 = top
    np.testing.assert_array_equal(material.texture[3, 5], [10, 200, 30, 255])
    order = np.argsort(mesh.vertices @ [1, 2, 0])
    # glTF counts v from the top, the mesh from the bottom.
    np.testing.assert_allclose(mesh.uvs[order], [[0, 1], [1, 1], [0.25, 0.25]], atol=1e-6)


@pytest.mark.parametrize("suffix", [".glb", ".gltf"])
def test_embedded_texture(tmp_path: Path, suffix: str):
    gltf = Gltf()
    textured(gltf, {"bufferView": gltf.view(png()), "mimeType": "image/png"})
    check_texture(gltf.save(tmp_path / f"a{suffix}"))


@pytest.mark.parametrize("uri", ["Textures/a b.png", "Textures/a%20b.png", "textures\\A B.PNG"])
def test_external_texture(tmp_path: Path, uri: str):
    gltf = Gltf()
    textured(gltf, {"uri": uri})
    (tmp_path / "Textures").mkdir()
    (tmp_path / "Textures" / "a b.png").write_bytes(png())
    check_texture(gltf.save(tmp_path / "a.glb"))


def test_data_uri_texture(tmp_path: Path):
    gltf = Gltf()
    textured(gltf, {"uri": "data:image/png;base64," + base64.b64encode(png()).decode()})
    check_texture(gltf.save(tmp_path / "a.gltf"))


def test_missing_and_broken_textures(tmp_path: Path):
    gltf = Gltf()
    textured(gltf, {"uri": "nowhere.png"})
    with pytest.raises(AssetError, match=r"nowhere\.png") as caught:
        load_mesh(gltf.save(tmp_path / "a.glb"))
    assert caught.value.reason == "missing_texture"
    for blob in (png()[:60], b"not an image", b""):
        (tmp_path / "nowhere.png").write_bytes(blob)
        with pytest.raises(AssetError, match="import"):
            load_mesh(tmp_path / "a.glb")


def physical(gltf: Gltf, **material: Any) -> dict[str, Any]:
    """A textured triangle whose three images are: base (10, 200, 30), gloss, glow."""
    images = [png(), png((7, 128, 255)), png((255, 0, 100))]
    views = [{"bufferView": gltf.view(image), "mimeType": "image/png"} for image in images]
    textured(gltf, views[0])
    gltf.json["images"] = views
    gltf.json["textures"] = [{"source": n} for n in range(3)]
    item = gltf.json["materials"][0]
    item["pbrMetallicRoughness"] |= {
        "metallicRoughnessTexture": {"index": 1}, "metallicFactor": 0.5, "roughnessFactor": 0.8,
    }  # fmt: skip
    item |= {"emissiveTexture": {"index": 2}, "emissiveFactor": [1, 0.5, 0.25], **material}
    return item


def test_metallic_roughness_and_emission(tmp_path: Path):
    gltf = Gltf()
    strength = {"KHR_materials_emissive_strength": {"emissiveStrength": 2.0}}
    physical(gltf, extensions=strength)
    mesh = load_mesh(gltf.save(tmp_path / "a.glb"))
    (material,) = mesh.materials
    assert (material.metallic, material.roughness) == (0.5, 0.8)
    np.testing.assert_array_equal(material.metallic_roughness[3, 5], [7, 128, 255, 255])
    np.testing.assert_array_equal(material.emissive_texture[3, 5], [255, 0, 100, 255])
    assert material.emissive == (2.0, 1.0, 0.5)
    assert mesh.uvs is not None


def test_second_textures_without_a_base_texture_keep_their_uvs(tmp_path: Path):
    gltf = Gltf()
    item = physical(gltf)
    del item["pbrMetallicRoughness"]["baseColorTexture"]
    item["pbrMetallicRoughness"]["metallicRoughnessTexture"]["texCoord"] = 1
    item["emissiveTexture"]["texCoord"] = 1
    (primitive,) = gltf.json["meshes"][0]["primitives"]
    primitive["attributes"]["TEXCOORD_1"] = gltf.array([[0, 0], [0.5, 0], [0, 0.5]])
    mesh = load_mesh(gltf.save(tmp_path / "a.glb"))
    assert mesh.materials[0].texture is None
    assert mesh.materials[0].metallic_roughness is not None
    order = np.argsort(mesh.vertices @ [1, 2, 0])
    np.testing.assert_allclose(mesh.uvs[order], [[0, 1], [0.5, 1], [0, 0.5]], atol=1e-6)
    # Without any uvs there is no picture, and a lamp must not glow all over.
    primitive["attributes"].pop("TEXCOORD_1")
    (material,) = load_mesh(gltf.save(tmp_path / "a.glb")).materials
    assert material.textures == (None, None, None)
    assert material.emissive == (0.0, 0.0, 0.0)


def test_a_second_texture_laid_out_in_another_way_counts_as_its_mean(tmp_path: Path):
    gltf = Gltf()
    item = physical(gltf)
    item["pbrMetallicRoughness"]["metallicRoughnessTexture"]["texCoord"] = 1
    turned = {"KHR_texture_transform": {"offset": [0.5, 0]}}
    item["emissiveTexture"]["extensions"] = turned
    (material,) = load_mesh(gltf.save(tmp_path / "a.glb")).materials
    assert material.texture is not None
    assert material.metallic_roughness is None
    assert material.emissive_texture is None
    share = 23 / 24  # one texel of 24 is (255, 0, 0)
    assert material.roughness == pytest.approx(0.8 * share * 128 / 255)
    assert material.metallic == pytest.approx(0.5 * share)
    blue = ((100 / 255 + 0.055) / 1.055) ** 2.4
    np.testing.assert_allclose(material.emissive, [1.0, 0.0, 0.25 * share * blue], atol=1e-6)


def test_a_second_texture_that_cannot_be_read_is_left_out(tmp_path: Path):
    gltf = Gltf()
    physical(gltf)
    gltf.json["textures"][1:] = [{"extensions": {"KHR_texture_basisu": {"source": n}}}
                                 for n in (1, 2)]  # fmt: skip
    (material,) = load_mesh(gltf.save(tmp_path / "a.glb")).materials
    assert material.texture is not None
    assert material.textures[1:] == (None, None)
    assert (material.metallic, material.roughness) == (0.0, 0.8)
    assert material.emissive == (0.0, 0.0, 0.0)


def test_trimesh_round_trip_with_two_materials_and_vertex_colours(tmp_path: Path):
    """A scene written by another library: the same surface and the same materials come back."""
    image = Image.open(io.BytesIO(png()))
    pbr = trimesh.visual.material.PBRMaterial
    ball = trimesh.creation.icosphere(subdivisions=1)
    ball.visual = trimesh.visual.TextureVisuals(
        uv=ball.vertices[:, :2] * 0.5 + 0.5, material=pbr(name="skin", baseColorTexture=image)
    )
    block = trimesh.creation.box((1, 2, 3))
    block.visual = trimesh.visual.TextureVisuals(
        uv=np.zeros((8, 2)),
        material=pbr(name="paint", baseColorFactor=[255, 0, 51, 128], alphaMode="MASK",
                     alphaCutoff=0.25, metallicFactor=0.5, roughnessFactor=0.125),
    )  # fmt: skip
    cone = trimesh.creation.cone(1, 2)
    cone.visual.vertex_colors = np.tile([51, 102, 255, 255], (len(cone.vertices), 1))
    scene = trimesh.Scene()
    scene.add_geometry(ball, transform=trimesh.transformations.translation_matrix([5, 0, 0]))
    scene.add_geometry(block, transform=trimesh.transformations.rotation_matrix(0.7, [1, 2, 3]))
    scene.add_geometry(cone)
    (tmp_path / "a.glb").write_bytes(scene.export(file_type="glb"))
    mesh = load_mesh(tmp_path / "a.glb")

    other = scene.to_mesh()
    np.testing.assert_allclose(np.sort(face_areas(mesh)), np.sort(other.area_faces), rtol=1e-4)
    np.testing.assert_allclose(_volume(mesh), other.volume, rtol=1e-4)
    np.testing.assert_allclose(
        np.stack([mesh.vertices.min(0), mesh.vertices.max(0)]), other.bounds, atol=1e-5
    )
    skin = next(m for m in mesh.materials if m.name == "skin")
    paint = next(m for m in mesh.materials if m.name == "paint")
    assert skin.texture.shape == (4, 6, 4)
    assert paint.texture is None
    np.testing.assert_allclose(paint.base_color, [1, 0, 0.2, 128 / 255], atol=1e-6)
    assert (paint.alpha_mode, paint.alpha_cutoff) == ("mask", 0.25)
    assert (paint.metallic, paint.roughness) == (0.5, 0.125)
    counts = [np.sum(mesh.face_materials == mesh.materials.index(m)) for m in (skin, paint)]
    assert counts == [len(ball.faces), len(block.faces)]
    rest = ~np.isin(mesh.face_materials, [mesh.materials.index(m) for m in (skin, paint)])
    assert rest.sum() == len(cone.faces)
    # glTF's vertex colours are linear: kept as they are.
    color = mesh.colors[mesh.faces[rest]].reshape(-1, 4)
    np.testing.assert_allclose(color, np.tile([0.2, 0.4, 1, 1], (len(color), 1)), atol=1e-6)
    assert (mesh.colors[mesh.faces[~rest]] == 1).all()
    on_ball = mesh.faces[mesh.face_materials == mesh.materials.index(skin)]
    local = mesh.vertices[on_ball] - [5, 0, 0]
    np.testing.assert_allclose(mesh.uvs[on_ball], local[..., :2] * 0.5 + 0.5, atol=1e-5)


def _volume(mesh: Any) -> float:
    a, b, c = (mesh.vertices[mesh.faces[:, k]].astype(float) for k in range(3))
    return float(np.einsum("fi,fi->f", a, np.cross(b, c)).sum() / 6)


def test_nested_nodes_and_negative_scale_keep_outside_outside(tmp_path: Path):
    block = trimesh.creation.box((1, 2, 3))
    block = trimesh.Trimesh(block.vertices[block.faces.reshape(-1)], np.arange(36).reshape(-1, 3),
                            process=False)  # fmt: skip
    gltf = Gltf()
    gltf.primitive(
        gltf.array(block.faces.reshape(-1), np.uint16),
        POSITION=gltf.array(block.vertices),
        NORMAL=gltf.array(np.repeat(block.face_normals, 3, axis=0)),
    )
    turn = Rotation.from_rotvec([0.3, -1.1, 0.6])
    shear = np.array([[-2.0, 0.3, 0, 1], [0, 1, 0, 2], [0, 0.1, 1, 3], [0, 0, 0, 1]])
    gltf.json["nodes"] = [
        {"children": [1], "matrix": shear.T.reshape(-1).tolist()},
        {"children": [2, 3], "translation": [1, 2, 3], "rotation": turn.as_quat().tolist()},
        {"mesh": 0, "scale": [1, -1, 0.5]},
        {"mesh": 0, "scale": [1, 2, 1], "translation": [9, 0, 0]},
    ]
    mesh = load_mesh(gltf.save(tmp_path / "a.glb"))
    local = np.eye(4)
    local[:3, :3], local[:3, 3] = turn.as_matrix(), [1, 2, 3]
    outer = shear @ local
    first = outer @ np.diag([1, -1, 0.5, 1])
    want = block.vertices @ first[:3, :3].T + first[:3, 3]
    got = np.sort(mesh.vertices[:36], axis=0)
    np.testing.assert_allclose(got, np.sort(want, axis=0), atol=1e-4)
    half = len(mesh.faces) // 2
    for part in (mesh.faces[:half], mesh.faces[half:]):
        corner = mesh.vertices[part].astype(float)
        middle = corner.reshape(-1, 3).mean(axis=0)
        normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
        outward = corner.mean(axis=1) - middle
        assert (np.einsum("fi,fi->f", normal, outward) > 0).all()
        unit = normal / np.linalg.norm(normal, axis=1, keepdims=True)
        np.testing.assert_allclose(mesh.normals[part], np.repeat(unit[:, None], 3, 1), atol=1e-4)


def test_strips_fans_and_lines(tmp_path: Path):
    square = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
    for mode, order in ((4, [0, 1, 2, 0, 2, 3]), (5, [0, 1, 3, 2]), (6, [0, 1, 2, 3])):
        gltf = Gltf()
        gltf.primitive(gltf.array(order, np.uint8), POSITION=gltf.array(square), mode=mode)
        mesh = load_mesh(gltf.save(tmp_path / "a.gltf"))
        assert face_areas(mesh).sum() == pytest.approx(1.0)
        a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
        assert (np.cross(b - a, c - a)[:, 2] > 0).all(), mode
    for mode in (0, 1, 3):
        gltf = Gltf()
        gltf.primitive(POSITION=gltf.array(square), mode=mode)
        with pytest.raises(AssetError, match="empty_mesh"):
            load_mesh(gltf.save(tmp_path / "a.gltf"))


def test_quantised_interleaved_and_sparse_accessors(tmp_path: Path):
    gltf = Gltf()
    # Positions int8 normalized, interleaved with four bytes of uv (uint16 normalized).
    row = np.zeros(3, [("p", np.int8, 4), ("t", np.uint16, 2)])
    row["p"][:, :3] = [[0, 0, 0], [127, 0, 0], [0, -127, 64]]
    row["t"] = [[0, 0], [65535, 0], [0, 13107]]
    view = gltf.view(row.tobytes())
    gltf.json["bufferViews"][view]["byteStride"] = 8
    gltf.json["accessors"] = [
        {"bufferView": view, "componentType": 5120, "count": 3, "type": "VEC3", "normalized": True},
        {"bufferView": view, "byteOffset": 4, "componentType": 5123, "count": 3, "type": "VEC2",
         "normalized": True},
    ]  # fmt: skip
    at, value = gltf.view(np.uint8([1]).tobytes()), gltf.view(np.float32([0, 0.5, 0]).tobytes())
    gltf.json["accessors"].append(
        {"componentType": 5126, "count": 3, "type": "VEC3", "sparse": {
            "count": 1, "indices": {"bufferView": at, "componentType": 5121},
            "values": {"bufferView": value}}}
    )  # fmt: skip
    gltf.primitive(POSITION=0, TEXCOORD_0=1, COLOR_0=2, material=0)
    gltf.json["images"] = [{"bufferView": gltf.view(png())}]
    gltf.json["textures"] = [{"source": 0}]
    transform = {"offset": [0.5, 0.25], "scale": [2, 4]}
    gltf.json["materials"] = [{"pbrMetallicRoughness": {"baseColorTexture": {
        "index": 0, "extensions": {"KHR_texture_transform": transform}}}}]  # fmt: skip
    mesh = load_mesh(gltf.save(tmp_path / "a.glb"))
    np.testing.assert_allclose(mesh.vertices, [[0, 0, 0], [1, 0, 0], [0, -1, 64 / 127]], atol=1e-6)
    np.testing.assert_allclose(mesh.uvs, [[0.5, 0.75], [2.5, 0.75], [0.5, -0.05]], atol=1e-5)
    np.testing.assert_allclose(mesh.colors[:, 1], [0, 0.5, 0])


def test_second_uv_set(tmp_path: Path):
    gltf = Gltf()
    textured(gltf, {"bufferView": gltf.view(png())})
    attributes = gltf.json["meshes"][0]["primitives"][0]["attributes"]
    attributes["TEXCOORD_1"] = attributes.pop("TEXCOORD_0")
    attributes["TEXCOORD_0"] = gltf.array(np.zeros((3, 2)))
    gltf.json["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]["texCoord"] = 1
    check_texture(gltf.save(tmp_path / "a.glb"))


def _draco(g: Gltf) -> None:
    g.json["extensionsRequired"] = ["KHR_draco_mesh_compression"]


def _draco_without_saying_so(g: Gltf) -> None:
    g.json["meshes"][0]["primitives"][0]["extensions"] = {"KHR_draco_mesh_compression": {}}
    del g.json["accessors"][0]["bufferView"]


def _cycle(g: Gltf) -> None:
    g.json["nodes"] = [{"children": [1]}, {"children": [0], "mesh": 0}]


BROKEN = {
    "draco": _draco,
    "draco, not declared": _draco_without_saying_so,
    "meshopt": lambda g: g.json.update(extensionsRequired=["EXT_meshopt_compression"]),
    "unknown extension": lambda g: g.json.update(extensionsRequired=["FAKE_thing"]),
    "version 1": lambda g: g.json.update(asset={"version": "1.0"}),
    "version 3": lambda g: g.json.update(asset={"version": "2.0", "minVersion": "2.1"}),
    "no asset": lambda g: g.json.pop("asset"),
    "index too large": lambda g: g.json["meshes"][0]["primitives"][0].update(
        indices=g.array([0, 1, 7], np.uint16)
    ),
    "accessor too long": lambda g: g.json["accessors"][0].update(count=4000),
    "accessor without end": lambda g: g.json["accessors"][0].update(count=2**60),
    "negative offset": lambda g: g.json["accessors"][0].update(byteOffset=-8),
    "no such view": lambda g: g.json["accessors"][0].update(bufferView=99),
    "no such mesh": lambda g: g.json["nodes"][0].update(mesh=5),
    "no such node": lambda g: g.json["scenes"][0].update(nodes=[7]),
    "node cycle": _cycle,
    "wrong type": lambda g: g.json.update(nodes="hello"),
    "bad matrix": lambda g: g.json["nodes"][0].update(matrix=[1, 2]),
    "bad component": lambda g: g.json["accessors"][0].update(componentType=1),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_gltf_is_an_import_error(tmp_path: Path, name: str):
    gltf = Gltf()
    gltf.primitive(POSITION=gltf.array(TRIANGLE))
    load_mesh(gltf.save(tmp_path / "good.glb"))
    BROKEN[name](gltf)
    with pytest.raises(AssetError) as caught:
        load_mesh(gltf.save(tmp_path / "a.glb"))
    assert caught.value.reason == "import"
    assert caught.value.stage == "load"


def test_every_truncation_of_a_glb_is_an_asset_error(tmp_path: Path):
    gltf = Gltf()
    textured(gltf, {"bufferView": gltf.view(png())})
    whole = gltf.save(tmp_path / "a.glb").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "b.glb").write_bytes(whole[:length])
        with pytest.raises(AssetError, match="import"):
            load_mesh(tmp_path / "b.glb")


def test_random_damage_never_escapes(tmp_path: Path):
    gltf = Gltf()
    textured(gltf, {"bufferView": gltf.view(png())})
    whole = np.frombuffer(gltf.save(tmp_path / "a.glb").read_bytes(), np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(150):
        bad = whole.copy()
        bad[rng.integers(0, len(bad), 6)] = rng.integers(0, 256, 6)
        (tmp_path / "b.glb").write_bytes(bad.tobytes())
        try:
            mesh = load_mesh(tmp_path / "b.glb")
        except AssetError:
            continue
        assert np.isfinite(mesh.vertices).all()


@pytest.mark.parametrize("name", ["nothing.glb", "model.fbx", "noextension"])
def test_unreadable_paths(tmp_path: Path, name: str):
    if name != "nothing.glb":
        (tmp_path / name).write_bytes(b"data")
    with pytest.raises(AssetError) as caught:
        load_mesh(tmp_path / name)
    assert caught.value.reason == "import"


def test_empty_meshes(tmp_path: Path):
    for vertices in (np.zeros((3, 3)), [[0, 0, 0], [1, 1, 1], [2, 2, 2]], np.full((3, 3), np.nan)):
        gltf = Gltf()
        gltf.primitive(POSITION=gltf.array(vertices))
        with pytest.raises(AssetError) as caught:
            load_mesh(gltf.save(tmp_path / "a.glb"))
        assert caught.value.reason == "empty_mesh"
    gltf = Gltf()
    gltf.json.update(nodes=[{"name": "empty"}], meshes=[])
    with pytest.raises(AssetError, match="empty_mesh"):
        load_mesh(gltf.save(tmp_path / "a.glb"))


def test_broken_values_are_mended_and_broken_faces_dropped(tmp_path: Path):
    gltf = Gltf()
    gltf.primitive(
        gltf.array([0, 1, 2, 1, 2, 3, 0, 0, 1], np.uint16),
        POSITION=gltf.array([*TRIANGLE, [np.inf, 0, 0]]),
        NORMAL=gltf.array([[0, 0, 5], [np.nan, 0, 0], [0, 0, 0], [0, 0, 1]]),
        COLOR_0=gltf.array([[np.nan, 0.5, 7], [0, 0, 0], [1, 1, 1], [1, 1, 1]]),
    )
    mesh = load_mesh(gltf.save(tmp_path / "a.glb"))
    np.testing.assert_array_equal(mesh.vertices, TRIANGLE)
    np.testing.assert_array_equal(mesh.faces, [[0, 1, 2]])
    np.testing.assert_array_equal(mesh.normals, [[0, 0, 1], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(mesh.colors[0], [1, 0.5, 1, 1])
