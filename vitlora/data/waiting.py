"""A word about work that takes longer than people like to wait in silence."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

_PATIENCE = 3.0  # seconds without a word
_PAUSE = 0.5  # seconds between two lines on a terminal

_Item = TypeVar("_Item")


def shown(items: Iterable[_Item], total: int, doing: str) -> Iterator[_Item]:
    """Yields items; says on stderr how far it is if they take longer than a few seconds.

    On a terminal one line is redrawn, and goes in the end; elsewhere one line is all.

    Args:
        items: In the order in which they are worked on.
        total: How many there are.
        doing: What is done with them, in a few words.
    """
    terminal = sys.stderr.isatty()
    due, width = time.monotonic() + _PATIENCE, 0
    for done, item in enumerate(items, 1):
        yield item
        if time.monotonic() < due:
            continue
        if not terminal:
            print(f"{doing} …", file=sys.stderr, flush=True)
            due = float("inf")
            continue
        line = f"{doing}: {done / total:.0%}"
        print(f"\r{line:<{width}}", end="", file=sys.stderr, flush=True)
        due, width = time.monotonic() + _PAUSE, len(line)
    if width:
        print(f"\r{'':<{width}}\r", end="", file=sys.stderr, flush=True)
