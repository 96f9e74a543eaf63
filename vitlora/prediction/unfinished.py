"""A file of answers while it is written: what is there survives the process. Needs no torch.

Beside ``answers.parquet`` lies ``answers.parquet.run``, which says what makes it, and, until it is
complete, ``answers.parquet.part``: a JSON line for each answer, in the order of the pictures.
"""

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vitlora.errors import UsageError, counted, either
from vitlora.files import check_target, keep_names, lock, rename, write_whole
from vitlora.notes import note
from vitlora.prediction.answer_file import ENDINGS, Row, convert

_SYNC = 5.0  # seconds of answers that a failing machine, not a killed process, may cost
_MARKS = ("unsure", "unfamiliar", "outside")


class Unfinished:
    """A file of answers that one process adds to; see ``begin``.

    Attributes:
        target: The file in the end.
        complete: Whether it is there; nothing is to be done then.
        done: How many pictures have their answer.
        counts: How many of the answers are ``unreadable``, ``unsure``, ``unfamiliar``, ``outside``.
    """

    def __init__(self, target: Path, run: Mapping[str, Any]) -> None:
        self.target, self.run = target, dict(run)
        self.part, self.record = (target.with_name(f"{target.name}{x}") for x in (".part", ".run"))
        self.done, self.counts = 0, Counter[str]()
        self.complete = self._check()
        if self.complete:
            return
        self._file = self.part.open("a+b")
        if not lock(self._file.fileno()):
            raise UsageError(
                f"--output '{target}' is being written by another process; wait for it, name "
                "another file, or give each process its --shard"
            )
        self.complete = self._check()  # another process may have ended meanwhile
        if not self.complete:
            _write(self.record, self.run)
            keep_names(target.parent)
        self._synced = time.monotonic()

    def resume(self, names: Sequence[str]) -> None:
        """Reads the answers that are there; cuts off a line that was being written.

        Args:
            names: What the answers of all pictures are called, in order.

        Raises:
            UsageError: An answer is not that of its picture.
        """
        good = 0
        self._file.seek(0)
        for line in self._file:
            row = _read(line)
            if row is None and not self._file.read(1):
                note(f"the last line of {self.part} is incomplete; that picture is done again")
                break
            if row is None or self.done >= len(names) or row["path"] != names[self.done]:
                raise UsageError(
                    f"{self.part}, line {self.done + 1}: not the answer that vitlora wrote there; "
                    f"delete that line and all below it, or the file"
                )
            self._count(row)
            good += len(line)
        self._file.truncate(good)
        self._file.seek(0, os.SEEK_END)

    def add(self, rows: Iterable[Row]) -> None:
        """Writes answers; from then on only a failure of the machine can lose them."""
        with _naming(self.part):
            for row in rows:
                self._count(row)
                self._file.write(json.dumps(row).encode() + b"\n")
            self._file.flush()
            if time.monotonic() - self._synced > _SYNC:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()

    def finish(self, top_k: int) -> None:
        """Makes the file of all answers, whole or not at all."""
        self.run["answers"] = dict(self.counts)
        with _naming(self.target):
            os.fsync(self._file.fileno())
            _write(self.record, self.run)
            if self.target.suffix.lower() == ".jsonl":
                if sys.platform == "win32":  # which does not rename an open file
                    self._file.close()
                rename(self.part, self.target)
            else:
                self._file.seek(0)
                convert(map(json.loads, self._file), self.target, top_k, self.run)
        self.complete = True

    def close(self) -> None:
        """Lets other processes go on; removes what is no longer needed."""
        if hasattr(self, "_file"):
            if self.complete and sys.platform != "win32":  # while it is locked
                self.part.unlink(missing_ok=True)
            with suppress(OSError):  # on a full disk, which add has told
                self._file.close()
        if self.complete and self.part.exists():
            self.part.unlink()

    def _count(self, row: Row) -> None:
        self.done += 1
        self.counts["unreadable"] += row["error"] is not None
        self.counts.update({mark: bool(row[mark]) for mark in _MARKS})

    def _check(self) -> bool:
        """Returns whether the file is complete.

        Raises:
            UsageError: It is another program's, or that of other settings, bundle or pictures.
        """
        there = self.target.exists()
        if not self.record.exists():
            if there or (self.part.exists() and self.part.stat().st_size):
                found = self.target if there else self.part
                raise UsageError(
                    f"--output '{self.target}': {found} exists, and no {self.record.name} that "
                    "says what made it; name another file"
                )
            return False
        try:
            known = json.loads(self.record.read_bytes())
            differences = list(_differences(known, self.run))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UsageError(
                f"{self.record} was not written by vitlora; name another file"
            ) from None
        if differences:
            written = self.target if there else self.part
            raise UsageError(
                f"--output '{self.target}' has answers {', '.join(differences)}; name another "
                f"file, or delete {written.name} and {self.record.name} to start over"
            )
        if there and "answers" not in known:
            raise UsageError(
                f"--output '{self.target}' exists, but {self.record.name} says that its answers "
                "are unfinished; name another file"
            )
        if there:
            self.counts.update(known["answers"])
            self.done = known["pictures"]
        return there


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Names the file in the error of a full disk, which does not."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


@contextmanager
def begin(target: Path, run: Mapping[str, Any]) -> Iterator[Unfinished]:
    """Opens a file of answers for this process alone.

    Args:
        target: The file.
        run: What makes it, as plain values: ``bundle``, ``pictures``, ``listing`` ... Answers of
            another run are never added to.

    Raises:
        UsageError: It belongs to another run, or another process writes it.
    """
    unfinished = Unfinished(target, run)
    try:
        yield unfinished
    finally:
        unfinished.close()


def check_output(target: Path) -> None:
    """Refuses a file that cannot be written, before the work.

    Raises:
        UsageError: Its folder does not exist, or its ending is not of a known kind.
    """
    check_target("--output", target, ENDINGS, b"")
    if target.suffix.lower() not in ENDINGS or (target.exists() and not target.is_file()):
        raise UsageError(f"--output '{target}': expected a file that ends in {either(ENDINGS)}")


def _differences(known: Mapping[str, Any], run: Mapping[str, Any]) -> Iterator[str]:
    """Yields what makes answers of one run those of another."""
    if known["bundle"] != run["bundle"]:
        same = " as it was before" if known["checkpoint"] == run["checkpoint"] else ""
        yield f"of the bundle {known['checkpoint']}{same}, not {run['checkpoint']}"
    if known["listing"] != run["listing"]:
        then, now = (f"{counted(x['pictures'], 'picture')} in {x['places']}" for x in (known, run))
        yield f"for {then}, not the {now}" if then != now else f"for other {then}"
    if known["precision"] != run["precision"]:
        yield f"of {_network(known['precision'])}, not {_network(run['precision'])}"
    for name in ("shard", "top_k"):
        if known[name] != run[name]:
            yield f"with --{name.replace('_', '-')} {known[name]}, not {run[name]}"


def _network(precision: str) -> str:
    """Returns what has a precision: ``32`` is a bundle, ``.onnx 32`` an exported file."""
    kind, _, bits = precision.rpartition(" ")
    return f"a {kind} file with --precision {bits}" if kind else f"the bundle, in {bits}"


def _write(record: Path, run: Mapping[str, Any]) -> None:
    write_whole(record, json.dumps(run, indent=1, ensure_ascii=False) + "\n")


def _read(line: bytes) -> Row | None:
    """Returns the answer in a line; None if it is not a whole one."""
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return row if isinstance(row, dict) and {"path", "error", *_MARKS} <= row.keys() else None
