"""A typed function as a command: what its words mean, and what its help says."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from jsonargparse import ArgumentError, ArgumentParser

from vitlora.cli.main import COMMANDS, ON_LIGHTNING, RENAMED, function_of
from vitlora.cli.parser import CommandLine
from vitlora.cli.results import take_json
from vitlora.errors import UsageError


def sample(
    images: Sequence[str | Path] | str | Path,
    *,
    checkpoint: str | Path | None = None,
    val_fraction: float | None = None,
    top_k: int = 3,
    precision: Literal["32", "bf16", "auto"] = "32",
    show: bool = False,
    methods: Sequence[str] = ("lora", "full"),
    seeds: list[int] | None = None,
    config: Sequence[Path] = (),
    **options: Any,
) -> None:
    """Shows what a command may take.

    It does nothing else.

    Args:
        images: Files.
        checkpoint: Folder of the bundle.
        val_fraction: Share for validation.
        top_k: Classes to list.
        precision: Of the numbers.
        show: Show them.
        methods: Some.
        seeds: Of the runs.
        config: YAML files.
        options: Of fit.

    Examples:
        $ vitlora sample a.jpg
        >>> sample("a.jpg")
    """


def two(folder: Path, name: str | None = None, *, seed: int = 0) -> None:
    """Takes two by position."""


def read(*words: str, function: Any = sample, renamed: Any = None) -> dict[str, Any]:
    return CommandLine("sample", function, renamed).read(words)[0]


def refused(*words: str, function: Any = sample) -> str:
    with pytest.raises(UsageError) as caught:
        read(*words, function=function)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_only_what_was_typed_is_given() -> None:
    assert read("a.jpg") == {"images": ["a.jpg"]}


def test_positions_and_names_are_the_same() -> None:
    assert read("a", "b", function=two) == {"folder": Path("a"), "name": "b"}
    assert read("--folder", "a", "b", function=two) == {"folder": Path("a"), "name": "b"}
    assert read("b", "--folder=a", function=two) == {"folder": Path("a"), "name": "b"}
    assert read("a", "--name", "b", function=two) == {"folder": Path("a"), "name": "b"}
    assert read("--images", "a,b.jpg") == {"images": ["a,b.jpg"]}
    assert read("--images", "a", "--images=b") == read("a", "b")


def test_what_stands_after_the_star_has_a_name() -> None:
    said = refused("a", "b", "3", function=two)
    assert "sample: unexpected argument '3'; see 'vitlora sample --help'" in said
    assert read("--seed", "3", "a", function=two) == {"folder": Path("a"), "seed": 3}


@pytest.mark.parametrize(
    "words", [["--val-fraction", "0.2"], ["--val_fraction=0.2"], ["--val-fraction=0.2"]]
)
def test_dashes_underscores_and_equals_are_alike(words: list[str]) -> None:
    assert read("a", *words)["val_fraction"] == 0.2


def test_a_value_may_hold_an_equals_sign_or_be_empty() -> None:
    assert read("a", "--checkpoint=x=y")["checkpoint"] == "x=y"
    assert read("a", "--checkpoint=")["checkpoint"] == ""


@pytest.mark.parametrize(
    "name", ["null", "012", "1e-3", "yes", "true", "[a]", "{a: b}", "-", "~", ""]
)
def test_a_name_is_what_was_typed(name: str) -> None:
    given = read(name, "--checkpoint", name, "--methods", name)
    assert given == {"images": [name], "checkpoint": name, "methods": [name]}


def test_lists_have_commas_or_are_typed_one_by_one() -> None:
    assert read("a", "--methods", "x, y")["methods"] == ["x", "y"]
    assert read("a", "--methods", "x", "--methods=y")["methods"] == ["x", "y"]
    assert read("a", "--seeds", "0,-1,2")["seeds"] == [0, -1, 2]
    assert read("a", "--config", "b,c.yaml", "-c", "d")["config"] == [Path("b,c.yaml"), Path("d")]


def test_a_switch_needs_no_value() -> None:
    assert read("--show", "a") == {"images": ["a"], "show": True}
    assert read("--show", "true") == {"images": ["true"], "show": True}
    assert read("a", "--show=false")["show"] is False


def test_a_choice_is_kept_as_text() -> None:
    assert read("a", "--precision", "32")["precision"] == "32"


def test_negative_numbers_are_values() -> None:
    assert read("a", "--top-k", "-3")["top_k"] == -3
    assert read("a", "--val-fraction", "-.5")["val_fraction"] == -0.5
    assert read("-3", function=two) == {"folder": Path("-3")}
    assert read("-.5", function=two) == {"folder": Path("-.5")}


def test_a_file_that_looks_like_an_option_is_named_by_its_folder(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-x.jpg").touch()
    assert "does not accept -x.jpg; for the file of that name, type ./-x.jpg" in refused("-x.jpg")
    assert read("./-x.jpg") == {"images": ["./-x.jpg"]}


@pytest.mark.parametrize("word", ["1:30", "0x1F", "1_000", "5 # x", "1e999", ".inf", ".nan"])
def test_a_number_is_decimal(word: str) -> None:
    assert f"--top-k is '{word}'; expected a whole number" in refused("a", "--top-k", word)
    assert f"--val-fraction is '{word}'; expected" in refused("a", "--val-fraction", word)
    assert f"--seeds is '1,{word}'; expected" in refused("a", "--seeds", f"1,{word}")


def test_every_way_to_write_a_decimal_number_is_read() -> None:
    words = {"1e-3": 0.001, ".5": 0.5, "5.": 5.0, "+5": 5.0, " 5": 5.0, "012": 12.0, "1E+2": 100.0}
    for word, number in words.items():
        assert read("a", "--val-fraction", word)["val_fraction"] == number


def test_after_two_dashes_nothing_is_an_option() -> None:
    assert read("--show", "--", "--top-k", "-x.jpg") == {
        "images": ["--top-k", "-x.jpg"],
        "show": True,
    }


def test_options_of_fit_stay_as_typed() -> None:
    given = read("a", "--model.lr", "1e-3", "--data.classes=[a,b]", "--model.lr", "2e-3")
    assert given["model.lr"] == "2e-3" and given["data.classes"] == "[a,b]"
    assert list(given)[1:] == ["data.classes", "model.lr"]  # what is typed last comes last
    assert read("a", "--trainer.callbacks+", "x")["trainer.callbacks+"] == "x"
    assert "got --trainer.callbacks+ twice" in refused(
        "a", "--trainer.callbacks+", "x", "--trainer.callbacks+", "y"
    )


def test_without_options_of_fit_a_dotted_one_is_unknown() -> None:
    assert "does not accept --model.lr" in refused("a", "--model.lr", "1", function=two)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "sample needs IMAGES; see 'vitlora sample --help'"),
        (["a", "--top-k", "x"], "--top-k is 'x'; expected a whole number"),
        (["a", "--top-k", "1.5"], "--top-k is '1.5'; expected a whole number"),
        (["a", "--top-k", "null"], "--top-k is 'null'; expected a whole number"),
        (["a", "--val-fraction", "half"], "--val-fraction is 'half'; expected a number"),
        (["a", "--precision", "16"], "--precision is '16'; expected one of 32, bf16, auto"),
        (["a", "--show=maybe"], "--show is 'maybe'; expected true or false"),
        (
            ["a", "--seeds", "1,x"],
            "--seeds is '1,x'; expected a whole number each, separated by commas",
        ),
        (["a", "--seeds", ""], "--seeds is ''; expected a whole number each"),
        (["a", "--top-k"], "--top-k needs a value"),
        (["a", "--top-k", "--show"], "--top-k needs a value"),
        (["a", "--model.lr"], "--model.lr needs a value"),
        (["a", "--top-k", "1", "--top-k=2"], "sample got --top-k twice; give it once"),
        (["a", "--topk", "1"], "does not accept --topk (did you mean '--top-k'?)"),
        (["a", "--check", "x"], "does not accept --check (did you mean '--checkpoint'?)"),
        (["a", "--jason"], "does not accept --jason (did you mean '--json'?)"),
        (["a", "-x"], "does not accept -x"),
        (["a", "-top_k", "1"], "does not accept -top_k"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], said: str) -> None:
    assert said in refused(*words)


def test_an_old_name_works_with_a_note() -> None:
    line = CommandLine("sample", two, {"from": "folder"})
    given, notes = line.read(["--from", "a"])
    assert given == {"folder": Path("a")}
    assert notes == ["--from is now called --folder; the old name still works"]
    assert line.read(["a"])[1] == []


def test_jsonargparse_complains_as_we_read_it() -> None:
    """Pins the form of its complaints: the name of the parameter is taken out of them."""
    parser: Any = ArgumentParser(exit_on_error=False)
    parser.add_argument("--top_k", type=int)
    parser.add_argument("--seeds", type=list[int])
    for name, value in (("top_k", "x"), ("seeds", ["1", "x"])):
        with pytest.raises(ArgumentError, match=f'(?i)^Parser key "{name}"'):
            parser.parse_object({name: value})


def test_help_is_the_docstring() -> None:
    lines = CommandLine("sample", sample).help().splitlines()
    assert lines[0].startswith("usage: vitlora sample IMAGES ... [--checkpoint PATH]")
    assert "Shows what a command may take." in lines and "It does nothing else." in lines
    for row in (
        "  IMAGES                Files.",
        "  --top-k N             Classes to list (default: 3).",
        "  --show                Show them.",
        "  --methods A,B,...     Some (default: lora,full).",
        "  --seeds N,N,...       Of the runs.",
        "  --config PATH         YAML files.",
        "  --precision 32|bf16|auto",
        "                        Of the numbers (default: 32).",
    ):
        assert row in lines
    assert lines[-2:] == ["examples:", "  vitlora sample a.jpg"]
    assert not any(line.lstrip().startswith("options") for line in lines)


def test_a_default_of_nought_is_said() -> None:
    def seeded(*, seed: int = 0) -> None:
        """Draws.

        Args:
            seed: Of the draw.
        """

    assert "  --seed N              Of the draw (default: 0)." in CommandLine("x", seeded).help()


OURS = [name for name in COMMANDS if name not in ON_LIGHTNING]


@pytest.mark.parametrize("command", OURS)
def test_every_command_says_all_it_takes(command: str) -> None:
    function = function_of(command)
    line = CommandLine(command, function, RENAMED.get(command))
    shown = line.help()
    assert max(map(len, shown.splitlines())) <= 79
    assert shown.startswith(f"usage: vitlora {command} ")
    documented = set(re.findall(r"^        (\w+): ", function.__doc__ or "", re.MULTILINE))
    assert documented >= set(line.parameters), "a parameter without a word in Args"
    for name, parameter in line.parameters.items():
        by_position = parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        assert (f"  {name.upper()}" if by_position else f"  --{name.replace('_', '-')}") in shown
    assert "\nexamples:\n  vitlora " in shown
    first = (function.__doc__ or "").splitlines()[0]
    assert first.endswith(".") and len(first) <= 79 - len("  vitlora calibrate  ")
    assert set(RENAMED.get(command, {}).values()) <= set(line.parameters)


@pytest.mark.parametrize("command", OURS)
def test_every_example_can_be_read(command: str) -> None:
    """Each example's options exist and hold values of their types."""
    import shlex

    line = CommandLine(command, function_of(command), RENAMED.get(command))
    examples = line.help().split("\nexamples:\n")[1].replace("\\\n", " ").splitlines()
    read = 0
    for example in examples:
        words = shlex.split(example.partition(" | ")[0].partition(" > ")[0])
        if words[:2] == ["vitlora", command]:
            line.read(take_json(words[2:])[0])
            read += 1
    assert read


def test_results_in_json_say_whose_they_are(tmp_path: Path, capsys: Any, make_folder: Any) -> None:
    from vitlora.cli.main import main

    photos, file = make_folder(tmp_path / "photos"), tmp_path / "found.json"
    assert main(["doctor", str(photos), "--json", str(file)]) in (0, 1)
    assert capsys.readouterr().out.startswith(str(photos))
    assert json.loads(file.read_text())["command"] == "doctor"
    assert main(["doctor", str(photos), "--json"]) in (0, 1)
    printed = capsys.readouterr().out
    assert json.loads(printed) == json.loads(file.read_text())
    file.write_text("[1]")
    assert main(["doctor", str(photos), "--json", str(file)]) == 2
    assert "exists and was not written by vitlora" in capsys.readouterr().err
