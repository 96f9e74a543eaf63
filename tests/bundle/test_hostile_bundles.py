"""Every field of a bundle replaced by nonsense, its sums right: one line, or it works."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import BACKBONE, micro
from safetensors.torch import save as dump

from vitlora.bundle.checkpoint import load_bundle, save_bundle
from vitlora.bundle.lora_options import LoraOptions
from vitlora.bundle.transaction import fields_digest
from vitlora.bundle.updates import read_changes
from vitlora.errors import BackboneError, BundleError
from vitlora.metrics.confidence import Confidence
from vitlora.metrics.reference import Reference
from vitlora.training.inherited import check

PEFT = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": r"blocks\.(0|1)\.attn\.qkv",
    "rank_pattern": {r"blocks\.1\.attn\.qkv": 2},
    "alpha_pattern": {r"blocks\.1\.attn\.qkv": 3},
    "modules_to_save": ["head"],
    "bias": "none",
    "use_dora": False,
    "use_rslora": False,
}
NONSENSE: list[Any] = [
    *(None, 0, -1, float("inf"), float("nan"), "", "x", "((", [], {}, [[]], [1], True),
    *(10**30, -(10**400), 0.5, {"x": 1}, {"(": 1}, {"(a+)+$": 1}, "(a|a)*" * 20 + "b"),
]


def _record() -> Any:
    from test_interrupted_saves import LEARNT, RECORD

    split = {
        "root": "photos",
        "counts": {"train": [3, 4], "val": [1, 1]},
        "digests": {"val": "0"},
        "drawn": {"val": 0.2, "test": 0.0, "seed": 0},
    }
    metrics = {"accuracy": 0.5, "images": 2}
    changes = {"backbone": BACKBONE, "split": split, "metrics": metrics, "confidence": LEARNT}
    return type(RECORD)(**{**vars(RECORD), **changes, "libraries": {"torch": "2"}})


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, start = tmp_path_factory.mktemp("hostile"), "base_model.model."
    module = micro(2).module
    record = _record()
    tensors = {f"{start}head.{n}": p.detach() for n, p in module.head.named_parameters()}  # pyright: ignore
    for block in range(2):
        tensors[f"{start}blocks.{block}.attn.qkv.lora_A.weight"] = torch.ones(2, 160)
        tensors[f"{start}blocks.{block}.attn.qkv.lora_B.weight"] = torch.ones(480, 2)
    size = torch.eye(8).half()
    reference = Reference(size[:2], size, torch.ones(()))
    save_bundle(folder, record, tensors, PEFT, "model: {}\n", None, reference)
    read_changes(load_bundle(folder), module)  # it is good before
    return folder


def replaced(fields: Any) -> Iterator[Any]:
    """Yields copies of nested fields with each of them, in turn, replaced by nonsense."""
    places = fields.items() if isinstance(fields, dict) else enumerate(fields)
    for key, value in list(places):
        if key in ("files", "digest", "format"):
            continue
        inner = replaced(value) if isinstance(value, dict | list) else iter(())
        for new in [*NONSENSE, *inner]:
            copy = fields.copy()
            copy[key] = new
            yield copy


def judged(folder: Path, module: Any) -> None:
    """Loads a bundle and fits it to its base: one line, or it works; never slowly."""
    begun = time.process_time()
    try:
        read = load_bundle(folder)
        read_changes(read, module)
        read.record.preprocessing.transform()
    except (BundleError, BackboneError) as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
    assert time.process_time() - begun < 5


def write(folder: Path, fields: dict[str, Any]) -> None:
    (folder / "vitlora.json").write_text(json.dumps({**fields, "digest": fields_digest(fields)}))


def test_nonsense_in_adapter_config_is_one_line(bundle: Path) -> None:
    record = json.loads((bundle / "vitlora.json").read_text())
    module = micro(2).module
    refused = 0
    for options in replaced(PEFT):
        content = json.dumps(options).encode()
        sums = {**record["files"], "adapter_config.json": hashlib.sha256(content).hexdigest()}
        (bundle / "adapter_config.json").write_bytes(content)
        write(bundle, {**record, "files": sums})
        judged(bundle, module)
        try:
            LoraOptions.from_json(json.loads(content))
        except ValueError:
            refused += 1
    assert refused > 100
    (bundle / "adapter_config.json").write_text(json.dumps(PEFT, indent=0, sort_keys=True) + "\n")
    write(bundle, record)
    load_bundle(bundle)


def test_nonsense_in_the_record_is_one_line(bundle: Path) -> None:
    record = json.loads((bundle / "vitlora.json").read_text())
    module = micro(2).module
    for fields in replaced(record):
        write(bundle, fields)
        judged(bundle, module)
    write(bundle, record)
    load_bundle(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank_pattern": {"(": 2}}, "rank_pattern is '\\('; expected names of layers"),
        ({"alpha_pattern": [1]}, r"alpha_pattern is \[1\]; expected names"),
        ({"target_modules": "(a+)+b"}, "target_modules is .* expected names"),
        ({"target_modules": ["qkv"]}, "target_modules is .* expected names"),
        ({"r": True}, "r is True; expected a whole number"),
        ({"lora_alpha": 10**400}, "lora_alpha is .* expected a number"),
        ({"use_bdlora": {"nblocks": 2}}, "has 'use_bdlora', which this vitlora does not know"),
        ({"use_wonders": True}, "has 'use_wonders', which this vitlora does not know"),
        ({"target_modules": ".*(.|.)(.|.)Z"}, "target_modules is .* expected names"),
        ({"target_modules": "(qkv|qkv)"}, "at most 256 names in a group, each once"),
        (
            {"target_modules": "(" + "|".join(f"a{i}" for i in range(257)) + ")"},
            "at most 256 names in a group, each once",
        ),
    ],
)
def test_what_cannot_be_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoraOptions.from_json({**PEFT, **change})


@pytest.mark.parametrize("whole", [torch.ones(()), torch.ones(0), torch.ones(2, 2, 2)])
@pytest.mark.parametrize("end", ["head.weight", "head.bias", "blocks.0.attn.qkv.lora_B.weight"])
def test_tensors_of_odd_shapes_are_one_line(bundle: Path, end: str, whole: torch.Tensor) -> None:
    read = load_bundle(bundle)
    odd = dataclasses.replace(read, tensors={**read.tensors, f"base_model.model.{end}": whole})
    with pytest.raises(BundleError, match=r"the backbone has|classes|that fits it") as caught:
        read_changes(odd, micro(2).module)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("end", ["head.weight", "blocks.0.attn.qkv.lora_A.weight"])
@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (torch.float8_e4m3fn, 1, "holds float8_e4m3fn"),
        (torch.complex64, 1, "holds complex64"),
        (torch.int64, 1, "holds int64"),
        (torch.bool, 1, "holds bool"),
        (torch.float64, 1e300, "not finite"),
        (torch.float16, float("nan"), "not finite"),
    ],
)
def test_tensors_of_odd_numbers_are_one_line(
    bundle: Path, end: str, kind: torch.dtype, value: float, message: str
) -> None:
    read, name = load_bundle(bundle), f"base_model.model.{end}"
    odd = torch.full(read.tensors[name].shape, value, dtype=torch.float64).to(kind)
    with pytest.raises(BundleError, match=message):
        read_changes(
            dataclasses.replace(read, tensors={**read.tensors, name: odd}), micro(2).module
        )


@pytest.mark.parametrize(
    "change",
    [
        {"means": torch.ones(())},
        {"means": torch.ones(0, 8).half()},
        {"means": torch.ones(2, 0).half(), "whitening": torch.ones(0).half()},
        {"means": torch.ones(2, 8).to(torch.float8_e4m3fn)},
        {"whitening": torch.ones(36, dtype=torch.int64)},
        {"scale": torch.ones((), dtype=torch.complex64)},
        {"scale": torch.zeros(())},
        {"scale": torch.ones(1)},
    ],
)
def test_a_reference_that_is_none_is_one_line(
    bundle: Path, change: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    shutil.copytree(bundle, tmp_path / "odd")
    record = json.loads((bundle / "vitlora.json").read_text())
    reference = load_bundle(bundle).reference
    assert reference is not None
    content = dump({**reference.tensors(), **change})
    (tmp_path / "odd" / "reference.safetensors").write_bytes(content)
    sums = {**record["files"], "reference.safetensors": hashlib.sha256(content).hexdigest()}
    write(tmp_path / "odd", {**record, "files": sums})
    with pytest.raises(BundleError, match="the reference") as caught:
        load_bundle(tmp_path / "odd")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        *({"coverage": -0.1}, {"coverage": 1.1}, {"error": -0.1}, {"error": 2}, {"images": 0}),
        *({"images": 2**31}, {"images": 1.5}, {"temperature": 0}, {"unsure_below": -0.1}),
        *({"unsure_below": 1.5}, {"calibration_error": [0.1, 7]}, {"confidences": [2] * 11}),
        *({"chosen_for": {"max_error": 0, "certainty": 0.9}}, {"chosen_for": {"coverage": 7}}),
        *({"unfamiliar_above": -1}, {"distances": [-1] * 11}, {"chosen_for": {"max_error": 1}}),
    ],
)
def test_a_confidence_out_of_range_is_refused(change: dict[str, Any]) -> None:
    fields = json.loads(json.dumps(dataclasses.asdict(_record().confidence)))
    assert Confidence.from_json(fields) == _record().confidence
    with pytest.raises(ValueError, match="confidence"):
        Confidence.from_json({**fields, **change})


@pytest.mark.parametrize("text", ["a\nb", "\x1b[31m", "\x9b2J", "\ud800", "x" * 200_000])
@pytest.mark.parametrize("field", ["classes", "weights", "metrics", "split", "method"])
def test_texts_that_do_not_print_are_refused(bundle: Path, field: str, text: str) -> None:
    record = json.loads((bundle / "vitlora.json").read_text())
    new = {
        "classes": ["a", text],
        "metrics": {text: 1.0},
        "split": {**record["split"], "root": text},
    }
    write(bundle, {**record, field: new.get(field, text)})
    with pytest.raises(BundleError, match="expected at most 4096 printable") as caught:
        load_bundle(bundle)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500
    write(bundle, record)
    record = dataclasses.replace(_record(), classes=("a", text))
    with pytest.raises(BundleError, match="could not be read again"):
        save_bundle(bundle / "new", record, {}, None, "")


@pytest.mark.parametrize("value", ["a\nb\x1b[31m", "x" * 200_000, ["\x9b"] * 10**4])
def test_values_of_a_run_are_shown_in_short(bundle: Path, value: Any) -> None:
    read = load_bundle(bundle)
    with pytest.raises(BundleError, match="does not accept") as caught:
        check(bundle / "config.yaml", "data", {"seed": value}, {"seed": int})
    said = str(caught.value).removeprefix(str(bundle))
    assert said.isprintable() and len(said) < 300
    with pytest.raises(BundleError, match="describes no run") as caught:
        dataclasses.replace(read, config="a: !%1B[2J" + "x" * 10**5 + " 1").run()
    said = str(caught.value).removeprefix(str(bundle))
    assert said.isprintable() and len(said) < 500
