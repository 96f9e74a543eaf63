"""Gradient accumulation that equals one step over all pictures."""

import torch


class Accumulation:
    """Turns an accumulated gradient into the mean over its pictures.

    Lightning divides each loss by the number of batches in a full step. Without this class, an
    epoch's last step would be too small if it has fewer batches or pictures.
    """

    def __init__(self) -> None:
        self._weights: list[int | torch.Tensor] = []  # one for each batch since the last step

    @property
    def begun(self) -> bool:
        """Whether there are batches that did not complete a step."""
        return bool(self._weights)

    def forget(self) -> None:
        """Discards batches that did not complete a step."""
        self._weights = []

    def weighed(self, loss: torch.Tensor, weight: int | torch.Tensor) -> torch.Tensor:
        """Returns a batch's loss times its weight, divided by the weight of the step's first batch.

        Args:
            loss: Mean loss of the batch.
            weight: Number of pictures in the batch, or the sum of their weights.
        """
        self._weights.append(weight)
        return loss * (weight / self._weights[0])

    @torch.no_grad()
    def rescale(self, gradients: list[torch.Tensor], batches: int) -> None:
        """Turns the sum of the step's gradients into their mean, in place.

        Args:
            gradients: Gradients of ``weighed`` losses, each divided by ``batches``.
            batches: Batches in a full step; the last step of an epoch may have fewer.
        """
        if not self._weights:
            return
        scale: float | torch.Tensor = batches * self._weights[0] / sum(self._weights)
        self.forget()
        if not isinstance(scale, float) or scale != 1:
            torch._foreach_mul_(gradients, scale)
