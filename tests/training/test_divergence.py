"""Tests of what is said of a training whose loss is no longer a number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from runs import BACKBONE

from vitlora.bundle.checkpoint import load_bundle
from vitlora.data.datamodule import FolderData
from vitlora.errors import VitloraError
from vitlora.training import RunFolder, Trainer
from vitlora.training.classifier import Classifier


class Break(Callback):
    """Makes a trained weight nan before a step, counted from 1."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(
        self,
        trainer: LightningTrainer,
        pl_module: LightningModule,
        batch: object,
        batch_idx: int,
    ) -> None:
        if trainer.global_step == self.step - 1:
            with torch.no_grad():
                next(p for p in pl_module.parameters() if p.requires_grad).fill_(torch.nan)


class BreakBatch(Break):
    """Does so before a batch, counted from 0."""

    def on_train_batch_start(self, *args: Any) -> None:
        """Breaks it."""
        if args[-1] == self.step:
            with torch.no_grad():
                next(p for p in args[1].parameters() if p.requires_grad).fill_(torch.nan)


def test_batches_of_one_step_count_as_one(tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    data = FolderData(str(make_folder(tmp_path / "photos", count=8)), batch_size=2, num_workers=0)
    classifier = Classifier(data.num_classes, BACKBONE, "none", image_size=32, lr=0.001)
    trainer = Trainer(
        max_epochs=1,
        precision="32-true",
        accelerator="cpu",
        accumulate_grad_batches=4,
        enable_progress_bar=False,
        callbacks=[BreakBatch(5), RunFolder(tmp_path / "out", lambda: "model: {}\n", logs=False)],
    )
    with pytest.raises(VitloraError, match=r"of step 2 is not a number.* lower model\.lr"):
        trainer.fit(classifier, datamodule=data)


@pytest.mark.parametrize("gpu_like", [False, True])
@pytest.mark.parametrize(
    ("step", "said"),
    [
        (1, "in epoch 1; no step was taken before"),
        (3, "in epoch 1; lower model.lr, which is 0.001"),
        (6, "in epoch 2; lower model.lr, which is 0.001"),
    ],
)
def test_the_step_is_named_and_the_best_epoch_stays(
    step: int,
    said: str,
    gpu_like: bool,
    tmp_path: Path,
    make_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if gpu_like:  # there the loss is looked at now and then, and after an epoch's last step
        monkeypatch.setattr("vitlora.training.divergence._WATCHED", ())
    data = FolderData(str(make_folder(tmp_path / "photos", count=8)), batch_size=4, num_workers=0)
    classifier = Classifier(data.num_classes, BACKBONE, "none", image_size=32, lr=0.001)
    saving = RunFolder(tmp_path / "out", lambda: "model: {}\n", logs=False)
    trainer = Trainer(
        max_epochs=3,
        precision="32-true",
        accelerator="cpu",
        enable_progress_bar=False,
        callbacks=[Break(step), saving],
    )
    said = f"of step {step} is not a number: training diverged {said}"
    with pytest.raises(VitloraError, match=said) as error:
        trainer.fit(classifier, datamodule=data)
    assert "\n" not in str(error.value)
    if step == 6:
        assert all(one.isfinite().all() for one in load_bundle(tmp_path / "out").tensors.values())
    else:
        assert not (tmp_path / "out/vitlora.json").exists()
