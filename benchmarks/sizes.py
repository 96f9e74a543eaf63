"""Counts parameters and bytes of the ViT-B configs with five classes; exact, and needs no weights.

python benchmarks/sizes.py
"""

import json

from vitlora.adapters import Lora
from vitlora.backbones import load_backbone
from vitlora.quantization import Quantization, Storage, freeze, frozen_bytes

TIMM, TORCHVISION = "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k", "torchvision/vit_b_16"
RUNS: dict[str, tuple[str, Lora, bool, Quantization]] = {
    "waste5": (TIMM, Lora(16, 32), False, "none"),
    "waste5-qlora": (TIMM, Lora(16, 32), False, "nf4"),
    "waste5-head": (TORCHVISION, Lora(4, 16, targets=[]), True, "none"),
    "waste5-head-nf4": (TORCHVISION, Lora(4, 8, targets=[]), True, "nf4"),
}

for name, (backbone, adapter, head_lora, quantization) in RUNS.items():
    made = load_backbone(backbone, 5, "none")
    base = sum(p.numel() for p in made.module.parameters())
    freeze(made.module, Storage(quantization, "bfloat16"))
    network = adapter.inject(made, "lora" if head_lora else "full")
    tensors = adapter.tensors(network).values()
    row = {
        "config": name,
        "base_parameters": base,
        "trainable": sum(p.numel() for p in network.parameters() if p.requires_grad),
        "frozen_bytes_bf16": frozen_bytes(network),
        "bundle_tensor_bytes": sum(t.numel() * t.element_size() for t in tensors),
    }
    print(json.dumps(row), flush=True)
