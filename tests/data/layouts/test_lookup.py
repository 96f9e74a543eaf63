"""Pictures by the names that others gave them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from vitlora.data.layouts.lookup import Lookup, split_in
from vitlora.data.layouts.reading import LayoutOptions, Place
from vitlora.errors import DataError, UsageError


def lookup(root: Path, names: str, split: str = "", images: str | None = None) -> Lookup:
    for name in names.split():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return Lookup(Place(root), LayoutOptions(images=images), split)


def found(one: Lookup, name: str, beside: str = "") -> str | None:
    picture = one.find(name, beside)
    assert picture is None or picture[0] == one.place.folder / picture[1]
    return picture[1] if picture else None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/1.jpg", "a/1.jpg"),
        ("./a/1.jpg", "a/1.jpg"),
        ("a\\1.jpg", "a/1.jpg"),
        ("C:\\Users\\me\\a\\1.jpg", "a/1.jpg"),
        ("/home/me/photos/a/1.jpg", "a/1.jpg"),
        ("a/1", "a/1.jpg"),
        ("2.jpg", "b/2.jpg"),
        ("2", "b/2.jpg"),
        ("../../b/2.jpg", "b/2.jpg"),
        ("3.v2", "b/3.v2.png"),
        ("2.png", None),
        ("9", None),
        ("b", None),
        ("", None),
        ("..", None),
    ],
)
def test_a_name_is_found_however_it_is_written(tmp_path, name, expected):
    assert found(lookup(tmp_path, "a/1.jpg b/1.jpg b/2.jpg b/3.v2.png"), name) == expected


def test_an_absolute_name_below_the_place_is_found(tmp_path):
    one = lookup(tmp_path, "a/1.jpg b/1.jpg")
    assert found(one, str(tmp_path / "a" / "1.jpg")) == "a/1.jpg"
    assert one.beyond(str(tmp_path / "a" / "1.jpg"), "a/1.jpg") == ""


def test_the_file_beside_comes_first(tmp_path):
    assert found(lookup(tmp_path, "1.jpg a/1.jpg"), "1.jpg", "a") == "a/1.jpg"


def test_a_name_of_several_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"'1' could be any of a/1.jpg, b/1.jpg; write the path"):
        lookup(tmp_path, "a/1.jpg b/1.jpg").find("1")


def test_pictures_in_folders_of_another_split_are_left_out(tmp_path):
    names = "train_images/1.jpg test_images/1.jpg test_images/2.jpg other/3.jpg"
    one = lookup(tmp_path, names, "train")
    assert [found(one, name) for name in ("1", "2", "3")] == [
        "train_images/1.jpg",
        None,
        "other/3.jpg",
    ]


@pytest.mark.parametrize(
    ("folder", "split"),
    [
        ("train", "train"),
        ("photos/Valid/cat", "val"),
        ("images_test2017", "test"),
        ("train/test tube", "train"),
        ("test tube", ""),
        ("dev-board/1", ""),
        ("train_val", ""),
        ("", ""),
    ],
)
def test_a_folder_names_its_split(folder, split):
    assert split_in(folder) == split


def test_what_a_picture_lacks_of_a_name(tmp_path):
    one = lookup(tmp_path, "a/1.jpg")
    assert one.beyond("1.jpg", "a/1.jpg") == ""
    assert one.beyond("x/y/a/1", "a/1.jpg") == "x/y"
    assert one.beyond("b/1.jpg", "a/1.jpg") == "b"


def test_pictures_elsewhere(tmp_path):
    lookup(tmp_path / "elsewhere", "1.jpg")
    one = lookup(tmp_path / "here", "x.jpg", images=str(tmp_path / "elsewhere"))
    assert found(one, "1") == "1.jpg"
    with pytest.raises(UsageError, match="no such folder"):
        lookup(tmp_path, "", images=str(tmp_path / "nowhere"))


def test_names_that_repeat_in_every_folder_are_found_fast(tmp_path):
    folder, names = tmp_path, [f"{n}/{m}.jpg" for n in range(2000) for m in range(20)]
    place = Place(folder)
    place.__dict__["pictures"] = {name: folder / name for name in names}
    one = Lookup(place, LayoutOptions())
    started = time.process_time()
    assert all(one.find(f"/home/me/{name}")[1] == name for name in names)  # pyright: ignore
    assert time.process_time() - started < 5  # 0.6 s; minutes if all of one name were gone through
