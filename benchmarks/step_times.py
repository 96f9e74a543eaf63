"""A callback that notes seconds, losses and peak memory of a run; see giant.py."""

import json
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from vitlora.training.measures import peak_host_bytes


class StepTimes(Callback):
    """Writes a JSON line when the model is loaded, and one for each step.

    Args:
        file: Where to.
    """

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Starts the clock; the model is loaded next."""
        self._note("imported")
        self._clock = time.monotonic()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes how long loading took."""
        self._note("loaded", seconds=self._seconds())

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Starts the clock."""
        self._clock = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Notes a step: its loss was computed before the weights moved."""
        self._note("step", seconds=self._seconds(), loss=round(float(outputs["loss"]), 4))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes the peak of training and validation."""
        self._note("trained")

    def _seconds(self) -> float:
        return round(time.monotonic() - self._clock, 2)

    def _note(self, what: str, **fields: float) -> None:
        peak = peak_host_bytes()
        mib = None if peak is None else round(peak / 2**20, 1)
        with self.file.open("a") as file:
            file.write(json.dumps({"what": what, "hwm_mib": mib, **fields}) + "\n")
