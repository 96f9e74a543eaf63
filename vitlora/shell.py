"""Commands as they are typed."""

import json
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitlora.errors import UsageError

# Options of ``fit`` under the names that they share with other commands.
SHORT = {
    "--data": "--data.root",
    "--weights": "--model.weights",
    "--device": "--trainer.accelerator",
    "--devices": "--trainer.devices",
    "--precision": "--trainer.precision",
    "--time": "--trainer.time",
    "--layout": "--data.layout",
    "--val-fraction": "--data.val_fraction",
    "--test-fraction": "--data.test_fraction",
    "--old-data": "--old_data",
}


def long_name(option: str) -> str:
    """Returns an option's name in configs: ``--model.weights`` for ``--weights``.

    ``_`` may stand for ``-``, as in Python.
    """
    return SHORT.get(option.replace("_", "-"), option)


def typed(*words: object) -> str:
    """Returns a command's words as a shell takes them: Windows' here on Windows, else any other.

    Paths may be among the words. Only what needs quotes has them.
    """
    return " ".join(_quoted(str(word)) for word in words)


def option_words(
    config: Sequence[str | Path] | str | Path | None, *options: Mapping[str, Any]
) -> list[str]:
    """Returns what to type after ``vitlora fit`` for what Python was given.

    Args:
        config: One file or several.
        options: By dotted names, as words or values; or a group, ``{"model": {"lr": 0.001}}``. A
            class may be named before its options or after them.

    Raises:
        UsageError: An option is given twice, or its value cannot be written as text.
    """
    pairs: list[tuple[str, Any]] = []
    for name, value in (item for each in options for item in each.items()):
        inside = value.items() if isinstance(value, Mapping) and "." not in name else [("", value)]
        for key, each in inside:
            option = long_name(f"--{name}.{key}".rstrip(".")).removeprefix("--")
            if any(option == other for other, _ in pairs):
                raise UsageError(f"--{option} is given twice; give it once")
            own = (at for at, (other, _) in enumerate(pairs) if other.startswith(f"{option}."))
            pairs.insert(next(own, len(pairs)), (option, each))  # a class before its options
    configs = [config] if isinstance(config, str | Path) else config or ()
    words = [word for one in configs for word in ("--config", str(one))]
    return words + [word for pair in pairs for word in (f"--{pair[0]}", _text(*pair))]


def _text(name: str, value: Any) -> str:
    try:
        return str(value) if isinstance(value, str | Path) else json.dumps(value, default=os.fspath)
    except (TypeError, ValueError):
        raise UsageError(
            f"--{name} is {value!r}; expected text, numbers, lists or dicts of them"
        ) from None


def _quoted(word: str) -> str:
    windows = sys.platform == "win32"
    if re.fullmatch(r"[\w./:=+,@\\-]+" if windows else r"[\w./:=+,@-]+", word):
        return word
    # in double quotes, as in every shell, unless these would mean something there
    return shlex.quote(word) if not windows and set(word) & set('"$`\\!') else f'"{word}"'
