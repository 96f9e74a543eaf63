"""Pictures put into their class's folder: whole, once, never over another, nowhere else."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from vitlora.errors import DataError, UsageError
from vitlora.labelling import filing
from vitlora.labelling.filing import file_picture
from vitlora.labelling.inbox import Unlabelled, read_inbox


def picture(path: Path, content: bytes = b"one") -> Unlabelled:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return Unlabelled(path, path.name, hashlib.sha256(content).hexdigest())


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@pytest.mark.parametrize("move", [False, True])
def test_a_picture_gets_into_its_folder(tmp_path: Path, move: bool) -> None:
    one = picture(tmp_path / "inbox/1.jpg")
    os.utime(one.path, (1e9, 1e9))
    place = file_picture(one, "can", tmp_path / "labelled", move)
    assert place == "can/1.jpg" and files(tmp_path / "labelled") == {"can/1.jpg": b"one"}
    assert one.path.exists() != move
    assert (tmp_path / "labelled/can/1.jpg").stat().st_mtime == 1e9


@pytest.mark.parametrize("links", [True, False])
def test_a_name_that_is_taken_gets_a_number(
    tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:

        def refused(*_: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(filing.os, "link", refused)
    labelled = tmp_path / "labelled"
    for number, content in enumerate([b"one", b"two", b"three"]):
        one = picture(tmp_path / f"{number}/1.jpg", content)
        file_picture(one, "can", labelled, move=False)
    names = {"can/1.jpg": b"one", "can/1-1.jpg": b"two", "can/1-2.jpg": b"three"}
    assert files(labelled) == names


def test_doing_it_again_after_a_kill_adds_nothing(tmp_path: Path) -> None:
    one = picture(tmp_path / "inbox/1.jpg")
    places = {file_picture(one, "can", tmp_path / "labelled", move=False) for _ in range(2)}
    assert places == {"can/1.jpg"} and len(files(tmp_path / "labelled")) == 1


def test_moving_a_picture_to_where_it_is_keeps_it(tmp_path: Path) -> None:
    """A table or a linked folder may name pictures that lie in their class's folder already."""
    one = picture(tmp_path / "labelled/can/1.jpg")
    (tmp_path / "inbox").symlink_to(tmp_path / "labelled/can")
    linked = Unlabelled(tmp_path / "inbox/1.jpg", "1.jpg", one.digest)
    for same in (one, linked):
        assert file_picture(same, "can", tmp_path / "labelled", move=True) == "can/1.jpg"
        assert files(tmp_path / "labelled") == {"can/1.jpg": b"one"}


def test_a_picture_that_has_changed_is_left_alone(tmp_path: Path) -> None:
    one = picture(tmp_path / "inbox/1.jpg")
    one.path.write_bytes(b"another")
    with pytest.raises(DataError, match="changed since it was shown"):
        file_picture(one, "can", tmp_path / "labelled", move=True)
    assert one.path.exists() and not (tmp_path / "labelled").exists()


def test_nothing_is_written_through_links(tmp_path: Path) -> None:
    one = picture(tmp_path / "inbox/1.jpg")
    (tmp_path / "outside").mkdir()
    (tmp_path / "labelled").mkdir()
    (tmp_path / "labelled/can").symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match="is a link"):
        file_picture(one, "can", tmp_path / "labelled", move=False)
    (tmp_path / "labelled/glass").mkdir()
    (tmp_path / "labelled/glass/1.jpg").symlink_to(tmp_path / "outside/1.jpg")
    assert file_picture(one, "glass", tmp_path / "labelled", move=False) == "glass/1-1.jpg"
    assert not any((tmp_path / "outside").iterdir())


def test_a_long_name_is_cut(tmp_path: Path) -> None:
    one = picture(tmp_path / f"{'ü' * 120}.jpg")
    other = picture(tmp_path / f"b/{'ü' * 120}.jpg", b"two")
    names = [file_picture(p, "can", tmp_path / "labelled", move=False) for p in (one, other)]
    assert names == [f"can/{'ü' * 98}.jpg", f"can/{'ü' * 98}-1.jpg"]


def test_pictures_come_out_of_an_archive(tmp_path: Path) -> None:
    picture(tmp_path / "in/a/1.jpg")
    shutil.make_archive(str(tmp_path / "inbox"), "zip", tmp_path / "in")
    (one,) = read_inbox(tmp_path / "inbox.zip")
    assert one.name == "a/1.jpg"
    file_picture(one, "can", tmp_path / "labelled", move=False)
    assert files(tmp_path / "labelled") == {"can/1.jpg": b"one"}


def test_an_archive_whose_names_lead_outside_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "inbox.zip", "w") as archive:
        archive.writestr("../1.jpg", b"one")
    with pytest.raises(DataError, match="lead outside"):
        read_inbox(tmp_path / "inbox.zip")


def test_equal_files_are_asked_for_once(tmp_path: Path) -> None:
    for name in ("a.jpg", "b/c.jpg", "d.jpg"):
        picture(tmp_path / "inbox" / name, b"two" if name == "d.jpg" else b"one")
    first, second = read_inbox(tmp_path / "inbox")
    assert (first.name, second.name) == ("a.jpg", "d.jpg")
    assert [path.name for path in first.copies] == ["c.jpg"] and not second.copies


def test_a_table_names_pictures(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        picture(tmp_path / "images" / name, name.encode())
    (tmp_path / "new.csv").write_text("file,weight\nimages/c.jpg,5\na.jpg,7\n")
    assert [one.name for one in read_inbox(tmp_path / "new.csv")] == [
        "images/c.jpg",
        "images/a.jpg",
    ]
    (tmp_path / "new.csv").write_text("file\nimages/c.jpg\nimages/x.jpg\n")
    with pytest.raises(DataError, match=r"names 1 of 2 pictures that are not there: .*x\.jpg"):
        read_inbox(tmp_path / "new.csv")


def test_a_glob_and_rows_are_inboxes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow as pa
    from pyarrow import parquet

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("a.jpg", "b.jpg", "c.png"):
        picture(tmp_path / "inbox" / name, name.encode())
    found = read_inbox(tmp_path / "inbox" / "*.jpg", in_place="--move")
    assert [one.name for one in found] == ["a.jpg", "b.jpg"]
    file = io.BytesIO()
    Image.new("RGB", (9, 9)).save(file, "PNG")
    rows = pa.array([{"bytes": file.getvalue(), "path": "x.png"}])
    parquet.write_table(pa.table({"image": rows}), tmp_path / "rows.parquet")
    (one,) = read_inbox(tmp_path / "rows.parquet")
    assert one.name == "rows.parquet/image/0"
    place = file_picture(one, "can", tmp_path / "labelled", move=False)
    assert (tmp_path / "labelled" / place).read_bytes() == file.getvalue()
    assert place == "can/0.png"
    assert one.shown == tmp_path / "rows.parquet/image/0"
    with pytest.raises(UsageError, match="--move needs pictures in files of their own"):
        read_inbox(tmp_path / "rows.parquet", in_place="--move")
