"""What ``fit`` has of the plan: a batch that fits, and a clear word where one did not."""

from collections.abc import Sequence
from typing import Any

import torch

from vitlora.errors import VitloraError
from vitlora.memory.footprint import Footprint, footprint
from vitlora.memory.room import Room

_CPU_FULL = ("can't allocate memory", "not enough memory", "MPS backend out of memory")


class OutOfMemory(VitloraError):
    """A training that did not fit.

    Attributes:
        again: Options under which to try once more; empty if that is not allowed.
    """

    def __init__(self, message: str, again: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.again = list(again)


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error says that the device, or the host, has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _CPU_FULL)


def fitting_batch(counted: Footprint, room: Room, most: int) -> int:
    """Returns ``most`` pictures, or the first half, quarter, ... of it that fits; 0 if none does.

    Args:
        counted: What they take.
        room: What there is; its margin is left alone.
        most: At least 1.
    """
    batch = most
    while batch and counted.total(batch) > room.usable:
        batch //= 2
    return batch


def settle_batch(
    model: dict[str, Any], classes: int, device: str, precision: str, room: Room, most: int
) -> tuple[int, int, str]:
    """Returns the pictures of a batch, the batches of a step, and a line that says why.

    Args:
        model: Options of ``Classifier``, as for ``footprint``.
        classes: Outputs of the head.
        device: Kind of device.
        precision: Lightning's name of it.
        room: What there is.
        most: Pictures of a step, however many batches it takes.
    """
    counted = footprint(model, classes, device, precision)
    batch = fitting_batch(counted, room, most)
    if batch == most:
        takes = f"take {gigabytes(counted.total(most))} of {gigabytes(room.free)} GB {room.says}"
        return most, 1, f"batch  {most} pictures a step ({takes})"
    at_once = f"{most} at once would take {gigabytes(counted.total(most))}"
    if batch:
        steps = f"{batch} pictures x {most // batch} steps accumulated"
        return batch, most // batch, f"batch  {steps} ({gigabytes(room.free)} GB {room.says}; {at_once})"
    one = gigabytes(counted.total(1))
    return 1, most, (
        f"batch  1 picture x {most} steps accumulated: it would take {one} GB of "
        f"{gigabytes(room.free)} GB {room.says}, so memory may run out; 'vitlora plan' shows what "
        "takes less"
    )


def explain_full(
    model: dict[str, Any],
    classes: int,
    device: str,
    precision: str,
    room: Room,
    batch: tuple[int, int],
    may_retry: bool,
) -> OutOfMemory:
    """Returns what to say, and perhaps to do, after a training ran out of memory.

    Args:
        model: Options of ``Classifier``, as for ``footprint``.
        classes: Outputs of the head.
        device: Kind of device.
        precision: Lightning's name of it.
        room: What there was before training.
        batch: Pictures of a batch, and batches of a step.
        may_retry: Whether half the batch may be tried.
    """
    pictures, steps = batch
    counted = footprint(model, classes, device, precision, steps > 1)
    said = (
        f"out of memory on {device} with {pictures} pictures at once: by plan they take "
        f"{gigabytes(counted.total(pictures))} GB, and {gigabytes(room.free)} GB were "
        f"{room.says}"
    )
    half = pictures // 2
    if may_retry and half:
        words = ["--data.batch_size", str(half), "--trainer.accumulate_grad_batches", str(2 * steps)]
        return OutOfMemory(f"{said}; once more with {half} pictures x {2 * steps} steps", words)
    ways = ["close what else uses it"]
    if not model.get("checkpointing"):
        ways.append("set model.checkpointing true")
    if half:
        ways.append(f"set data.batch_size {half} and trainer.accumulate_grad_batches {2 * steps}")
    return OutOfMemory(f"{said}; {', or '.join(ways)}; 'vitlora plan' shows what fits")


def gigabytes(count: float) -> str:
    """Returns bytes as 10^9, with two digits that say something: ``0.08``, ``1.7``, ``27``."""
    value = count / 1e9
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"
