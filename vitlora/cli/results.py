"""Prints a command's result as text or JSON, and the library's log messages."""

import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from vitlora import __version__
from vitlora.errors import VitloraError
from vitlora.files import check_target, write_whole
from vitlora.notes import LOG, NOTE


class Result(Protocol):
    """The result of a command; it may also have an exit ``status``."""

    def to_text(self) -> str:
        """Returns the text to print."""
        ...

    def to_json(self) -> Mapping[str, object]:
        """Returns JSON values."""
        ...


def take_json(words: Sequence[str], alone: bool = False) -> tuple[list[str], str | None]:
    """Returns the arguments without ``--json [FILE]``, and the file; ``-`` for the screen.

    Args:
        words: The arguments.
        alone: Whether only the first argument may be without a name. Otherwise the argument after
            ``--json`` may be a picture, and is the file only if it ends in ``.json``.
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
    """Refuses a file that cannot be written, or that is not an earlier result.

    Raises:
        UsageError: Another program wrote the file, or it cannot be written.
    """
    check_target(
        "--json", None if target is None else Path(target), (".json",), b'{\n "vitlora": "'
    )


@contextmanager
def printing(quiet: bool) -> Iterator[None]:
    """Prints the library's log: progress to stdout, notes and warnings to stderr.

    Args:
        quiet: Keep stdout for the result, and print progress to stderr.
    """
    for handler in LOG.handlers:
        if isinstance(handler, _Printer):  # the caller already prints
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
    """Prints one result or each of several, writes the JSON, and returns the exit status."""
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


def write_result(command: str, fields: Mapping[str, object], target: str | None) -> None:
    """Writes a result as JSON, marked so that ``check_json`` recognises it.

    Args:
        command: The command of the result.
        fields: JSON values.
        target: The file; ``-`` for the screen, in ASCII, which every console can print; None to
            write nothing.

    Raises:
        UsageError: The command itself wrote that file, or it cannot be written.
    """
    if target is None:
        return
    check_json(target)
    marked = {"vitlora": __version__, "command": command, **fields}
    if target == "-":
        print(json.dumps(marked, indent=1))
    else:
        write_whole(Path(target), json.dumps(marked, indent=1, ensure_ascii=False) + "\n")
