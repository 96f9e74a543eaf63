"""The clock is set back or forward: trainings, sweeps and files do not care."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from runs import MICRO

from vitlora.bundle.folder import STATE
from vitlora.cli.main import main
from vitlora.files import draft, rename, write_whole
from vitlora.studies.search import search as searching
from vitlora.studies.search.holds import Holds
from vitlora.training.cache.shelf import Shelf

HOUR, DAY = 3600.0, 86400.0
JUMPS = [
    pytest.param(-HOUR, id="back"),
    pytest.param(DAY + HOUR, id="forward"),
]
real_time, real_time_ns = time.time, time.time_ns
shifted = 0.0


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A clock of the day that ``set_clock`` moves; that of the time since the start goes on."""
    monkeypatch.setattr(time, "time", lambda: real_time() + shifted)
    monkeypatch.setattr(time, "time_ns", lambda: real_time_ns() + int(shifted * 1e9))
    yield
    set_clock(0)


def set_clock(seconds: float) -> None:
    global shifted
    shifted = seconds


class Jump(Callback):
    """Sets the clock in the middle of the second epoch."""

    def __init__(self, seconds: float, stop: bool = False) -> None:
        self.seconds, self.stop = seconds, stop

    def on_train_batch_end(
        self,
        trainer: LightningTrainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        if trainer.current_epoch == 1 and batch_idx == 1:
            set_clock(self.seconds)
            if self.stop and not Path("stopped").exists():
                Path("stopped").touch()
                signal.raise_signal(signal.SIGINT)


@pytest.fixture
def fit(
    tmp_path: Path, make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, bytes]]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")  # the bundle's date
    photos = make_folder(tmp_path / "photos", ("a", "b", "c"), count=5)
    options = {**MICRO, "data.root": str(photos), "data.batch_size": "4"}
    options |= {"trainer.max_epochs": "3", "trainer.cache": "off"}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]

    def run(*more: str, fresh: bool = True) -> dict[str, bytes]:
        main(["fit", *(words if fresh else ()), *more, "--output", "out"])
        files = {p.name: p.read_bytes() for p in Path("out").iterdir() if p.is_file()}
        if STATE not in files:  # the run has ended; the next one gets the same folder's name
            Path("out").rename(f"out-{len(list(Path().glob('out*')))}")
        return files

    return run


def jump(seconds: float, stop: bool = False) -> list[str]:
    words = ["--trainer.callbacks+", "test_clock.Jump", "--trainer.callbacks.seconds"]
    return [*words, str(seconds), "--trainer.callbacks.stop", str(stop).lower()]


@pytest.mark.parametrize("seconds", JUMPS)
def test_a_training_does_not_care(seconds: float, fit: Callable[..., dict[str, bytes]]) -> None:
    plain = fit(*jump(0))
    moved = fit(*jump(seconds))
    assert shifted == seconds and {"adapter_model.safetensors", "vitlora.json"} <= plain.keys()
    for name in plain.keys() - {"config.yaml", "vitlora.json"}:  # which name the jump
        assert moved[name] == plain[name], name
    assert moved.keys() == plain.keys()


@pytest.mark.parametrize("seconds", JUMPS)
def test_a_run_that_stopped_goes_on_by_another_clock(
    seconds: float, fit: Callable[..., dict[str, bytes]]
) -> None:
    plain, words = fit(*jump(0)), jump(seconds, stop=True)
    assert STATE in fit(*words)
    resumed = fit("--resume", *words, fresh=False)
    for name in plain.keys() - {"config.yaml", "vitlora.json"}:
        assert resumed[name] == plain[name], name


@pytest.mark.parametrize("seconds", JUMPS)
def test_a_worker_that_lives_keeps_its_trial_and_a_silent_one_loses_it(
    seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    from studies.search.test_search import search

    monkeypatch.setattr(Holds, "ended", lambda self, mark: None)  # as on another machine
    since = real_monotonic = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: since)
    made = search(tmp_path, None, 1)
    hold = made.holds.take()
    attempt = made.take(hold)
    assert attempt is not None
    for step in range(20):  # 10 minutes, in which the clock jumps, and then stands still
        since = real_monotonic + 30 * step
        set_clock(seconds if step > 10 else 0)
        attempt.beat()
        made.reclaim()
        assert made.trials()[0].state == "running", step
    made.reclaim()
    since += searching.SILENCE + 1
    set_clock(-seconds)  # its last beat is now in the future, or long past
    made.reclaim()
    assert made.trials()[0].state == "waiting"
    hold.release()


@pytest.mark.parametrize("seconds", JUMPS)
def test_a_worker_that_died_here_loses_its_trial_at_once(seconds: float, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    from studies.search.test_search import search

    made = search(tmp_path, None, 1)
    hold = made.holds.take()
    attempt = made.take(hold)
    assert attempt is not None
    attempt._beaten = -1000.0
    set_clock(DAY)
    attempt.beat()
    set_clock(seconds)
    made.reclaim()
    assert made.trials()[0].state == "running"
    os.close(hold.handle)  # as at its process's end
    made.reclaim()
    assert made.trials()[0].state == "waiting"


@pytest.mark.parametrize("seconds", JUMPS)
def test_the_cache_keeps_what_this_run_uses(seconds: float, tmp_path: Path) -> None:
    old, new = torch.ones(100), torch.zeros(100)
    Shelf(tmp_path, 1000).keep({"of": "old"}, [old], (100,))
    set_clock(seconds)
    shelf = Shelf(tmp_path, 500)
    kept = shelf.keep({"of": "new"}, [new], (100,))
    shelf.make_room(0)
    assert torch.equal(kept, new)
    found = shelf.find({"of": "new"})
    assert found is not None and torch.equal(found, new)


def test_a_draft_that_another_process_takes_for_abandoned_costs_one_line_and_no_file(
    tmp_path: Path,
) -> None:
    file = tmp_path / "answers.json"
    write_whole(file, "before")
    with pytest.raises(FileNotFoundError), draft(file) as new:
        new.write_text("after")
        set_clock(DAY + HOUR)
        write_whole(tmp_path / "other.json", "another process's")
        rename(new, file)
    assert file.read_text() == "before"
    set_clock(-HOUR)
    with draft(file) as new:
        new.write_text("after")
        write_whole(tmp_path / "other.json", "another process's")
        rename(new, file)
    assert file.read_text() == "after"
