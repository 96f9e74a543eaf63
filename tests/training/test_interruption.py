"""Signals: the state is saved first; SLURM's job is queued again; a second Ctrl-C does not wait."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from runs import MICRO

from vitlora.bundle.folder import STATE
from vitlora.cli.main import main
from vitlora.training import ranks
from vitlora.training.classifier import Classifier
from vitlora.training.interruption import EndedError, Interruption
from vitlora.training.run_state import RunState
from vitlora.training.state_file import saved_steps

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: Any) -> Path:
    """A cluster's job, and a program on the path that writes down what it is called with."""
    program, log = tmp_path / "bin/scontrol", tmp_path / "calls"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {log}\ntest ! -e {tmp_path}/fails\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    return log


def asked_by(signum: int, resumes: bool = True) -> None:
    with Interruption(resumes) as interruption:
        interruption.waits = True
        os.kill(os.getpid(), signum)
        assert interruption.asked == signum
        raise interruption.end("all is saved")


def test_a_signal_waits_for_the_moment_and_then_ends_the_run():
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    with pytest.raises(EndedError, match=r"^ended by SIGTERM; all is saved$") as ended:
        asked_by(signal.SIGTERM)
    assert ended.value.exit_status == 143
    with pytest.raises(EndedError) as ended:
        asked_by(signal.SIGUSR1)
    assert ended.value.exit_status == 128 + signal.SIGUSR1
    with pytest.raises(KeyboardInterrupt):
        asked_by(signal.SIGINT)
    assert before == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]


def test_ctrl_c_twice_does_not_wait(capsys: Any):
    with pytest.raises(KeyboardInterrupt), Interruption(False) as interruption:
        interruption.waits = True
        os.kill(os.getpid(), signal.SIGINT)
        assert "stopping after this step" in capsys.readouterr().out
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError


def test_where_no_moment_will_come_nothing_waits():
    with pytest.raises(EndedError, match="SIGTERM; no state was saved"), Interruption(False):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError


def test_a_job_is_queued_again_by_slurms_signal_alone(scontrol: Path, tmp_path: Path, capsys: Any):
    with pytest.raises(EndedError):
        asked_by(signal.SIGTERM)  # scancel
    assert not scontrol.exists()
    with pytest.raises(EndedError):
        asked_by(signal.SIGUSR1, resumes=False)
    assert not scontrol.exists() and "add --resume to its command" in capsys.readouterr().err
    with pytest.raises(EndedError):
        asked_by(signal.SIGUSR1)
    assert scontrol.read_text() == "requeue 77\n"
    assert "job 77 is queued again" in capsys.readouterr().out
    (tmp_path / "fails").touch()
    with pytest.raises(EndedError):
        asked_by(signal.SIGUSR1)
    assert "'scontrol requeue 77' failed" in capsys.readouterr().err


def test_in_a_thread_signals_stay_as_they_are():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def run() -> None:
        with Interruption(False):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_job_saves_is_queued_and_goes_on(
    scontrol: Path, tmp_path: Path, make_folder: Callable[..., Path], monkeypatch: Any, capsys: Any
):
    photos = make_folder(tmp_path / "photos", count=4)
    fixed = [word for name, value in MICRO.items() for word in (f"--{name}", value)]
    words = ["fit", "--resume", "--data", str(photos), *fixed, "--output", "out"]
    words += ["--data.batch_size", "2", "--data.num_workers", "2"]
    own = Classifier.training_step
    signals = {1: signal.SIGUSR1, 2: signal.SIGTERM}

    def training_step(self: Classifier, *args: Any) -> Any:
        if signum := signals.pop(self.trainer.global_step, None):
            os.kill(os.getpid(), signum)
        return own(self, *args)

    monkeypatch.setattr(Classifier, "training_step", training_step)
    assert main(words) == 128 + signal.SIGUSR1
    out, err = capsys.readouterr()
    assert "no unfinished run in out yet: starting one" in out and "is queued again" in out
    assert f"vitlora: ended by SIGUSR1; out/{STATE} has the state after step 2; resume with" in err
    assert saved_steps(Path("out")) == 2 and scontrol.read_text() == "requeue 77\n"
    assert main(words) == 143
    assert "epoch 1, step 2 of 4" in capsys.readouterr().out and saved_steps(Path("out")) == 3
    assert main(words) == 0
    assert scontrol.read_text() == "requeue 77\n" and not Path("out", STATE).exists()
    assert main(words) == 0
    assert "the run in out has ended" in capsys.readouterr().out


def test_a_signal_that_comes_while_processes_agree_is_obeyed_after_the_next_step(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    interruption = Interruption(resumes=True)
    state = RunState(tmp_path, dict, interruption)
    saved: list[object] = []
    monkeypatch.setattr(state, "_save", lambda *_: saved.append(interruption.asked))
    monkeypatch.setattr(state, "_saved", time.monotonic())

    def largest(*numbers: int) -> list[int]:
        interruption.waits = True
        interruption._on_signal(signal.SIGTERM, None)  # it was not there when the numbers were sent
        return [int(number) for number in numbers]

    current = SimpleNamespace(ready=1)
    loop = SimpleNamespace(batch_progress=SimpleNamespace(current=current))
    trainer: Any = SimpleNamespace(fit_loop=SimpleNamespace(epoch_loop=loop), global_step=7)
    module: Any = SimpleNamespace(accumulation=SimpleNamespace(begun=False))
    with monkeypatch.context() as once:
        once.setattr(ranks, "largest", largest)
        state._between(trainer, module)
    assert not saved
    with pytest.raises(EndedError, match="the state after step 7"):
        state._between(trainer, module)
    assert saved == [signal.SIGTERM]
