"""Accuracy, macro-F1, precision and recall, all from one confusion matrix."""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says.

    Attributes:
        classes: Names, in the order of the matrix.
        confusion: ``(C, C)`` counts, row = true class, column = predicted class.
        loss: Mean cross-entropy over the images, nats.
    """

    classes: tuple[str, ...]
    confusion: torch.Tensor
    loss: float

    @property
    def images(self) -> int:
        """Number of images counted."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Share of images whose class was predicted, in ``[0, 1]``."""
        return float(self.confusion.diag().sum()) / max(self.images, 1)

    @property
    def macro_f1(self) -> float:
        """Unweighted mean of the classes' F1, in ``[0, 1]``."""
        return float(self.per_class()[2].mean())

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

    def summary(self) -> dict[str, float]:
        """Returns the numbers a bundle carries."""
        return {
            "accuracy": round(self.accuracy, 6),
            "macro_f1": round(self.macro_f1, 6),
            "loss": round(self.loss, 6),
            "images": self.images,
        }

    def to_json(self) -> dict[str, Any]:
        """Returns everything as plain lists and numbers."""
        columns = zip(self.classes, *(column.tolist() for column in self.per_class()), strict=True)
        return {
            **self.summary(),
            "per_class": [
                {"class": name, "precision": p, "recall": r, "f1": f, "images": n}
                for name, p, r, f, n in columns
            ],
            "confusion": {
                "rows": "true",
                "columns": "predicted",
                "counts": self.confusion.tolist(),
            },
        }

    def to_text(self) -> str:
        """Returns the per-class table, the confusion matrix and the two headline numbers."""
        width = max(len(name) for name in (*self.classes, "class"))
        lines = [f"{'class':<{width}}  precision  recall      f1  images"]
        columns = zip(self.classes, *(column.tolist() for column in self.per_class()), strict=True)
        for name, precision, recall, f1, support in columns:
            lines.append(
                f"{name:<{width}}     {precision:6.4f}  {recall:6.4f}  {f1:6.4f}  {support:6d}"
            )
        cell = max(len(str(int(self.confusion.max()))), len(str(len(self.classes))), 2)
        header = " ".join(f"{index:>{cell}}" for index in range(1, len(self.classes) + 1))
        lines += ["", f"{'confusion (row: true, column: predicted)':<{width + 4}}"]
        lines.append(f"{'':<{width}}      {header}")
        for index, (name, row) in enumerate(
            zip(self.classes, self.confusion.tolist(), strict=True)
        ):
            cells = " ".join(f"{count:>{cell}}" for count in row)
            lines.append(f"{name:<{width}}  {index + 1:>2}  {cells}")
        lines += [
            "",
            f"accuracy {self.accuracy:.4f}   macro-F1 {self.macro_f1:.4f}   "
            f"loss {self.loss:.4f}   {self.images} images",
        ]
        return "\n".join(lines)
