"""Ways of computing that may be combined: each pair gives the loss and gradients of plain fp32."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import combinations
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from agreement import images, plain
from torch import nn

from vitlora.adapters import Lora
from vitlora.backbones import Backbone
from vitlora.quantization import Storage, dequantize, freeze

WAYS = ("checkpointing", "autocast", "compile", "channels_last", "bf16 storage", "nf4")
PAIRS = [
    *((way,) for way in WAYS if way != "bf16 storage"),
    # weights kept in bf16 are multiplied in bf16: freeze() is told so by the precision alone
    *(pair for pair in combinations(WAYS, 2) if "bf16 storage" not in pair or "autocast" in pair),
    ("checkpointing", "autocast", "bf16 storage"),
    ("checkpointing", "autocast", "bf16 storage", "compile"),
    ("checkpointing", "autocast", "compile", "nf4"),
]
LABELS = torch.tensor([0, 2])


def network(ways: tuple[str, ...], variant: Any) -> nn.Module:
    """Returns a seeded network of two blocks, its adapter moved away from its start."""
    made = plain("augreg")
    if "nf4" in ways:
        dtype = "bfloat16" if "autocast" in ways else "float32"
        freeze(made.module, Storage("nf4", dtype))  # pyright: ignore
    elif "bf16 storage" in ways:
        freeze(made.module, Storage("none", "bfloat16"))
    made.module.set_grad_checkpointing("checkpointing" in ways)  # pyright: ignore
    adapted = injected(made, variant)
    if "compile" in ways:
        for block in made.module.blocks:  # pyright: ignore
            block.compile(backend="aot_eager")
    return adapted


def injected(made: Backbone, variant: Any) -> nn.Module:
    torch.manual_seed(0)
    adapted = Lora(rank=4, variant=variant).inject(made, "full")
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    return adapted


def loss_and_gradients(
    adapted: nn.Module, ways: tuple[str, ...]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    x = images(plain("augreg"))
    if "channels_last" in ways:
        x = x.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16) if "autocast" in ways else nullcontext():
        logits = adapted.train()(x)
    loss = F.cross_entropy(logits.float(), LABELS)
    loss.backward()
    return loss.detach(), {
        name.replace("_orig_mod.", ""): p.grad
        for name, p in adapted.named_parameters()
        if p.grad is not None
    }


def reference(ways: tuple[str, ...], variant: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Plain fp32 on the same rounded base."""
    made = plain("augreg")
    if "nf4" in ways:
        dtype = "bfloat16" if "autocast" in ways else "float32"
        dequantize(made.module, Storage("nf4", dtype))
    elif "bf16 storage" in ways:
        dequantize(made.module, Storage("none", "bfloat16"))
    made.module.requires_grad_(False)
    return loss_and_gradients(injected(made, variant), ())


@pytest.mark.parametrize(
    ("ways", "variant"),
    [
        *((ways, "lora") for ways in PAIRS),
        *((ways, "dora") for ways in PAIRS if "compile" not in ways),
    ],
    ids=lambda value: value if isinstance(value, str) else " + ".join(value),
)
def test_loss_and_gradients_are_those_of_plain_fp32(ways: tuple[str, ...], variant: str) -> None:
    torch.compiler.reset()
    loss, gradients = loss_and_gradients(network(ways, variant), ways)
    expected_loss, expected = reference(ways, variant)
    bound = 0.1 if "autocast" in ways else 2e-5  # bf16 has 8 bits; these weights are noise
    assert abs(loss - expected_loss) <= 0.2 * bound * expected_loss
    assert gradients.keys() == expected.keys()
    assert len(gradients) > 10
    for name, gradient in expected.items():
        assert (gradients[name] - gradient).norm() <= bound * gradient.norm(), name
