"""Tests of the progress line, by a clock that is only pretended."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vitlora.training import progress
from vitlora.training.epoch_means import EpochMeans


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def run(
    monkeypatch: Any,
    waits: float,
    step: float,
    batches: int = 10,
    workers: int = 1,
    epochs: int = 1,
) -> progress.Progress:
    """Plays training; every batch but an epoch's first, which takes 50 s, is waited for."""
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(progress.os, "cpu_count", lambda: 4)
    shown = progress.Progress()
    metrics = {"val/acc": 0.5, "val/macro_f1": 0.5}
    trainer: Any = SimpleNamespace(
        callback_metrics=metrics,
        num_training_batches=batches,
        accumulate_grad_batches=1,
        estimated_stepping_batches=epochs * batches,
        current_epoch=0,
        global_step=0,
        world_size=1,
        sanity_checking=False,
        state=SimpleNamespace(fn="fit"),
        train_dataloader=SimpleNamespace(num_workers=workers),
    )
    monkeypatch.setattr(progress.Progress, "total_train_batches", batches, raising=False)
    shown.on_train_start(trainer, None)  # pyright: ignore
    batch: Any = [None, range(8)]
    module: Any = SimpleNamespace(means=EpochMeans())
    for trainer.current_epoch in range(epochs):
        for index in range(batches):
            clock.now += waits if index else 50.0
            shown.on_train_batch_start(trainer, None, batch, index)  # pyright: ignore
            clock.now += step
            shown.on_train_batch_end(trainer, module, None, batch, index)
        clock.now += 30.0  # validation
        shown.on_validation_end(trainer, module)
    return shown


@pytest.mark.parametrize(
    ("waits", "step", "said"),
    [
        (1.0, 1.0, "waits 47% for data: raise data.num_workers (1)"),  # 9 of 19 seconds
        (0.25, 1.0, "waits 18% for data: raise data.num_workers (1)"),  # 2.25 of 12.25
        (0.1, 1.0, None),  # 0.9 of 10.9
        (0.1, 0.05, None),  # of 1.4 seconds in all
    ],
)
def test_waiting_for_pictures_is_said_where_it_is_much(monkeypatch, capsys, waits, step, said):
    run(monkeypatch, waits, step)
    line = capsys.readouterr().out
    assert (said in line) if said else ("waits" not in line)
    assert line.count("\n") == 1 and "\r" not in line


def test_where_no_core_is_left_more_workers_are_not_advised(monkeypatch, capsys):
    run(monkeypatch, 1.0, 1.0, workers=4)
    assert "waits 47% for data: smaller files load faster" in capsys.readouterr().out


def test_each_epoch_counts_for_itself(monkeypatch, capsys):
    run(monkeypatch, 1.0, 1.0, epochs=3)
    assert capsys.readouterr().out.count("waits 47% for data") == 3


def test_on_a_terminal_a_shorter_line_hides_the_longer_one(monkeypatch, capsys):
    monkeypatch.setattr(progress.sys.stdout, "isatty", lambda: True, raising=False)
    lines = iter(["a long line | waits 47% for data", "short", "ends", "next"])
    monkeypatch.setattr(progress.Progress, "_line", lambda *_: next(lines))
    run(monkeypatch, 1.0, 1.0, batches=3)
    drawn = capsys.readouterr().out.split("\r")[1:]
    assert drawn[0] == "a long line | waits 47% for data"
    assert drawn[1] == "short" + 27 * " "
    assert drawn[2].rstrip() == "ends" and drawn[3].startswith("next | val acc 0.5000")


def test_the_time_left_of_a_resumed_run_is_that_of_the_steps_it_does(monkeypatch, capsys):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(progress.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress.Progress, "total_train_batches", 10, raising=False)
    shown = progress.Progress()
    module: Any = SimpleNamespace(means=EpochMeans())
    module.means.sums = torch.tensor([88.0, 18.0, 48.0])  # 5 batches of 8 were before
    trainer: Any = SimpleNamespace(
        world_size=1,
        num_training_batches=10,
        accumulate_grad_batches=1,
        estimated_stepping_batches=20,
        current_epoch=0,
        global_step=5,
        train_dataloader=SimpleNamespace(num_workers=0),
    )
    shown.on_train_start(trainer, None)  # pyright: ignore
    clock.now += 3.0
    shown.on_train_batch_start(trainer, None, None, 5)  # pyright: ignore
    clock.now += 1.0
    batch: Any = [None, range(8)]
    shown.on_train_batch_end(trainer, module, None, batch, 5)
    line = capsys.readouterr().out
    assert "0:56 left" in line  # one of the 15 steps took 4 s
    assert "loss 1.833 acc 0.375" in line  # 88 and 18 of 48 pictures


@pytest.mark.parametrize(
    ("steps", "accumulated", "epochs"),
    [
        (25, 1, 3),  # 2.5 epochs of 10 batches
        (30, 1, 3),
        (15, 2, 3),  # 5 steps an epoch
        (4, 1, 1),  # not even one
    ],
)
def test_a_run_told_in_steps_has_as_many_epochs(steps, accumulated, epochs):
    trainer = SimpleNamespace(
        num_training_batches=10,
        accumulate_grad_batches=accumulated,
        estimated_stepping_batches=steps,
    )
    assert math.ceil(progress.epochs_of(trainer)) == epochs
    assert progress.epochs_of(trainer) * 10 == steps * accumulated
