"""The workers of one machine: starts them, and starts others for those that are killed."""

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

from vitlora.errors import VitloraError
from vitlora.notes import note
from vitlora.studies.search.storage import HALTED, URL
from vitlora.studies.study import last_words

_MOST = 5  # workers that may die before the command gives up
_PATIENCE = 20.0  # seconds in which a worker may stop by itself


class Workers:
    """Processes that take trials.

    Args:
        folder: Folder of the sweep.
        count: How many there are at once.
        url: Address of the storage; None for the folder's journal.
    """

    def __init__(self, folder: Path, count: int, url: str | None) -> None:
        self._folder, self._url, self._died = folder, url, 0
        (folder / "workers").mkdir(exist_ok=True)
        self._going = {number: self._start(number) for number in range(1, count + 1)}

    def check(self) -> None:
        """Starts a new worker for each that died.

        Raises:
            VitloraError: Too many died, or one says that none can go on.
        """
        for number, worker in self._going.items():
            if (status := worker.poll()) is None:
                continue
            if status == 0:  # all trials were settled; another command has asked for more
                self._going[number] = self._start(number)
                continue
            said = self._log(number).read_text("utf-8", "replace")
            if status == HALTED:  # on a full disk, its log may be empty
                full = f"{self._folder} takes no more; make room, and the same command continues"
                raise VitloraError(last_words(said) if said else full)
            self._died += 1
            why = last_words(said, status)
            if self._died > _MOST:
                raise VitloraError(
                    f"{self._died} workers ended before the sweep did, the last because: {why}; "
                    "the same command continues"
                )
            note(f"worker {number} ended ({why}); another takes its place")
            self._going[number] = self._start(number)

    def stop(self) -> None:
        """Ends the workers and their trainings; what they trained is tried again later."""
        for worker in self._going.values():
            worker.terminate()
        until = time.monotonic() + _PATIENCE
        for worker in self._going.values():
            try:
                worker.wait(max(until - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        for log in map(self._log, self._going):
            if log.is_file() and not log.stat().st_size:
                log.unlink()

    def _log(self, number: int) -> Path:
        return self._folder / "workers" / f"{platform.node()}-{os.getpid()}-{number}.log"

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "vitlora.studies.search.worker"]
        env = {**os.environ, "PYTHONUTF8": "1", **({URL: self._url} if self._url else {})}
        if not self._url:
            env.pop(URL, None)
        with self._log(number).open("wb") as log:
            return subprocess.Popen(
                [*command, str(self._folder), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
            )
