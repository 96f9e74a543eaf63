"""The processes of a run, one for each device, and what they tell each other.

The first one, rank 0, decides, prints and writes. In a run of one process, every function returns
what it is given.
"""

import atexit
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any, TypeVar

import numpy as np
import torch
from torch import distributed

Value = TypeVar("Value")

_TOGETHER = ContextVar("together", default=False)  # whether a run of several processes is going on


def join(trainer: Any) -> None:
    """Joins the other processes of a run, if there are any.

    They stay connected for later runs: torch cannot connect them twice by the same store.

    Args:
        trainer: Lightning's trainer.
    """
    if trainer.world_size > 1:
        trainer.strategy.setup_environment()
        atexit.register(_part)
    _TOGETHER.set(trainer.world_size > 1)


def leave() -> None:
    """Ends a run of several processes; what follows is the first one's alone."""
    _TOGETHER.set(False)


def several() -> bool:
    """Returns whether a run of several processes is going on."""
    return _TOGETHER.get()


def rank() -> int:
    """Returns the number of this process, from 0."""
    return distributed.get_rank() if several() else 0


def count() -> int:
    """Returns the number of processes."""
    return distributed.get_world_size() if several() else 1


def summed(numbers: torch.Tensor) -> torch.Tensor:
    """Returns the sum over all processes, on the device of ``numbers``."""
    if several():
        distributed.all_reduce(numbers)
    return numbers


def largest(*numbers: int) -> list[int]:
    """Returns the largest of each number over all processes, between two steps."""
    if not several():
        return list(numbers)
    found = torch.tensor(numbers, dtype=torch.int64)
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return found.tolist()


def of_first(value: Value) -> Value:
    """Returns the value that the first process has."""
    values: list[Any] = [value]
    if several():
        distributed.broadcast_object_list(values, device=torch.device("cpu"))
    return values[0]


def after_all(value: Value) -> Value:
    """Returns the first process's value to all processes of a run that has ended."""
    _TOGETHER.set(True)
    try:
        return of_first(value)
    finally:
        leave()


def at_first(value: Value) -> list[Value] | None:
    """Returns the values of all processes to the first one, in order, and None to the others."""
    if not several():
        return [value]
    values: Any = [None] * count() if rank() == 0 else None
    distributed.gather_object(value, values)
    return values


@torch.no_grad()
def align(tensors: Iterable[torch.Tensor]) -> None:
    """Gives tensors the values that they have in the first process, in place."""
    for tensor in tensors if several() else ():
        distributed.broadcast(tensor, 0)


def vary_random_numbers() -> None:
    """Seeds torch anew in all processes but the first, for other dropout in each."""
    if rank():
        mixed = np.random.SeedSequence((torch.initial_seed(), rank()))
        torch.manual_seed(int(mixed.generate_state(1, np.uint64)[0]))


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Returns a tensor in one piece, also one that is spread over the devices.

    All processes have to ask for it.
    """
    spread: Any = tensor  # torch's DTensor, whose module takes a third of a second to import
    return spread.full_tensor() if hasattr(spread, "full_tensor") else tensor


def _part() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
