"""What the stand-alone commands share: how their words are read, and how help is shown."""

import argparse
import re
import textwrap
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
