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
        self, loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Adds a batch, and returns its own numbers under their names in the logs.

        Args:
            loss: Mean of the batch.
            logits: ``(B, classes)``.
            labels: ``(B,)``.
        """
        accuracy = (logits.argmax(1) == labels).float().mean()
        means = torch.stack([loss.float(), accuracy, torch.ones_like(accuracy)])
        self.sums = self.sums.to(means.device) + len(labels) * means
        return {"train/loss_step": loss, "train/acc_step": accuracy}

    def take(self) -> dict[str, torch.Tensor]:
        """Returns the means under their names in the logs, and begins anew."""
        loss, hits, pictures = self.sums
        self.sums = torch.zeros(3)
        return {"train/loss": loss / pictures, "train/acc": hits / pictures}
