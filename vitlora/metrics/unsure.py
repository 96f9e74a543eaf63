"""When an answer is unsure, as the user chooses. Needs no torch, so errors come at once."""

from typing import TYPE_CHECKING

from vitlora.errors import UsageError

if TYPE_CHECKING:
    import torch


class Unsure:
    """When an answer counts as unsure.

    Args:
        max_error: Accepted share of wrong answers among the sure ones, on new pictures. It holds
            with 90% probability over the draw of the validation pictures. If these are too few, or
            too many answers are wrong, every answer is unsure.
        coverage: Share of pictures that get a sure answer; null to use max_error instead.
    """

    def __init__(self, max_error: float = 0.05, coverage: float | None = None) -> None:
        if not 0 < max_error < 1:
            raise UsageError(
                f"max_error is {max_error}; expected 0 < max_error < 1: no number of pictures can "
                "promise that no answer is wrong"
            )
        if coverage is not None and not 0 < coverage <= 1:
            raise UsageError(f"coverage is {coverage}; expected 0 < coverage <= 1, or null")
        self.max_error = max_error
        self.coverage = coverage

    def threshold(self, confidence: "torch.Tensor", right: "torch.Tensor") -> float:
        """Returns the confidence, ``(N,)`` in ``[0, 1]``, below which answers are unsure."""
        from vitlora.metrics.confidence import threshold_for_coverage, threshold_for_error

        if self.coverage is not None:
            return threshold_for_coverage(confidence, self.coverage)
        return threshold_for_error(confidence, right, self.max_error)

    def chosen_for(self) -> dict[str, float]:
        """Returns the target of the threshold, for ``Confidence.chosen_for``."""
        from vitlora.metrics.confidence import CERTAINTY

        if self.coverage is not None:
            return {"coverage": self.coverage}
        return {"max_error": self.max_error, "certainty": CERTAINTY}
