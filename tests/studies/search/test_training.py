"""A trial whose training is killed goes on where it was, on the same machine."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from runs import MICRO

from vitlora.bundle.folder import LOCK, STATE
from vitlora.studies.search.attempt import Attempt
from vitlora.studies.search.holds import Holds
from vitlora.studies.search.space import Choices, Space
from vitlora.studies.search.training import Training
from vitlora.studies.study import resolved
from vitlora.training.run_lock import RunLock
from vitlora.training.state_file import saved_steps

EPOCHS = 40
NAME = "model.adapter.rank"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no locks")


class Told:
    """An attempt that keeps what it is told, and perhaps kills its training in between."""

    def __init__(self, number: int, first: int, kill: Path | None = None) -> None:
        self.number, self.first, self.point = number, first, {NAME: "2"}
        self.kill, self.scores, self.ends = kill, dict[int, float](), list[str]()

    def report(self, epoch: int, score: float) -> None:
        assert self.scores.setdefault(epoch, score) == score
        if self.kill is not None and saved_steps(self.kill) > 0:
            process = int((self.kill / LOCK).read_text().split()[1])
            os.kill(process, signal.SIGKILL)
            self.kill = None

    def beat(self) -> None:
        pass

    def is_hopeless(self) -> bool:
        return False

    def done(self, measured: dict[str, float]) -> None:
        self.ends.append("done")
        self.measured = measured

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: self.ends.append(name)


@pytest.fixture
def training(tmp_path: Path, make_folder: Callable[..., Path]) -> Training:
    photos = make_folder(tmp_path / "photos", ("a", "b", "c"), count=8)
    options = {**MICRO, "data.root": str(photos), "trainer.max_epochs": str(EPOCHS)}
    base = resolved([word for name, value in options.items() for word in (f"--{name}", value)])
    folder = tmp_path / "sweep"
    folder.mkdir()
    return Training(folder, base, Space({NAME: Choices(("2", "4"))}), "macro_f1", 3, False)


def run(training: Training, told: Told) -> Told:
    hold = Holds(training.folder / "workers").take()
    try:
        training.run(cast(Attempt, told), hold, os.getppid())
    finally:
        hold.release()
    return told


@pytest.mark.slow
def test_a_killed_trial_goes_on_and_ends_as_one_that_was_not(training: Training) -> None:
    left = training.bundle(7, 7)
    killed = run(training, Told(7, 7, kill=left))
    assert killed.ends == ["lost"] and 1 < len(killed.scores) < EPOCHS
    assert (left / STATE).is_file()
    again, whole = run(training, Told(9, 7)), run(training, Told(11, 11))
    assert again.ends == whole.ends == ["done"] and not left.exists()
    log = training.bundle(7, 9).with_suffix(".log").read_text()
    epoch = int(log.split("resuming from")[1].split("epoch ")[1].split(",")[0])
    assert epoch > 1
    assert "resuming" not in training.bundle(11, 11).with_suffix(".log").read_text()
    # those of the epochs before the kill are told, too: other trials are compared with them
    assert again.scores == whole.scores and list(again.scores) == [*range(1, EPOCHS + 1)]
    for name in ("adapter_model.safetensors", "reference.safetensors", "logs/metrics.csv"):
        mine, other = (training.bundle(*n) / name for n in ((7, 9), (11, 11)))
        assert mine.read_bytes() == other.read_bytes(), name


@pytest.mark.slow
def test_what_cannot_go_on_starts_over(training: Training) -> None:
    training.base["trainer"]["max_epochs"] = 1
    left = training.bundle(7, 7)
    left.mkdir()
    (left / STATE).write_bytes(b"torn")
    assert run(training, Told(9, 7)).ends == ["lost"]
    assert "last.ckpt" in training.bundle(7, 9).with_suffix(".log").read_text()
    assert run(training, Told(10, 7)).ends == ["done"]


def test_a_run_that_is_going_on_is_left_alone(training: Training) -> None:
    left = training.bundle(7, 7)
    left.mkdir()
    (left / STATE).write_bytes(b"torn")
    lock = RunLock(left)
    lock.take()
    assert not training._take_over(cast(Attempt, Told(9, 7))) and left.is_dir()
    lock.release()
    assert not training._take_over(cast(Attempt, Told(9, 8)))  # another trial
    assert training._take_over(cast(Attempt, Told(9, 7)))
    assert (training.bundle(7, 9) / STATE).is_file()
