"""How good answers are: the numbers of a set of logits and labels, with intervals."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F

from vitlora.errors import a_few
from vitlora.metrics.auroc import auroc
from vitlora.metrics.intervals import Interval, macro_f1, macro_f1_interval, wilson

_TOP = 3  # as many classes as predict shows
_MOST_CLASSES, _WORST = 25, 15  # with more classes than the first, only the second are listed
_MOST_IN_MATRIX = 100  # classes: the JSON of 1,000 would be 7 MB of zeros
_NOTHING = f"{'-':>5}   {'-':>5}  {'-':>5}"  # for a class without images
_BINS = 15  # of the calibration error, as Guo et al. 2017 (https://arxiv.org/abs/1706.04599)


@dataclass(frozen=True)
class Bin:
    """The answers of one range of confidence.

    Attributes:
        low: Lower end of the range, exclusive.
        high: Upper end of the range, inclusive.
        count: Number of answers.
        confidence: Their mean confidence; 0 if there are none.
        accuracy: Share of right answers; 0 if there are none.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def reliability(confidence: torch.Tensor, right: torch.Tensor) -> list[Bin]:
    """Returns 15 bins of equal width, lowest confidence first (Guo et al. 2017, equation 3).

    A bin includes its upper end, so a confidence of exactly 1 is in the last bin. torchmetrics 1.9
    gives it a bin of its own.

    Args:
        confidence: ``(N,)`` in ``[0, 1]``.
        right: ``(N,)`` bool.
    """
    edges = torch.linspace(0, 1, _BINS + 1, dtype=torch.float64)
    where = torch.bucketize(confidence, edges[1:-1].to(confidence.dtype))
    counts = where.bincount(minlength=_BINS)
    sums = (where.bincount(x.double(), _BINS) for x in (confidence, right))
    means = ((total / counts.clamp(min=1)).tolist() for total in sums)
    ends = edges.tolist()
    return [Bin(*row) for row in zip(ends[:-1], ends[1:], counts.tolist(), *means, strict=True)]


@dataclass(frozen=True)
class Scores:
    """The scores of a network's answers to labelled pictures.

    Attributes:
        classes: Names, in the order of the logits.
        logits: ``(N, C)``, on the CPU.
        labels: ``(N,)`` true classes.
    """

    classes: tuple[str, ...]
    logits: torch.Tensor = field(repr=False)
    labels: torch.Tensor = field(repr=False)

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.labels)

    @cached_property
    def unmeasured(self) -> list[str]:
        """The classes without an image: no number says anything about them."""
        counts = self.labels.bincount(minlength=len(self.classes)).tolist()
        return [name for name, count in zip(self.classes, counts, strict=True) if not count]

    @cached_property
    def confusion(self) -> torch.Tensor:
        """``(C, C)`` counts, row = true class, column = predicted class."""
        size = len(self.classes)
        cells = size * self.labels + self.logits.argmax(1)
        return cells.bincount(minlength=size**2).view(size, size)

    @property
    def loss(self) -> float:
        """Mean cross-entropy, nats."""
        return float(F.cross_entropy(self.logits, self.labels)) if self.images else 0.0

    @property
    def accuracy(self) -> float:
        """Share of images whose class was predicted, in ``[0, 1]``."""
        return float(self.confusion.diag().sum()) / max(self.images, 1)

    @property
    def accuracy_interval(self) -> Interval:
        """95% interval of the accuracy."""
        return wilson(self.accuracy, self.images)

    @property
    def macro_f1(self) -> float:
        """Unweighted mean of the classes' F1, in ``[0, 1]``; classes that never occur left out."""
        return macro_f1(*self._labels_and_answers) if self.images else 0.0

    @cached_property
    def macro_f1_interval(self) -> Interval:
        """95% interval of the macro-F1."""
        return macro_f1_interval(*self._labels_and_answers)

    @property
    def _labels_and_answers(self) -> tuple[np.ndarray, np.ndarray]:
        return self.labels.numpy(), self.logits.argmax(1)[None].numpy()

    def clearly_better_than(self, other: "Scores") -> bool:
        """Returns whether the mean recall of the classes is higher by two standard errors.

        The error is that of the difference, picture by picture. Four pictures that one answers
        rightly and the other wrongly, and none the other way round, are the fewest that suffice.

        Args:
            other: Of answers to the same pictures, in the same order.
        """
        gain = self._recall_shares - other._recall_shares
        error = gain.square().sum().sqrt()
        return bool(error > 0 and gain.sum() >= (2 - 1e-9) * error)

    @property
    def mean_recall(self) -> float:
        """Mean recall of the classes that have images, in ``[0, 1]``."""
        return float(self._recall_shares.sum())

    @cached_property
    def _recall_shares(self) -> torch.Tensor:
        """What each picture adds to the mean recall, ``(N,)``."""
        counts = self.labels.bincount()
        each = 1 / (counts.count_nonzero() * counts[self.labels]).double()
        return each * (self.logits.argmax(1) == self.labels)

    def per_class(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns precision, recall, F1 in ``[0, 1]`` and the number of images, each ``(C,)``.

        A class never predicted has precision 0; one with no images has recall 0.
        """
        hits = self.confusion.diag().double()
        predicted = self.confusion.sum(0).double()
        support = self.confusion.sum(1).double()
        precision = hits / predicted.clamp(min=1)
        recall = hits / support.clamp(min=1)
        f1 = 2 * hits / (predicted + support).clamp(min=1)
        return precision, recall, f1, support.long()

    def top_k(self, k: int) -> float:
        """Returns the share of images whose class is among the ``k`` most likely, in ``[0, 1]``."""
        among = (
            self.logits.topk(min(k, len(self.classes)), 1).indices == self.labels[:, None]
        ).any(1)
        return int(among.sum()) / max(self.images, 1)

    @property
    def auroc(self) -> float:
        """Mean over classes of the area under the ROC curve, one class against the rest.

        In ``[0, 1]``, 0.5 for guessing; classes without images or without others are left out.
        """
        probabilities, support = self.logits.softmax(1), self.confusion.sum(1)
        areas = [
            auroc(probabilities[:, label], self.labels == label)
            for label, count in enumerate(support.tolist())
            if 0 < count < self.images
        ]
        return sum(areas) / len(areas) if areas else 0.5

    @property
    def reliability(self) -> list[Bin]:
        """The answers in 15 bins of confidence."""
        confidence, predicted = self.logits.softmax(1).max(1)
        return reliability(confidence, predicted == self.labels)

    @property
    def calibration_error(self) -> float:
        """Expected calibration error in ``[0, 1]``, 15 bins: how far confidence is from the truth.

        Naeini et al. 2015; weighted mean over bins of ``|accuracy - confidence|``.
        """
        gaps = (b.count * abs(b.accuracy - b.confidence) for b in self.reliability)
        return sum(gaps) / max(self.images, 1)

    def answered(self, threshold: float) -> tuple[float, float]:
        """Returns the share of images with at least this confidence, and the errors among them.

        Args:
            threshold: A confidence in ``[0, 1]``.
        """
        confidence, predicted = self.logits.softmax(1).max(1)
        sure = confidence >= threshold
        wrong = (predicted != self.labels) & sure
        return float(sure.float().mean()), int(wrong.sum()) / max(int(sure.sum()), 1)

    def summary(self) -> dict[str, float]:
        """Returns the numbers that a bundle stores."""
        return {
            "accuracy": round(self.accuracy, 6),
            "macro_f1": round(self.macro_f1, 6),
            "loss": round(self.loss, 6),
            "images": self.images,
        }

    def to_json(self) -> dict[str, object]:
        """Returns everything as plain lists and numbers."""
        columns = zip(self.classes, *(column.tolist() for column in self.per_class()), strict=True)
        top = {f"top_{_TOP}": self.top_k(_TOP)} if len(self.classes) > _TOP else {}
        more = {"auroc": self.auroc, "calibration_error": self.calibration_error, **top}
        return {
            **self.summary(),
            "accuracy_interval": [round(x, 6) for x in self.accuracy_interval],
            "macro_f1_interval": [round(x, 6) for x in self.macro_f1_interval],
            **{name: round(value, 6) for name, value in more.items()},
            "unmeasured_classes": self.unmeasured,
            "per_class": [
                {"class": name, "precision": p, "recall": r, "f1": f, "images": n}
                for name, p, r, f, n in columns
            ],
            "confusion": self._confusion_json(),
        }

    def _confusion_json(self) -> dict[str, object]:
        """Returns the matrix; of more than 100 classes only the cells that are not 0."""
        if len(self.classes) <= _MOST_IN_MATRIX:
            return {"rows": "true", "columns": "predicted", "counts": self.confusion.tolist()}
        cells = self.confusion.to_sparse()
        counts = torch.cat([cells.indices(), cells.values()[None]]).T.tolist()
        return {"cells": ["true", "predicted", "count"], "counts": counts}

    def confusions(self, most: int) -> list[tuple[int, int, int]]:
        """Returns the most frequent mistakes as (true class, predicted class, count).

        Args:
            most: How many at most.
        """
        wrong = self.confusion - torch.diag(self.confusion.diag())
        order = wrong.flatten().argsort(descending=True, stable=True)[:most].tolist()
        pairs = [divmod(index, len(wrong)) for index in order]
        return [(t, p, int(wrong[t, p])) for t, p in pairs if wrong[t, p]]

    def to_text(self) -> str:
        """Returns the per-class table, the confusion matrix and the main numbers.

        With many classes, it shows the worst classes, and the most frequent mistakes instead of the
        matrix.
        """
        many = len(self.classes) > _MOST_CLASSES
        lines = self._worst() if many else self._matrix()
        top = f"top-{_TOP} {self.top_k(_TOP):.3f}   " if len(self.classes) > _TOP else ""
        return "\n".join(
            [
                *lines,
                "",
                f"accuracy {self.accuracy:.3f}  95% interval {_shown(self.accuracy_interval)}"
                f"   macro-F1 {self.macro_f1:.3f}  {_shown(self.macro_f1_interval)}",
                f"{top}AUROC {self.auroc:.3f}   calibration error {self.calibration_error:.3f}   "
                f"loss {self.loss:.3f}   {self.images} images",
                *self._unmeasured_line(),
            ]
        )

    def _unmeasured_line(self) -> list[str]:
        count, total = len(self.unmeasured), len(self.classes)
        names = a_few(self.unmeasured, 5)
        line = f"measured on {total - count:,} of {total:,} classes; no images of {names}"
        return [line] if count else []

    def _table(self, most: int) -> list[str]:
        """Returns a heading and a line for each class, or for the ``most`` with the lowest F1."""
        rows = [*zip(self.classes, *(c.tolist() for c in self.per_class()), strict=True)]
        if len(rows) > most:  # those without images have no F1
            rows = sorted((row for row in rows if row[4]), key=lambda row: row[3])[:most]
        width = max(len(name) for name in (*(row[0] for row in rows), "class"))
        lines = [f"{'class':<{width}}  precision  recall     f1  images"]
        for name, precision, recall, f1, support in rows:
            shown = f"{precision:5.3f}   {recall:5.3f}  {f1:5.3f}" if support else _NOTHING
            lines.append(f"{name:<{width}}      {shown}  {support:6d}")
        return lines

    def _worst(self) -> list[str]:
        table, mistakes = self._table(_WORST), self.confusions(_WORST)
        left_out = len(self.classes) - len(table) + 1
        wrong = self.images - int(self.confusion.diag().sum())
        rest = wrong - sum(count for _, _, count in mistakes)
        names = self.classes
        listed = [f"{count:>5}  {names[t]} taken for {names[p]}" for t, p, count in mistakes]
        return [
            f"the {len(table) - 1} classes with the lowest F1; {left_out:,} more are in --json and "
            "'vitlora report'",
            *table,
            "",
            f"the most frequent mistakes; {rest:,} of {wrong:,} are others"
            if wrong
            else "no mistakes",
            *listed,
        ]

    def _matrix(self) -> list[str]:
        lines = self._table(len(self.classes))
        width = max(len(name) for name in (*self.classes, "class"))
        cell = max(len(str(int(self.confusion.max()))), len(str(len(self.classes))), 2)
        header = " ".join(f"{index:>{cell}}" for index in range(1, len(self.classes) + 1))
        lines += ["", f"{'confusion (row: true, column: predicted)':<{width + 4}}"]
        lines.append(f"{'':<{width}}      {header}")
        rows = zip(self.classes, self.confusion.tolist(), strict=True)
        for number, (name, row) in enumerate(rows, 1):
            cells = " ".join(f"{count:>{cell}}" for count in row)
            lines.append(f"{name:<{width}}  {number:>2}  {cells}")
        return lines


def _shown(interval: Interval) -> str:
    return f"{interval[0]:.3f} to {interval[1]:.3f}"
