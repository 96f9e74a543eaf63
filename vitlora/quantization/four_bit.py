"""A linear layer in 4 bits; the one module that uses bitsandbytes' 4-bit kernels."""

from collections.abc import Callable
from copy import copy
from typing import Any, Self, cast

import numpy as np
import torch
import torch.nn.functional as F
from bitsandbytes import functional
from bitsandbytes.nn import Linear4bit, Params4bit
from torch import nn

_SLICE = 2**17  # numbers that are quantised at once; a multiple of every block size


class FourBitLinear(Linear4bit):
    """A frozen layer in NF4 or FP4 with doubly quantised scales.

    It computes the same in training and in evaluation mode. On the CPU it does not use
    bitsandbytes' product: in evaluation mode, bitsandbytes (0.50) repacks the weight for a kernel
    that has no gradient and rounds to bf16, so later training steps are silently wrong. This can go
    when bitsandbytes unpacks the weight again and its CPU dequantisation is fixed (see
    ``_dequantized``). On a GPU it uses its own product only to compute in fp32 with a base that is
    kept in bf16 or fp16.
    """

    @classmethod
    def from_linear(
        cls, layer: nn.Linear, compute: torch.dtype, quantization: str, block_size: int
    ) -> Self:
        """Returns the layer with its weight in 4 bits.

        Args:
            layer: fp32, on the CPU.
            compute: The dtype of the product and of the bias.
            quantization: ``nf4`` or ``fp4``.
            block_size: Number of weights that share a scale.
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
        state.dtype = compute  # dequantise directly to it, without an fp32 copy
        parameter: Any = Params4bit  # pyright does not see its arguments
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
    def state(self) -> Any:  # bitsandbytes does not annotate QuantState
        """Bitsandbytes' state of the packed weight: scales, tables, shape, dtype."""
        return cast(Params4bit, self.weight).quant_state

    @property
    def scales(self) -> list[torch.Tensor]:
        """The scales of the blocks, one byte each, and the fp32 scales of these bytes."""
        return [self.state.absmax, self.state.state2.absmax]

    @property
    def tables(self) -> list[torch.Tensor]:
        """The same few tensors in every layer: the values of the codes and scales, an offset."""
        return [self.state.code, self.state.state2.code, self.state.offset]

    def dequantized(self) -> torch.Tensor:
        """Returns the weight ``(out, in)`` in the dtype of the product."""
        return _dequantized(self.weight.data, self.state)

    def replace_tensors(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Replaces each tensor by ``change`` of it; only for counting bytes."""
        state, second = copy(self.state), copy(self.state.state2)
        for part, names in ((state, ("absmax", "code", "offset")), (second, ("absmax", "code"))):
            for name in names:
                setattr(part, name, change(getattr(part, name)))
        state.state2 = second
        codes = nn.Parameter(change(self.weight.data), requires_grad=False)
        codes.quant_state = state  # pyright: ignore[reportAttributeAccessIssue]
        self.weight = codes
        if self.bias is not None:
            self.bias = nn.Parameter(change(self.bias.data), requires_grad=False)

    def compute_in_fp32(self) -> None:
        """Makes the product run in fp32; the values of weight and bias stay the same."""
        self.compute_dtype = torch.float32
        if self.bias is not None:
            self.bias.data = self.bias.data.float()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns ``x @ W.T + bias`` in the dtype of ``x``, which is ``(..., in_features)``."""
        if x.device.type != "cpu" and self.compute_dtype == self.state.dtype:
            return super().forward(x)  # unpacks to the compute dtype, here the stored one
        product: torch.Tensor = _PackedProduct.apply(x.to(self.compute_dtype), self)
        return product.to(x.dtype)


class _PackedProduct(torch.autograd.Function):
    """``x @ W.T + bias``; unpacks ``W`` again in the backward pass instead of keeping it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: FourBitLinear) -> torch.Tensor:
        ctx.layer = layer
        return F.linear(x, layer.dequantized().to(x.dtype), layer.bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0] @ ctx.layer.dequantized().to(gradients[0].dtype), None


class Beside(nn.Module):
    """A 4-bit layer with a low-rank update added to its output.

    Args:
        base: The layer.
        a: ``(rank, in)``.
        b: ``(out, rank)``, already scaled.
        gain: DoRA's factor on each output, ``(out,)``; None for ones.
    """

    a: torch.Tensor
    b: torch.Tensor
    gain: torch.Tensor | None

    def __init__(
        self, base: nn.Module, a: torch.Tensor, b: torch.Tensor, gain: torch.Tensor | None
    ) -> None:
        super().__init__()
        self.base = base
        for name, tensor in {"a": a, "b": b, "gain": gain}.items():
            self.register_buffer(name, tensor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns ``gain * (x @ (W + B A).T) + bias`` for ``x`` of ``(..., in_features)``."""
        out = self.base(x) + F.linear(F.linear(x, self.a), self.b)
        if self.gain is None:
            return out
        bias = 0 if self.base.bias is None else self.base.bias
        return self.gain * (out - bias) + bias


def round_trip(weight: torch.Tensor, quantization: str, block_size: int) -> torch.Tensor:
    """Returns fp32 weights ``(out, in)`` after rounding to ``nf4`` or ``fp4``."""
    return _dequantized(*_quantized(weight, quantization, block_size))


def _quantized(
    weight: torch.Tensor, quantization: str, block_size: int
) -> tuple[torch.Tensor, functional.QuantState]:
    """Returns the codes and the state of bitsandbytes' ``quantize_4bit`` on the CPU, bit for bit.

    bitsandbytes (0.50) searches for each code, and needs three times the memory of the weight. Here
    slices that fit the cache are compared with each bound between two levels, which takes an eighth
    of the time. This can go when bitsandbytes has a CPU kernel for it.
    """
    flat, state = weight.reshape(-1), _state(weight, quantization, block_size)
    if weight.is_meta:  # only shapes, for the memory plan
        blocks = -(-len(flat) // block_size)
        state.absmax = weight.new_empty(blocks, dtype=torch.uint8)
        state.state2.absmax = weight.new_empty(-(-blocks // 256))
        return weight.new_empty(-(-len(flat) // 2), 1, dtype=torch.uint8), state
    whole = flat.numel() - flat.numel() % block_size
    pairs = [
        _codes(part.view(-1, block_size), state) for part in flat[:whole].split(_SLICE) if len(part)
    ]
    if whole < flat.numel():  # the last block is not full
        codes, rest = functional.quantize_4bit(
            flat[whole:], blocksize=block_size, quant_type=quantization
        )
        pairs.append((codes.view(-1), rest.absmax))
    scales = torch.cat([scales for _, scales in pairs])
    state.offset = scales.mean()
    state.absmax, state.state2 = functional.quantize_blockwise(scales - state.offset, blocksize=256)
    return torch.cat([codes for codes, _ in pairs])[:, None], state


def _state(weight: torch.Tensor, quantization: str, block_size: int) -> Any:
    """Returns bitsandbytes' state of the weight, without its scales; checks the block size."""
    with torch.device("cpu"):  # bitsandbytes caches the first table it makes
        _, state = functional.quantize_4bit(
            torch.zeros(1), blocksize=block_size, compress_statistics=True, quant_type=quantization
        )
    state.shape = weight.shape
    return state


def _codes(blocks: torch.Tensor, state: functional.QuantState) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the codes of ``(blocks, block_size)``, two in a byte, and the scale of each block."""
    code = cast(torch.Tensor, state.code)
    scales = blocks.abs().amax(1)
    scaled = (blocks * (1 / scales.clamp(min=1e-38))[:, None]).clamp_(-1, 1).view(-1).numpy()
    order = code.argsort()
    levels = code[order]
    above, codes = np.empty(len(scaled), bool), np.zeros(len(scaled), np.uint8)
    for bound in ((levels[:-1] + levels[1:]) / 2).numpy():  # torch does not vectorise this
        np.add(codes, np.greater(scaled, bound, out=above).view(np.uint8), out=codes)
    if state.quant_type != "nf4":  # NF4's codes are already in the order of their levels
        codes = order.numpy().astype(np.uint8)[codes]
    return torch.from_numpy(codes[::2] << 4 | codes[1::2]), scales


def _dequantized(codes: torch.Tensor, state: functional.QuantState) -> torch.Tensor:
    """Returns the weights ``(out, in)`` of packed codes.

    A block may span two rows. bitsandbytes' CPU kernel (0.50), unlike CUDA's, starts a new block at
    each row, so rows whose width is not a multiple of the block come out wrong (a relative error of
    0.24 instead of 0.09). One long row comes out right. This can go when the kernel is fixed.
    """
    flat, shape = copy(state), torch.Size(state.shape or ())
    flat.shape = torch.Size((1, shape.numel()))
    return functional.dequantize_4bit(codes, flat).view(shape)
