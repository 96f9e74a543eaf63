"""A public function that checks its arguments first, as the command line does."""

import functools
import inspect
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar

from vitlora.cli.signature import Signature
from vitlora.cli.words import alternatives
from vitlora.errors import UsageError, shown

_P = ParamSpec("_P")
_T = TypeVar("_T")
# NumPy's numbers count, too; bool is no number here, although it is Python's
_KINDS = {int: Integral, float: Real, Path: os.PathLike}


def checked(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Returns a function that raises ``UsageError`` for a value of a wrong type or an empty path.

    Unknown and missing arguments are ``TypeError``, as for any function.
    """
    signature = Signature(function)

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            given = inspect.signature(function).bind(*args, **kwargs).arguments
        except TypeError:
            return function(*args, **kwargs)  # which says it as Python does
        others = given.pop(str(signature.others), {})
        for name, value in (*given.items(), *others.items()):
            hint = signature.hints[name if name in given else str(signature.others)]
            if not _fits(value, hint):
                said = re.sub(r"\b(\w+\.)+", "", inspect.formatannotation(hint))
                raise UsageError(f"{function.__name__} got {name}={shown(value)}; expected {said}")
            if Path in alternatives(hint) and "" in (value if isinstance(value, list) else [value]):
                raise UsageError(f"{signature.shown(name)} is empty; expected a path")
        return function(*args, **kwargs)

    return call


def _fits(value: object, hint: object) -> bool:
    """Returns whether a value is of a parameter's type."""
    parts = alternatives(hint)
    if len(parts) > 1:
        return any(_fits(value, part) for part in parts)
    inside = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return isinstance(value, str) and value in inside
    if inside:
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            return False
        # what can be read only once is not looked into
        return not isinstance(value, Sequence) or all(_fits(each, inside[0]) for each in value)
    if hint in (int, float) and isinstance(value, bool):
        return False
    if hint is types.NoneType:
        return value is None
    return isinstance(value, _KINDS.get(hint, hint))  # type: ignore[arg-type]
