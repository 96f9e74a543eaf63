"""The plan for people: a table, a bar and a sentence, in plain ASCII of 80 columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vitlora.memory.footprint import Footprint
from vitlora.memory.room import MARGIN, Room
from vitlora.units import size

_BAR = 44  # characters that stand for the whole room
_ENOUGH = 4  # pictures in a batch that keep a device busy
_MANY = 10_000  # pictures that no step has
_ORDER = (("lora", False), ("lora", True), ("qlora", False), ("qlora", True), ("linear", False))


@dataclass(frozen=True)
class Way:
    """A method, with or without checkpointing, and the memory it needs.

    Attributes:
        method: Name of the method.
        checkpointing: Whether blocks are recomputed in the backward pass.
        counted: The memory it needs.
        per_second: Pictures per second; None if not measured.
    """

    method: str
    checkpointing: bool
    counted: Footprint
    per_second: float | None = None

    @property
    def name(self) -> str:
        """Method and checkpointing in words."""
        return self.method + (" with checkpointing" if self.checkpointing else "")

    def to_json(self, room: Room, batches: Sequence[int]) -> dict[str, Any]:
        """Returns every number, in bytes."""
        counted = self.counted
        return {
            "method": self.method,
            "checkpointing": self.checkpointing,
            "base": counted.base,
            "adapters": counted.adapters,
            "gradients": counted.gradients,
            "optimizer": counted.optimizer,
            "saved_per_image": counted.saved,
            "at_once": counted.at_once,
            "totals": {str(batch): counted.total(batch) for batch in batches},
            "largest_batch": counted.largest_batch(room.usable),
            "images_per_second": self.per_second,
        }


def table(ways: Sequence[Way], room: Room, batches: Sequence[int]) -> str:
    """Returns a line for each way: its parts, its total at each batch, the largest batch."""
    heads = ["method", "ckpt", "base", "adapters", "grad+opt", "/image"]
    heads += [f"batch {batch}" for batch in batches] + ["most"]
    rows = [heads]
    for way in ways:
        counted = way.counted
        parts = (counted.base, counted.adapters, counted.gradients + counted.optimizer)
        most = counted.largest_batch(room.usable)
        rows.append(
            [
                way.method,
                "on" if way.checkpointing else "off",
                *map(size, parts),
                size(counted.saved),
                *(size(counted.total(batch)) for batch in batches),
                "none" if not most else f"{most:,}" if most < _MANY else f"{_MANY:,}+",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        " ".join(
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def bars(ways: Sequence[Way], room: Room, batch: int) -> str:
    """Returns a bar for each way at a batch: what fills the room, and what is left."""
    lines = [
        f"batch {batch} in {size(room.free)}: B base, a adapters, g gradients + optimiser, "
        "# activations,",
        ". free, > too much",
    ]
    for way in ways:
        parts = shares(way.counted, batch)
        total = sum(parts.values())
        bar, filled = "", 0
        for letter, part in zip("Bag#", parts.values(), strict=True):
            filled += part
            bar = bar.ljust(min(round(filled / max(room.free, 1) * _BAR), _BAR), letter)
        end = ">" if total > room.free else "]"
        label = f"{way.method}{' ckpt' if way.checkpointing else ''}"
        lines.append(f"{label:<12} [{bar.ljust(_BAR, '.')}{end} {size(total):>7}")
    return "\n".join(lines)


def shares(counted: Footprint, batch: int) -> dict[str, int]:
    """Returns the parts of the peak at a batch: name -> bytes."""
    return {
        "base": counted.base,
        "adapters": counted.adapters,
        "gradients + optimiser": counted.gradients + counted.optimizer,
        "activations": counted.activations(batch),
    }


def pick(
    ways: Sequence[Way], room: Room, most: int, devices: int = 1
) -> tuple[Way | None, int, str]:
    """Returns the recommended way, its batch size, and a sentence with the reason.

    The order is LoRA, LoRA with checkpointing, QLoRA, QLoRA with checkpointing. The first that
    keeps the device busy is recommended, else the first that fits at all.

    Args:
        ways: The ways to choose from.
        room: The memory that is available, on each device.
        most: Pictures in a step, at least 1.
        devices: Number of devices that share the batch.
    """
    own = -(-most // devices)
    known = {(way.method, way.checkpointing): way for way in ways}
    ordered = [known[key] for key in _ORDER if key in known]
    ordered += [way for way in ways if way not in ordered]
    largest = {way.name: min(way.counted.largest_batch(room.usable), own) for way in ordered}
    trains = [way for way in ordered if way.method != "linear"] or ordered
    good = [way for way in trains if largest[way.name] >= min(_ENOUGH, own)]
    good = good or [way for way in trains if largest[way.name]]
    good = good or [way for way in ordered if largest[way.name]]
    if not good:
        least = min(ordered, key=lambda way: way.counted.total(1))
        spread = (
            ", or --trainer.strategy fsdp" if devices > 1 and not least.counted.gathered else ""
        )
        return (
            None,
            0,
            (
                f"Nothing fits: {least.name} takes least, {size(least.counted.total(1))} for one "
                f"picture, and {size(room.usable)} may be filled; "
                f"{f'take a smaller model.backbone{spread}' if room.free else 'give more --vram'}."
            ),
        )
    way = good[0]
    batch = most
    if largest[way.name] < own:
        batch = max(2 ** ((devices * largest[way.name]).bit_length() - 1), devices)
    own = -(-batch // devices)
    where = f" on each of {devices} devices, {batch} in all" if devices > 1 else ""
    passed = trains[: trains.index(way)] if way in trains else trains
    return (
        way,
        batch,
        f"Take {way.name}, {own} {'at once' if way.counted.pictures(own) == own else 'in a batch'}"
        f"{where}: {_why(way, own, passed, largest, room)}.",
    )


def _why(way: Way, batch: int, passed: Sequence[Way], largest: dict[str, int], room: Room) -> str:
    takes = f"it takes {size(way.counted.total(batch))} of {size(room.free)}"
    if passed:
        before = passed[-1]
        count = largest[before.name]
        return f"{takes}, while {before.name} could hold {count or 'not one'}"
    if way.method == "lora" and not way.checkpointing:
        if way.counted.gathered:  # fsdp, for which there is no NF4
            return f"{takes}, so checkpointing, which costs time, is not needed"
        return f"{takes}, so NF4 and checkpointing, which cost time, are not needed"
    return takes


MARGIN_SAID = f"{MARGIN:.0%} of it is left alone"
