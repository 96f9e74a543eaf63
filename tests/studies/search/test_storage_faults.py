"""A storage that is full, locked, torn or read-only: one line, and the trials so far go on."""

from __future__ import annotations

import errno
import gc
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import pytest
from mounts import disk, fill, make_read_only

pytest.importorskip("optuna")

from test_search import run, search

from vitlora.errors import UsageError, VitloraError
from vitlora.studies.search import journal, training
from vitlora.studies.search import search as searching
from vitlora.studies.search.attempt import Attempt
from vitlora.studies.search.holds import Hold, Holds
from vitlora.studies.search.space import Choices, Space
from vitlora.studies.search.storage import explained, quiet
from vitlora.studies.search.training import Training
from vitlora.studies.search.worker import work
from vitlora.studies.search.workers import Workers

AGAIN = "the same command continues"
unix = pytest.mark.skipif(sys.platform == "win32", reason="no such locks")


@pytest.fixture(autouse=True)
def hushed() -> None:
    quiet()


def one_line(error: pytest.ExceptionInfo[VitloraError], *parts: str) -> None:
    said = str(error.value)
    assert "\n" not in said and AGAIN in said
    for part in parts:
        assert part in said, said


@pytest.fixture(params=["journal", "sqlite"])
def small(request: Any, tmp_path: Path) -> Iterator[tuple[Path, str | None]]:
    with disk(tmp_path / "small", "size=256k") as folder:
        yield folder, None if request.param == "journal" else f"sqlite:///{folder}/sweep.db"


def test_a_full_disk_keeps_the_trials_so_far(
    small: tuple[Path, str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "SILENCE", 0.5)  # of an attempt that could not say whose it is
    folder, url = small
    made = search(folder, url, 30)
    made.holds = holds = Holds(tmp_path / "workers")
    mine = holds.take()
    for _ in range(3):
        attempt = made.take(mine)
        assert attempt is not None and attempt.done({"macro_f1": 0.5, "seconds": 1.0})
    filling = fill(folder)
    with pytest.raises(VitloraError) as error, explained(url):
        run(made, mine)
    one_line(error, "full" if url else "No space left on device")
    os.close(mine.handle)  # as at its process's end
    done = [t.number for t in made.trials() if t.state == "complete"]
    assert done[:3] == [0, 1, 2]
    filling.unlink()
    again = search(folder, url, 6)
    again.holds = holds
    assert [t.number for t in again.trials() if t.state == "complete"] == done[:6]
    other = holds.take()
    run(again, other)
    assert sum(t.state == "complete" for t in again.trials()) == 6
    other.release()


def test_what_a_failed_write_left_is_taken_out(
    tmp_path: Path,
    hold: Hold,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = search(tmp_path)
    before = (tmp_path / "journal.log").read_bytes()

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(journal.os, "fsync", full)
        with pytest.raises(VitloraError) as error:
            made.take(hold)
    one_line(error, str(tmp_path / "journal.log"), "No space left on device")
    assert (tmp_path / "journal.log").read_bytes() == before
    assert len(run(made, hold)) == 6


def test_a_line_that_a_kill_cut_short_is_taken_out(tmp_path: Path, hold: Hold) -> None:
    run(search(tmp_path, None, 2), hold)
    with (tmp_path / "journal.log").open("ab") as file:
        file.write(b'{"op_code":8,"worker_id":"x","tri')
    assert len(run(search(tmp_path, None, 4), hold)) == 2
    assert [t.state for t in search(tmp_path, None, 4).trials()] == ["complete"] * 4


def test_a_damaged_journal_is_one_line(tmp_path: Path, hold: Hold) -> None:
    run(search(tmp_path, None, 2), hold)
    file = tmp_path / "journal.log"
    file.write_bytes(file.read_bytes().replace(b'"op_code"', b"op_code", 1))
    with pytest.raises(VitloraError, match=r"journal.log is damaged .*; choose another --output"):
        search(tmp_path, None, 2)


HOLDER = """
import sys, time
from pathlib import Path
from vitlora.studies.search.journal import JournalLock
JournalLock(Path(sys.argv[1])).acquire()
print("locked", flush=True)
time.sleep(100)
"""


@unix
def test_a_journal_that_a_living_process_keeps_locked_is_told_and_goes_on_after_it(
    tmp_path: Path,
    hold: Hold,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(journal, "PATIENCE", 0.3)
    made = search(tmp_path)
    file = str(tmp_path / "journal.log")
    command = [sys.executable, "-c", HOLDER, file]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "locked\n"
        with pytest.raises(VitloraError) as error:
            made.take(hold)
        one_line(error, f"{file}.flock has been locked by another process for 0.3 seconds")
        holder.kill()
    began = time.monotonic()
    assert len(run(made, hold)) == 6 and time.monotonic() - began < 20


def test_a_database_that_another_program_locks_is_told_and_goes_on_after_it(
    tmp_path: Path,
    hold: Hold,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(journal, "PATIENCE", 0.3)
    url = f"sqlite:///{tmp_path}/sweep.db"
    made = search(tmp_path, url)
    other = sqlite3.connect(tmp_path / "sweep.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(UsageError) as error, explained(url):
        made.take(hold)
    one_line(error, "database is locked; end the program that has it locked")
    other.close()
    assert len(run(made, hold)) == 6


def test_a_read_only_storage_is_one_line(small: tuple[Path, str | None]) -> None:
    folder, url = small
    search(folder, url, 6)
    gc.collect()  # closes the database
    make_read_only(folder)
    with pytest.raises(VitloraError) as error, explained(url):
        search(folder, url, 7)
    one_line(
        error, "readonly database; make the" if url else "cannot be written (Read-only file system)"
    )


def test_a_worker_that_cannot_use_the_storage_ends_the_command(tmp_path: Path) -> None:
    (tmp_path / "journal.log").mkdir()
    fields = {"name": "x", "space": {"model.adapter.rank": ["2", "4"]}, "objectives": ["macro_f1"]}
    setup = {**fields, "seed": 0, "sampler": "tpe", "prune": False, "config": {}}
    (tmp_path / "setup.json").write_text(json.dumps(setup))
    crew = Workers(tmp_path, 1, None)
    until = time.monotonic() + 60
    try:
        with pytest.raises(VitloraError) as error:
            while time.monotonic() < until:
                crew.check()
                time.sleep(0.1)
    finally:
        crew.stop()
    one_line(error, "journal.log cannot be read (Is a directory)")


def test_a_trial_that_a_full_disk_ended_is_tried_again_and_the_worker_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[str] = []

    class Told:
        number, first, point = 0, 0, MappingProxyType({"model.adapter.rank": "2"})

        def __getattr__(self, name: str) -> Any:
            return lambda *args: ends.append(name)

    def fail(words: Any, log: Any, hold: Hold) -> subprocess.Popen[bytes]:
        code = "import sys; sys.exit('vitlora: x.safetensors: No space left on device')"
        return subprocess.Popen([sys.executable, "-c", code], stdout=log, stderr=log)

    monkeypatch.setattr(training, "_start", fail)
    space = Space({"model.adapter.rank": Choices(("2", "4"))})
    trainings = Training(tmp_path, {}, space, "macro_f1", 0, False)
    hold = Holds(tmp_path / "workers").take()
    with pytest.raises(VitloraError) as error:
        trainings.run(cast(Attempt, Told()), hold, os.getppid())
    hold.release()
    one_line(error, "x.safetensors: No space left on device", str(tmp_path))
    assert [end for end in ends if end != "beat"] == ["lost"]


def test_the_trial_of_a_worker_that_lost_its_storage_is_free_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = search(tmp_path, None, 1)
    lost = made.holds.take()
    monkeypatch.setattr(made.holds, "take", lambda: lost)

    class Lost:
        def run(self, *args: object) -> None:
            raise VitloraError("the journal is gone")

    with pytest.raises(VitloraError):
        work(made, cast(Training, Lost()), os.getppid())
    os.close(lost.handle)  # as at its process's end
    made.reclaim()
    assert made.trials()[0].state == "waiting"
