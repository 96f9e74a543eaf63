"""Files that are written whole or not at all, also by several processes and after kills."""

from __future__ import annotations

import multiprocessing
import os
import re
import stat
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from vitlora import files
from vitlora.errors import UsageError
from vitlora.files import (
    alone_in,
    check_target,
    draft,
    expanded,
    is_draft,
    rename,
    write_whole,
)


def _write_often(path: Path, letter: str, times: int, complaints: Any) -> None:
    wrong: list[str] = []
    for _ in range(times):
        try:
            write_whole(path, letter * 1000)
            text = path.read_text()
            if len(text) != 1000 or len(set(text)) != 1:
                wrong.append(f"torn: {text[:20]}")
        except OSError as error:
            wrong.append(repr(error))
    complaints.put(wrong)


def test_processes_that_write_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    complaints: Any = context.Queue()
    path = tmp_path / "shared.json"
    writers = [
        context.Process(target=_write_often, args=(path, letter, 300, complaints))
        for letter in "abcd"
    ]
    for writer in writers:
        writer.start()
    assert [complaints.get(timeout=120) for _ in writers] == [[], [], [], []]
    for writer in writers:
        writer.join()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_what_fails_half_way_leaves_the_old_file_and_no_litter(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.json"
    write_whole(path, "old")

    def fail(*args: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_killed_processes_left_is_removed_after_a_day(tmp_path: Path) -> None:
    old, young, folder = (tmp_path / f".vitlora-{digit * 16}.new" for digit in "abc")
    theirs = [tmp_path / name for name in (".x.json.new", ".vitlora-notes.new", "a.new")]
    folder.mkdir()
    for path in (old, young, folder / "half", *theirs):
        path.write_text("half")
    for path in (old, folder, *theirs):
        os.utime(path, (1, 1))
    write_whole(tmp_path / "x.json", "whole")
    assert set(tmp_path.iterdir()) == {young, *theirs, tmp_path / "x.json"}


def test_a_name_as_long_as_the_system_takes_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250 + ".json")
    write_whole(path, "é")
    assert path.read_bytes() == "é".encode()


def test_a_draft_is_a_file_or_a_folder_and_is_gone_at_the_end(tmp_path: Path) -> None:
    for make in (Path.touch, Path.mkdir):
        with draft(tmp_path / "x") as new:
            make(new)
            assert new.parent == tmp_path and is_draft(new.name)
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt), draft(tmp_path / "x") as new:
        (new / "deep").mkdir(parents=True)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="has no named pipes in folders")
def test_what_is_no_file_is_written_to_and_stays_what_it_is(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_whole(pipe, "through")
    reader.join(10)
    assert read == ["through"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_windows_waits_for_whoever_reads_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refusals = os.replace, iter([True, True, False])

    def replace(old: Any, new: Any) -> None:
        if next(refusals):
            raise PermissionError("the file is open")
        real(old, new)

    (tmp_path / "new").write_text("new")
    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(files, "_WAITS", (0.0, 0.0, 0.0))
    rename(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old").read_text() == "new"


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no lock there")
def test_only_one_at_a_time_is_in_a_folder(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def enter() -> None:
        for _ in range(20):
            with alone_in(tmp_path):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 80 and set(most) == {1}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_full_disk_names_the_file_that_was_asked_for(tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(OSError) as full:
        write_whole(Path("/dev/full"), "text")
    assert full.value.filename == "/dev/full"

    def refuse(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(OSError) as full:
        write_whole(tmp_path / "a.json", "text")
    assert full.value.filename == str(tmp_path / "a.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("photo.jpg", "expected a file name that ends in .csv"),
        ("README", "expected a file name that ends in .csv"),
        ("new", "expected a file name that ends in .csv"),
        ("mine.csv", "exists and was not written by vitlora; name another file"),
        ("folder", "is a folder; expected a file"),
        ("nowhere/x.csv", "its folder does not exist"),
        ("old.csv", None),
        ("empty.csv", None),
        ("new.csv", None),
        ("/dev/null", None),
        ("-", None),
        ("", None),
    ],
)
def test_only_files_of_an_earlier_run_are_overwritten(name, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for file in ("photo.jpg", "README", "mine.csv"):
        (tmp_path / file).write_text("mine")
    (tmp_path / "old.csv").write_text("path,class,confidence\n")
    (tmp_path / "empty.csv").touch()
    if said is None:
        check_target("--csv", name, (".csv",), b"path,class")
        return
    with pytest.raises(UsageError, match=re.escape(f"--csv '{name}'") + ".*" + re.escape(said)):
        check_target("--csv", name, (".csv",), b"path,class")


def test_a_home_that_nobody_has_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    monkeypatch.setenv("USERPROFILE", "/somewhere")
    assert expanded("~/photos") == Path("/somewhere/photos")
    if sys.platform != "win32":  # which guesses
        assert expanded("~no-such-user/photos") == Path("~no-such-user/photos")
