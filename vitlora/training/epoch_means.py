"""The means of an epoch in training. Lightning's own cannot be saved in the middle of an epoch."""

import torch


class EpochMeans:
    """Loss and accuracy over the pictures of an epoch so far.

    The sums are on the device, so that no step waits for its numbers.

    Attributes:
        sums: ``(3,)``: of the pictures' losses, of the right answers, of the pictures.
    """

    def __init__(self) -> None:
        self.sums = torch.zeros(3)

    def add(
        self, loss: torch.Tensor, hits: torch.Tensor, pictures: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Adds a batch, and returns its own numbers under their names in the logs.

        Args:
            loss: Mean of the batch.
            hits: Number of its right answers.
            pictures: Number of its pictures.
        """
        self.sums = self.sums.to(loss.device) + torch.stack([pictures * loss, hits, pictures])
        return {"train/loss_step": loss, "train/acc_step": hits / pictures}

    def now(self) -> tuple[float, float]:
        """Returns loss and accuracy of the epoch so far; waits for the device."""
        loss, hits, pictures = self.sums.tolist()
        return loss / max(pictures, 1), hits / max(pictures, 1)

    def take(self) -> dict[str, torch.Tensor]:
        """Returns the means under their names in the logs, and begins anew."""
        loss, hits, pictures = self.sums
        self.sums = torch.zeros(3)
        return {"train/loss": loss / pictures, "train/acc": hits / pictures}
