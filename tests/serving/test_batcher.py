"""Tests of batching, without HTTP, pictures or a network."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from vitlora.serving.batcher import Batcher


def run(play: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await play()

    asyncio.run(limited())


class Squares:
    """Squares numbers when it is let; remembers its batches. Negative numbers are errors."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.free = threading.Event()

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        assert self.free.wait(20)
        self.batches.append(list(numbers))
        if any(number < 0 for number in numbers):
            raise ValueError(f"{min(numbers)} is negative")
        return [number * number for number in numbers]


def test_what_arrives_during_a_batch_is_the_next_batch() -> None:
    async def play() -> None:
        squares, sizes = Squares(), list[int]()
        batcher = Batcher(squares, 3, observe=sizes.append)
        first = asyncio.create_task(batcher.answer(1))
        await asyncio.sleep(0.05)  # it is under way, alone
        others = [asyncio.create_task(batcher.answer(n)) for n in range(2, 7)]
        await asyncio.sleep(0.05)
        squares.free.set()
        assert await asyncio.gather(first, *others) == [1, 4, 9, 16, 25, 36]
        assert squares.batches == [[1], [2, 3, 4], [5, 6]]
        assert sizes == [1, 3, 2]
        await batcher.close()

    run(play)


def test_an_item_that_fails_is_its_own_error_and_not_its_neighbours() -> None:
    async def play() -> None:
        squares = Squares()
        batcher = Batcher(squares, 8)
        first = asyncio.create_task(batcher.answer(0))
        await asyncio.sleep(0.05)
        others = [asyncio.create_task(batcher.answer(n)) for n in (2, -3, 4, 5, -6)]
        await asyncio.sleep(0)
        squares.free.set()
        got = await asyncio.gather(first, *others, return_exceptions=True)
        assert [str(one) for one in got] == [
            "0",
            "4",
            "-3 is negative",
            "16",
            "25",
            "-6 is negative",
        ]
        assert await batcher.answer(7) == 49
        await batcher.close()

    run(play)


def test_who_gives_up_is_not_computed_and_delays_nobody() -> None:
    async def play() -> None:
        squares = Squares()
        batcher = Batcher(squares, 8)
        first = asyncio.create_task(batcher.answer(1))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(batcher.answer(2))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await batcher.answer(3)
        first.cancel()  # under way: computed for nobody
        squares.free.set()
        assert await second == 4
        assert squares.batches == [[1], [2]]
        await batcher.close()

    run(play)


def test_closing_answers_what_waits_in_its_one_prepared_thread() -> None:
    async def play() -> None:
        local, seen = threading.local(), set[tuple[int, str]]()

        def compute(numbers: Sequence[int]) -> Sequence[int]:
            seen.add((threading.get_ident(), local.set))
            return numbers

        batcher = Batcher(compute, 2, prepare=lambda: setattr(local, "set", "yes"))
        answers = [asyncio.create_task(batcher.answer(n)) for n in range(9)]
        await asyncio.sleep(0)
        await batcher.close()
        assert await asyncio.gather(*answers) == list(range(9))
        ((thread, said),) = seen
        assert said == "yes" and thread != threading.get_ident()

    run(play)
