"""What the stand-alone commands share: how their words are read, and how help is shown."""

import argparse
import re
import textwrap
from pathlib import Path
from typing import Any, NoReturn

from vitlora.errors import UsageError, nearest


class CommandParser(argparse.ArgumentParser):
    """Reads the words after a command; a mistake is one line, as everywhere.

    Args:
        prog: What the user types before the words.
        description: One paragraph, wrapped here.
        epilog: Shown below the options as it is.
        options: Anything else argparse takes.
    """

    def __init__(self, prog: str, description: str, epilog: str, **options: Any) -> None:
        super().__init__(
            prog=prog,
            description=textwrap.fill(description, 79) if "\n" not in description else description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **options,
        )

    def error(self, message: str) -> NoReturn:
        """Raises what argparse would print below a usage text."""
        unknown = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        hint = nearest(unknown[1], self._option_string_actions) if unknown else ""
        raise UsageError(f"{message}{hint}; '{self.prog} --help' lists what it takes")

    def add_base_arguments(self) -> None:
        """Adds where the frozen base comes from, and what it runs on."""
        self.add_argument("--weights", metavar="FILE", help="the frozen base's weights")
        self.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")


def check_target(option: str, target: str | None, ending: str) -> None:
    """Refuses, before the work, a file that cannot be written or is not such a file's to replace.

    A slip of the shell's, as in ``--csv photos/*.jpg``, would otherwise cost a photo.

    Args:
        option: That names the file.
        target: The file; ``-`` for the screen; None or nothing where none is asked for.
        ending: Of files that an earlier run may have written, as ``.json``. Devices and pipes have
            none and are written to.

    Raises:
        UsageError: Its folder does not exist, it is a folder, or it is another kind of file.
    """
    if not target or target == "-":
        return
    path = Path(target)
    if path.is_dir() or not path.parent.is_dir():
        kind = "is a folder; expected a file" if path.is_dir() else "its folder does not exist"
        raise UsageError(f"{option} '{target}': {kind}")
    if path.is_file() and path.suffix.lower() != ending:
        raise UsageError(
            f"{option} '{target}' exists, and its name does not end in {ending}; it is not "
            "overwritten: name another file"
        )
