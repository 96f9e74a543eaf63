"""Works on the next items while the caller uses this one. Needs no torch."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import TypeVar

MOST_THREADS = 16  # for reading pictures
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def ahead(work: Callable[[_Item], _Result], items: Iterable[_Item], most: int) -> Iterator[_Result]:
    """Yields the results of ``work`` in order; threads work up to ``most`` items ahead."""
    items = iter(items)
    first = list(islice(items, 2))
    if len(first) < 2:  # one picture needs no thread
        yield from map(work, first)
        return
    pool = ThreadPoolExecutor(min(os.cpu_count() or 1, MOST_THREADS))
    waiting: deque[Future[_Result]] = deque()
    try:
        for item in chain(first, items):
            waiting.append(pool.submit(work, item))
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # the caller may stop early
