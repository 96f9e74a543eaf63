"""What a function accepts: its parameters, and the types of their values."""

import inspect
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path

from vitlora.cli.words import alternatives, dashed


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
        return any(
            typing.get_origin(hint) in (list, Sequence) or hint is list
            for hint in alternatives(self.hints[name])
        )

    def holds_paths(self, name: str) -> bool:
        """Returns whether a parameter is a list of paths, which may contain commas."""
        inside = (part for hint in alternatives(self.hints[name]) for part in typing.get_args(hint))
        return any(Path in alternatives(part) for part in inside)

    def shown(self, name: str) -> str:
        """Returns how messages name a parameter: ``CHECKPOINT``, ``--data``."""
        parameter = self.parameters.get(name)  # None for one of the others
        positional = parameter and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        return name.upper() if positional else dashed(name)


def _without_result(function: Callable[..., object]) -> Callable[..., object]:
    """Returns a function with the same annotations except the result's, which may need torch."""
    hints = {name: hint for name, hint in function.__annotations__.items() if name != "return"}
    copy = types.FunctionType((lambda: None).__code__, function.__globals__)
    copy.__annotations__ = hints
    return copy
