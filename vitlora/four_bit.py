"""A linear layer in 4 bits; the one module that knows bitsandbytes' 4-bit kernels."""

from collections.abc import Callable
from copy import copy
from typing import Any, Self

import torch
import torch.nn.functional as F
from bitsandbytes import functional
from bitsandbytes.nn import Linear4bit, Params4bit
from torch import nn


class FourBitLinear(Linear4bit):
    """A frozen layer in NF4 or FP4 with doubly quantised scales, the same in either mode.

    On the CPU the product is our own. bitsandbytes (0.50) would repack the weight in evaluation
    mode, for a kernel that has no gradient and rounds to bf16; a training step after that is
    silently wrong. Can go once bitsandbytes unpacks again and ``dequantized`` is mended.
    """

    @classmethod
    def from_linear(
        cls, layer: nn.Linear, compute: torch.dtype, quantization: str, block_size: int
    ) -> Self:
        """Returns the layer with its weight in 4 bits.

        Args:
            layer: fp32, on the CPU.
            compute: What the product runs in, and the bias is kept in.
            quantization: ``nf4`` or ``fp4``.
            block_size: Weights that share a scale.
        """
        made = cls(
            layer.in_features,
            layer.out_features,
            bias=layer.bias is not None,
            compute_dtype=compute,
            quant_type=quantization,
            device="meta",
        )
        codes, state = _quantized(layer.weight.data, quantization, block_size)
        state.dtype = compute  # dequantise straight to it, no fp32 copy
        parameter: Any = Params4bit
        made.weight = parameter(
            codes,
            requires_grad=False,
            quant_state=state,
            blocksize=block_size,
            quant_type=quantization,
            bnb_quantized=True,
        )
        if layer.bias is not None:
            made.bias = nn.Parameter(layer.bias.data.to(compute), requires_grad=False)
        return made

    @property
    def scales(self) -> list[torch.Tensor]:
        """The blocks' scales, a byte each, and the fp32 scales of these."""
        weight: Any = self.weight
        return [weight.quant_state.absmax, weight.quant_state.state2.absmax]

    @property
    def tables(self) -> list[torch.Tensor]:
        """What every layer keeps, however small: what codes and scales stand for, an offset."""
        weight: Any = self.weight
        state = weight.quant_state
        return [state.code, state.state2.code, state.offset]

    def dequantized(self) -> torch.Tensor:
        """Returns the weight ``(out, in)`` in the dtype the product runs in."""
        packed: Any = self.weight
        return _dequantized(packed.data, packed.quant_state)

    def replace_tensors(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Puts a plain tensor made by ``change`` in the place of each; for counting them only."""
        weight: Any = self.weight
        state, second = copy(weight.quant_state), copy(weight.quant_state.state2)
        for part, names in ((state, ("absmax", "code", "offset")), (second, ("absmax", "code"))):
            for name in names:
                setattr(part, name, change(getattr(part, name)))
        state.state2 = second
        codes: Any = nn.Parameter(change(weight.data), requires_grad=False)
        codes.quant_state = state
        self.weight = codes
        if self.bias is not None:
            self.bias = nn.Parameter(change(self.bias.data), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns ``x @ W.T + bias`` for ``x`` of ``(..., in_features)``, in its own dtype."""
        if x.device.type != "cpu":
            return super().forward(x)
        product: Any = _Product.apply(x.to(self.compute_dtype), self)
        return product.to(x.dtype)


class _Product(torch.autograd.Function):
    """``x @ W.T + bias`` that unpacks ``W`` again for the backward pass instead of keeping it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: FourBitLinear) -> torch.Tensor:
        ctx.layer = layer
        return F.linear(x, layer.dequantized(), layer.bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0] @ ctx.layer.dequantized(), None


def round_trip(weight: torch.Tensor, quantization: str, block_size: int) -> torch.Tensor:
    """Returns fp32 weights ``(out, in)`` as ``nf4`` or ``fp4`` keeps them."""
    return _dequantized(*_quantized(weight, quantization, block_size))


def _quantized(
    weight: torch.Tensor, quantization: str, block_size: int
) -> tuple[torch.Tensor, functional.QuantState]:
    if weight.is_meta:  # bitsandbytes keeps the first table it makes for good: let it be a real one
        with torch.device("cpu"):
            _quantized(torch.zeros(1, block_size), quantization, block_size)
    return functional.quantize_4bit(
        weight, blocksize=block_size, compress_statistics=True, quant_type=quantization
    )


def _dequantized(codes: torch.Tensor, state: functional.QuantState) -> torch.Tensor:
    """Returns the weights ``(out, in)`` that packed codes stand for.

    Blocks run on from row to row. bitsandbytes' CPU kernel (0.50) starts a new one at each row, so
    rows that are no multiple of the block come out wrong (a relative error of 0.24, not 0.09),
    unlike on CUDA. Given as one long row, they come out right. Can go once the kernel is mended.
    """
    flat, shape = copy(state), torch.Size(state.shape or ())
    flat.shape = torch.Size((1, shape.numel()))
    return functional.dequantize_4bit(codes, flat).view(shape)
