"""The help of a command, from its function's signature and docstring."""

import inspect
import textwrap
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from docstring_parser import DocstringStyle, parse

from vitlora.arguments import Signature, alternatives, dashed
from vitlora.cli.words import shell_lines

_WIDTH = 79
_DOTTED = {"options": "--data.NAME --model.NAME --trainer.NAME", "reading": "--data.NAME"}
_METAVARS = {
    "data": "DIR",
    "weights": "FILE",
    "output": "PATH",
    "device": "NAME",
    "shard": "K/N",
}


class Help:
    """What ``--help`` prints.

    Args:
        function: Function of the command.
        prog: The command as the user types it.
    """

    def __init__(self, function: Callable[..., object], prog: str) -> None:
        self.function, self.prog, self.signature = function, prog, Signature(function)

    def to_text(self) -> str:
        """Returns usage, description, arguments and examples."""
        said = parse(inspect.getdoc(self.function) or "", DocstringStyle.GOOGLE)
        about = {p.arg_name: " ".join((p.description or "").split()) for p in said.params}
        text = [said.short_description or "", said.long_description or ""]
        lines = [f"usage: {self._usage()}", ""]
        for part in filter(None, text):
            for paragraph in part.split("\n\n"):
                lines += [textwrap.fill(" ".join(paragraph.split()), _WIDTH), ""]
        rows = [(self._row(p), self._help_of(p, about)) for p in self.signature.parameters.values()]
        rows.append(("--json [FILE]", "Write the result as JSON; without FILE, print that alone."))
        if self.signature.others:
            rows.append((_DOTTED[self.signature.others], about.get(self.signature.others, "")))
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

    def _usage(self) -> str:
        words = []
        for p in self.signature.parameters.values():
            word = self._row(p)
            if p.kind is p.POSITIONAL_OR_KEYWORD and self.signature.is_list(p.name):
                word += " ..."
            words.append(word if p.default is p.empty else f"[{word}]")
        words.append("[--json [FILE]]")
        if self.signature.others:
            words.append(f"[{_DOTTED[self.signature.others]} ...]")
        kept = " ".join(word.replace(" ", "\N{NO-BREAK SPACE}") for word in words)
        wrapped = textwrap.fill(
            f"{self.prog} {kept}",
            _WIDTH - 7,
            subsequent_indent=" " * 10,
            break_on_hyphens=False,
            break_long_words=False,
        )
        return wrapped.replace("\N{NO-BREAK SPACE}", " ")

    def _row(self, parameter: inspect.Parameter) -> str:
        name = parameter.name
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            return name.upper()
        if self.signature.hints[name] is bool:
            return dashed(name)
        return f"{dashed(name)} {self._metavar(name)}"

    def _metavar(self, name: str) -> str:
        hints = [
            hint for hint in alternatives(self.signature.hints[name]) if hint is not types.NoneType
        ]
        if self.signature.is_list(name):
            if self.signature.holds_paths(name):
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
