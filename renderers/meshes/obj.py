"""Reading OBJ with its MTL files.

Written here rather than left to trimesh, which is silent about missing textures, rounds colours to
8 bits, drops all uvs when one is out of range, and takes negative indices from the end of the
*file* instead of the line they stand on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...errors import AssetError
from ..srgb import srgb_to_linear
from . import Material, Mesh
from .textures import decode_texture, find_beside, read_beside

# Options of a map_ statement and how many words each takes; the file name comes after them.
_OPTIONS = dict.fromkeys(
    ("-blendu", "-blendv", "-bm", "-boost", "-cc", "-clamp", "-imfchan", "-texres", "-type"), 1
) | {"-mm": 2, "-o": 3, "-s": 3, "-t": 3}
_MAPS = ("map_kd", "map_d", "map_pm", "map_pr", "map_ke")


@dataclass
class _Statements:
    """What the lines of a file say, before it is turned into arrays.

    Attributes:
        rows: Words of the ``v``, ``vt`` and ``vn`` lines.
        corners: Row of each distinct (v, vt, vn) triple, zero-based, -1 where absent.
        faces: Triples of corners, three for every triangle, by material.
        words: Row in ``corners`` of the words of faces whose meaning does not depend on their line.
    """

    rows: dict[str, list[list[str]]] = field(default_factory=lambda: {"v": [], "vt": [], "vn": []})
    corners: dict[tuple[int, int, int], int] = field(default_factory=dict)
    faces: dict[str, list[int]] = field(default_factory=dict)
    words: dict[str, int] = field(default_factory=dict)

    def add_face(self, words: list[str], material: str) -> None:
        """Add a polygon as a fan of triangles."""
        ring = []
        for word in words:
            corner = self.words.get(word)
            if corner is None:
                if word.startswith("#"):
                    break
                corner = self.corners.setdefault(self._triple(word), len(self.corners))
                if "-" not in word:
                    self.words[word] = corner
            ring.append(corner)
        faces = self.faces.setdefault(material, [])
        for k in range(1, len(ring) - 1):
            faces += (ring[0], ring[k], ring[k + 1])

    def _triple(self, word: str) -> tuple[int, int, int]:
        out = [-1, -1, -1]
        for n, (text, kind) in enumerate(zip(word.split("/"), self.rows, strict=False)):
            if text:
                # Negative indices count back from the last row so far.
                index = int(text)
                out[n] = index - 1 if index > 0 else len(self.rows[kind]) + index
                if index == 0 or out[n] < 0:
                    raise AssetError("import", f"face with {kind} {index}")
        return out[0], out[1], out[2]


def read_obj(path: Path) -> list[Mesh]:
    """One mesh per material of an OBJ file; polygons become fans of triangles.

    Vertex colours count only where the material has no texture (as in Blender).

    Raises:
        AssetError: ``import``: not OBJ or broken; ``missing_texture``: a material library or a
            texture is not there.
    """
    text = path.read_bytes().decode("utf-8", errors="replace").replace("\\\n", " ")
    materials = _libraries(path, text)
    found, current = _Statements(), ""
    try:
        for line in text.splitlines():
            words = line.split()
            if not words:
                continue
            if words[0] in found.rows:
                found.rows[words[0]].append(words[1:])
            elif words[0] == "f":
                found.add_face(words[1:], current)
            elif words[0] == "usemtl":
                current = " ".join(words[1:])
        return _meshes(found, materials)
    except ValueError as error:
        raise AssetError("import", f"broken OBJ: {error}") from error


def _meshes(found: _Statements, materials: dict[str, Material]) -> list[Mesh]:
    corners = np.asarray(list(found.corners), np.int64).reshape(-1, 3)
    position = _numbers(found.rows["v"], 3)
    # Without a single uv or normal in the file their indices are harmless, and not rare.
    uv, normal = _numbers(found.rows["vt"], 2), _numbers(found.rows["vn"], 3)
    for column, (name, rows) in enumerate((("v", position), ("vt", uv), ("vn", normal))):
        highest = corners[:, column].max(initial=-1)
        if highest >= len(rows) and (column == 0 or len(rows)):
            raise AssetError("import", f"face with {name} {highest + 1}, there are {len(rows)}")
    if corners[:, 0].min(initial=0) < 0:
        raise AssetError("import", "face without a vertex")
    colors = None
    if all(len(row) in (6, 7) for row in found.rows["v"]) and len(position):
        colors = linear_colors(_numbers([row[3:] for row in found.rows["v"]], 3))
    out = []
    for name, flat in found.faces.items():
        used, index = np.unique(np.asarray(flat, np.int64), return_inverse=True)
        material = materials.get(name) or Material(name=name or "default")
        at = corners[used]
        out.append(
            Mesh(
                vertices=position[at[:, 0]],
                faces=index.reshape(-1, 3),
                uvs=_rows(uv, at[:, 1]),
                colors=None if colors is None or material.texture is not None else colors[at[:, 0]],
                normals=_rows(normal, at[:, 2]),
                materials=(material,),
            )
        )
    return out


def _numbers(rows: list[list[str]], width: int) -> np.ndarray:
    """float64 ``[N, width]`` of the first words of each row; a missing one is 0."""
    padded = [row[:width] + ["0"] * (width - len(row)) for row in rows]
    return np.asarray(padded, np.float64).reshape(-1, width)


def _rows(values: np.ndarray, index: np.ndarray) -> np.ndarray | None:
    """Rows of ``values``, zero where ``index`` is -1; None where that is everywhere."""
    if not len(values) or (index < 0).all():
        return None
    return np.where(index[:, None] >= 0, values[index], 0.0)


def linear_colors(colors: np.ndarray) -> np.ndarray:
    """SRGB vertex colours ``[V, 3 or 4]``, 0..1 or 0..255, to linear float32 ``[V, 4]``."""
    color = np.asarray(colors, np.float64)
    finite = color[np.isfinite(color)]
    if colors.dtype.kind in "iu" or finite.max(initial=0.0) > 1.0:
        color = color / 255.0
    out = np.ones((len(color), 4), np.float32)
    out[:, :3] = srgb_to_linear(np.clip(color[:, :3], 0.0, 1.0))
    if color.shape[1] == 4:
        out[:, 3] = color[:, 3]
    return out


def _libraries(path: Path, text: str) -> dict[str, Material]:
    materials: dict[str, Material] = {}
    used = re.search(r"^\s*usemtl\s", text, re.MULTILINE) is not None
    for line in re.findall(r"^\s*mtllib[ \t]+([^\n]+)", text, re.MULTILINE):
        whole = line.strip()
        files = [find_beside(path.parent, whole)]
        if files[0] is None:
            files = [find_beside(path.parent, name) for name in whole.split()]
        for file in files:
            if file is not None:
                materials.update(_read_mtl(file))
            elif used:
                raise AssetError("missing_texture", f"material library {whole!r} is not there")
    return materials


def _read_mtl(path: Path) -> dict[str, Material]:
    """Materials by name. ``Kd`` and ``d`` are taken as linear, as Blender does."""
    text = path.read_bytes().decode("utf-8", errors="replace")
    rows: dict[str, dict[str, str]] = {}
    row: dict[str, str] = {}
    for line in text.splitlines():
        words = line.split(maxsplit=1)
        key = words[0].lower() if words else ""
        value = words[1].split(" #")[0].strip() if len(words) > 1 else ""
        if key == "newmtl":
            row = rows.setdefault(" ".join(value.split()), {})
        elif value and not key.startswith("#"):
            row[key] = value
    textures: dict[str, np.ndarray] = {}
    return {name: _material(name, row, path.parent, textures) for name, row in rows.items()}


def _material(
    name: str, row: dict[str, str], folder: Path, textures: dict[str, np.ndarray]
) -> Material:
    maps: dict[str, np.ndarray] = {}
    for key, value in row.items():
        if not key.startswith(("map_", "bump", "norm", "disp", "refl")):
            continue
        file = _map_file(value)
        if key in _MAPS:
            if file not in textures:
                textures[file] = decode_texture(read_beside(folder, file), file)
            maps[key] = textures[file]
        elif find_beside(folder, file) is None:
            raise AssetError("missing_texture", f"texture {file!r} is not there")
    texture, mask = maps.get("map_kd"), maps.get("map_d")
    try:
        color = _triple(row, "kd", "1 1 1")
        emissive = _triple(row, "ke", "1 1 1" if "map_ke" in maps else "0 0 0")
        alpha = float(row["d"].split()[-1]) if "d" in row else 1.0 - float(row.get("tr", "0"))
        metallic, roughness = _gloss(row)
    except ValueError as error:
        raise AssetError("import", f"material {name!r}: {error}") from error
    if alpha <= 0.0:
        alpha = 1.0  # MeshLab writes "Tr 1" for opaque; nobody saves a model to be invisible.
    if texture is not None and mask is not None:
        if mask.shape[:2] != texture.shape[:2]:
            raise AssetError("import", f"material {name!r}: map_Kd and map_d differ in size")
        texture = texture.copy()
        own = mask[..., 3].min() < 255
        texture[..., 3] = mask[..., 3] if own else mask[..., 0]
    if texture is not None and max(color) == 0:
        color = [1.0, 1.0, 1.0]  # Exporters write Kd 0 beside a texture to be seen as it is.
    return Material(
        name=name,
        base_color=(color[0], color[1], color[2], alpha),
        texture=texture,
        alpha_mode="blend" if alpha < 1.0 or mask is not None else "opaque",
        metallic=1.0 if "map_pm" in maps else metallic,
        roughness=1.0 if "map_pr" in maps else roughness,
        metallic_roughness=_gloss_map(maps.get("map_pm"), maps.get("map_pr")),
        emissive=(emissive[0], emissive[1], emissive[2]),
        emissive_texture=maps.get("map_ke"),
    )


def _triple(row: dict[str, str], key: str, default: str) -> list[float]:
    """A colour of three numbers; more are ignored."""
    color = [float(word) for word in row.get(key, default).split()[:3]]
    if len(color) != 3:
        raise ValueError(f"{key.capitalize()} has {len(color)} numbers")
    return color


def _gloss(row: dict[str, str]) -> tuple[float, float]:
    """Metallic and roughness: of the PBR statements, or from the Phong exponent ``Ns``.

    roughness = sqrt(2 / (Ns + 2)), the roughness of the Beckmann lobe that is as wide as the Phong
    lobe (Walter et al. 2007, "Microfacet Models for Refraction through Rough Surfaces").
    """
    metallic = min(1.0, max(0.0, float(row.get("pm", "0"))))
    if "pr" in row:
        return metallic, min(1.0, max(0.0, float(row["pr"])))
    if "ns" in row:
        return metallic, float(np.sqrt(2.0 / (max(0.0, float(row["ns"])) + 2.0)))
    return metallic, Material().roughness


def _gloss_map(metallic: np.ndarray | None, roughness: np.ndarray | None) -> np.ndarray | None:
    """Grey maps as one texture as glTF has it: green = roughness, blue = metallic."""
    given = [image for image in (metallic, roughness) if image is not None]
    if not given:
        return None
    height, width = (max(image.shape[axis] for image in given) for axis in range(2))
    out = np.full((height, width, 4), 255, np.uint8)
    for channel, image in ((1, roughness), (2, metallic)):
        if image is not None:
            rows = np.arange(height) * image.shape[0] // height
            columns = np.arange(width) * image.shape[1] // width
            out[..., channel] = image[rows[:, None], columns, 0]
    return out


def _map_file(value: str) -> str:
    """The file name of a ``map_`` statement, without its options."""
    words = value.split()
    skipped = 0
    while skipped < len(words) - 1 and words[skipped] in _OPTIONS:
        word, skipped = words[skipped], skipped + 1
        for _ in range(_OPTIONS[word]):
            is_number = re.fullmatch(r"[-+.\deE]+", words[skipped]) is not None
            if skipped < len(words) - 1 and (is_number or _OPTIONS[word] == 1):
                skipped += 1
    return value.split(maxsplit=skipped)[-1] if skipped else value
