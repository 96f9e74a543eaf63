"""One run for each folder: refused while the other lives, free as soon as it is dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vitlora.bundle.folder import LOCK
from vitlora.cli.main import main
from vitlora.errors import UsageError
from vitlora.training.run_lock import RunLock

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such lock")
# takes the lock of a folder, has a child that lives on, and waits
HOLD = """
import os, sys, time
from pathlib import Path
from vitlora.training.run_lock import RunLock
held = RunLock(Path(sys.argv[1])); held.take()
if not os.fork():
    time.sleep(60)
print("held", os.getpid(), flush=True)
time.sleep(60)
"""


def test_a_second_run_is_refused_until_the_first_ends(tmp_path):
    folder = tmp_path / "a/run"
    first, second = RunLock(folder), RunLock(folder)
    first.take()
    with pytest.raises(UsageError, match=rf"going on \(process {os.getpid()} on .*choose another"):
        second.take()
    first.release()
    assert not folder.parent.exists()  # nothing was in it
    second.take()
    (folder / "x").touch()
    second.release()
    assert [file.name for file in folder.iterdir()] == ["x"]


def test_a_lock_is_free_once_its_process_is_killed_though_a_child_lives(tmp_path):
    words = [sys.executable, "-c", HOLD, str(tmp_path)]
    package = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": package},
    )
    try:
        assert process.stdout is not None
        _, pid = process.stdout.readline().split()
        with pytest.raises(UsageError, match=f"process {pid} on"):
            RunLock(tmp_path).take()
        process.kill()
        process.wait()
        lock = RunLock(tmp_path)
        lock.take()
        lock.release()
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def test_a_file_that_a_dead_run_left_is_taken_over(tmp_path):
    (tmp_path / LOCK).write_text("process 1 on nowhere")
    lock = RunLock(tmp_path)
    lock.take()
    assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} on ")
    lock.release()


def test_the_lock_stays_where_the_folder_was_when_it_is_moved(tmp_path):
    lock = RunLock(tmp_path / "run")
    lock.take()
    (tmp_path / "run").rename(tmp_path / "run-1")
    lock.take_again(tmp_path / "run-1")
    assert not (tmp_path / "run-1" / LOCK).exists()
    with pytest.raises(UsageError, match="going on"):
        RunLock(tmp_path / "run").take()
    free = RunLock(tmp_path / "run-1")
    free.take()
    free.release()
    lock.release()


def test_a_run_that_has_saved_nothing_yet_is_not_taken_for_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = RunLock(tmp_path / "out")
    first.take()
    try:
        assert main(["fit", "--resume", "--output", str(tmp_path / "out")]) == 2
    finally:
        first.release()
    assert "belongs to a run that is going on" in capsys.readouterr().err
    assert main(["fit", "--resume", "--output", str(tmp_path / "out")]) == 2
    assert "there is no unfinished run" in capsys.readouterr().err
