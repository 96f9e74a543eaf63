"""What a public function accepts: its parameters, the types of their values, and their check."""

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

from vitlora.errors import UsageError, shown

_P = ParamSpec("_P")
_T = TypeVar("_T")
# NumPy's numbers count, too; bool is not a number here, although Python says so
_KINDS = {int: Integral, float: Real, Path: os.PathLike}


def dashed(name: str) -> str:
    """Returns the option of a parameter: ``--val-fraction`` for ``val_fraction``."""
    return f"--{name.replace('_', '-')}"


def alternatives(hint: object) -> tuple[object, ...]:
    """Returns the members of a union; another type alone."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


class Signature:
    """The parameters of a function, as arguments of a command.

    Args:
        function: Its annotations may name types that are imported for type checkers only, but in
            the result's.

    Attributes:
        parameters: By name, in order, without ``**others``.
        hints: Type of each parameter.
        others: Name of the parameter that takes other options; None if there is none.
    """

    def __init__(self, function: Callable[..., object]) -> None:
        function = inspect.unwrap(function)
        every = inspect.signature(function).parameters.values()
        self.parameters = {p.name: p for p in every if p.kind is not p.VAR_KEYWORD}
        self.others = next((p.name for p in every if p.kind is p.VAR_KEYWORD), None)
        self.hints = typing.get_type_hints(_without_result(function))

    def is_list(self, name: str) -> bool:
        """Returns whether a parameter is a list."""
        return any(map(_is_list, alternatives(self.hints[name])))

    def holds_paths(self, name: str) -> bool:
        """Returns whether a parameter is a list of paths, which may contain commas."""
        inside = (part for hint in alternatives(self.hints[name]) for part in typing.get_args(hint))
        return any(Path in alternatives(part) for part in inside)

    def shown(self, name: str) -> str:
        """Returns how messages name a parameter: ``CHECKPOINT``, ``--data``."""
        parameter = self.parameters[name]
        positional = parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        return name.upper() if positional else dashed(name)


def checked(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Returns a function that raises ``UsageError`` for a value of a wrong type or an empty path.

    Where it takes a list, any other iterable but a text and a mapping becomes one. Unknown and
    missing arguments are ``TypeError``, as for any function.
    """
    signature = functools.cache(lambda: Signature(function))  # once it is called

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            given = inspect.signature(function).bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # which says it as Python does
        known = signature()
        for name, value in [*given.arguments.items()]:
            if name != known.others:  # the function looks into these: it knows their names
                given.arguments[name] = _checked(function.__name__, known, name, value)
        return function(*given.args, **given.kwargs)

    return call


def _checked(function: str, signature: Signature, name: str, value: object) -> object:
    """Returns a value as the function takes it.

    Raises:
        UsageError: It is of another type than the parameter, or an empty path.
    """
    hint = signature.hints[name]
    parts = alternatives(hint)
    single = isinstance(value, str | bytes | Mapping | list | tuple)
    if any(map(_is_list, parts)) and isinstance(value, Iterable) and not single:
        value = list(value)
    if not _fits(value, hint):
        said = re.sub(r"\b(\w+\.)+", "", inspect.formatannotation(hint))
        raise UsageError(f"{function} got {name}={shown(value)}; expected {said}")
    if Path in parts and "" in (value if isinstance(value, list | tuple) else [value]):
        raise UsageError(f"{signature.shown(name)} is empty; expected a path")
    return value


def _is_list(hint: object) -> bool:
    return typing.get_origin(hint) in (list, Sequence) or hint is list


def _fits(value: object, hint: object) -> bool:
    """Returns whether a value is of a parameter's type."""
    parts = alternatives(hint)
    if len(parts) > 1:
        return any(_fits(value, part) for part in parts)
    inside = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return isinstance(value, str) and value in inside
    if inside:
        return isinstance(value, list | tuple) and all(_fits(each, inside[0]) for each in value)
    if hint in (int, float) and isinstance(value, bool):
        return False
    if hint is types.NoneType:
        return value is None
    return isinstance(value, _KINDS.get(hint, hint))  # type: ignore[arg-type]


def _without_result(function: Callable[..., object]) -> Callable[..., object]:
    """Returns a function with the same annotations except the result's, which may need torch."""
    hints = {name: hint for name, hint in function.__annotations__.items() if name != "return"}
    copy = types.FunctionType((lambda: None).__code__, function.__globals__)
    copy.__annotations__ = hints
    return copy
