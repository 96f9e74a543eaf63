"""The weights of the classes in the loss."""

from collections.abc import Sequence

import torch


def class_weights(counts: Sequence[int]) -> torch.Tensor:
    """Returns the weight of each class, in inverse proportion to its pictures; 0 without any."""
    pictures = torch.tensor(counts, dtype=torch.float32)
    weight = pictures.sum() / (pictures.count_nonzero() * pictures)
    return torch.where(pictures > 0, weight, 0.0)
