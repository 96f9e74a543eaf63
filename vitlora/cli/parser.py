"""A typed function as a command: its signature defines the arguments, its docstring the help.

As in Python, a parameter before the ``*`` is given by position or by name, one after it only by
name. ``--val-fraction`` is ``val_fraction``. A list is written ``a,b`` or as several positions; a
list of paths repeats its option. A switch is ``--show`` or ``--show=false``. jsonargparse converts
each value to the parameter's type.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from vitlora.arguments import Signature, alternatives, dashed
from vitlora.cli.help import Help
from vitlora.cli.words import expected, read_otherwise
from vitlora.errors import UsageError, nearest
from vitlora.shell import SHORT, long_name

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
        self.signature = Signature(function)
        self.parameters, self.hints = self.signature.parameters, self.signature.hints

    def read(self, words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """Returns the function's arguments, and a note for each old name.

        Raises:
            UsageError: An argument is unknown, missing, or not a value of its parameter's type.
        """
        raw, notes = self._sorted(words)
        options = raw.pop("**", {})
        missing = [
            self.signature.shown(p.name)
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
        return Help(self.function, self.prog).to_text()

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
            key = option if own or not self.signature.others else long_name(option)
            if "." in key and self.signature.others and key.startswith("--"):
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
            known += SHORT if self.signature.others else ()
            there = f"for the file of that name, type ./{option}" if Path(option).exists() else None
            raise UsageError(
                f"{self.name} does not accept {option}{nearest(option, [*known, '--json'])}; "
                f"{there or self._see()}"
            )
        return name, None

    def _put(self, raw: dict[str, Any], name: str, value: str) -> None:
        if self.signature.is_list(name):
            parts = (
                [value]
                if self.signature.holds_paths(name)
                else [part.strip() for part in value.split(",")]
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
            if self.signature.is_list(name):
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
            f"{self.signature.shown(name)} is '{value}'; expected {expected(self.hints[name])}"
        )

    def _see(self) -> str:
        return f"see '{self.prog} --help'"


def _value(option: str, waiting: list[str]) -> str:
    if not waiting or (waiting[0].startswith("--") and waiting[0] != "--"):
        raise UsageError(f"{option} needs a value")
    return waiting.pop(0)
