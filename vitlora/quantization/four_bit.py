"""A linear layer in 4 bits; the one module that knows bitsandbytes' 4-bit kernels."""

from collections.abc import Callable
from copy import copy
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from bitsandbytes import functional
from bitsandbytes.nn import Linear4bit, Params4bit
from torch import nn

_SLICE = 2**17  # numbers quantised at once; a multiple of every block size


class FourBitLinear(Linear4bit):
    """A frozen layer in NF4 or FP4 with doubly quantised scales, the same in either mode.

    On the CPU the product is our own. bitsandbytes (0.50) would repack the weight in evaluation
    mode, for a kernel that has no gradient and rounds to bf16; a training step after that is
    silently wrong. Can go once bitsandbytes unpacks again and ``dequantized`` is mended. On a GPU
    it is our own where a base kept in bf16 or fp16 answers in fp32.
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

    def compute_in_fp32(self) -> None:
        """Lets the product run in fp32, with the same weight and bias as before."""
        self.compute_dtype = torch.float32
        if self.bias is not None:
            self.bias.data = self.bias.data.float()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns ``x @ W.T + bias`` for ``x`` of ``(..., in_features)``, in its own dtype."""
        weight: Any = self.weight
        if x.device.type != "cpu" and self.compute_dtype == weight.quant_state.dtype:
            return super().forward(x)  # which unpacks to the compute dtype: other values otherwise
        product: Any = _PackedProduct.apply(x.to(self.compute_dtype), self)
        return product.to(x.dtype)


class _PackedProduct(torch.autograd.Function):
    """``x @ W.T + bias`` that unpacks ``W`` again for the backward pass instead of keeping it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: FourBitLinear) -> torch.Tensor:
        ctx.layer = layer
        return F.linear(x, layer.dequantized().to(x.dtype), layer.bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0] @ ctx.layer.dequantized().to(gradients[0].dtype), None


class Beside(nn.Module):
    """A 4-bit layer with a low-rank update added to what it puts out.

    Args:
        base: The layer.
        a: ``(rank, in)``.
        b: ``(out, rank)``, scaled.
        gain: DoRA's, ``(out,)``; None for ones.
    """

    def __init__(
        self, base: nn.Module, a: torch.Tensor, b: torch.Tensor, gain: torch.Tensor | None
    ) -> None:
        super().__init__()
        self.base = base
        for name, tensor in {"a": a, "b": b, "gain": gain}.items():
            self.register_buffer(name, tensor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns ``gain * (x @ (W + B A).T) + bias`` for ``x`` of ``(..., in_features)``."""
        own: Any = self
        out = own.base(x) + F.linear(F.linear(x, own.a), own.b)
        if own.gain is None:
            return out
        bias = 0 if own.base.bias is None else own.base.bias
        return own.gain * (out - bias) + bias


def round_trip(weight: torch.Tensor, quantization: str, block_size: int) -> torch.Tensor:
    """Returns fp32 weights ``(out, in)`` as ``nf4`` or ``fp4`` keeps them."""
    return _dequantized(*_quantized(weight, quantization, block_size))


def _quantized(
    weight: torch.Tensor, quantization: str, block_size: int
) -> tuple[torch.Tensor, functional.QuantState]:
    """Returns the codes and the state of bitsandbytes' ``quantize_4bit`` on the CPU, to the bit.

    bitsandbytes (0.50) searches for each code, and takes three times the memory of the weight.
    Slices that fit the cache, compared with each bound between two levels, take an eighth of the
    time. Can go once bitsandbytes has a CPU kernel for this.
    """
    flat, state = weight.reshape(-1), _state(weight, quantization, block_size)
    if weight.is_meta:  # of shapes alone, to be counted
        blocks = -(-len(flat) // block_size)
        state.absmax = weight.new_empty(blocks, dtype=torch.uint8)
        state.state2.absmax = weight.new_empty(-(-blocks // 256))
        return weight.new_empty(-(-len(flat) // 2), 1, dtype=torch.uint8), state
    whole = flat.numel() - flat.numel() % block_size
    pairs = [
        _codes(part.view(-1, block_size), state) for part in flat[:whole].split(_SLICE) if len(part)
    ]
    if whole < flat.numel():  # a block that is not full
        codes, rest = functional.quantize_4bit(
            flat[whole:], blocksize=block_size, quant_type=quantization
        )
        pairs.append((codes.view(-1), rest.absmax))
    scales = torch.cat([scales for _, scales in pairs])
    state.offset = scales.mean()
    state.absmax, state.state2 = functional.quantize_blockwise(scales - state.offset, blocksize=256)
    return torch.cat([codes for codes, _ in pairs])[:, None], state


def _state(weight: torch.Tensor, quantization: str, block_size: int) -> Any:
    """Returns what bitsandbytes knows of the weight before its scales; it checks the block size."""
    with torch.device("cpu"):  # bitsandbytes keeps the first table it makes for good
        nothing = functional.quantize_4bit(
            torch.zeros(1), blocksize=block_size, compress_statistics=True, quant_type=quantization
        )
    state: Any = nothing[1]
    state.shape = weight.shape
    return state


def _codes(blocks: torch.Tensor, state: functional.QuantState) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the codes of ``(blocks, block_size)``, two a byte, and each block's scale."""
    code: Any = state.code
    scales = blocks.abs().amax(1)
    scaled = (blocks * (1 / scales.clamp(min=1e-38))[:, None]).clamp_(-1, 1).view(-1).numpy()
    order = code.argsort()
    levels = code[order]
    above, codes = np.empty(len(scaled), bool), np.zeros(len(scaled), np.uint8)
    for bound in ((levels[:-1] + levels[1:]) / 2).numpy():  # torch would compare one by one
        np.add(codes, np.greater(scaled, bound, out=above).view(np.uint8), out=codes)
    if state.quant_type != "nf4":  # whose codes are in the order of their levels
        codes = order.numpy().astype(np.uint8)[codes]
    return torch.from_numpy(codes[::2] << 4 | codes[1::2]), scales


def _dequantized(codes: torch.Tensor, state: functional.QuantState) -> torch.Tensor:
    """Returns the weights ``(out, in)`` that packed codes stand for.

    Blocks run on from row to row. bitsandbytes' CPU kernel (0.50) starts a new one at each row, so
    rows that are no multiple of the block come out wrong (a relative error of 0.24, not 0.09),
    unlike on CUDA. Given as one long row, they come out right. Can go once the kernel is mended.
    """
    flat, shape = copy(state), torch.Size(state.shape or ())
    flat.shape = torch.Size((1, shape.numel()))
    return functional.dequantize_4bit(codes, flat).view(shape)
