"""How far a trained network, its oracle, its merge, its bundle and plain PEFT are apart."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import torch
from backbones.families import FAMILIES, small
from peft import PeftModel
from torch import nn

from vitlora.adapters import Lora, gradient_self_test
from vitlora.backbones import Backbone
from vitlora.bundle.checkpoint import load_bundle, save_bundle
from vitlora.bundle.merging import merge_into
from vitlora.bundle.record import Record
from vitlora.quantization import Storage, dequantize, freeze

# name -> options of Lora, how the head is trained
METHODS: dict[str, tuple[dict[str, Any], Any]] = {
    "LoRA": ({}, "full"),
    "rsLoRA": ({"variant": "rslora"}, "full"),
    "DoRA": ({"variant": "dora"}, "full"),
    "PiSSA": ({"variant": "pissa"}, "full"),
    "OLoRA": ({"variant": "olora"}, "full"),
    "EVA": ({"variant": "eva"}, "full"),
    "LoftQ": ({"variant": "loftq"}, "full"),
    "q and v": ({"targets": ["attention.q", "attention.v"]}, "full"),
    "norms": ({"norms": True}, "full"),
    "norms, biases": ({"norms": True, "biases": True}, "full"),
    "LoRA head": ({}, "lora"),
}
CLASSES = ("a", "b", "c")
# 64 channels, a block of NF4; the giant's packed MLP needs an even share of them
_WIDTH = {"dinov2-giant": 96}
ARGUMENTS = {
    family: (name, {**kwargs, "embed_dim": _WIDTH.get(family, 64)})
    for family, name, kwargs in FAMILIES
}


def plain(family: str) -> Backbone:
    """Returns a family's miniature with noise everywhere and a head of zeros."""
    return small(*ARGUMENTS[family], len(CLASSES))


def images(backbone: Backbone, count: int = 2) -> torch.Tensor:
    """Returns the same random pictures every time."""
    size = backbone.preprocessing.image_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def trained(family: str, method: str, storage: Storage) -> tuple[Lora, Backbone, nn.Module]:
    """Returns a network whose trainable tensors are all moved away from their start.

    Raises:
        VitloraError: The method does not go with the storage.
    """
    options, head = METHODS[method]
    adapter, backbone = Lora(rank=4, **options), plain(family)
    adapter.check(backbone, head, storage)
    base = {name: p.detach().clone() for name, p in backbone.module.named_parameters()}
    freeze(backbone.module, storage)
    torch.manual_seed(1)
    network = adapter.inject(backbone, head)
    if adapter.needs_base:
        adapter.init_loftq(network, base)
    batch = images(backbone, 8)
    adapter.init_from_data(network, lambda: [(batch[i::2], None) for i in (0, 1)])
    for parameter in network.parameters():
        if parameter.requires_grad:
            noise = 0.05 * torch.randn_like(parameter)
            for hook in (parameter._backward_hooks or {}).values():  # keeps zeros of q and v
                noise = hook(noise)
            parameter.data.add_(noise)
    return adapter, backbone, network.eval()


def differences(family: str, method: str, storage: Storage, folder: Path) -> dict[str, float]:
    """Returns relative differences of logits; all should be tiny but ``learnt``, from the base
    with the trained head alone.

    Args:
        family: A key of ``ARGUMENTS``.
        method: A key of ``METHODS``.
        storage: How the base is kept.
        folder: Where a bundle may be written.
    """
    adapter, backbone, network = trained(family, method, storage)
    gradient_self_test(network, images(backbone))  # raises if an adapter is dead
    record = Record(
        backbone=backbone.id,
        base_digest=backbone.digest,
        weights="none",
        storage=storage,
        method="Lora",
        head=METHODS[method][1],
        classes=CLASSES,
        preprocessing=backbone.preprocessing,
        split={"root": "", "counts": {}, "digests": {}},
        metrics={},
    )
    save_bundle(folder, record, adapter.tensors(network), adapter.config(network), "{}\n")
    x = images(backbone)
    rounded = plain(family)
    dequantize(rounded.module, storage)
    with torch.no_grad():
        logits = network(x)
        oracle = _by_formula(network, copy.deepcopy(rounded.module)).eval()(x.double())
        merged = merge_into(plain(family), load_bundle(folder)).eval()(x)
        head_alone = _by_formula(network, copy.deepcopy(rounded.module), only="head").eval()
        without = head_alone(x.double())
        nn.init.normal_(rounded.module.head.weight)  # pyright: ignore
        opened = PeftModel.from_pretrained(rounded.module, str(folder)).eval()(x)
    return {
        "oracle": _relative(logits, oracle),
        "merge": _relative(merged, logits),
        "peft": _relative(opened, logits),
        "learnt": _relative(logits, without),
    }


def _by_formula(network: nn.Module, module: nn.Module, only: str = "") -> nn.Module:
    """Returns ``module`` in float64, each weight that starts with ``only`` as papers write it."""
    module = module.double()
    weights = dict(module.named_parameters())
    for name, tensor in network.state_dict().items():
        name = name.removeprefix("base_model.model.")
        if not name.startswith(only):
            continue
        if ".modules_to_save.default." in name:
            weights[name.replace(".modules_to_save.default", "")].copy_(tensor)
        elif name.endswith("bias") and "original_module" not in name:
            weights[name.replace(".base_layer", "")].copy_(tensor)
    for name, layer in network.named_modules():
        path = name.removeprefix("base_model.model.")
        if not hasattr(layer, "lora_A") or not path.startswith(only):
            continue
        adapted: Any = layer
        a, b = adapted.lora_A.default.weight.double(), adapted.lora_B.default.weight.double()
        options: Any = network.peft_config["default"]  # pyright: ignore
        alpha = adapted.lora_alpha["default"]
        scaling = alpha / (math.sqrt(len(a)) if options.use_rslora else len(a))
        weight = weights[f"{path}.weight"]
        if hasattr(layer, "start"):  # what the base gave to the adapter
            a0, b0 = (factor.double() for factor in adapted.start)
            weight.sub_(scaling * b0 @ a0)
        weight.add_(scaling * b @ a)
        if options.use_dora:
            magnitude = adapted.lora_magnitude_vector.default.weight.double()
            weight.mul_((magnitude / weight.norm(dim=1))[:, None])
    return module


def _relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got.double() - expected.double()).norm() / expected.double().norm())
