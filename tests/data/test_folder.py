"""Tests of reading and splitting image folders."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import unicodedata
from collections import Counter

import pytest

from vitlora.data.division import split_record
from vitlora.data.doctor.survey import survey
from vitlora.data.read import read_folder
from vitlora.errors import DataError, UsageError

CAFE = "Conservas de café"
NFC, NFD = (unicodedata.normalize(form, CAFE) for form in ("NFC", "NFD"))


def empty_files(root, counts):
    """Fills `root` with files that are never opened: {folder: number of pictures}."""
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True)
        for index in range(count):
            (root / folder / f"{index:03d}.jpg").touch()
    return root


def names(folder, split):
    """Returns the relative paths of a split's pictures, in order."""
    return [sample.path.relative_to(folder.root).as_posix() for sample in folder.splits[split]]


def test_split_folders_are_found_as_they_are(tmp_path):
    counts = {"train/a": 3, "train/b": 2, "val/a": 1, "val/b": 2, "test/a": 1, "test/b": 1}
    folder = read_folder(empty_files(tmp_path, counts))
    assert folder.classes == ("a", "b")
    assert list(folder.splits) == ["train", "val", "test"]
    assert {part: folder.counts(part) for part in folder.splits} == {
        "train": [3, 2],
        "val": [1, 2],
        "test": [1, 1],
    }
    for part in folder.splits:
        for sample in folder.splits[part]:
            assert sample.path.is_file()
            assert sample.path.parent == tmp_path / part / folder.classes[sample.label]


def test_class_folders_alone_are_not_yet_split(tmp_path):
    folder = read_folder(empty_files(tmp_path, {"b": 2, "a": 3}))
    assert folder.classes == ("a", "b")
    assert list(folder.splits) == ["all"] and folder.counts("all") == [3, 2]


def test_nested_pictures_count_and_other_files_do_not(tmp_path):
    empty_files(tmp_path, {"a": 1, "a/deeper": 2, "a/.ipynb_checkpoints": 1, "b": 1, ".cache": 1})
    empty_files(tmp_path, {"__MACOSX": 1})
    for stray in ("a/notes.txt", "a/.hidden.jpg", "readme.jpg"):
        (tmp_path / stray).touch()
    folder = read_folder(tmp_path)
    assert folder.classes == ("a", "b")
    assert folder.counts("all") == [3, 1]
    assert names(folder, "all")[:3] == ["a/000.jpg", "a/deeper/000.jpg", "a/deeper/001.jpg"]


def test_hidden_folder_above_the_root_does_not_hide_the_pictures(tmp_path):
    folder = read_folder(empty_files(tmp_path / ".cache" / "set", {"a": 1, "b": 1}))
    assert folder.counts("all") == [1, 1]


def test_root_may_start_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    empty_files(tmp_path / "set", {"a": 1, "b": 1})
    assert read_folder("~/set").root == tmp_path / "set"


def test_split_divides_each_class_and_loses_no_picture(tmp_path):
    whole = read_folder(empty_files(tmp_path, {"a": 50, "b": 10, "c": 5}))
    folder = whole.split(val=0.2, test=0.1, seed=0)
    assert folder.counts("val") == [10, 2, 1]
    assert folder.counts("test") == [5, 1, 1]  # never none
    assert folder.counts("train") == [35, 7, 3]
    parts = [set(names(folder, part)) for part in ("train", "val", "test")]
    assert set.union(*parts) == set(names(whole, "all"))
    assert sum(map(len, parts)) == 65
    for part in folder.splits:
        for sample in folder.splits[part]:
            assert sample.path.parent.name == folder.classes[sample.label]


def test_no_test_share_gives_no_test_split(tmp_path):
    folder = read_folder(empty_files(tmp_path, {"a": 5, "b": 5})).split(0.2, 0.0, 0)
    assert list(folder.splits) == ["train", "val"]


def test_split_follows_the_seed_and_nothing_else(tmp_path):
    first = read_folder(empty_files(tmp_path / "here", {"a": 30, "b": 30}))
    shutil.copytree(first.root, tmp_path / "else" / "where")
    second = read_folder(tmp_path / "else" / "where")
    one, same, moved, other = (
        first.split(0.2, 0.2, 7),
        first.split(0.2, 0.2, 7),
        second.split(0.2, 0.2, 7),
        first.split(0.2, 0.2, 8),
    )
    for part in ("train", "val", "test"):
        assert names(one, part) == names(same, part) == names(moved, part)
        assert one.digest(part) == moved.digest(part)
        assert Counter(names(one, part)) != Counter(names(other, part))
        assert one.digest(part) != other.digest(part)


def test_split_does_not_depend_on_the_classes_beside(tmp_path):
    empty_files(tmp_path, {"a": 20, "b": 20, "c": 20})
    without = read_folder(tmp_path, ["c", "a"]).split(0.2, 0.0, 0)
    whole = read_folder(tmp_path).split(0.2, 0.0, 0)
    assert set(names(without, "val")) == {n for n in names(whole, "val") if n[0] != "b"}


def test_split_is_drawn_at_random_not_from_one_end(tmp_path):
    folder = read_folder(empty_files(tmp_path, {"a": 100, "b": 100})).split(0.5, 0.0, 0)
    chosen = [int(name[2:5]) for name in names(folder, "val") if name[0] == "a"]
    assert 15 < sum(index < 50 for index in chosen) < 35


def test_a_class_too_small_for_every_part_is_trained_on_first_then_validated(tmp_path):
    folder = read_folder(empty_files(tmp_path, {"many": 10, "one": 1, "three": 3, "two": 2}))
    for seed in range(5):
        split = folder.split(0.2, 0.2, seed)
        assert split.counts("train") == [6, 1, 1, 1]
        assert split.counts("val") == [2, 0, 1, 1]
        assert split.counts("test") == [2, 0, 1, 0]


def test_classes_of_one_picture_each_leave_nothing_to_validate_on(tmp_path):
    folder = read_folder(empty_files(tmp_path, {"a": 1, "b": 1}))
    with pytest.raises(DataError, match=r"no class of .* has two pictures or groups"):
        folder.split(0.2, 0.0, 0)


@pytest.mark.parametrize("form", [NFC, NFD])
def test_accents_are_one_name_however_the_disk_writes_them(tmp_path, form):
    empty_files(tmp_path, {form: 20, "plain": 20})
    (tmp_path / form / f"{form}.jpg").touch()
    folder = read_folder(tmp_path)
    assert folder.classes == (NFC, "plain")
    for asked in (NFC, NFD):
        assert read_folder(tmp_path, ["plain", asked]).classes == ("plain", NFC)
    assert folder.counts("all") == [21, 20]


def test_split_and_digest_are_the_same_however_the_disk_writes_accents(tmp_path):
    splits = []
    for form in ("NFC", "NFD"):
        write = lambda name, form=form: unicodedata.normalize(form, name)  # noqa: E731
        root = empty_files(tmp_path / form, {write(CAFE): 10, "plain": 10})
        for letter in "eéèzu":  # in NFD, é sorts before z; in NFC after it
            (root / write(CAFE) / write(f"{letter}.jpg")).touch()
        splits.append(read_folder(root).split(0.3, 0.0, 0))
    composed, decomposed = splits
    for part in ("train", "val"):
        assert composed.digest(part) == decomposed.digest(part)
        assert names(composed, part) == [
            unicodedata.normalize("NFC", name) for name in names(decomposed, part)
        ]


def test_two_folders_with_one_name_are_refused_not_merged(tmp_path):
    empty_files(tmp_path, {NFC: 2, "plain": 2})
    if NFD in {child.name for child in tmp_path.iterdir()} or (tmp_path / NFD).exists():
        pytest.skip("this file system holds one of the two only")
    empty_files(tmp_path, {NFD: 3})
    with pytest.raises(DataError, match=f"two folders named '{NFC}'"):
        read_folder(tmp_path)


def test_classes_choose_and_order_the_labels(tmp_path):
    empty_files(tmp_path, {"train/a": 1, "train/b": 2, "train/c": 3, "val/c": 1, "val/a": 1})
    folder = read_folder(tmp_path, ["c", "a"])
    assert folder.classes == ("c", "a") and folder.counts("train") == [3, 1]
    assert names(folder, "val") == ["val/c/000.jpg", "val/a/000.jpg"]


@pytest.mark.parametrize(
    ("classes", "error", "message"),
    [
        (["cat", "dgo"], UsageError, r"'dgo'.*did you mean 'dog'.*found: cat, dog"),
        (["cat", "cat"], UsageError, r"names a class twice: cat"),
        (
            ["cat"],
            DataError,
            r"has pictures of 1 class \(cat, labels from class folders\); expected at least 2",
        ),
    ],
)
def test_wrong_classes_are_explained(tmp_path, classes, error, message):
    empty_files(tmp_path, {"cat": 2, "dog": 2})
    with pytest.raises(error, match=message):
        read_folder(tmp_path, classes)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"train/a": 1, "val/a": 1, "val/b": 1}, r"1 class without .* to train on in .*: 'b'; add"),
        ({"train/a": 1, "train/b": 0, "val/a": 1, "val/b": 1}, r"1 class without .*: 'b'; add"),
        ({"a": 1, "b": 0}, r"1 class without a picture .*: 'b'; .* out with data\.classes"),
        (
            {"a": 1},
            r"pictures of 1 class \(a, labels from class folders\); expected",
        ),
        ({"train": 3}, r"has train/, but no class folders in them; expected train/CLASS/PICTURE"),
        ({}, r"holds no pictures, and no class folders or table"),
    ],
)
def test_unusable_folder_is_explained(tmp_path, counts, message):
    with pytest.raises(DataError, match=message):
        read_folder(empty_files(tmp_path, counts))


def test_missing_root_is_named(tmp_path):
    with pytest.raises(DataError, match=r"data\.root '.*nowhere': no such folder"):
        read_folder(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("photos.zip", r"photos\.zip is not a whole archive"),
        ("photos.tar.gz", r"photos\.tar\.gz is compressed as a whole, .*: unpack it"),
        ("photo.jpg", r"photo\.jpg holds 1 picture, and no class folders or table"),
    ],
)
def test_a_file_that_lists_no_pictures_is_no_root(tmp_path, name, message):
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=message):
        read_folder(tmp_path / name)


def test_digest_is_the_hash_of_the_names_and_changes_with_them(tmp_path):
    empty_files(tmp_path, {"train/b": 1, "train/a": 1, "val/a": 1, "val/b": 1})
    before = read_folder(tmp_path)
    assert before.digest("train") == hashlib.sha256(b"train/a/000.jpg\ntrain/b/000.jpg").hexdigest()
    (tmp_path / "train" / "a" / "new.jpg").touch()
    after = read_folder(tmp_path)
    assert after.digest("train") != before.digest("train")
    assert after.digest("val") == before.digest("val")


def test_record_tells_how_a_drawn_split_can_be_drawn_again(tmp_path):
    drawn = read_folder(empty_files(tmp_path, {"a": 10, "b": 5})).split(0.2, 0.2, 3)
    digests = {part: drawn.digest(part) for part in drawn.splits}
    record = split_record(drawn, digests, {"val": 0.2, "test": 0.2, "seed": 3})
    assert record["counts"] == {"train": [6, 3], "val": [2, 1], "test": [2, 1]}
    assert record["root"] == str(tmp_path.resolve())
    again = read_folder(record["root"]).split(**record["drawn"])
    assert {part: again.digest(part) for part in again.splits} == record["digests"]
    assert "drawn" not in split_record(drawn, digests, None)


def test_all_classes_too_small_for_folds_are_named_at_once_and_many_are_bounded(tmp_path):
    pictures = {"large": 20, **{f"c{n:02}": 1 for n in range(14)}}
    with pytest.raises(DataError) as refused:
        read_folder(empty_files(tmp_path, pictures)).split(0.2, 0.0, 0, folds=2)
    said = str(refused.value)
    assert said.startswith("14 classes with too few pictures to split into 2 folds: ")
    assert "'c00' has 1 picture of at least 2, 'c01' has 1 picture of at least 2" in said
    assert "'c09'" in said and "'c10'" not in said and "'large'" not in said
    assert " and 4 more. Add pictures" in said


def test_all_classes_of_too_few_groups_for_folds_are_named(tmp_path):
    folder = read_folder(empty_files(tmp_path, {"a": 4, "b": 4, "c": 4}))
    groups = [0] * 8 + [1, 2, 3, 4]
    with pytest.raises(DataError, match=r"2 classes with too few groups.*'a' has 1 group, 'b' has"):
        folder.split(0.25, 0.0, 0, groups=groups, folds=2)
    split = folder.split(0.25, 0.0, 0, groups=groups)  # without folds they are trained on
    assert split.counts("train") == [4, 4, 3] and split.counts("val") == [0, 0, 1]


def test_all_empty_classes_are_named(tmp_path):
    empty_files(tmp_path / "x", {"a": 1, "b": 0, "c": 0})
    with pytest.raises(DataError, match=r"2 classes without a picture .*: 'b', 'c'; add"):
        read_folder(tmp_path / "x")


def test_a_class_that_validation_lacks_is_not_measured_there(tmp_path):
    empty_files(tmp_path, {"train/a": 1, "train/b": 1, "train/c": 1, "val/a": 1, "val/b": 0})
    folder = read_folder(tmp_path)
    assert folder.classes == ("a", "b", "c") and folder.absent("val") == ["b", "c"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are Unicode")
def test_a_file_whose_name_is_not_utf_8_is_split_and_hashed(tmp_path):
    empty_files(tmp_path, {"cat": 4, "dog": 4})
    plain = read_folder(tmp_path).split(0.25, 0.0, 0)
    (tmp_path / "cat" / "000.jpg").rename(tmp_path / "cat" / os.fsdecode(b"caf\xe9.jpg"))
    folder = read_folder(tmp_path)
    split = folder.split(0.25, 0.0, 0)
    assert split.counts("train") == [3, 3]
    assert {split.digest(part) for part in split.splits}.isdisjoint(
        plain.digest(part) for part in ["train"]
    )
    assert folder.grouping_digest(range(8))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are Unicode")
def test_a_class_folder_whose_name_is_not_utf_8_is_refused_with_what_to_type(tmp_path):
    empty_files(tmp_path, {"cat": 2, "dog": 2})
    (tmp_path / "cat").rename(tmp_path / os.fsdecode(b"caf\xe9"))
    with pytest.raises(DataError, match=r"class folder 'caf\\xe9' .* not UTF-8; rename it: mv"):
        read_folder(tmp_path)
    with pytest.raises(DataError, match=r"class folder 'caf\\xe9' .* not UTF-8; rename it: mv"):
        survey(tmp_path)
