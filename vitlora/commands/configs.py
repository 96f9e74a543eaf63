"""The ``configs`` command: the configs that ship with vitlora, to see and to copy."""

from collections.abc import Sequence

from vitlora.command_line import CommandParser
from vitlora.config_files import shipped
from vitlora.errors import UsageError, nearest

_EPILOG = """examples:
  vitlora configs
  vitlora configs waste5.yaml > mine.yaml"""


def configs(name: str | None = None) -> str:
    """Returns a line about each config that ships, or the text of one of them.

    Args:
        name: Of the config to return whole.

    Raises:
        UsageError: No config of that name ships.
    """
    ours = shipped()
    if name is None:
        width = max(map(len, ours))
        lines = [
            f"{name:{width}}  {_about(path.read_text('utf-8'))}" for name, path in ours.items()
        ]
        return "\n".join([*lines, "", *_NEXT]) + "\n"
    if name not in ours:
        raise UsageError(
            f"no config '{name}' ships with vitlora{nearest(name, ours)}; expected one of "
            f"{', '.join(ours)}"
        )
    return ours[name].read_text("utf-8")


_NEXT = (
    "run one    vitlora fit --config waste5.yaml --data.root PHOTOS",
    "copy one   vitlora configs waste5.yaml > mine.yaml",
)


def main(args: Sequence[str] | None = None) -> int:
    """Prints what ``configs`` returns.

    Raises:
        UsageError: No config of that name ships.
    """
    parser = CommandParser(
        prog="vitlora configs",
        description="Lists the configs that ship with vitlora, or prints one of them to copy.",
        epilog=_EPILOG,
    )
    parser.add_argument("name", nargs="?", metavar="NAME.yaml", help="config to print whole")
    print(configs(parser.parse_args(args).name), end="")
    return 0


def _about(text: str) -> str:
    """Returns the first sentence of a config's opening comment."""
    opening = text.split("\n#\n")[0]
    words = " ".join(line.removeprefix("#").strip() for line in opening.splitlines())
    return words.partition(". ")[0].rstrip(".")
