"""Stops a training whose loss is no longer a number."""

import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from vitlora.errors import VitloraError

_WATCHED = ("cpu",)  # devices whose steps are over when they return
_EVERY = 20  # steps between two looks on the others, where each look waits for the step


class Divergence(Callback):
    """Ends a training in the step whose loss is nan or infinite, and names it."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins."""
        self._first = torch.tensor(0, device=pl_module.device)  # the step; 0: none

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Remembers which step the batch is for."""
        self._step = trainer.global_step + 1

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Notes the first such step, and looks at the note.

        Raises:
            DivergedError: There was one.
        """
        loss = trainer.callback_metrics["train/loss_step"]  # of all processes
        # counted on the device, so that no step waits for it
        new = ~loss.isfinite() & (self._first == 0)
        self._first = torch.where(new, self._step, self._first)
        look = loss.device.type in _WATCHED or trainer.is_last_batch or batch_idx % _EVERY == 0
        if look and (step := int(self._first)):
            raise diverged(trainer, f"the training loss of step {step} is not a number", step == 1)


def check_validation(trainer: Trainer, loss: float) -> None:
    """Ends a training whose validation loss is not a number.

    Raises:
        DivergedError: It is nan or infinite.
    """
    if not math.isfinite(loss):
        raise diverged(trainer, f"the validation loss is {loss}")


class DivergedError(VitloraError):
    """A training whose loss is no number, which going on would not change."""


def diverged(trainer: Trainer, said: str, at_once: bool = False) -> DivergedError:
    """Returns the error of a training that diverged, with the likely cause.

    Args:
        trainer: Its trainer.
        said: What was seen, and where.
        at_once: Whether it was seen before the first step changed anything.
    """
    lr = f"lower model.lr, which is {trainer.lightning_module.lr}"  # pyright: ignore
    if at_once:
        todo = "no step was taken before, so it is not the rate; try --precision 32"
    elif trainer.precision == "16-mixed":
        todo = f"fp16 may have overflowed; try --precision bf16 or 32, or {lr}"
    else:
        todo = lr
    return DivergedError(
        f"{said}: training diverged in epoch {trainer.current_epoch + 1}; {todo}. An "
        "epoch that was saved before is kept"
    )
