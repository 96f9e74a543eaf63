"""What a Vision Transformer need not compute, and need not keep in full."""

from typing import Any

import torch
from torch import nn


def answer_from_class_token(module: nn.Module) -> None:
    """Lets the last block compute what comes after its attention for the class token alone.

    Where the head is given the class token, nothing reads the other tokens of the last block, and
    nearly three quarters of its work were for them. The class token's value is the same.

    Args:
        module: timm's ``VisionTransformer``, ``Eva`` or ``Beit``, its adapters in place. One that
            pools several tokens is left as it is.
    """
    vit: Any = module
    if vit.global_pool != "token":
        return
    block = vit.blocks[-1]
    block.attn.proj.register_forward_pre_hook(_first_token_in)
    # added to the class token's update, the other tokens are wrong from here on, and cut off below
    block.mlp.register_forward_pre_hook(_first_token_in)
    block.register_forward_hook(_first_token_out)


def stream_in_bf16(module: nn.Module) -> None:
    """Lets tokens run from block to block in bf16 where autocast runs the layers in bf16.

    Autocast leaves the sum of all blocks' outputs in fp32, so that each norm keeps its input in
    fp32 for the backward pass, and each layer casts. On CUDA it would cast the norms' inputs back
    to fp32; timm's norms have a switch for that.

    Args:
        module: timm's ViT, about to be trained under autocast in bf16.
    """
    vit: Any = module
    vit.blocks[0].register_forward_pre_hook(_as_autocast)
    for part in (*vit.blocks.modules(), *vit.norm.modules()):
        if hasattr(part, "_fast_norm"):
            part._fast_norm = True


def _as_autocast(
    block: nn.Module, inputs: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, ...] | None:
    device = inputs[0].device.type
    if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16:
        return (inputs[0].bfloat16(), *inputs[1:])
    return None


def _first_token_in(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
    return (inputs[0][:, :1].contiguous(),)  # else the layer would keep all tokens


def _first_token_out(layer: nn.Module, inputs: Any, tokens: torch.Tensor) -> torch.Tensor:
    return tokens[:, :1].contiguous()
