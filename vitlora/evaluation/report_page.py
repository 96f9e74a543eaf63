"""The report as one offline HTML page."""

from datetime import datetime
from importlib.metadata import version
from typing import Any

import torch

from vitlora import __version__
from vitlora.bundle.checkpoint import Bundle
from vitlora.errors import counted
from vitlora.evaluation import report as numbers
from vitlora.evaluation.answers import Answers
from vitlora.evaluation.calibrate import describe_threshold
from vitlora.evaluation.figures import Figure, looked_at, thumbnail
from vitlora.evaluation.pictures import Pictures
from vitlora.metrics.intervals import Interval, exact_interval
from vitlora.metrics.scores import Scores
from vitlora.pages.axis import axis
from vitlora.pages.page import render

# These limit the page's size: a thumbnail takes about 4 kB, a large picture with its map 12 kB.
_THUMBNAILS = 400
_WORST, _LEAST_SURE = 24, 12
_MOST_CLASSES = 30  # a larger matrix is unreadable: its largest mistakes are listed
_PAIRS, _MOST_PAIRS = 12, 30  # mistakes listed beside a matrix, and without one
_MOST_PROBLEMS = 50


class ReportPage:
    """A page about a bundle's answers to labelled pictures.

    Args:
        bundle: The bundle.
        pictures: The pictures.
        answers: The network's answers to those that can be read.
    """

    def __init__(self, bundle: Bundle, pictures: Pictures, answers: Answers) -> None:
        self.bundle, self.pictures, self.answers = bundle, pictures, answers
        self.samples, self.labels = answers.samples, answers.labels
        classes, judge = bundle.record.classes, bundle.judge
        judged = judge.judge(answers.features, answers.logits)
        self.plain = answers.scores(classes)
        self.scores = Scores(classes, judge.calibrated(answers.logits), answers.labels)
        self.confidence, self.predicted = judged.confidence, judged.predicted
        self.right, self.sure = self.predicted == self.labels, ~judged.unsure

    def html(self, network: torch.nn.Module, device: torch.device, command: str) -> str:
        """Returns the page.

        Args:
            network: The network that gave the answers, for the saliency maps.
            device: The network's.
            command: The command that made the page, as typed in a shell.
        """
        made = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
        values = {**self._values(), **self._looked_at(network, device), **self._problems()}
        return render("report.html", **values, command=command, made=made)

    def _values(self) -> dict[str, Any]:
        """Returns everything but the data problems and the pictures with maps."""
        record, scores = self.bundle.record, self.scores
        small = len(scores.classes) <= _MOST_CLASSES
        confusions = scores.confusions(_PAIRS if small else _MOST_PAIRS)
        columns = (column.tolist() for column in scores.per_class())
        per_class = list(zip(scores.classes, *columns, strict=True))
        if not small:  # the worst first, those without pictures last
            per_class.sort(key=lambda row: (not row[4], row[3]))
        logs = self.bundle.folder / "logs" / "metrics.csv"
        return {
            "bundle": self.bundle,
            "record": record,
            "pictures": self.pictures,
            "scores": scores,
            "plain": self.plain,
            "known": record.confidence,
            "threshold": describe_threshold(record.confidence) if record.confidence else None,
            "sure": self.answered(),
            "per_class": per_class,
            "most_classes": _MOST_CLASSES,
            "matrix": scores.confusion.tolist() if small else None,
            "confusions": confusions,
            "cells": self._cells(
                None if small else {(true, guess) for true, guess, _ in confusions}
            ),
            "reliability": [
                ("before calibration", self.plain),
                ("after calibration", scores),
            ][: 2 if record.confidence else 1],
            "risk": numbers.risk_coverage(self.confidence, self.right),
            "curves": {curve.name: curve.points for curve in numbers.learning_curves(logs)},
            "axis": axis,
            "config": self.bundle.config,
            "versions": {"vitlora": __version__, **{n: version(n) for n in ("torch", "timm")}},
        }

    def answered(self) -> tuple[tuple[float, Interval], tuple[float, Interval]] | None:
        """Returns the share of sure answers and the share of these that is wrong, each with CI."""
        if self.bundle.record.confidence is None:
            return None
        count, wrong = int(self.sure.sum()), int((self.sure & ~self.right).sum())
        every = len(self.sure)
        answered = count / every, exact_interval(count, every)
        return answered, (wrong / max(count, 1), exact_interval(wrong, count))

    def _looked_at(self, network: torch.nn.Module, device: torch.device) -> dict[str, Any]:
        """Returns the worst mistakes and the least sure answers, with saliency maps."""
        chosen = {
            "worst": numbers.worst(self.confidence, self.right, _WORST),
            "least_sure": numbers.least_sure(self.confidence, _LEAST_SURE),
        }
        indices = sorted({index for some in chosen.values() for index in some})
        paths = [self.samples[index].path for index in indices]
        asked = [int(self.predicted[index]) for index in indices]
        drawn = looked_at(network, paths, asked, self.bundle.record.preprocessing, device)
        figures = {i: self._figure(i, *uris) for i, uris in zip(indices, drawn, strict=True)}
        return {name: [figures[index] for index in some] for name, some in chosen.items()}

    def _cells(self, linked: set[tuple[int, int]] | None) -> dict[tuple[int, int], list[Figure]]:
        """Returns the pictures behind the matrix: of all its cells, or of those with a link."""
        chosen = numbers.shown_in_cells(
            self.labels.tolist(),
            self.predicted.tolist(),
            self.confidence.tolist(),
            _THUMBNAILS,
            linked,
        )
        value_range = self.bundle.record.preprocessing.value_range
        return {
            cell: [self._figure(i, thumbnail(self.samples[i].path, value_range)) for i in indices]
            for cell, indices in sorted(chosen.items())
        }

    def _problems(self) -> dict[str, Any]:
        """Returns a line and its files for each problem; whether training's pictures are known."""
        seen, split, found = self.pictures.seen, self.pictures.split, []
        if unread := self.answers.unreadable:
            line = f"{counted(len(unread), 'picture')} not scored, because unreadable"
            found.append((line, list(unread.values())))
        if outside := self.answers.outside:
            line = f"{counted(len(outside), 'picture')} with values outside the range of training"
            found.append((f"{line}; their answers are unreliable", list(map(str, outside))))
        known = [*(seen.trained or ()), *(seen.validated if split != "val" else ())]
        for index, line in enumerate(seen.notes(split)):
            found.append((f"{line[0].upper()}{line[1:]}", [] if index else [str(p) for p in known]))
        compared = seen.trained is not None and split != "train"
        return {"compared": compared, "problems": [(line, _some(files)) for line, files in found]}

    def _figure(self, index: int, image: str, overlay: str = "") -> Figure:
        sample, classes = self.samples[index], self.scores.classes
        return Figure(
            name=sample.name or sample.path.name,
            image=image,
            map=overlay,
            true=classes[sample.label],
            predicted=classes[int(self.predicted[index])],
            confidence=float(self.confidence[index]),
        )


def _some(lines: list[str]) -> list[str]:
    more = len(lines) - _MOST_PROBLEMS
    return [*lines[:_MOST_PROBLEMS], *([f"… and {more:,} more"] if more > 0 else [])]
