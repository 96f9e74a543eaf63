import math
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from runs import micro as backbone
from torch import nn

from vitlora.adapters import Lora
from vitlora.backbones import BLOCK_ROLES, Backbone
from vitlora.backbones.pattern import anchored_pattern
from vitlora.errors import AdapterError, UsageError
from vitlora.quantization import Storage


def randomised(adapter: Lora, head: Any = "full") -> tuple[Backbone, nn.Module]:
    made = backbone()
    network = adapter.inject(made, head)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.2)
    return made, network.eval()


@pytest.mark.parametrize("role", [*BLOCK_ROLES, "head"])
def test_an_adapted_layer_computes_w_plus_scaled_b_a_in_float64(role: str) -> None:
    adapter = Lora(rank=3, alpha=5, targets=[] if role == "head" else [role])
    _, network = randomised(adapter, "lora" if role == "head" else "full")
    plain = backbone()
    for path in plain.layers(role):
        layer: Any = network.get_submodule(f"base_model.model.{path}")
        original: Any = plain.module.get_submodule(path)
        a, b = layer.lora_A.default.weight.double(), layer.lora_B.default.weight.double()
        merged = original.weight.double() + 5 / 3 * (b @ a)
        x = torch.randn(2, 4, original.in_features)
        expected = F.linear(x.double(), merged, original.bias.double())
        got = layer(x).double()
        assert (got - expected).norm() <= 1e-6 * expected.norm()
        assert (got - original(x)).norm() > 1e-2 * expected.norm()


@pytest.mark.parametrize("targets", [["attention.qkv"], ["mlp.fc1", "attention.proj"], None])
@pytest.mark.parametrize("last_blocks", [1, 3, None])
def test_exactly_the_named_layers_are_trained(
    targets: list[str] | None, last_blocks: int | None
) -> None:
    made, network = randomised(Lora(targets=targets, last_blocks=last_blocks))
    suffixes = {
        "attention.qkv": "attn.qkv",
        "attention.proj": "attn.proj",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    blocks = range(made.num_blocks)[-(last_blocks or made.num_blocks) :]
    expected = {f"blocks.{i}.{suffixes[role]}" for i in blocks for role in targets or suffixes}
    trained = {n for n, p in network.named_parameters() if p.requires_grad}
    lora = {
        re.sub(r"base_model\.model\.|\.lora_[AB]\.default\.weight", "", n)
        for n in trained
        if "lora_" in n
    }
    assert lora == expected
    assert {n for n in trained if "lora_" not in n} == {
        "base_model.model.head.modules_to_save.default.weight",
        "base_model.model.head.modules_to_save.default.bias",
    }


def test_trainable_count_is_rank_times_in_plus_out() -> None:
    _, network = randomised(Lora(rank=5), "lora")
    plain = backbone()
    layers = [
        m
        for role in (*BLOCK_ROLES, "head")
        for n in plain.layers(role)
        for m in [plain.module.get_submodule(n)]
    ]
    expected = sum(5 * (m.in_features + m.out_features) for m in layers)  # pyright: ignore
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == expected


def test_a_fresh_adapter_changes_nothing() -> None:
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = backbone().module.eval()(images)
        got = Lora().inject(backbone(), "full").eval()(images)
    assert torch.equal(got, expected)


def test_the_pattern_matches_whole_paths_only() -> None:
    pattern = anchored_pattern(["blocks.1.attn.proj", "blocks.11.attn.proj", "head"])
    assert re.fullmatch(pattern, "blocks.11.attn.proj")
    assert re.fullmatch(pattern, "head")
    for other in (
        "patch_embed.proj",
        "blocks.2.attn.proj",
        "blocks.111.attn.proj",
        "blocks.1.attnxproj",
        "attn_pool.head",
        "blocks.1.attn.proj.weight",
    ):
        assert not re.fullmatch(pattern, other)


def test_config_is_what_plain_peft_reads() -> None:
    from peft import LoraConfig

    adapter = Lora(rank=3, alpha=12)
    _, network = randomised(adapter)
    fields = adapter.config(network)
    assert (fields["r"], fields["lora_alpha"], fields["peft_type"]) == (3, 12, "LORA")
    assert fields["base_model_name_or_path"] == "vitlora/vit_micro_patch8_96"
    assert fields["inference_mode"] is True
    assert math.isclose(LoraConfig(**fields).lora_alpha / fields["r"], 4)
    assert network.peft_config["default"].inference_mode is False  # pyright: ignore


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank is 0; expected at least 1"),
        ({"alpha": 0}, "alpha is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"last_blocks": 0}, "last_blocks is 0"),
        ({"targets": ["attention.kqv"]}, r"did you mean 'attention.qkv'"),
        ({"targets": ["head"]}, "targets has 'head'"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Lora(**options)


def test_more_blocks_than_there_are_is_refused() -> None:
    with pytest.raises(AdapterError, match="last_blocks is 99"):
        Lora(last_blocks=99).check(backbone(), "full", Storage())


def test_nothing_to_adapt_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing to adapt"):
        Lora(targets=[]).check(backbone(), "full", Storage())
