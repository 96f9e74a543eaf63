"""An adapter that plain PEFT saved for a timm model -> a bundle."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from vitlora import yaml_text
from vitlora.backbones import Backbone
from vitlora.backbones.pattern import anchored_pattern
from vitlora.bundle.card import model_card
from vitlora.bundle.checkpoint import Bundle, save_bundle
from vitlora.bundle.folder import PEFT_CONFIG, TENSORS
from vitlora.bundle.foreign import PREFIX, PeftAdapter
from vitlora.bundle.lora_options import compiled
from vitlora.bundle.record import Record
from vitlora.bundle.updates import read_changes
from vitlora.errors import BundleError, shown
from vitlora.quantization import Storage


def adopt(
    adapter: PeftAdapter, classes: Sequence[str], backbone: Backbone, storage: Storage, output: Path
) -> list[str]:
    """Verifies an adapter against its backbone and writes it as a bundle.

    Args:
        adapter: Its head has an output for each class.
        classes: Names, in the order of these outputs.
        backbone: The base it was trained on, in full precision.
        storage: How that was kept in training.
        output: Folder of the bundle.

    Returns:
        The paths of the layers it adapts.

    Raises:
        BundleError: The adapter does not fit the backbone.
    """
    layers = _targeted(adapter, backbone.module)
    _check_layers(adapter, layers, backbone)
    peft = adapter.config | {
        "target_modules": anchored_pattern(layers),
        "rank_pattern": _spelt_out(adapter, "rank_pattern", layers),
        "alpha_pattern": _spelt_out(adapter, "alpha_pattern", layers),
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "base_model_name_or_path": backbone.id,
        "init_lora_weights": True,
        "eva_config": None,
        "inference_mode": True,
    }
    folder, tensors = adapter.folder, adapter.tensors
    record = _record(backbone, tuple(classes), storage)
    read_changes(Bundle(folder, record, tensors, peft), backbone.module)
    card = model_card(record, tensors, peft)
    save_bundle(output, record, tensors, peft, _run_config(folder, record), card)
    return layers


def _targeted(adapter: PeftAdapter, module: nn.Module) -> list[str]:
    """Returns the paths of the modules that PEFT adapts by a configuration.

    As peft 0.21.2 does it in ``check_target_module_exists``.
    """
    config = adapter.config
    targets, numbers = config.get("target_modules"), config.get("layers_to_transform")
    whole = config.get("modules_to_save") or []
    patterns = config.get("layers_pattern") or []
    patterns = [patterns] if isinstance(patterns, str) else patterns
    numbers = [numbers] if isinstance(numbers, int) else numbers

    def adapted(path: str, layer: nn.Module) -> bool:
        if any(name.match(path) for name in apart):
            return False
        if excluded(path):
            return False
        if targets == "all-linear":
            return isinstance(layer, nn.Linear)
        if not numbers or isinstance(targets, str) or path in (targets or []):
            return targeted(path)
        found = [pattern.match(path) for pattern in numbered]
        number = next((int(match["number"]) for match in found if match), None)
        return number in numbers and targeted(path)

    try:
        apart = [compiled("modules_to_save", name, r"(.*\.)?{}($|\.)") for name in whole]
        within = r"(.*?\.)?{}\.(?P<number>\d+)\."
        numbered = [compiled("layers_pattern", pattern, within) for pattern in patterns]
        excluded = _matcher("exclude_modules", config.get("exclude_modules"))
        targeted = _matcher("target_modules", targets)
        layers = [path for path, layer in module.named_modules() if path and adapted(path, layer)]
    except (ValueError, TypeError) as error:
        raise BundleError(
            f"{adapter.folder / PEFT_CONFIG} names no modules that vitlora can find: {error}, or a "
            "list of names for target_modules"
        ) from None
    if not layers:
        raise BundleError(
            f"{adapter.folder / PEFT_CONFIG}: target_modules {shown(targets)} names no layer of "
            "the backbone; is it the model the adapter was made for?"
        )
    return layers


def _spelt_out(adapter: PeftAdapter, key: str, layers: Sequence[str]) -> dict[str, Any]:
    """Returns PEFT's patterns of ranks or alphas with the paths of the layers that they mean.

    As peft 0.21.2 does it in ``get_pattern_key``.
    """
    patterns: Any = adapter.config.get(key) or {}
    found: dict[str, list[str]] = {}
    try:
        known = {p: compiled(key, p, r"(.*\.)?({})$") for p in dict(patterns)}
        for path in layers:
            fits = (p for p, expression in known.items() if expression.match(path))
            if (pattern := next(fits, None)) is not None:
                found.setdefault(pattern, []).append(path)
    except (TypeError, ValueError) as error:
        raise BundleError(
            f"{adapter.folder / PEFT_CONFIG}: {key} is not a pattern: {error}"
        ) from None
    return {anchored_pattern(paths): patterns[pattern] for pattern, paths in found.items()}


def _matcher(key: str, targets: Any) -> Callable[[str], bool]:
    """Returns what tells whether a regular expression, or the end of a name in a list, fits."""
    if isinstance(targets, str):
        pattern = compiled(key, targets)
        return lambda path: pattern.fullmatch(path) is not None
    names = list(targets or [])
    return lambda path: any(path == name or path.endswith(f".{name}") for name in names)


def _check_layers(adapter: PeftAdapter, layers: Sequence[str], backbone: Backbone) -> None:
    """Refuses an adapter whose tensors are not of exactly the layers its configuration names."""
    folder, tensors = adapter.folder, adapter.tensors
    for path in layers:
        layer = backbone.module.get_submodule(path)
        if not isinstance(layer, nn.Linear):
            raise BundleError(
                f"{folder} adapts {path}, a {type(layer).__name__}; a bundle adapts linear layers "
                "only. Train without it: PEFT takes 'proj' for every name that ends so; "
                "exclude_modules=['patch_embed.proj'] leaves that one out"
            )
    there = {
        name.removeprefix(PREFIX).partition(".lora_")[0] for name in tensors if ".lora_" in name
    }
    if missing := [path for path in layers if path not in there]:
        raise BundleError(
            f"{folder / TENSORS} has no tensors for {len(missing)} of the {len(layers)} layers "
            f"that {PEFT_CONFIG} names, first {missing[0]}"
        )
    if extra := sorted(there - set(layers)):
        raise BundleError(
            f"{folder / TENSORS} has tensors for {len(extra)} layers that {PEFT_CONFIG} does not "
            f"name, or that {backbone.id} does not have, first {extra[0]}"
        )


def _record(backbone: Backbone, classes: tuple[str, ...], storage: Storage) -> Record:
    return Record(
        backbone=backbone.id,
        base_digest=backbone.digest,
        weights=str(backbone.weights.resolve()) if backbone.weights is not None else "none",
        storage=storage,
        method="Lora",
        head="full",
        classes=classes,
        # other trainings take values as they are
        preprocessing=replace(backbone.preprocessing, srgb=False),
        split={"root": "", "counts": {}, "digests": {}},  # not known
        metrics={},
    )


def _run_config(folder: Path, record: Record) -> str:
    """Returns what ``validate`` and ``test`` want of a run, as YAML."""
    fields = {
        "data": {"classes": list(record.classes)},
        "model": {
            "backbone": record.backbone,
            "image_size": record.preprocessing.image_size,
            "quantization": record.storage.quantization,
        },
    }
    text = yaml_text.write(fields)
    return f"# Trained by PEFT elsewhere, adopted from {folder.resolve().name}.\n{text}"
