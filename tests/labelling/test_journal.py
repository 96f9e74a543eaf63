"""The answers on the disk: what survives, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vitlora.data.layouts.label_names import is_folder_name
from vitlora.errors import DataError, UsageError
from vitlora.labelling.journal import FILE, Journal, check_class


def test_a_new_journal_reads_what_an_old_one_wrote(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "labelled")
    assert not journal.folder.exists()
    journal.answer("a", "1.jpg", "can")
    journal.answer("b", "2.jpg", None)
    journal.answer("c", "\udcff 'n ü.jpg", "glass")
    journal.answer("d", "4.jpg", "glass")
    journal.take_back("d")
    journal.file_as("a", "can/1.jpg")
    again = Journal(tmp_path / "labelled")
    assert again.labels == journal.labels == {"a": "can", "b": None, "c": "glass"}
    assert again.waiting == {"c": "glass"} and again.filed == {"a": "can/1.jpg"}


def test_every_answer_is_on_the_disk_at_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in range(3):
        journal.answer(str(number), f"{number}.jpg", "can")
        lines = (tmp_path / FILE).read_text("ascii").splitlines()
        assert json.loads(lines[-1]) == {
            "sha256": str(number),
            "picture": f"{number}.jpg",
            "class": "can",
        }
        assert len(lines) == number + 1


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    journal, other = Journal(tmp_path), Journal(tmp_path)
    journal.answer("a", "1.jpg", "can")
    with pytest.raises(UsageError, match="another vitlora sort writes to"):
        other.answer("a", "1.jpg", "glass")
    del journal
    with pytest.raises(UsageError):  # it does not know what was written meanwhile
        other.answer("a", "1.jpg", "glass")
    Journal(tmp_path).answer("a", "1.jpg", "glass")


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_torn_line_costs_its_own_answer_only(
    tmp_path: Path, cut: int, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Journal(tmp_path)
    journal.answer("a", "1.jpg", "can")
    journal.answer("b", "2.jpg", "can")
    whole = (tmp_path / FILE).read_bytes()
    del journal  # which has it locked
    (tmp_path / FILE).write_bytes(whole[:-cut])
    torn = Journal(tmp_path)
    assert set(torn.labels) == ({"a", "b"} if cut == 1 else {"a"})  # 1: the line's end alone
    torn.answer("c", "3.jpg", "glass")
    assert set(Journal(tmp_path).labels) == {*torn.labels}
    assert ("line 2 is torn" in capsys.readouterr().err) == (cut > 1)


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "1",
        '{"sha256": 1, "class": "can"}',
        '{"sha256": "a"}',
        '{"sha256": "a", "class": "../x"}',
        '{"sha256": "a", "class": ".."}',
        '{"sha256": "a", "class": 5}',
        '{"sha256": "a", "class": "test"}',
    ],
)
def test_lines_of_others_are_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / FILE).write_text(f"{line}\n")
    with pytest.raises(DataError, match="line 1: expected what vitlora sort writes"):
        Journal(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["..", ".", "", "  ", "a/b", "a\\b", "../x", ".git", "a\nb", "a\0b", "x" * 256, "ü" * 128],
)
def test_names_that_no_folder_may_have_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="cannot be called"):
        check_class(name, ["can"])


@pytest.mark.parametrize("name", ["a:b", "who?", "a ", "a.", "CON", "nul.jpg", "com1"])
def test_names_that_windows_refuses_are_refused_there(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_folder_name(name)
    monkeypatch.setattr("sys.platform", "win32")
    assert not is_folder_name(name)
    assert is_folder_name("console") and is_folder_name("test tube.v2")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Test", "the test split"),
        ("valid", "the val split"),
        ("Can", "'Can' looks like the class 'can'; choose that one"),
        ("coffee_tin", "'coffee_tin' looks like the class 'coffee tin'; choose"),
    ],
)
def test_splits_and_other_spellings_are_refused(name: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        check_class(name, ["can", "coffee tin"])


@pytest.mark.parametrize("name", ["tyre", " tyre ", "<b>tin", "e\u0301tain", "01", "x" * 255])
def test_other_names_are_kept(name: str) -> None:
    assert check_class(name, ["can"]) == name.strip().replace("e\u0301", "é")


def test_folders_that_are_there_are_classes(tmp_path: Path) -> None:
    for name in ("tyre", ".git", "can"):
        (tmp_path / name).mkdir()
    journal = Journal(tmp_path)
    journal.answer("a", "1.jpg", "glass")
    journal.answer("b", "2.jpg", "can")
    assert journal.classes == ["can", "tyre", "glass"]
