"""Single questions, answered in batches."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


class Batcher(Generic[_Item, _Answer]):
    """Answers items in batches, in one thread of its own, in the order they came.

    A batch is what has arrived while the one before was computed: a lone item never waits for
    company, and batches grow with the load. Belongs to the event loop that runs when it is made.

    Args:
        compute: Items -> their answers, in order. Runs in the thread.
        most: Items in a batch at most.
        prepare: Runs in the thread first, for settings that hold for one thread.
        observe: Called with the size of each batch, in the event loop.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[_Item]], Sequence[_Answer]],
        most: int,
        prepare: Callable[[], object] = lambda: None,
        observe: Callable[[int], object] = lambda size: None,
    ) -> None:
        self._compute, self._most, self._observe = compute, most, observe
        self._thread = ThreadPoolExecutor(1, "batches", prepare)
        self._waiting: asyncio.Queue[tuple[_Item, asyncio.Future[_Answer]]] = asyncio.Queue()
        self._running = asyncio.create_task(self._run())

    async def answer(self, item: _Item) -> _Answer:
        """Returns the answer to an item.

        Raises:
            Exception: What ``compute`` raised for a batch of this item alone.
        """
        future: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((item, future))
        return await future

    async def close(self) -> None:
        """Answers what is waiting, then ends the thread."""
        await self._waiting.join()
        self._running.cancel()
        self._thread.shutdown()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            taken = [await self._waiting.get()]
            while len(taken) < self._most and not self._waiting.empty():
                taken.append(self._waiting.get_nowait())
            # whoever gave up waiting has cancelled its future
            batch = [(item, future) for item, future in taken if not future.done()]
            if batch:
                self._observe(len(batch))
                items = [item for item, _ in batch]
                answers = await loop.run_in_executor(self._thread, self._each, items)
                for (_, future), answer in zip(batch, answers, strict=True):
                    if future.done():
                        continue
                    if isinstance(answer, Exception):
                        future.set_exception(answer)
                    else:
                        future.set_result(answer)
            for _ in taken:
                self._waiting.task_done()

    def _each(self, items: Sequence[_Item]) -> list[_Answer | Exception]:
        """Returns each item's answer, or the error that it causes; halves a batch that fails."""
        try:
            answers: list[_Answer | Exception] = [*self._compute(items)]
            if len(answers) != len(items):
                raise RuntimeError(f"{len(answers)} answers to {len(items)} items")
            return answers
        except Exception as error:
            if len(items) == 1:
                return [error]
            half = len(items) // 2
            return [*self._each(items[:half]), *self._each(items[half:])]
