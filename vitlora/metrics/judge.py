"""Features and logits -> classes, confidences, and whether to trust them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from vitlora.metrics.confidence import Confidence
from vitlora.metrics.prediction import Prediction
from vitlora.metrics.reference import Reference


@dataclass(frozen=True)
class Judged:
    """A network's answers to N pictures, and whether to trust them.

    Attributes:
        probabilities: ``(N, C)``, calibrated if the bundle is.
        order: ``(N, C)`` classes, the most likely first; ties in the order of the classes.
        distances: Distances to the training pictures, ``(N,)``; NaN if the bundle has none.
        unsure: ``(N,)`` bool; all False before calibration.
        unfamiliar: ``(N,)`` bool; all False before calibration.
    """

    probabilities: torch.Tensor
    order: torch.Tensor
    distances: torch.Tensor
    unsure: torch.Tensor
    unfamiliar: torch.Tensor

    @property
    def predicted(self) -> torch.Tensor:
        """The most likely class, ``(N,)``."""
        return self.order[:, 0]

    @property
    def confidence(self) -> torch.Tensor:
        """Probability of the most likely class, ``(N,)``."""
        return self.probabilities.gather(1, self.order[:, :1])[:, 0]


@dataclass(frozen=True)
class Judge:
    """Turns features and logits into answers, for every command.

    Attributes:
        classes: Names in the order of the logits.
        confidence: Temperature and thresholds; None before calibration.
        reference: The training pictures in feature space; None before calibration.
    """

    classes: tuple[str, ...]
    confidence: Confidence | None
    reference: Reference | None

    def calibrated(self, logits: torch.Tensor) -> torch.Tensor:
        """Returns logits whose softmax is the confidence."""
        return logits if self.confidence is None else logits / self.confidence.temperature

    def judge(self, features: torch.Tensor, logits: torch.Tensor) -> Judged:
        """Returns the answers for N pictures.

        Args:
            features: Inputs of the head, ``(N, D)``, fp32, on the CPU.
            logits: ``(N, C)``, fp32, on the CPU.
        """
        probabilities = self.calibrated(logits).softmax(1)
        # sorted by the logits: different logits may round to equal probabilities near 0 or 1
        order = logits.sort(dim=1, descending=True, stable=True).indices
        sure = probabilities.gather(1, order[:, :1])[:, 0]
        known, reference = self.confidence, self.reference
        if known is None or reference is None:
            no = torch.zeros(len(logits), dtype=torch.bool)
            return Judged(probabilities, order, torch.full_like(sure, torch.nan), no, no)
        distances = reference.distances(features)
        # in double: in fp32 the thresholds would be rounded
        return Judged(
            probabilities,
            order,
            distances,
            unsure=sure.double() < known.unsure_below,
            unfamiliar=distances.double() > known.unfamiliar_above,
        )

    def predictions(
        self, paths: Iterable[Path], features: torch.Tensor, logits: torch.Tensor, top_k: int
    ) -> list[Prediction]:
        """Returns a prediction for each picture.

        Args:
            paths: The N files.
            features: Inputs of the head, ``(N, D)``, fp32, on the CPU.
            logits: ``(N, C)``, fp32, on the CPU.
            top_k: Number of classes to keep; below 1 means 1.
        """
        judged = self.judge(features, logits)
        best = judged.order[:, : min(max(top_k, 1), len(self.classes))]
        values = judged.probabilities.gather(1, best).tolist()
        unsure, unfamiliar = judged.unsure.tolist(), judged.unfamiliar.tolist()
        rows = zip(paths, best.tolist(), values, unsure, unfamiliar, strict=True)
        return [
            Prediction(path, tuple((self.classes[n], v) for n, v in zip(i, x, strict=True)), *marks)
            for path, i, x, *marks in rows
        ]
