"""Long work on many items: in threads, and with a line that says how far it is."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_PATIENCE = 3.0  # seconds without a word
_PAUSE = 0.5  # seconds between two lines on a terminal
_AT_ONCE = 32  # items handed to a thread together: handing over costs more than opening a file

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_threads(
    function: Callable[[_Item], _Result], items: Sequence[_Item], doing: str
) -> Iterator[_Result]:
    """Yields what a function returns for each item, in order; a thread for each core calls it.

    Args:
        function: What is done with an item.
        items: The items.
        doing: What is done with them, in a few words, as ``shown`` takes it.
    """
    parts = [items[start : start + _AT_ONCE] for start in range(0, len(items), _AT_ONCE)]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        results = pool.map(lambda part: [function(item) for item in part], parts)
        yield from shown((one for part in results for one in part), len(items), doing)


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
