"""Steps over several batches: equal to one step over all their pictures."""

from typing import Any

import torch


class Accumulation:
    """Makes an accumulated gradient the mean over the pictures it saw.

    Lightning divides each loss by the number of batches for a step, also where fewer batches, or
    fewer pictures, were left of the epoch: to them the step would be that much smaller.
    """

    def __init__(self) -> None:
        self._weights: list[int | torch.Tensor] = []  # of the batches since the last step

    def forget(self) -> None:
        """Forgets batches of which no step was made."""
        self._weights = []

    def weighed(self, loss: torch.Tensor, weight: int | torch.Tensor) -> torch.Tensor:
        """Returns a batch's loss, multiplied with its weight over that of the step's first.

        Args:
            loss: The mean over the batch.
            weight: Pictures of the batch, or the sum of their weights.
        """
        self._weights.append(weight)
        return loss * (weight / self._weights[0])

    @torch.no_grad()
    def rescale(self, gradients: list[torch.Tensor], batches: int) -> None:
        """Turns the sum of the step's gradients into their mean, in place.

        Args:
            gradients: Of ``weighed`` losses, each divided by ``batches``.
            batches: For a step; fewer may have come.
        """
        if not self._weights:
            return
        scale: Any = batches * self._weights[0] / sum(self._weights)  # a float or a tensor
        self.forget()
        if not isinstance(scale, float) or scale != 1:
            torch._foreach_mul_(gradients, scale)
