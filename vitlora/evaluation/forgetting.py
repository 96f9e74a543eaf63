"""Measures forgetting: a network's answers to old test pictures before and after training."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from vitlora.bundle.checkpoint import Bundle
from vitlora.data.datamodule import FolderData
from vitlora.data.folder import Sample
from vitlora.data.preprocessing import Preprocessing
from vitlora.errors import DataError, VitloraError, counted
from vitlora.evaluation.answers import Answers, answer
from vitlora.evaluation.pictures import SAME_FOLDER
from vitlora.evaluation.seen import copies, seen
from vitlora.evaluation.training_folder import folder_of
from vitlora.metrics.intervals import paired

_SHOWN = 3  # classes that lost most
_CHANCE = 0.05  # p-values from here on count as chance


@dataclass(frozen=True)
class Forgetting:
    """Predictions for the same N pictures of the old classes, before and after training.

    Attributes:
        classes: The old classes.
        labels: True classes, ``(N,)``.
        before: Classes predicted before, ``(N,)``.
        after: Classes predicted now, ``(N,)``; new ones have indices beyond ``classes``.
    """

    classes: tuple[str, ...]
    labels: torch.Tensor
    before: torch.Tensor
    after: torch.Tensor

    @property
    def lost(self) -> int:
        """Number of pictures that were right and are wrong now."""
        return int(((self.before == self.labels) & (self.after != self.labels)).sum())

    @property
    def gained(self) -> int:
        """Number of pictures that were wrong and are right now."""
        return int(((self.before != self.labels) & (self.after == self.labels)).sum())

    @property
    def accuracies(self) -> tuple[float, float]:
        """Accuracy before and after, in ``[0, 1]``."""
        right = (float((x == self.labels).double().mean()) for x in (self.before, self.after))
        return next(right), next(right)

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the change in accuracy, in ``[-1, 1]``; see ``paired``."""
        before, after = ((x == self.labels).double().numpy() for x in (self.before, self.after))
        change, error = paired(after - before)
        return max(change - 1.959964 * error, -1.0), min(change + 1.959964 * error, 1.0)

    @property
    def p_value(self) -> float:
        """Probability of a change this large if accuracy stayed the same, in ``[0, 1]``.

        McNemar's exact test: a picture that changed was as likely to get better as worse.
        """
        changed, fewer = self.lost + self.gained, min(self.lost, self.gained)
        tail = sum(math.comb(changed, count) for count in range(fewer + 1))
        return min(1.0, 2 * tail / 2**changed)

    def worst(self) -> list[tuple[str, int, float, float]]:
        """Returns the classes that lost most: name, pictures, recall before and after."""
        rows: list[tuple[int, tuple[str, int, float, float]]] = []
        for index, name in enumerate(self.classes):
            own = self.labels == index
            count = int(own.sum())
            before, after = (int((x[own] == index).sum()) for x in (self.before, self.after))
            if after < before:
                rows.append((before - after, (name, count, before / count, after / count)))
        rows.sort(key=lambda row: -row[0])
        return [row for _, row in rows[:_SHOWN]]

    def to_text(self, where: str) -> str:
        """Returns the change in accuracy and what to do about it.

        Args:
            where: Name of the pictures.
        """
        (before, after), (low, high) = self.accuracies, self.interval
        lines = [
            f"{where}, {counted(len(self.labels), 'picture')}, before -> after: accuracy "
            f"{before:.4f} -> {after:.4f}",
            f"change {after - before:+.4f}, 95% interval {low:+.4f} to {high:+.4f}; "
            f"{self.lost} right answers became wrong, {self.gained} wrong answers became right "
            f"(exact McNemar test: p = {self.p_value:.2g})",
        ]
        worst = [f"{n} {b:.2f} -> {a:.2f} of {count}" for n, count, b, a in self.worst()]
        lines += [f"lost most: {', '.join(worst)}"] if worst else []
        return "\n".join([*lines, self._verdict()])

    def _verdict(self) -> str:
        more = self.lost - self.gained
        if self.p_value >= _CHANCE:
            return "no significant change on the old pictures"
        if more < 0:
            return f"better on the old pictures: {-more} more are right"
        return (
            f"worse on the old pictures: {more} fewer are right; add old pictures to --data, or "
            "lower --model.lr"
        )


@dataclass(frozen=True)
class OldPictures:
    """A bundle's answers to old pictures that it was not trained on.

    Attributes:
        where: Name of the pictures.
        classes: The bundle's.
        answers: The bundle's.
    """

    where: str
    classes: tuple[str, ...]
    answers: Answers

    def compare(self, network: nn.Module, preprocessing: Preprocessing) -> Forgetting:
        """Compares them with the answers of a network whose first classes are the bundle's.

        Args:
            network: The merged ViT, in evaluation mode.
            preprocessing: The network's.

        Raises:
            DataError: A picture can no longer be read.
        """
        now = answer(network, self.answers.samples, preprocessing)
        if now.unreadable:
            raise DataError(
                f"an old picture can no longer be read: {next(iter(now.unreadable.values()))}"
            )
        before, after = self.answers.logits.argmax(1), now.logits.argmax(1)
        return Forgetting(self.classes, self.answers.labels, before, after)


def held_out(bundle: Bundle, root: str | None = None) -> tuple[str, list[Sample]]:
    """Returns the name and the pictures of a bundle's test split, else of its validation split.

    Args:
        bundle: Records where the pictures were and how they were split.
        root: Another folder, split as in training, or with test/ or val/, or of class folders,
            which are used whole; None for training's folder.

    Raises:
        DataError: They are gone or have changed.
    """
    record = bundle.record
    digests, classes = record.split["digests"], list(record.classes)
    try:
        data = folder_of(bundle, root)
    except VitloraError:
        if root is not None:
            raise
        raise DataError("the bundle's old pictures are gone") from None
    for split in ("test", "val"):
        as_then = split in digests and data.digest(split) == digests[split]
        if bundle.usage is not None and not as_then:
            least = 0 if root is None else SAME_FOLDER
            as_then = data.division.recall(bundle.usage, split, least) is not None
        if as_then:
            return f"the old {split} set", data.folder.splits[split]
    if root is None:
        raise DataError(f"the bundle's old pictures in {data.folder.root} have changed")
    if data.drawn:
        data = FolderData(root, classes, test_fraction=1)
    for split in ("test", "val"):
        if split in data.folder.splits:
            return f"{root}, split {split}", data.folder.splits[split]
    raise DataError(f"--old-data '{root}' has neither test/ nor val/; name a folder with one")


def remember(
    bundle: Bundle, network: nn.Module, trained_on: Sequence[Sample], root: str | None = None
) -> OldPictures:
    """Returns a bundle's answers to old pictures that neither it nor the new run trains on.

    Args:
        bundle: The bundle.
        network: Its merged network, in evaluation mode.
        trained_on: The new run's training pictures; copies of them are left out.
        root: Folder of the old pictures; None for training's.

    Raises:
        DataError: There are no such pictures.
    """
    where, samples = held_out(bundle, root)
    again = set(copies(samples, trained_on))
    if again:
        where += f" ({len(again)} of {len(samples)} left out: this run trains on them)"
        samples = [sample for sample in samples if sample.path not in again]
    learnt = set(seen(bundle, samples).trained or ())
    if learnt:
        where += f" ({len(learnt)} more left out: the parent bundle was trained on them)"
        samples = [sample for sample in samples if sample.path not in learnt]
    if not samples:
        raise DataError(f"{where}: no picture is left to measure forgetting on")
    answers = answer(network, samples, bundle.record.preprocessing)
    return OldPictures(where, bundle.record.classes, answers)
