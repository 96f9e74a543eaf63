"""Time of a training step of each method against LoRA's, on a ViT-Tiny on the CPU in bf16.

    python benchmarks/method_step.py [--threads 1] [--batch 16] [--turns 7]

The methods take turns, so that what else the machine does meets all alike; printed is the median
over the turns of each method's time over LoRA's in the same turn. Random weights and pictures: time
does not depend on them. ``lora+`` and ``rslora`` are LoRA with other numbers, EVA and LoftQ LoRA
with another start: they take LoRA's time.
"""

import argparse
import json
import statistics
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from vitlora.adapters import Adapter, FullFineTuning, LinearProbe, Lora
from vitlora.backbones import answer_from_class_token, load_backbone, stream_in_bf16
from vitlora.quantization import Quantization, Storage, freeze

METHODS: dict[str, tuple[Adapter, Quantization]] = {
    "lora": (Lora(), "none"),
    "lora, checkpointing": (Lora(), "none"),
    "attention": (Lora(targets=["attention.qkv", "attention.proj"]), "none"),
    "qv": (Lora(targets=["attention.q", "attention.v"]), "none"),
    "dora": (Lora(variant="dora"), "none"),
    "pissa": (Lora(variant="pissa"), "none"),
    "qlora": (Lora(), "nf4"),
    "linear": (LinearProbe(), "none"),
    "full": (FullFineTuning(), "none"),
}


def main() -> None:
    """Prints one JSON line for each method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--turns", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    networks = {name: _network(name, *parts) for name, parts in METHODS.items()}
    images = torch.randn(options.batch, 3, 224, 224)
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    for turn in range(options.turns + 1):
        for name, network in networks.items():
            taken = _step(network, images)
            if turn:  # the first turn warms up
                seconds[name].append(taken)
    for name, taken in seconds.items():
        ratios = [one / lora for one, lora in zip(taken, seconds["lora"], strict=True)]
        line = {
            "method": name,
            "times_lora": round(statistics.median(ratios), 3),
            "min": round(min(ratios), 3),
            "max": round(max(ratios), 3),
            "turns": options.turns,
            "threads": options.threads,
            "batch": options.batch,
        }
        print(json.dumps(line), flush=True)


def _network(name: str, adapter: Adapter, quantization: Quantization) -> nn.Module:
    backbone = load_backbone("timm/vit_tiny_patch16_224", 6, "none")
    module: Any = backbone.module
    if adapter.freezes_base:
        dtype = "float32" if adapter.moves_base else "bfloat16"
        freeze(module, Storage(quantization, dtype))
    for block in module.blocks:  # as vitlora trains on a CPU in bf16
        block.attn.fused_attn = False
    module.set_grad_checkpointing("checkpointing" in name)
    network = adapter.inject(backbone, "full").train()
    answer_from_class_token(module)
    stream_in_bf16(module)
    return network


def _step(network: nn.Module, images: torch.Tensor) -> float:
    labels = torch.zeros(len(images), dtype=torch.long)
    start = time.monotonic()
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(network(images).float(), labels)
    loss.backward()
    return time.monotonic() - start


if __name__ == "__main__":
    main()
