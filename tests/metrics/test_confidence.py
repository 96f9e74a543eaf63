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
from scipy.stats import binom

from vitlora.metrics.confidence import (
    NEVER,
    Confidence,
    first_tested,
    fit_temperature,
    threshold_for_coverage,
    threshold_for_error,
)
from vitlora.metrics.reference import Reference


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
def test_the_temperature_is_the_most_plausible_with_one_unknown_picture(count: int) -> None:
    logits, labels = answers(count, 3.0, seed=count)

    def loss(log_temperature: float) -> float:
        scaled = logits.double() / math.exp(log_temperature)
        unknown = -scaled.log_softmax(1).mean()  # one picture, its label spread over all classes
        entropy = float(F.cross_entropy(scaled, labels, reduction="sum") + unknown)
        return entropy + log_temperature**2 / 2  # the standard normal's, but for a constant

    best = minimize_scalar(loss, bounds=(-5, 5), method="bounded", options={"xatol": 1e-9})
    assert math.log(fit_temperature(logits, labels)) == pytest.approx(best.x, abs=1e-4)


def test_a_few_right_answers_do_not_make_it_certain() -> None:
    logits = torch.eye(3).repeat(4, 1)
    labels = torch.arange(3).repeat(4)
    confidence = (logits / fit_temperature(logits, labels)).softmax(1).amax(1)
    assert 0.8 < float(confidence.min()) < 0.99


@pytest.mark.parametrize("count", [1, 3, 10, 60, 1000])
@pytest.mark.parametrize("margin", [0.05, 1.0, 8.0, 50.0])
def test_right_answers_support_no_more_confidence_than_there_are_pictures(
    count: int, margin: float
) -> None:
    generator = torch.Generator().manual_seed(count)
    labels = torch.randint(5, (count,), generator=generator)
    spread = 0.5 + torch.rand(count, 1, generator=generator)
    logits = margin * spread * torch.eye(5)[labels]
    temperature = fit_temperature(logits, labels)
    doubt = 1 - (logits / temperature).softmax(1).amax(1).mean()
    assert float(doubt) > 0.1 / (count + 1)
    assert temperature >= 1 / (1 + count) - 1e-9


@pytest.mark.parametrize("count", [1, 3, 10, 60, 1000])
@pytest.mark.parametrize("margin", [0.05, 1.0, 8.0, 50.0])
def test_wrong_answers_make_it_doubt_as_far_as_they_are_many(count: int, margin: float) -> None:
    labels = torch.arange(count) % 5
    logits = margin * torch.eye(5)[(labels + 1) % 5]
    temperature = fit_temperature(logits, labels)
    confidence = (logits / temperature).softmax(1).amax(1)
    assert 0.99 <= temperature < 100.01
    assert float(confidence.max()) < (0.5 if count >= 60 else 0.95)


@pytest.mark.parametrize("count", [10, 60, 1000])
def test_confidence_follows_the_share_of_right_answers(count: int) -> None:
    labels = torch.arange(count) % 5
    answered = torch.where(torch.arange(count) % 10 < 7, labels, (labels + 1) % 5)
    for margin in (0.5, 4.0, 30.0):
        logits = margin * torch.eye(5)[answered]
        confidence = (logits / fit_temperature(logits, labels)).softmax(1).amax(1)
        assert float(confidence.mean()) == pytest.approx(0.7, abs=0.15 if count == 10 else 0.04)


def tail(wrong: int, count: int, share: float) -> float:
    return float(binom.cdf(wrong, count, share))


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("max_error", [0.05, 0.2])
def test_the_threshold_is_where_the_first_test_fails(seed: int, max_error: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    confidence = torch.rand(200, generator=generator)
    right = torch.rand(200, generator=generator) < 0.5 + confidence / 2
    ranked = sorted(zip(confidence.tolist(), right.tolist(), strict=True), reverse=True)
    count = max(next(k for k in range(1, 200) if tail(0, k, max_error) <= 0.1), 200 // 6)
    answered = 0
    while count <= 200 and tail(sum(not r for _, r in ranked[:count]), count, max_error) <= 0.1:
        answered, count = count, count + 1
    got = threshold_for_error(confidence, right, max_error)
    assert int((confidence >= got).sum()) == answered
    assert (got == NEVER) == (answered == 0)


@pytest.mark.parametrize(("images", "promised"), [(44, False), (45, True)])
def test_45_right_answers_of_45_promise_5_percent(images: int, promised: bool) -> None:
    confidence, right = torch.linspace(0.5, 1, images), torch.ones(images, dtype=torch.bool)
    got = threshold_for_error(confidence, right, 0.05)
    assert got == (0.0 if promised else NEVER)
    assert first_tested(images, 0.05) == (45, 0)
    assert first_tested(1200, 0.05) == (200, 5)
    assert tail(5, 200, 0.05) <= 0.1 < tail(6, 200, 0.05)


def test_wrong_answers_among_the_surest_promise_nothing_even_at_confidence_one() -> None:
    confidence, right = torch.ones(60), torch.arange(60) % 5 > 0
    got = threshold_for_error(confidence, right, 0.05)
    assert got == NEVER and not (confidence >= got).any()


def test_equal_confidences_stand_or_fall_together_whatever_their_order() -> None:
    confidence = torch.tensor([1.0] * 600 + [0.6] * 100)
    right = torch.tensor([True] * 597 + [False] * 3 + [True] * 60 + [False] * 40)
    for seed in range(5):
        order = torch.randperm(700, generator=torch.Generator().manual_seed(seed))
        got = threshold_for_error(confidence[order], right[order], 0.05)
        assert 0.6 < got <= 1
        assert int((confidence >= got).sum()) == 600


@pytest.mark.parametrize("images", [60, 200, 1000])
@pytest.mark.parametrize("kind", ["plain", "overconfident", "bumpy", "saturated"])
def test_the_promise_is_broken_in_at_most_one_draw_of_ten(images: int, kind: str) -> None:
    """Populations whose share of wrong answers at each confidence is known."""
    levels = torch.linspace(0, 1, 4001)[1:]
    wrong = {
        "plain": 0.4 * (1 - levels),
        "overconfident": 0.04 + 0.3 * (levels < 0.5),
        "bumpy": 0.05 + 0.15 * torch.sin(9 * levels).clamp(-0.3, 1),
        "saturated": torch.where(levels > 0.6, 0.055, 0.3),
    }[kind]
    if kind == "saturated":
        levels = torch.where(levels > 0.6, 1.0, levels)
    generator, broken = torch.Generator().manual_seed(images), 0
    for _ in range(300):
        drawn = torch.randint(len(levels), (images,), generator=generator)
        right = torch.rand(images, generator=generator) >= wrong[drawn]
        sure = levels >= threshold_for_error(levels[drawn], right, 0.05)
        broken += bool(sure.any()) and float(wrong[sure].mean()) > 0.05
    assert broken / 300 <= 0.1 + 0.03  # three points: 1.7 standard errors


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
    said = fit_temperature(torch.zeros(5, 3), torch.tensor([0, 1, 2, 0, 1]))
    assert said == pytest.approx(1.0, abs=1e-3)
