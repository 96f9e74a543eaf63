"""Tests of which files of a folder are pictures."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from PIL import Image

from vitlora.data.listing import describe, is_picture, list_pictures
from vitlora.data.read import read_folder
from vitlora.data.unlabelled import find, names_of
from vitlora.errors import DataError


def files(root, *names):
    """Makes empty files below `root`."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def picture(file, kind="JPEG"):
    """Writes a real picture, whatever the file's name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(file, kind)
    return file


def listed(root):
    """Returns the names of the pictures below `root`, and of what is passed over, by kind."""
    found = list_pictures(root)
    over = {
        kind: [path.relative_to(root).as_posix() for path in paths]
        for kind, paths in found.passed_over.items()
    }
    return [path.relative_to(root).as_posix() for path in found.pictures], over


def test_pictures_are_known_by_their_ending_unopened(tmp_path):
    yes = [
        "a.jpg",
        "b.JPEG",
        "c.heic",
        "d.hif",
        "e.jp2",
        "f.jxl",
        "g.avif",
        "g.avifs",
        "g.heics",
        "h.pgm",
    ]
    no = ["i.txt", "j.dng", "k.CR2", "l.json", "jpg", "m.unknown", "Thumbs.db"]
    files(tmp_path, *yes, *no)  # all of them empty
    assert listed(tmp_path) == (yes, {"other": sorted(no)})


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "AVIF", "JPEG2000"])
@pytest.mark.parametrize("name", ["photo", "photo.of june", "IMG_1.jpg_original"])
def test_a_file_of_no_or_unknown_ending_is_judged_by_its_first_bytes(tmp_path, kind, name):
    assert is_picture(picture(tmp_path / name, kind))


@pytest.mark.parametrize("name", ["a.txt", "a.dng", ".hidden", ".a.jpg", "._a.jpg"])
def test_other_endings_and_hidden_files_are_left_alone_whatever_they_hold(tmp_path, name):
    assert not is_picture(picture(tmp_path / name))


@pytest.mark.parametrize(
    "start", [b"", b"text", b"%PDF-1.7", b"\0\0\0\x20ftypisom", b"RIFF....WAVE"]
)
def test_what_does_not_begin_as_a_picture_is_none(tmp_path, start):
    (tmp_path / "a").write_bytes(start)
    assert not is_picture(tmp_path / "a")


def test_no_file_with_a_known_ending_is_opened(tmp_path, monkeypatch):
    files(tmp_path, "a.jpg", "b/c.png", "d.txt", "e.dng")
    monkeypatch.setattr(Path, "open", lambda *_, **__: pytest.fail("a file was opened"))
    assert listed(tmp_path) == (["a.jpg", "b/c.png"], {"other": ["d.txt", "e.dng"]})


@pytest.mark.parametrize("name", ["pipe", "x.jpg"])
def test_pipes_and_sockets_are_not_waited_for_whatever_their_name(tmp_path, name):
    os.mkfifo(tmp_path / name)
    (tmp_path / f"link-{name}").symlink_to(tmp_path / name)
    with socket.socket(socket.AF_UNIX) as there:
        there.bind(str(tmp_path / f"socket-{name}"))
    others = sorted([f"link-{name}", name, f"socket-{name}"])
    assert listed(tmp_path) == ([], {"other": others})


def test_a_folder_is_no_picture_whatever_its_name(tmp_path):
    files(tmp_path, "x.jpg/1.jpg", "x.jpg/y.png/2.jpg")
    assert listed(tmp_path)[0] == ["x.jpg/1.jpg", "x.jpg/y.png/2.jpg"]


def test_hidden_files_and_folders_hold_copies(tmp_path):
    files(tmp_path, ".a.jpg", ".ipynb_checkpoints/1.jpg", "b/.c/2.jpg", "b/3.jpg")
    hidden = [".a.jpg", ".ipynb_checkpoints", "b/.c"]
    assert listed(tmp_path) == (["b/3.jpg"], {"hidden": hidden})


def test_links_to_folders_are_followed(tmp_path):
    files(tmp_path / "elsewhere", "1.jpg", "deeper/2.jpg")
    files(tmp_path / "set", "0.jpg")
    (tmp_path / "set" / "more").symlink_to(tmp_path / "elsewhere")
    assert listed(tmp_path / "set") == (["0.jpg", "more/1.jpg", "more/deeper/2.jpg"], {})


def test_each_folder_is_looked_through_once_under_its_own_name_if_it_has_one(tmp_path):
    files(tmp_path / "set", "z/1.jpg", "z/deep/2.jpg")
    for link, target in (("a", "z"), ("b", "z/deep"), ("z/up", "."), ("z/top", "..")):
        (tmp_path / "set" / link).symlink_to((tmp_path / "set" / target).resolve())
    pictures, over = listed(tmp_path / "set")
    assert pictures == ["z/1.jpg", "z/deep/2.jpg"]
    assert sorted(over["linked"]) == ["a", "b", "z/top", "z/up"]


def test_two_links_to_one_folder_and_links_in_a_circle_end(tmp_path):
    files(tmp_path / "one", "1.jpg")
    files(tmp_path / "two", "2.jpg")
    (tmp_path / "one" / "on").symlink_to(tmp_path / "two")
    (tmp_path / "two" / "back").symlink_to(tmp_path / "one")
    (tmp_path / "set").mkdir()
    for link in ("a", "b"):
        (tmp_path / "set" / link).symlink_to(tmp_path / "one")
    (tmp_path / "set" / "itself").symlink_to(tmp_path / "set" / "itself")
    pictures, over = listed(tmp_path / "set")
    assert pictures == ["a/1.jpg", "a/on/2.jpg"]
    assert over == {"linked": ["b", "a/on/back"], "other": ["itself"]}


def test_a_folder_reached_through_a_link_lists_the_same(tmp_path):
    files(tmp_path / "set", "a/1.jpg", "2.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "set")
    assert listed(tmp_path / "link") == listed(tmp_path / "set")


def test_a_link_to_a_picture_is_one_even_if_that_is_gone(tmp_path):
    picture(tmp_path / "elsewhere" / "1")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a").symlink_to(tmp_path / "elsewhere" / "1")
    (tmp_path / "set" / "b.jpg").symlink_to(tmp_path / "gone.jpg")
    assert listed(tmp_path / "set") == (["a", "b.jpg"], {})


@pytest.fixture
def closed(tmp_path, monkeypatch):
    """Makes a folder of two classes, of which one holds a folder that may not be read."""
    files(tmp_path, "a/1.jpg", "a/shut/2.jpg", "b/3.jpg")
    scan = os.scandir

    def refuse(folder):  # root may read everything, and so its rights cannot be taken away
        if Path(folder).name == "shut":
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    return tmp_path


def test_a_closed_folder_is_passed_over(closed):
    assert listed(closed) == (["a/1.jpg", "b/3.jpg"], {"closed": ["a/shut"]})


def test_training_refuses_a_closed_folder(closed):
    with pytest.raises(DataError, match=r"1 folder may not be read: .*/a/shut; give yourself"):
        read_folder(closed)


def test_drift_and_sort_refuse_a_closed_folder_and_predict_says_it(closed):
    with pytest.raises(DataError, match="1 folder may not be read"):
        names_of(closed)
    (found,) = find(closed)
    assert len(found.files) == 2 and list(found.closed) == [closed / "a/shut"]


def test_what_was_passed_over_is_said_by_ending():
    names = [*(f"{n}.txt" for n in range(10)), "a.DNG", "b.dng", "c", "d.cr2"]
    assert describe([*map(Path, names)]) == (
        "14 files: 10 .txt, 1 without an ending, 2 .dng, 1 .cr2 (camera raw is not read; export as "
        "JPEG)"
    )
    assert describe([Path("a.db")]) == "1 file: 1 .db"


def test_training_sees_the_same_pictures_and_knows_what_it_passes_over(tmp_path):
    files(tmp_path, "a/1.jpg", "a/notes.txt", "a/x.jpg/2.jpg", "b/3.jpg", "b/raw.dng", "b/.hidden")
    picture(tmp_path / "b" / "without")
    folder = read_folder(tmp_path)
    assert [folder.name(sample) for sample in folder.splits["all"]] == [
        "a/1.jpg",
        "a/x.jpg/2.jpg",
        "b/3.jpg",
        "b/without",
    ]
    assert any("passed over 2 files: 1 .txt, 1 .dng" in line for line in folder.source.notes)
