"""Runs a command, prints its result, and reports mistakes in one line."""

import atexit
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import dropwhile, takewhile
from types import FrameType

import vitlora
from vitlora.cli.results import Result, check_json, printing, show, take_json
from vitlora.errors import UsageError, VitloraError, nearest
from vitlora.files import expanded
from vitlora.notes import note

# Each is a public function of that name, with typed parameters, in a module that does not import
# torch at its top. It returns a result with `to_text()` and `to_json()` (those of ON_LIGHTNING only
# `to_json()`), and perhaps an exit `status`; or an iterator over such results.
COMMANDS = (
    *("configs", "fetch", "doctor", "plan", "fit", "validate", "test", "predict", "demo", "serve"),
    *("report", "drift", "sort", "compare", "sweep", "calibrate", "merge", "export", "page"),
    *("adopt", "push"),
)
_LONG = ("fit", "compare", "sweep")  # lost if they stop half-way
ON_LIGHTNING = ("fit", "validate", "test")  # Lightning's CLI reads their arguments
RENAMED = {  # old names of parameters, which still work
    "plan": {"method": "methods"},
    "report": {"out": "output"},
    "fetch": {"from": "downloads"},
    "predict": {"csv": "output"},
}
_HELP = """'vitlora COMMAND --help' shows the options of a command.
To start:
  vitlora fetch waste5-drawn
  vitlora fit --config demo.yaml
  vitlora predict datasets/waste5-drawn/test/tyre/000.jpg
With your own photos: vitlora fit --config waste5.yaml --data PHOTOS"""


def main(args: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit status."""
    words = list(sys.argv[1:] if args is None else args)
    words = [*map(_at_home, takewhile("--".__ne__, words)), *dropwhile("--".__ne__, words)]
    # or Python ends by looking for garbage among all that was imported, for half a second
    atexit.register(gc.freeze)
    _survive_any_console()
    try:
        return _run(words)
    except BrokenPipeError:  # as in 'vitlora configs | head -1'
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if words[0] not in _LONG:
            return 0
        print(
            f"vitlora: {words[0]} stopped, because the program that read its output has ended; "
            "write the output to a file instead: > log.txt",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt as end:
        print("stopped" if isinstance(end, _Terminated) else "\nstopped", file=sys.stderr)
        return 143 if isinstance(end, _Terminated) else 130
    except SystemExit as end:  # Lightning's reaction to Ctrl-C
        if isinstance(end.__context__, KeyboardInterrupt):
            return 130
        if type(end).__name__ == "SIGTERMException":  # Lightning's
            print("stopped", file=sys.stderr)
            return 143
        raise
    except Exception as error:
        if os.environ.get("VITLORA_DEBUG") == "1":
            raise
        known = _as_user_error(error)
        if known is None:
            raise
        print(f"vitlora: {known}", file=sys.stderr)
        return known.exit_status


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        print(vitlora.__version__)
        return 0
    # it warns about an optional package
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    command, *options = words
    if command not in COMMANDS:
        raise UsageError(
            f"there is no command '{command}'; expected one of {', '.join(COMMANDS)}"
            f"{nearest(command, COMMANDS)}"
        )
    if command in ON_LIGHTNING:
        with printing(quiet=False), _ending_as_ctrl_c_does():
            return import_module("vitlora.cli.training").run(command, options)
    return _call(command, options)


def _call(command: str, words: list[str]) -> int:
    """Calls a command's function with the arguments, and prints its result."""
    from vitlora.cli.parser import CommandLine

    line = CommandLine(command, function_of(command), RENAMED.get(command))
    named = words[: words.index("--")] if "--" in words else words
    if any(word in ("-h", "--help") for word in named):
        print(line.help())
        return 0
    words, target = take_json(words)
    arguments, old_names = line.read(words)
    check_json(target)
    with printing(quiet=target == "-"), _ending_as_ctrl_c_does():
        for text in old_names:
            note(text)
        return show(command, line.function(**arguments), target)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, such as from ``kill``, ``timeout`` or a machine that shuts down."""


@contextmanager
def _ending_as_ctrl_c_does() -> Iterator[None]:
    """Lets SIGTERM end a command as Ctrl-C does: drafts are removed, and it says so."""

    def end(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what a signal does
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def function_of(command: str) -> Callable[..., Result | Iterator[Result | VitloraError]]:
    """Returns the function that a command calls."""
    return getattr(vitlora, command)


def _at_home(word: str) -> str:
    """Returns ``--output=~/x`` with the home folder in place of ``~``, which some shells leave."""
    option, equals, value = word.partition("=")
    home = equals and option.startswith("--") and value.startswith("~")
    return f"{option}={expanded(value)}" if home else word


def _overview() -> str:
    """Returns the commands, each with the first line of its function's docstring."""
    lines = [
        f"vitlora {vitlora.__version__}: fine-tune Vision Transformers on a folder of images",
        "",
    ]
    for command in COMMANDS:
        said = (function_of(command).__doc__ or "").strip().partition("\n")[0]  # -OO has none
        lines.append(f"  vitlora {command:<11}{said}")
    return "\n".join([*lines, "", _HELP])


def _as_user_error(error: Exception) -> VitloraError | None:
    """Returns an error that the user can fix, in our words; None for others."""
    if isinstance(error, VitloraError):
        return error
    if isinstance(error, OSError) and error.filename is not None:
        return VitloraError(f"{error.filename}: {error.strerror}")
    if isinstance(error, RuntimeError | MemoryError):
        from vitlora.data.loading import lost_workers
        from vitlora.hardware import is_out_of_memory

        if lost := lost_workers(error):
            return VitloraError(lost)
        if is_out_of_memory(error):
            return VitloraError("out of memory; use smaller batches, or --device cpu")
    if type(error).__name__ == "MisconfigurationException":  # Lightning's
        return UsageError(" ".join(str(error).split()))
    return None


def _survive_any_console() -> None:
    """Prints '?' for characters that the console does not have, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # pyright: ignore
