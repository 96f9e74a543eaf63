"""The ``adopt`` command: an adapter that plain PEFT saved for a timm model -> a bundle."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from vitlora import parsers, yaml_text
from vitlora.adapters.adapter import Tensors
from vitlora.adapters.targets import anchored_pattern
from vitlora.backbones import Backbone, load_backbone
from vitlora.bundle.card import model_card
from vitlora.bundle.checkpoint import Bundle, bundle_bytes, save_bundle
from vitlora.bundle.folder import PEFT_CONFIG, TENSORS
from vitlora.bundle.lora_options import check_known, compiled
from vitlora.bundle.record import Record
from vitlora.bundle.updates import read_changes
from vitlora.errors import BundleError, UsageError, a_few, printable, shown
from vitlora.quantization import Storage

_PREFIX = "base_model.model."
# How A and B may have started; every other start (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) changes the
# frozen weights as well, which PEFT does not save.
_STARTS = (None, True, False, "gaussian", "orthogonal", "eva", "mica")
_VIT = ".vision_transformer"  # timm's module of plain ViTs
_PLAIN = ("head", "patch_embed", "norm", "fc_norm", "attn_pool")  # a plain ViT's beside its blocks
# What others than timm call the layers of theirs.
_STRANGERS = {
    r"(.*\.)?encoder_layer_\d+\..*|heads\..*": "a ViT of torchvision's",
    r"(.*\.)?resblocks\.\d+\..*": "a model of open_clip's",
    r"timm_model\..*": "a timm model inside Hugging Face transformers",
    r"model\.(.*\.)?layers\.\d+\..*": "a language model",
    r"(.*\.)?layers?\.\d+\..*|classifier\..*": "a model of Hugging Face transformers",
}


def main(args: Sequence[str] | None = None) -> int:
    """Verifies a PEFT adapter against its backbone and writes it as a bundle.

    Raises:
        UsageError: The output exists, or an option does not fit the adapter.
        BundleError: The adapter is damaged, of a kind vitlora cannot run, or does not fit.
        BackboneError: The base's weights cannot be had.
    """
    options = parsers.adopt(args)
    folder, output, classes = options.adapter, options.output, options.classes
    config = _read_config(folder)
    tensors = _read_tensors(folder)
    _check_library(folder, config, tensors)
    _check_head(folder, tensors, classes)
    backbone = load_backbone(options.backbone, len(classes), options.weights, options.image_size)
    _check_named(folder, config.get("base_model_name_or_path"), backbone.id)
    layers = _targeted(folder, config, backbone.module)
    _check_layers(folder, tensors, layers, backbone)
    peft = config | {
        "target_modules": anchored_pattern(layers),
        **{
            key: _spelt_out(folder, config, key, layers)
            for key in ("rank_pattern", "alpha_pattern")
        },
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "base_model_name_or_path": backbone.id,
        "init_lora_weights": True,
        "eva_config": None,
        "inference_mode": True,
    }
    record = _record(backbone, classes, Storage(options.quantization))
    read_changes(Bundle(folder, record, tensors, peft), backbone.module)
    card = model_card(record, tensors, peft)
    save_bundle(output, record, tensors, peft, _run_config(folder, record), card)
    word = f'"{output}"' if " " in str(output) else output
    print(f"bundle   {output}  ({bundle_bytes(output):,} bytes), {len(layers)} layers adapted")
    print(f"predict  python predict.py --checkpoint {word} IMAGE.jpg")
    print(f"test     python -m vitlora test --checkpoint {word} --data.root FOLDER")
    print(
        "note: PEFT does not save which base weights, order of classes, image size and rounding "
        "the adapter was trained with; test it on pictures whose classes you know"
    )
    return 0


def _read_config(folder: Path) -> dict[str, Any]:
    """Returns ``adapter_config.json`` if it is of an adapter that a bundle can hold."""
    path = folder / PEFT_CONFIG
    try:
        config = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is no JSON ({error}); save the adapter again") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else type(config).__name__
        raise BundleError(f"{path} is of {kind}; expected LORA (LoRA, rsLoRA or DoRA)")
    if (start := config.get("init_lora_weights")) not in _STARTS:
        raise BundleError(
            f"{path}: the adapter started as {start}, which changed the base's weights too, and "
            "those are not here; save it again with PEFT's save_pretrained(..., "
            "path_initial_model_for_weight_conversion=...), which makes it plain LoRA"
        )
    try:
        check_known(config)
    except ValueError as error:
        raise BundleError(f"{path} {error}") from None
    return config


def _read_tensors(folder: Path) -> Tensors:
    path = folder / TENSORS
    if not path.is_file():
        pickled = (folder / "adapter_model.bin").exists()
        found = ", only adapter_model.bin, a pickle, which may run any code" if pickled else ""
        raise BundleError(
            f"{folder} has no {TENSORS}{found}; save the adapter with PEFT's "
            "save_pretrained(..., safe_serialization=True)"
        )
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise BundleError(f"{path} is torn or no safetensors file ({error})") from None
    # with bias="all" PEFT lists those of modules trained in full twice, and their twins'
    twice = (".modules_to_save.", ".original_module.")
    return {name: t for name, t in tensors.items() if not any(part in name for part in twice)}


def _check_library(folder: Path, config: Mapping[str, Any], tensors: Tensors) -> None:
    """Refuses an adapter whose tensors are named as another library names its layers."""
    from timm.models import is_model, model_entrypoint

    names = [name.removeprefix(_PREFIX) for name in tensors]
    names = sorted(names, key=lambda name: (".lora_" not in name, name))  # the head says less
    if any(name.startswith("blocks.") for name in names):
        return
    first = names[0].partition(".lora_")[0] if names else ""
    architecture = _timm_model(config.get("base_model_name_or_path"))[0]
    if is_model(architecture) and not model_entrypoint(architecture).__module__.endswith(_VIT):
        raise BundleError(
            f"{folder} is an adapter for timm's {architecture}, which vitlora does not run: it "
            f"changes {shown(first)}; vitlora runs plain ViTs, whose layers are named like "
            "blocks.0.attn.qkv"
        )
    for pattern, library in _STRANGERS.items():
        for name in names:
            if re.fullmatch(pattern, name):
                layer = shown(name.partition(".lora_")[0])
                base = printable(str(config.get("base_model_name_or_path") or ""))
                raise BundleError(
                    f"{folder} is an adapter for {library}{f' ({base})' if base else ''}: it "
                    f"changes {layer}; adopt takes those for timm models, whose layers are named "
                    "like blocks.0.attn.qkv. Train it again on a timm model, as 'vitlora fit' does"
                )
    if any(".lora_" in name for name in names) and not first.startswith(_PLAIN):
        raise BundleError(
            f"{folder} changes {shown(first)}, which no plain timm ViT has; expected layers named "
            "like blocks.0.attn.qkv"
        )


def _timm_model(named: Any) -> tuple[str, str]:
    """Returns the architecture and the tag, each perhaps empty, of a model that PEFT names."""
    model = str(named or "").removeprefix("hf-hub:").removeprefix("timm/")
    architecture, _, tag = model.partition(".")
    return architecture, tag


def _check_head(folder: Path, tensors: Tensors, classes: Sequence[str]) -> None:
    head = tensors.get(f"{_PREFIX}head.weight")
    if head is None:
        raise BundleError(
            f"{folder / TENSORS} holds no head ({_PREFIX}head.weight), so it cannot say which "
            "class is which; train it with LoraConfig(..., modules_to_save=['head'])"
        )
    if head.ndim != 2:
        raise BundleError(
            f"{folder / TENSORS}: the head's weight is {tuple(head.shape)}; expected "
            f"({len(classes)}, width)"
        )
    if len(head) != len(classes):
        raise UsageError(
            f"--classes names {len(classes)} classes ({a_few(classes)}), but the adapter's "
            f"head has {len(head)} outputs"
        )


def _check_named(folder: Path, named: Any, backbone: str) -> None:
    """Refuses a backbone that is not the timm model the adapter names, if it names one."""
    from timm.models import is_model

    architecture, tag = _timm_model(named)
    ours, _, our_tag = backbone.partition("/")[2].partition(".")
    if is_model(architecture) and (architecture != ours or tag not in ("", our_tag)):
        raise UsageError(
            f"--backbone is {backbone}, but {folder / PEFT_CONFIG} says the adapter was made for "
            f"{named}"
        )


def _targeted(folder: Path, config: Mapping[str, Any], module: nn.Module) -> list[str]:
    """Returns the paths of the modules that PEFT adapts by a configuration.

    As peft 0.21.2 does it in ``check_target_module_exists``.
    """
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
            f"{folder / PEFT_CONFIG} names no modules that vitlora can find: {error}, or a list "
            "of names for target_modules"
        ) from None
    if not layers:
        raise BundleError(
            f"{folder / PEFT_CONFIG}: target_modules {shown(targets)} names no layer of the "
            "backbone; is it the model the adapter was made for?"
        )
    return layers


def _spelt_out(
    folder: Path, config: Mapping[str, Any], key: str, layers: Sequence[str]
) -> dict[str, Any]:
    """Returns PEFT's patterns of ranks or alphas with the paths of the layers that they mean.

    As peft 0.21.2 does it in ``get_pattern_key``.
    """
    patterns: Any = config.get(key) or {}
    found: dict[str, list[str]] = {}
    try:
        known = {p: compiled(key, p, r"(.*\.)?({})$") for p in dict(patterns)}
        for path in layers:
            fits = (p for p, expression in known.items() if expression.match(path))
            if (pattern := next(fits, None)) is not None:
                found.setdefault(pattern, []).append(path)
    except (TypeError, ValueError) as error:
        raise BundleError(f"{folder / PEFT_CONFIG}: {key} is no pattern: {error}") from None
    return {anchored_pattern(paths): patterns[pattern] for pattern, paths in found.items()}


def _matcher(key: str, targets: Any) -> Callable[[str], bool]:
    """Returns what tells whether a regular expression, or the end of a name in a list, fits."""
    if isinstance(targets, str):
        pattern = compiled(key, targets)
        return lambda path: pattern.fullmatch(path) is not None
    names = list(targets or [])
    return lambda path: any(path == name or path.endswith(f".{name}") for name in names)


def _check_layers(
    folder: Path, tensors: Tensors, layers: Sequence[str], backbone: Backbone
) -> None:
    """Refuses an adapter whose tensors are not of exactly the layers its configuration names."""
    for path in layers:
        layer = backbone.module.get_submodule(path)
        if not isinstance(layer, nn.Linear):
            raise BundleError(
                f"{folder} adapts {path}, a {type(layer).__name__}; a bundle adapts linear layers "
                "only. Train without it: PEFT takes 'proj' for every name that ends so; "
                "exclude_modules=['patch_embed.proj'] leaves that one out"
            )
    there = {
        name.removeprefix(_PREFIX).partition(".lora_")[0] for name in tensors if ".lora_" in name
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
        preprocessing=backbone.preprocessing,
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
