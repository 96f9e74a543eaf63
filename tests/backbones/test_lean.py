"""The leaner forward pass gives the answer of timm's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from backbones.families import FAMILIES, small
from torch.utils.flop_counter import FlopCounterMode

from vitlora.backbones import answer_from_class_token, stream_in_bf16


@pytest.mark.parametrize(("name", "kwargs"), [case[1:] for case in FAMILIES], ids=lambda v: str(v))
def test_answers_and_gradients_stay(name: str, kwargs: dict[str, Any]) -> None:
    images = torch.randn(2, 3, kwargs["img_size"], kwargs["img_size"])
    found = []
    for lean in (False, True):
        module: Any = small(name, kwargs, 3).module.eval()  # rope jitters in training
        torch.nn.init.normal_(module.head.weight, generator=torch.Generator().manual_seed(0))
        if lean:
            answer_from_class_token(module)
        logits = module(images)
        logits.pow(2).sum().backward()
        found.append([logits, *(p.grad for _, p in sorted(module.named_parameters()))])
    for plain, lean in zip(*found, strict=True):
        assert (plain is None) == (lean is None)
        if plain is not None:
            assert float((lean - plain).norm()) <= 1e-5 * float(plain.norm()) + 1e-12


def test_only_a_class_token_saves_work() -> None:
    counts = {}
    for name, kwargs in (case[1:] for case in FAMILIES):
        module: Any = small(name, kwargs, 3).module.eval()  # rope jitters in training
        images = torch.randn(1, 3, kwargs["img_size"], kwargs["img_size"])
        with FlopCounterMode(display=False) as before:
            module(images)
        answer_from_class_token(module)
        with FlopCounterMode(display=False) as after:
            module(images)
        ratio = after.get_total_flops() / before.get_total_flops()
        counts.setdefault(module.global_pool == "token", []).append(ratio)
    assert set(counts[False]) == {1.0}
    assert max(counts[True]) < 0.95  # of two blocks with few patches


@pytest.mark.parametrize("checkpointing", [False, True])
def test_blocks_pass_tokens_on_in_the_dtype_asked_for(checkpointing: bool) -> None:
    module: Any = small("vit_tiny_patch16_224.augreg_in21k_ft_in1k", FAMILIES[0][2], 3).module
    module.set_grad_checkpointing(checkpointing)
    stream_in_bf16(module)
    seen = []
    for part in (*module.blocks, module.norm):
        part.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        module.train()(torch.randn(1, 3, 64, 64))
    assert seen == [torch.bfloat16] * (len(module.blocks) + 1)
    seen.clear()
    module(torch.randn(1, 3, 64, 64))  # no autocast, no cast
    assert seen == [torch.float32] * (len(module.blocks) + 1)
