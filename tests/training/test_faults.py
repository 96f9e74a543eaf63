"""What is left, and what is said, when something goes wrong in the middle of a training."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from runs import BACKBONE

from vitlora.bundle.checkpoint import load_bundle
from vitlora.data.datamodule import FolderData
from vitlora.data.loading import lost_workers
from vitlora.errors import DataError
from vitlora.training import RunFolder, Trainer
from vitlora.training.classifier import Classifier


class Fault(Callback):
    """Does something before the second epoch."""

    def __init__(self, happen: Callable[[], object]) -> None:
        self.happen = happen

    def on_train_epoch_start(self, trainer: LightningTrainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            self.happen()


def train(photos: Path, output: Path, happen: Callable[[], object], workers: int = 0) -> None:
    data = FolderData(str(photos), batch_size=4, num_workers=workers)
    classifier = Classifier(data.num_classes, BACKBONE, "none", image_size=32)
    saving = RunFolder(output, lambda: "model: {}\n", logs=False)
    trainer = Trainer(
        max_epochs=3,
        precision="32-true",
        accelerator="cpu",
        cache="off",
        enable_progress_bar=False,
        callbacks=[Fault(happen), saving],
    )
    trainer.fit(classifier, datamodule=data)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (Path.unlink, "0.jpg: no such file; mend or remove it, or set data.skip_unreadable"),
        (lambda path: os.truncate(path, 300), r"0.jpg: damaged picture \(.*\); mend or remove it"),
    ],
)
def test_a_picture_that_is_spoilt_between_epochs_is_named(
    spoil: Callable[[Path], object],
    said: str,
    workers: int,
    tmp_path: Path,
    make_folder: Callable[..., Path],
) -> None:
    photos = make_folder(tmp_path / "photos", count=8)
    with pytest.raises(DataError, match=said) as error:
        train(photos, tmp_path / "out", lambda: spoil(photos / "train/a/0.jpg"), workers)
    assert "\n" not in str(error.value)
    assert load_bundle(tmp_path / "out").record.metrics["images"] == 16


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
def test_a_loader_process_that_is_killed_is_told(
    tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    photos = make_folder(tmp_path / "photos", count=8)

    def kill() -> None:
        for process in multiprocessing.active_children():
            os.kill(process.pid or 0, signal.SIGKILL)

    with pytest.raises(RuntimeError) as error:
        train(photos, tmp_path / "out", kill, workers=1)
    assert "was ended from outside" in str(lost_workers(error.value))
    load_bundle(tmp_path / "out")
