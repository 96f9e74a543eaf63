"""The order in which pictures are worth a label.

Facility location, weighted by doubt: each next picture is the one that covers most of the doubt
that no picture before it covers. It covers a doubtful picture by how near they lie in feature
space, so twenty pictures of one scene cost one answer (Krause and Golovin 2014, "Submodular
Function Maximization"). ``benchmarks/sorting.py`` compares it with random order.
"""

import heapq
from collections.abc import Iterator

import torch
import torch.nn.functional as F

MOST = 4096  # pictures compared with each other: 64 MiB
_NEAR = 0.25  # of the median squared distance: where a picture covers 1/e of another


def ranking(
    features: torch.Tensor, probabilities: torch.Tensor, unfamiliar: torch.Tensor
) -> Iterator[int]:
    """Yields the index of each picture, those worth most first.

    Of more than ``MOST`` pictures the most doubtful are compared; the others follow by doubt.

    Args:
        features: Inputs of the head, ``(N, D)``.
        probabilities: ``(N, C)``, each row adds up to 1.
        unfamiliar: ``(N,)`` bool: pictures unlike those of training, whose probabilities say
            little. They count as most doubtful.
    """
    doubt = doubts(probabilities, unfamiliar)
    by_doubt = doubt.argsort(descending=True, stable=True)
    first = by_doubt[:MOST]
    yield from (int(first[index]) for index in _covering(features[first], doubt[first]))
    yield from by_doubt[MOST:].tolist()


def doubts(probabilities: torch.Tensor, unfamiliar: torch.Tensor) -> torch.Tensor:
    """Returns how doubtful answers are, ``(N,)`` in ``[0, 1]``.

    That is 1 less the margin between the two likeliest classes.
    """
    best = probabilities.topk(min(2, probabilities.shape[1]), dim=1).values
    margin = best[:, 0] - best[:, 1] if best.shape[1] > 1 else best[:, 0]
    return torch.where(unfamiliar, 1.0, 1 - margin)


def _covering(features: torch.Tensor, doubt: torch.Tensor) -> Iterator[int]:
    """Yields the greedy order of facility location, by lazy evaluation.

    What a picture adds only falls as others are taken, so an old value is an upper bound: most
    need not be computed again (Minoux 1978).
    """
    places = F.normalize(features - features.mean(0), dim=1)
    squares = (2 - 2 * places @ places.T).clamp(min=0)
    near = torch.exp(-squares / (_NEAR * squares.median().clamp(min=1e-12)))  # (N, N), in [0, 1]
    covered = torch.zeros(len(doubt))
    waiting = [(-gain, index) for index, gain in enumerate((near @ doubt).tolist())]
    heapq.heapify(waiting)
    while waiting:
        _, index = heapq.heappop(waiting)
        gain = float((near[index] - covered).clamp(min=0) @ doubt)
        if waiting and (-gain, index) > waiting[0]:
            heapq.heappush(waiting, (-gain, index))
            continue
        yield index
        covered = torch.maximum(covered, near[index])
