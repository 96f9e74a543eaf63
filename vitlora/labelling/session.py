"""Asks for the class of one picture after another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

from vitlora.errors import DataError, VitloraError, a_few, counted
from vitlora.files import alone_in
from vitlora.labelling.filing import file_picture
from vitlora.labelling.inbox import Unlabelled
from vitlora.labelling.journal import Journal, check_class

if TYPE_CHECKING:
    from vitlora.metrics.prediction import Prediction


@dataclass(frozen=True)
class Question:
    """A picture to be labelled.

    Attributes:
        picture: The picture.
        prediction: What the bundle says of it.
    """

    picture: Unlabelled
    prediction: Prediction


@dataclass(frozen=True)
class Filed:
    """What became of pictures that were to be put into the folders of their classes.

    Attributes:
        counts: Number of pictures by class.
        failed: Why the others were not, a line each.
        copies: Files left where they are, because they have the bytes of another.
    """

    counts: dict[str, int]
    failed: tuple[str, ...] = ()
    copies: int = 0

    def to_text(self, labelled: Path, move: bool) -> str:
        """Returns what was done in a few lines."""
        if not self.counts and not self.failed:
            return f"nothing to {'move' if move else 'copy'}: no new answers"
        total = counted(sum(self.counts.values()), "picture")
        listed = f": {_listed(self.counts)}" if self.counts else ""
        lines = [f"{'moved' if move else 'copied'} {total} to {labelled}{listed}"]
        if self.failed:
            lines.append(f"left where they are: {a_few(self.failed, 5)}")
        if self.copies:
            lines.append(f"{counted(self.copies, 'file')} left, which have the bytes of another")
        return "\n".join(lines)


class Session:
    """The questions of an inbox, and the answers to them. Threads may share it.

    Args:
        classes: The bundle's classes.
        questions: In the order in which they are asked.
        pictures: All pictures of the inbox by their digest, answered ones as well.
        journal: The answers so far.
        move: Whether pictures are moved instead of copied.

    Attributes:
        filed: What was put into the folders of classes, each time.
    """

    def __init__(
        self,
        classes: Sequence[str],
        questions: Sequence[Question],
        pictures: Sequence[Unlabelled],
        journal: Journal,
        move: bool = False,
    ) -> None:
        self._questions = {one.picture.digest: one for one in questions}
        self._pictures = {one.digest: one for one in pictures}
        self._journal, self._move = journal, move
        self._classes = [*classes]
        self._again = {d for d in self._questions if d in journal.labels}  # skipped before
        self._given: list[str] = []  # digests of this session, for undo
        self._lock = RLock()
        self.filed: list[Filed] = []

    @property
    def classes(self) -> list[str]:
        """The bundle's classes, then those that were typed."""
        return [*dict.fromkeys([*self._classes, *self._journal.classes])]

    @property
    def left(self) -> int:
        """Number of pictures without an answer."""
        return sum(map(self._is_open, self._questions))

    def picture(self, digest: str) -> Unlabelled | None:
        """Returns a picture that is or was asked for."""
        found = self._questions.get(digest)
        return found.picture if found else None

    def answer(self, digest: str, label: str | None) -> None:
        """Records the class of a picture; None skips it.

        Raises:
            DataError: The picture is unknown, or is in its class's folder already; or no class can
                have this name.
        """
        with self._lock:
            if digest not in self._questions:
                raise DataError("this picture is not among those that are asked")
            if digest in self._journal.filed:
                raise DataError("this picture is in the folder of its class already")
            name = label if label is None else check_class(label, self.classes)
            self._journal.answer(digest, self._questions[digest].picture.name, name)
            self._again.discard(digest)
            self._given = [one for one in self._given if one != digest] + [digest]

    def undo(self) -> None:
        """Takes back the last answer of this session that was not acted on yet.

        Raises:
            DataError: There is none.
        """
        with self._lock:
            if not (digest := self._last()):
                raise DataError("there is no answer to take back")
            self._journal.take_back(digest)
            self._given.remove(digest)

    def file(self) -> str:
        """Puts all answered pictures into the folders of their classes; returns what was done."""
        with self._lock:
            self.filed.append(file_answers(self._journal, self._pictures, self._move))
            return self.filed[-1].to_text(self._journal.folder, self._move)

    def close(self) -> None:
        """Waits for what is under way; other threads can do nothing any more."""
        self._lock.acquire()

    def state(self) -> dict[str, Any]:
        """Returns all that the page shows, as JSON values."""
        with self._lock:
            waiting = self._journal.waiting
            here = {d: label for d, label in waiting.items() if d in self._pictures}
            open_ones = [d for d in self._questions if self._is_open(d)]
            last = self._last()
            return {
                "classes": self.classes,
                "total": len(self._questions),
                "left": len(open_ones),
                "waiting": Counter(here.values()),
                "labelled": str(self._journal.folder),
                "move": self._move,
                "question": self._shown(open_ones[0]) if open_ones else None,
                "next": open_ones[1] if len(open_ones) > 1 else None,
                "last": self._said(last) if last else None,
            }

    def _is_open(self, digest: str) -> bool:
        return digest not in self._journal.labels or digest in self._again

    def _last(self) -> str | None:
        filed = self._journal.filed
        return next((digest for digest in reversed(self._given) if digest not in filed), None)

    def _said(self, digest: str) -> dict[str, Any]:
        name = self._questions[digest].picture.name
        return {"name": name, "class": self._journal.labels[digest]}

    def _shown(self, digest: str) -> dict[str, Any]:
        one = self._questions[digest]
        return {**one.prediction.to_json(), "id": digest, "name": one.picture.name}


def file_answers(journal: Journal, pictures: Mapping[str, Unlabelled], move: bool) -> Filed:
    """Puts answered pictures of an inbox into the folders of their classes.

    Args:
        journal: The answers.
        pictures: Those of the inbox, by digest.
        move: Whether they are moved instead of copied.
    """
    counts: Counter[str] = Counter()
    failed: list[str] = []
    copies = 0
    if not journal.waiting:
        return Filed({})
    with alone_in(journal.folder):
        for digest, label in journal.waiting.items():
            if not (one := pictures.get(digest)):
                continue
            try:
                journal.file_as(digest, file_picture(one, label, journal.folder, move))
            except VitloraError as error:
                failed.append(str(error))
            except OSError as error:
                failed.append(f"{error.filename or one.path}: {error.strerror}")
            else:
                counts[label] += 1
                copies += len(one.copies)
    return Filed(dict(counts), tuple(failed), copies)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{label} {count:,}" for label, count in sorted(counts.items()))
