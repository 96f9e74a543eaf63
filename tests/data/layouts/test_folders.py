"""Folders as people bring them: what is understood, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from vitlora.data.layouts.reading import LayoutOptions, split_of
from vitlora.data.read import read_folder, read_place
from vitlora.errors import DataError, UsageError


def make(root: Path, shape: str) -> Path:
    """Makes empty pictures: ``train/cat:3 train/dog:2 notes.txt`` (two where no number stands)."""
    for word in shape.split():
        folder, _, count = word.partition(":")
        if folder.endswith(".txt"):
            (root / folder).parent.mkdir(parents=True, exist_ok=True)
            (root / folder).touch()
            continue
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(int(count or 2)):
            (root / folder / f"{number}.jpg").touch()
    return root


def read(root: Path, layout: str | None = None) -> dict[str, dict[str, int]]:
    """Returns how many pictures each class has in each split."""
    _, reading = read_place(root, LayoutOptions(layout))
    counts = Counter((one.split or "all", one.label) for one in reading.pictures)
    found: dict[str, dict[str, int]] = {}
    for (split, label), count in sorted(counts.items()):
        found.setdefault(split, {})[label] = count
    return found


SPLIT = {"train": {"cat": 2, "dog": 2}, "val": {"cat": 2, "dog": 2}, "test": {"cat": 2, "dog": 2}}
TRAIN, ALL = {"train": SPLIT["train"]}, {"all": SPLIT["train"]}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("cat dog", ALL),
        ("train/cat train/dog val/cat val/dog test/cat test/dog", SPLIT),
        ("Train/cat Train/dog Val/cat Val/dog Test/cat Test/dog", SPLIT),
        ("training/cat training/dog validation/cat validation/dog testing/cat testing/dog", SPLIT),
        ("train/cat train/dog valid/cat valid/dog test/cat test/dog", SPLIT),
        ("TRAIN/cat TRAIN/dog dev/cat dev/dog EVAL/cat EVAL/dog", SPLIT),
        ("train/cat train/dog evaluation/cat", {**TRAIN, "test": {"cat": 2}}),
        ("train/cat train/dog test/cat test/dog", {**TRAIN, "test": SPLIT["test"]}),
        ("train/cat train/dog test:5", TRAIN),  # a flat, unlabelled test set
        ("train/cat train/dog val/cat", {**TRAIN, "val": {"cat": 2}}),
        ("pets/cat pets/dog", ALL),
        ("pets/pets/cat pets/pets/dog", ALL),
        ("pets/train/cat pets/train/dog pets/__MACOSX/train/cat", TRAIN),
        ("cat/train cat/test dog/train dog/test", {**TRAIN, "test": SPLIT["test"]}),
        ("cat/images dog/images", ALL),
        ("cat:1 cat/more:1 dog", ALL),  # its own pictures make a folder a class
        ("train/cat train/dog extra/bird", TRAIN),
        ("train/cat train/dog train:1", TRAIN),
        ("test/cat test/dog", {"test": SPLIT["test"]}),
        ("train/cat train/dog readme.txt train/cat/notes.txt", TRAIN),
    ],
)
def test_a_shape_is_understood(tmp_path, shape, expected):
    assert read(make(tmp_path, shape)) == expected


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            "a/cat a/dog b/cat b/dog",
            r"of the same names \(cat, dog\): if they are splits",
        ),
        (
            "pets/cat pets/dog cars/bus cars/van",
            r"classes \(cars, pets\), .*--data.layout folders",
        ),
        ("train/pets/cat train/pets/dog train/cars/bus", r"train can be read in two ways"),
        ("train:3 cat dog", r"train/ beside cat/ and dog/, which can mean two things: classes of"),
        ("test:3 cat dog", r"--data.layout class_folders; or pictures without a class, then move"),
        (
            "cat dog test/cat test/dog",
            r"if those hold the training pictures, move them",
        ),
        ("train:3 test:3", r"has train/ and test/|test/ and train/, but no class folders in them"),
        ("val/cat valid/cat train/cat", r"val/ and valid/, which both mean val; move the pictures"),
        ("Train/cat train/cat", r"Train/ and train/, which both mean train"),
    ],
)
def test_what_could_mean_two_things_is_refused_with_what_to_do(tmp_path, shape, message):
    with pytest.raises(DataError, match=message) as refused:
        read(make(tmp_path, shape))
    assert "\n" not in str(refused.value)


def test_what_is_refused_can_be_forced(tmp_path):
    nested = make(tmp_path / "nested", "pets/cat pets/dog cars/bus cars/van")
    assert read(nested, "folders") == {"all": {"cars": 4, "pets": 4}}
    assert read(nested, "nested") == {"all": {"bus": 2, "cat": 2, "dog": 2, "van": 2}}
    vehicles = make(tmp_path / "vehicles", "train:3 car")
    assert read(vehicles, "class_folders") == {"all": {"car": 2, "train": 3}}
    alike = make(tmp_path / "alike", "a/cat a/dog b/cat b/dog")
    assert read(alike, "folders") == {"all": {"a": 4, "b": 4}}


def test_leaves_that_repeat_are_named_with_the_folder_above(tmp_path):
    root = make(tmp_path, "red/apple red/car blue/car x/deep/kiwi y/deep/kiwi train:0")
    (root / "train").rmdir()
    assert read(root, "nested") == {
        "all": {"apple": 2, "red/car": 2, "blue/car": 2, "x/deep/kiwi": 2, "y/deep/kiwi": 2}
    }
    split = make(tmp_path / "split", "train/a/cat train/b/dog test/a/cat")
    assert read(split, "nested") == {"train": {"cat": 2, "dog": 2}, "test": {"cat": 2}}


def test_a_layout_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"data.layout is 'nestd' \(did you mean 'nested'\?\)"):
        read(make(tmp_path, "cat dog"), "nestd")


def test_pictures_that_no_class_holds_are_said(tmp_path):
    root = make(tmp_path, "train/cat train/dog test:5 extra/bird:3 train:1")
    notes = read_folder(root).source.notes
    assert [note.partition(" not used")[0] for note in notes] == [
        f"3 pictures in {root}/extra/bird",
        f"5 pictures in {root}/test",
        f"1 picture in {root}/train",
    ]


def test_the_splits_of_a_forced_layout_have_the_pictures_of_the_recognised_one(tmp_path):
    root = make(tmp_path, "train/cat train/dog val/cat")
    plain, forced = read_folder(root), read_folder(root, options=LayoutOptions("folders"))
    assert plain.splits == forced.splits and plain.classes == forced.classes


@pytest.mark.parametrize("name", [" Train ", "VALID", "dev", "Evaluation", "testing"])
def test_split_names_in_any_case(name):
    assert split_of(name) in {"train", "val", "test"}


@pytest.mark.parametrize("name", ["trains", "test tube", "dev-board", "validate", ""])
def test_other_names_are_no_splits(name):
    assert split_of(name) is None


def test_linked_class_folders_are_followed(tmp_path):
    make(tmp_path / "elsewhere", "cat dog")
    (tmp_path / "set" / "train").mkdir(parents=True)
    for name in ("cat", "dog"):
        (tmp_path / "set" / "train" / name).symlink_to(tmp_path / "elsewhere" / name)
    assert read(tmp_path / "set") == TRAIN


@pytest.mark.parametrize("layout", [None, "folders", "nested", "class_folders"])
def test_options_of_tables_are_refused_for_folders(tmp_path, layout):
    options = LayoutOptions(layout, label_column="breed", images="elsewhere")
    with pytest.raises(UsageError, match=r"does not use data.images, data.label_column; leave"):
        read_place(make(tmp_path, "cat dog"), options)


def test_class_folders_keep_the_order_of_their_names(tmp_path: Path) -> None:
    folder = read_folder(make(tmp_path, "0 1 2 10"))
    assert folder.classes == ("0", "1", "10", "2")


def test_two_pictures_of_one_name_in_other_unicode_forms_are_refused(tmp_path: Path) -> None:
    root = make(tmp_path, "cat dog")
    for name in ("caf\u00e9.jpg", "cafe\u0301.jpg"):
        (root / "cat" / name).touch()
    if len([*(root / "cat").iterdir()]) < 4:
        pytest.skip("this disk takes both forms for one")
    with pytest.raises(DataError, match="two pictures named 'cat/caf"):
        read(root)


def test_a_folder_s_name_keeps_its_spaces(tmp_path, make_folder):
    root = make_folder(tmp_path, classes=("dog", "dog "), splits=())
    assert read_folder(root).classes == ("dog", "dog ")
