"""The table of a folder: how it is written, what it names, what it says of the assets."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from g3d.errors import ConfigError, DatasetError
from g3d.pipeline.sources.base import SourceAsset
from g3d.pipeline.sources.registry import get_source
from g3d.pipeline.sources.table import COLUMNS, Table, license_of, read_table
from hypothesis import given
from hypothesis import strategies as st

FILES = ("a/one.obj", "a/one.fbx", "a/two.glb", "b/three.ply", "b/only.fbx", "four.stl")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "models"
    for name in FILES:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(name)
    with zipfile.ZipFile(place / "pack.zip", "w") as out:
        out.writestr("in/five.ply", "five")
    return place


def listed(
    root: Path, text: str, name: str = "t.csv", category: str = "car", limit: int | None = None
) -> list[SourceAsset]:
    table = root.parent / name
    table.write_text(text, encoding="utf-8")
    return get_source("folder", category=category, root=root, table=table, limit=limit).list()


def rows(text: str | bytes, name: str = "t.csv") -> list[dict[str, str]]:
    data = text.encode() if isinstance(text, str) else text
    return [{c: getattr(r, c) for c in COLUMNS if getattr(r, c)}
            for r in read_table(name, data).rows]  # fmt: skip


# --- what it says --------------------------------------------------------------------------------


def test_the_rows_say_which_files_are_assets_and_what_they_are(root: Path) -> None:
    text = (
        "file,uid,license,author,url,title,split\n"
        'b/three.ply,three-1,LicenseRef-Shop,"Anna, and Bob",https://x.org/3,A car,test\n'
        "./a\\two.glb,,cc0,,,,TRAIN\n"
        "pack.zip/in/five.ply,,,,,,\n"
    )
    two, three, five = listed(root, text)
    assert (three.uid, three.source_id) == ("three-1", "b/three.ply")
    assert (three.license, three.author) == ("LicenseRef-Shop", "Anna, and Bob")
    assert (three.url, three.title, three.split) == ("https://x.org/3", "A car", "test")
    plain = {a.source_id: a for a in get_source("folder", category="car", root=root).list()}
    assert len(plain) == 5
    assert three.sha256 == plain["b/three.ply"].sha256
    assert (two.uid, two.license) == (plain["a/two.glb"].uid, "CC0-1.0")
    assert two.split == "train"
    assert five == plain["pack.zip/in/five.ply"]
    assert "split" not in five.spec


def test_what_the_files_say_fills_what_the_table_leaves_open(root: Path) -> None:
    (root / "LICENSE").write_text("MIT License\nCopyright (c) 2020 Some Body")
    one, two = listed(root, "file,license,author\na/one.obj,,Me\nfour.stl,CC-BY-4.0,\n")
    assert (one.license, one.author) == ("MIT", "Me")
    assert (two.license, two.author) == ("CC-BY-4.0", "Some Body")


def test_a_row_may_name_any_format_a_folder_or_an_archive(root: Path) -> None:
    for name in ("a/one.fbx", "a/one.obj"):
        assert [a.source_id for a in listed(root, f"file\n{name}\n")] == ["a/one.obj"]
    for name in ("pack.zip", "pack/in/five.ply", "pack/in"):
        assert [a.source_id for a in listed(root, f"file\n{name}\n")] == ["pack.zip/in/five.ply"]
    with pytest.raises(DatasetError, match=r"a holds 2 assets: a/one\.obj, a/two\.glb"):
        listed(root, "file\na/\n")
    # The row decides where the renderer reads both.
    (root / "a" / "one.stl").write_text("stl")
    assert [a.source_id for a in listed(root, "file\na/one.stl\n")] == ["a/one.stl"]


def test_a_file_for_blender_alone_is_passed_over(root: Path, caplog: Any) -> None:
    assert [a.source_id for a in listed(root, "file\nb/only.fbx\nfour.stl\n")] == ["four.stl"]
    assert "1 .fbx; --renderer blender" in caplog.text
    with pytest.raises(DatasetError, match="no model files") as caught:
        listed(root, "file\nb/only.fbx\n")
    assert "blender" in (caught.value.hint or "")


def test_files_that_are_not_there_are_named(root: Path) -> None:
    gone = "".join(f"gone/{n}.obj\n" for n in range(8))
    with pytest.raises(DatasetError) as caught:
        listed(root, f"file\nfour.stl\n{gone}")
    message = caught.value.message
    assert "8 of 9 files" in message
    assert "gone/0.obj (t.csv:3)" in message
    assert "gone/5.obj" not in message
    assert "..." in message


def test_one_asset_twice(root: Path) -> None:
    for text in ("file\nfour.stl\nfour.stl\n", "file\na/one.fbx\na/one.obj\n"):
        with pytest.raises(DatasetError, match=r"t\.csv:2 and t\.csv:3 name the same asset"):
            listed(root, text)
    with pytest.raises(DatasetError, match="have the uid 'x'"):
        listed(root, "file,uid\nfour.stl,x\na/two.glb,x\n")


def test_limit_counts_the_rows_of_the_category(root: Path) -> None:
    text = "file,category\nfour.stl,chair\na/two.glb,car\nb/three.ply,Automobile\na/one.obj,cars\n"
    assert [a.source_id for a in listed(root, text, limit=2)] == ["a/one.obj", "a/two.glb"]


def test_the_category_chooses_rows_by_any_of_its_names(root: Path, caplog: Any) -> None:
    text = (
        "file,category\nfour.stl,chair\na/two.glb, CARS\nb/three.ply,02958343\n"
        "nowhere.obj,unicorn\na/one.obj,\n"
    )
    assert [a.source_id for a in listed(root, text)] == ["a/two.glb", "b/three.ply"]
    assert "unknown categories: unicorn" in caplog.text
    assert "1 rows without a category" in caplog.text
    with pytest.raises(
        DatasetError, match=r"no rows of the category sofa; it has car \(2\)"
    ) as err:
        listed(root, text, category="couch")
    assert err.value.hint == "--category car"
    with pytest.raises(DatasetError, match="1 of 5 files"):  # of the category default all count
        listed(root, text, category="default")


# --- where it is ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["g3d.csv", "g3d.jsonl"])
def test_a_table_at_the_root_is_read(root: Path, name: str) -> None:
    text = "file\nfour.stl\n" if name.endswith("csv") else '{"file": "four.stl"}\n'
    (root / name).write_text(text)
    source = get_source("folder", category="car", root=root)
    assert [a.source_id for a in source.list()] == ["four.stl"]
    # One that is named counts instead.
    assert [a.source_id for a in listed(root, "file\na/two.glb\n")] == ["a/two.glb"]
    (root / "metadata.csv").write_text("nonsense")
    (root / "a" / "g3d.csv").write_text("nonsense")
    assert len(source.list()) == 1
    for other in ("g3d.csv", "g3d.jsonl"):
        (root / other).write_text("file\nfour.stl\n")
    with pytest.raises(ConfigError, match=r"holds g3d\.csv and g3d\.jsonl"):
        source.list()


def test_a_table_in_the_archive(root: Path, tmp_path: Path) -> None:
    archive = tmp_path / "shop.zip"
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("g3d.csv", "file;uid\nx.ply;my-x\n")
        out.writestr("x.ply", "x")
        out.writestr("y.ply", "y")
    source = get_source("folder", category="car", root=archive)
    assert [a.uid for a in source.list()] == ["my-x"]
    assert source.file(source.list()[0]).read_text() == "x"


def test_a_table_behind_a_url_and_one_that_is_not_there(root: Path) -> None:
    import fsspec

    with fsspec.open("memory://tables/t.jsonl", "wb") as out:
        out.write(b'{"file": "four.stl", "uid": 4}\n')
    source = get_source("folder", category="car", root=root, table="memory://tables/t.jsonl")
    assert [a.uid for a in source.list()] == ["4"]
    for table in (root / "no.csv", "memory://tables/no.csv", root):
        with pytest.raises(ConfigError, match="cannot be read"):
            get_source("folder", category="car", root=root, table=table).list()


# --- how it is written ---------------------------------------------------------------------------

GERMAN = "file;title;author\r\nstühle/a.obj;Stuhl, rot;Jürgen\r\n"
WANTED = [{"file": "stühle/a.obj", "title": "Stuhl, rot", "author": "Jürgen"}]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_encodings_of_spreadsheets(encoding: str) -> None:
    assert rows(GERMAN.encode(encoding)) == WANTED
    assert rows(("sep=;\r\n" + GERMAN).encode(encoding)) == WANTED
    assert rows(GERMAN.replace(";", "\t").encode(encoding)) == WANTED


def test_quotes_blanks_and_short_rows() -> None:
    text = '\n "File", Title ,\n"a, b.obj","say ""hi""",\n,,\nc.obj\n"d\ne.obj",two\nlines.obj,\n'
    assert rows(text) == [
        {"file": "a, b.obj", "title": 'say "hi"'}, {"file": "c.obj"},
        {"file": "d\ne.obj", "title": "two"}, {"file": "lines.obj"},
    ]  # fmt: skip


_cells = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1)
_words = st.lists(_cells, min_size=1, max_size=4).map(" ".join)


@given(st.lists(st.tuples(_words, _words), min_size=1, max_size=6), st.sampled_from(",;\t|"),
       st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))  # fmt: skip
def test_what_a_csv_writer_writes_is_read(
    values: list[tuple[str, str]], delimiter: str, encoding: str
) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerow(["title", "author", "file"])
    for n, (title, author) in enumerate(values):
        writer.writerow([title, author, f"{n}.obj"])
    read = read_table("t.csv", out.getvalue().encode(encoding)).rows
    assert [(r.title, r.author, r.file) for r in read] == [
        (title, author, f"{n}.obj") for n, (title, author) in enumerate(values)
    ]
    lines = "".join(
        json.dumps({"title": t, "author": a, "file": f"{n}.obj"}) + "\n\n"
        for n, (t, a) in enumerate(values)
    )
    assert [(r.title, r.author, r.file) for r in read_table("t.jsonl", lines.encode()).rows] == [
        (r.title, r.author, r.file) for r in read
    ]


def test_unknown_columns_are_told_and_ignored(caplog: Any) -> None:
    assert rows("price,file,Licence\n3,a.obj,MIT\n") == [{"file": "a.obj"}]
    assert "unknown columns are ignored: price, licence" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rows"),
        ("file,uid\n", "has no rows"),
        ("path,uid\na.obj,x\n", "no column 'file', only path, uid"),
        ("file,file\na,b\n", "the column 'file' twice"),
        ("file,uid\n,x\n", r"t\.csv:2: the column file is empty"),
        ("file,uid\na.obj,x\n/abs.obj,y\n", r"t\.csv:3: /abs\.obj is not below"),
        ("file\nC:\\cars\\a.obj\n", "is not below"),
        ("file\n../a.obj\n", "is not below"),
        ("file\na/../../b.obj\n", "is not below"),
        ("file,uid\na.obj,a b\n", r"t\.csv:2: 'a b' cannot be a uid"),
        ("file,uid\na.obj,.x\n", "cannot be a uid"),
        ("file,uid\na.obj," + "x" * 85 + "\n", "cannot be a uid"),
        ("file,split\na.obj,training\n", "unknown split 'training'"),
        ("file,title\na.obj,one,two\n", "3 values for 2 columns"),
        ('file\n"a.obj\n', "unexpected end of data"),
    ],
)
def test_what_is_wrong_with_a_csv(text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_table("t.csv", text.encode())


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", ":1 is not JSON"), ('{"file": "a"}\n[1]', ":2 is no JSON object"), ("\n", "no rows")],
)
def test_what_is_wrong_with_json_lines(text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_table("t.jsonl", text.encode())


@pytest.mark.parametrize(
    ("text", "license_"),
    [
        ("", ""), ("unknown", ""), ("MIT", "MIT"), ("CC0", "CC0-1.0"), ("cc by 4.0", "CC-BY-4.0"),
        ("CC-BY-NC-4.0", "CC-BY-NC-4.0"), ("https://creativecommons.org/licenses/by/4.0/",
        "CC-BY-4.0"), ("LicenseRef-TurboSquid", "LicenseRef-TurboSquid"), ("0BSD", "0BSD"),
        ("MIT OR Apache-2.0", "MIT OR Apache-2.0"),
        ("TurboSquid 3D Model License (2024)", "LicenseRef-TurboSquid-3D-Model-License-2024"),
    ],
)  # fmt: skip
def test_licences(text: str, license_: str) -> None:
    assert license_of(text) == license_


def test_the_whole_table_of_a_category_without_the_column() -> None:
    table = read_table("t.csv", b"file\na.obj\nb.obj\n")
    assert isinstance(table, Table)
    assert [r.file for r in table.of_category("chair")] == ["a.obj", "b.obj"]


def test_the_example_of_the_docs() -> None:
    docs = Path(__file__).parent.parent / "docs" / "sources_folder.md"
    (text,) = (b for b in docs.read_text(encoding="utf-8").split("```\n") if b.startswith("file;"))
    table = read_table("g3d.csv", text.encode())
    assert table.columns == set(COLUMNS)
    assert [r.uid for r in table.of_category("house")] == ["ts-1001", "ts-1002"]
    assert table.rows[1].title == "Barn; red"
    for row in table.rows:
        assert row.license.startswith("LicenseRef-")
        assert all(part in docs.read_text(encoding="utf-8") for part in row.file.split("/"))
