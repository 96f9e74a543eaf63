"""Batches on a CPU, in pieces that its caches hold."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

# Tokens for each thread: with more, what a layer writes has left the cache before the next layer
# reads it, and memory has to be asked for; with fewer, products are small (benchmarks/pieces.py).
TOKENS = 1_600


def pictures_at_once(kind: str, tokens: int) -> int | None:
    """Returns how many pictures of a batch a network computes at once; None for all.

    Args:
        kind: Of device: cpu, cuda or mps. Only a CPU is as fast with few.
        tokens: Of one picture, at least 1.
    """
    return max(1, round(TOKENS * torch.get_num_threads() / tokens)) if kind == "cpu" else None


def pieces(pictures: torch.Tensor, tokens: int) -> tuple[torch.Tensor, ...]:
    """Returns the parts ``(b, ...)`` of a batch ``(B, ...)`` to compute one after the other.

    Args:
        pictures: At least one, in any form.
        tokens: Of one picture, at least 1.
    """
    most = pictures_at_once(pictures.device.type, tokens)
    if most is None or len(pictures) <= most:
        return (pictures,)
    return pictures.tensor_split(math.ceil(len(pictures) / most))


def joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns what was computed of the parts of a batch as one tensor; one part is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def differentiated(
    network: Callable[[torch.Tensor], torch.Tensor],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    parts: Sequence[torch.Tensor],
    labels: torch.Tensor,
    trained: Sequence[torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the loss of a batch, to differentiate, and its logits ``(B, classes)``, fp32.

    If there are several parts, the gradients are computed here, the forward and the backward pass
    of each part before those of the next, so that memory holds the activations of one.

    Args:
        network: Pictures -> logits.
        loss: Logits, labels -> sum over the pictures.
        parts: The pictures of the batch, in order.
        labels: Of the whole batch, ``(B,)``.
        trained: What the loss is differentiated by; it must depend on each.
    """
    if len(parts) == 1:
        logits = network(parts[0]).float()
        return loss(logits, labels), logits
    sums, answers = list[torch.Tensor](), list[torch.Tensor]()
    gradients = list[torch.Tensor]()
    for part, its in zip(parts, labels.split([len(part) for part in parts]), strict=True):
        logits = network(part).float()
        of_part = loss(logits, its)
        with torch.autocast(of_part.device.type, enabled=False):  # as in any backward pass
            gradients = _added(gradients, torch.autograd.grad(of_part, trained))
        sums.append(of_part.detach())
        answers.append(logits.detach())
    total: Any = _Differentiated.apply(torch.stack(sums).sum(), gradients, *trained)
    return total, torch.cat(answers)


def _added(sums: list[torch.Tensor], new: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    if not sums:
        return [gradient.clone() for gradient in new]  # some may be views of others
    torch._foreach_add_(sums, new)
    return sums


class _Differentiated(torch.autograd.Function):
    """A number whose gradients are known."""

    @staticmethod
    def forward(
        ctx: Any, number: torch.Tensor, gradients: list[torch.Tensor], *trained: torch.Tensor
    ) -> torch.Tensor:
        ctx.gradients = gradients
        return number.clone()

    @staticmethod
    def backward(ctx: Any, *upper: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        torch._foreach_mul_(gradients, upper[0])
        return None, None, *gradients
