"""Where in a picture a network's answer comes from."""

from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


def saliency(network: nn.Module, images: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Returns how much each patch speaks for a class: ``(B, h, w)``, the largest of each at 1.

    Attention times its gradient, mean over the heads of what is positive, carried from the answer
    back through all blocks (Chefer, Gur and Wolf 2021, arXiv:2103.15679, equations 5 and 6). As
    theirs it starts from the class token; where other tokens are pooled, from what each of them
    says after the last norm, gradient times activation. Prefix tokens, registers among them, are
    left out.

    Args:
        network: timm's plain ``VisionTransformer``, ``Eva`` or ``Beit`` in evaluation mode.
        images: ``(B, 3, H, W)``, normalised, on the network's device.
        classes: Of each picture the class to ask about, ``(B,)``.

    Returns:
        On the CPU, in ``[0, 1]``. All 0 where no patch speaks for the class.
    """
    module: Any = network
    relevance = torch.zeros(())  # of each token, (B, N); set by the first gradient to come

    def start(layer: nn.Module, inputs: Any, tokens: torch.Tensor) -> None:
        def spoken(gradient: torch.Tensor) -> None:
            nonlocal relevance
            share = (gradient * tokens.detach()).sum(2).clamp(min=0)
            reached = gradient.abs().sum(2).gt(0).to(share.dtype)
            relevance = reached if module.global_pool == "token" else share

        tokens.register_hook(spoken)

    def carry(layer: nn.Module, inputs: Any, attention: torch.Tensor) -> None:
        def back(gradient: torch.Tensor) -> None:  # both (B, heads, N, N)
            nonlocal relevance
            weights = (gradient * attention.detach()).clamp(min=0).mean(1)
            # a network that answers from its class token gives the last norm nothing else
            relevance = F.pad(relevance, (0, weights.shape[1] - relevance.shape[1]))
            relevance = relevance + (relevance[:, None] @ weights)[:, 0]

        attention.register_hook(back)

    with ExitStack() as stack, torch.enable_grad():
        stack.callback(module.norm.register_forward_hook(start).remove)
        for block in module.blocks:
            # only unfused attention lets its matrix pass through a module
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
