"""Continues from a bundle: its base and adapter become a run's options, its tensors the start.

The adapter must be one of vitlora's, and a bundle's values are never classes to import.
"""

import inspect
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

from vitlora.adapters import FullFineTuning, LinearProbe, Lora
from vitlora.bundle.checkpoint import Bundle
from vitlora.bundle.folder import RUN_CONFIG
from vitlora.bundle.record import is_network_path
from vitlora.data.folder import DRAW
from vitlora.data.preprocessing import CropMode
from vitlora.errors import BundleError, UsageError, VitloraError, printable, shown
from vitlora.training.classifier import Classifier
from vitlora.training.inherited import check, options_in

_METHODS = {method.__name__: method for method in (Lora, LinearProbe, FullFineTuning)}
_PLAIN = {"eva": "lora", "loftq": "lora", "pissa": "lora", "olora": "lora"}  # after training
_DOUBLED = ("pissa", "olora")  # a bundle stores their initial matrices and the learnt ones


def options_of(
    bundle: Bundle, given: Iterable[Mapping[str, Any]], typed: Iterable[str]
) -> dict[str, Any]:
    """Returns the options of a run that continues from a bundle: name -> value.

    Args:
        bundle: The bundle.
        given: Contents of the config files; later ones override earlier ones.
        typed: Names of the options on the command line.

    Raises:
        UsageError: A config or an option asks for another base or adapter than the bundle's.
        BundleError: The bundle does not say how its adapter was made.
    """
    record, run = bundle.record, options_in(bundle, "model")
    adapter = _adapter(bundle, run)
    values: dict[str, Any] = {
        "backbone": record.backbone,
        "image_size": record.preprocessing.image_size,
        "crop_mode": run.get("crop_mode"),
        "head": record.head,
        "quantization": record.storage.quantization,
        "block_size": record.storage.block_size,
        "adapter": _once_trained(adapter),
    }
    for name in typed:
        key = name.removeprefix("--model.").partition(".")[0]
        if (name.startswith("--model.") and key in values) or name in (
            "--model",
            "--data.known_classes",
            "--data.srgb",
        ):
            raise UsageError(
                f"{name} cannot be combined with --from, which keeps that of {bundle.folder}; "
                "leave it out"
            )
    srgb = record.preprocessing.srgb
    asked: dict[str, Any] = {}
    for config in given:
        model, data = config.get("model"), config.get("data")
        if isinstance(data, dict) and data.get("srgb", srgb) != srgb:
            raise UsageError(
                f"the config sets data.srgb to {_shown(data['srgb'])}, but {bundle.folder} was "
                f"trained with {_shown(srgb)}, which --from keeps; leave it out of the config"
            )
        asked |= _flat(model if isinstance(model, dict) else {})
    before, now = _flat({**run, "adapter": adapter}), _flat(values)
    for key, value in asked.items():
        if key in now and value is not None and value not in (before.get(key), now[key]):
            had = now[key] if before.get(key) is None else before[key]
            raise UsageError(
                f"the config sets model.{key} to {_shown(value)}, but {bundle.folder} has "
                f"{_shown(had)}, which --from keeps; leave it out of the config"
            )
    if record.method == "FullFineTuning":  # the bundle holds every weight
        values["weights"] = "none"
    elif bundle.weights and not asked.get("weights"):
        values["weights"] = bundle.weights
    options = {f"model.{key}": value for key, value in values.items()}
    return {**options, "data.known_classes": list(record.classes), "data.srgb": srgb}


def split_of(bundle: Bundle) -> dict[str, Any]:
    """Returns the ``data`` options of a bundle's random split, if it had one.

    They split new pictures; the bundle's ``usage`` records the split of the others.
    """
    drawn = bundle.record.split.get("drawn") or {}
    options = {DRAW[key]: value for key, value in drawn.items() if key in DRAW}
    if is_network_path(str(options.get("groups", ""))):
        del options["groups"]
    return options


def unsure_of(bundle: Bundle) -> dict[str, float]:
    """Returns the options under ``unsure`` that chose a bundle's threshold."""
    learnt = bundle.record.confidence
    return {} if learnt is None else {f"unsure.{name}": x for name, x in learnt.rule.items()}


def start(model: Classifier, bundle: Bundle) -> None:
    """Makes a model with the options of ``options_of`` continue from the bundle.

    Raises:
        BundleError: The model's preprocessing is not the bundle's. A wrong base is found later,
            when it is read.
    """
    record, backbone = bundle.record, model.backbone
    if record.method == "FullFineTuning":  # the bundle replaces all weights of the base
        backbone.load()
        backbone.digest = record.base_digest
    trained = record.preprocessing  # its scale was found in training; there is no option for it
    backbone.preprocessing = replace(
        backbone.preprocessing, value_range=trained.value_range, srgb=trained.srgb
    )
    if backbone.preprocessing != record.preprocessing:
        raise BundleError(
            f"{bundle.folder / RUN_CONFIG} does not describe the preprocessing of {bundle.folder}, "
            "so training cannot continue from it"
        )
    model.start_from(record.storage, bundle.tensors, bundle.peft, bundle.check_base)


def check_output(output: Path, bundle: Bundle) -> None:
    """Refuses to overwrite the bundle that training continues from.

    Raises:
        UsageError: The output is that bundle's folder.
    """
    if output.resolve() == bundle.folder.resolve():
        raise UsageError(
            f"--output and --from are both {output}, which is not overwritten; choose another "
            "--output"
        )


def _adapter(bundle: Bundle, run: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the adapter of a run: one of vitlora's, with all its options."""
    where = bundle.folder / RUN_CONFIG
    check(where, "model", {"crop_mode": run.get("crop_mode")}, {"crop_mode": CropMode | None})
    adapter = adapter_of(where, run.get("adapter"))
    if adapter["class_path"] != bundle.record.method:
        raise _without_adapter(where, adapter["class_path"])
    return adapter


def adapter_of(where: Path, adapter: object) -> dict[str, Any]:
    """Returns an adapter that a file names: one of vitlora's, with all its options, checked.

    Args:
        where: The file, for the message.
        adapter: What it says.

    Raises:
        BundleError: It is no adapter.
    """
    named = str(adapter.get("class_path") if isinstance(adapter, dict) else adapter)
    method = named.rpartition(".")[2]
    if method not in _METHODS:
        raise _without_adapter(where, named)
    options = adapter.get("init_args") if isinstance(adapter, dict) else None
    options = options if isinstance(options, dict) else {}
    known = inspect.signature(_METHODS[method]).parameters.values()
    init = {option.name: options.get(option.name, option.default) for option in known}
    hints = get_type_hints(_METHODS[method].__init__) if init else {}
    check(where, "model.adapter", init, hints)
    try:
        _METHODS[method](**init)
    except VitloraError:
        raise BundleError(f"{where} describes no adapter: {shown(options)}") from None
    return {"class_path": method, "init_args": init}


def _without_adapter(where: Path, named: str) -> BundleError:
    return BundleError(
        f"{where} does not say how its adapter was made (model.adapter is {shown(named)}), so "
        "training cannot continue from it; expected a file of 'vitlora fit'"
    )


def _once_trained(adapter: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the adapter as the bundle stores it, without its special initialisation.

    PiSSA and OLoRA are saved as LoRA of twice the rank; see ``Lora.tensors``.
    """
    init = dict(adapter["init_args"])
    variant = init.get("variant", "lora")
    if variant in _DOUBLED:
        ranks = {name: 2 * rank for name, rank in (init["ranks"] or {}).items()}
        init |= {"rank": 2 * init["rank"], "alpha": 2 * init["alpha"], "ranks": ranks}
    if variant in _PLAIN:
        init["variant"] = _PLAIN[variant]
    return {"class_path": adapter["class_path"], "init_args": init}


def _flat(model: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of a model; those of its adapter are named ``adapter.rank`` and so on."""
    adapter = model.get("adapter")
    if isinstance(adapter, str):
        adapter = {"class_path": adapter}
    if not isinstance(adapter, dict):
        return dict(model)
    init = adapter.get("init_args")
    options = init if isinstance(init, dict) else {}
    named = adapter.get("class_path")  # absent where a config only sets the default's options
    return {
        **model,
        "adapter": None if named is None else str(named).rpartition(".")[2],
        **{f"adapter.{key}": value for key, value in options.items()},
    }


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return printable(text, 80)
