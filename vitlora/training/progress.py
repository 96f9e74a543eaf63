"""One progress line in plain ASCII, which any console can show."""

import math
import os
import sys
import time
from collections.abc import Sequence
from typing import cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

from vitlora.training.classifier import Classifier
from vitlora.units import clock

_WIDTH = 20  # characters of the bar
_STARVED = 0.1  # share of the time spent waiting for pictures from which the line says so
_ENOUGH = 2.0  # seconds of training before that share means anything


class Progress(ProgressBar):
    """Shows epoch, bar, mean loss and accuracy, images per second and the remaining time.

    If training waits for pictures, the line says so and what helps. On a terminal the line is
    redrawn in place; elsewhere one line is printed for each epoch.
    """

    def __init__(self) -> None:
        super().__init__()
        self._on = True
        self._images = 0
        self._started = self._drawn = 0.0
        self._epoch_started = self._ended = self._waited = 0.0
        self._length = 0
        self._done = 0.0  # share of the run that was done when the clock started

    def disable(self) -> None:
        """Turns the line off (Lightning does so on all processes but the first)."""
        self._on = False

    def enable(self) -> None:
        """Turns the line on."""
        self._on = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._started = self._epoch_started = self._ended = time.monotonic()
        self._images = 0
        self._done = trainer.global_step / max(trainer.estimated_stepping_batches, 1)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Adds up the time spent waiting for batches, but not for an epoch's first batch."""
        now = time.monotonic()
        if batch_idx == 0:
            self._epoch_started, self._waited = now, 0.0
        else:
            self._waited += now - self._ended

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: Sequence[torch.Tensor],
        batch_idx: int,
    ) -> None:
        """Redraws the line, at most ten times a second."""
        self._images += len(batch[1]) * trainer.world_size
        now = time.monotonic()
        if self._on and sys.stdout.isatty() and now - self._drawn > 0.1:
            self._drawn = now
            share = (batch_idx + 1) / max(self.total_train_batches, 1)
            print("\r" + self._over(self._line(trainer, pl_module, share)), end="", flush=True)
        self._ended = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends the epoch's line with the validation numbers."""
        if not self._on or trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        metrics = trainer.callback_metrics
        line = (
            f"{self._line(trainer, pl_module, 1.0)} | val acc {float(metrics['val/acc']):.4f} "
            f"macro-F1 {float(metrics['val/macro_f1']):.4f}"
        )
        print("\r" + self._over(line) if sys.stdout.isatty() else line, flush=True)
        self._length = 0

    def _line(self, trainer: Trainer, pl_module: LightningModule, share: float) -> str:
        length = epochs_of(trainer)  # may change on the way
        epochs = math.ceil(length)
        loss, accuracy = cast(Classifier, pl_module).means.now()
        elapsed = time.monotonic() - self._started
        done = min((trainer.current_epoch + share) / length, 1.0)
        fresh = done - self._done
        left = elapsed / fresh * (1 - done) if fresh > 0 else 0.0
        filled = round(share * _WIDTH)
        return (
            f"epoch {trainer.current_epoch + 1:>{len(str(epochs))}}/{epochs} "
            f"[{'#' * filled}{'.' * (_WIDTH - filled)}] "
            f"loss {loss:.3f} acc {accuracy:.3f} "
            f"{self._images / max(elapsed, 1e-9):.0f} img/s, {clock(left)} left"
            f"{self._waiting(trainer)}"
        )

    def _waiting(self, trainer: Trainer) -> str:
        """Returns the share of the epoch spent waiting for pictures, and advice, if it is large."""
        trained = self._ended - self._epoch_started
        if trained < _ENOUGH or self._waited < _STARVED * trained:
            return ""
        workers = getattr(trainer.train_dataloader, "num_workers", 0)
        more = workers < (os.cpu_count() or 1)
        advice = f"raise data.num_workers ({workers})" if more else "smaller files load faster"
        return f" | waits {self._waited / trained:.0%} for data: {advice}"

    def _over(self, line: str) -> str:
        """Returns the line, padded to hide the previous one."""
        self._length, before = len(line), self._length
        return line.ljust(before)


def stopped_early(trainer: Trainer, last: int) -> str | None:
    """Returns a line if early stopping ended the run before its length.

    Args:
        trainer: Lightning's, after the run.
        last: Number of the last epoch, from 1.
    """
    length = math.ceil(epochs_of(trainer))
    for stopping in trainer.early_stopping_callbacks:
        if trainer.should_stop and stopping.stopped_epoch + 1 == last < length:
            return f"stopped after epoch {last} of {length}: early stopping on {stopping.monitor}"
    return None


def epochs_of(trainer: Trainer) -> float:
    """Returns the number of epochs of a run; a run of ``max_steps`` may end within one."""
    each = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    return max(trainer.estimated_stepping_batches / max(each, 1), 1 / max(each, 1))
