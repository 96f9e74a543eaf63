"""A training as an attempt: ``vitlora fit`` in a process of its own."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitlora import yaml_text
from vitlora.errors import VitloraError
from vitlora.files import lock, write_whole
from vitlora.studies.search.attempt import Attempt, LostError
from vitlora.studies.search.goals import measured
from vitlora.studies.search.holds import Hold
from vitlora.studies.search.space import Point, Space
from vitlora.studies.study import last_words

_POLL = 0.2  # seconds
_EARLY = 1 / 3  # share of a training before which it is not stopped
_STATE, _LOCK = "last.ckpt", ".run.lock"  # of a run that has not ended
_ROOM = 1 << 20  # bytes; a disk with less is full
_NO_MORE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_STOPPED = (130, 143)  # exit statuses after Ctrl-C and SIGTERM


class OrphanedError(Exception):
    """The process that started this one has ended."""


@dataclass(frozen=True)
class Training:
    """How the points of a sweep are trained.

    Attributes:
        folder: Folder of the sweep.
        base: The resolved configuration that the points change.
        space: The options that vary.
        goal: The score that is watched, of those of ``EpochScores``.
        seed: Of every training.
        prune: Whether poor trainings are stopped.
    """

    folder: Path
    base: dict[str, Any]
    space: Space
    goal: str
    seed: int
    prune: bool

    def bundle(self, number: int, attempt: int) -> Path:
        """Returns the folder of an attempt's bundle; the log and the scores lie beside it.

        Args:
            number: The trial's.
            attempt: The attempt's, which is the trial's if it is the first one.
        """
        again = "" if attempt == number else f"-{attempt}"
        return self.folder / f"trial-{number:04}{again}"

    def words(self, point: Point) -> list[str]:
        """Returns the arguments of ``fit`` that train a point."""
        config = self.folder / "base.yaml"
        if not config.is_file():
            write_whole(config, yaml_text.write(self.base))
        return ["--config", str(config), *self.space.words(point)]

    def run(self, attempt: Attempt, hold: Hold, parent: int) -> None:
        """Trains an attempt's point, and tells how it ended.

        What an earlier attempt at the point left on this machine goes on.

        Args:
            attempt: The attempt.
            hold: This worker's, which the training holds as well.
            parent: Process without which nothing is trained.

        Raises:
            OrphanedError: That process has ended; the attempt is given up.
            VitloraError: The disk is full; the attempt is given up.
            KeyboardInterrupt: It was stopped; the attempt is given up.
        """
        bundle = self.bundle(attempt.first, attempt.number)
        log, curve = bundle.with_suffix(".log"), bundle.with_suffix(".jsonl")
        resumes = self._take_over(attempt)
        words = ["fit", *["--resume"] * resumes, *self.words(attempt.point)]
        words += ["--output", str(bundle)]
        words += ["--seed_everything", str(self.seed)]
        words += ["--trainer.callbacks+", "vitlora.training.Cost"]
        words += ["--trainer.callbacks+", "vitlora.training.EpochScores"]
        words += ["--trainer.callbacks.file", str(curve)]
        words += ["--trainer.callbacks.parent", str(os.getpid())]
        with log.open("wb") as file:
            child = _start(words, file, hold)
            try:
                pruned = self._watch(child, attempt, _lines(curve), parent)
            except LostError:
                return
            except BaseException:
                attempt.lost()
                raise
            finally:
                child.kill()
                child.wait()
        if pruned:
            attempt.pruned()
        elif child.returncode == 0:
            attempt.done(measured(bundle))
        elif child.returncode < 0 or child.returncode in _STOPPED:
            attempt.lost()
        elif resumes:  # it may be for what was left, so the next attempt starts over
            strip(bundle)
            attempt.lost()
        else:
            error = last_words(log.read_text("utf-8", "replace"), child.returncode)
            if self._cannot_write(error):
                attempt.lost()
                raise VitloraError(
                    f"the disk of {self.folder} is full or takes no more ({error}); make room, and "
                    "the same command continues"
                )
            attempt.failed(error)

    def _cannot_write(self, error: str) -> bool:
        """Returns whether a training failed for its disk, so that every other would, too.

        Args:
            error: Its last words; they may be missing, as the log is on the same disk.
        """
        return shutil.disk_usage(self.folder).free < _ROOM or any(
            os.strerror(number) in error for number in _NO_MORE
        )

    def _take_over(self, attempt: Attempt) -> bool:
        """Gives an attempt the unfinished run of an earlier one; returns whether there was one."""
        if sys.platform == "win32":  # which has no locks that tell whether a run has ended
            return False
        mine, first = (self.bundle(attempt.first, n) for n in (attempt.number, attempt.first))
        for left in (first, *self.folder.glob(f"{first.name}-*/")):
            if not (left / _STATE).is_file():
                continue
            handle = os.open(left / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if lock(handle):  # otherwise its process lives, perhaps on another machine
                    left.rename(mine)
                    with suppress(FileNotFoundError):
                        left.with_suffix(".jsonl").rename(mine.with_suffix(".jsonl"))
                    return True
            finally:
                os.close(handle)
        return False

    def _watch(
        self,
        child: subprocess.Popen[bytes],
        attempt: Attempt,
        lines: Iterator[dict[str, Any]],
        parent: int,
    ) -> bool:
        """Waits for a training and reports its scores; returns whether to stop it early."""
        ended = False
        while not ended:
            ended = child.poll() is not None  # before the last lines are read
            for line in _until_now(lines):
                attempt.report(line["epoch"], line[self.goal])
                share = line["epoch"] / line["of"]
                if self.prune and not ended and _EARLY <= share < 1 and attempt.is_hopeless():
                    return True
            attempt.beat()
            if os.getppid() != parent:
                raise OrphanedError
            if not ended:
                time.sleep(_POLL)
        return False

    def tidy(self, front: Set[tuple[int, int]], finished: Set[tuple[int, int]]) -> None:
        """Removes the bundles of finished attempts but those of the front; logs stay.

        Args:
            front: Trials that no other beats, each with its attempt.
            finished: Attempts that have ended, each with its trial.
        """
        for trial, attempt in finished - front:
            strip(self.bundle(trial, attempt))


def strip(bundle: Path) -> None:
    """Removes a bundle, but for its logs; from its first step on it is no bundle any more."""
    if not bundle.is_dir():
        return
    (bundle / "vitlora.json").unlink(missing_ok=True)
    for inside in bundle.iterdir():
        if inside.name == "logs":
            continue
        if inside.is_dir():
            shutil.rmtree(inside, ignore_errors=True)
        else:
            with suppress(OSError):
                inside.unlink()


def _start(words: Sequence[str], log: Any, hold: Hold) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "vitlora", *words]
    env = {**os.environ, "PYTHONUTF8": "1"}
    passed = () if sys.platform == "win32" else (hold.handle,)
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env, pass_fds=passed)


def _lines(file: Path) -> Iterator[Any]:
    """Yields the objects of a file that grows; None where there is no whole new line yet."""
    at = 0
    while True:
        text = file.read_bytes()[at:] if file.is_file() else b""
        whole = text[: text.rfind(b"\n") + 1]
        at += len(whole)
        for line in whole.splitlines():
            yield json.loads(line)
        yield None


def _until_now(lines: Iterator[Any]) -> Iterator[dict[str, Any]]:
    while (line := next(lines)) is not None:
        yield line
