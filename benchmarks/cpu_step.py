"""Seconds of one LoRA training step of a ViT-Tiny on the CPU: what two switches bring.

    python benchmarks/cpu_step.py [--threads 2] [--batch 32]

``fused``: torch's scaled_dot_product_attention against plain matrix products; ``cast``: PEFT's cast
of every adapted layer's input to the adapter's fp32, under autocast. The variants take turns; the
medians of the turns are printed as JSON lines, random weights and pictures throughout.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F
from peft.tuners.lora import LoraLayer
from torch import nn

from vitlora.adapters import Lora
from vitlora.backbones import load_backbone
from vitlora.quantization import Storage, freeze


def main() -> None:
    """Times all variants in both precisions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for dtype in (torch.bfloat16, torch.float32):
        network = _network(dtype)
        images = torch.randn(options.batch, 3, 224, 224)
        variants = [(fused, cast) for fused in (True, False) for cast in (True, False)]
        seconds: dict[tuple[bool, bool], list[float]] = {variant: [] for variant in variants}
        for turn in range(options.turns + 1):
            for variant in variants:
                taken = _step(network, images, dtype, *variant)
                if turn:  # the first turn warms up
                    seconds[variant].append(taken)
        for (fused, cast), taken in seconds.items():
            print(
                json.dumps(
                    {
                        "dtype": str(dtype),
                        "fused": fused,
                        "cast": cast,
                        "threads": options.threads,
                        "median_seconds": round(statistics.median(taken), 3),
                        "min": round(min(taken), 3),
                        "max": round(max(taken), 3),
                    }
                ),
                flush=True,
            )


def _network(dtype: torch.dtype) -> nn.Module:
    backbone = load_backbone("timm/vit_tiny_patch16_224", 6, "none")
    freeze(backbone.module, Storage("none", str(dtype).removeprefix("torch.")))  # pyright: ignore
    return Lora().inject(backbone, "full").train()


def _step(
    network: nn.Module, images: torch.Tensor, dtype: torch.dtype, fused: bool, cast: bool
) -> float:
    for module in network.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused  # pyright: ignore
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = cast
    labels = torch.zeros(len(images), dtype=torch.long)
    start = time.monotonic()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = F.cross_entropy(network(images).float(), labels)
    loss.backward()
    return time.monotonic() - start


if __name__ == "__main__":
    main()
