"""The devices that share a training run, and what each of them has of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vitlora.errors import UsageError
from vitlora.hardware import pick_device
from vitlora.memory.room import Room, parse_size, room_here, room_of
from vitlora.notes import note
from vitlora.processes import device_count
from vitlora.studies.methods import METHODS
from vitlora.training.strategies import check_strategy
from vitlora.units import size


@dataclass(frozen=True)
class Devices:
    """The devices of a run.

    Attributes:
        kind: ``cpu``, ``cuda`` or ``mps``.
        here: Number of them on each machine.
        machines: Number of machines.
        shards: Whether the frozen weights of the blocks are spread over them, as fsdp does.
    """

    kind: str
    here: int = 1
    machines: int = 1
    shards: bool = False

    @property
    def count(self) -> int:
        """Number of all devices."""
        return self.here * self.machines

    @property
    def strategy(self) -> str | None:
        """How they share the work; None for one device."""
        return None if self.count == 1 else "fsdp" if self.shards else "ddp"

    @property
    def name(self) -> str:
        """Their number in words."""
        where = f" on {self.machines} machines" if self.machines > 1 else ""
        return f"{self.count} devices{where} ({self.strategy})"

    def own(self, batch: int) -> int:
        """Returns the most pictures that one device has of a batch."""
        return -(-batch // self.count)

    def says(self, most: int, gathered: int) -> str:
        """Returns what each device has.

        Args:
            most: Pictures in a step, on all devices.
            gathered: Bytes of the blocks that are whole while they are computed.
        """
        base = "the whole base"
        if self.shards:
            base = (
                f"1/{self.count} of the blocks' frozen weights, two whole blocks while it computes "
                f"({size(gathered)})"
            )
        return (
            f"{self.name}, each: {base}, {self.own(most)} of the {most} pictures in a step. All "
            "numbers below are for one device."
        )


def devices_of(trainer: Mapping[str, Any], vram: str | None) -> tuple[Devices, Room]:
    """Returns the devices of a run, and the memory of each.

    Args:
        trainer: The options of the trainer.
        vram: Memory of each GPU to plan for, such as ``6GB``; None for what is free here.

    Raises:
        UsageError: An option is wrong, or this machine does not have so many GPUs.
    """
    asked, machines, strategy = (trainer[key] for key in ("devices", "num_nodes", "strategy"))
    accelerator = str(trainer["accelerator"]).replace("gpu", "cuda")
    if vram is None:
        device = pick_device(accelerator, "--trainer.accelerator")
        kind = device.type
    else:
        kind = "cuda" if accelerator == "auto" else accelerator.partition(":")[0]
        device = None
    here = device_count(asked, kind)
    if machines < 1:
        raise UsageError(f"trainer.num_nodes is {machines}; expected at least 1")
    if isinstance(strategy, str):
        check_strategy(strategy, here * machines)
    devices = Devices(kind, here, machines, strategy == "fsdp" and here * machines > 1)
    if device is None:
        room = room_of(parse_size(vram or ""), kind)
    elif kind == "cuda" and here > 1:
        room = _room_of_gpus(asked if isinstance(asked, list) else range(here))
    else:
        room = room_here(device)
    if kind == "cpu" and here > 1:  # the processes of a machine have it in common
        room = Room(room.free // here, f"of {size(room.free)} {room.says}")
    return devices, room


def check_shared(batch: int, devices: int) -> None:
    """Refuses a batch of which a device would have no picture.

    Raises:
        UsageError: It is one.
    """
    if batch < 1:
        raise UsageError(f"data.batch_size is {batch}; expected at least 1")
    if batch < devices:
        raise UsageError(
            f"data.batch_size is {batch}, which {devices} devices cannot share; expected at least "
            "one picture for each"
        )


def trained_by(devices: Devices, methods: Sequence[str]) -> list[str]:
    """Returns the methods that devices can train, and notes which are left out.

    Raises:
        UsageError: All of them are.
    """
    out = [
        name
        for name in (methods if devices.shards else ())
        if METHODS[name].four_bit or METHODS[name].adapter == "FullFineTuning"
    ]
    said = "fsdp spreads frozen weights that are not in 4 bits, so"
    if out and len(out) == len(methods):
        raise UsageError(
            f"{said} it does not train {' or '.join(out)}; set trainer.strategy to ddp, or choose "
            "other --methods"
        )
    if out:
        note(f"{said} the plan leaves out {' and '.join(out)}")
    return [name for name in methods if name not in out]


def _room_of_gpus(numbers: Sequence[int]) -> Room:
    """Returns the memory that is free on each of some GPUs of this machine."""
    there = torch.cuda.device_count()
    if max(numbers) >= there:
        asked = f"{len(numbers)}" if isinstance(numbers, range) else f"{list(numbers)}"
        raise UsageError(
            f"trainer.devices is {asked}, but this machine has {there} GPUs; add --vram with the "
            "memory of each GPU to plan for another machine"
        )
    return min((room_here(torch.device("cuda", n)) for n in numbers), key=lambda room: room.free)
