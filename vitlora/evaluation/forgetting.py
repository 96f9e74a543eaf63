"""What a network that went on learning has forgotten: its old test pictures, before and after."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from vitlora.bundle.checkpoint import Bundle
from vitlora.data.datamodule import FolderData
from vitlora.data.folder import Sample
from vitlora.data.preprocessing import Preprocessing
from vitlora.errors import DataError, VitloraError
from vitlora.evaluation.answers import Answers, answer
from vitlora.evaluation.pictures import SAME_FOLDER
from vitlora.evaluation.seen import copies, seen
from vitlora.evaluation.training_folder import folder_of
from vitlora.metrics.intervals import paired

_SHOWN = 3  # classes that lost most
_CHANCE = 0.05  # p-values above are put down to it


@dataclass(frozen=True)
class Forgetting:
    """The answers of a network, before and after, to the same N pictures of its old classes.

    Attributes:
        classes: The old classes.
        labels: ``(N,)`` true classes.
        before: ``(N,)`` classes answered before.
        after: ``(N,)`` classes answered now; new ones have indices beyond ``classes``.
    """

    classes: tuple[str, ...]
    labels: torch.Tensor
    before: torch.Tensor
    after: torch.Tensor

    @property
    def lost(self) -> int:
        """How many pictures were right and are wrong now."""
        return int(((self.before == self.labels) & (self.after != self.labels)).sum())

    @property
    def gained(self) -> int:
        """How many pictures were wrong and are right now."""
        return int(((self.before != self.labels) & (self.after == self.labels)).sum())

    @property
    def accuracies(self) -> tuple[float, float]:
        """Accuracy before and after, in ``[0, 1]``."""
        right = (float((x == self.labels).double().mean()) for x in (self.before, self.after))
        return next(right), next(right)

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the change in accuracy, in ``[-1, 1]``, as ``paired`` has it."""
        before, after = ((x == self.labels).double().numpy() for x in (self.before, self.after))
        change, error = paired(after - before)
        return max(change - 1.959964 * error, -1.0), min(change + 1.959964 * error, 1.0)

    @property
    def p_value(self) -> float:
        """How likely a change as large is if nothing was learnt or lost, in ``[0, 1]``.

        McNemar's exact test: of the pictures that changed sides, as many should go either way.
        """
        changed, fewer = self.lost + self.gained, min(self.lost, self.gained)
        tail = sum(math.comb(changed, count) for count in range(fewer + 1))
        return min(1.0, 2 * tail / 2**changed)

    def worst(self) -> list[tuple[str, int, float, float]]:
        """Returns the classes that lost most pictures: name, pictures, recall before and after."""
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
        """Returns what happened and what to do about it.

        Args:
            where: What the pictures are called.
        """
        (before, after), (low, high) = self.accuracies, self.interval
        lines = [
            f"{where}, {len(self.labels)} pictures, before -> after: accuracy {before:.4f} -> "
            f"{after:.4f}",
            f"change {after - before:+.4f}, 95% interval {low:+.4f} to {high:+.4f}; "
            f"{self.lost} right ones became wrong, {self.gained} wrong ones right "
            f"(exact McNemar test: p = {self.p_value:.2g})",
        ]
        worst = [f"{n} {b:.2f} -> {a:.2f} of {count}" for n, count, b, a in self.worst()]
        lines += [f"lost most: {', '.join(worst)}"] if worst else []
        return "\n".join([*lines, self._verdict()])

    def _verdict(self) -> str:
        more = self.lost - self.gained
        if self.p_value >= _CHANCE:
            return "the old pictures are not answered worse than before beyond chance"
        if more < 0:
            return f"the old pictures are answered better: {-more} more are right"
        return (
            f"the old pictures are answered worse: {more} fewer are right; mix old pictures into "
            "data.root, or lower model.lr"
        )


@dataclass(frozen=True)
class OldPictures:
    """What a bundle answers to the pictures it was held out from.

    Attributes:
        where: What they are called.
        classes: The bundle's.
        answers: Its answers.
    """

    where: str
    classes: tuple[str, ...]
    answers: Answers

    def compare(self, network: nn.Module, preprocessing: Preprocessing) -> Forgetting:
        """Returns what became of them in a network whose first classes are the bundle's.

        Args:
            network: The merged ViT, in evaluation mode.
            preprocessing: What a picture goes through.
        """
        now = answer(network, self.answers.samples, preprocessing)
        if now.unreadable:
            raise DataError(f"{next(iter(now.unreadable.values()))}, which training began with")
        before, after = self.answers.logits.argmax(1), now.logits.argmax(1)
        return Forgetting(self.classes, self.answers.labels, before, after)


def held_out(bundle: Bundle, root: str | None = None) -> tuple[str, list[Sample]]:
    """Returns the test pictures of a bundle's training, else those of validation, with their name.

    Args:
        bundle: Says where they lay and how they were drawn.
        root: Another folder: split as training's was, or with test/ or val/, or of class folders
            all of which are taken; None for that of training.

    Raises:
        DataError: They are not there, or are others by now.
    """
    record = bundle.record
    digests, classes = record.split["digests"], list(record.classes)
    try:
        data = folder_of(bundle, root)
    except VitloraError:
        if root is not None:
            raise
        raise DataError("the old pictures are no longer where they were") from None
    for split in ("test", "val"):
        as_then = split in digests and data.digest(split) == digests[split]
        if bundle.usage is not None and not as_then:
            least = 0 if root is None else SAME_FOLDER
            as_then = data.division.recall(bundle.usage, split, least) is not None
        if as_then:
            return f"the old {split} set", data.folder.splits[split]
    if root is None:
        raise DataError(f"the old pictures in {data.folder.root} were changed")
    if data.drawn:
        data = FolderData(root, classes, test_fraction=1)
    for split in ("test", "val"):
        if split in data.folder.splits:
            return f"{root}, split {split}", data.folder.splits[split]
    raise DataError(f"{root} has neither test/ nor val/")


def remember(
    bundle: Bundle, network: nn.Module, trained_on: Sequence[Sample], root: str | None = None
) -> OldPictures:
    """Returns what a bundle answers to pictures that it was not trained on, and will not be.

    Args:
        bundle: The bundle.
        network: It, merged, in evaluation mode.
        trained_on: What training goes on with: what is among them is left out.
        root: Where the old pictures lie; None for where they did.

    Raises:
        DataError: There are no such pictures.
    """
    where, samples = held_out(bundle, root)
    again = set(copies(samples, trained_on))
    if again:
        where += f" ({len(again)} of {len(samples)} left out: they are trained on now)"
        samples = [sample for sample in samples if sample.path not in again]
    learnt = set(seen(bundle, samples).trained or ())
    if learnt:
        where += f" ({len(learnt)} more left out: the old bundle was trained on them)"
        samples = [sample for sample in samples if sample.path not in learnt]
    if not samples:
        raise DataError(f"{where}: what is forgotten cannot be measured on them")
    answers = answer(network, samples, bundle.record.preprocessing)
    return OldPictures(where, bundle.record.classes, answers)
