"""The ``plan`` command, which reads the options of ``fit`` as that does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitlora.errors import UsageError
from vitlora.files import check_target, write_whole
from vitlora.shell import typed
from vitlora.studies.methods import check_methods, configure, fit_words

if TYPE_CHECKING:
    from vitlora.memory.plan import Plan
    from vitlora.memory.table import Way


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
    **options: Any,
) -> Plan:
    """Says which method fits into the memory, before training.

    Counted is what each method takes of it, with and without checkpointing, and how many pictures
    fit at once. No model is built; neither the pictures nor the base's weights need be there.

    The columns: bytes of the base, of what is trained, of gradients and optimiser; of activations
    kept for each picture; the peak at some batches; how many pictures fit at most.

    Args:
        config: YAML files, as for fit.
        data: Folder of pictures (data.root).
        vram: Memory of the GPU to plan for, as 6GB (default: what is free here).
        methods: Some of those that 'vitlora compare --help' explains.
        batches: Pictures at once to show the peak for (default: 1, 8 and those of a step).
        classes: How many, where the folder of pictures is not there yet.
        measure: Time ten steps of what fits, on this machine.
        png: Also draw the bars, to this file.
        options: Any option of fit with a dot in its name, or that by its short name.

    Returns:
        What each method takes, and which one to take.

    Raises:
        UsageError: An option is wrong, or a method does not go with the configuration.
        DataError: The folder of pictures is there, and cannot be used.
        BackboneError: The base is unknown.

    Examples:
        $ vitlora plan waste5.yaml --vram 6GB
        $ vitlora plan demo.yaml --measure
        $ vitlora plan --model.backbone timm/vit_7b_patch16_dinov3 --vram 6GB
    """
    methods = check_methods(methods)
    if any(batch < 1 for batch in batches):
        raise UsageError(f"--batches has {min(batches)}; expected whole numbers from 1, as in 1,8")
    if classes is not None and classes < 2:
        raise UsageError(f"--classes is {classes}; expected at least 2")
    check_target("--png", png, (".png",), b"vitlora")
    words = fit_words(config, data, options)
    from vitlora.cli.run_options import run_options

    read, inherited = run_options("fit", words, run=False)
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
            shown = f"[{','.join(value)}]" if isinstance(value, list) else str(value)
            added += [f"--model.adapter.{key}", shown]
    for key in ("head", "quantization", "block_size", "lr"):
        if after[key] != before[key]:
            added += [f"--model.{key}", str(after[key])]
    kept = list(words)
    if "--data.batch_size" in kept:
        place = kept.index("--data.batch_size")
        del kept[place : place + 2]
    return typed("vitlora", "fit", *kept, *added)
