"""What four bits cost a trained ViT's weights: relative error and exact bits a parameter.

    python benchmarks/nf4_error.py --weights VIT_TINY.safetensors

NF4 and FP4 as vitlora keeps them, scales doubly quantised, against INT4 with an fp32 scale a
block: symmetric (-7 to 7 times the scale) and min-max (0 to 15 times the scale, above an fp32
minimum). The error is the Frobenius norm of what changed over that of the weights. Bits are counted
from the stored bytes, but for the tables that every NF4 and FP4 layer keeps besides, which are
small in any layer of use and are given as a number of their own.

Prints a table and writes the numbers to benchmarks/results/nf4_error.jsonl.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from vitlora.backbones import BLOCK_ROLES, load_backbone
from vitlora.errors import VitloraError
from vitlora.quantization.four_bit import FourBitLinear

RESULTS = Path(__file__).parent / "results" / "nf4_error.jsonl"

# A layer -> its weights as they come back, the bytes that grow with them, and those of the tables.
Kept = tuple[torch.Tensor, int, int]


def main() -> None:
    """Measures every way of keeping the weights, over each role and all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--weights", required=True, help="the backbone's .safetensors file")
    parser.add_argument("--backbone", default="timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k")
    options = parser.parse_args()
    try:
        backbone = load_backbone(options.backbone, 2, options.weights)
    except VitloraError as error:
        parser.error(str(error))
    modules = dict(backbone.module.named_modules())
    roles = {
        role: [layer for p in backbone.layers(role) if isinstance(layer := modules[p], nn.Linear)]
        for role in BLOCK_ROLES
    }
    roles["all"] = [layer for layers in roles.values() for layer in layers]
    rows = [
        {"backbone": backbone.id, "role": role, "method": method, "block_size": block_size}
        | _measure(layers, lambda layer: keep(layer, block_size))  # noqa: B023 - called at once
        for method, keep, block_size in _methods()
        for role, layers in roles.items()
    ]
    new = RESULTS.with_name(f".{RESULTS.name}.new")
    new.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    new.replace(RESULTS)
    _print_table(rows, list(roles))


def _methods() -> list[tuple[str, Callable[[nn.Linear, int], Kept], int]]:
    """Returns name, function and block size of each way to keep weights."""
    nf4: list[tuple[str, Callable[[nn.Linear, int], Kept], int]] = [
        ("nf4", lambda layer, size: _four_bit(layer, "nf4", size), size)
        for size in (32, 64, 128, 256, 512)
    ]
    return [
        *nf4,
        ("fp4", lambda layer, size: _four_bit(layer, "fp4", size), 64),
        ("int4 symmetric", _int4_symmetric, 64),
        ("int4 min-max", _int4_min_max, 64),
    ]


def _four_bit(layer: nn.Linear, quantization: str, block_size: int) -> Kept:
    kept = FourBitLinear.from_linear(layer, torch.float32, quantization, block_size)
    return kept.dequantized(), _bytes(kept.weight, *kept.scales), _bytes(*kept.tables)


def _int4_symmetric(layer: nn.Linear, block_size: int) -> Kept:
    blocks = layer.weight.detach().view(-1, block_size)
    scales = blocks.abs().amax(1, keepdim=True).clamp_min(1e-30) / 7
    back = (blocks / scales).round().clamp(-7, 7) * scales
    return back.view_as(layer.weight), blocks.numel() // 2 + _bytes(scales), 0


def _int4_min_max(layer: nn.Linear, block_size: int) -> Kept:
    blocks = layer.weight.detach().view(-1, block_size)
    lowest, highest = blocks.aminmax(dim=1, keepdim=True)
    scales = (highest - lowest).clamp_min(1e-30) / 15
    back = ((blocks - lowest) / scales).round().clamp(0, 15) * scales + lowest
    return back.view_as(layer.weight), blocks.numel() // 2 + _bytes(scales, lowest), 0


def _bytes(*tensors: torch.Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _measure(layers: list[nn.Linear], keep: Callable[[nn.Linear], Kept]) -> dict[str, float]:
    parameters = growing = tables = 0
    lost = total = 0.0
    for layer in layers:
        back, bytes_kept, bytes_fixed = keep(layer)
        weight = layer.weight.detach().double()
        lost += float((back.double() - weight).square().sum())
        total += float(weight.square().sum())
        parameters += weight.numel()
        growing += bytes_kept
        tables += bytes_fixed
    return {
        "parameters": parameters,
        "relative_error": round((lost / total) ** 0.5, 6),
        "bits_per_parameter": round(8 * growing / parameters, 6),
        "table_bytes_per_layer": tables / len(layers),
        "bits_per_parameter_with_tables": round(8 * (growing + tables) / parameters, 6),
    }


def _print_table(rows: list[dict], roles: list[str]) -> None:
    print(f"| kept as | block | {' | '.join(roles)} | bits | bits with tables |")
    print("|---|---|" + "---|" * (len(roles) + 2))
    for first in range(0, len(rows), len(roles)):
        group = rows[first : first + len(roles)]
        errors = " | ".join(f"{row['relative_error']:.4f}" for row in group)
        last = group[-1]
        print(
            f"| {last['method']} | {last['block_size']} | {errors} "
            f"| {last['bits_per_parameter']:.4f} | {last['bits_per_parameter_with_tables']:.4f} |"
        )


if __name__ == "__main__":
    main()
