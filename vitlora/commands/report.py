"""The ``report`` command: how good a bundle is, as one offline HTML page."""

import shlex
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from vitlora import __version__
from vitlora.checkpoint import RUN_CONFIG, Bundle, is_bundle, load_bundle
from vitlora.command_line import CommandParser
from vitlora.data.folder import Sample
from vitlora.errors import DataError, UsageError
from vitlora.evaluation import report as numbers
from vitlora.evaluation.answers import Answers, answer
from vitlora.evaluation.figures import Figure, looked_at, thumbnail
from vitlora.evaluation.pictures import Pictures, copies, find_pictures, folder_of
from vitlora.files import write_whole
from vitlora.hardware import pick_device
from vitlora.page import render
from vitlora.scores import Scores
from vitlora.updates import merged_network

_EPILOG = """example:
  vitlora report checkpoints/waste5 --data photos"""

_MARK = b'<meta name="generator" content="vitlora report">'  # as the template has it
# What bounds the page: thumbnails of some 4 kB, large pictures with their maps of some 12 kB.
_THUMBNAILS = 400
_WORST, _LEAST_SURE = 24, 12
_MOST_CLASSES = 30  # a larger matrix is no more readable: its largest mistakes are listed
_MOST_PAIRS = 12
_MOST_PROBLEMS = 50


def main(args: Sequence[str] | None = None) -> int:
    """Scores a bundle on labelled pictures and writes the page.

    Raises:
        UsageError: OUT is taken, or cannot be written there.
        BundleError: The bundle is damaged, belongs to other base weights, or the split changed.
        BackboneError: The base's weights cannot be had.
        DataError: There are no pictures to score.
    """
    words = list(args or [])
    options = _parser().parse_args(words)
    bundle = load_bundle(options.checkpoint)
    out = Path(options.out or f"{bundle.folder.resolve().name}-report.html")
    _check_free(out)
    pictures = find_pictures(bundle, options.data, options.split)
    print(f"scoring {len(pictures.samples)} pictures of {pictures.root}, split {pictures.split} …")
    device = pick_device(options.device)
    network = merged_network(bundle, options.weights, device)
    answers = answer(network, pictures.samples, bundle.record.preprocessing)
    page = _Page(bundle, pictures, answers)
    values = {
        **page.values(),
        **page.looked_at(network, device),
        **_problems(bundle, pictures, answers),
        "command": shlex.join(["vitlora", "report", *words]),
        "made": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    }
    write_whole(out, render("report.html", **values))
    print(_summary(page.scores))
    print(f"report   {out}  ({out.stat().st_size:,} bytes)")
    return 0


class _Page:
    """What the template needs to know of a bundle's answers.

    Args:
        bundle: The bundle.
        pictures: Where the pictures come from.
        answers: The network's, to those that can be read.
    """

    def __init__(self, bundle: Bundle, pictures: Pictures, answers: Answers) -> None:
        self.bundle, self.pictures = bundle, pictures
        self.samples, self.labels = answers.samples, answers.labels
        known = bundle.record.confidence
        classes, temperature = bundle.record.classes, known.temperature if known else 1.0
        self.plain = answers.scores(classes)
        self.scores = answers.scores(classes, temperature)
        self.confidence, self.predicted = self.scores.logits.softmax(1).max(1)
        self.right = self.predicted == self.labels

    def values(self) -> dict[str, Any]:
        """Returns everything but the pictures the network looked at."""
        record, scores = self.bundle.record, self.scores
        small = len(scores.classes) <= _MOST_CLASSES
        logs = self.bundle.folder / "logs" / "metrics.csv"
        plain = self.plain.logits.softmax(1).max(1).values
        return {
            "bundle": self.bundle,
            "record": record,
            "pictures": self.pictures,
            "scores": scores,
            "plain": self.plain,
            "known": record.confidence,
            "per_class": list(
                zip(scores.classes, *(c.tolist() for c in scores.per_class()), strict=True)
            ),
            "matrix": scores.confusion.tolist() if small else None,
            "confusions": numbers.confusions(scores.confusion, _MOST_PAIRS),
            "cells": self._cells(),
            "reliability": [
                ("as the network says it", numbers.reliability(plain, self.right), self.plain),
                (
                    "after the temperature",
                    numbers.reliability(self.confidence, self.right),
                    scores,
                ),
            ][: 2 if record.confidence else 1],
            "risk": numbers.risk_coverage(self.confidence, self.right),
            "curves": {curve.name: curve.points for curve in numbers.learning_curves(logs)},
            "axis": numbers.axis,
            "config": (self.bundle.folder / RUN_CONFIG).read_text("utf-8"),
            "versions": {"vitlora": __version__, **{n: version(n) for n in ("torch", "timm")}},
        }

    def looked_at(self, network: torch.nn.Module, device: torch.device) -> dict[str, Any]:
        """Returns the worst mistakes and the least sure answers with the network's maps."""
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

    def _cells(self) -> dict[tuple[int, int], list[Figure]]:
        chosen = numbers.shown_in_cells(
            self.labels.tolist(), self.predicted.tolist(), self.confidence.tolist(), _THUMBNAILS
        )
        value_range = self.bundle.record.preprocessing.value_range
        return {
            cell: [self._figure(i, thumbnail(self.samples[i].path, value_range)) for i in indices]
            for cell, indices in sorted(chosen.items())
        }

    def _figure(self, index: int, image: str, overlay: str = "") -> Figure:
        sample, classes = self.samples[index], self.scores.classes
        return Figure(
            name=sample.path.relative_to(self.pictures.root).as_posix(),
            image=image,
            map=overlay,
            true=classes[sample.label],
            predicted=classes[int(self.predicted[index])],
            confidence=float(self.confidence[index]),
        )


def _problems(bundle: Bundle, pictures: Pictures, answers: Answers) -> dict[str, Any]:
    """Returns what is wrong with the pictures: for each problem a line and the files it is about.

    And whether the pictures of training were there to compare with.
    """
    training = _training_pictures(bundle, pictures)
    known = [str(path) for path in copies(pictures.samples, training)]
    found = []
    if unread := answers.unreadable:
        count = _count(len(unread), "picture cannot", "pictures cannot")
        found.append((f"{count} be read and so not be scored", list(unread.values())))
    if outside := answers.outside:
        count = _count(len(outside), "picture has", "pictures have")
        line = f"{count} values outside the range of training; their scores say little"
        found.append((line, list(map(str, outside))))
    if known:
        count = _count(len(known), "picture is", "pictures are")
        line = f"{count}, byte for byte, among the training pictures too; the scores flatter"
        found.append((line, known))
    return {"compared": bool(training), "problems": [(line, _some(files)) for line, files in found]}


def _training_pictures(bundle: Bundle, pictures: Pictures) -> list[Sample]:
    """Returns what training saw; nothing where its folder is gone, or is what was scored."""
    if pictures.split == "train":
        return []
    try:
        return folder_of(bundle).folder.splits.get("train", [])
    except (DataError, UsageError):
        return []


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _some(lines: list[str]) -> list[str]:
    more = len(lines) - _MOST_PROBLEMS
    return [*lines[:_MOST_PROBLEMS], *([f"… and {more:,} more"] if more > 0 else [])]


def _check_free(out: Path) -> None:
    """Refuses to write over anything but an earlier report, or into a bundle."""
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out is '{out}'; expected a name that ends in .html")
    if not out.parent.is_dir():
        raise UsageError(f"--out is '{out}': its folder does not exist")
    if is_bundle(out.parent):
        raise UsageError(f"--out is '{out}', inside a bundle, which keeps to its own files")
    if not out.exists():
        return
    if not out.is_file() or _MARK not in out.read_bytes()[:2000]:
        raise UsageError(f"{out} exists and is no report of vitlora's; choose another --out")


def _summary(scores: Scores) -> str:
    low, high = scores.accuracy_interval
    return (
        f"accuracy {scores.accuracy:.4f}  (95% interval {low:.4f} to {high:.4f})   "
        f"macro-F1 {scores.macro_f1:.4f}   {scores.images} images"
    )


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="vitlora report",
        description="Scores a bundle on labelled pictures and writes one HTML page that needs no "
        "network: numbers with intervals, a confusion matrix with the pictures behind it, "
        "confidence, learning curves, the worst mistakes and where the network looked.",
        epilog=_EPILOG,
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder of the bundle")
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="folder of pictures, with test/, val/ or train/, or class folders alone (default: "
        "that of training)",
    )
    parser.add_argument(
        "--split",
        choices=("train", "val", "test", "all"),
        help="which part of it (default: test, else val, else all)",
    )
    parser.add_argument(
        "--out",
        metavar="FILE.html",
        help="page to write; an earlier report is replaced (default: NAME-report.html here)",
    )
    parser.add_base_arguments()
    return parser
