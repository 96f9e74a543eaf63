"""A running mean of the trained weights: what is validated and kept."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class WeightAverage(Callback):
    """Validates, and so keeps, an exponential mean of the trained tensors over the last steps.

    Single epochs of a high learning rate are noisy, and picking the best of them by a small
    validation set picks noise; their mean is both better and steadier (Polyak and Juditsky 1992;
    the decay rises over the first steps as in TensorFlow's ExponentialMovingAverage). Only
    trained tensors are doubled. Must stand before callbacks that save.

    Args:
        decay: Share of the mean kept at each step, ``0 < decay < 1``; the mean spans about
            ``1 / (1 - decay)`` steps.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self._trained: list[torch.Tensor] = []
        self._other: list[torch.Tensor] = []  # the mean, or while that is in use, the raw weights
        self._steps = 0
        self._in_use = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the mean at the first weights."""
        self._trained = [p.data for p in pl_module.parameters() if p.requires_grad]
        self._other = [tensor.clone() for tensor in self._trained]
        self._steps, self._in_use = 0, False

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Trains on with the raw weights."""
        if self._in_use:
            self._swap()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the mean after each step of the optimiser."""
        if trainer.global_step > self._steps:
            self._steps = trainer.global_step
            decay = min(self.decay, (1 + self._steps) / (10 + self._steps))
            torch._foreach_lerp_(self._other, self._trained, 1 - decay)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validates the mean."""
        if self._steps and not self._in_use:
            self._swap()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the mean in place for who saves at the end."""
        self.on_validation_start(trainer, pl_module)

    def _swap(self) -> None:
        for trained, other in zip(self._trained, self._other, strict=True):
            kept = trained.clone()
            trained.copy_(other)
            other.copy_(kept)
        self._in_use = not self._in_use
