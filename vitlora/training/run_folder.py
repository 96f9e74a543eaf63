"""The folder of a run: an epoch as a bundle, and the logs."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from vitlora.bundle.card import model_card
from vitlora.bundle.checkpoint import save_bundle
from vitlora.bundle.folder import LOCK, STATE, is_bundle
from vitlora.bundle.record import Record, creation_time
from vitlora.bundle.transaction import is_leftover
from vitlora.data.datamodule import FolderData
from vitlora.errors import UsageError, counted
from vitlora.metrics.scores import Scores
from vitlora.notes import note, tell
from vitlora.shell import typed
from vitlora.training.classifier import Classifier
from vitlora.training.divergence import DivergedError
from vitlora.training.interruption import EndedError
from vitlora.training.run_lock import RunLock
from vitlora.training.run_logs import LOGS, RunLogs
from vitlora.training.state_file import saved_steps

_OURS = (LOGS, LOCK, STATE)  # beside a bundle's files


class RunFolder(Callback):
    """Writes the bundle after each epoch, unless an earlier one was clearly better in validation.

    With early stopping, the bundle is that of the epoch with the highest macro-F1 instead.

    Of several processes, the first one writes.

    Args:
        folder: Folder for the bundle, with the logs below it. An earlier bundle there is moved
            aside, never overwritten.
        run_config: Returns the resolved configuration as YAML text.
        logs: Whether to write logs/metrics.csv and TensorBoard's events.
        parent: Start of the digest of the bundle that training continues from, if any.
        lock: The lock of the folder, if this run has it.
    """

    def __init__(
        self,
        folder: Path,
        run_config: Callable[[], str],
        logs: bool,
        parent: str | None = None,
        lock: RunLock | None = None,
    ) -> None:
        self.folder = folder
        self.run_config = run_config
        self.logs = logs
        self.parent = parent
        self.kept: Scores | None = None
        self.kept_epoch = self.last_epoch = 0
        self._best: Scores | None = None  # of all epochs
        self.written = False
        self._validated = 0  # number of steps at the last validation
        self._aside: Path | None = None
        self._lock, self._logs = lock, cast(RunLogs | None, None)
        self._began, self._resumed, self._rows = False, False, 0
        creation_time()  # tells a wrong date before the training

    def state_dict(self) -> dict[str, Any]:
        """Returns the scores and the length of the logs, for a run that goes on."""
        return {
            "best": _tensors(self._best),
            "kept": _tensors(self.kept),
            "kept_epoch": self.kept_epoch,
            "last_epoch": self.last_epoch,
            "written": self.written,
            "validated": self._validated,
            "rows": 0 if self._logs is None else self._logs.rows(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over the scores; their classes come with the data."""
        self._resumed, self._rows = True, state_dict["rows"]
        self._best, self.kept = (
            found and Scores((), found["logits"], found["labels"])
            for found in (state_dict["best"], state_dict["kept"])
        )
        self.kept_epoch, self.last_epoch = state_dict["kept_epoch"], state_dict["last_epoch"]
        self._validated = state_dict["validated"]
        self.written = state_dict["written"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Moves an earlier run aside, as late as possible, and opens the logs.

        Raises:
            UsageError: The bundle of a run that goes on is gone.
        """
        if not trainer.is_global_zero:
            return
        if not self._resumed:
            self._aside = clear_the_way(self.folder)
        if self.kept is not None:
            self.kept = replace(self.kept, classes=_data(trainer).folder.classes)
        if self.written and not is_bundle(self.folder):
            raise UsageError(
                f"{self.folder} no longer has the bundle of its unfinished run; put it "
                f"back, or remove {self.folder / STATE} to start the run anew"
            )
        self._began = True
        if self._aside is not None:
            if self._lock is not None:
                self._lock.take_again(self._aside)
            more = _unfinished(self._aside)
            tell(f"the earlier bundle in {self.folder} is now {self._aside}{more}")
        if self.logs:
            rows = self._rows if self._resumed else None
            self._logs = RunLogs(self.folder, rows, trainer.global_step)
            trainer.loggers = self._logs.loggers

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Has the last step of ``max_steps`` validated, also if it ends within an epoch."""
        if trainer.global_step == trainer.max_steps:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the last weights if no epoch was validated; notes steps that are not saved."""
        if not trainer.is_global_zero:
            return
        if not self.written and trainer.global_step:
            self._write(trainer, cast(Classifier, pl_module), {})
            tell(f"no epoch was validated; the last weights are saved in {self.folder}")
        elif left := trainer.global_step - self._validated:
            note(
                f"the bundle does not include the {counted(left, 'step')} after the last "
                "validation; let training end with a whole epoch to include all"
            )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the bundle, unless an earlier epoch was clearly better.

        The learning rate falls towards the end, and a few validation pictures rank epochs by luck.
        Early stopping ends before the rate has fallen, so there the best epoch is kept.
        """
        if trainer.state.fn != "fit" or trainer.sanity_checking or not trainer.is_global_zero:
            return
        module = cast(Classifier, pl_module)
        self._validated = trainer.global_step
        scores = module.scores(_data(trainer).folder.classes)
        early = bool(trainer.early_stopping_callbacks)
        if self._best is None or _order(scores, early) > _order(self._best, early):
            self._best = scores
        self.last_epoch = trainer.current_epoch + 1
        if self._best is scores or not (early or self._best.clearly_better_than(scores)):
            self.kept, self.kept_epoch = scores, self.last_epoch
            self._write(trainer, module, scores.summary())

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Puts an earlier bundle back if the run saved nothing.

        After Ctrl-C, a usable bundle remains, and a message says where.
        """
        if not trainer.is_global_zero:
            return
        module = cast(Classifier, pl_module)
        interrupted = isinstance(exception, KeyboardInterrupt)
        # a run that has saved an epoch goes on, if only from its start: it has not ended
        there = self.written and (self.folder / STATE).is_file()
        goes_on = self._began and (there or saved_steps(self.folder) > 0)
        if self._began and not goes_on:
            (self.folder / STATE).unlink(missing_ok=True)
        if interrupted and module.network is not None:
            tell(f"\n{self._after_ctrl_c(trainer, module, goes_on)}")
        elif self._aside is not None and not (self.written or goes_on):
            where, self._aside = self._put_back(self._aside), None
            tell(f"\nthe run failed before the first validation; the earlier bundle is {where}")
        # an ended run says so itself, and a diverged one would diverge again
        if goes_on and not isinstance(exception, EndedError | DivergedError):
            tell(f"resume with: {resume_command(self.folder)}")

    def _after_ctrl_c(self, trainer: Trainer, module: Classifier, goes_on: bool) -> str:
        """Saves what there is, and returns a line about it."""
        if self.written and self._began:
            best = ", the best," if self.kept_epoch < self.last_epoch else ""
            return f"stopped; epoch {self.kept_epoch}{best} is saved in {self.folder}"
        if self._aside is not None:
            where = self._aside if goes_on else self._put_back(self._aside)
            return f"stopped before the first validation; the earlier bundle is {where}"
        if not (self._began and trainer.global_step):
            return "stopped before the first step; nothing is saved"
        self._write(trainer, module, {})
        return (
            f"stopped before the first validation; the current weights are saved in {self.folder}"
        )

    def _put_back(self, aside: Path) -> Path:
        """Moves the earlier bundle back if possible; returns where it is."""
        if is_bundle(self.folder):  # another run has written it in the meantime
            return aside
        with suppress(OSError):
            shutil.rmtree(self.folder, ignore_errors=True)  # the logs of the failed run
            aside.rename(self.folder)
            return self.folder
        return aside

    def _write(self, trainer: Trainer, module: Classifier, metrics: dict[str, float]) -> None:
        data, network = _data(trainer), module.built_network()
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
        tensors = module.adapter.tensors(network)
        peft = module.adapter.config(network)
        card = model_card(record, tensors, peft)
        save_bundle(self.folder, record, tensors, peft, self.run_config(), card, usage=data.usage())
        self.written = True


def _data(trainer: Trainer) -> FolderData:
    return trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]


def check_free(folder: Path) -> None:
    """Refuses an output folder that holds anything but an earlier bundle.

    Raises:
        UsageError: It does, or it is a file.
    """
    if not folder.exists() or (folder.is_dir() and is_bundle(folder)):
        return
    if not folder.is_dir() or not all(
        child.name in _OURS or is_leftover(child.name) for child in folder.iterdir()
    ):
        raise UsageError(
            f"--output is '{folder}', which holds something else than a bundle; choose another"
        )


def clear_the_way(folder: Path) -> Path | None:
    """Moves a bundle or an unfinished run in ``folder`` aside and returns its new path.

    Raises:
        UsageError: The folder holds other things, or cannot be moved.
    """
    check_free(folder)
    if not is_bundle(folder) and not (folder / STATE).is_file():
        return None
    number = 1
    while (aside := folder.with_name(f"{folder.name}-{number}")).exists():
        number += 1
    try:
        folder.rename(aside)
    except OSError as error:
        raise UsageError(
            f"--output is '{folder}', with an earlier bundle that cannot be moved aside "
            f"({error.strerror}); close the program that uses it, or choose another"
        ) from None
    return aside


def resume_command(folder: Path) -> str:
    """Returns the command that resumes an unfinished run."""
    return typed("vitlora", "fit", "--resume", "--output", folder)


def _unfinished(folder: Path) -> str:
    """Returns how to resume the run in a folder, if it is unfinished."""
    there = (folder / STATE).is_file()
    return f"; its run is unfinished, resume it with: {resume_command(folder)}" if there else ""


def _order(scores: Scores, early_stopping: bool) -> tuple[float, float]:
    return scores.macro_f1 if early_stopping else scores.mean_recall, -scores.loss


def _tensors(scores: Scores | None) -> dict[str, torch.Tensor] | None:
    return scores and {"logits": scores.logits, "labels": scores.labels}
