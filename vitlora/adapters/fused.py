"""LoRA's arithmetic for training: the update is added in place, and few activations are kept.

PEFT computes ``base(x) + B(A(x)) * scaling`` as separate operations, and each of them reads and
writes a tensor as large as the layer's output. Here the low-rank product is accumulated into the
base's product, forward and backward. The FLOPs are the same, with fewer passes over memory: a ViT's
layers are so narrow that the passes cost more than the products.
"""

from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear
from torch import nn

from vitlora.quantization import weight_of


class FusedLinear(Linear):
    """PEFT's LoRA layer with a faster forward pass; parameters and files are PEFT's own."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Returns ``x @ (W + scaling * B @ A).T + bias`` for ``x`` of ``(..., in_features)``."""
        if self.disable_adapters or self.merged:
            return super().forward(x, *args, **kwargs)
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        a, b = self.lora_A["default"].weight, self.lora_B["default"].weight
        tokens = x.reshape(-1, x.shape[-1])  # (T, in)
        product: torch.Tensor = _FusedProduct.apply(
            tokens, a, b, self.base_layer.bias, self.base_layer, self.scaling["default"], dtype
        )
        return product.view(*x.shape[:-1], -1)


class _FusedProduct(torch.autograd.Function):
    """The layer's output; keeps its input and the low-rank product for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        tokens: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        bias: torch.Tensor | None,
        base: nn.Module,
        scaling: float,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        ctx.base, ctx.scaling, ctx.dtype = base, scaling, tokens.dtype
        tokens = tokens.to(dtype)
        low = _low(tokens, a.to(dtype))
        y = F.linear(tokens, weight_of(base).to(dtype), None if bias is None else bias.to(dtype))
        ctx.save_for_backward(tokens, low, a, b)
        return y.addmm_(low.T, (b * scaling).to(dtype).T)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        tokens, low, a, b = ctx.saved_tensors
        dy = gradients[0]
        dlow = _low(dy, (b * ctx.scaling).to(dy.dtype).T)
        dx = dbias = None
        if ctx.needs_input_grad[0]:
            dx = (
                (dy @ weight_of(ctx.base).to(dy.dtype)).addmm_(dlow.T, a.to(dy.dtype)).to(ctx.dtype)
            )
        if ctx.needs_input_grad[3]:
            dbias = dy.sum(0)
        da = (dlow @ tokens).to(a.dtype)
        db = (low @ dy).T.to(b.dtype) * ctx.scaling
        return dx, da, db, dbias, None, None, None


def _low(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Returns ``factor @ x.T``, ``(rank, T)``, for ``x`` of ``(T, width)``."""
    if x.device.type == "cpu":  # MKL takes up to four times as long for x @ factor.T at rank 8
        return factor @ x.T
    return (x @ factor.T).T
