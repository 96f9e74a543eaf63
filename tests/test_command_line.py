"""Every stand-alone command reads its words alike."""

from __future__ import annotations

from typing import Any

import pytest

from vitlora.__main__ import _OTHERS, main


@pytest.mark.parametrize("command", _OTHERS)
def test_help_reads_well(command: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(("usage: vitlora ", "usage: predict.py"))
    assert max(map(len, lines)) <= 100
    assert any(line.startswith(("example", "stopped", "  vitlora", "needs")) for line in lines)


@pytest.mark.parametrize("command", sorted(set(_OTHERS) - {"compare", "plan"}))
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
