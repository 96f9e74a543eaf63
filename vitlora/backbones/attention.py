"""timm's plain attention with fewer copies, for the tokens that are asked for."""

import torch
import torch.nn.functional as F
from timm.layers import Attention
from torch import nn


class LeanAttention(Attention):
    """timm's ``Attention`` of a plain ViT; parameters and outputs are its own.

    timm swaps the dimensions of q, k and v together, so the backward pass copies their gradient
    twice; here it is written once, where the layer ``qkv`` needs it.

    Attributes:
        asking: How many of the first tokens to compute the output for; None for all.
    """

    asking: int | None = None

    def forward(
        self, x: torch.Tensor, attn_mask: torch.Tensor | None = None, is_causal: bool = False
    ) -> torch.Tensor:
        """Returns ``(B, asking, D)`` of tokens ``(B, N, D)``."""
        if attn_mask is not None or is_causal:
            return super().forward(x, attn_mask, is_causal)
        parts = self.qkv(x).unflatten(2, (3, self.num_heads, self.head_dim)).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in parts)  # (B, heads, N, head_dim)
        q = q[:, :, : self.asking]
        if self.fused_attn:
            heads = F.scaled_dot_product_attention(q, k, v)
        else:
            heads = self.attn_drop((q * self.scale @ k.mT).softmax(-1)) @ v
        return self.proj(heads.transpose(1, 2).flatten(2))


def make_lean(attention: nn.Module) -> LeanAttention | None:
    """Turns timm's plain attention into a lean one, in place; None if it is another kind."""
    if isinstance(attention, LeanAttention):
        return attention
    if type(attention) is not Attention:
        return None
    parts = (attention.q_norm, attention.k_norm, attention.norm)
    dropped = attention.attn_drop.p or attention.proj_drop.p
    if attention.gate is not None or dropped or any(type(p) is not nn.Identity for p in parts):
        return None
    attention.__class__ = LeanAttention
    return attention  # pyright: ignore[reportReturnType] - it is one now
