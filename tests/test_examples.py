"""Every public name shows how it is used, and what it shows works."""

from __future__ import annotations

import doctest
import inspect
import shlex
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from docstring_parser import DocstringStyle, parse
from PIL import Image
from runs import BACKBONE

import vitlora
from vitlora.cli.main import COMMANDS, ON_LIGHTNING, function_of, main
from vitlora.cli.words import shell_lines

# What needs a network, an account, what nobody has here, or minutes: tests of their own run these.
_AWAY = (
    *("vitlora fetch", "vitlora push", "vitlora adopt", "vitlora plan", "vitlora compare"),
    *("vitlora page", "vitlora sweep"),
    "vitlora doctor photos --check-labels",  # the weights of its base
    "vitlora serve",  # does not end by itself
    "vitlora demo",
    "vitlora sort checkpoints/waste5 --data inbox --output",  # waits for a browser
)
if not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))):
    _AWAY += ("vitlora export checkpoints", "vitlora predict photo.jpg --checkpoint waste5.onnx")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, make_folder: Callable[..., Path]) -> Path:
    """A working folder as the examples have it: photos, a config, and a bundle."""
    home = tmp_path_factory.mktemp("home")
    make_folder(home / "photos", ("can", "glass"), ("train", "val", "test"), count=6)
    Path(home / "more").mkdir()
    Image.new("RGB", (40, 40)).save(home / "more/a.png")
    for name in ("photos-of-june", "inbox", "holiday"):
        make_folder(home / name, ("x",), (), count=6)
    Image.new("RGB", (40, 40), "red").save(home / "inbox/x/new.png")  # training used the others
    Image.open(home / "photos/test/can/0.jpg").save(home / "photo.jpg")
    run = {
        "data": {"num_workers": 0, "batch_size": 4},
        "model": {"backbone": BACKBONE, "image_size": 32, "adapter": "Lora"},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False},
    }
    for name in ("waste5.yaml", "demo.yaml"):
        (home / name).write_text(yaml.safe_dump(run))
    words = ["--config", str(home / "demo.yaml"), "--data", str(home / "photos")]
    assert main(["fit", *words, "--output", str(home / "checkpoints/waste5")]) == 0
    return home


@pytest.fixture(autouse=True)
def there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setattr("sys.argv", ["vitlora"])


def public() -> Iterator[tuple[str, Any]]:
    """Yields every public name with what it stands for; the methods of classes, too."""
    for name in vitlora.__all__:
        value = getattr(vitlora, name)
        yield name, value
        if inspect.isclass(value):
            for key, member in vars(value).items():
                if inspect.isfunction(member) and (not key.startswith("_") or key == "__call__"):
                    yield f"{name}.{key}", member


@pytest.mark.parametrize("name", [n for n in vitlora.__all__ if n != "VitloraError"])
def test_every_public_name_has_an_example(name: str) -> None:
    value = getattr(vitlora, name)
    texts = [inspect.getdoc(value) or ""]
    if inspect.isclass(value):
        texts += [inspect.getdoc(member) or "" for member in vars(value).values()]
    assert any(">>> " in text or "$ vitlora " in text for text in texts)


@pytest.mark.parametrize(
    ("name", "value"), list(public()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_python_examples_give_what_they_say(name: str, value: Any) -> None:
    here = {
        **{n: getattr(vitlora, n) for n in vitlora.__all__},
        "np": np,
        "Image": Image,
        "Path": Path,
    }
    examples = doctest.DocTestParser().get_doctest(
        inspect.getdoc(value) or "", here, name, None, None
    )
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner, said = doctest.DocTestRunner(optionflags=flags), []
    runner.run(examples, out=said.append)
    assert not runner.failures, "".join(said)


def typed(docstring: str) -> list[str]:
    """Returns what a docstring's examples type in a shell, each on one line."""
    examples = parse(docstring, DocstringStyle.GOOGLE).examples
    lines = [line for one in examples for line in shell_lines(one.description or "")]
    return "\n".join(lines).replace("\\\n", " ").splitlines()


def test_an_example_may_go_on_in_the_next_line() -> None:
    said = """Does.

    Examples:
        $ vitlora doctor photos \\
            --seed 1
        $ vitlora configs

        >>> print("a")
            a
    """
    first, second = typed(inspect.cleandoc(said))
    assert shlex.split(first) == ["vitlora", "doctor", "photos", "--seed", "1"]
    assert second == "vitlora configs"


SHOWN = {line for name in COMMANDS for line in typed(inspect.getdoc(function_of(name)) or "")}


@pytest.mark.parametrize("line", sorted(SHOWN))
def test_shell_examples_run(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    if line.startswith(_AWAY):
        pytest.skip("needs a network, or what nobody has here")
    words = shlex.split(line.partition(" | ")[0].partition(" > ")[0])
    assert words[0] in ("vitlora", "python")
    for name in [word for word in words if Path(word).suffix in (".html", ".safetensors")]:
        Path(name).unlink(missing_ok=True)
        Path(name).with_suffix(".json").unlink(missing_ok=True)
    assert main(words[1:]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in ON_LIGHTNING])
def test_every_parameter_is_explained(command: str) -> None:
    function = function_of(command)
    said = parse(inspect.getdoc(function) or "", DocstringStyle.GOOGLE)
    explained = {one.arg_name for one in said.params if one.description}
    assert explained == {name.lstrip("*") for name in inspect.signature(function).parameters}
    first = said.short_description or ""
    assert first.endswith(".") and len(first) <= 62, first


def test_what_python_sets_counts_as_what_is_typed() -> None:
    options = {"data.batch_size": 4, "trainer": {"limit_val_batches": 1}}
    scored = vitlora.validate("checkpoints/waste5", **options)
    assert scored.scores.images == 4  # one batch
    with pytest.raises(vitlora.VitloraError, match=r"test does not accept --model\.lr"):
        vitlora.test("checkpoints/waste5", model={"lr": 1})
