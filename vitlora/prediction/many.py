"""Very many pictures -> one file of answers, in bounded memory; goes on where it was stopped."""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Protocol

from vitlora import __version__
from vitlora.data.archives import is_there
from vitlora.data.hub import address, hub_name
from vitlora.data.layouts.reading import normal
from vitlora.data.unlabelled import Found
from vitlora.errors import DataError, counted
from vitlora.metrics.prediction import Prediction
from vitlora.notes import note, tell, warn
from vitlora.prediction.answer_file import row_of
from vitlora.prediction.shard import Shard
from vitlora.prediction.unfinished import Unfinished, begin
from vitlora.units import clock

_TOLD = 3  # pictures that cannot be read are named while it runs
_REDRAWN, _PRINTED = 0.5, 60.0  # seconds between two lines on a terminal, and elsewhere


class Answering(Protocol):
    """What answers pictures: a ``Predictor``.

    Attributes:
        classes: Names in the order of the logits.
        digest: What makes answers those of this bundle.
        precision: What it computes in.
    """

    classes: tuple[str, ...]
    digest: str
    precision: str

    def predict(
        self, paths: Iterable[str], top_k: int = 3, batch_size: int = 32
    ) -> Iterator[Prediction | DataError]:
        """Yields the answer to each file, in order; an error for one that cannot be read."""
        ...


@dataclass(frozen=True)
class Written:
    """A complete file of answers.

    Attributes:
        output: The file.
        pictures: How many answers it has.
        counts: How many of them are ``unreadable``, ``unsure``, ``unfamiliar``, ``outside``.
        predicted: How many pictures were answered now; the others were there already.
        seconds: What these took.
    """

    output: Path
    pictures: int
    counts: Mapping[str, int]
    predicted: int
    seconds: float

    def to_text(self) -> str:
        """Returns one line."""
        marks = [f"{number:,} {mark}" for mark, number in self.counts.items() if number]
        speed = self.predicted / self.seconds if self.predicted else 0
        took = f" in {clock(self.seconds)} ({speed:,.0f} images/s)" if self.predicted else ""
        return f"{self.output}: {', '.join([counted(self.pictures, 'answer'), *marks])}{took}"

    def to_json(self) -> dict[str, object]:
        """Returns the same as plain values."""
        plain = {**vars(self), "output": str(self.output), "counts": dict(self.counts)}
        return {**plain, "seconds": round(self.seconds, 1)}


def predict_many(
    predictor: Answering,
    checkpoint: Path,
    found: Sequence[Found],
    target: Path,
    shard: Shard,
    top_k: int = 3,
    batch_size: int = 32,
) -> Written:
    """Writes the answers to all pictures, or to those of a shard, to a file.

    A picture that cannot be read gets a row with the reason. What is answered is on the disk after
    each batch; the same call goes on from there.

    Args:
        predictor: Answers the pictures.
        checkpoint: Where it came from, for messages.
        found: The pictures, place by place.
        target: The file: .parquet, .jsonl or .csv.
        shard: The share of this process, which changes the name of the file.
        top_k: How many classes to keep.
        batch_size: Pictures in one forward pass.

    Raises:
        UsageError: The file has answers of another bundle, other pictures or settings, or another
            process writes it.
        DataError: The place of the pictures is gone.
    """
    files, names = _share(found, shard)
    width = min(top_k, len(predictor.classes))
    run = {
        "vitlora": __version__,
        "checkpoint": str(checkpoint),
        "bundle": predictor.digest,
        "precision": predictor.precision,
        "top_k": width,
        "shard": str(shard),
        "places": ", ".join(str(one.root) for one in found[:3]) + " …" * (len(found) > 3),
        "pictures": len(names),
        "listing": _digest(found, names),
    }
    with begin(shard.file(target), run) as writing:
        before, start = len(names), time.monotonic()
        if writing.complete:
            note(f"{writing.target} is complete already")
        else:
            writing.resume(names)
            before, start = writing.done, time.monotonic()
            if before:
                note(f"{before:,} of {counted(len(names), 'picture')} have their answer already")
            answers = predictor.predict(files[before:], top_k, batch_size)
            places = [one.root for one in found if not hub_name(one.root)]
            rows = zip(names[before:], files[before:], answers, strict=True)
            _write(writing, rows, batch_size, places)
            writing.finish(width)
        if lost := writing.counts["unreadable"]:
            warn(f"{counted(lost, 'picture')} could not be read; the column error says why")
        seconds = time.monotonic() - start
        counts = dict(writing.counts)
        return Written(writing.target, len(names), counts, len(names) - before, seconds)


def _write(
    writing: Unfinished,
    answers: Iterator[tuple[str, str, Prediction | DataError]],
    batch_size: int,
    places: Sequence[Path],
) -> None:
    """Writes answers, batch by batch, and shows how far it is."""
    progress, told = _Progress(writing.done, writing.run["pictures"]), 0
    while group := list(islice(answers, batch_size)):
        for _, file, answer in group:
            if isinstance(answer, DataError):
                if not is_there(Path(file)):
                    _check_places(places)
                told += 1
                if told <= _TOLD:
                    note(f"unreadable: {answer}{' …' * (told == _TOLD)}")
        writing.add(row_of(name, answer, file) for name, file, answer in group)
        progress.show(writing.done)
    progress.clear()


def _check_places(places: Iterable[Path]) -> None:
    """Stops if a drive is gone: otherwise all that is left would count as unreadable.

    Raises:
        DataError: A folder or file of pictures is no longer there, or empty.
    """
    for place in places:
        if not place.exists() or (place.is_dir() and not any(place.iterdir())):
            raise DataError(
                f"{place} is no longer there, or empty; the answers so far are kept: run the same "
                "command when it is back"
            )


def _share(found: Sequence[Found], shard: Shard) -> tuple[list[str], list[str]]:
    """Returns the paths of a shard's pictures, each once, and what answers call them."""
    share: dict[str, str] = {}
    for one in found:
        base = f"{one.root if one.root.is_dir() else one.root.parent}{os.sep}"
        for file in one.files:
            name = one.names.get(file, file)
            if shard.takes(normal(name.removeprefix(base).replace(os.sep, "/"))):
                share[file] = name
    return list(share), list(share.values())


def _digest(found: Iterable[Found], names: Iterable[str]) -> str:
    """Returns what identifies pictures: their places and names."""
    digest = sha256()
    for text in (*(address(one.root) for one in found), *names):
        digest.update(text.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


class _Progress:
    """How far it is, how fast, and the time left: a line that is redrawn, or one each minute."""

    def __init__(self, done: int, total: int) -> None:
        self._before, self._total, self._start = done, total, time.monotonic()
        self._redrawn, self._width = sys.stderr.isatty(), 0
        self._every = _REDRAWN if self._redrawn else _PRINTED
        self._due = self._start + self._every

    def show(self, done: int) -> None:
        """Shows the line if it is due."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + self._every
        speed = (done - self._before) / (now - self._start)
        line = (
            f"{done:,} of {counted(self._total, 'picture')} ({done / self._total:.0%}), "
            f"{speed:,.0f} images/s, {clock((self._total - done) / speed)} left"
        )
        if not self._redrawn:
            tell(line)
            return
        print(f"\r{line:<{self._width}}", end="", file=sys.stderr, flush=True)
        self._width = len(line)

    def clear(self) -> None:
        """Removes a line that was redrawn."""
        if self._width:
            print(f"\r{'':<{self._width}}\r", end="", file=sys.stderr, flush=True)
