"""The memory that each method needs, for a whole configuration of ``fit``."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch

from vitlora import adapters
from vitlora.data.layouts.reading import LayoutOptions
from vitlora.data.read import read_folder
from vitlora.errors import DataError, UsageError
from vitlora.hardware import Precision, pick_device, pick_precision
from vitlora.memory.batch import fitting_batch
from vitlora.memory.devices import Devices, check_shared, devices_of, trained_by
from vitlora.memory.footprint import footprints
from vitlora.memory.probe import images_per_second
from vitlora.memory.room import Room
from vitlora.memory.table import MARGIN_SAID, Way, bars, pick, table
from vitlora.studies.methods import configure
from vitlora.units import clock, size

_CLASSES = 10  # assumed if unknown; each class takes only some kilobytes


@dataclass(frozen=True)
class Plan:
    """The memory that each method would need, and which one to take.

    Attributes:
        backbone: Id of the base.
        classes: Number of classes.
        counted_by: Where that number comes from.
        pictures: Pictures in an epoch; None if they cannot be counted.
        devices: The devices of the run.
        precision: Lightning's name of the training precision.
        room: The memory that is available, on each device.
        ways: Every method with and without checkpointing, and the memory it needs on each device.
        batches: Batch sizes to show the peak for, on each device.
        most: Pictures in a step, on all devices.
        measured: Whether the methods that fit were timed.
        command: The command that trains as advised; None if nothing fits.
    """

    backbone: str
    classes: int
    counted_by: str
    pictures: int | None
    devices: Devices
    precision: str
    room: Room
    ways: Sequence[Way]
    batches: Sequence[int]
    most: int
    measured: bool = False
    command: str | None = None

    @property
    def pick(self) -> tuple[Way | None, int, str]:
        """The recommended way, its batch size on all devices, and the reason.

        None and 0 if nothing fits.
        """
        return pick(self.ways, self.room, self.most, self.devices.count)

    @property
    def title(self) -> str:
        """What is planned, in two lines."""
        counted, kind = self.ways[0].counted, self.devices.kind
        return (
            f"{self.backbone}, {counted.parameters / 1e6:,.0f} M parameters\n"
            f"{counted.image_size} px, {self.precision} on {kind}, {self.classes} classes"
        )

    def to_text(self) -> str:
        """Returns the table, the bars, the advice, and the command to type."""
        _, batch, why = self.pick
        each = ""
        if self.devices.count > 1:
            gathered = max(way.counted.gathered for way in self.ways)
            each = textwrap.fill(self.devices.says(self.most, gathered), 79) + "\n"
        some = self.ways[0].counted.at_once
        pieces = "" if some is None else f"\nstep  computes at most {some} pictures at once"
        parts = [
            f"{self.title}: {self.counted_by}\n{each}"
            f"room  {size(self.room.free)} {self.room.says}; {MARGIN_SAID}{pieces}",
            table(self.ways, self.room, self.batches),
            bars(self.ways, self.room, self.devices.own(batch) or 1),
        ]
        if self.measured:
            parts.append(_times(self.ways, self.pictures, self.devices.count))
        last = textwrap.fill(why, 79)
        return "\n\n".join([*parts, f"{last}\nfit   {self.command}" if self.command else last])

    def to_json(self) -> dict[str, Any]:
        """Returns every number, in bytes."""
        way, batch, why = self.pick
        return {
            "backbone": self.backbone,
            "parameters": self.ways[0].counted.parameters,
            "classes": self.classes,
            "device": self.devices.kind,
            "devices": self.devices.count,
            "machines": self.devices.machines,
            "strategy": self.devices.strategy,
            "precision": self.precision,
            "room": {
                "bytes": self.room.free,
                "usable": self.room.usable,
                "says": self.room.says,
            },
            "ways": [each.to_json(self.room, self.batches) for each in self.ways],
            "pick": way and {"method": way.method, "checkpointing": way.checkpointing},
            "batch": batch,
            "batch_per_device": self.devices.own(batch),
            "why": why,
            "fit": self.command,
        }

    def draw(self) -> bytes:
        """Returns the bars as a PNG."""
        from vitlora.memory.chart import chart

        each = f"\non each of {self.devices.name}" if self.devices.count > 1 else ""
        batch = self.devices.own(self.pick[1]) or 1
        return chart(self.ways, self.room, batch, self.title + each)


def make_plan(
    config: dict[str, Any],
    methods: Sequence[str],
    batches: Sequence[int] = (),
    classes: int | None = None,
    vram: str | None = None,
    measure: bool = False,
) -> Plan:
    """Counts the memory that each method needs, without loading a model.

    Args:
        config: The whole configuration of ``fit``.
        methods: Names of ``METHODS``.
        batches: Batch sizes to show the peak for; empty for 1, 8 and what a device has of a step.
        classes: Number of classes, if the folder does not exist yet.
        vram: Memory of each GPU to plan for, such as ``6GB``; None for what is free here.
        measure: Time a few steps of each method that fits, on this machine.

    Raises:
        UsageError: A size is wrong, or a method does not go with the configuration.
        DataError: The folder is there, and cannot be used.
        BackboneError: The base is unknown.
    """
    data, trainer = config["data"], config["trainer"]
    found, pictures, counted_by = _classes(data, classes)
    devices, room = devices_of(trainer, vram)
    device, methods = devices.kind, trained_by(devices, methods)
    if measure and devices.shards:
        raise UsageError(
            "--measure times one device, on which fsdp spreads nothing; leave --measure or "
            "trainer.strategy out"
        )
    if measure and device not in ("cpu", pick_device().type):
        raise UsageError(
            f"--measure times this machine, which has no {device}; leave --measure or --vram out, "
            "or add --trainer.accelerator cpu"
        )
    precision = _precision(device, trainer["precision"])
    most = 32 if data["batch_size"] == "auto" else data["batch_size"]
    check_shared(most, devices.count)
    # gradients stay: those of earlier batches; on several devices, as DDP's buckets
    stay = trainer["accumulate_grad_batches"] > 1 or devices.count > 1
    own, parts = devices.own(most), devices.count if devices.shards else 1
    ways: list[Way] = []
    for method in methods:
        _progress(f"counting {method}")
        model = _model(config, method, checkpointing=False)
        each = footprints(model, found, device, precision, stay, spread_over=parts)
        for checkpointing, counted in zip((False, True), each, strict=False):
            ways.append(Way(method, checkpointing, counted))
            if counted.saved < 12 * counted.image_size**2:  # less than the picture itself:
                break  # no block keeps anything that checkpointing could leave out
    if measure:
        run = (found, device, precision)
        ways = [_measured(way, room, own, _model(config, way.method, way.checkpointing), *run)
                for way in ways]  # fmt: skip
    _progress("")
    shown = sorted(set(batches or (1, 8, own)))
    backbone, asked = config["model"]["backbone"], (room, ways, shown, most, measure)
    return Plan(backbone, found, counted_by, pictures, devices, precision, *asked)


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:<40}\r{text}", end="", file=sys.stderr, flush=True)


def _classes(data: dict[str, Any], asked: int | None) -> tuple[int, int | None, str]:
    """Returns the number of classes, of training pictures if known, and where they come from."""
    root = Path(data["root"])
    try:
        known = data.get("known_classes") or ()
        folder = read_folder(root, data["classes"], known, LayoutOptions.of(data))
    except DataError:
        if root.exists() and asked is None:
            raise
        if asked is None and data["classes"]:
            return len(data["classes"]), None, "data.classes"
        said = "--classes" if asked else f"assumed, no {root}"
        return asked or _CLASSES, None, said
    share = 1.0
    if "all" in folder.splits:
        share = 1 - data["val_fraction"] - data["test_fraction"]
    pictures = round(share * len(folder.splits.get("train") or folder.splits.get("all") or ()))
    return asked or len(folder.classes), pictures, "--classes" if asked else str(root)


def _precision(kind: str, asked: Precision) -> str:
    if kind == "cuda" and asked == "auto" and not torch.cuda.is_available():
        return "bf16-mixed"  # every card since 2020 has it
    return pick_precision(torch.device(kind), asked)


def _model(config: dict[str, Any], method: str, checkpointing: bool) -> dict[str, Any]:
    """Returns the options of ``Classifier`` for a method."""
    model = dict(configure(config, method, same_rate=True)["model"])
    spec = model["adapter"]
    name = spec["class_path"].rpartition(".")[2]
    if name not in ("Lora", "LinearProbe", "FullFineTuning"):
        raise UsageError(f"model.adapter is {name}; plan knows Lora, LinearProbe, FullFineTuning")
    adapter = getattr(adapters, name)(**(spec.get("init_args") or {}))
    model.pop("num_classes", None)
    return {**model, "adapter": adapter, "checkpointing": checkpointing}


def _measured(
    way: Way, room: Room, most: int, model: dict[str, Any], classes: int, kind: str, bits: str
) -> Way:
    """Returns the way with its speed, if it fits and can run on this machine."""
    batch = fitting_batch(way.counted, room, most)
    host = psutil.virtual_memory().available
    if not batch or 4 * way.counted.parameters > host:  # it starts in fp32
        return way
    device = pick_device(kind)
    _progress(f"measuring {way.name}")
    return replace(way, per_second=images_per_second(model, classes, device, bits, batch))


def _times(ways: Sequence[Way], pictures: int | None, devices: int) -> str:
    """Returns a line with the speed of each way, without the loading of pictures."""
    count, unit = pictures or 1000, "an epoch" if pictures else "1,000 pictures"
    where = "here" if devices == 1 else f"on one device, not {devices},"
    lines = [f"measured {where} on random pictures, without loading; {unit} of {count:,} pictures:"]
    for way in ways:
        said = "not measured: it does not fit"
        if way.per_second:
            said = f"{way.per_second:.3g} images/s, {clock(count / way.per_second)}"
        lines.append(f"{way.method}{' ckpt' if way.checkpointing else '':<6} {said}")
    return "\n".join(lines)
