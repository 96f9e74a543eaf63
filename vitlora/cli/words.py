"""How parameters and their types appear on the command line."""

import math
import re
import types
import typing
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

from vitlora import yaml_text
from vitlora.arguments import alternatives

_DECIMAL = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?\s*", re.ASCII | re.IGNORECASE)
NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def read_otherwise(word: object, value: object) -> bool:
    """Returns whether a text became another number than the decimal one it says.

    jsonargparse reads numbers as YAML does: ``1:30`` is 90, and ``.nan`` is a number.
    """
    if not isinstance(word, str) or isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return not (_DECIMAL.fullmatch(word) and math.isfinite(value))


def given(words: Sequence[str]) -> Iterator[tuple[str, object]]:
    """Yields dotted name and text of each option in the arguments and configs."""
    for word, after in pairwise([*words, ""]):
        name, equals, value = word.partition("=")
        if name == "--config":
            yield from yaml_text.flat(yaml_text.read(after)).items()
        elif name.startswith("--"):
            yield name.removeprefix("--"), value if equals else after


def expected(hint: object) -> str:
    """Returns the values that a parameter takes, in words."""
    said = []
    for one in alternatives(hint):
        if one is types.NoneType:
            continue
        if typing.get_origin(one) is Literal:
            said.append(f"one of {', '.join(map(str, typing.get_args(one)))}")
        elif typing.get_args(one):
            said.append(f"{NAMES.get(typing.get_args(one)[0], 'values')} each, separated by commas")
        else:
            said.append(NAMES.get(one, getattr(one, "__name__", str(one))))
    return " or ".join(said)


def shell_lines(example: str) -> Iterator[str]:
    """Yields the shell's lines of an example; a backslash at the end continues a line."""
    continued = False
    for line in example.splitlines():
        if continued or line.startswith("$ "):
            yield line if continued else line.removeprefix("$ ")
            continued = line.endswith("\\")
