"""The ``plan`` command: what each method takes of the memory, before anything is trained."""

import argparse
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitlora.command_line import CommandParser, check_target
from vitlora.errors import DataError, UsageError, nearest
from vitlora.files import write_json, write_whole
from vitlora.studies.methods import METHODS, SET_BY_METHOD, configure

if TYPE_CHECKING:
    from vitlora.memory import Room, Way

_CLASSES = 10  # assumed where nobody says; a class more takes some kilobytes
_EPILOG = """examples:
  vitlora plan --config waste5.yaml --vram 6GB
  vitlora plan --config demo.yaml --measure
  vitlora plan --model.backbone timm/vit_7b_patch16_dinov3 --vram 6GB --method qlora

Neither the pictures nor the base's weights need be there. Columns: bytes of the
base, of what is trained, of gradients and optimiser; of activations kept for
each picture; the peak at some batches; how many pictures fit at most."""


def main(args: Sequence[str] | None, resolve: Callable[[list[str]], dict[str, Any]]) -> int:
    """Prints the plan.

    Args:
        args: The words after the command.
        resolve: Words of ``fit`` -> the whole configuration.

    Raises:
        VitloraError: An option is wrong, or a method does not go with the configuration.
    """
    options, overrides = _parser().parse_known_args(args)
    methods, batches = _methods(options.method), _batches(options.batches)
    _check(options, overrides)
    config = resolve([*(w for c in options.config for w in ("--config", c)), *overrides])
    from vitlora import memory
    from vitlora.hardware import pick_device

    data = config["data"]
    classes, pictures, counted_by = _classes(data, options.classes)
    kind, room = _room(options, config["trainer"]["accelerator"])
    if options.measure and kind not in ("cpu", pick_device().type):
        raise UsageError(
            f"--measure times this machine, which has no {kind}; leave --measure or --vram out, or "
            "add --trainer.accelerator cpu"
        )
    precision = _precision(kind, config["trainer"]["precision"])
    most = 32 if data["batch_size"] == "auto" else data["batch_size"]
    steps = config["trainer"]["accumulate_grad_batches"]
    batches = batches or sorted({1, 8, most})
    ways: list[Way] = []
    for method in methods:
        for checkpointing in (False, True):
            model = _model(config, method, checkpointing)
            if sys.stderr.isatty():
                print(f"\rcounting {method:<8}", end="", file=sys.stderr, flush=True)
            way = memory.Way(
                method,
                checkpointing,
                memory.footprint(model, classes, kind, precision, steps > 1),
            )
            ways.append(way)
            if way.counted.saved < 12 * way.counted.image_size**2:  # less than the picture itself:
                break  # no block keeps anything that checkpointing could leave out
    if sys.stderr.isatty():
        print("\r" + " " * 20 + "\r", end="", file=sys.stderr, flush=True)
    if options.measure:
        run = (classes, kind, precision)
        ways = [_measured(way, room, most, _model(config, way.method, way.checkpointing), *run)
                for way in ways]  # fmt: skip
    way, batch, why = memory.pick(ways, room, most)
    shown = batch or 1
    title = (
        f"{config['model']['backbone']}, {ways[0].counted.parameters / 1e6:,.0f} M parameters\n"
        f"{ways[0].counted.image_size} px, {precision} on {kind}, {classes} classes"
    )
    if options.json != "-":
        room_said = f"room  {memory.size(room.free)} {room.says}; {memory.MARGIN_SAID}"
        print(f"{title}: {counted_by}\n{room_said}\n\n{memory.table(ways, room, batches)}\n")
        print(f"{memory.bars(ways, room, shown)}\n")
        if options.measure:
            print(f"{_times(ways, pictures)}\n")
        print(textwrap.fill(why, 79))
        if way is not None:
            print(_command(way, config, batch, most, [*_given(options), *overrides]))
    if options.png:
        from vitlora.memory.chart import chart

        write_whole(Path(options.png), chart(ways, room, shown, title))
    if options.json:
        fields = {
            "backbone": config["model"]["backbone"],
            "parameters": ways[0].counted.parameters,
            "classes": classes,
            "device": kind,
            "precision": precision,
            "room": {"bytes": room.free, "usable": room.usable, "says": room.says},
            "ways": [each.to_json(room, batches) for each in ways],
            "pick": way and {"method": way.method, "checkpointing": way.checkpointing},
            "batch": batch,
            "why": why,
        }
        write_json(fields, options.json)
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="vitlora plan",
        usage="vitlora plan --config FILE [--vram 6GB] [--method A,B,...]\n"
        f"{'':20}[any --data., --model. or --trainer. option of fit]",
        description="Says what each method would take of the memory, with and without "
        "checkpointing, how many pictures fit at once, and which one to take; builds no model.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("--config", "-c", action="append", default=[], metavar="FILE", help="as for fit")
    add(
        "--vram", metavar="SIZE", help="of the GPU to plan for, as 6GB (default: what is free here)"
    )
    add(
        "--method",
        default="linear,lora,qlora,full",
        metavar="A,B,...",
        help=f"of {', '.join(METHODS)} (default: %(default)s)",
    )
    add("--batches", metavar="1,8,...", help="pictures at once to show the peak for")
    add("--classes", type=int, metavar="N", help="how many, where data.root is not there yet")
    add("--measure", action="store_true", help="time ten steps of what fits, on this machine")
    add("--png", metavar="FILE", help="also draw the bars")
    add(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="also write every number; without FILE, print that instead of text",
    )
    return parser


def _check(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    if overrides and not overrides[0].startswith("-"):
        raise UsageError(f"'{overrides[0]}' stands alone; a configuration is --config FILE")
    for word in overrides:
        name = word.partition("=")[0]
        if name in SET_BY_METHOD:
            raise UsageError(f"{name} is what the methods differ in; leave it out, use --method")
        if name.startswith("--print_config") or name in ("--from", "--checkpoint", "--help"):
            raise UsageError(f"plan does not accept {name}; 'vitlora plan --help' lists all")
    if options.classes is not None and options.classes < 2:
        raise UsageError(f"--classes is {options.classes}; expected at least 2")
    check_target("--png", options.png, ".png")
    check_target("--json", options.json, ".json")


def _methods(text: str) -> list[str]:
    methods = list(dict.fromkeys(word.strip() for word in text.split(",")))
    for name in methods:
        if name not in METHODS:
            raise UsageError(
                f"--method has '{name}'; expected some of {', '.join(METHODS)}"
                f"{nearest(name, METHODS)}"
            )
    return methods


def _batches(text: str | None) -> list[int]:
    words = text.split(",") if text is not None else []
    if not all(word.strip().isdecimal() and int(word) for word in words):
        raise UsageError(f"--batches is '{text}'; expected whole numbers from 1, as in 1,8,32")
    return sorted({int(word) for word in words})


def _classes(data: dict[str, Any], asked: int | None) -> tuple[int, int | None, str]:
    """Returns the classes, the training pictures if they can be counted, and who says so."""
    from vitlora.data.class_folders import read_folder

    root = Path(data["root"])
    try:
        folder = read_folder(root, data["classes"], data.get("known_classes") or ())
    except DataError:
        if root.is_dir() and asked is None:
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


def _room(options: argparse.Namespace, accelerator: str) -> "tuple[str, Room]":
    from vitlora.hardware import pick_device
    from vitlora.memory import parse_size, room_here, room_of

    accelerator = {"gpu": "cuda"}.get(accelerator, accelerator)
    if options.vram is None:
        device = pick_device(accelerator, "--trainer.accelerator")
        return device.type, room_here(device)
    kind = "cuda" if accelerator == "auto" else accelerator.partition(":")[0]
    return kind, room_of(parse_size(options.vram), kind)


def _precision(kind: str, asked: Any) -> str:
    import torch

    from vitlora.hardware import pick_precision

    if kind == "cuda" and asked == "auto" and not torch.cuda.is_available():
        return "bf16-mixed"  # as every card since 2020 has it
    return pick_precision(torch.device(kind), asked)


def _model(config: dict[str, Any], method: str, checkpointing: bool) -> dict[str, Any]:
    """Returns the options of ``Classifier`` for a method."""
    from vitlora import adapters

    model = dict(configure(config, method, same_rate=True)["model"])
    spec = model["adapter"]
    name = spec["class_path"].rpartition(".")[2]
    if name not in ("Lora", "LinearProbe", "FullFineTuning"):
        raise UsageError(f"model.adapter is {name}; plan knows Lora, LinearProbe, FullFineTuning")
    adapter = getattr(adapters, name)(**(spec.get("init_args") or {}))
    model.pop("num_classes", None)
    return {**model, "adapter": adapter, "checkpointing": checkpointing}


def _measured(
    way: "Way", room: "Room", most: int, model: dict[str, Any], classes: int, kind: str, bits: str
) -> "Way":
    """Returns the way with its speed, if it fits and can be tried here."""
    import psutil

    from vitlora.hardware import pick_device
    from vitlora.memory import fitting_batch
    from vitlora.memory.probe import images_per_second

    batch = fitting_batch(way.counted, room, most)
    host = psutil.virtual_memory().available
    if not batch or 4 * way.counted.parameters > host:  # fp32 at first
        return way
    device = pick_device(kind)
    print(f"\rmeasuring {way.name:<24}", end="\r", file=sys.stderr, flush=True)
    return replace(way, per_second=images_per_second(model, classes, device, bits, batch))


def _times(ways: "Sequence[Way]", pictures: int | None) -> str:
    """Returns a line on the speed of each way, loading of pictures left out."""
    from vitlora.studies.table import clock

    count, unit = pictures or 1000, "an epoch" if pictures else "1,000 pictures"
    lines = [f"measured here on random pictures, without loading; {unit} of {count:,} pictures:"]
    for way in ways:
        said = "not measured: it does not fit"
        if way.per_second:
            said = f"{way.per_second:.3g} images/s, {clock(count / way.per_second)}"
        lines.append(f"{way.method}{' ckpt' if way.checkpointing else '':<6} {said}")
    return "\n".join(lines)


def _given(options: argparse.Namespace) -> list[str]:
    return [word for name in options.config for word in ("--config", name)]


def _command(
    way: "Way", config: dict[str, Any], batch: int, most: int, words: Sequence[str]
) -> str:
    """Returns what to type for the picked way."""
    added = ["--data.batch_size", str(batch)]
    if batch < most:
        steps = -(-most // batch) * config["trainer"]["accumulate_grad_batches"]
        added += ["--trainer.accumulate_grad_batches", str(steps)]
    if way.checkpointing != config["model"]["checkpointing"]:
        added += ["--model.checkpointing", str(way.checkpointing).lower()]
    before, after = config["model"], configure(config, way.method)["model"]
    spec = after["adapter"]
    kind = spec["class_path"].rpartition(".")[2]
    if kind != before["adapter"]["class_path"].rpartition(".")[2]:
        added += ["--model.adapter", kind]
    own = before["adapter"].get("init_args") or {}
    for key, value in (spec.get("init_args") or {}).items():
        default = {"variant": "lora", "lr_ratio": 1.0, "targets": None}.get(key)
        if value != own.get(key, default):
            shown = f'"[{",".join(value)}]"' if isinstance(value, list) else str(value)
            added += [f"--model.adapter.{key}", shown]
    for key in ("head", "quantization", "block_size", "lr"):
        if after[key] != before[key]:
            added += [f"--model.{key}", str(after[key])]
    typed = [word for word in words if not word.startswith("--data.batch_size=")]
    if "--data.batch_size" in typed:
        place = typed.index("--data.batch_size")
        del typed[place : place + 2]
    return "fit   " + " ".join(["vitlora fit", *typed, *added])
