"""The fused layer against ``W + s * B @ A`` in float64, and against what it costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear
from torch import nn
from torch.utils.checkpoint import checkpoint

from vitlora.adapters import Lora
from vitlora.adapters.fused import FusedLinear
from vitlora.backbones import load_backbone
from vitlora.quantization import Quantization, Storage, freeze, plain_weight

TINY = "vitlora/vit_micro_patch8_96"
SCALING = 0.7


class _Blocks(nn.Module):
    """What ``freeze`` and PEFT want of a network around one linear layer."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.ModuleDict({"fc": nn.Linear(96, 40, bias=bias)})])


def _layer(quantization: Quantization = "none", bias: bool = True) -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    module = _Blocks(bias)
    freeze(module, Storage(quantization))
    config = LoraConfig(r=4, lora_alpha=4 * SCALING, target_modules=["fc"])
    config._register_custom_module({nn.Linear: FusedLinear})
    get_peft_model(module, config)
    layer: Any = module.blocks[0]["fc"]  # pyright: ignore[reportIndexIssue]
    assert type(layer) is FusedLinear
    layer.lora_B["default"].weight.data.normal_()
    return layer


def _oracle(layer: Any, x: torch.Tensor, dy: torch.Tensor) -> dict[str, torch.Tensor]:
    """Returns output and gradients of the merged layer, in float64 by autograd."""
    a, b = (part["default"].weight.detach().double() for part in (layer.lora_A, layer.lora_B))
    x = x.detach().double()
    for leaf in (x, a, b):
        leaf.requires_grad_()
    weight = plain_weight(layer.base_layer).double() + SCALING * b @ a
    bias = layer.base_layer.bias
    y = F.linear(x, weight, None if bias is None else bias.double())
    y.backward(dy.double())
    return {"y": y, "x": x.grad, "a": a.grad, "b": b.grad}  # pyright: ignore


def _own(layer: Any, x: torch.Tensor, dy: torch.Tensor) -> dict[str, torch.Tensor]:
    x = x.detach().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    y.backward(dy.to(y.dtype))
    parts = {"a": layer.lora_A["default"].weight.grad, "b": layer.lora_B["default"].weight.grad}
    return {"y": y, "x": x.grad, **parts}  # pyright: ignore


def _apart(own: dict[str, torch.Tensor], true: dict[str, torch.Tensor]) -> float:
    return max(float((own[k].double() - true[k]).norm() / true[k].norm()) for k in true)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("bias", [True, False])
def test_output_and_gradients_are_those_of_the_merged_layer(
    quantization: Quantization, bias: bool
) -> None:
    layer = _layer(quantization, bias)
    x, dy = torch.randn(2, 7, 96), torch.randn(2, 7, 40)
    true = _oracle(layer, x, dy)
    assert _apart(_own(layer, x, dy), true) < 1e-5
    layer.lora_B["default"].weight.data.zero_()
    assert _apart(_own(layer, x, dy), true) > 1e-2  # else the update would be too small to see


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_in_bf16_it_is_as_near_as_peft(quantization: Quantization) -> None:
    layer = _layer(quantization)
    x, dy = torch.randn(8, 50, 96), torch.randn(8, 50, 40)
    true = _oracle(layer, x, dy)
    with torch.autocast("cpu", torch.bfloat16):
        ours = _own(layer, x, dy)
        layer.__class__ = Linear
        theirs = _own(layer, x, dy)
    assert ours["y"].dtype == torch.bfloat16 and ours["x"].dtype == torch.float32
    assert ours["a"].dtype == ours["b"].dtype == torch.float32
    for name in true:
        error = _apart({name: ours[name]}, {name: true[name]})
        assert error < 1.2 * _apart({name: theirs[name]}, {name: true[name]}) < 0.02, name


def test_inputs_that_need_no_gradient_get_none_and_strides_do_not_matter() -> None:
    layer = _layer()
    x, dy = torch.randn(7, 2, 96).transpose(0, 1), torch.randn(40, 2, 7).permute(1, 2, 0)
    true = _oracle(layer, x, dy)
    assert _apart(_own(layer, x, dy), true) < 1e-5
    layer.zero_grad()
    layer(x).backward(dy)
    gradient = layer.lora_A["default"].weight.grad
    assert float((gradient - true["a"]).norm() / true["a"].norm()) < 1e-5


def test_a_trained_bias_gets_its_gradient() -> None:
    layer = _layer()
    layer.base_layer.bias.requires_grad_()
    dy = torch.randn(2, 7, 40)
    layer(torch.randn(2, 7, 96)).backward(dy)
    torch.testing.assert_close(layer.base_layer.bias.grad, dy.sum((0, 1)))


def test_checkpointed_gradients_are_the_same() -> None:
    layer, x, dy = _layer(), torch.randn(2, 7, 96), torch.randn(2, 7, 40)
    plain = _own(layer, x, dy)
    layer.zero_grad()
    leaf = x.clone().requires_grad_()
    y: Any = checkpoint(layer, leaf, use_reentrant=False)
    y.backward(dy)
    torch.testing.assert_close(leaf.grad, plain["x"])
    torch.testing.assert_close(layer.lora_B["default"].weight.grad, plain["b"])


def test_dropout_and_dora_are_left_to_peft() -> None:
    for options in ({"dropout": 0.1}, {"variant": "dora"}):
        network = Lora(**options).inject(load_backbone(TINY, 3, "none"), "full")  # pyright: ignore
        assert not any(isinstance(layer, FusedLinear) for layer in network.modules())
