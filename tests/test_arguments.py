"""Tests of what public functions say about wrong arguments."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import vitlora
from vitlora.arguments import checked
from vitlora.cli.main import COMMANDS, main
from vitlora.errors import UsageError


def _asked(
    places: Sequence[str | Path] | str | Path,
    *,
    count: int = 1,
    share: float | None = None,
    switch: bool = False,
    numbers: Sequence[int] = (),
    kind: Literal["a", "b"] = "a",
    **reading: str | Path,
) -> tuple[object, ...]:
    """Returns what it was given."""
    return places, count, share, switch, numbers, kind, reading


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda f: f(None), "places=None; expected Sequence[str | Path] | str | Path"),
        (lambda f: f(["a", 5]), "places=['a', 5]; expected Sequence[str | Path] | str | Path"),
        (lambda f: f({"a": 1}), "places={'a': 1}; expected"),
        (lambda f: f("a", count="3"), "count='3'; expected int"),
        (lambda f: f("a", count=True), "count=True; expected int"),
        (lambda f: f("a", count=1.5), "count=1.5; expected int"),
        (lambda f: f("a", share="0.2"), "share='0.2'; expected float | None"),
        (lambda f: f("a", switch=1), "switch=1; expected bool"),
        (lambda f: f("a", numbers=3), "numbers=3; expected Sequence[int]"),
        (lambda f: f("a", numbers="12"), "numbers='12'; expected Sequence[int]"),
        (lambda f: f("a", kind="c"), "kind='c'; expected Literal['a', 'b']"),
        (lambda f: f("a", kind=["a"]), "kind=['a']; expected Literal['a', 'b']"),
    ],
)
def test_a_wrong_type_is_named(call: Callable[..., object], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        call(checked(_asked))
    assert said in str(refused.value)
    assert str(refused.value).startswith("_asked got ")


def test_what_fits_arrives_as_it_was_given() -> None:
    pictures = (path for path in [Path("a")])
    numbers = (np.int64(3), 4)
    given = checked(_asked)(
        pictures, count=np.int8(2), share=np.float32(0.5), numbers=numbers, **{"data.images": "x"}
    )
    assert given == ([Path("a")], 2, 0.5, False, numbers, "a", {"data.images": "x"})
    assert checked(_asked)({"a"}, numbers=np.arange(2))[:5:4] == (["a"], [0, 1])
    assert checked(_asked)(np.array(["a", "b"]))[0] == ["a", "b"]
    assert checked(_asked)("a", share=1)[2] == 1


def test_a_public_function_is_the_one_of_its_module_so_that_processes_may_be_sent_it() -> None:
    for command in COMMANDS:
        function = getattr(vitlora, command)
        assert pickle.loads(pickle.dumps(function)) is function


def test_python_says_what_is_missing_or_unknown() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'places'"):
        checked(_asked)()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'data'"):
        vitlora.sort("x")  # type: ignore[call-arg]


@pytest.mark.parametrize("places", ["", ["a", ""], ("",), {""}])
def test_an_empty_path_is_refused(places: Any) -> None:
    with pytest.raises(UsageError, match="PLACES is empty; expected a path"):
        checked(_asked)(places)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_a_public_function_that_checks(command: str) -> None:
    function = getattr(vitlora, command)
    first, *others = signature(function).parameters.values()
    wrong = {first.name: 3} | {one.name: 3 for one in others if one.default is one.empty}
    wrong = {name: value for name, value in wrong.items() if name not in ("options", "reading")}
    with pytest.raises(UsageError, match=f"^{command} got {first.name}=3"):
        function(**wrong)


@pytest.mark.parametrize(
    "words",
    [
        ["predict", ""],
        ["predict", "x.jpg", "--output="],
        ["fit", "demo.yaml", "--output", ""],
        ["fit", "--data="],
        ["fit", "demo.yaml", "--from", ""],
        ["fit", "demo.yaml", "--weights", ""],
        ["fit", "--config="],
        ["validate", ""],
    ],
)
def test_empty_words_are_not_the_working_folder(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.endswith(" is empty; expected a path\n")


@pytest.mark.parametrize("words", [["validate", "--checkpoint=~/gone"], ["serve", "--adapters=~/"]])
def test_a_tilde_after_an_equals_sign_is_the_home_folder(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    assert str(tmp_path) in capsys.readouterr().err
