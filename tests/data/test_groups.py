"""Tests of which pictures belong together: CSV files as people write them, and near-duplicates."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from dataclasses import replace

import pytest
from PIL import Image

from vitlora.data import groups as groups_module
from vitlora.data.groups import groups_of, merged
from vitlora.data.read import read_folder
from vitlora.errors import DataError, UsageError

NFC, NFD = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
NAMES = ("a/0.jpg", "a/1.jpg", "b/0.jpg", "b/1.jpg")
ROWS = [f"{name},{group}" for name, group in zip(NAMES, "xyxz", strict=True)]


@pytest.fixture
def folder(tmp_path):
    for name in NAMES:
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).touch()
    return read_folder(tmp_path / "photos")


def written(tmp_path, *lines, encoding="utf-8", end="\n"):
    file = tmp_path / "groups.csv"
    file.write_bytes((end.join(lines) + end).encode(encoding))
    return str(file)


def together(folder, numbers):
    """Returns the groups as sets of names."""
    found = defaultdict(set)
    for sample, number in zip(folder.splits["all"], numbers, strict=True):
        found[number].add(sample.path.relative_to(folder.root).as_posix())
    return {frozenset(names) for names in found.values()}


XYXZ = {frozenset({"a/0.jpg", "b/0.jpg"}), frozenset({"a/1.jpg"}), frozenset({"b/1.jpg"})}


@pytest.mark.parametrize(
    ("lines", "how"),
    [
        (["file,group", *ROWS], {}),
        (["file,group", *ROWS], {"encoding": "utf-8-sig", "end": "\r\n"}),
        (["file,group", *reversed(ROWS), "", ""], {}),
        (["file,group", *(row.replace("/", "\\") for row in ROWS)], {}),
        (["group , file,note", *("{1},./{0},n".format(*row.split(",")) for row in ROWS)], {}),
        (['"file","group"', *('"{}", "{}"'.format(*row.split(",")) for row in ROWS)], {}),
    ],
    ids=["plain", "windows", "any order", "backslashes", "more columns", "quotes"],
)
def test_groups_are_read_as_people_write_them(folder, tmp_path, lines, how):
    if "quotes" in lines[0] or '"' in lines[0]:
        lines = [line.replace('", "', '","') for line in lines]
    assert together(folder, groups_of(folder, written(tmp_path, *lines, **how))) == XYXZ


@pytest.mark.parametrize(("disk", "listed"), [(NFC, NFD), (NFD, NFC)])
def test_accents_may_be_written_either_way(folder, tmp_path, disk, listed):
    (folder.root / "a" / f"{disk}.jpg").touch()
    folder = read_folder(folder.root)
    numbers = groups_of(folder, written(tmp_path, "file,group", *ROWS, f"a/{listed}.jpg,{listed}"))
    assert len(set(numbers)) == 4


def test_pictures_of_classes_left_out_may_be_listed(folder, tmp_path):
    (folder.root / "c").mkdir()
    (folder.root / "c" / f"{NFD}.jpg").touch()
    two = read_folder(folder.root, ["a", "b"])
    numbers = groups_of(two, written(tmp_path, "file,group", *ROWS, f"c/{NFC}.jpg,x"))
    assert together(two, numbers) == XYXZ


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["file,group", *ROWS[:2]], r"does not list 'b/0\.jpg' and 1 more of the 4 pictures in "),
        (["file,group", *ROWS[1:]], r"does not list 'a/0\.jpg' of the 4 pictures"),
        (["file,group", *ROWS, "b/2.jpg,x"], r"lists 'b/2\.jpg' that .* does not hold"),
        (["file,group", *ROWS, "q.jpg,x", "p.jpg,x"], r"lists 'p\.jpg' and 1 more that"),
        (["file,group", *ROWS, r"a\0.jpg,x"], r"line 6: 'a.0\.jpg' is listed twice"),
        (["file,group", *ROWS[:3], "b/1.jpg,"], r"line 5: no group"),
        (["file,group", *ROWS[:3], "b/1.jpg"], r"line 5: no group"),
        (["file,group", *ROWS, ",x"], r"line 6: no file"),
        (["file,group", *ROWS, "b/x, y.jpg,x"], r"line 6: more values than the 2 columns"),
        (ROWS, r"begins with 'a/0\.jpg,x'; expected the header file,group"),
        (["file;group", *ROWS], r"begins with 'file;group'; expected the header file,group"),
        ([], r"begins with ''; expected the header"),
        (["file,group", '"a/0.jpg,x'], r"is not a CSV file"),
    ],
)
def test_wrong_csv_is_one_clear_line(folder, tmp_path, lines, message):
    with pytest.raises(DataError, match=message) as raised:
        groups_of(folder, written(tmp_path, *lines))
    assert "\n" not in str(raised.value) and "groups.csv" in str(raised.value)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_other_encodings_are_named(folder, tmp_path, encoding):
    file = written(tmp_path, "file,group", *ROWS, "a/é.jpg,x", encoding=encoding)
    with pytest.raises(DataError, match="is not UTF-8; save it as CSV in UTF-8"):
        groups_of(folder, file)


@pytest.mark.parametrize(
    ("source", "message"),
    [("duplicate", "did you mean 'duplicates'"), ("g.csv", "no such file; expected null, dup")],
)
def test_missing_file_is_named(folder, source, message):
    with pytest.raises(UsageError, match=message):
        groups_of(folder, source)


def test_duplicates_are_asked_for_by_path(folder, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(
        groups_module, "near_duplicates", lambda paths: asked.extend(paths) or [0, 1, 0, 2]
    )
    assert together(folder, groups_of(folder, "duplicates")) == XYXZ
    assert asked == [folder.root / name for name in NAMES]
    assert "among 4 pictures" in capsys.readouterr().out


def test_real_copies_stand_together(tmp_path, make_folder):
    root = make_folder(tmp_path, splits=(), count=3)
    for name in ("0", "1"):  # noise of one colour: tell them apart by more than noise
        Image.effect_mandelbrot((80, 80), (-2, -1.5, 1, 1.5), 60 + 40 * int(name)).rotate(
            30 * int(name)
        ).save(root / "a" / f"{name}.jpg")
    Image.open(root / "a" / "0.jpg").resize((60, 60)).save(root / "b" / "copy.png")
    folder = read_folder(root)
    found = together(folder, groups_of(folder, "duplicates"))
    assert frozenset({"a/0.jpg", "b/copy.png"}) in found
    assert frozenset({"a/1.jpg"}) in found


def test_a_folder_s_own_groups_stay_together_whatever_else_does(folder, tmp_path):
    own = replace(folder, groups={"a/1.jpg": "patient", "b/0.jpg": "patient"})
    file = written(tmp_path, "file,group", *ROWS)  # a/0 and b/0 belong together
    found = together(own, groups_of(own, file))
    assert found == {frozenset({"a/0.jpg", "b/0.jpg", "a/1.jpg"}), frozenset({"b/1.jpg"})}
    alone = together(own, groups_of(own, None))
    patient = frozenset({"a/1.jpg", "b/0.jpg"})
    assert alone == {patient, frozenset({"a/0.jpg"}), frozenset({"b/1.jpg"})}


def test_groups_with_a_key_in_common_are_merged():
    assert merged([0, 1, 2, 3], [b"x", b"y", b"x", None]) == [0, 1, 0, 3]
    assert merged([0, 0, 1, 1, 2, 2], [b"a", b"b", b"b", b"c", b"c", b"d"]) == [0] * 6
    assert merged([5, 5, 7], [None, None, None]) == [5, 5, 7]
