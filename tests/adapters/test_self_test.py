import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vitlora.adapters import Lora, gradient_self_test
from vitlora.backbones import load_backbone
from vitlora.errors import AdapterError


def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32)


def adapted(checkpointing: bool = False) -> nn.Module:
    backbone = load_backbone("vitlora/vit_micro_patch8_96", 3, "none", 32)
    backbone.module.requires_grad_(False)
    backbone.module.set_grad_checkpointing(checkpointing)  # pyright: ignore
    return Lora(rank=2).inject(backbone, "full")


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_tensor_of_a_sound_network_is_reached(checkpointing: bool) -> None:
    network = adapted(checkpointing)
    count = sum(p.requires_grad for p in network.parameters())
    assert gradient_self_test(network, images()) == count


def test_a_bypassed_layer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    network = adapted()
    fc1 = network.get_submodule("base_model.model.blocks.2.mlp.fc1")

    class Bypassed(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            base = self.layer.base_layer  # what timm's BEiT does with its fused qkv
            return F.linear(x, base.weight, base.bias)  # pyright: ignore

    network.get_submodule("base_model.model.blocks.2.mlp").fc1 = Bypassed(fc1)
    with pytest.raises(
        AdapterError, match=r"2 of \d+ trainable tensors get no gradient.*blocks\.2\.mlp\.fc1"
    ):
        gradient_self_test(network, images())


def test_a_network_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(AdapterError, match="nothing is trainable"):
        gradient_self_test(adapted().requires_grad_(False), images())


def test_a_gradient_that_is_not_finite_is_refused() -> None:
    network = adapted()
    with torch.no_grad():
        next(p for n, p in network.named_parameters() if "lora_B" in n).fill_(float("nan"))
    with pytest.raises(AdapterError, match="not finite"):
        gradient_self_test(network, images())


def test_mode_gradients_and_random_state_are_left_alone() -> None:
    network = adapted().eval()
    parameters = [p for p in network.parameters() if p.requires_grad]
    parameters[0].grad = torch.ones_like(parameters[0])
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    batch = images().clone()
    torch.manual_seed(3)
    gradient_self_test(network, batch)
    assert torch.equal(torch.rand(4), expected)
    assert not network.training
    assert torch.equal(parameters[0].grad, torch.ones_like(parameters[0]))
    assert all(p.grad is None for p in parameters[1:])
