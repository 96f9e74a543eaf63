"""Temperature and thresholds against scipy, brute force and hand-made cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from scipy.optimize import minimize_scalar
from scipy.spatial.distance import mahalanobis

from vitlora.confidence import (
    Confidence,
    Reference,
    fit_temperature,
    threshold_for_coverage,
    threshold_for_error,
)


def answers(count: int, sharpness: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns logits of a network as sure as it should be, times ``sharpness``, and labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, 5, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return logits * sharpness, labels


@pytest.mark.parametrize("sharpness", [0.2, 1.0, 4.0])
def test_the_temperature_undoes_too_much_or_too_little_confidence(sharpness: float) -> None:
    logits, labels = answers(20000, sharpness)
    assert fit_temperature(logits, labels) == pytest.approx(sharpness, rel=0.05)


@pytest.mark.parametrize("count", [3, 40, 1000])
def test_the_temperature_has_the_least_cross_entropy_with_one_unknown_picture(count: int) -> None:
    logits, labels = answers(count, 3.0, seed=count)

    def loss(log_temperature: float) -> float:
        scaled = logits.double() / math.exp(log_temperature)
        unknown = -scaled.log_softmax(1).mean()  # one picture, its label spread over all classes
        return float(F.cross_entropy(scaled, labels, reduction="sum") + unknown)

    best = minimize_scalar(loss, bounds=(-5, 5), method="bounded", options={"xatol": 1e-9})
    assert math.log(fit_temperature(logits, labels)) == pytest.approx(best.x, abs=1e-4)


def test_a_few_right_answers_do_not_make_it_certain() -> None:
    logits = torch.eye(3).repeat(4, 1)
    labels = torch.arange(3).repeat(4)
    confidence = (logits / fit_temperature(logits, labels)).softmax(1).amax(1)
    assert 0.8 < float(confidence.min()) < 0.99


def test_wrong_answers_make_it_doubt() -> None:
    logits = torch.eye(2).repeat(10, 1)
    labels = torch.tensor([1, 0]).repeat(10)
    confidence = (logits / fit_temperature(logits, labels)).softmax(1).amax(1)
    assert float(confidence.max()) < 0.51


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("max_error", [0.0, 0.05, 0.3])
def test_the_threshold_is_the_lowest_that_keeps_to_the_error(seed: int, max_error: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    confidence = torch.randint(1, 12, (30,), generator=generator) / 12
    right = torch.rand(30, generator=generator) < confidence
    got = threshold_for_error(confidence, right, max_error)
    fitting = [
        float(t)
        for t in confidence.unique()
        if 1 - right[confidence >= t].float().mean() <= max_error
    ]
    assert got == (min(fitting) if fitting else 1.0)


@pytest.mark.parametrize(
    ("coverage", "expected"), [(1.0, 0.1), (0.9, 0.2), (0.25, 0.8), (0.01, 1.0)]
)
def test_the_threshold_covers_at_least_the_share_asked(coverage: float, expected: float) -> None:
    confidence = torch.tensor([0.3, 0.1, 0.9, 0.5, 0.7, 1.0, 0.2, 0.6, 0.4, 0.8])
    assert threshold_for_coverage(confidence, coverage) == pytest.approx(expected)


def clusters(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns features of three classes, stretched alike, and labels."""
    labels = torch.arange(3).repeat_interleave(count)
    centres = 4 * torch.randn(3, 24, generator=torch.Generator().manual_seed(9))
    stretch = torch.linspace(0.1, 2, 24)
    return centres[labels] + stretch * torch.randn(3 * count, 24, generator=generator), labels


def test_a_distance_is_mahalanobis_to_the_nearest_class() -> None:
    generator = torch.Generator().manual_seed(0)
    features, labels = clusters(60, generator)
    new = torch.cat([clusters(3, generator)[0], 9 * torch.randn(5, 24, generator=generator)])
    signs = np.random.RandomState(0).randint(0, 2, (24, 16)) * 2 - 1
    low, low_new = (x.double().numpy() @ signs / 4 for x in (features, new))
    means = [low[labels == c].mean(0) for c in range(3)]
    around = np.concatenate([low[labels == c] - means[c] for c in range(3)])
    covariance = around.T @ around / len(around)
    covariance += 1e-3 * np.trace(covariance) / 16 * np.eye(16)
    inverse = np.linalg.inv(covariance)
    expected = [min(mahalanobis(x, m, inverse) for m in means) for x in low_new]
    got = Reference.of(features, labels, 16).distances(new)
    assert got.tolist() == pytest.approx(expected, rel=0.005)  # kept in fp16
    assert got[-5:].min() > 3 * got[:-5].max()


def test_a_reference_survives_its_file_bit_for_bit() -> None:
    features, labels = clusters(20, torch.Generator().manual_seed(0))
    reference = Reference.of(features, labels, 16)
    again = Reference.from_tensors(load(save(reference.tensors())))
    assert sum(t.numel() for t in reference.tensors().values()) == 16 * 3 + 16 * 17 // 2 + 1
    assert torch.equal(again.distances(features), reference.distances(features))


def test_fewer_pictures_than_dimensions_give_distances_all_the_same() -> None:
    features, labels = clusters(2, torch.Generator().manual_seed(0))
    distances = Reference.of(features, labels, 16).distances(features)
    assert distances.isfinite().all()
    assert Reference.of(features, labels, 16).distances(features + 50).min() > distances.max()


def test_tiny_features_do_not_overflow() -> None:
    features, labels = clusters(20, torch.Generator().manual_seed(0))
    plain = Reference.of(features, labels, 16).distances(features)
    tiny = Reference.of(features * 1e-6, labels, 16).distances(features * 1e-6)
    torch.testing.assert_close(tiny, plain, rtol=1e-2, atol=1e-2)


def test_equal_pictures_leave_no_variance_and_finite_distances() -> None:
    features = torch.eye(3, 24).repeat_interleave(2, 0)
    labels = torch.arange(3).repeat_interleave(2)
    for noise in (0.0, 1e-6):
        seen = features + noise * torch.randn(6, 24, generator=torch.Generator().manual_seed(0))
        reference = Reference.of(seen, labels, 16)
        assert reference.whitening.isfinite().all()
        assert reference.distances(seen).max() < 10
        assert reference.distances(features + 1).min() > 100


@pytest.mark.parametrize(
    "damage",
    [
        {"means": torch.zeros(1, 8000)},
        {"whitening": torch.zeros(3)},
        {"scale": torch.tensor(0.0)},
        {"means": torch.full((3, 16), float("nan"))},
    ],
)
def test_a_strangers_reference_is_refused(damage: dict[str, torch.Tensor]) -> None:
    features, labels = clusters(20, torch.Generator().manual_seed(0))
    tensors = Reference.of(features, labels, 16).tensors() | damage
    with pytest.raises(ValueError):
        Reference.from_tensors(tensors)


@pytest.mark.parametrize(
    "damage",
    [
        {"temperature": 0},
        {"temperature": "hot"},
        {"unsure_below": None},
        {"confidences": [0.5]},
        {"unfamiliar_above": float("nan")},
    ],
)
def test_a_strangers_confidence_is_refused(damage: dict[str, object]) -> None:
    fields = {
        "temperature": 1.0,
        "unsure_below": 0.5,
        "chosen_for": {"max_error": 0.05},
        "coverage": 0.9,
        "error": 0.04,
        "calibration_error": [0.1, 0.05],
        "unfamiliar_above": 3.0,
        "images": 60,
        "confidences": [0.5] * 11,
        "distances": [1.0] * 11,
    }
    assert Confidence.from_json(fields).images == 60
    with pytest.raises((ValueError, TypeError)):
        Confidence.from_json({**fields, **damage})


def test_logits_that_say_nothing_keep_their_temperature() -> None:
    assert fit_temperature(torch.zeros(5, 3), torch.tensor([0, 1, 2, 0, 1])) == 1.0
