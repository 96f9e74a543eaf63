"""Which labels are probably wrong: confident learning on frozen features.

Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels"
(doi:10.1613/jair.1.12125). Two judges say what class a picture is without knowing its own label: a
linear probe fitted on other pictures, and its nearest neighbours. They err on different pictures,
so their mean is more often right than either (``benchmarks/label_noise.py``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

_DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)  # of the probe's weights; the out-of-fold loss decides
_FOLDS = 5
_STEPS = 60  # of L-BFGS
_NEIGHBOURS, _WARMTH = 15, 0.1  # the nearest pictures; what a cosine is divided by
_ROWS = 1024  # pictures compared with all others at once
_SURE = 0.9  # share of a class's mean probability; the paper's is 1, which two judges rarely reach


@dataclass(frozen=True)
class Suspect:
    """A picture whose label the other pictures contradict.

    Attributes:
        index: Of the picture.
        given: Index of the class it is labelled as.
        likely: Index of the class that it looks like.
        confidence: Of that class, less that of the given one, in ``(0, 1]``.
    """

    index: int
    given: int
    likely: int
    confidence: float


def suspects(probabilities: torch.Tensor, labels: torch.Tensor) -> list[Suspect]:
    """Returns the labels that are probably wrong, the surest first.

    A picture counts as another class if that class is nearly as likely for it as it is, on average,
    for the pictures labelled so (the confident joint), and likelier than the given one.

    Args:
        probabilities: ``(N, C)`` of a model that was not fitted on the picture's own label.
        labels: ``(N,)`` as given.
    """
    count, classes = probabilities.shape
    own = probabilities[torch.arange(count), labels]
    sums = torch.zeros(classes, dtype=own.dtype).index_add_(0, labels, own)
    mean = sums / labels.bincount(minlength=classes).clamp(min=1)
    confident = (probabilities >= _SURE * mean) & (labels.bincount(minlength=classes) > 0)
    sure = torch.where(confident, probabilities, -1.0).max(1)
    counted = (sure.values >= 0) & (sure.indices != labels)
    found = [
        Suspect(i, int(labels[i]), int(sure.indices[i]), float(sure.values[i] - own[i]))
        for i in counted.nonzero().flatten().tolist()
        if sure.values[i] > own[i]
    ]
    return sorted(found, key=lambda one: -one.confidence)


def judged(
    features: torch.Tensor, labels: torch.Tensor, groups: Sequence[int] | None = None
) -> torch.Tensor:
    """Returns ``(N, C)`` probabilities: the mean of ``out_of_fold`` and ``neighbours``."""
    return (out_of_fold(features, labels, groups) + neighbours(features, labels, groups)) / 2


def neighbours(
    features: torch.Tensor, labels: torch.Tensor, groups: Sequence[int] | None = None
) -> torch.Tensor:
    """Returns ``(N, C)`` shares of the classes among the nearest pictures of other groups.

    Near is a small angle between whitened features; the nearer, the more a picture counts.

    Args:
        features: ``(N, D)`` of a frozen network.
        labels: ``(N,)`` in ``[0, C)``.
        groups: As for ``out_of_fold``.
    """
    count, classes = len(labels), int(labels.max()) + 1
    group = torch.arange(count) if groups is None else torch.tensor(groups)
    white = F.normalize(_whitened(features), dim=1)
    shares = torch.zeros(count, classes)
    for some in torch.arange(count).split(_ROWS):
        near = white[some] @ white.T
        near[group[some, None] == group] = -1e4  # no picture and no copy of it vouches for itself
        cosine, index = near.topk(min(_NEIGHBOURS, count), dim=1)
        shares[some] = shares[some].scatter_add(1, labels[index], (cosine / _WARMTH).softmax(1))
    return shares


def _whitened(features: torch.Tensor) -> torch.Tensor:
    """Returns features along their principal axes, the strong ones scaled down: ``(N, D)``."""
    centred = features - features.mean(0)
    variance, axes = torch.linalg.eigh(centred.T @ centred / len(centred))
    return centred @ axes / (variance.clamp(min=0) + variance.mean().clamp(min=1e-12)).sqrt()


def out_of_fold(
    features: torch.Tensor, labels: torch.Tensor, groups: Sequence[int] | None = None, seed: int = 0
) -> torch.Tensor:
    """Returns ``(N, C)`` probabilities of linear probes, each fitted without the picture's fold.

    Args:
        features: ``(N, D)`` of a frozen network.
        labels: ``(N,)`` in ``[0, C)``.
        groups: Number of each picture's group, which stays in one fold, such as copies of one
            scene; None where each stands for itself.
        seed: Of the folds.
    """
    classes = int(labels.max()) + 1
    scaled = (features - features.mean(0)) / features.std(0).clamp(min=1e-6)
    folds = _folds(labels, range(len(labels)) if groups is None else groups, seed)
    best, least = torch.empty(0), float("inf")
    for decay in _DECAYS:
        logits = torch.zeros(len(labels), classes)
        for fold in range(_FOLDS):
            held = folds == fold
            weights = _fitted(scaled[~held], labels[~held], classes, decay)
            logits[held] = F.pad(scaled[held], (0, 1), value=1.0) @ weights
        loss = float(F.cross_entropy(logits, labels))
        if loss < least:
            best, least = logits.softmax(1), loss
    return best


def _folds(labels: torch.Tensor, groups: Sequence[int], seed: int) -> torch.Tensor:
    """Returns the fold of each picture ``(N,)``: each class spread evenly, groups whole."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).tolist()
    fold_of: dict[int, int] = {}
    given = [0] * (int(labels.max()) + 1)
    for index in order:
        if groups[index] not in fold_of:
            label = int(labels[index])
            fold_of[groups[index]] = given[label] % _FOLDS
            given[label] += 1
    return torch.tensor([fold_of[group] for group in groups])


def _fitted(
    features: torch.Tensor, labels: torch.Tensor, classes: int, decay: float
) -> torch.Tensor:
    """Returns the weights ``(D + 1, C)`` of multinomial logistic regression, the bias last."""
    inputs = F.pad(features, (0, 1), value=1.0)
    weights = torch.zeros(inputs.shape[1], classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(inputs @ weights, labels) + decay * weights[:-1].square().sum() / 2
        loss.backward()
        return loss

    optimizer.step(step)  # pyright: ignore[reportArgumentType]
    return weights.detach()
