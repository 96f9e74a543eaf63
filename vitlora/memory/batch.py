"""What ``fit`` uses of the plan: a batch size that fits, and a clear error when memory runs out."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from vitlora.errors import UsageError, VitloraError
from vitlora.hardware import is_out_of_memory, keep_off_host_memory
from vitlora.memory.footprint import Footprint, footprint
from vitlora.memory.room import Room, room_here
from vitlora.training import ranks
from vitlora.training.classifier import Classifier
from vitlora.units import size


class MemoryFullError(VitloraError):
    """Training ran out of memory.

    Attributes:
        again: Options to retry with; empty if the user chose the batch size.
    """

    def __init__(self, message: str, again: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.again = list(again)


class Batches:
    """The batches of a run: the pictures in a batch, and the batches in a step.

    Args:
        options: The options of ``Classifier``.
        model: The classifier that they made.
        data: The ``FolderData``; its ``batch_size`` is set.
        trainer: Lightning's; its ``accumulate_grad_batches`` is set.
    """

    def __init__(
        self, options: Mapping[str, Any], model: Classifier, data: Any, trainer: Any
    ) -> None:
        self._options = {k: v for k, v in options.items() if k != "num_classes"}
        self._options["adapter"] = model.adapter
        self._data, self._trainer = data, trainer
        self._model = model
        self._device: torch.device = trainer.strategy.root_device
        self._room = room_here(self._device)
        if self._device.type == "cpu":  # which the processes of a machine have in common
            self._room = replace(self._room, free=self._room.free // trainer.num_devices)

    def settle(self) -> str:
        """Sets both so that a step fits into memory, and returns a line about it.

        Raises:
            UsageError: The user also set the number of batches in a step.
        """
        most = self._data.batch_size
        if self._trainer.accumulate_grad_batches != 1:
            raise UsageError(
                "data.batch_size is auto, which sets trainer.accumulate_grad_batches, too; leave "
                "that out"
            )
        counted = self._count(accumulates=True)  # true unless all pictures fit at once
        # the smallest of all processes
        batch = -ranks.largest(-fitting_batch(counted, self._room, most, ranks.count()))[0]
        self._data.batch_size = max(batch, 1)
        self._trainer.accumulate_grad_batches = steps = most // max(batch, 1)
        there = f"{size(self._room.free)} {self._room.says}"
        takes = size(counted.total(self._own(most)))
        if ranks.several():
            there += f" for each of {ranks.count()} devices"
        if batch == most:
            own = self._own(most)
            some = counted.pictures(own)
            pieces = "at once" if some == own else f"in pieces of at most {some}"
            return f"batch  {most} pictures {pieces} ({there}; they take {takes})"
        said = f"batch  {max(batch, 1)} pictures x {steps} steps accumulated ({there}; "
        if batch:
            return f"{said}{most} at once would take {takes})"
        one = size(counted.total(1))
        return f"{said}even one takes {one}: it may not fit, 'vitlora plan' shows what does)"

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turns the many errors for a full memory into one.

        Raises:
            MemoryFullError: Memory ran out.
        """
        error: MemoryFullError | None = None
        keep_off_host_memory(self._device)
        try:
            yield
        except (RuntimeError, MemoryError) as full:
            if not is_out_of_memory(full):
                raise
            error = self._explain()
        if error is not None:  # raised here, so that it does not keep the failed step's tensors
            raise error

    def _explain(self) -> MemoryFullError:
        batch, steps = self._data.batch_size, self._trainer.accumulate_grad_batches
        counted = self._count(steps > 1)
        takes, now = size(counted.total(self._own(batch))), counted.pictures(self._own(batch))
        half, twice = batch // 2, 2 * steps
        while half >= now * ranks.count():  # the pieces would stay as they are
            half, twice = half // 2, 2 * twice
        said = (
            f"out of memory on {self._device.type} with {now} pictures at once; by "
            f"plan they take {takes}, and there were {size(self._room.free)} {self._room.says}"
        )
        words = ["--data.batch_size", str(half), "--trainer.accumulate_grad_batches", str(twice)]
        if self._data.auto_batch and half and not ranks.several():
            return MemoryFullError(f"{said}. Once more with {half} x {twice} accumulated", words)
        ways = [] if self._options.get("checkpointing") else ["--model.checkpointing true"]
        ways += [" ".join(words)] if half else []
        ways += ["'vitlora plan', which shows what fits"]
        return MemoryFullError(f"{said}; try {', or '.join(ways)}")

    def _own(self, batch: int) -> int:
        """Returns the most pictures that one process has of a batch."""
        return -(-batch // ranks.count())

    def _count(self, accumulates: bool) -> Footprint:
        kind, precision = self._device.type, str(self._trainer.precision)
        options, classes, kept = self._options, self._data.num_classes, self._model.given_storage
        spread = ranks.count() if getattr(self._trainer.strategy, "shards", False) else 1
        stay = accumulates or ranks.several()  # gradients stay in DDP's buckets
        return footprint(options, classes, kind, precision, stay, kept, spread_over=spread)


def fitting_batch(counted: Footprint, room: Room, most: int, devices: int = 1) -> int:
    """Returns ``most`` pictures, or the first half, quarter, ... of it that fits; 0 if none does.

    Args:
        counted: The memory that a run needs.
        room: The memory that is available; its margin is not used.
        most: Largest batch, at least 1.
        devices: Number of devices that share it.
    """
    batch = most
    while batch and counted.total(-(-batch // devices)) > room.usable:
        batch //= 2
    return batch
