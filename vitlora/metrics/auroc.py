"""The area under the ROC curve."""

import torch


def auroc(scores: torch.Tensor, positive: torch.Tensor) -> float:
    """Returns the area under the ROC curve, in ``[0, 1]``; 0.5 for guessing.

    It is the share of pairs of a positive and a negative in which the positive has the higher
    score; a tie counts one half (Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747).
    torchmetrics gives the same (the tests compare), but its import takes longer than all scores.

    Args:
        scores: ``(N,)``.
        positive: ``(N,)`` bool, with at least one of each.
    """
    _, place, counts = scores.unique(return_inverse=True, return_counts=True)
    ranks = counts.cumsum(0) - (counts - 1) / 2  # from 1; the mean rank of those that tie
    few, others = int(positive.sum()), int((~positive).sum())
    wins = ranks.double()[place[positive]].sum() - few * (few + 1) / 2
    return float(wins) / (few * others)
