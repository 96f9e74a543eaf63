"""The loss of a training: its weights for the classes, and what ends it."""

import math
from collections.abc import Sequence

import torch

from vitlora.errors import VitloraError


def class_weights(counts: Sequence[int]) -> torch.Tensor:
    """Returns the weight of each class, in inverse proportion to its pictures; 0 without any."""
    pictures = torch.tensor(counts, dtype=torch.float32)
    weight = pictures.sum() / (pictures.count_nonzero() * pictures)
    return torch.where(pictures > 0, weight, 0.0)


def check_finite(loss: float, epoch: int, lr: float) -> None:
    """Ends a training that has diverged.

    Args:
        loss: Of the validation pictures.
        epoch: Number of the epoch, from 0.
        lr: Peak learning rate.

    Raises:
        VitloraError: The loss is infinite or not a number.
    """
    if not math.isfinite(loss):
        raise VitloraError(
            f"the validation loss is {loss}: training diverged in epoch {epoch + 1}; lower "
            f"model.lr, which is {lr}. The best epoch so far, if any, is saved"
        )
