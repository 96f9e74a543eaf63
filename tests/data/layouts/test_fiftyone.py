"""FiftyOne's labels.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from data.layouts.exported import labels, read, touch, write, zipped

from vitlora.errors import DataError


def test_numbers_of_classes(tmp_path: Path) -> None:
    touch(tmp_path, ["data/1.jpg", "data/a.b.jpg", "data/3.png"])
    given = {"classes": ["dog", "cat"], "labels": {"1": 1, "a.b": 0, "3": None}}
    write(tmp_path / "labels.json", given)
    for root in (tmp_path, zipped(tmp_path)):
        reading = read(root, layout="fiftyone")
        assert labels(reading) == {"data/1.jpg": "cat", "data/a.b.jpg": "dog"}
        assert reading.classes == ("dog", "cat")
        assert reading.notes == (f"1 picture in {root} not used: no class in labels.json",)


def test_the_file_may_be_the_root(tmp_path: Path) -> None:
    touch(tmp_path, ["data/1.jpg", "data/2.jpg"])
    write(tmp_path / "mine.json", {"classes": ["dog", "cat"], "labels": {"1": 1, "2": 0}})
    reading = read(tmp_path / "mine.json")
    assert reading.layout == "fiftyone"
    assert labels(reading) == {"data/1.jpg": "cat", "data/2.jpg": "dog"}


@pytest.mark.parametrize(
    "value",
    ["1e3", ["1e3"], {"label": "1e3", "confidence": 0.5}, [{"label": "1e3"}], ["1e3", "1e3"]],
)
def test_names_of_classes_stay_text(tmp_path: Path, value: Any) -> None:
    touch(tmp_path, ["1.jpg", "2.jpg"])
    write(tmp_path / "labels.json", {"classes": None, "labels": {"1": value, "2": "NA"}})
    reading = read(tmp_path)
    assert (labels(reading), reading.classes) == ({"1.jpg": "1e3", "2.jpg": "NA"}, None)


def test_paths_of_another_machine(tmp_path: Path) -> None:
    touch(tmp_path, ["data/a/1.jpg", "data/b/1.jpg"])
    given = {"/home/x/out/data/a/1.jpg": "cat", "C:\\out\\data\\b\\1.jpg": "dog"}
    write(tmp_path / "labels.json", {"classes": None, "labels": given})
    found = labels(read(tmp_path, layout="fiftyone"))
    assert found == {"data/a/1.jpg": "cat", "data/b/1.jpg": "dog"}


def test_a_folder_for_each_split(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        touch(tmp_path, [f"{split}/data/1.jpg", f"{split}/data/2.jpg"])
        given = {"classes": ["dog", "cat"], "labels": {"1": int(split == "train"), "2": 1}}
        write(tmp_path / split / "labels.json", given)
    assert labels(read(tmp_path, layout="fiftyone")) == {
        "train/data/1.jpg": "train cat",
        "train/data/2.jpg": "train cat",
        "validation/data/1.jpg": "val dog",
        "validation/data/2.jpg": "val cat",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {"1": 2}}, "json, 1: the label is 2; expected a number from 0 to 1"),
        ({"labels": {"1": -1}}, "the label is -1; expected a number from 0"),
        ({"labels": {"1": True}}, "the label is True; expected text or a whole number"),
        ({"labels": {"1": 0.5}}, "the label is 0.5; expected text"),
        ({"labels": {"1": [0, 1]}}, r"1 picture with several classes: 1 \('dog, cat'"),
        ({"labels": {"9": 1}}, r"1 of 1 picture not found in .*: 9 \('9'\)"),
        ({"labels": {"1": None}}, "none of 1 picture has a label"),
        (
            {"labels": {"data/1": 1, "1": 0}},
            "1 picture listed twice, with different values: data/1 and 1 ",
        ),
        ({"labels": [1]}, "labels is .1.; expected an object"),
        ({"classes": ["dog", "dog"]}, "classes 0 and 1 have one name, 'dog'"),
        ({"classes": ["dog", 5]}, "class 1 is 5; expected text"),
    ],
)
def test_what_is_wrong(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    touch(tmp_path, ["1.jpg", "2.jpg"])
    given = {"classes": ["dog", "cat"], "labels": {"1": 1, "2": 0}, **change}
    write(tmp_path / "labels.json", given)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_boxes_are_no_classes(tmp_path: Path) -> None:
    touch(tmp_path, ["1.jpg"])
    boxes = [{"label": 0, "bounding_box": [0, 0, 1, 1]}]
    write(tmp_path / "labels.json", {"classes": ["dog"], "labels": {"1": boxes}})
    with pytest.raises(DataError, match=r"no labels.json with the keys classes and labels"):
        read(tmp_path, layout="fiftyone")
