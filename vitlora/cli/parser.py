"""A typed function as a command: its signature defines the arguments, its docstring the help.

As in Python, a parameter before the ``*`` is given by position or by name, one after it only by
name. ``--val-fraction`` is ``val_fraction``. A list is written ``a,b`` or as several positions; a
list of paths repeats its option. A switch is ``--show`` or ``--show=false``. jsonargparse converts
each value to the parameter's type.
"""

import inspect
import re
import textwrap
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from docstring_parser import DocstringStyle, parse

from vitlora.cli.words import alternatives, dashed, expected, read_otherwise, shell_lines
from vitlora.errors import UsageError, nearest
from vitlora.shell import SHORT, long_name

_WIDTH = 79
_DOTTED = {"options": "--data.NAME --model.NAME --trainer.NAME", "reading": "--data.NAME"}
_METAVARS = {"data": "DIR", "weights": "FILE", "output": "PATH", "device": "NAME"}


_T = TypeVar("_T")


class CommandLine(Generic[_T]):
    """Reads the arguments of a command.

    Args:
        name: Name of the command.
        function: Function of the command. ``**options`` accepts every option of ``fit`` with a dot
            in its name, ``**reading`` those that say how pictures are stored.
        renamed: Old name -> new name of parameters; old names still work.
        prog: The command as the user types it.
    """

    def __init__(
        self,
        name: str,
        function: Callable[..., _T],
        renamed: Mapping[str, str] | None = None,
        prog: str | None = None,
    ) -> None:
        self.name, self.function, self.renamed = name, function, dict(renamed or {})
        self.prog = prog or f"vitlora {name}"
        every = inspect.signature(function).parameters.values()
        self.parameters = {p.name: p for p in every if p.kind is not p.VAR_KEYWORD}
        self.others = next((p.name for p in every if p.kind is p.VAR_KEYWORD), None)
        self.hints = typing.get_type_hints(_without_result(function))

    def read(self, words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """Returns the function's arguments, and a note for each old name.

        Raises:
            UsageError: An argument is unknown, missing, or not a value of its parameter's type.
        """
        raw, notes = self._sorted(words)
        options = raw.pop("**", {})
        missing = [
            self._shown(p.name)
            for p in self.parameters.values()
            if p.default is p.empty and p.name not in raw
        ]
        if missing:
            raise UsageError(f"{self.name} needs {' and '.join(missing)}; {self._see()}")
        return {**self._values(raw), **options}, notes

    def _values(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the value of each parameter.

        Raises:
            UsageError: A text is not a value of its parameter's type.
        """
        # takes 0.1 s to import, which --help does not need. It gets types, not the function, whose
        # result's type may import torch
        from jsonargparse import ArgumentError, ArgumentParser

        parser: Any = ArgumentParser(exit_on_error=False)
        as_typed = {name: raw[name] for name in raw if str in alternatives(self.hints[name])}
        for name in raw.keys() - as_typed.keys():
            parser.add_argument(f"--{name}", type=self.hints[name])
        try:
            # a copy, because it changes lists in place
            read = parser.parse_object(
                {n: [*v] if isinstance(v, list) else v for n, v in raw.items() if n not in as_typed}
            )
        except ArgumentError as error:
            raise self._wrong(str(error), raw) from None
        found = read.as_dict()
        self._check_numbers(found, raw)
        return {**found, **as_typed}

    def _check_numbers(self, found: Mapping[str, Any], raw: Mapping[str, Any]) -> None:
        for name, value in found.items():
            several = isinstance(value, list)
            pairs = zip(raw[name], value, strict=True) if several else [(raw[name], value)]
            if any(read_otherwise(*pair) for pair in pairs):
                raise self._refused(name, raw)

    def help(self) -> str:
        """Returns what ``--help`` prints."""
        said = parse(inspect.getdoc(self.function) or "", DocstringStyle.GOOGLE)
        about = {p.arg_name: " ".join((p.description or "").split()) for p in said.params}
        text = [said.short_description or "", said.long_description or ""]
        lines = [f"usage: {self._usage()}", ""]
        for part in filter(None, text):
            for paragraph in part.split("\n\n"):
                lines += [textwrap.fill(" ".join(paragraph.split()), _WIDTH), ""]
        rows = [(self._row(p), self._help_of(p, about)) for p in self.parameters.values()]
        rows.append(("--json [FILE]", "Write the result as JSON; without FILE, print that alone."))
        if self.others:
            rows.append((_DOTTED[self.others], about.get(self.others, "")))
        for left, right in rows:
            indent = " " * 24
            body = textwrap.wrap(right, _WIDTH - 24) or [""]
            if len(left) > 20:
                lines += [f"  {left}", *(indent + line for line in body)]
            else:
                lines += [f"  {left:<22}{body[0]}", *(indent + line for line in body[1:])]
        examples = [m for e in said.examples for m in shell_lines(e.description or "")]
        if examples:
            lines += ["", "examples:", *(f"  {line}" for line in examples)]
        return "\n".join(lines)

    def _sorted(self, words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """Returns the text of each parameter, and options of ``fit`` under ``**``; notes."""
        raw: dict[str, Any] = {}
        notes: list[str] = []
        stray: list[str] = []
        waiting = list(words)
        while waiting:
            word = waiting.pop(0)
            if word == "--":
                stray, waiting = stray + waiting, []
                continue
            if not word.startswith("-") or word == "-" or re.fullmatch(r"-\.?\d[\d.]*", word):
                stray.append(word)
                continue
            option, equals, value = word.partition("=")
            own = option.removeprefix("--").replace("-", "_") in self.parameters
            key = option if own or not self.others else long_name(option)
            if "." in key and self.others and key.startswith("--"):
                key = key.removeprefix("--")
                before = raw.setdefault("**", {}).pop(key, None)  # the last one wins, as for fit
                if before is not None and key.endswith("+"):
                    raise UsageError(f"{self.name} got {option} twice; give it once")
                raw["**"][key] = value if equals else _value(option, waiting)
                continue
            name, note = self._named(option)
            notes += [note] if note else []
            if not equals:
                value = "true" if self.hints[name] is bool else _value(option, waiting)
            self._put(raw, name, value)
        self._place(raw, stray)
        return raw, notes

    def _named(self, option: str) -> tuple[str, str | None]:
        """Returns the parameter of an option, and a note if the option is an old name."""
        name = option.removeprefix("--").replace("-", "_")
        if option == "-c" and "config" in self.parameters:
            return "config", None
        if name in self.renamed:
            new = self.renamed[name]
            return new, f"{option} is now called {dashed(new)}; the old name still works"
        if name not in self.parameters or not option.startswith("--"):
            known = [dashed(one) for one in self.parameters]
            known += SHORT if self.others else ()
            there = f"for the file of that name, type ./{option}" if Path(option).exists() else None
            raise UsageError(
                f"{self.name} does not accept {option}{nearest(option, [*known, '--json'])}; "
                f"{there or self._see()}"
            )
        return name, None

    def _put(self, raw: dict[str, Any], name: str, value: str) -> None:
        if self._is_list(name):
            parts = (
                [value] if self._holds_paths(name) else [part.strip() for part in value.split(",")]
            )
            raw[name] = [*raw.get(name, []), *parts]
        elif name in raw:
            raise UsageError(f"{self.name} got {dashed(name)} twice; give it once")
        else:
            raw[name] = value

    def _place(self, raw: dict[str, Any], stray: list[str]) -> None:
        """Assigns arguments without a name to the parameters before the ``*``, in order."""
        open_ones = [
            p.name
            for p in self.parameters.values()
            if p.kind is p.POSITIONAL_OR_KEYWORD and p.name not in raw
        ]
        for name in open_ones:
            if not stray:
                return
            if self._is_list(name):
                raw[name], stray = list(stray), []
            else:
                raw[name] = stray.pop(0)
        if stray:
            raise UsageError(f"{self.name}: unexpected argument '{stray[0]}'; {self._see()}")

    def _wrong(self, said: str, raw: Mapping[str, Any]) -> UsageError:
        """Returns jsonargparse's complaint about a value in our words."""
        found = re.search(r'[Kk]ey "(\w+)"', said)
        if not found or found[1] not in raw:
            return UsageError(" ".join(said.split()))
        return self._refused(found[1], raw)

    def _refused(self, name: str, raw: Mapping[str, Any]) -> UsageError:
        value = raw[name] if isinstance(raw[name], str) else ",".join(raw[name])
        return UsageError(
            f"{self._shown(name)} is '{value}'; expected {expected(self.hints[name])}"
        )

    def _is_list(self, name: str) -> bool:
        return any(
            typing.get_origin(hint) in (list, Sequence) or hint is list
            for hint in alternatives(self.hints[name])
        )

    def _holds_paths(self, name: str) -> bool:
        """Returns whether a parameter is a list of paths, which may contain commas."""
        inside = (part for hint in alternatives(self.hints[name]) for part in typing.get_args(hint))
        return any(Path in alternatives(part) for part in inside)

    def _shown(self, name: str) -> str:
        parameter = self.parameters[name]
        positional = parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        return name.upper() if positional else dashed(name)

    def _row(self, parameter: inspect.Parameter) -> str:
        name = parameter.name
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            return name.upper()
        if self.hints[name] is bool:
            return dashed(name)
        return f"{dashed(name)} {self._metavar(name)}"

    def _metavar(self, name: str) -> str:
        hints = [hint for hint in alternatives(self.hints[name]) if hint is not types.NoneType]
        if self._is_list(name):
            if self._holds_paths(name):
                return "PATH"
            return "N,N,..." if int in typing.get_args(hints[0]) else "A,B,..."
        if typing.get_origin(hints[0]) is Literal:
            return "|".join(map(str, typing.get_args(hints[0])))
        if Path in hints:
            return "PATH"
        if float in hints:
            return "SHARE" if "fraction" in name else "X"
        return "N" if int in hints else _METAVARS.get(name, name.upper())

    def _help_of(self, parameter: inspect.Parameter, about: Mapping[str, str]) -> str:
        text, default = about.get(parameter.name, ""), parameter.default
        if default is None or isinstance(default, bool) or default is parameter.empty:
            return text
        if "default" in text.lower():
            return text
        shown = ",".join(map(str, default)) if isinstance(default, tuple | list) else default
        return f"{text.rstrip('.')} (default: {shown})." if shown != "" else text

    def _usage(self) -> str:
        words = []
        for p in self.parameters.values():
            word = self._row(p)
            if p.kind is p.POSITIONAL_OR_KEYWORD and self._is_list(p.name):
                word += " ..."
            words.append(word if p.default is p.empty else f"[{word}]")
        words.append("[--json [FILE]]")
        if self.others:
            words.append(f"[{_DOTTED[self.others]} ...]")
        kept = " ".join(word.replace(" ", "\N{NO-BREAK SPACE}") for word in words)
        wrapped = textwrap.fill(
            f"{self.prog} {kept}",
            _WIDTH - 7,
            subsequent_indent=" " * 10,
            break_on_hyphens=False,
            break_long_words=False,
        )
        return wrapped.replace("\N{NO-BREAK SPACE}", " ")

    def _see(self) -> str:
        return f"see '{self.prog} --help'"


def _value(option: str, waiting: list[str]) -> str:
    if not waiting or (waiting[0].startswith("--") and waiting[0] != "--"):
        raise UsageError(f"{option} needs a value")
    return waiting.pop(0)


def _without_result(function: Callable[..., object]) -> Callable[..., object]:
    """Returns a function with the same annotations except the result's, which may need torch."""
    hints = {name: hint for name, hint in function.__annotations__.items() if name != "return"}
    copy = types.FunctionType((lambda: None).__code__, function.__globals__)
    copy.__annotations__ = hints
    return copy
