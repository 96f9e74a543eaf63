"""Processes that are really killed, and the signal of a cluster to all processes of a run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import MICRO

from vitlora.bundle.checkpoint import load_bundle
from vitlora.bundle.folder import LOCK, STATE
from vitlora.cli.main import main
from vitlora.training.state_file import saved_steps

ROOT = Path(__file__).parents[2]
# a fit that saves before every step, and tells its steps; killed in one if it is told to
RUN = """
import os, signal, sys
from vitlora.cli.main import main
from vitlora.training import run_state
from vitlora.training.classifier import Classifier
run_state._EVERY = run_state._WORTH = 0.0
own, kill = Classifier.training_step, int(sys.argv[1])
def training_step(self, *args):
    print("step", self.trainer.global_step, flush=True)
    if self.trainer.global_step == kill:
        os.kill(os.getpid(), signal.SIGKILL)
    return own(self, *args)
Classifier.training_step = training_step
sys.exit(main(sys.argv[2:]))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals"),
]


def start(kill: int, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-c", RUN, str(kill), "fit", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )


def test_a_killed_run_goes_on_and_obeys_signals_to_all_its_processes(
    tmp_path: Path, make_folder: Callable[..., Path], monkeypatch: Any, capsys: Any
):
    monkeypatch.chdir(tmp_path)
    photos = make_folder(tmp_path / "photos", count=6)
    options = {**MICRO, "trainer.max_epochs": "2", "trainer.precision": "32-true"}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    words += ["--data.root", str(photos), "--data.batch_size", "2"]
    assert main(["fit", *words, "--output", "whole"]) == 0
    whole = load_bundle("whole").tensors

    killed = start(8, *words, "--data.num_workers", "2", "--output", "out")
    said, _ = killed.communicate(timeout=90)
    assert killed.returncode == -signal.SIGKILL, said
    assert saved_steps(Path("out")) == 8 and Path("out", LOCK).exists()

    stopped = start(-1, "--resume", "--output", "out", "--data.num_workers", "2")
    assert stopped.stdout is not None
    said = ""
    for line in stopped.stdout:
        said += line
        if line.startswith("step 9"):
            os.killpg(stopped.pid, signal.SIGTERM)
            break
    said += stopped.communicate(timeout=90)[0]
    assert stopped.returncode == 143, said
    assert f"out/{STATE} has the state after step" in said and "Traceback" not in said
    assert re.search(r"epoch 2, step 8 of 12", said) and not Path("out", LOCK).exists()

    assert main(["fit", "--resume", "--output", "out"]) == 0
    found = load_bundle("out").tensors
    assert whole.keys() == found.keys()
    assert all(whole[name].equal(found[name]) for name in whole)
