"""COCO's JSON: splits by file, ids with gaps, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from data.layouts.exported import labels, read, touch, write, zipped

from vitlora.errors import DataError, UsageError

CATEGORIES = {7: "dog", 3: "cat", 90: "bus"}  # ids with gaps, in no order


def coco(pictures: Mapping[str, Any], categories: Mapping[int, str] = CATEGORIES) -> dict[str, Any]:
    """Returns COCO's JSON, by the ids of the categories of each picture."""
    annotations = [
        {
            "image_id": number,
            "category_id": category,
            "bbox": [1, 2, 3, 4],
            "iscrowd": 0,
            "area": 12,
        }
        for number, given in enumerate(pictures.values(), 100)
        for category in (given if isinstance(given, list) else [given])
    ]
    return {
        "info": {"description": "photos", "year": 2026},
        "licenses": [{"id": 1, "name": "", "url": ""}],
        "images": [
            {"id": number, "file_name": name, "width": 8, "height": 8, "license": 1}
            for number, name in enumerate(pictures, 100)
        ],
        "annotations": [{"id": number, **one} for number, one in enumerate(annotations)],
        "categories": [
            {"id": key, "name": name, "supercategory": ""} for key, name in categories.items()
        ],
    }


def test_one_file_beside_its_pictures(tmp_path: Path) -> None:
    touch(tmp_path, ["1.jpg", "2.jpg", "3.jpg", "4.jpg"])
    write(tmp_path / "result.json", coco({"1.jpg": [3, 3], "2.jpg": 7, "3.jpg": []}))
    reading = read(tmp_path)
    assert reading.layout == "coco"
    assert labels(reading) == {"1.jpg": "cat", "2.jpg": "dog"}
    assert reading.classes == ("cat", "dog", "bus")  # in the order of their ids
    assert reading.notes == (f"2 pictures in {tmp_path} not used: no class in result.json",)
    assert (reading.source, reading.read_from) == ("result.json", ("result.json",))


@pytest.mark.parametrize("images", ["", "images/", "data/"])
def test_a_file_for_each_split(tmp_path: Path, images: str) -> None:
    for split in ("train2017", "val2017"):  # the same names in both, as many tools number them
        touch(tmp_path, [f"{images}{split}/1.jpg", f"{images}{split}/2.jpg"])
    write(tmp_path / "annotations/instances_train2017.json", coco({"1.jpg": 3, "2.jpg": 7}))
    write(tmp_path / "annotations/instances_val2017.json", coco({"1.jpg": 7, "2.jpg": 3}))
    # captions of the same pictures are no classes, nor are pictures without annotations
    write(tmp_path / "annotations/captions_val2017.json", {"images": [], "annotations": [{}]})
    write(tmp_path / "annotations/image_info_val2017.json", coco({"1.jpg": []}))
    assert labels(read(tmp_path, layout="coco")) == {
        f"{images}train2017/1.jpg": "train cat",
        f"{images}train2017/2.jpg": "train dog",
        f"{images}val2017/1.jpg": "val dog",
        f"{images}val2017/2.jpg": "val cat",
    }


def test_a_file_in_each_splits_folder(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        touch(tmp_path, [f"{split}/1.jpg", f"{split}/2.jpg"])
        write(tmp_path / split / "_annotations.coco.json", coco({"1.jpg": 3, "2.jpg": 7}))
    found = labels(read(zipped(tmp_path), layout="coco"))
    assert found["valid/1.jpg"] == "val cat"
    assert found["test/2.jpg"] == "test dog"
    assert len(found) == 6


def test_folders_in_names_and_images_elsewhere(tmp_path: Path) -> None:
    touch(tmp_path / "photos", ["a/1.jpg", "b/1.jpg"])
    write(tmp_path / "export/instances.json", coco({"a/1.jpg": 3, "b/1.jpg": 7}))
    options = {"images": str(tmp_path / "photos")}
    assert labels(read(tmp_path / "export", **options)) == {"a/1.jpg": "cat", "b/1.jpg": "dog"}
    # the root may be the file itself
    assert labels(read(tmp_path / "export/instances.json", **options))["a/1.jpg"] == "cat"


def test_a_missing_picture_is_not_taken_from_another_split(tmp_path: Path) -> None:
    touch(tmp_path, ["train/2.jpg", "val/1.jpg"])
    write(tmp_path / "train.json", coco({"1.jpg": 3, "2.jpg": 7}))
    with pytest.raises(DataError, match=r"1 of 2 pictures not found in .*: image 100 \('1.jpg'\)"):
        read(tmp_path, layout="coco")


def test_a_missing_picture_is_not_taken_from_another_folder(tmp_path: Path) -> None:
    touch(tmp_path, ["cat/1.jpg", "dog/2.jpg"])
    write(tmp_path / "x.json", coco({"cat/1.jpg": 3, "cat/2.jpg": 3, "dog/3.jpg": 7}))
    with pytest.raises(DataError, match=r"2 of 3 .*: image 101 \('cat/2.jpg'\), image 102"):
        read(tmp_path, layout="coco")


def test_a_picture_that_is_listed_twice(tmp_path: Path) -> None:
    touch(tmp_path, ["images/1.jpg", "images/2.jpg"])
    write(tmp_path / "x.json", coco({"1.jpg": 3, "images/1.jpg": 3, "2.jpg": 7}))
    reading = read(tmp_path)
    assert labels(reading) == {"images/1.jpg": "cat", "images/2.jpg": "dog"}
    assert reading.notes == ("x.json names 1 picture again, with the same class",)


def test_several_categories_of_a_picture_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, ["1.jpg", "2.jpg"])
    write(tmp_path / "x.json", coco({"1.jpg": [3, 7], "2.jpg": 3}))
    with pytest.raises(
        DataError, match=r"x.json: 1 picture with several classes: image 100 \('cat, "
    ):
        read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": [{"image_id": 5, "category_id": 3}]}, "does not list: 0 .image_id 5"),
        ({"annotations": [{"image_id": 100, "category_id": 4}]}, "does not list: 0 .*_id 4"),
        ({"annotations": [{"image_id": [], "category_id": {}}]}, "does not list: 0"),
        ({"annotations": 5}, "annotations is 5; expected a list"),
        ({"categories": [{"id": 3, "name": " "}]}, "category 0: id 3, name ' '; expected"),
        ({"categories": [{"id": "3", "name": "cat"}]}, "category 0, id is '3'; expected a whole"),
        ({"images": [{"id": 1}]}, "image 0, file_name is None; expected text"),
        ({"images": [{"id": 1, "file_name": "x"}] * 2}, "image 1: id is 1; expected one of its"),
        ({"categories": [{"id": n, "name": "cat"} for n in (3, 7)]}, "several categories have one"),
    ],
)
def test_a_file_that_is_wrong(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    touch(tmp_path, ["1.jpg", "2.jpg"])
    write(tmp_path / "x.json", {**coco({"1.jpg": 3, "2.jpg": 7}), **change})
    with pytest.raises(DataError, match=message):
        read(tmp_path, layout="coco")


def test_two_files_for_one_split_are_refused(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        write(tmp_path / name, coco({"1.jpg": 3, "2.jpg": 7}))
    with pytest.raises(DataError, match=r"several COCO files for no split: a\.json, b\.json"):
        read(tmp_path)


def test_an_unused_category_may_have_the_name_of_another(tmp_path: Path) -> None:
    touch(tmp_path, ["1.jpg", "2.jpg"])  # Roboflow names category 0 after the project
    write(tmp_path / "x.json", coco({"1.jpg": 1, "2.jpg": 2}, {0: "cat", 1: "cat", 2: "dog"}))
    assert labels(read(tmp_path)) == {"1.jpg": "cat", "2.jpg": "dog"}


def test_options_that_are_not_looked_at_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "x.json", coco({"1.jpg": 3}))
    with pytest.raises(
        UsageError, match=r"the layout coco does not use data\.label_column; leave it out"
    ):
        read(tmp_path, label_column="x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [], "categories": [', "x.json, line 1: not JSON"),
        ('{"images": [], "categories": [], "images": []}', "the key 'images' is there twice"),
        ('{"categories": [], "images": ' + "[" * 100_000, "deeply nested|not JSON"),
        ('{"categories": [], "images": [' + "9" * 5000 + "]}", "a number too long"),
    ],
)
def test_what_is_not_json(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


@pytest.mark.parametrize("label", ["a\nb", "\x1b[31m", "\ud800", "x" * 1000])
def test_a_class_must_be_a_line_of_text(tmp_path: Path, label: str) -> None:
    touch(tmp_path, ["1.jpg", "2.jpg"])
    write(tmp_path / "x.json", coco({"1.jpg": 3, "2.jpg": 7}, {3: label, 7: "dog"}))
    with pytest.raises(DataError, match="a class is a line of at most 300 characters") as caught:
        read(tmp_path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["../1.jpg", "/etc/1.jpg", "x\0.jpg", "\ud800", "", ".."])
def test_no_picture_outside_the_place_is_opened(tmp_path: Path, name: str) -> None:
    touch(tmp_path, ["1x.jpg"])
    touch(tmp_path / "place", ["2.jpg"])
    write(tmp_path / "place/x.json", coco({name: 3, "2.jpg": 7}))
    with pytest.raises(DataError, match="1 of 2 pictures not found") as caught:
        read(tmp_path / "place")
    assert str(caught.value).isprintable()
