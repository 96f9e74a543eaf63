"""Checks plain values, as in JSON and YAML. Needs no torch."""

import re
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from vitlora.errors import shown

# a text of one line; no path is longer
_TEXT = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{0,4096}")


def is_a(value: object, hint: object) -> bool:
    """Returns whether a value has a type; a bool is not a number, but an int is also a float.

    Args:
        value: Any value.
        hint: An annotation of plain types, and of lists, tuples and dicts of them.
    """
    kind, inside = get_origin(hint) or hint, get_args(hint)
    if kind is Any:
        return True
    if kind in (Union, UnionType):
        return any(is_a(value, one) for one in inside)
    if kind is Literal:
        return any(type(value) is type(one) and value == one for one in inside)
    if kind is list:
        return type(value) is list and all(is_a(item, inside[0]) for item in value)
    if kind is tuple:
        hints = inside[:1] * len(value) if inside[-1] is ... and type(value) is tuple else inside
        return type(value) is tuple and len(value) == len(hints) and all(map(is_a, value, hints))
    if kind is dict:
        return type(value) is dict and all(
            is_a(key, inside[0]) and is_a(item, inside[1]) for key, item in value.items()
        )
    if kind is float:
        return type(value) in (int, float)
    if kind in (str, int, bool, NoneType):
        return type(value) is kind
    raise TypeError(f"{hint} is not an annotation of a plain value")


def check_texts(value: object) -> None:
    """Refuses texts, in nested values, that have control characters or are too long.

    Raises:
        ValueError: There is such a text.
    """
    if isinstance(value, str) and not _TEXT.fullmatch(value):
        raise ValueError(f"it holds {shown(value)}; expected at most 4096 printable characters")
    if isinstance(value, dict):
        value = [*value, *value.values()]
    for part in value if isinstance(value, list | tuple) else ():
        check_texts(part)
