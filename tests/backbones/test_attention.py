"""The lean attention is timm's own, with fewer copies."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from timm.layers import Attention
from torch import nn
from torch.profiler import ProfilerActivity, profile

from vitlora.backbones import make_lean


def _pair(fused: bool) -> tuple[Any, Any]:
    torch.manual_seed(0)
    plain: Any = Attention(32, num_heads=4, qkv_bias=True)
    plain.fused_attn = fused
    lean = make_lean(copy.deepcopy(plain))
    assert lean is not None and lean.fused_attn == fused
    return plain, lean


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("asking", [None, 1])
def test_outputs_and_gradients_are_timms(fused: bool, asking: int | None) -> None:
    plain, lean = _pair(fused)
    lean.asking = asking
    weight = torch.randn(2, 7, 32)[:, :asking]
    found = []
    tokens = torch.randn(2, 7, 32)
    for attention in (plain, lean):
        x = tokens.clone().requires_grad_()
        y = attention(x)[:, :asking]
        (y * weight).sum().backward()
        found.append([y, x.grad, *(p.grad for p in attention.parameters())])
    for own, true in zip(*found, strict=True):
        torch.testing.assert_close(own, true)


def test_a_mask_is_timms_to_apply() -> None:
    plain, lean = _pair(fused=True)
    x, mask = torch.randn(2, 7, 32), torch.rand(7, 7) > 0.3
    mask.fill_diagonal_(True)
    torch.testing.assert_close(lean(x, attn_mask=mask), plain(x, attn_mask=mask))


def test_backward_copies_the_gradient_of_q_k_and_v_once() -> None:
    counts = []
    for attention in _pair(fused=True):
        x = torch.randn(2, 50, 32)
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
            attention(x).sum().backward()
        copies = [event for event in seen.events() or () if event.name == "aten::copy_"]
        counts.append(sum([2, 50, 3, 4, 8] in event.input_shapes for event in copies))
    assert counts == [1, 0]


@pytest.mark.parametrize(
    "options",
    [
        {"qk_norm": True, "norm_layer": partial(nn.LayerNorm, eps=1e-6)},
        {"gated": True},
        {"attn_drop": 0.1},
    ],
)
def test_other_attention_stays(options: dict[str, Any]) -> None:
    attention = Attention(32, num_heads=4, **options)
    assert make_lean(attention) is None and type(attention) is Attention
