"""How parameters and their types are called in the words of a command line."""

import math
import re
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

_DECIMAL = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?\s*", re.ASCII | re.IGNORECASE)
_EXPECTED = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def dashed(name: str) -> str:
    """Returns the option of a parameter: ``--val-fraction`` of ``val_fraction``."""
    return f"--{name.replace('_', '-')}"


def alternatives(hint: Any) -> tuple[Any, ...]:
    """Returns the members of a union, or what is none alone."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def read_otherwise(word: object, value: object) -> bool:
    """Returns whether a word became a number that is not the decimal one that it spells.

    jsonargparse reads YAML's numbers: ``1:30`` is 90 there, and ``.nan`` a number.
    """
    if not isinstance(word, str) or isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return not (_DECIMAL.fullmatch(word) and math.isfinite(value))


def expected(hint: Any) -> str:
    """Returns what a parameter takes, in words."""
    said = []
    for one in alternatives(hint):
        if one is types.NoneType:
            continue
        if typing.get_origin(one) is Literal:
            said.append(f"one of {', '.join(map(str, typing.get_args(one)))}")
        elif typing.get_args(one):
            said.append(
                f"{_EXPECTED.get(typing.get_args(one)[0], 'values')} each, with commas between"
            )
        else:
            said.append(_EXPECTED.get(one, getattr(one, "__name__", str(one))))
    return " or ".join(said)


def shell_lines(example: str) -> Iterator[str]:
    """Yields what to type in a shell, of an example that may hold Python, too.

    A line that ends in a backslash goes on in the next one.
    """
    goes_on = False
    for line in example.splitlines():
        if goes_on or line.startswith("$ "):
            yield line if goes_on else line.removeprefix("$ ")
            goes_on = line.endswith("\\")
