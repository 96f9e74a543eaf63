"""Checks before the first step that the gradient reaches every trainable tensor."""

import torch
from torch import nn

from vitlora.errors import AdapterError


def gradient_self_test(network: nn.Module, images: torch.Tensor) -> int:
    """Runs one small backward pass and returns how many trainable tensors it reached.

    A tensor whose gradient is None was never used: its layer is bypassed, and training would not
    change it. (A gradient of zero proves nothing: LoRA's B starts at zero, so A's first gradient is
    zero.) The gradients, the training mode and the random state are restored at the end.

    Args:
        network: The network to train; its output is ``(B, classes)``.
        images: ``(B, 3, H, W)``, any values.

    Raises:
        AdapterError: Nothing is trainable, a tensor is not reached, or a gradient is not finite.
    """
    trainable = {name: p for name, p in network.named_parameters() if p.requires_grad}
    if not trainable:
        raise AdapterError("nothing is trainable: no adapter was injected and the head is frozen")
    kept = {name: p.grad for name, p in trainable.items()}
    training = network.training
    devices = [images.device] if images.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices), torch.enable_grad():
            network.train()
            for parameter in trainable.values():
                parameter.grad = None
            network(images).float().square().sum().backward()
        dead = [name for name, p in trainable.items() if p.grad is None]
        if dead:
            raise AdapterError(
                f"{len(dead)} of {len(trainable)} trainable tensors get no gradient, first "
                f"{dead[0]}: its layer is bypassed, so training would not change it"
            )
        wild = [name for name, p in trainable.items() if not torch.isfinite(p.grad).all()]  # pyright: ignore
        if wild:
            raise AdapterError(f"the gradient of {wild[0]} is not finite before any step")
    finally:
        network.train(training)
        for name, parameter in trainable.items():
            parameter.grad = kept[name]
    return len(trainable)
