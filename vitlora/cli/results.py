"""What a command says: its result as text or JSON, and what the library logs meanwhile."""

import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from vitlora import __version__
from vitlora.errors import VitloraError
from vitlora.files import check_target, write_whole
from vitlora.notes import LOG, NOTE


class Result(Protocol):
    """What a command returns; it may have an exit ``status`` beside."""

    def to_text(self) -> str:
        """Returns what is printed."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        ...


def take_json(words: Sequence[str], alone: bool = False) -> tuple[list[str], str | None]:
    """Returns the words without ``--json [FILE]``, and the file; ``-`` for the screen.

    Args:
        words: As typed.
        alone: Whether the command takes no words without a name but its first. Otherwise the word
            after ``--json`` is the file only if it ends in ``.json``: it may be a picture.
    """
    left: list[str] = []
    target: str | None = None
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if word == "--":
            return [*left, word, *waiting], target
        name, equals, value = word.partition("=")
        if name != "--json":
            left.append(word)
        elif equals:
            target = value
        else:
            after = waiting[0] if waiting else "--"
            ours = after == "-" or after.lower().endswith(".json")
            ours = ours or (alone and not after.startswith("-"))
            target = waiting.pop(0) if ours else "-"
    return left, target


def check_json(target: str | None) -> None:
    """Refuses, before the work, to write the result over anything but an earlier one.

    Raises:
        UsageError: Another program wrote the file, or it cannot be written.
    """
    check_target(
        "--json", None if target is None else Path(target), (".json",), b'{\n "vitlora": "'
    )


@contextmanager
def printing(quiet: bool) -> Iterator[None]:
    """Prints what the library logs: what it does to stdout, notes and warnings to stderr.

    Args:
        quiet: Keep stdout for the result: say on stderr what is being done.
    """
    for handler in LOG.handlers:
        if isinstance(handler, _Printer):  # one is enough: whoever called already prints
            before, handler.quiet = handler.quiet, quiet
            try:
                yield
            finally:
                handler.quiet = before
            return
    handler, level = _Printer(quiet), LOG.level
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(level)


class _Printer(logging.Handler):
    def __init__(self, quiet: bool) -> None:
        super().__init__()
        self.quiet = quiet

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno < NOTE:
            print(text, file=sys.stderr if self.quiet else sys.stdout, flush=True)
        else:
            print(f"{record.levelname.lower()}: {text}", file=sys.stderr)


def show(command: str, result: Result | Iterator[Result | VitloraError], target: str | None) -> int:
    """Prints a command's result, or each as it comes; writes the JSON; returns the exit status."""
    several = isinstance(result, Iterator)
    status, kept = 0, []
    for one in result if several else [result]:
        if isinstance(one, VitloraError):  # one picture of many that could not be read
            print(f"{command}: {one}", file=sys.stderr)
            status = max(status, one.exit_status)
            continue
        status = max(status, getattr(one, "status", 0))
        if target != "-":
            if text := one.to_text():
                print(text, flush=True)
        elif several:
            print(json.dumps(one.to_json()), flush=True)
        if target is not None and not (several and target == "-"):
            kept.append(one.to_json())
    if kept or target not in (None, "-"):
        write_result(command, {"results": kept} if several else kept[0], target)
    return status


def write_result(command: str, fields: Mapping[str, Any], target: str | None) -> None:
    """Writes a result as JSON, with what makes ``check_json`` know it again.

    Args:
        command: That gave it.
        fields: Plain values.
        target: The file; ``-`` for the screen, in ASCII, which survives every console and pipe.
            None writes nothing.

    Raises:
        UsageError: The command itself has written that file, or it cannot be written.
    """
    if target is None:
        return
    check_json(target)
    told = {"vitlora": __version__, "command": command, **fields}
    if target == "-":
        print(json.dumps(told, indent=1))
    else:
        write_whole(Path(target), json.dumps(told, indent=1, ensure_ascii=False) + "\n")
