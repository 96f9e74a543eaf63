"""A worker: takes trials until all are settled. ``python -m vitlora.studies.search.worker``."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from vitlora.errors import VitloraError
from vitlora.studies.search.goals import GOALS
from vitlora.studies.search.holds import Holds
from vitlora.studies.search.search import Search
from vitlora.studies.search.space import from_json
from vitlora.studies.search.storage import HALTED, URL, explained, open_storage, quiet
from vitlora.studies.search.training import OrphanedError, Training
from vitlora.studies.study import SETUP

_IDLE = 1.0  # seconds between looks for a trial to take
_STOPPED = 130  # exit status


def open_search(folder: Path, setup: dict[str, Any], url: str | None) -> Search:
    """Returns the search of a sweep's folder.

    Args:
        folder: The folder.
        setup: As ``commands/sweep.py`` makes it.
        url: Address of the storage; None for the folder's journal.

    Raises:
        UsageError: The storage cannot be used.
    """
    quiet()
    return Search(
        open_storage(folder, url),
        setup["name"],
        from_json(setup["space"]),
        setup["objectives"],
        Holds(folder / "workers"),
        setup["seed"],
        setup["sampler"],
    )


def training_of(folder: Path, setup: dict[str, Any]) -> Training:
    """Returns how a sweep's points are trained."""
    goals, space = setup["objectives"], from_json(setup["space"])
    prune = setup["prune"] and len(goals) == 1 and GOALS[goals[0]].score
    return Training(folder, setup["config"], space, goals[0], setup["seed"], prune)


def work(search: Search, training: Training, parent: int) -> bool:
    """Takes trials; returns True once all are settled, False if it was stopped.

    Args:
        search: The search.
        training: How points are trained.
        parent: Process that started this one.
    """
    hold, done = search.holds.take(), False
    try:
        while os.getppid() == parent and not done:
            search.reclaim()
            if search.finished():
                done = True
            elif attempt := search.take(hold):
                training.run(attempt, hold, parent)
                training.tidy(*search.kept_and_finished())
            else:
                time.sleep(_IDLE)
    except (KeyboardInterrupt, OrphanedError):
        done = False
    # not after other errors: a file that is there and free says that its attempt is lost
    hold.release()
    return done


def main() -> int:
    """Runs a worker; the arguments are the sweep's folder and the parent's process number."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    folder = Path(sys.argv[1])
    setup = json.loads((folder / SETUP).read_text("utf-8"))
    url = os.environ.get(URL)
    try:
        with explained(url):
            search = open_search(folder, setup, url)
            done = work(search, training_of(folder, setup), int(sys.argv[2]))
    except VitloraError as error:
        print(f"vitlora: {error}", file=sys.stderr)
        return HALTED
    return 0 if done else _STOPPED


if __name__ == "__main__":
    sys.exit(main())
