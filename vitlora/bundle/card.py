"""The model card of a bundle, which the Hugging Face hub shows."""

import json
import re
from collections.abc import Mapping
from pathlib import PureWindowsPath
from typing import Any

import torch
import yaml
from timm.models import get_pretrained_cfg

from vitlora.bundle.record import Record
from vitlora.data.value_range import range_text
from vitlora.quantization import Storage

_MOST_CLASSES = 50  # names to list, so that the card stays small
_METHODS = {"LinearProbe": "linear probe", "FullFineTuning": "full fine-tuning"}
_METRICS = {"accuracy": ("accuracy", "accuracy"), "macro_f1": ("f1", "macro-F1")}


def model_card(
    record: Record, tensors: Mapping[str, torch.Tensor], peft: Mapping[str, Any] | None
) -> str:
    """Returns a bundle's ``README.md``: the hub's metadata in YAML, then Markdown.

    It contains nothing that is not in the bundle, and no local path except the data folder's name.

    Args:
        record: The contents of ``vitlora.json``.
        tensors: Adapter and head.
        peft: The contents of ``adapter_config.json``; None if the bundle has no LoRA.
    """
    method = _method(record, peft)
    title = f"{_data_name(record)}: {record.backbone.partition('/')[2]}, {method}"
    metadata = yaml.safe_dump(
        _metadata(record, peft, title, method), sort_keys=False, allow_unicode=True
    )
    sections = [
        f"---\n{metadata}---",
        f"# {_escaped(title)}",
        "An image classifier made with vitlora. The frozen Vision Transformer it was trained on is "
        "not part of it."
        if record.method != "FullFineTuning"
        else "An image classifier made with vitlora; every weight of it was trained.",
        _facts(record, tensors, peft, method),
        _scores(record),
        f"## Classes, in the order of the outputs\n\n```text\n{_classes(record)}\n```",
        "## Use\n\nWith vitlora, where `DIR` is the folder of these files:\n\n"
        "```\nvitlora predict --checkpoint DIR IMAGE.jpg\n```",
    ]
    if peft is not None:
        sections.append(f"With plain PEFT:\n\n```python\n{_peft_code(record)}\n```")
    return "\n\n".join(filter(None, sections)) + "\n"


def _metadata(
    record: Record, peft: Mapping[str, Any] | None, title: str, method: str
) -> dict[str, Any]:
    """Returns the fields of https://huggingface.co/docs/hub/model-cards that a bundle knows."""
    tags = ["vitlora", "vision-transformer", method.lower().replace(" ", "-")]
    fields: dict[str, Any] = {
        "library_name": "vitlora" if peft is None else "peft",
        "pipeline_tag": "image-classification",
        "tags": tags + (["qlora"] if peft and record.storage.quantization != "none" else []),
    }
    if base := _hub_id(record):
        whole = record.method == "FullFineTuning"
        fields |= {"base_model": base, "base_model_relation": "finetune" if whole else "adapter"}
    metrics = [
        {"type": kind, "name": name, "value": record.metrics[key]}
        for key, (kind, name) in _METRICS.items()
        if key in record.metrics
    ]
    if metrics:
        data = {"type": "imagefolder", "name": _data_name(record), "split": "validation"}
        task = {"type": "image-classification"}
        result = {"task": task, "dataset": data, "metrics": metrics}
        fields["model-index"] = [{"name": title, "results": [result]}]
    return fields


def _facts(
    record: Record,
    tensors: Mapping[str, torch.Tensor],
    peft: Mapping[str, Any] | None,
    method: str,
) -> str:
    seen, storage = record.preprocessing, record.storage
    counts = ", ".join(f"{sum(n)} {part}" for part, n in record.split["counts"].items())
    drawn = record.split.get("drawn")
    kept = storage.dtype if storage.quantization == "none" else storage.quantization.upper()
    start = "random start" if record.weights == "none" else f"SHA-256 `{record.base_digest[:12]}…`"
    stored = sum(t.numel() for t in tensors.values() if t.is_floating_point())
    rows = {
        "base": f"`{record.backbone}`, {start}"
        + ("" if record.method == "FullFineTuning" else f", kept in {kept}"),
        "stored": f"{method}{_ranks(peft)}; {stored:,} numbers",
        "pictures": f"{counts}, of the folder {_escaped(_data_name(record))}"
        + (f", drawn by seed {drawn['seed']}" if drawn else "")
        if counts
        else "not known",
        "input": f"RGB, {seen.image_size} x {seen.image_size}: {seen.crop_mode}, crop_pct "
        f"{seen.crop_pct:.4g}, {seen.interpolation}, mean {_rounded(seen.mean)}, "
        f"std {_rounded(seen.std)}"
        + (
            f"; values {range_text(seen.value_range)} of files deeper than 8 bits become 0 to 255"
            if seen.value_range
            else ""
        )
        + f"; colour profiles are {'turned into sRGB' if seen.srgb else 'ignored'}",
        "made": f"{record.created[:10]}, "
        + ", ".join(f"{name} {version}" for name, version in record.libraries.items()),
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items())])


def _scores(record: Record) -> str:
    metrics = record.metrics
    if not metrics:
        return "It was never validated, so nobody knows how good it is."
    names = {"accuracy": "accuracy", "macro_f1": "macro-F1", "loss": "loss", "images": "pictures"}
    shown = {name: metrics[key] for key, name in names.items() if key in metrics}
    cells = [str(v) if name == "pictures" else f"{v:.4f}" for name, v in shown.items()]
    return (
        "## Validation\n\n"
        f"| {' | '.join(shown)} |\n|{'---|' * len(shown)}\n| {' | '.join(cells)} |\n\n"
        "Epochs were compared by these numbers, so new pictures may score a little lower."
    )


def _classes(record: Record) -> str:
    """Returns a line for each class; names are JSON, so that none can end the code block."""
    shown = record.classes[:_MOST_CLASSES]
    lines = [f"{i:>2}  {json.dumps(name, ensure_ascii=False)}" for i, name in enumerate(shown)]
    more = len(record.classes) - len(shown)
    return "\n".join(lines + ([f"and {more} more: see vitlora.json"] if more else []))


def _peft_code(record: Record) -> str:
    """Returns Python code that opens the bundle in ``DIR`` on the base that training used."""
    source, _, name = record.backbone.partition("/")
    shape = f"num_classes={len(record.classes)}"
    size = record.preprocessing.image_size
    rounded = record.storage != Storage()
    if _hub_id(record):
        imports = ["import timm", "from peft import PeftModel"]
        model = f'timm.create_model(\n    "{name}", pretrained=True, {shape}, img_size={size}\n)'
    else:
        imports = ["from peft import PeftModel", "from vitlora.backbones import load_backbone"]
        weights = ', weights="none"' if record.weights == "none" else ""
        model = (
            f'load_backbone(\n    "{source}/{name}", {shape}{weights}, image_size={size}\n).module'
        )
    lines = [
        *imports,
        *(["from vitlora.quantization import Storage, dequantize"] if rounded else []),
        f"\nmodel = {model}",
        *([f"dequantize(model, {record.storage!r})  # as in training"] if rounded else []),
        'model = PeftModel.from_pretrained(model, "DIR").eval()',
    ]
    return "\n".join(lines)


def _method(record: Record, peft: Mapping[str, Any] | None) -> str:
    if peft is None:
        return _METHODS.get(record.method, record.method)
    return "DoRA" if peft.get("use_dora") else "rsLoRA" if peft.get("use_rslora") else "LoRA"


def _ranks(peft: Mapping[str, Any] | None) -> str:
    if peft is None:
        return ""
    ranks = [peft["r"], *(peft.get("rank_pattern") or {}).values()]
    alphas = [peft["lora_alpha"], *(peft.get("alpha_pattern") or {}).values()]
    return f" of rank {_range(ranks)}, alpha {_range(alphas)}"


def _range(values: list[float]) -> str:
    return " to ".join(f"{value:g}" for value in dict.fromkeys((min(values), max(values))))


def _hub_id(record: Record) -> str | None:
    """Returns the hub's name of the base's published weights; None if there are none."""
    source, _, name = record.backbone.partition("/")
    if source != "timm" or record.weights == "none":
        return None
    try:
        cfg = get_pretrained_cfg(name)
    except RuntimeError:  # weights that only another version of timm knows
        return None
    return cfg.hf_hub_id if cfg is not None else None


def _data_name(record: Record) -> str:
    """Returns the name of the data folder, never its path; works for paths of any system."""
    return " ".join(PureWindowsPath(record.split["root"]).name.split()) or "pictures"


def _escaped(text: str) -> str:
    """Escapes text so that Markdown shows it unchanged, also in a table."""
    return re.sub(r"([\\`*_\[\]<>|#~&])", r"\\\1", text)


def _rounded(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4g}" for value in values)
