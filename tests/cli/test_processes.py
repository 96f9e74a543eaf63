"""`--devices 2` from a command line and from Python: processes that start and end together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from runs import MICRO

import vitlora
from vitlora.bundle.checkpoint import load_bundle
from vitlora.cli.main import main
from vitlora.processes import Place, device_count, joined

ROOT = Path(__file__).parents[2]
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
}
SRUN = {
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
}


@pytest.fixture
def running(
    tmp_path: Path, make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[subprocess.Popen[str]]:
    """A fit of many epochs on two devices that has written a bundle to out/."""
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "pictures", count=20)
    options = {**MICRO, "trainer.max_epochs": "2000", "trainer.precision": "32-true"}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    command = [sys.executable, "-m", "vitlora", "fit", "--data", "pictures", "--output", "out"]
    with subprocess.Popen(
        [*command, *words, "--devices", "2", "--data.batch_size", "4"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        try:
            until = time.monotonic() + 200
            while not Path("out/vitlora.json").exists() and time.monotonic() < until:
                assert process.poll() is None, process.stdout and process.stdout.read()
                time.sleep(0.1)
            yield process
        finally:
            process.kill()  # the others end with it


def rank(process: subprocess.Popen[str], number: int) -> psutil.Process:
    children = psutil.Process(process.pid).children()
    return next(one for one in children if one.environ().get("RANK") == str(number))


def ended(process: subprocess.Popen[str], ranks: list[psutil.Process]) -> tuple[int, str]:
    """Returns the exit status and what was printed; no process may be left."""
    said = process.communicate(timeout=120)[0]
    left = psutil.wait_procs(ranks, timeout=60)[1]
    assert not left
    return process.returncode, said


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
@pytest.mark.parametrize("number", [0, 1])
def test_ctrl_c_to_any_process_leaves_a_bundle_and_a_state(running: Any, number: int):
    ranks = [rank(running, each) for each in (0, 1)]
    ranks[number].send_signal(signal.SIGINT)
    status, said = ended(running, ranks)
    assert status == 130
    assert said.count("stopped; epoch ") == said.count("resume with: ") == 1
    assert "Traceback" not in said
    assert load_bundle(Path("out")).record.metrics and Path("out/last.ckpt").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
@pytest.mark.parametrize("number", [0, 1])
def test_a_killed_process_ends_the_others_and_is_named(running: Any, number: int):
    ranks = [rank(running, each) for each in (0, 1)]
    ranks[number].kill()
    status, said = ended(running, ranks)
    assert status == 1
    assert f"vitlora: process {number} of 2 (from 0) was ended by SIGKILL, usually because" in said
    assert said.count("vitlora: ") == 1 and "Traceback" not in said
    assert load_bundle(Path("out")).record.metrics


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
def test_processes_end_with_the_one_that_started_them(running: Any):
    ranks = [rank(running, each) for each in (0, 1)]
    running.kill()
    _, said = ended(running, ranks)
    assert said.count("ended by SIGTERM; out/last.ckpt has the state") == 1
    assert load_bundle(Path("out")).record.metrics


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
def test_a_second_ctrl_c_ends_processes_that_hang(running: Any):
    ranks = [rank(running, each) for each in (0, 1)]
    ranks[1].suspend()  # so the first one waits for it in a step
    for _ in range(2):
        running.send_signal(signal.SIGINT)
        time.sleep(0.5)
    status, said = ended(running, ranks)
    assert status == 130 and "Traceback" not in said
    assert load_bundle(Path("out")).record.metrics


@pytest.mark.slow
def test_python_gets_the_result_of_several_processes(
    tmp_path: Path,
    make_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "pictures")
    options = {**MICRO, "trainer.devices": 2}
    fitted = vitlora.fit(data="pictures", output="out", **options)  # pyright: ignore
    said = capsys.readouterr().out
    assert fitted.checkpoint == Path("out") and fitted.epoch == 1
    assert fitted.scores is not None and fitted.scores.images == 8
    assert said.count("gradient self-test") == 1 and "bundle   out" in said
    with pytest.raises(vitlora.VitloraError, match=r"^data\.batch_size is 0; expected"):
        vitlora.fit(data="pictures", output="o", **options, **{"data.batch_size": 0})  # pyright: ignore


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        *[(None, 1), ("null", 1), (3, 3), ("3", 3), (["0", "1"], 2)],
        *[([0, 2], 2), ("[0,2]", 2), ("0,2", 2), ([0], 1)],
    ],
)
def test_devices_are_counted(asked: Any, count: int):
    assert device_count(asked, "cuda") == count


@pytest.mark.parametrize("asked", ["auto", "-1", -1])
def test_all_devices_of_a_machine_without_gpus_are_one(asked: Any):
    assert device_count(asked, "cpu") == 1


@pytest.mark.parametrize("asked", ["0", 0, "x", "2.5", "-3", "[0,0]", "[a]", ""])
def test_no_number_of_devices_is_refused_before_torch_is_needed(asked: Any, capsys: Any, tmp_path):
    words = ["--data", str(tmp_path), "--trainer.devices", str(asked)]
    assert main(["fit", *words]) == 2
    assert f"trainer.devices is {asked}" in capsys.readouterr().err


def placed(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], *asked: Any) -> Place | None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return joined(*asked)


def test_torchruns_processes_are_one_run(monkeypatch: pytest.MonkeyPatch):
    place = Place(5, 8, 4, "torchrun")
    assert placed(monkeypatch, TORCHRUN, None, 1) == place and place.machines == 2
    assert placed(monkeypatch, TORCHRUN, 4, 2) == place
    assert placed(monkeypatch, TORCHRUN, 1, 1) is None


def test_sruns_tasks_are_one_run_if_it_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    assert placed(monkeypatch, SRUN, None, 1) is None
    assert placed(monkeypatch, SRUN, 4, 2) == Place(5, 8, 4, "srun")


@pytest.mark.parametrize("variables", [TORCHRUN, SRUN], ids=["torchrun", "srun"])
@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ((2, 2), "trainer.devices is 2, but {} started 4 processes on each of 2 machines"),
        ((4, 1), "trainer.num_nodes is 1, but {} started 4 processes on each of 2 machines"),
    ],
)
def test_another_number_than_was_started_is_refused(variables, asked, said, monkeypatch):
    by = "torchrun" if variables is TORCHRUN else "srun"
    with pytest.raises(vitlora.VitloraError, match=said.format(by)):
        placed(monkeypatch, variables, *asked)
