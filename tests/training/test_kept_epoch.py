"""Which epoch a run keeps: the last, unless an earlier one is clearly better."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from runs import MICRO

from vitlora.cli.main import main
from vitlora.metrics.scores import Scores
from vitlora.training import RunFolder

CLASSES = ("a", "b")


def scores(labels: list[int], answers: list[int], sure: float = 1.0) -> Scores:
    logits = sure * torch.nn.functional.one_hot(torch.tensor(answers), 2).float()
    return Scores(CLASSES, logits, torch.tensor(labels))


def test_four_pictures_are_the_fewest_that_show_which_is_better() -> None:
    labels = [0] * 10 + [1] * 10
    right = scores(labels, labels)
    for wrong, clear in ((0, False), (1, False), (3, False), (4, True), (9, True)):
        other = scores(labels, [1] * wrong + labels[wrong:])
        assert right.clearly_better_than(other) is clear
        assert not other.clearly_better_than(right)


def test_answers_that_differ_in_both_directions_are_noise() -> None:
    labels = [0] * 50 + [1] * 50
    one = scores(labels, [1] * 10 + labels[10:])
    for more, clear in ((14, False), (27, True)):  # 4 / sqrt(24), 17 / sqrt(37)
        other = scores(labels, labels[:50] + [0] * more + labels[50 + more :])
        assert one.clearly_better_than(other) is clear


def test_a_lost_rare_class_counts_as_much_as_a_common_one() -> None:
    labels = [0] * 200 + [1] * 6
    one, other = scores(labels, labels), scores(labels, [0] * 206)
    assert one.mean_recall == pytest.approx(1) and other.mean_recall == pytest.approx(0.5)
    assert one.clearly_better_than(other)
    assert not one.clearly_better_than(scores(labels, labels[:-3] + [0] * 3))


def test_the_bar_is_two_standard_deviations_of_resampled_pictures() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 400)
    share = 0.5 / np.bincount(labels)[labels]
    wrong = random.random((2, 400)) < 0.3
    gain = share * (wrong[1].astype(float) - wrong[0])
    deviation = np.std([gain[random.integers(0, 400, 400)].sum() for _ in range(4_000)])
    order = np.argsort(-gain, kind="stable")
    bars = []
    for flipped in range(200):  # more and more pictures that the second answers wrongly
        second = wrong[1].copy()
        second[order[:flipped]] = True
        one, other = (scores(labels.tolist(), np.where(w, 1 - labels, labels).tolist())
                      for w in (wrong[0], second))  # fmt: skip
        bars.append((one.mean_recall - other.mean_recall, one.clearly_better_than(other)))
    first = next(difference for difference, clear in bars if clear)
    assert first == pytest.approx(2 * deviation, rel=0.25)


@pytest.mark.parametrize(
    ("wrong", "kept"),
    [
        ([5, 3, 2], [1, 2, 3]),  # better and better
        ([5, 0, 2], [1, 2, 3]),  # the second was better by two pictures: by chance
        ([5, 0, 9], [1, 2]),  # by nine: not by chance
        ([0, 3, 4, 9], [1, 2]),  # all are compared with the best, not with the last that is kept
        ([0, 9, 2], [1, 3]),
    ],
)
@pytest.mark.parametrize("early", [False, True])
def test_the_last_epoch_is_kept_unless_an_earlier_one_is_clearly_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: list[int], kept: list[int], early: bool
) -> None:
    written: list[int] = []
    monkeypatch.setattr(RunFolder, "_write", lambda self, *_: written.append(self.kept_epoch))
    labels = [0] * 20 + [1] * 20
    run = RunFolder(tmp_path / "run", str, logs=False)
    trainer: Any = SimpleNamespace(
        early_stopping_callbacks=["one"] if early else [],
        state=SimpleNamespace(fn="fit"), sanity_checking=False, is_global_zero=True, global_step=1,
        datamodule=SimpleNamespace(folder=SimpleNamespace(classes=CLASSES)),
    )  # fmt: skip
    if early:  # the best epoch is kept
        kept = [1 + i for i, count in enumerate(wrong) if count < min([*wrong[:i], 41])]
    for epoch, count in enumerate(wrong):
        trainer.current_epoch = epoch
        answered = scores(labels, [1] * count + labels[count:])
        module: Any = SimpleNamespace(scores=lambda classes, answered=answered: answered)
        state = run.state_dict()  # as if the run was resumed here
        run = RunFolder(tmp_path / "run", str, logs=False)
        run.load_state_dict(state)
        run.on_validation_end(trainer, module)
    assert written == kept and run.kept_epoch == kept[-1] and run.last_epoch == len(wrong)
    state = run.state_dict()
    assert (state["kept_epoch"], state["last_epoch"]) == (kept[-1], len(wrong))
    assert run.kept is not None
    assert int((run.kept.logits.argmax(1) != run.kept.labels).sum()) == wrong[kept[-1] - 1]


def test_a_run_that_stops_early_says_why(
    tmp_path: Path, make_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    photos = make_folder(tmp_path / "photos", ("a", "b"), ("train", "val"), 4)
    options = {**MICRO, "trainer.max_epochs": "9", "model.lr": "1e-9", "data.root": str(photos)}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    run = ["fit", *words, "--output", str(tmp_path / "out")]
    assert main([*run, "--trainer.early_stopping", "2"]) == 0
    said = "stopped after epoch 3 of 9: early stopping on val/macro_f1\n"
    assert said in capsys.readouterr().out
    assert main([*run, "--trainer.early_stopping", "8"]) == 0  # which would be after the last
    assert "early stopping" not in capsys.readouterr().out
