"""Searches with a made-up objective: nothing is trained."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")

from vitlora.errors import UsageError
from vitlora.studies.search import search as module
from vitlora.studies.search.attempt import Attempt, LostError
from vitlora.studies.search.holds import Hold, Holds
from vitlora.studies.search.search import Search
from vitlora.studies.search.space import Choices, Range, Space
from vitlora.studies.search.storage import check_storage, explained, open_storage, quiet

ROOT = Path(__file__).parents[3]
WORDS = ("null", '["attention.qkv"]', '["attention.qkv", "mlp.fc1"]', "1", "1.0", "true")
SPACE = Space({"lr": Range(1e-4, 1e-1, True), "rank": Range(1, 64), "targets": Choices(WORDS)})
GRID = Space({"rank": Range(2, 8, step=2), "targets": Choices(WORDS[:3])})  # 12 points


@pytest.fixture(autouse=True)
def hushed() -> None:
    quiet()


@pytest.fixture(params=["journal", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    return None if request.param == "journal" else f"sqlite:///{tmp_path}/sweep.db"


def search(folder: Path, url: str | None = None, trials: int = 6, **options: Any) -> Search:
    options = {"space": SPACE, "goals": ["macro_f1"], **options}
    made = Search(open_storage(folder, url), "mine", holds=Holds(folder / "workers"), **options)
    made.take_setup({"seed": options.get("seed", 0)}, trials)
    return made


def score(point: dict[str, Any]) -> float:
    return 1 / (1 + abs(point["rank"] - 17) + 100 * point.get("lr", 0))


def run(made: Search, hold: Hold) -> list[Attempt]:
    """Runs all trials; returns the attempts."""
    ran = []
    while not made.finished():
        made.reclaim()
        attempt = made.take(hold)
        if attempt is not None:
            assert attempt.done({"macro_f1": score(attempt.point), "seconds": 3.0})
            ran.append(attempt)
    return ran


def test_every_storage_gives_the_words_back(tmp_path: Path, url: str | None, hold: Hold) -> None:
    run(search(tmp_path, url, 30), hold)
    again = search(tmp_path, url, 30)
    points = [trial.point for trial in again.trials()]
    assert {point["targets"] for point in points} == {*WORDS}
    assert all(type(point["rank"]) is int and type(point["lr"]) is float for point in points)
    assert len(points) == 30 and all(trial.measured["seconds"] == 3.0 for trial in again.trials())
    best = max(points, key=score)
    assert again.front()[0].point == best


def test_one_seed_gives_the_same_points_whatever_the_storage(tmp_path: Path, hold: Hold) -> None:
    points = []
    for name in ("a", "b"):
        made = search(tmp_path / name, f"sqlite:///{tmp_path}/b.db" if name == "b" else None, 14)
        run(made, hold)
        points.append([trial.point for trial in made.trials()])
    assert points[0] == points[1]
    other = search(tmp_path / "c", None, 14, seed=1)
    run(other, hold)
    assert not {SPACE.key(p) for p in points[0]} & {SPACE.key(t.point) for t in other.trials()}


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_every_point_of_a_small_space_is_tried_once(
    sampler: Any, tmp_path: Path, hold: Hold
) -> None:
    made = search(tmp_path, None, 12, space=GRID, sampler=sampler)
    assert len(run(made, hold)) == 12
    keys = [GRID.key(trial.point) for trial in made.trials()]
    assert sorted(keys) == sorted(GRID.key(point) for point in GRID.points())
    if sampler == "grid":
        assert keys == [GRID.key(point) for point in GRID.points()]


def test_workers_at_once_never_draw_a_point_twice_nor_one_too_many(
    tmp_path: Path, url: str | None
) -> None:
    workers = [search(tmp_path, url, 11, space=GRID) for _ in range(3)]
    holds = [Holds(tmp_path / "workers").take() for _ in workers]
    pairs = list(zip(workers, holds, strict=True))
    threads = [threading.Thread(target=run, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    trials = workers[0].trials()
    assert len({GRID.key(trial.point) for trial in trials}) == len(trials) == 11
    assert all(trial.state == "complete" and trial.attempts == 1 for trial in trials)


def test_what_a_killed_attempt_left_stays_until_its_trial_is_settled(
    tmp_path: Path, hold: Hold
) -> None:
    made = search(tmp_path, None, 2)
    for end in ("lost", "done"):
        attempt = made.take(hold)
        assert attempt is not None
        attempt.lost() if end == "lost" else attempt.done({"macro_f1": 0.5})
    assert made.kept_and_finished() == ({(1, 1)}, {(1, 1)})
    made.reclaim()
    again = made.take(hold)
    assert again is not None and (again.first, again.number) == (0, 2)
    again.done({"macro_f1": 0.6})
    assert made.kept_and_finished() == ({(0, 2)}, {(0, 0), (0, 2), (1, 1)})


WORKER = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, "{tests}")
from test_search import Holds, search
folder = Path(sys.argv[1])
made = search(folder, sys.argv[2] or None, 4)
attempt = made.take(Holds(folder / "workers").take())
print(attempt.number, flush=True)
time.sleep(100)
"""


def test_what_a_killed_worker_tried_is_tried_again_and_never_counts(
    tmp_path: Path, url: str | None, hold: Hold
) -> None:
    made = search(tmp_path, url, 4)
    code = WORKER.format(tests=Path(__file__).parent)
    command = [sys.executable, "-c", code, str(tmp_path), url or ""]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        number = int(worker.stdout.readline())
        made.reclaim()
        lost = made.trials()[number]
        assert (lost.state, lost.attempts) == ("running", 1)
        os.kill(worker.pid, signal.SIGKILL)
    ran = run(made, hold)
    trials = made.trials()
    assert trials[0].number == number and len(trials) == 4 == len(ran)
    assert trials[0].point == lost.point and trials[0].attempts == 2
    assert trials[0].attempt != number and trials[0].state == "complete"


def test_a_silent_worker_of_another_machine_is_given_up(
    tmp_path: Path, hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = search(tmp_path, None, 1)
    monkeypatch.setattr(Holds, "ended", lambda self, mark: None)
    attempt = made.take(hold)
    assert attempt is not None
    made.reclaim()
    monkeypatch.setattr(module, "SILENCE", 0.2)
    made.reclaim()
    time.sleep(0.15)
    attempt._beaten = -1000.0
    attempt.beat()  # a sign of life
    time.sleep(0.15)
    made.reclaim()
    assert made.trials()[0].state == "running"
    time.sleep(0.3)
    made.reclaim()
    assert made.trials()[0].state == "waiting"
    with pytest.raises(LostError):  # it was alive after all
        attempt.report(1, 0.5)
    assert not attempt.done({"macro_f1": 1.0}) and not attempt.failed("x")
    assert len(run(made, hold)) == 1
    assert made.trials()[0].values == (score(attempt.point),)


def test_two_that_queue_a_point_at_once_run_it_once(tmp_path: Path, hold: Hold) -> None:
    made = search(tmp_path, None, 1)
    first = made.take(hold)
    assert first is not None and first.lost()
    trial = made.trials()[0]
    for _ in range(2):
        made._queue(trial, made.study.get_trials()[0])
    second = made.take(hold)
    assert second is not None and second.point == first.point
    assert made.take(hold) is None  # the third is left out
    assert second.done({"macro_f1": 0.5}) and made.finished()
    assert made.trials()[0].attempts == 2


def test_a_point_whose_processes_are_always_killed_fails_in_the_end(
    tmp_path: Path, hold: Hold
) -> None:
    made = search(tmp_path, None, 1)
    while not made.finished():
        made.reclaim()
        if attempt := made.take(hold):
            attempt.lost()
    (trial,) = made.trials()
    assert trial.state == "failed" and trial.attempts == 5 and "killed 5 times" in str(trial.error)


def test_an_attempt_killed_before_it_had_a_point_does_not_count(tmp_path: Path, hold: Hold) -> None:
    made = search(tmp_path, None, 2)
    gone = Holds(tmp_path / "workers").take()
    ticket = made.study.ask()
    ticket.set_user_attr("worker", gone.mark)
    os.close(gone.handle)  # as at its process's end
    assert len(run(made, hold)) == 2
    assert [trial.number for trial in made.trials()] == [1, 2]


def test_failed_trials_count_as_tried_but_never_as_good(tmp_path: Path, hold: Hold) -> None:
    made = search(tmp_path, None, 3)
    attempt = made.take(hold)
    assert attempt is not None and attempt.failed("model.lr is 9; expected less")
    assert len(run(made, hold)) == 2
    assert [trial.state for trial in made.trials()] == ["failed", "complete", "complete"]
    assert made.trials()[0].error == "model.lr is 9; expected less"
    assert 0 not in [trial.number for trial in made.front()]


def test_poor_trials_are_pruned_by_their_curve_but_not_with_several_goals(
    tmp_path: Path, hold: Hold
) -> None:
    for name, goals in (("one", ["macro_f1"]), ("two", ["macro_f1", "seconds"])):
        made = search(tmp_path / name, None, 9, goals=goals)
        for _ in range(6):
            attempt = made.take(hold)
            assert attempt is not None
            for epoch in (1, 2, 3):
                attempt.report(epoch, 0.8)
            assert not attempt.is_hopeless()
            attempt.done({"macro_f1": 0.8, "seconds": 1.0})
        poor = made.take(hold)
        assert poor is not None
        poor.report(1, 0.1)
        assert not poor.is_hopeless()  # too early
        poor.report(2, 0.1)
        assert poor.is_hopeless() == (name == "one")
        assert poor.pruned()
        assert made.trials()[6].state == "pruned"
        assert made.trials()[6].curve == ({1: 0.1, 2: 0.1} if name == "one" else {})


def test_more_trials_later_go_on_and_another_setup_is_refused(tmp_path: Path, hold: Hold) -> None:
    run(search(tmp_path, None, 3), hold)
    assert len(run(search(tmp_path, None, 5), hold)) == 2
    with pytest.raises(UsageError, match="seed was 0, is now 1"):
        search(tmp_path, None, 5, seed=1)


def test_a_journal_whose_writer_was_killed_is_free_at_once(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; "
        "from vitlora.studies.search.journal import JournalLock; "
        "JournalLock(Path(sys.argv[1])).acquire(); os.kill(os.getpid(), 9)"
    )
    file = str(tmp_path / "journal.log")
    subprocess.run([sys.executable, "-c", code, file], check=False, cwd=ROOT)
    began = time.monotonic()
    search(tmp_path)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sweep.db", "expected the address of a database"),
        ("redis://host", "keeps pickles"),
    ],
)
def test_addresses_that_are_none(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_storage(url)


def test_a_database_that_does_not_answer_is_one_line_without_its_password(tmp_path: Path) -> None:
    for url in (f"sqlite:///{tmp_path}/no/x.db", "nosuch://me:secret@host/x"):
        with pytest.raises(UsageError) as caught:
            open_storage(tmp_path, url)
        assert "\n" not in str(caught.value) and "secret" not in str(caught.value)


def test_a_database_that_fails_later_is_told_in_its_own_words(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/sweep.db"
    mine = search(tmp_path, url)
    with sqlite3.connect(tmp_path / "sweep.db") as database:
        database.execute("DROP TABLE study_user_attributes")
    with pytest.raises(UsageError) as caught, explained(url):
        mine.take_setup({"seed": 0}, 7)
    said = f"--storage {url} cannot be used: no such table: study_user_attributes"
    assert str(caught.value) == said
    with pytest.raises(KeyError), explained(url):  # a mistake of ours stays one
        raise KeyError
