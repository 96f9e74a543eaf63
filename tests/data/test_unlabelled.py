"""Pictures without classes, from everything that can be named."""

from __future__ import annotations

import json
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from vitlora.data.layouts.reading import LayoutOptions
from vitlora.data.unlabelled import every, find, options_of
from vitlora.errors import DataError, UsageError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four pictures: a/1.jpg, a/2.jpg, b/1.jpg, b/2.jpg."""
    for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


def files(word: str | Path, base: Path, options: LayoutOptions | None = None) -> list[str]:
    return [str(Path(f).relative_to(base)) for one in find(word, options) for f in one.files]


def pack(root: Path, archive: Path) -> Path:
    with (
        tarfile.open(archive, "w")
        if archive.suffix == ".tar"
        else zipfile.ZipFile(archive, "w") as packed
    ):
        add = packed.add if isinstance(packed, tarfile.TarFile) else packed.write
        for file in sorted(root.rglob("*.jpg")):
            add(file, str(file.relative_to(root)))
    return archive


def test_a_folder_a_file_and_a_glob(root: Path) -> None:
    (root / "notes.docx").write_text("x")
    four = ["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"]
    assert files(root, root) == four
    assert [path.name for one in find(root) for path in one.others] == ["notes.docx"]
    assert files(root / "a/2.jpg", root) == ["a/2.jpg"]
    assert files(f"{root}/*/1.jpg", root) == ["a/1.jpg", "b/1.jpg"]


@pytest.mark.parametrize("ending", [".tar", ".zip"])
def test_an_archive_and_a_folder_or_glob_of_them(root: Path, ending: str) -> None:
    shards = root.parent / "shards"
    shards.mkdir()
    for name in ("a", "b"):
        pack(root / name, shards / f"{name}{ending}")
    both = [f"{name}{ending}/{n}.jpg" for name in ("a", "b") for n in (1, 2)]
    assert files(shards / f"a{ending}", shards) == both[:2]
    assert files(shards, shards) == both
    assert files(f"{shards}/*{ending}", shards) == both


def test_a_table_names_pictures_and_what_is_not_there_stays_in(root: Path) -> None:
    table = root / "list.csv"
    table.write_text("weight,file,label\n1,b/2.jpg,\n2,gone.jpg,\n3,a/1.jpg,x\n4,b/2.jpg,\n")
    assert files(table, root) == ["b/2.jpg", "gone.jpg", "a/1.jpg"]
    (root / "list.jsonl").write_text(json.dumps({"image": "a\\2.jpg"}) + "\n")
    assert files(root / "list.jsonl", root) == ["a/2.jpg"]


def test_a_table_elsewhere_with_columns_and_folder_named(root: Path) -> None:
    table = root.parent / "away.csv"
    table.write_text("what,where\nx,a/1.jpg\ny,2\n")
    (root / "b/2.jpg").unlink()
    options = LayoutOptions(images=str(root), file_column="where")
    assert files(table, root, options) == ["a/1.jpg", "a/2.jpg"]  # by its last part, no ending
    with pytest.raises(DataError, match=r"away\.csv has no column that names pictures"):
        files(table, root)
    with pytest.raises(UsageError, match=r"predict does not use data\.label_column"):
        options_of({"data.label_column": "x"})


def test_an_ambiguous_name_and_an_empty_table_are_refused(root: Path) -> None:
    (root / "list.csv").write_text("file\n1.jpg\n")
    with pytest.raises(DataError, match=r"'1\.jpg' could be any of a/1\.jpg, b/1\.jpg"):
        files(root / "list.csv", root)
    (root / "list.csv").write_text("file\n")
    with pytest.raises(DataError, match="no pictures in the column 'file'"):
        files(root / "list.csv", root)


def test_parquet_holds_pictures_or_names_them(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    paths = sorted(root.rglob("*.jpg"))
    held = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    rows = tmp_path / "rows"
    rows.mkdir()
    parquet.write_table(arrow.table({"image": held}), rows / "x.parquet")
    for word in (rows / "x.parquet", rows):
        (one,) = find(word)
        names = [one.names[file] for file in one.files]
        assert names == [f"{rows}/x.parquet/image/{row}" for row in range(4)]
    parquet.write_table(arrow.table({"path": ["a/1.jpg", "b/1.jpg"]}), root / "names.parquet")
    assert files(root / "names.parquet", root) == ["a/1.jpg", "b/1.jpg"]


def test_mistakes_stand_where_their_words_do(root: Path) -> None:
    (root.parent / "empty").mkdir()
    words = [root / "a/1.jpg", root / "nope", root.parent / "empty", root / "b"]
    first, nope, empty, last = every(words)
    assert not isinstance(first, DataError) and not isinstance(last, DataError)
    assert str(nope) == f"{root}/nope: no such file"
    assert str(empty) == f"{root.parent}/empty: no pictures in this folder"
