"""Label Studio's JSON and JSON-MIN: what counts as a label, and how pictures are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from data.layouts.exported import labels, read, touch, write, zipped

from vitlora.errors import DataError, UsageError


def choice(*classes: str, question: str = "choice", **value: Any) -> dict[str, Any]:
    """Returns what an annotator chose."""
    return {
        "id": "aB3dE5gH1k",
        "type": "choices",
        "value": {"choices": list(classes), **value},
        "origin": "manual",
        "to_name": "image",
        "from_name": question,
    }


def annotation(
    *results: Mapping[str, Any], by: Any = 1, at: int = 1, **more: Any
) -> dict[str, Any]:
    """Returns one annotation of JSON, made at a minute."""
    return {
        "id": 100 * at,
        "completed_by": by,
        "result": list(results),
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": f"2026-11-01T10:{at:02}:00.000000Z",
        "updated_at": f"2026-11-01T10:{at:02}:00.000000Z",
        "lead_time": 2.5,
        "prediction": {},
        "task": 1,
        **more,
    }


def full(tasks: Sequence[tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]]) -> list[Any]:
    """Returns JSON of tasks, each given by its data and annotations."""
    return [
        {
            "id": number,
            "annotations": annotations,
            "file_upload": "1a2b3c4d-1.jpg",
            "drafts": [],
            "predictions": [{"id": 1, "result": [choice("bus")], "score": 0.9}],
            "data": data,
            "meta": {},
            "inner_id": number,
        }
        for number, (data, annotations) in enumerate(tasks, 1)
    ]


def small(records: Sequence[Mapping[str, Any]], **data: Any) -> list[Any]:
    """Returns JSON-MIN of records with id, image, and what else differs."""
    return [
        {
            "image": one["image"],
            **data,
            "id": one["id"],
            **{key: one[key] for key in one if key not in ("id", "image", "by", "at")},
            "annotator": one.get("by", 1),
            "annotation_id": 100 + number,
            "created_at": f"2026-11-01T10:{one.get('at', 1):02}:00.000000Z",
            "updated_at": "2026-11-02T00:00:00.000000Z",
            "lead_time": 2.5,
        }
        for number, one in enumerate(records)
    ]


def one_task(tmp_path: Path, *annotations: Mapping[str, Any]) -> dict[str, str]:
    """Returns the labels of two pictures, the first of them annotated so."""
    touch(tmp_path, ["1.jpg", "2.jpg"])
    other = ({"image": "2.jpg"}, [annotation(choice("dog"))])
    write(tmp_path / "x.json", full([({"image": "1.jpg"}, annotations), other]))
    return labels(read(tmp_path))


def test_json(tmp_path: Path) -> None:
    touch(tmp_path, ["1.jpg", "2.jpg", "3.jpg"])
    tasks = [
        ({"image": "1.jpg"}, [annotation(choice("cat"))]),
        ({"image": "2.jpg"}, [annotation(choice("1e3"))]),
        ({"image": "3.jpg"}, []),  # a prediction is no label
    ]
    write(tmp_path / "project-1-at-2026-11-01-10-00-1a2b3c4d.json", full(tasks))
    for root in (tmp_path, zipped(tmp_path)):
        reading = read(root)
        assert reading.layout == "label_studio"
        assert labels(reading) == {"1.jpg": "cat", "2.jpg": "1e3"}
        assert len(reading.notes) == 1
        assert reading.notes[0].startswith(f"1 picture in {root} not used: no class in project-1")


def test_json_min(tmp_path: Path) -> None:
    touch(tmp_path, ["1.jpg", "2.jpg", "3.jpg"])
    records = [
        {"id": 1, "image": "1.jpg", "choice": "cat"},
        {"id": 2, "image": "2.jpg", "choice": {"choices": ["dog"]}},
        {"id": 3, "image": "3.jpg"},
    ]
    # what was imported, as text, is no class, whether there is an answer or not
    write(tmp_path / "x.json", small(records, photographer="Bo", caption="a cat"))
    assert labels(read(tmp_path)) == {"1.jpg": "cat", "2.jpg": "dog"}


def test_json_min_without_any_choice_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, ["1.jpg"])
    records = [{"id": 1, "image": "1.jpg", "box": [{"x": 1, "rectanglelabels": ["cat"]}]}]
    write(tmp_path / "x.json", small(records, photographer="Bo"))
    with pytest.raises(DataError, match="no annotation has choices"):
        read(tmp_path)


def test_json_min_whose_keys_were_sorted_asks_which_one(tmp_path: Path) -> None:
    touch(tmp_path, ["1.jpg"])
    records = small([{"id": 1, "image": "1.jpg", "choice": "cat"}], photographer="Bo")
    write(tmp_path / "x.json", [dict(sorted(one.items())) for one in records])
    with pytest.raises(DataError, match="'choice', 'photographer' may hold the classes"):
        read(tmp_path)
    assert labels(read(tmp_path, label_column="choice")) == {"1.jpg": "cat"}


@pytest.mark.parametrize(
    ("annotations", "label"),
    [
        ([annotation(choice("cat"), at=1), annotation(choice("bus"), at=2)], "bus"),  # the newest
        ([annotation(choice("bus"), at=2), annotation(choice("cat"), at=1)], "bus"),
        ([annotation(choice("cat")), annotation(choice("bus"), was_cancelled=True, at=9)], "cat"),
        ([annotation(choice("cat"), by=1), annotation(choice("cat"), by=2)], "cat"),  # agreed
        ([annotation(choice("cat"), by=1), annotation(by=2)], "cat"),  # one chose nothing
        ([annotation(choice("cat"), by={"id": 5}), annotation(choice("bus"), at=0, by=5)], "cat"),
        ([annotation(choice("cat"), ground_truth=True), annotation(choice("bus"), by=2)], "cat"),
        ([annotation(choice("cat"), choice("bus", x=1.5, width=3))], "cat"),  # bus is a region's
    ],
)
def test_what_counts(tmp_path: Path, annotations: Sequence[Any], label: str) -> None:
    assert one_task(tmp_path, *annotations) == {"1.jpg": label, "2.jpg": "dog"}


@pytest.mark.parametrize(
    "annotations", [[], [annotation()], [annotation(choice())], [annotation(choice(" "))]]
)
def test_what_is_unlabelled(tmp_path: Path, annotations: Sequence[Any]) -> None:
    assert one_task(tmp_path, *annotations) == {"2.jpg": "dog"}


def test_annotators_who_disagree_are_counted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"disagree on 1 of 2 pictures: task 1 \(bus or cat\)"):
        one_task(tmp_path, annotation(choice("cat")), annotation(choice("bus"), by=2))
    records = [
        {"id": 4, "image": "1.jpg", "choice": "cat", "by": "a@b.c"},
        {"id": 4, "image": "1.jpg", "choice": "bus", "by": "d@e.f"},
    ]
    write(tmp_path / "x.json", small(records))
    with pytest.raises(DataError, match=r"disagree on 1 of 1 picture: task 4 \(bus or cat\)"):
        read(tmp_path)


def test_in_json_min_the_newest_record_of_a_task_counts(tmp_path: Path) -> None:
    touch(tmp_path, ["1.jpg"])
    records = [
        {"id": 4, "image": "1.jpg", "choice": "cat", "at": 3},
        {"id": 4, "image": "1.jpg", "choice": "bus", "at": 2},
    ]
    for given in (records, records[::-1]):
        write(tmp_path / "x.json", small(given))
        assert labels(read(tmp_path)) == {"1.jpg": "cat"}


def test_several_choices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"several classes: task 1 \('bus, cat'\)"):
        one_task(tmp_path, annotation(choice("cat", "bus")))
    record = {"id": 4, "image": "1.jpg", "choice": {"choices": ["cat", "bus"]}}
    write(tmp_path / "x.json", small([record]))
    with pytest.raises(DataError, match=r"several classes: task 4 \('bus, cat'\)"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("address", "picture"),
    [
        ("/data/upload/1/1a2b3c4d-cat_1.jpg", "upload/1/1a2b3c4d-cat_1.jpg"),
        ("/data/upload/1/1a2b3c4d-cat_1.jpg", "images/1a2b3c4d-cat_1.jpg"),
        ("/data/upload/1/1a2b3c4d-cat_1.jpg", "cat_1.jpg"),
        ("/data/upload/1/1a2b3c4d-cat_1.jpg", "old/cat 1.jpg"),  # Django's name of it
        ("upload/1/1a2b3c4d-cat_1.jpg", "cat (1).jpg"),
        ("/data/upload/1/1a2b3c4d-K%C3%A4fer.jpg", "Käfer.jpg"),
        ("/data/local-files/?d=photos/a%20b/1.jpg", "a b/1.jpg"),
        ("/data/local-files/?d=photos%2Fa+b%2F1.jpg", "photos/a b/1.jpg"),
        ("https://example.org/a/b%201.jpg?token=5#x", "a/b 1.jpg"),
        ("s3://bucket/a/1.jpg", "a/1.jpg"),
        ("C:\\photos\\a\\1.jpg", "a/1.jpg"),
        ("a/100%25.jpg", "a/100%25.jpg"),
    ],
)
def test_how_a_picture_is_called(tmp_path: Path, address: str, picture: str) -> None:
    touch(tmp_path, [picture, "other/z.jpg"])
    write(tmp_path / "x.json", full([({"image": address}, [annotation(choice("cat"))])]))
    assert labels(read(tmp_path, layout="label_studio")) == {picture: "cat"}


def test_a_document_root_above_the_folder(tmp_path: Path) -> None:
    """Two pictures of one name: that at the top is meant, not the one further down."""
    touch(tmp_path, ["1.jpg", "old/1.jpg"])
    addresses = [f"/data/local-files/?d={tmp_path.name}/{name}" for name in ("1.jpg", "old/1.jpg")]
    tasks = zip(addresses, ("cat", "dog"), strict=True)
    write(tmp_path / "x.json", full([({"image": a}, [annotation(choice(c))]) for a, c in tasks]))
    assert labels(read(tmp_path, layout="label_studio")) == {"1.jpg": "cat", "old/1.jpg": "dog"}


@pytest.mark.parametrize(
    "address", ["../1.jpg", "/etc/1.jpg", "/data/local-files/?d=../../1.jpg", "http://[x/1.jpg"]
)
def test_no_picture_outside_the_place_is_opened(tmp_path: Path, address: str) -> None:
    touch(tmp_path, ["1.jpg"])
    root = touch(tmp_path / "place", ["2.jpg"])
    write(root / "x.json", full([({"image": address}, [annotation(choice("cat"))])]))
    with pytest.raises(DataError, match="1 picture not found in"):
        read(root)


def test_two_uploads_of_one_name_are_not_guessed(tmp_path: Path) -> None:
    touch(tmp_path, ["cat/1.jpg", "dog/1.jpg"])
    address = {"image": "/data/upload/1/1a2b3c4d-1.jpg"}
    write(tmp_path / "x.json", full([(address, [annotation(choice("cat"))])]))
    with pytest.raises(DataError, match=r"'.*1.jpg' could be any of cat/1.jpg, dog/1.jpg"):
        read(tmp_path, layout="label_studio")


def test_splits_and_groups_are_fields(tmp_path: Path) -> None:
    touch(tmp_path, ["1.jpg", "2.jpg"])
    data = [
        {"image": f"{number}.jpg", "split": split, "part": split, "day": number}
        for number, split in ((1, "train"), (2, "valid"))
    ]
    tasks = [(one, [annotation(choice("cat"))]) for one in data]
    file = write(tmp_path / "x.json", full(tasks))
    expected = {"1.jpg": "train cat", "2.jpg": "val cat"}
    assert labels(read(file)) == expected
    reading = read(file, split_column="part", group_column="day")
    assert labels(reading) == expected
    assert [one.group for one in reading.pictures] == ["1", "2"]
    data[1]["split"] = "holdout"
    write(file, full(tasks))
    with pytest.raises(DataError, match=r"1 row with an unknown split: task 2 \('holdout'\)"):
        read(file)


def test_fields_are_chosen(tmp_path: Path) -> None:
    touch(tmp_path, ["1.jpg"])
    results = [choice("cat"), choice("good", question="quality")]
    data = {"image": "1.jpg", "thumbnail": "small/1.jpg"}
    file = write(tmp_path / "x.json", full([(data, [annotation(*results)])]))
    with pytest.raises(DataError, match="'image', 'thumbnail' may name the pictures"):
        read(file)
    with pytest.raises(DataError, match="'choice', 'quality' may hold the classes"):
        read(file, file_column="image")
    assert labels(read(file, file_column="image", label_column="quality")) == {"1.jpg": "good"}
    with pytest.raises(UsageError, match=r"label_column is 'qualiti' \(did you mean 'quality'\?\)"):
        read(file, file_column="image", label_column="qualiti")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([{"data": {"image": "1.jpg"}, "annotations": 5}], "task without id 0, annotations is 5"),
        ([{"data": 5, "annotations": []}], "task without id 0, data is 5; expected an object"),
        ([{"data": {}, "annotations": [5]}], "annotation 0 is 5; expected an object"),
        ([{"data": {}, "annotations": [{"result": 5}]}], "result is 5; expected a list"),
        ([{"data": {}, "annotations": []}, 5], "record 1 is 5; expected an object"),
        ([{"data": {"image": 5}, "annotations": []}], "'image' may name the pictures"),
    ],
)
def test_what_is_wrong(tmp_path: Path, value: Any, message: str) -> None:
    touch(tmp_path, ["1.jpg"])
    write(tmp_path / "x.json", value)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_several_exports_are_refused(tmp_path: Path) -> None:
    task = ({"image": "1.jpg"}, [annotation(choice("cat"))])
    for name in ("a.json", "b.json"):
        write(tmp_path / name, full([task]))
    with pytest.raises(DataError, match=r"several exports of Label Studio \(a.json, b.json\)"):
        read(tmp_path)
