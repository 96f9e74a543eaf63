"""The adopt command against plain PEFT's own forward pass."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from runs import BACKBONE
from safetensors.torch import load_file, save_file
from torch import nn

from vitlora.backbones import load_backbone
from vitlora.bundle.checkpoint import load_bundle
from vitlora.bundle.lora_options import check_known
from vitlora.cli.main import main as vitlora
from vitlora.commands.adopt import adopt as command
from vitlora.errors import VitloraError
from vitlora.prediction.predictor import Predictor
from vitlora.quantization import Storage, dequantize

TENSORS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
QKV = "base_model.model.blocks.0.attn.qkv"
CASES: dict[str, dict[str, Any]] = {
    "list of ends": {"target_modules": ["qkv", "fc1"]},
    "regex": {"target_modules": r"blocks\.[2-4]\.(attn\.proj|mlp\.fc2)"},
    "all-linear": {"target_modules": "all-linear"},
    "rslora": {"target_modules": ["qkv"], "use_rslora": True},
    "dora": {"target_modules": ["qkv", "fc2"], "use_dora": True},
    "patterns": {
        "target_modules": ["qkv", "fc1", "fc2"],
        "rank_pattern": {"fc1": 2, r"blocks\.3\.attn\.qkv": 7},
        "alpha_pattern": {"mlp.fc2": 3},
    },
    "norms": {"target_modules": ["qkv"], "modules_to_save": ["head", "norm", "norm1"]},
    "all biases": {"target_modules": ["qkv"], "bias": "all"},
    "biases": {"target_modules": ["fc2"], "bias": "lora_only"},
    "some blocks": {
        "target_modules": ["qkv"],
        "layers_to_transform": [1, 3],
        "layers_pattern": "blocks",
    },
    "one block": {"target_modules": ["qkv"], "layers_to_transform": 4, "layers_pattern": "blocks"},
    "excluded": {"target_modules": ["proj"], "exclude_modules": ["patch_embed.proj"]},
    "gaussian": {"target_modules": ["qkv"], "init_lora_weights": "gaussian"},
}


def base() -> nn.Module:
    """Returns the base as PEFT's users have it: a plain ViT whose head is random."""
    module = load_backbone(BACKBONE, 3, "none", 32).module
    nn.init.normal_(module.head.weight)  # pyright: ignore
    return module


def save(folder: Path, **options: Any) -> nn.Module:
    """Writes a plain PEFT adapter with noise in all its tensors; returns its network."""
    torch.manual_seed(0)
    config = LoraConfig(**{"r": 4, "lora_alpha": 6, "modules_to_save": ["head"], **options})
    network = get_peft_model(base(), config)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    network.save_pretrained(str(folder), save_embedding_layers=False)
    return network.eval()


def adopt(folder: Path, output: Path, *more: str, classes: str = "can, glass,tyre") -> int:
    words = ["--backbone", BACKBONE, "--weights", "none", "--image-size", "32", *more]
    return vitlora(["adopt", str(folder), "--classes", classes, "--output", str(output), *words])


def refused(folder: Path, output: Path, message: str, classes: str = "can,glass,tyre") -> str:
    """Returns what the function raises, in one line that holds a message."""
    options: dict[str, Any] = {"backbone": BACKBONE, "weights": "none", "image_size": 32}
    with pytest.raises(VitloraError, match=message) as caught:
        command(folder, classes=classes.split(","), output=output, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", CASES)
def test_adopted_bundle_says_what_peft_says(
    name: str, tmp_path: Path, images: torch.Tensor
) -> None:
    network = save(tmp_path / "peft", **CASES[name])
    assert adopt(tmp_path / "peft", tmp_path / "bundle") == 0
    with torch.no_grad():
        expected, got = (
            network(images),
            Predictor(tmp_path / "bundle", device="cpu").network(images),
        )
        unadapted = base()(images)
        reopened = PeftModel.from_pretrained(base(), str(tmp_path / "bundle")).eval()
        assert torch.allclose(reopened(images), expected, atol=1e-4)
    assert float((got - expected).abs().max()) <= 1e-4 * float(expected.std())
    assert float((unadapted - expected).abs().max()) > 0.1 * float(expected.std())


def test_four_bit_base_is_rounded(tmp_path: Path, images: torch.Tensor) -> None:
    save(tmp_path / "peft", target_modules=["qkv", "fc1"])
    adopt(tmp_path / "peft", tmp_path / "bundle", "--quantization", "nf4")
    module = base()
    exact = PeftModel.from_pretrained(base(), str(tmp_path / "peft")).eval()
    dequantize(module, Storage("nf4"))
    network = PeftModel.from_pretrained(module, str(tmp_path / "peft")).eval()
    with torch.no_grad():
        got = Predictor(tmp_path / "bundle", device="cpu").network(images)
        assert torch.allclose(got, network(images), atol=1e-4)
        assert not torch.allclose(got, exact(images), atol=1e-2)


def test_bundle_names_its_layers_and_its_classes(tmp_path: Path) -> None:
    save(tmp_path / "peft", target_modules=["qkv"])
    adopt(tmp_path / "peft", tmp_path / "bundle", classes="tyre,can,glass")
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.record.classes == ("tyre", "can", "glass")
    assert (bundle.record.method, bundle.record.head) == ("Lora", "full")
    assert bundle.record.storage == Storage()
    assert bundle.peft is not None
    assert bundle.peft["target_modules"] == r"blocks\.(0|1|2|3|4|5)\.attn\.qkv"
    assert bundle.peft["base_model_name_or_path"] == BACKBONE


def test_predict_validate_and_test_take_the_bundle(
    tmp_path: Path, make_folder: Any, capsys: Any
) -> None:
    network = save(tmp_path / "peft", target_modules=["qkv"])
    adopt(tmp_path / "peft", tmp_path / "bundle", classes="tyre,can,glass")
    root = make_folder(tmp_path / "data", ("can", "glass", "tyre"), ("train", "val", "test"))
    words = ["--checkpoint", str(tmp_path / "bundle"), "--data.root", str(root)]
    bundle = load_bundle(tmp_path / "bundle")
    transform, hits = bundle.record.preprocessing.transform(), 0
    for label, name in enumerate(bundle.record.classes):
        for path in (root / "test" / name).iterdir():
            with torch.no_grad():
                logits = network(transform(Image.open(path))[None])
            hits += int(logits.argmax()) == label
    for scoring in ("validate", "test"):
        assert vitlora([scoring, *words, "--json", str(tmp_path / "x.json")]) == 0
    scores = json.loads((tmp_path / "x.json").read_text())
    assert scores["accuracy"] == pytest.approx(hits / 12, abs=1e-5)
    picture = next((root / "val" / "can").iterdir())
    assert vitlora(["predict", str(picture), "--checkpoint", str(tmp_path / "bundle")]) == 0
    assert any(name in capsys.readouterr().out for name in bundle.record.classes)


def test_default_output_is_named_as_the_adapter(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "mine", target_modules=["qkv"])
    words = ["--backbone", BACKBONE, "--weights", "none", "--image-size", "32"]
    assert vitlora(["adopt", "mine", "--classes", "a", "--classes", "b,c", *words]) == 0
    assert load_bundle(tmp_path / "checkpoints" / "mine").record.classes == ("a", "b", "c")


def test_what_is_printed_says_where_and_what_next(tmp_path: Path, capsys: Any) -> None:
    save(tmp_path / "peft", target_modules=["qkv"])
    assert adopt(tmp_path / "peft", tmp_path / "my bundle", "--json", str(tmp_path / "x.json")) == 0
    said, out = capsys.readouterr(), tmp_path / "my bundle"
    lines = said.out.splitlines()
    assert lines[0].startswith(f"bundle   {out}  (") and lines[0].endswith(", 6 layers adapted")
    assert lines[2] == f'test     vitlora test --checkpoint "{out}" --data FOLDER'
    assert said.err.startswith("note: PEFT does not save the base weights, order of classes")
    found = json.loads((tmp_path / "x.json").read_text())
    assert (found["checkpoint"], found["backbone"]) == (str(out), BACKBONE)
    assert found["classes"] == ["can", "glass", "tyre"] and len(found["layers"]) == 6
    assert f"({found['bytes']:,} bytes)" in lines[0]


def edit(folder: Path, **fields: Any) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def change(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Sets tensors of an adapter by name; None takes one out."""
    state: dict[str, Any] = {**load_file(folder / TENSORS), **tensors}
    save_file({k: v for k, v in state.items() if v is not None}, folder / TENSORS)


def _pickled(folder: Path) -> None:
    (folder / TENSORS).write_bytes(pickle.dumps({"a": 1}))


def _only_bin(folder: Path) -> None:
    (folder / TENSORS).unlink()
    (folder / "adapter_model.bin").write_bytes(b"x")


def _truncated(folder: Path) -> None:
    path = folder / TENSORS
    path.write_bytes(path.read_bytes()[:-100])


def _without(end: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        names = [name for name in load_file(folder / TENSORS) if name.endswith(end)]
        assert names
        change(folder, **dict.fromkeys(names))

    return damage


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "pickle in disguise": (_pickled, "torn or no safetensors file"),
    "only a pickle": (_only_bin, r"adapter_model.bin, a pickle.*safe_serialization=True"),
    "truncated": (_truncated, "torn or no safetensors file"),
    "no config": (lambda f: (f / CONFIG).unlink(), "has no adapter_config.json"),
    "config no json": (lambda f: (f / CONFIG).write_text("{") and None, "is not JSON"),
    "config a list": (
        lambda f: (f / CONFIG).write_text("[]") and None,
        "describes a list; expected",
    ),
    "other method": (lambda f: edit(f, peft_type="LOHA"), "describes 'LOHA'; expected LORA"),
    "method in two lines": (
        lambda f: edit(f, peft_type="LO\nHA"),
        r"describes 'LO\\nHA'; expected",
    ),
    "start in two lines": (
        lambda f: edit(f, init_lora_weights="a\x1b\nb"),
        r"started as 'a\\x1b\\nb', which changed",
    ),
    "base in two lines": (
        lambda f: edit(f, base_model_name_or_path="timm/vit_tiny_patch16_224.a\nb"),
        r"made for timm/vit_tiny_patch16_224.a\\nb",
    ),
    "pissa": (lambda f: edit(f, init_lora_weights="pissa_niter_4"), "path_initial_model_for"),
    "olora": (lambda f: edit(f, init_lora_weights="olora"), "path_initial_model_for"),
    "corda": (lambda f: edit(f, init_lora_weights="corda"), "path_initial_model_for"),
    "a newer option": (
        lambda f: edit(f, use_wonders=True),
        "has 'use_wonders', which this vitlora",
    ),
    "a newer number": (lambda f: edit(f, wonders=0), "has 'wonders', which this vitlora"),
    "velora": (lambda f: edit(f, velora_config={"scale": 1.0}), "has 'velora_config', which"),
    "a rank for no pattern": (lambda f: edit(f, rank_pattern={"(": 2}), "rank_pattern is no"),
    "ranks in a list": (lambda f: edit(f, rank_pattern=[["x"]]), "rank_pattern is no"),
    "lora bias": (lambda f: edit(f, lora_bias=True), "has 'lora_bias', which"),
    "no target": (lambda f: edit(f, target_modules=["query"]), r"\['query'\] names no layer"),
    "null target": (lambda f: edit(f, target_modules=None), "names no layer"),
    "bad regex": (lambda f: edit(f, target_modules="blocks.("), "names no modules"),
    "slow regex": (
        lambda f: edit(f, target_modules="(.*.*)*Z"),
        "target_modules is .* expected names of layers .* a list of names",
    ),
    "slow exclusion": (lambda f: edit(f, exclude_modules="(.*.*)*Z"), "exclude_modules is"),
    "slow module": (lambda f: edit(f, modules_to_save=["(.*.*)*Z"]), "modules_to_save is"),
    "slow rank": (lambda f: edit(f, rank_pattern={"(.*.*)*Z": 2}), "rank_pattern is"),
    "fewer targets": (
        lambda f: edit(f, target_modules=r"blocks\.[1-5]\.attn\.qkv"),
        "tensors for 1 layers that .* does not name, .* first blocks.0.attn.qkv",
    ),
    "missing layer": (
        lambda f: change(f, **{f"{QKV}.lora_A.weight": None, f"{QKV}.lora_B.weight": None}),
        "no tensors for 1 of the 6 layers .* first blocks.0.attn.qkv",
    ),
    "missing half": (
        _without("0.attn.qkv.lora_B.weight"),
        "qkv.* lora_B is missing",
    ),
    "extra layer": (
        lambda f: change(f, **{"base_model.model.vit.qkv.lora_A.weight": torch.ones(4, 160)}),
        "tensors for 1 layers .* first vit.qkv",
    ),
    "extra tensor": (
        lambda f: change(f, **{"base_model.model.fc_norm.weight": torch.ones(160)}),
        "no place for: base_model.model.fc_norm.weight",
    ),
    "misshapen": (
        lambda f: change(f, **{f"{QKV}.lora_A.weight": torch.ones(4, 100)}),
        r"makes \(480, 100\), the backbone has \(480, 160\)",
    ),
    "rank": (
        lambda f: change(
            f,
            **{
                f"{QKV}.lora_A.weight": torch.ones(3, 160),
                f"{QKV}.lora_B.weight": torch.ones(480, 3),
            },
        ),
        "has rank 3, but .* says rank 4",
    ),
    "not finite": (
        lambda f: change(f, **{f"{QKV}.lora_A.weight": torch.full((4, 160), torch.nan)}),
        "qkv.lora_A.weight holds numbers that are not finite",
    ),
    "no head": (_without(".head.weight"), r"holds no head .*modules_to_save=\['head'\]"),
    "head a number": (
        lambda f: change(f, **{"base_model.model.head.weight": torch.ones(())}),
        r"the head's weight is \(\); expected \(3, width\)",
    ),
    "no head bias": (_without(".head.bias"), "lacks 1 tensors, first for head.bias"),
    "no norm": (
        lambda f: edit(f, modules_to_save=["head", "norm"]),
        "lacks 2 tensors, first for norm.bias",
    ),
    "no biases": (
        lambda f: edit(f, bias="lora_only"),
        "lacks 6 tensors, first for blocks.0.attn.qkv.bias",
    ),
    "no magnitudes": (lambda f: edit(f, use_dora=True), "without a magnitude"),
    "other base": (
        lambda f: edit(f, base_model_name_or_path="timm/vit_tiny_patch16_224.augreg_in21k"),
        "says the adapter was made for timm/vit_tiny_patch16_224.augreg_in21k",
    ),
    "a bundle": (lambda f: (f / "vitlora.json").write_text("{}") and None, "is already a bundle"),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: Any) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("good")
    save(folder, target_modules=["qkv"])
    return {name: (folder / name).read_bytes() for name in (TENSORS, CONFIG)}


@pytest.mark.parametrize("name", BAD)
def test_bad_adapter_is_refused_in_one_line(
    name: str, good: dict[str, bytes], tmp_path: Path
) -> None:
    damage, message = BAD[name]
    folder = tmp_path / "peft"
    folder.mkdir()
    for file, content in good.items():
        (folder / file).write_bytes(content)
    damage(folder)
    refused(folder, tmp_path / "bundle", message)
    assert not (tmp_path / "bundle").exists()


def test_a_head_of_another_size_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "peft", target_modules=["qkv"])
    message = r"2 classes \(a, b\), but .* has 3 outputs"
    refused(tmp_path / "peft", tmp_path / "bundle", message, classes="a,b")


@pytest.mark.parametrize("classes", ["", "a", "a,a,b", "a,,b", ","])
def test_odd_classes_are_refused(classes: str, tmp_path: Path, capsys: Any) -> None:
    refused(
        tmp_path,
        tmp_path / "bundle",
        "--classes is .* expected at least 2 different names",
        classes,
    )
    assert adopt(tmp_path, tmp_path / "bundle", classes=classes) == 2
    assert f"--classes is '{classes}'; expected at least 2" in capsys.readouterr().err


def test_an_adapted_convolution_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "peft", target_modules=["proj"])
    message = r"adapts patch_embed.proj, a Conv2d; .*exclude_modules"
    refused(tmp_path / "peft", tmp_path / "bundle", message)


def test_a_head_trained_as_lora_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "peft", target_modules=["qkv", "head"], modules_to_save=None)
    refused(tmp_path / "peft", tmp_path / "bundle", "holds no head")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    save(tmp_path / "peft", target_modules=["qkv"])
    adopt(tmp_path / "peft", tmp_path / "bundle")
    before = {path: path.read_bytes() for path in (tmp_path / "bundle").iterdir()}
    message = "already exists; choose another"
    refused(tmp_path / "peft", tmp_path / "bundle", message, classes="x,y,z")
    assert {path: path.read_bytes() for path in (tmp_path / "bundle").iterdir()} == before


def test_other_weights_than_adopted_are_refused_later(tmp_path: Path) -> None:
    save(tmp_path / "peft", target_modules=["qkv"])
    adopt(tmp_path / "peft", tmp_path / "bundle")
    state = base().state_dict()
    state["blocks.0.attn.qkv.weight"] = state["blocks.0.attn.qkv.weight"] + 0.01
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(VitloraError, match=r"does not hold the weights|other weights"):
        Predictor(tmp_path / "bundle", weights=tmp_path / "other.safetensors")


def test_newer_options_that_are_off_do_not_matter(tmp_path: Path) -> None:
    save(tmp_path / "peft", target_modules=["qkv"])
    edit(tmp_path / "peft", use_wonders=False, wonders=None, more=[], config={}, peft_version="9")
    assert adopt(tmp_path / "peft", tmp_path / "bundle") == 0


def test_every_option_of_the_installed_peft_is_off_or_known() -> None:
    check_known(LoraConfig().to_dict())


@pytest.mark.parametrize(
    ("layer", "head", "library"),
    [
        ("vit.encoder.layer.0.attention.attention.query", "classifier", "Hugging Face"),
        ("vit.layers.0.attention.q_proj", "classifier", "Hugging Face"),
        ("dinov2.encoder.layer.3.mlp.fc1", "classifier", "Hugging Face"),
        ("vision_model.encoder.layers.0.self_attn.q_proj", "classifier", "Hugging Face"),
        ("timm_model.blocks.0.attn.qkv", "timm_model.head", "inside Hugging Face transformers"),
        ("encoder.layers.encoder_layer_0.mlp.0", "heads.head", "torchvision"),
        ("visual.transformer.resblocks.0.mlp.c_fc", "head", "open_clip"),
        ("model.layers.0.self_attn.q_proj", "score", "a language model"),
    ],
)
def test_an_adapter_for_another_librarys_vit_is_told_what_it_is(
    layer: str, head: str, library: str, tmp_path: Path
) -> None:
    start = "base_model.model."
    tensors = {
        f"{start}{layer}.lora_A.weight": torch.ones(4, 32),
        f"{start}{layer}.lora_B.weight": torch.ones(32, 4),
        f"{start}{head}.weight": torch.ones(3, 32),
        f"{start}{head}.bias": torch.ones(3),
    }
    LoraConfig(
        r=4, target_modules=[layer], base_model_name_or_path="google/vit-base-patch16-224"
    ).save_pretrained(str(tmp_path))
    save_file(tensors, tmp_path / TENSORS)
    said = refused(tmp_path, tmp_path / "bundle", f"is an adapter for .*{library}")
    assert layer in said
    assert "google/vit-base-patch16-224" in said


@pytest.mark.parametrize(
    ("layer", "named", "message"),
    [
        (
            "layers.0.blocks.0.attn.qkv",
            "timm/swin_tiny_patch4_window7_224.ms_in1k",
            "an adapter for timm's swin_tiny_patch4_window7_224, which vitlora does not run",
        ),
        (
            "timm_model.blocks.0.attn.qkv",
            "timm/vit_tiny_patch16_224.augreg_in21k",
            "an adapter for a timm model inside Hugging Face transformers",
        ),
        (
            "stages.0.blocks.0.mlp.fc1",
            "",
            "changes 'stages.0.blocks.0.mlp.fc1', which no plain timm ViT has",
        ),
    ],
)
def test_an_adapter_for_another_model_is_told_so(
    layer: str, named: str, message: str, tmp_path: Path
) -> None:
    start = "base_model.model."
    LoraConfig(r=4, target_modules=[layer], base_model_name_or_path=named).save_pretrained(
        str(tmp_path)
    )
    parts = {f"{start}{layer}.lora_A.weight": torch.ones(4, 32)}
    save_file({**parts, f"{start}head.fc.weight": torch.ones(3, 32)}, tmp_path / TENSORS)
    refused(tmp_path, tmp_path / "bundle", message)
