"""What the tests of exporting share."""

from __future__ import annotations

from importlib.util import find_spec

from vitlora.exporting.targets import TARGETS

CLASSES = ("a", "b", "c")


def installed() -> list[str]:
    """Returns the kinds of files, by their endings, whose packages are installed."""
    return [name for name, one in TARGETS.items() if all(map(find_spec, one.writes_with))]
