"""The folder a run leaves: the best epoch as a bundle, whatever ends the training, and the logs."""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from vitlora.bundle.card import model_card
from vitlora.bundle.checkpoint import save_bundle
from vitlora.bundle.folder import is_bundle
from vitlora.bundle.record import Record
from vitlora.bundle.transaction import is_leftover
from vitlora.errors import UsageError, counted
from vitlora.metrics.scores import Scores
from vitlora.notes import note, tell


class RunFolder(Callback):
    """Writes the bundle whenever the validation macro-F1 rises (the lower loss breaks a tie).

    Args:
        folder: Where the bundle goes, and the logs below it. A bundle that lies there is moved
            aside, never overwritten.
        run_config: The resolved configuration as YAML text.
        logs: Whether to write logs/metrics.csv and TensorBoard's events.
        parent: What the record says of the bundle that training goes on from.
    """

    def __init__(
        self, folder: Path, run_config: str, logs: bool, parent: str | None = None
    ) -> None:
        check_free(folder)  # before the pictures are read
        self.folder = folder
        self.run_config = run_config
        self.logs = logs
        self.parent = parent
        self.best: Scores | None = None
        self.best_epoch = 0
        self.written = False
        self._validated = 0  # steps until the last validation
        self._aside: Path | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the folder, once nothing but training is left to go wrong."""
        self._aside = clear_the_way(self.folder)
        if self._aside is not None:
            tell(f"the earlier bundle in {self.folder} is now {self._aside}")
        if self.logs:
            where: dict[str, Any] = {"save_dir": self.folder, "name": "logs", "version": ""}
            trainer.loggers = [CSVLogger(**where), TensorBoardLogger(**where)]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the last weights of a run that was never validated; says what else is not kept."""
        if not self.written and trainer.global_step:
            self._write(trainer, pl_module, {})
            tell(f"no epoch was validated; the last weights are kept in {self.folder}")
        elif left := trainer.global_step - self._validated:
            note(
                f"what was learnt after the last validation, in {counted(left, 'step')}, is "
                "not in the bundle; training that ends with an epoch loses nothing"
            )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the bundle if this epoch is the best so far."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        module: Any = pl_module
        self._validated = trainer.global_step
        scores: Scores = module.scores(trainer.datamodule.folder.classes)  # pyright: ignore
        if self.best is None or (scores.macro_f1, -scores.loss) > (
            self.best.macro_f1,
            -self.best.loss,
        ):
            self.best, self.best_epoch = scores, trainer.current_epoch + 1
            self._write(trainer, module, scores.summary())

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Gives an earlier bundle its place back if the run came to nothing.

        On Ctrl-C, leaves a usable bundle and says where.
        """
        module: Any = pl_module
        interrupted = isinstance(exception, KeyboardInterrupt)
        if not interrupted and self._aside is not None and not self.written:
            where, self._aside = self._put_back(self._aside), None
            tell(f"\nthe run failed before the first validation; the earlier bundle is {where}")
        if not interrupted or module.network is None:
            return
        if self.written:
            tell(f"\nstopped; the best epoch so far ({self.best_epoch}) is kept in {self.folder}")
            return
        if self._aside is not None:
            where = self._put_back(self._aside)
            tell(f"\nstopped before the first validation; the earlier bundle is {where}")
            return
        if not trainer.global_step:
            tell("\nstopped before the first step; nothing is kept")
            return
        self._write(trainer, module, {})
        tell(
            f"\nstopped before the first validation; the weights as they are now are kept in "
            f"{self.folder}"
        )

    def _put_back(self, aside: Path) -> Path:
        """Puts the earlier bundle back in its place if it can; returns where it is."""
        if is_bundle(self.folder):  # of another run, meanwhile
            return aside
        with suppress(OSError):
            shutil.rmtree(self.folder, ignore_errors=True)  # the logs of a run that came to nothing
            aside.rename(self.folder)
            return self.folder
        return aside

    def _write(self, trainer: Trainer, module: Any, metrics: dict[str, float]) -> None:
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        weights = module.backbone.weights
        record = Record(
            backbone=module.backbone.id,
            base_digest=module.backbone.digest,
            weights=str(weights.resolve()) if weights is not None else "none",
            storage=module.storage,
            method=type(module.adapter).__name__,
            head=module.head_mode,
            classes=data.folder.classes,
            preprocessing=module.backbone.preprocessing,
            split=data.record(),
            metrics=metrics,
            parent=self.parent,
        )
        tensors = module.adapter.tensors(module.network)
        peft = module.adapter.config(module.network)
        card = model_card(record, tensors, peft)
        save_bundle(self.folder, record, tensors, peft, self.run_config, card, usage=data.usage())
        self.written = True


def check_free(folder: Path) -> None:
    """Refuses an output folder that holds anything but an earlier bundle.

    Raises:
        UsageError: It does, or it is a file.
    """
    if not folder.exists() or (folder.is_dir() and is_bundle(folder)):
        return
    if not folder.is_dir() or not all(
        child.name == "logs" or is_leftover(child.name) for child in folder.iterdir()
    ):
        raise UsageError(
            f"output '{folder}' exists and holds something that is not a bundle; choose another "
            "--output"
        )


def clear_the_way(folder: Path) -> Path | None:
    """Moves a bundle that lies in ``folder`` aside and returns where it went.

    Raises:
        UsageError: The folder holds other things, or cannot be moved.
    """
    check_free(folder)
    if not is_bundle(folder):
        return None
    number = 1
    while (aside := folder.with_name(f"{folder.name}-{number}")).exists():
        number += 1
    try:
        folder.rename(aside)
    except OSError as error:
        raise UsageError(
            f"output '{folder}' holds an earlier bundle that cannot be moved aside "
            f"({error.strerror}); close what uses it, or choose another --output"
        ) from None
    return aside
