"""What one training step of a ViT-B/16 computes and keeps, counted exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vitlora.adapters import Lora
from vitlora.backbones import load_backbone
from vitlora.training.classifier import Classifier

VIT_B = "timm/vit_base_patch16_224"
MIB = 2**20


def _classifier(**options: Any) -> Classifier:
    model = Classifier(6, VIT_B, weights="none", **options)
    model.build(torch.device("cpu"), "bf16-mixed")
    for block in model.backbone.module.blocks:  # pyright: ignore[reportGeneralTypeIssues]
        block.attn.fused_attn = True  # as on a GPU: what the CPU keeps instead is attention's own
    return model.train()


def _loss(model: Classifier, images: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return F.cross_entropy(model(images).float(), torch.zeros(len(images), dtype=torch.long))


def _kept_bytes(model: Classifier, images: torch.Tensor) -> int:
    """Returns the bytes of all tensors that the backward pass waits with, parameters apart."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = _loss(model, images)
    assert loss.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize(("checkpointing", "kept"), [(False, 36.3), (True, 3.5)])
def test_a_step_keeps_what_the_docs_say(checkpointing: bool, kept: float) -> None:
    adapter = Lora(rank=16, targets=["attention.qkv", "attention.proj"])
    model = _classifier(adapter=adapter, checkpointing=checkpointing)
    one, two = (_kept_bytes(model, torch.randn(n, 3, 224, 224)) for n in (1, 2))
    assert (two - one) / MIB == pytest.approx(kept, abs=0.1)


def test_a_step_computes_little_more_than_forward_and_the_gradient_of_activations() -> None:
    images = torch.randn(1, 3, 224, 224)
    # attention written out, for not every torch counts what the fused one computes on a CPU; that
    # one computes its matrix once more in the backward pass: 1.92
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward:
            load_backbone(VIT_B, 6, "none").module(images)
        model = _classifier(adapter=Lora(rank=16, targets=["attention.qkv", "attention.proj"]))
        with FlopCounterMode(display=False) as step:
            _loss(model, images).backward()
    ratio = step.get_total_flops() / forward.get_total_flops()
    assert ratio == pytest.approx(1.905, abs=0.01)
