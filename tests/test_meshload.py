"""Reading OBJ + MTL, PLY and STL."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import trimesh
from g3d.errors import AssetError
from g3d.renderers.meshes import Material, Mesh
from g3d.renderers.meshes.load import load_mesh
from g3d.renderers.srgb import srgb_to_linear
from PIL import Image


def png() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((4, 6, 3), 90, np.uint8)).save(out, "PNG")
    return out.getvalue()


def volume(mesh: Mesh) -> float:
    a, b, c = (mesh.vertices[mesh.faces[:, k]].astype(float) for k in range(3))
    return float(np.einsum("fi,fi->f", a, np.cross(b, c)).sum() / 6)


OBJ = """mtllib my mats.mtl
v 0 0 0
v 1 0 0
v 1 1 0
v 0 1 0
vt 0 0
vt 1 0
vt 1 1
vt 0 1
vn 0 0 1
usemtl wood
f 1/1/1 2/2/1 3/3/1 4/4/1
v 0 0 5
v 1 0 5
v 0 1 5
usemtl red paint
f -3//1 -2//1 -1//1
"""
MTL = """# comment
newmtl wood
\tKd 0.5 0.25 1
map_Kd -s 1 1 1 Maps\\Wood.PNG
newmtl red paint
Kd 0.8 0.1 0.05
d 0.5
"""


def test_obj_with_mtl(tmp_path: Path):
    (tmp_path / "a.obj").write_text(OBJ)
    (tmp_path / "my mats.mtl").write_text(MTL)
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "wood.png").write_bytes(png())
    mesh = load_mesh(tmp_path / "a.obj")
    by_name = {m.name: (n, m) for n, m in enumerate(mesh.materials)}
    wood, paint = by_name["wood"], by_name["red paint"]
    assert wood[1].texture.shape == (4, 6, 4)
    assert wood[1].base_color == (0.5, 0.25, 1.0, 1.0)
    assert paint[1].base_color == (0.8, 0.1, 0.05, 0.5)
    assert paint[1].alpha_mode == "blend"
    board = mesh.faces[mesh.face_materials == wood[0]]
    assert len(board) == 2  # the quad, cut in two
    np.testing.assert_allclose(mesh.uvs[board], mesh.vertices[board][..., :2], atol=1e-6)
    # Negative indices count from the line they stand on.
    (triangle,) = mesh.faces[mesh.face_materials == paint[0]]
    np.testing.assert_allclose(mesh.vertices[triangle], [[0, 0, 5], [1, 0, 5], [0, 1, 5]])
    np.testing.assert_allclose(mesh.normals[mesh.faces], np.broadcast_to([0, 0, 1], (3, 3, 3)))

    (tmp_path / "maps" / "wood.png").unlink()
    with pytest.raises(AssetError, match="missing_texture"):
        load_mesh(tmp_path / "a.obj")
    (tmp_path / "my mats.mtl").unlink()
    with pytest.raises(AssetError, match=r"missing_texture: .*my mats"):
        load_mesh(tmp_path / "a.obj")


PLAIN = "mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nusemtl x\nf 1/1 2/1 3/1\n"


def obj_material(folder: Path, statements: str) -> Material:
    (folder / "a.obj").write_text(PLAIN)
    (folder / "a.mtl").write_text("newmtl x\n" + statements)
    return load_mesh(folder / "a.obj").materials[0]


def test_gloss_of_mtl(tmp_path: Path):
    assert obj_material(tmp_path, "Kd 1 1 1\n").roughness == Material().roughness
    for exponent, want in ((0, 1.0), (6, 0.5), (198, 0.1)):
        material = obj_material(tmp_path, f"Ns {exponent}\n")
        assert (material.metallic, material.roughness) == (0.0, pytest.approx(want))
    material = obj_material(tmp_path, "Ns 900\nPr 0.7\nPm 0.4\nKe 0.5 0.25 0\n")
    assert (material.metallic, material.roughness) == (0.4, 0.7)
    assert material.emissive == (0.5, 0.25, 0.0)
    with pytest.raises(AssetError, match="import"):
        obj_material(tmp_path, "Pr rough\n")


def test_gloss_maps_of_mtl_become_one_texture(tmp_path: Path):
    rough = np.arange(4 * 6, dtype=np.uint8).reshape(4, 6) * 10
    Image.fromarray(rough).save(tmp_path / "rough.png")
    Image.fromarray(np.array([[0, 255]], np.uint8)).save(tmp_path / "metal.png")
    Image.fromarray(np.full((2, 2, 3), 9, np.uint8)).save(tmp_path / "glow.png")
    text = "Pr 0.2\nmap_Pr rough.png\nmap_Pm metal.png\nmap_Ke glow.png\n"
    material = obj_material(tmp_path, text)
    assert (material.metallic, material.roughness) == (1.0, 1.0)
    np.testing.assert_array_equal(material.metallic_roughness[..., 1], rough)
    want = np.repeat([0, 255], 3)[None].repeat(4, axis=0)
    np.testing.assert_array_equal(material.metallic_roughness[..., 2], want)
    assert material.emissive == (1.0, 1.0, 1.0)
    assert (material.emissive_texture[..., :3] == 9).all()
    material = obj_material(tmp_path, "Pm 0.5\nmap_Pr rough.png\n")
    assert (material.metallic, material.roughness) == (0.5, 1.0)
    assert (material.metallic_roughness[..., 2] == 255).all()
    with pytest.raises(AssetError, match="missing_texture"):
        obj_material(tmp_path, "map_Pm nowhere.png\n")


@pytest.mark.parametrize("face", ["1 2 9", "1 2 0", "1 2 -9", "1/5 2/1 3/1", "1//1 2//1 3//4"])
def test_obj_with_an_index_out_of_range(tmp_path: Path, face: str):
    text = "v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvn 0 0 1\nf {}\n"
    (tmp_path / "a.obj").write_text(text.format("1/1/1 2/1/1 3/1/1"))
    load_mesh(tmp_path / "a.obj")
    (tmp_path / "a.obj").write_text(text.format(face))
    with pytest.raises(AssetError) as caught:
        load_mesh(tmp_path / "a.obj")
    assert caught.value.reason == "import"


def test_obj_vertex_colours_are_srgb(tmp_path: Path):
    (tmp_path / "a.obj").write_text("v 0 0 0 0.5 0 1\nv 1 0 0 0.5 0 1\nv 0 1 0 0.5 0 1\nf 1 2 3\n")
    mesh = load_mesh(tmp_path / "a.obj")
    np.testing.assert_allclose(mesh.colors[0], [srgb_to_linear(np.array(0.5)), 0, 1, 1], atol=1e-6)


@pytest.mark.parametrize("text", ["", "hello", "v 0 0 0\nv 1 0 0\nv 0 1 0\n", "v 0 0 0\nl 1 1\n"])
def test_obj_without_faces(tmp_path: Path, text: str):
    (tmp_path / "a.obj").write_text(text)
    with pytest.raises(AssetError, match="empty_mesh"):
        load_mesh(tmp_path / "a.obj")


@pytest.mark.parametrize("suffix", ["ply", "stl"])
def test_ply_and_stl(tmp_path: Path, suffix: str):
    block = trimesh.creation.box((1, 2, 3))
    block.visual.vertex_colors = np.tile([51, 102, 255, 255], (8, 1))
    (tmp_path / f"a.{suffix}").write_bytes(block.export(file_type=suffix))
    mesh = load_mesh(tmp_path / f"a.{suffix}")
    assert volume(mesh) == pytest.approx(6.0)
    assert len(mesh.faces) == 12
    if suffix == "ply":
        want = srgb_to_linear(np.array([0.2, 0.4, 1.0]))
        np.testing.assert_allclose(mesh.colors[:, :3], np.tile(want, (8, 1)), atol=1e-6)
    whole = (tmp_path / f"a.{suffix}").read_bytes()
    (tmp_path / f"a.{suffix}").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AssetError):
        load_mesh(tmp_path / f"a.{suffix}")


def test_ply_with_points_only(tmp_path: Path):
    cloud = trimesh.PointCloud(np.eye(3))
    (tmp_path / "a.ply").write_bytes(cloud.export(file_type="ply"))
    with pytest.raises(AssetError, match="empty_mesh"):
        load_mesh(tmp_path / "a.ply")
