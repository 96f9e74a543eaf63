import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from vitlora.training.measures import Cost, milliseconds, peak_host_bytes


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells what it was")
def test_peak_memory_is_at_least_what_linux_says_and_rises_with_what_is_held() -> None:
    def most() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(x.split()[1]) for x in lines if x.startswith("VmHWM"))

    held = np.ones(most() // 8 + 25_000_000)  # 200 MB above all that was held so far
    peak = peak_host_bytes()
    assert peak is not None and peak >= 0.99 * most() > held.nbytes


def test_peak_memory_is_not_guessed_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert peak_host_bytes() is None


def test_seconds_before_an_interruption_count() -> None:
    cost = Cost()
    cost.setup(None, None, "fit")  # type: ignore[arg-type]
    cost.load_state_dict({"seconds": 1000.0})
    assert 1000 <= cost.state_dict()["seconds"] < 1060


def test_milliseconds_are_a_median_without_the_first_passes() -> None:
    class Sleeper(nn.Module):
        passes = 0

        def forward(self, picture: torch.Tensor) -> torch.Tensor:
            self.passes += 1
            slow = self.passes <= 3 or self.passes % 5 == 0  # to warm up, and now and then
            time.sleep(0.1 if slow else 0.01)
            return picture

    took = milliseconds(Sleeper(), torch.zeros(1, 3, 8, 8))
    assert 10 <= took < 60


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps the parent's number")
def test_a_training_ends_with_the_process_that_waits_for_it() -> None:
    code = (
        "import sys; from vitlora.training import EpochScores; "
        "EpochScores('x', int(sys.argv[1])).on_train_batch_end(None, None, None, None, 0); "
        "print('goes on')"
    )
    for parent, said in ((os.getpid(), "goes on\n"), (os.getppid(), "")):
        command = [sys.executable, "-c", code, str(parent)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        assert done.stdout == said and done.returncode == (not said)
