"""Leaves out what a Vision Transformer need not compute or keep in full precision."""

import torch
from torch import nn

from vitlora.backbones.attention import make_lean
from vitlora.backbones.source import as_vit


def answer_from_class_token(module: nn.Module) -> None:
    """Makes the last block compute only the class token, from its attention on.

    If the head reads only the class token, nothing uses the other tokens of the last block, which
    take three quarters of its work. The class token's value does not change.

    Args:
        module: timm's ``VisionTransformer``, ``Eva`` or ``Beit``, with its adapters. A module that
            pools several tokens does not change.
    """
    vit = as_vit(module)
    if vit.global_pool != "token":
        return
    block = vit.blocks[-1]
    if (attention := make_lean(block.get_submodule("attn"))) is not None:
        attention.asking = 1
    block.get_submodule("attn.proj").register_forward_pre_hook(_first_token_in)
    # the residual sum broadcasts the class token's update to all tokens; the others are dropped
    block.get_submodule("mlp").register_forward_pre_hook(_first_token_in)
    block.register_forward_hook(_first_token_out)


def stream_in_bf16(module: nn.Module) -> None:
    """Passes tokens from block to block in bf16 if autocast runs the layers in bf16.

    Autocast alone keeps the residual stream in fp32: each norm saves its input in fp32 for the
    backward pass, and each layer casts. On CUDA it would also cast the norms' inputs back to fp32,
    unless timm's norms are told not to.

    Args:
        module: timm's ViT, to be trained under autocast in bf16.
    """
    vit = as_vit(module)
    vit.blocks[0].register_forward_pre_hook(_as_autocast)
    for part in (*vit.blocks.modules(), *vit.norm.modules()):
        if hasattr(part, "_fast_norm"):
            part._fast_norm = True  # pyright: ignore[reportArgumentType]


def _as_autocast(
    block: nn.Module, inputs: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, ...] | None:
    device = inputs[0].device.type
    if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16:
        return (inputs[0].bfloat16(), *inputs[1:])
    return None


def _first_token_in(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
    return (inputs[0][:, :1].contiguous(),)  # a view would keep all tokens in memory


def _first_token_out(layer: nn.Module, inputs: object, tokens: torch.Tensor) -> torch.Tensor:
    return tokens[:, :1].contiguous()
