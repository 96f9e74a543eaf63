import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import ModelCard
from runs import train
from safetensors.torch import save_file

from vitlora.adapters import FullFineTuning, LinearProbe, Lora
from vitlora.bundle.card import model_card
from vitlora.bundle.checkpoint import Bundle, load_bundle
from vitlora.training.classifier import Classifier

TINY = "test_vit.r160_in1k"  # timm's own model for testing
NASTY = [
    "a: b",
    "c | d",
    "# e",
    'f "g" `h`',
    "```",
    "- [i](j) *k*",
    "<b>l",
    "Conservas de café",
    "猫",
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: Any, make_folder: Any) -> Bundle:
    where = tmp_path_factory.mktemp("lora")
    train(make_folder(where / "jane" / "photos"), where / "bundle", adapter=Lora(rank=2, alpha=6))
    return load_bundle(where / "bundle")


def card(bundle: Bundle, **changes: Any) -> str:
    record = dataclasses.replace(bundle.record, **changes)
    return model_card(record, bundle.tensors, bundle.peft)


def code(text: str) -> str:
    """Returns the card's Python."""
    return text.split("```python\n")[1].split("```")[0]


def test_the_hub_reads_the_bundles_own_numbers(bundle: Bundle) -> None:
    data = ModelCard(card(bundle)).data
    results = {result.metric_name: result for result in data.eval_results or []}
    assert {name: result.metric_value for name, result in results.items()} == {
        "accuracy": bundle.record.metrics["accuracy"],
        "macro-F1": bundle.record.metrics["macro_f1"],
    }
    assert {result.metric_type for result in results.values()} == {"accuracy", "f1"}
    assert results["accuracy"].dataset_name == "photos"
    assert results["accuracy"].dataset_split == "validation"
    assert results["accuracy"].task_type == data.pipeline_tag == "image-classification"
    assert data.library_name == "peft"
    assert {"vitlora", "lora"} <= set(data.tags or [])


def test_the_body_tells_of_the_run(bundle: Bundle) -> None:
    text = card(bundle)
    scores = bundle.record.metrics
    trained = sum(tensor.numel() for tensor in bundle.tensors.values())
    for needed in (
        f"| {scores['accuracy']:.4f} | {scores['macro_f1']:.4f} | {scores['loss']:.4f} | 8 |",
        f"LoRA of rank 2, alpha 6; {trained:,} numbers",
        "8 train, 8 val, of the folder photos",
        "RGB, 32 x 32: center",
        "vitlora predict --checkpoint DIR IMAGE.jpg",
        f"torch {torch.__version__.partition('+')[0]}",
        '\n 0  "a"\n 1  "b"\n',
    ):
        assert needed in text
    assert len(text.encode()) < 2560


def test_no_metrics_no_claims(bundle: Bundle) -> None:
    text = card(bundle, metrics={})
    data = ModelCard(text).data
    assert data.eval_results is None
    assert "model-index" not in text
    assert "accuracy" not in text
    assert "never validated" in text


@pytest.mark.parametrize(
    ("root", "name"),
    [
        ("/home/jane/photos", "photos"),
        ("C:\\Users\\jane\\photos", "photos"),
        ("/home/jane/a: *b* | # c\n---", "a: *b* | # c ---"),
        ("/home/jane/猫 's", "猫 's"),
        ("/", "pictures"),
    ],
)
def test_of_local_paths_only_the_folders_name_is_told(bundle: Bundle, root: str, name: str) -> None:
    weights = "/home/jane/model.safetensors"
    text = card(bundle, split={**bundle.record.split, "root": root}, weights=weights)
    assert "jane" not in text
    assert "home" not in text
    (result, *_) = ModelCard(text).data.eval_results or []
    assert result.dataset_name == name
    unescaped = re.sub(r"\\(.)", r"\1", text.split("\n---\n")[1])
    assert f"# {name}: vit_micro_patch8_96, LoRA\n" in unescaped
    row = next(line for line in text.splitlines() if line.startswith("| pictures"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 3


def test_nasty_class_names_break_nothing(bundle: Bundle) -> None:
    text = card(bundle, classes=(*NASTY, "line\nbreak"))
    plain = card(bundle)
    assert str(ModelCard(text).data) == str(ModelCard(plain).data)
    block = re.search(r"```text\n(.*?)\n```\n", text, re.DOTALL)
    assert block is not None
    shown = block[1].splitlines()
    assert len(shown) == len(NASTY) + 1
    assert [line[4:] for line in shown[-4:]] == [
        '"<b>l"',
        '"Conservas de café"',
        '"猫"',
        '"line\\nbreak"',
    ]
    rest = text.replace(block[0], "")
    assert not any(name in rest for name in NASTY if name != "```")


def test_a_thousand_classes_are_counted_not_listed(bundle: Bundle) -> None:
    text = card(bundle, classes=tuple(f"class{n}" for n in range(1000)))
    assert '49  "class49"\nand 950 more: see vitlora.json\n' in text
    assert '"class50"' not in text
    assert len(text.encode()) < 3500


@pytest.mark.parametrize(
    ("backbone", "weights", "base"),
    [
        ("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", "/a/b.safetensors", True),
        ("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", "none", None),
        (  # timm publishes these weights under another model's name
            "timm/vit_base_patch16_clip_quickgelu_224.openai",
            "/a/b.safetensors",
            "timm/vit_base_patch16_clip_224.openai",
        ),
        ("timm/vit_tiny_patch16_224", "/a/b.safetensors", True),
        ("timm/vit_tiny_patch16_224.of_another_timm", "/a/b.safetensors", None),
        ("torchvision/vit_b_16.IMAGENET1K_V1", "/a/b.pth", None),
        ("vitlora/vit_micro_patch8_96", "/a/b.safetensors", None),
    ],
)
def test_the_base_is_named_as_the_hub_names_it(
    bundle: Bundle, backbone: str, weights: str, base: Any
) -> None:
    data = ModelCard(card(bundle, backbone=backbone, weights=weights)).data
    if base is True:
        base = "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    assert data.base_model == base
    assert data.get("base_model_relation") == ("adapter" if base else None)


@pytest.mark.parametrize("adapter", [LinearProbe(), FullFineTuning()])
def test_methods_without_lora_promise_no_peft(
    adapter: Any, tmp_path: Path, make_folder: Any
) -> None:
    train(make_folder(tmp_path / "data"), tmp_path / "bundle", adapter=adapter)
    bundle = load_bundle(tmp_path / "bundle")
    text = card(bundle, backbone="timm/vit_tiny_patch16_224", weights="/a/b.safetensors")
    data = ModelCard(text).data
    whole = isinstance(adapter, FullFineTuning)
    assert "PeftModel" not in text
    assert data.library_name == "vitlora"
    assert data.get("base_model_relation") == ("finetune" if whole else "adapter")
    assert ("full fine-tuning" if whole else "linear probe") in text


@pytest.mark.parametrize(
    ("precision", "model", "rounds"),
    [
        ("32-true", {"adapter": Lora(rank=2)}, False),
        ("32-true", {"adapter": Lora(rank=2), "head": "lora"}, False),
        ("32-true", {"adapter": Lora(rank=2), "quantization": "nf4"}, True),
        ("bf16-mixed", {"adapter": Lora(rank=2)}, True),
    ],
)
def test_the_peft_code_gives_the_trained_networks_logits(
    precision: str, model: dict[str, Any], rounds: bool, tmp_path: Path, make_folder: Any
) -> None:
    classifier = train(make_folder(tmp_path / "data"), tmp_path / "bundle", precision, **model)
    bundle = load_bundle(tmp_path / "bundle")
    text = card(bundle)
    assert ("dequantize" in text) is rounds
    assert ("qlora" in text) is (model.get("quantization") == "nf4")
    check_logits(code(text), bundle, classifier, 32)


def test_the_peft_code_for_a_timm_base_knows_timm_alone(
    tmp_path: Path, make_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_model = timm.create_model
    torch.manual_seed(1)
    published = create_model(TINY)
    save_file(published.state_dict(), tmp_path / "published.safetensors")
    classifier = train(
        make_folder(tmp_path / "data"),
        tmp_path / "bundle",
        backbone=f"timm/{TINY}",
        weights=str(tmp_path / "published.safetensors"),
        image_size=96,  # other than the weights' own: timm must resample as we do
    )
    bundle = load_bundle(tmp_path / "bundle")

    def offline(name: str, pretrained: bool, **options: Any) -> Any:
        assert pretrained
        file = {"file": str(tmp_path / "published.safetensors")}
        options["dynamic_img_size"] = False  # as most of timm's models are
        return create_model(name, pretrained=True, pretrained_cfg_overlay=file, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    text = code(card(bundle))
    assert "vitlora" not in text
    check_logits(text, bundle, classifier, 96)


@torch.no_grad()
def check_logits(text: str, bundle: Bundle, classifier: Classifier, size: int) -> None:
    """Runs a card's code and compares."""
    names: dict[str, Any] = {}
    exec(text.replace('"DIR"', repr(str(bundle.folder))), names)
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(2))
    expected = classifier.float()(images)
    assert expected.std() > 1e-3
    assert (names["model"](images) - expected).norm() <= 1e-4 * expected.norm()
