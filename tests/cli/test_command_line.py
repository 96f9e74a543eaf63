"""Every stand-alone command reads its words alike."""

from __future__ import annotations

import re
from typing import Any

import pytest
from vitlora.command_line import check_target

from vitlora.cli.main import _OTHERS, main
from vitlora.errors import UsageError


@pytest.mark.parametrize("command", _OTHERS)
def test_help_reads_well(command: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(("usage: vitlora ", "usage: predict.py"))
    assert max(map(len, lines)) <= 100
    assert any(line.startswith(("example", "stopped", "  vitlora", "needs")) for line in lines)


@pytest.mark.parametrize("command", sorted(set(_OTHERS) - {"compare", "configs", "plan"}))
def test_missing_words_are_one_line(command: str, capsys: Any) -> None:
    assert main([command]) == 2
    error = capsys.readouterr().err
    assert error.startswith("vitlora: the following arguments are required: ")
    assert error.endswith("--help' lists what it takes\n") and error.count("\n") == 1


def test_a_misspelt_option_has_a_hint(capsys: Any) -> None:
    assert main(["predict", "x.jpg", "--topk", "3"]) == 2
    assert "unrecognized arguments: --topk 3 (did you mean '--top-k'?)" in capsys.readouterr().err


def test_options_are_not_shortened_in_silence(capsys: Any) -> None:
    assert main(["predict", "x.jpg", "--check", "y"]) == 2
    assert "did you mean '--checkpoint'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("photo.jpg", "does not end in .csv; it is not overwritten"),
        ("README", "does not end in .csv; it is not overwritten"),
        ("folder", "is a folder; expected a file"),
        ("nowhere/x.csv", "its folder does not exist"),
        ("old.csv", None),
        ("new", None),
        ("/dev/null", None),
        ("-", None),
        ("", None),
    ],
)
def test_only_files_of_an_earlier_run_are_overwritten(name, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for file in ("photo.jpg", "README", "old.csv"):
        (tmp_path / file).write_text("mine")
    if said is None:
        check_target("--csv", name, ".csv")
        return
    with pytest.raises(UsageError, match=re.escape(f"--csv '{name}'") + ".*" + re.escape(said)):
        check_target("--csv", name, ".csv")
