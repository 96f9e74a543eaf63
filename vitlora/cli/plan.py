"""The ``plan`` command, which takes the options of ``fit``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitlora.arguments import checked
from vitlora.errors import UsageError
from vitlora.files import check_target, write_whole
from vitlora.light_imports import light_imports
from vitlora.shell import typed
from vitlora.studies.methods import check_methods, configure, fit_words

if TYPE_CHECKING:
    from vitlora.memory.plan import Plan
    from vitlora.memory.table import Way


@checked
def plan(
    config: Sequence[str | Path] | str | Path = (),
    *,
    data: str | Path | None = None,
    vram: str | None = None,
    methods: Sequence[str] = ("linear", "lora", "qlora", "full"),
    batches: Sequence[int] = (),
    classes: int | None = None,
    measure: bool = False,
    png: str | Path | None = None,
    **options: object,
) -> Plan:
    """Estimates the memory of each method before training.

    It covers each method with and without checkpointing, and recommends one. No model is built, so
    neither the pictures nor the base's weights are needed.

    Columns: bytes of the base, of trained parameters, of gradients and optimiser state; activations
    per picture; the peak at some batch sizes; the largest batch that fits. On several devices, all
    of these are for each device.

    Args:
        config: YAML files, as for fit.
        data: Folder of pictures.
        vram: Memory of each GPU to plan for, such as 6GB (default: free memory of this machine).
        methods: Methods to plan for; 'vitlora compare --help' explains them.
        batches: Batch sizes of a device to show the peak for (default: 1, 8 and its part of
            data.batch_size).
        classes: Number of classes, if the folder of pictures does not exist yet.
        measure: Also time ten training steps of each method that fits, on this machine.
        png: Also draw a bar chart to this PNG file.
        options: Any option of fit with a dot in its name, or its short name.

    Returns:
        The memory of each method, and the one to choose.

    Raises:
        UsageError: An option is wrong, or a method does not suit the configuration.
        DataError: The folder of pictures exists, but cannot be used.
        BackboneError: The base is unknown.

    Examples:
        $ vitlora plan waste5.yaml --vram 6GB
        $ vitlora plan demo.yaml --measure
        $ vitlora plan waste5.yaml --devices 4 --vram 24GB
        $ vitlora plan --model.backbone timm/vit_7b_patch16_dinov3 --vram 6GB
    """
    methods = check_methods(methods)
    if any(batch < 1 for batch in batches):
        raise UsageError(f"--batches has {min(batches)}; expected numbers from 1, such as 1,8")
    if classes is not None and classes < 2:
        raise UsageError(f"--classes is {classes}; expected at least 2")
    check_target("--png", png, (".png",), b"vitlora")
    words = fit_words(config, data, options)
    from vitlora.cli.run_options import run_options

    read, inherited = run_options("fit", words, run=False)
    with light_imports():
        from vitlora.cli.resolved import resolve
        from vitlora.memory.plan import make_plan

    del inherited["json"]
    whole = resolve(read, inherited)
    made = make_plan(whole, methods, batches, classes, vram, measure)
    way, batch, _ = made.pick
    if way is not None:
        made = replace(made, command=_command(way, whole, batch, made.most, words))
    if png:
        write_whole(Path(png), made.draw())
    return made


def _command(way: Way, config: dict[str, Any], batch: int, most: int, words: Sequence[str]) -> str:
    """Returns the command that trains with the chosen method."""
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
            shown = f"[{','.join(value)}]" if isinstance(value, list) else str(value)
            added += [f"--model.adapter.{key}", shown]
    for key in ("head", "quantization", "block_size", "lr"):
        if after[key] != before[key]:
            added += [f"--model.{key}", str(after[key])]
    kept = list(words)
    if not {"--config", "--data.root"} & {*kept}:  # without pictures, fit does not start
        kept = ["--data", "PHOTOS", *kept]
    for name in added[::2]:  # in place of what was typed
        if name in kept:
            place = kept.index(name)
            del kept[place : place + 2]
    return typed("vitlora", "fit", *kept, *added)
