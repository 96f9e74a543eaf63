"""Every command's ``--json``: where it goes, and what it never overwrites."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vitlora.cli.main import main
from vitlora.cli.results import check_json, printing, take_json, write_result
from vitlora.errors import UsageError
from vitlora.notes import tell


@pytest.mark.parametrize("content", ["[1]", "{}", "a diary", '{"drift": 1}', '{"vitlora": "0.1"}'])
def test_no_other_file_is_replaced(content: str, tmp_path: Path, capsys: Any) -> None:
    target = tmp_path / "mine.json"
    target.write_text(content)
    assert main(["configs", "--json", str(target)]) == 2
    assert "exists and was not written by vitlora; name another" in capsys.readouterr().err
    assert target.read_text() == content
    assert main(["configs", "--json", str(tmp_path / "no/x.json")]) == 2
    assert "its folder does not exist" in capsys.readouterr().err
    with pytest.raises(UsageError, match="is a folder; expected a file"):
        check_json(str(tmp_path))
    with pytest.raises(UsageError, match=r"--json '\.': is a folder"):
        check_json("")
    for name in ("new", "new.html"):
        with pytest.raises(UsageError, match=r"expected a file name that ends in \.json"):
            check_json(name)


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
        (["a", "--json", "x.JSON", "b"], ["a", "b"], "x.JSON"),
        (["a", "--json="], ["a"], ""),
        (["a", "--json-lines"], ["a", "--json-lines"], None),
        (["--", "--json", "a"], ["--", "--json", "a"], None),
        (["--json", "--data", "d"], ["--data", "d"], "-"),
        (["a"], ["a"], None),
    ],
)
def test_a_word_after_it_is_the_file_only_if_it_looks_like_one(
    words: list[str], left: list[str], target: str | None
) -> None:
    assert take_json(words) == (left, target)


def test_what_the_command_wrote_itself_is_not_replaced(tmp_path: Path) -> None:
    proof = tmp_path / "x.json"
    check_json(str(proof))
    proof.write_text("{}")  # the command's own work, since then
    with pytest.raises(UsageError, match="was not written by vitlora"):
        write_result("merge", {}, str(proof))
    assert proof.read_text() == "{}"


def test_no_field_takes_the_place_of_the_commands_name(capsys: Any) -> None:
    assert main(["plan", "demo.yaml", "--methods", "linear", "--vram", "2GB", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["command"] == "plan" and found["fit"].startswith("vitlora fit --config demo.yaml")


def test_an_error_inside_leaves_the_printing_as_it_was(capsys: Any) -> None:
    with printing(quiet=False):
        with pytest.raises(ValueError, match="inside"), printing(quiet=True):
            raise ValueError("inside")
        tell("heard")
    assert capsys.readouterr().out == "heard\n"
