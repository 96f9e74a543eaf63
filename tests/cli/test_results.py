"""Every command's ``--json``: where it goes, and what it never overwrites."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vitlora.cli.main import main
from vitlora.cli.results import check_json, take_json
from vitlora.errors import UsageError


@pytest.mark.parametrize("content", ["[1]", "{}", "a diary", '{"drift": 1}', ""])
def test_no_other_file_is_replaced(content: str, tmp_path: Path, capsys: Any) -> None:
    target = tmp_path / "mine.json"
    target.write_text(content)
    assert main(["configs", "--json", str(target)]) == 2
    assert "exists and is not a result of vitlora's; name another" in capsys.readouterr().err
    assert target.read_text() == content
    assert main(["configs", "--json", str(tmp_path / "no/x.json")]) == 2
    assert "its folder does not exist" in capsys.readouterr().err
    with pytest.raises(UsageError, match="is a folder; expected a file"):
        check_json(str(tmp_path))


def test_an_earlier_result_is_replaced(tmp_path: Path, capsys: Any) -> None:
    target = tmp_path / "x.json"
    for name in ("demo.yaml", "waste5.yaml"):
        assert main(["configs", name, "--json", str(target)]) == 0
        found = json.loads(target.read_text("utf-8"))
        assert found["command"] == "configs" and [*found["configs"]] == [name]
    check_json("/dev/null")


def test_the_screen_gets_json_alone(capsys: Any) -> None:
    assert main(["configs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["command"] == "configs"


@pytest.mark.parametrize(
    ("words", "left", "target"),
    [
        (["a", "--json"], ["a"], "-"),
        (["--json", "a.jpg"], ["a.jpg"], "-"),
        (["--json", "x.json", "a"], ["a"], "x.json"),
        (["--json", "-", "a"], ["a"], "-"),
        (["--json=x", "a"], ["a"], "x"),
        (["--json", "--data", "d"], ["--data", "d"], "-"),
        (["a"], ["a"], None),
    ],
)
def test_a_word_after_it_is_the_file_only_if_it_looks_like_one(
    words: list[str], left: list[str], target: str | None
) -> None:
    assert take_json(words) == (left, target)
