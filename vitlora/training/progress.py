"""One progress line in plain ASCII, so that any console can show it."""

import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

_WIDTH = 20  # characters of the bar


class Progress(ProgressBar):
    """Shows epoch, bar, mean loss and accuracy, images per second and the time the run still takes.

    On a terminal the line is redrawn in place; elsewhere one line is printed for each epoch.
    """

    def __init__(self) -> None:
        super().__init__()
        self._on = True
        self._images = self._epoch_images = 0
        self._loss = self._hits = 0.0
        self._started = self._drawn = 0.0

    def disable(self) -> None:
        """Turns the line off (Lightning does so on all processes but the first)."""
        self._on = False

    def enable(self) -> None:
        """Turns the line on."""
        self._on = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._started = time.monotonic()
        self._images = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Redraws the line, at most ten times a second."""
        count, metrics = len(batch[1]), trainer.callback_metrics
        if batch_idx == 0:
            self._epoch_images, self._loss, self._hits = 0, 0.0, 0.0
        self._images += count
        self._epoch_images += count
        self._loss += count * float(metrics["train/loss_step"])
        self._hits += count * float(metrics["train/acc_step"])
        now = time.monotonic()
        if self._on and sys.stdout.isatty() and now - self._drawn > 0.1:
            self._drawn = now
            share = (batch_idx + 1) / max(self.total_train_batches, 1)
            print("\r" + self._line(trainer, share), end="", flush=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends the epoch's line with the validation numbers."""
        if not self._on or trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        metrics = trainer.callback_metrics
        line = (
            f"{self._line(trainer, 1.0)} | val acc {float(metrics['val/acc']):.4f} "
            f"macro-F1 {float(metrics['val/macro_f1']):.4f}"
        )
        print(("\r" if sys.stdout.isatty() else "") + line, flush=True)

    def _line(self, trainer: Trainer, share: float) -> str:
        epochs, seen = trainer.max_epochs or 1, max(self._epoch_images, 1)
        elapsed = time.monotonic() - self._started
        done = (trainer.current_epoch + share) / epochs
        left = elapsed / done - elapsed if done else 0.0
        filled = round(share * _WIDTH)
        return (
            f"epoch {trainer.current_epoch + 1:>{len(str(epochs))}}/{epochs} "
            f"[{'#' * filled}{'.' * (_WIDTH - filled)}] "
            f"loss {self._loss / seen:.3f} acc {self._hits / seen:.3f} "
            f"{self._images / max(elapsed, 1e-9):.0f} img/s, {clock(left)} left"
        )


def clock(seconds: float) -> str:
    """Returns a duration as minutes:seconds, or hours:minutes:seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
