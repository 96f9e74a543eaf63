"""A confidence that means something: temperature, when an answer is unsure, what is unfamiliar."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

_LISTS = ("calibration_error", "confidences", "distances")
_NUMBERS = ("temperature", "unsure_below", "coverage", "error", "unfamiliar_above")


@dataclass(frozen=True)
class Confidence:
    """What validation after training taught about a network's own confidence.

    A distance is that of ``Reference``, a confidence that of the class named.

    Attributes:
        temperature: The logits are divided by it before the softmax, > 0.
        unsure_below: Answers of a lower confidence are unsure, in ``[0, 1]``.
        chosen_for: What that was chosen for: ``{"max_error": 0.05}`` or ``{"coverage": 0.9}``.
        coverage: Share of the validation pictures that were answered so, in ``[0, 1]``.
        error: Share of those that were answered wrongly, in ``[0, 1]``.
        calibration_error: Expected calibration error before and after the temperature.
        unfamiliar_above: Pictures farther from the training pictures are unfamiliar.
        images: Validation pictures all this was learnt from.
        confidences: Deciles of validation's confidences, from the lowest to the highest: 11.
        distances: Deciles of validation's distances to the training pictures: 11.
    """

    temperature: float
    unsure_below: float
    chosen_for: dict[str, float]
    coverage: float
    error: float
    calibration_error: tuple[float, float]
    unfamiliar_above: float
    images: int
    confidences: tuple[float, ...]
    distances: tuple[float, ...]

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Confidence":
        """Reads what ``dataclasses.asdict`` and JSON made of it."""
        lists = {name: tuple(map(_number, fields[name])) for name in _LISTS}
        numbers = {name: _number(fields[name]) for name in _NUMBERS}
        chosen = {name: _number(value) for name, value in fields["chosen_for"].items()}
        if not all(map(math.isfinite, [*numbers.values(), *sum(lists.values(), ())])):
            raise ValueError("confidence is not finite")
        if not 1e-6 < numbers["temperature"] < 1e6 or [*map(len, lists.values())] != [2, 11, 11]:
            raise ValueError("confidence is out of range")
        images = int(_number(fields["images"]))
        return cls(**{**fields, **lists, **numbers, "chosen_for": chosen, "images": images})


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"confidence holds {ascii(value)[:40]}; expected a number")
    return float(value)


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Returns the temperature of the least cross-entropy (Guo et al. 2017, arXiv:1706.04599).

    One picture of unknown class is added to the N: without it, N right answers, however few, would
    make the network certain of everything. The same idea as Platt's (1999) targets.

    Args:
        logits: ``(N, C)`` of pictures that were not trained on.
        labels: ``(N,)``.
    """
    logits = logits.double()
    if float(logits.std(1).max()) == 0:  # it says nothing, at any temperature
        return 1.0
    right = logits.gather(1, labels[:, None]).sum() + logits.mean()

    def slope(sharpness: float) -> float:
        """Derivative of the cross-entropy, which is convex, by one over the temperature."""
        expected = ((logits * sharpness).softmax(1) * logits).sum(1)
        return float(expected.sum() + expected.mean() - right)

    low, high = math.log(1 / 100), math.log(100)  # outside, the network has learnt nothing yet
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(math.exp(middle)) > 0 else (middle, high)
    return math.exp(-low)


def threshold_for_error(confidence: torch.Tensor, right: torch.Tensor, max_error: float) -> float:
    """Returns the lowest confidence at and above which at most ``max_error`` of answers are wrong.

    Args:
        confidence: ``(N,)`` in ``[0, 1]``.
        right: ``(N,)`` bool.
        max_error: In ``[0, 1)``.

    Returns:
        1.0 if even the surest answers are wrong too often.
    """
    values, order = confidence.sort(descending=True)
    wrong = (~right[order]).cumsum(0)
    share = wrong / torch.arange(1, len(values) + 1)
    ends = torch.ones_like(right)  # equal confidences stand or fall together
    ends[:-1] = values[:-1] != values[1:]
    fits = ((share <= max_error) & ends).nonzero()
    return float(values[fits[-1]]) if len(fits) else 1.0


def threshold_for_coverage(confidence: torch.Tensor, coverage: float) -> float:
    """Returns the highest confidence that at least a share of the answers reaches.

    Args:
        confidence: ``(N,)`` in ``[0, 1]``.
        coverage: In ``(0, 1]``.
    """
    count = max(math.ceil(coverage * len(confidence) - 1e-9), 1)
    return float(confidence.sort(descending=True).values[count - 1])


@dataclass(frozen=True)
class Reference:
    """Where the training pictures lie in feature space, in few numbers.

    Features are projected at random, D to K dimensions, which keeps distances about as they are
    (Achlioptas 2003); there each class has its mean, and all share the covariance around it. The
    distance of a picture is the smallest Mahalanobis distance to a class (Lee et al. 2018,
    https://arxiv.org/abs/1807.03888).

    Attributes:
        means: ``(C, K)`` of the classes, fp16.
        whitening: ``(K, K)``, lower triangular, fp16: it gives differences unit covariance.
        scale: What projected features are divided by first, so that fp16 holds them.
    """

    means: torch.Tensor
    whitening: torch.Tensor
    scale: torch.Tensor

    @classmethod
    def of(cls, features: torch.Tensor, labels: torch.Tensor, dimensions: int) -> "Reference":
        """Returns the reference of training pictures.

        Args:
            features: ``(N, D)`` what the head was given.
            labels: ``(N,)``; a class without pictures has no mean.
            dimensions: K.
        """
        projected = _projected(features, dimensions)
        scale = projected.std(correction=0).clamp(min=1e-12)
        projected = projected / scale
        present, index = labels.unique(return_inverse=True)
        means = torch.stack([projected[labels == label].mean(0) for label in present])
        around = projected - means[index]
        covariance = around.T @ around / len(around)
        # few pictures, or equal ones, leave directions in which nothing was seen to vary
        ridge = max(1e-3 * float(covariance.trace()) / dimensions, 1e-6)
        covariance += ridge * torch.eye(dimensions)
        whitening = torch.linalg.inv(torch.linalg.cholesky(covariance))
        return cls(means.half(), whitening.half(), scale)

    def distances(self, features: torch.Tensor) -> torch.Tensor:
        """Returns how far pictures are from the training pictures, ``(N,)``, >= 0.

        Args:
            features: ``(N, D)`` what the head was given.
        """
        whitening = self.whitening.float()
        places = _projected(features, len(whitening)) / self.scale
        centre = self.means.float().mean(0)  # differences of smaller numbers are more exact
        white, means = ((x - centre) @ whitening.T for x in (places, self.means.float()))
        return torch.cdist(white, means, compute_mode="donot_use_mm_for_euclid_dist").amin(1)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Returns what a bundle keeps: about K * (C + K / 2) numbers in fp16."""
        rows, columns = torch.tril_indices(*self.whitening.shape)
        return {
            "means": self.means,
            "whitening": self.whitening[rows, columns],
            "scale": self.scale,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> "Reference":
        """Returns the reference that ``tensors`` made these of.

        Raises:
            KeyError, ValueError, RuntimeError: They are not such tensors.
        """
        means, packed, scale = tensors["means"], tensors["whitening"], tensors["scale"]
        size = means.shape[-1]
        if means.ndim != 2 or packed.shape != (size * (size + 1) // 2,) or scale.shape != ():
            raise ValueError("the reference's shapes do not fit each other")
        if not all(t.isfinite().all() for t in (means, packed, scale)) or not scale > 0:
            raise ValueError("the reference is not finite")
        whitening = torch.zeros(size, size, dtype=means.dtype)
        rows, columns = torch.tril_indices(size, size)
        whitening[rows, columns] = packed
        return cls(means, whitening, scale)


def _projected(features: torch.Tensor, dimensions: int) -> torch.Tensor:
    """Returns ``(N, K)``; the signs are the same on every machine (numpy froze RandomState)."""
    signs = np.random.RandomState(0).randint(0, 2, (features.shape[1], dimensions)) * 2 - 1
    return features @ torch.from_numpy(signs / math.sqrt(dimensions)).float()
