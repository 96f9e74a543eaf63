"""A linear layer in 4 bits; the one module that imports bitsandbytes."""

from copy import copy
from typing import Any, Self

import torch
import torch.nn.functional as F
from bitsandbytes import functional
from bitsandbytes.nn import Linear4bit, Params4bit
from torch import nn

BLOCK_SIZE = 64  # weights that share one scale


class Nf4Linear(Linear4bit):
    """A frozen NF4 layer with doubly quantised scales, the same in training and evaluation.

    In evaluation mode bitsandbytes (0.50) repacks the weight for a CPU kernel that has no gradient
    and rounds to bf16; a training step after that is silently wrong. The layer does nothing else
    with its mode, so it stays in training mode. Can go once bitsandbytes unpacks again by itself.
    """

    @classmethod
    def from_linear(cls, layer: nn.Linear, compute: torch.dtype) -> Self:
        """Returns the layer with its weight in NF4.

        Args:
            layer: fp32, on the CPU.
            compute: What the product runs in, and the bias is kept in.
        """
        made = cls(
            layer.in_features,
            layer.out_features,
            bias=layer.bias is not None,
            compute_dtype=compute,
            device="meta",
        )
        parameter: Any = Params4bit
        weight = parameter(
            layer.weight.data,
            requires_grad=False,
            blocksize=BLOCK_SIZE,
            compress_statistics=True,
            quant_type="nf4",
            module=made,
        ).to(layer.weight.device)
        weight.quant_state.dtype = compute  # dequantise straight to it, no fp32 copy
        made.weight = weight
        if layer.bias is not None:
            made.bias = nn.Parameter(layer.bias.data.to(compute), requires_grad=False)
        return made

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns ``x @ W.T + bias`` for ``x`` of ``(..., in_features)``, in its own dtype."""
        if x.device.type != "cpu" or self.in_features % BLOCK_SIZE == 0:
            return super().forward(x)
        packed: Any = self.weight
        weight = dequantized(packed.data, packed.quant_state).to(self.compute_dtype)
        return F.linear(x.to(weight.dtype), weight, self.bias).to(x.dtype)

    def train(self, mode: bool = True) -> Self:
        """Stays in training mode."""
        return super().train(True)


def round_trip(weight: torch.Tensor) -> torch.Tensor:
    """Returns fp32 weights ``(out, in)`` as NF4 keeps them."""
    codes, state = functional.quantize_4bit(
        weight, blocksize=BLOCK_SIZE, compress_statistics=True, quant_type="nf4"
    )
    return dequantized(codes, state)


def dequantized(codes: torch.Tensor, state: functional.QuantState) -> torch.Tensor:
    """Returns the weights ``(out, in)`` that packed codes stand for.

    Blocks run on from row to row. bitsandbytes' CPU kernel (0.50) starts a new one at each row, so
    rows that are no multiple of the block come out wrong (a relative error of 0.24, not 0.09),
    unlike on CUDA. Given as one long row, they come out right. Can go once the kernel is mended.
    """
    flat, shape = copy(state), torch.Size(state.shape or ())
    flat.shape = torch.Size((1, shape.numel()))
    return functional.dequantize_4bit(codes, flat).view(shape)
