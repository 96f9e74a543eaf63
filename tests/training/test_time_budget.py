"""Tests of training by the clock, by one that is only pretended and by real runs."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from runs import BACKBONE

from vitlora.bundle.checkpoint import load_bundle
from vitlora.cli.main import main
from vitlora.training import time_budget
from vitlora.training.time_budget import MOST_EPOCHS, Pace, TimeBudget


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def cost(pace: Pace, steps: int) -> float:
    """Counts what steps take, one by one."""
    seconds = pace.after
    for step in range(1, steps + 1):
        seconds += pace.step
        if step % pace.epoch == 0 or step == steps:
            seconds += pace.validation
    return seconds


def test_as_many_steps_are_planned_as_fit() -> None:
    rng = random.Random(0)
    for _ in range(300):
        pace = Pace(rng.uniform(0.1, 2), rng.uniform(0, 9), rng.uniform(0, 30), rng.randint(1, 40))
        seconds = rng.uniform(0, 400)
        steps = pace.steps_within(seconds)
        assert steps == 0 or cost(pace, steps) <= seconds + 1e-9
        assert pace.seconds_of(steps) == pytest.approx(cost(pace, steps))
        # a step more would not fit, or would need a validation of its own that does not
        assert cost(pace, steps + 1) > seconds


def run(
    monkeypatch: pytest.MonkeyPatch,
    seconds: float | None,
    step: Callable[[int], float],
    validation: float = 3.0,
    after: float = 10.0,
    epoch: int = 20,
    score: Callable[[int], float] = lambda epoch: epoch,
) -> tuple[TimeBudget, float, list[int]]:
    """Plays a run that was measured at 1 s a step; returns its length, and each plan."""
    clock = Clock()
    monkeypatch.setattr(time_budget, "time", clock)
    plans: list[int] = []
    loop = SimpleNamespace(max_epochs=0, epoch_loop=SimpleNamespace(max_steps=-1))
    schedule = SimpleNamespace(scheduler=SimpleNamespace(lengthen=plans.append))
    trainer: Any = SimpleNamespace(
        fit_loop=loop,
        lr_scheduler_configs=[schedule],
        global_step=0,
        current_epoch=0,
        sanity_checking=False,
        callback_metrics={"val/macro_f1": 0.0, "val/loss": 0.0},
        datamodule=SimpleNamespace(
            batch_size=10, folder=SimpleNamespace(splits={"val": range(30)})
        ),
        num_val_batches=[3],
    )
    budget: Any = TimeBudget(
        seconds, clock.now - 12, 67, False
    )  # 12 s have passed; calibration will take 10
    budget._measured = lambda trainer, module: Pace(1.0, 2.0, after, epoch)
    budget.on_train_start(trainer, None)
    while trainer.global_step < loop.epoch_loop.max_steps:
        budget.on_train_batch_start(trainer, None, None, trainer.global_step % epoch)
        clock.now += step(trainer.global_step)
        trainer.global_step += 1
        budget.on_train_batch_end(trainer, None, None, None, 0)
        ends = trainer.global_step == loop.epoch_loop.max_steps
        if trainer.global_step % epoch == 0 or ends:
            budget.on_validation_start(trainer, None)
            clock.now += validation
            trainer.callback_metrics["val/macro_f1"] = score(trainer.current_epoch)
            budget.on_validation_end(trainer, None)
            trainer.current_epoch += 1
    return budget, clock.now + after - 1000 + 12, plans


@pytest.mark.parametrize("seconds", [120, 300, 600])
@pytest.mark.parametrize(
    "step",
    [
        lambda step: 1.0,
        lambda step: 0.5,
        lambda step: 2.0,
        lambda step: 1.5 if step < 40 else 0.8,  # another program ends
        lambda step: 0.8 if step < 40 else 1.5,
        lambda step: 30.0 if step == 0 else 1.0,
    ],
    ids=["as measured", "fast", "slow", "gets faster", "gets slower", "slow first step"],
)
def test_a_run_ends_within_a_tenth_of_its_time(
    monkeypatch: pytest.MonkeyPatch, seconds: int, step: Callable[[int], float]
) -> None:
    _, took, plans = run(monkeypatch, seconds, step, epoch=40)
    assert 0.9 * seconds <= took <= 1.1 * seconds, plans


def test_a_plan_that_holds_is_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    budget, _, plans = run(monkeypatch, 300, lambda step: 1.0, validation=2.0, after=6.7)
    assert plans == [budget.steps]


@pytest.mark.parametrize(("seconds", "epoch", "validation"), [(300, 10, 8), (500, 8, 40)])
def test_the_validation_that_is_due_counts(
    monkeypatch: pytest.MonkeyPatch, seconds: int, epoch: int, validation: float
) -> None:
    after = 1.5 * validation * 67 / 30
    _, took, plans = run(monkeypatch, seconds, lambda step: 1.0, validation, after, epoch)
    assert took <= 1.02 * seconds and sorted(plans, reverse=True) == plans


def test_no_run_is_longer_than_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    budget, took, _ = run(monkeypatch, 1e6, lambda step: 1.0)
    assert budget.steps == MOST_EPOCHS * 20 and took < 1e4


def test_a_run_whose_validation_has_settled_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, plans = run(monkeypatch, None, lambda step: 1.0, score=lambda epoch: min(epoch, 5))
    assert plans == [MOST_EPOCHS * 20, 12 * 20]  # best in the 6th; five more, and one to cool down
    assert "no epoch since 6 was better in validation" in capsys.readouterr().err


def test_time_in_which_a_run_does_not_go_on_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    budget, took, _ = run(monkeypatch, 300, lambda step: 1.0)
    state = budget.state_dict()
    clock = Clock()
    clock.now = 50_000.0  # another boot's
    monkeypatch.setattr(time_budget, "time", clock)
    again = TimeBudget(300, clock.now - 5, 67, False)  # it started 5 s ago
    again.load_state_dict(state)
    after = 10.0  # of the run above, which had still to calibrate
    assert again._left() == pytest.approx(300 - (took - after) - 5)
    assert again.state_dict() == {**state, "spent": state["spent"] + 5}


@pytest.fixture
def words(
    tmp_path: Path, make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """What to type for a training of three steps an epoch."""
    monkeypatch.chdir(tmp_path)
    photos = make_folder(tmp_path / "photos", count=6)
    model = ["--model.backbone", BACKBONE, "--model.image_size", "32"]
    where = ["--data", str(photos), "--data.batch_size", "4", "--data.num_workers", "0"]
    return ["fit", *where, *model, "--trainer.accelerator", "cpu"]


def test_the_config_of_a_timed_run_repeats_it(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(time_budget, "MOST_EPOCHS", 3)  # the plan on any machine
    assert main([*words, "--time", "5m", "--output", "timed"]) == 0
    out = capsys.readouterr().out
    assert "5:00 for the run: 3 epochs of 3 steps, " in out and " of 5:00\n" in out
    assert "epoch 3/3" in out
    trainer = yaml.safe_load(Path("timed/config.yaml").read_text())["trainer"]
    assert (trainer["time"], trainer["max_epochs"], trainer["max_steps"]) == (None, None, 9)
    assert main(["fit", "--config", "timed/config.yaml", "--output", "again"]) == 0
    timed, again = load_bundle("timed"), load_bundle("again")
    assert timed.tensors.keys() == again.tensors.keys()
    assert all(timed.tensors[key].equal(again.tensors[key]) for key in timed.tensors)


@pytest.mark.parametrize("typed", [[], ["--model.patch_drop", "0"]])
def test_where_few_epochs_fit_half_of_the_patches_are_left_out(
    typed: list[str], words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(time_budget, "MOST_EPOCHS", 2)
    monkeypatch.setattr(time_budget, "_FEW", 1e6)
    assert main([*words, *typed, "--time", "5m", "--output", "timed"]) == 0
    said = capsys.readouterr().out
    assert ("on half of the patches, because few epochs fit" in said) == (not typed)
    config = yaml.safe_load(Path("timed/config.yaml").read_text())
    assert config["model"]["patch_drop"] == (0 if typed else 0.5)
    assert main(["fit", "--config", "timed/config.yaml", "--output", "again"]) == 0
    timed, again = load_bundle("timed"), load_bundle("again")
    assert config["trainer"]["max_steps"] == 6
    assert all(timed.tensors[key].equal(again.tensors[key]) for key in timed.tensors)


def test_auto_trains_until_validation_has_settled(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(time_budget, "_SETTLED", 1)
    assert main([*words, "--time", "auto", "--output", "auto", "--model.lr", "1e-9"]) == 0
    said = capsys.readouterr()
    assert "until validation settles, at most 30 epochs of 3 steps, in about 0:" in said.out
    assert "no epoch since " in said.err and "epoch 30/30" not in said.out


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--time", "5"], "--time is '5'; expected a duration such as 90s, 5m or 1h30m"),
        (["--time", "soon"], "--time is 'soon'; expected a duration"),
        (["--config", "soon.yaml"], "trainer.time is 'soon'; expected a duration"),
        (["--time", "0m"], "--time is '0m'; expected a duration"),
        (["--time", "0.001s"], "--time is 0.001s, too short for a single step; expected "),
        (["--time", "5m", "--trainer.max_steps", "3"], "--time and --trainer.max_steps both say"),
        (["--time=5m", "--trainer.max_epochs=3"], "--time and --trainer.max_epochs both say how"),
        (
            ["--config", "both.yaml"],
            "trainer.time and trainer.max_steps are both set",
        ),
        (["--time"], "--trainer.time"),
        (
            ["--time", "5m", "--trainer.check_val_every_n_epoch", "2"],
            "trainer.check_val_every_n_epoch is 2, but trainer.time needs a validation after each",
        ),
        (["--time", "5m", "--trainer.max_time", "00:00:01:00"], "trainer.max_time are both set"),
    ],
)
def test_mistakes_are_one_line(typed: list[str], said: str, words: list[str], capsys: Any) -> None:
    Path("soon.yaml").write_text("trainer: {time: soon}")
    Path("both.yaml").write_text("trainer: {time: 5m, max_steps: 3}")
    assert main([*words, *typed]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("vitlora: ") and said in error
    assert not Path("checkpoints").exists()


@pytest.mark.parametrize(
    ("config", "typed", "said"),
    [
        ("time: auto", ["--trainer.max_epochs", "2"], "epoch 2/2"),
        ("time: auto", ["--trainer.max_steps", "2"], "epoch 1/1"),
        ("max_epochs: 7", ["--time", "5m"], "5:00 for the run: 2 epochs"),
        ("time: auto", ["--trainer.max_epochs", "1", "--time", "null"], "epoch 1/1"),
        ("max_steps: 7", ["--time", "5m"], "5:00 for the run: 2 epochs"),
    ],
)
def test_the_typed_length_replaces_that_of_a_config(
    config: str, typed: list[str], said: str, words: list[str], monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setattr(time_budget, "MOST_EPOCHS", 2)
    Path("long.yaml").write_text(f"trainer: {{{config}}}")
    assert main([*words, "--config", "long.yaml", *typed]) == 0
    assert said in capsys.readouterr().out
