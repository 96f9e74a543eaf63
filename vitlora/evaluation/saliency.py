"""Which parts of a picture a network's answer comes from."""

from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


def saliency(network: nn.Module, images: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Returns the relevance of each patch for a class, ``(B, h, w)``; each maximum is 1.

    Positive attention times gradient, averaged over the heads and carried back through all blocks
    (Chefer, Gur and Wolf 2021, arXiv:2103.15679, equations 5 and 6). It starts from the class
    token, as in the paper; if other tokens are pooled, from each one's gradient times activation
    after the last norm. Prefix tokens, such as registers, are left out.

    Args:
        network: timm's plain ``VisionTransformer``, ``Eva`` or ``Beit`` in evaluation mode.
        images: ``(B, 3, H, W)``, normalised, on the network's device.
        classes: The class of each map, ``(B,)``.

    Returns:
        On the CPU, in ``[0, 1]``; all 0 if no patch is relevant.
    """
    module: Any = network
    relevance = torch.zeros(())  # (B, N), set by the first gradient

    def start(layer: nn.Module, inputs: object, tokens: torch.Tensor) -> None:
        def begin(gradient: torch.Tensor) -> None:
            nonlocal relevance
            share = (gradient * tokens.detach()).sum(2).clamp(min=0)
            reached = gradient.abs().sum(2).gt(0).to(share.dtype)
            relevance = reached if module.global_pool == "token" else share

        tokens.register_hook(begin)

    def carry(layer: nn.Module, inputs: object, attention: torch.Tensor) -> None:
        def back(gradient: torch.Tensor) -> None:  # both (B, heads, N or 1, N)
            nonlocal relevance
            weights = (gradient * attention.detach()).clamp(min=0).mean(1)
            # a network that answers from its class token computes that token alone at last
            relevance = F.pad(relevance, (0, weights.shape[2] - relevance.shape[1]))
            asking = relevance[:, None, : weights.shape[1]]
            relevance = relevance + (asking @ weights)[:, 0]

        attention.register_hook(back)

    with ExitStack() as stack, torch.enable_grad():
        stack.callback(module.norm.register_forward_hook(start).remove)
        for block in module.blocks:
            # only unfused attention passes its weights through a module
            stack.callback(setattr, block.attn, "fused_attn", block.attn.fused_attn)
            block.attn.fused_attn = False
            stack.callback(block.attn.attn_drop.register_forward_hook(carry).remove)
        images = images.detach().requires_grad_()
        logits = network(images)
        chosen = logits.gather(1, classes.to(logits.device)[:, None]).sum()
        torch.autograd.grad(chosen, images)
    patches = relevance[:, module.num_prefix_tokens :].float().cpu()
    patches = patches / patches.amax(1, keepdim=True).clamp(min=1e-12)
    return patches.unflatten(1, module.patch_embed.grid_size)
