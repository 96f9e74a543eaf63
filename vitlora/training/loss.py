"""The loss of a batch, and what is counted with it."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from vitlora.data.order import NOT_COUNTED
from vitlora.training import ranks


def class_weights(counts: Sequence[int]) -> torch.Tensor:
    """Returns the weight of each class, in inverse proportion to its pictures; 0 without any."""
    pictures = torch.tensor(counts, dtype=torch.float32)
    weight = pictures.sum() / (pictures.count_nonzero() * pictures)
    return torch.where(pictures > 0, weight, 0.0)


class Tally(NamedTuple):
    """What a batch of all processes amounts to.

    Attributes:
        loss: Mean over its pictures.
        hits: Number of right answers.
        pictures: Number of pictures.
        weight: Sum of the weights of their classes.
    """

    loss: torch.Tensor
    hits: torch.Tensor
    pictures: torch.Tensor
    weight: torch.Tensor


def summed_loss(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None, smoothing: float
) -> torch.Tensor:
    """Returns the sum of the pictures' losses.

    Args:
        logits: ``(B, classes)``, fp32.
        labels: ``(B,)``, where ``NOT_COUNTED`` leaves a picture out.
        weights: Of the classes, ``(classes,)``; None for 1 each.
        smoothing: Share of each label that is spread over all classes.
    """
    return F.cross_entropy(
        *(logits, labels, weights),
        ignore_index=NOT_COUNTED,
        reduction="sum",
        label_smoothing=smoothing,
    )


def shared_loss(
    loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None
) -> tuple[torch.Tensor, Tally]:
    """Returns what to differentiate, of which processes take the mean; and the numbers of all.

    Args:
        loss: Sum over this process's part of the batch.
        logits: ``(B, classes)``, fp32, of that part.
        labels: ``(B,)``, where ``NOT_COUNTED`` leaves a picture out.
        weights: Of the classes, ``(classes,)``; None for 1 each.
    """
    counts = labels != NOT_COUNTED
    pictures = counts.sum().float()
    weight = pictures if weights is None else (weights[labels.clamp(min=0)] * counts).sum()
    hits = (logits.argmax(1) == labels).sum().float()
    total, hits, pictures, weight = ranks.summed(
        torch.stack([loss.detach(), hits, pictures, weight])
    )
    return loss * (ranks.count() / weight), Tally(total / weight, hits, pictures, weight)


def gathered(
    parts: Sequence[Sequence[tuple[torch.Tensor, torch.Tensor]]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns logits ``(N, classes)`` and labels ``(N,)`` of what several processes evaluated.

    Batches keep their order, and within a batch each process's pictures follow the one's before.

    Args:
        parts: For each process, its part of each batch: ``(B, classes)`` and ``(B,)``.
    """
    every = [part for batch in zip(*parts, strict=True) for part in batch]
    logits, labels = (torch.cat(column) for column in zip(*every, strict=True))
    counts = labels != NOT_COUNTED
    return logits[counts], labels[counts]
