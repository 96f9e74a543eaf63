"""Calibrates a bundle's confidence on validation pictures, after training."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from vitlora.bundle.checkpoint import Bundle, load_bundle, save_bundle
from vitlora.data.folder import Sample
from vitlora.errors import counted
from vitlora.evaluation.answers import Answers, answer
from vitlora.metrics.confidence import CERTAINTY, NEVER, Confidence, first_tested, fit_temperature
from vitlora.metrics.reference import Reference
from vitlora.metrics.unsure import Unsure

_MOST_PICTURES = 500  # training pictures, for the reference
_MOST_HELD_OUT = 5000  # validation pictures; a share of 5% then has a standard error of 0.3 points
_FEW = 100  # validation pictures; with fewer, a calibration error is mostly chance
_DECILES = torch.linspace(0, 1, 11)
_UNFAMILIAR = 0.99  # quantile of validation's distances


def calibrate(
    bundle: Bundle,
    network: nn.Module,
    train: Sequence[Sample],
    val: Sequence[Sample],
    unsure: Unsure,
    batch_size: int = 32,
) -> Bundle:
    """Learns temperature, threshold and distances, and writes them into the bundle's folder.

    Args:
        bundle: The network's bundle.
        network: The merged ViT, in evaluation mode.
        train: Pictures it was trained on; 500 are used, or 10 of each class if that is more.
        val: Pictures it was not trained on; at most 5,000 are used.
        unsure: When an answer counts as unsure.
        batch_size: Pictures in one forward pass.

    Returns:
        The rewritten bundle.

    Raises:
        BundleError: The folder's bundle was replaced since this one was read.
    """
    record = bundle.record
    trained, other = pictures_to_calibrate(train, val)
    seen = answer(network, trained, record.preprocessing, batch_size)
    held_out = answer(network, other, record.preprocessing, batch_size)
    reference = Reference.of(seen.features, seen.labels, _dimensions(bundle))
    confidence = learn(held_out, record.classes, reference, unsure)
    save_bundle(
        bundle.folder,
        replace(record, confidence=confidence),
        bundle.tensors,
        bundle.peft,
        bundle.config,
        bundle.card(),
        reference,
        bundle.usage,
        replaces=bundle.digest,
    )
    return load_bundle(bundle.folder)


def pictures_to_calibrate(
    train: Sequence[Sample], val: Sequence[Sample]
) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """Returns those of the training and validation pictures that calibration uses."""
    return _some(train, _MOST_PICTURES), _thinned(val, _MOST_HELD_OUT)


def learn(
    answers: Answers, classes: tuple[str, ...], reference: Reference, unsure: Unsure
) -> Confidence:
    """Returns the calibration that validation pictures give.

    Args:
        answers: Answers to pictures that were not trained on.
        classes: Names, in the order of the logits.
        reference: Summary of the training pictures' features.
        unsure: When an answer counts as unsure.
    """
    temperature = _rounded(fit_temperature(answers.logits, answers.labels))
    before, after = answers.scores(classes), answers.scores(classes, temperature)
    confidence, predicted = after.logits.softmax(1).max(1)
    threshold = unsure.threshold(confidence, predicted == answers.labels)
    coverage, error = after.answered(threshold)
    distances = reference.distances(answers.features)
    return Confidence(
        temperature=temperature,
        unsure_below=threshold,
        chosen_for=unsure.chosen_for(),
        coverage=_rounded(coverage),
        error=_rounded(error),
        calibration_error=(_rounded(before.calibration_error), _rounded(after.calibration_error)),
        unfamiliar_above=_rounded(float(distances.quantile(_UNFAMILIAR))),
        images=after.images,
        confidences=tuple(map(_rounded, confidence.quantile(_DECILES).tolist())),
        distances=tuple(map(_rounded, distances.quantile(_DECILES).tolist())),
    )


def describe(confidence: Confidence) -> str:
    """Returns temperature, calibration error and threshold as text, each share with its range."""
    before, after = confidence.calibration_error
    few = ", too few to be reliable" if confidence.images < _FEW else ""
    first = (
        f"temperature {confidence.temperature:.2f}: calibration error {before:.3f} -> {after:.3f} "
        f"on {counted(confidence.images, 'validation picture')}{few}"
    )
    return f"{first}\n{describe_threshold(confidence)}"


def describe_threshold(confidence: Confidence) -> str:
    """Returns the threshold as text, and what to expect of it on new pictures."""
    images = counted(confidence.images, "validation picture")
    sure, wrong = confidence.sure, confidence.wrong
    promised = confidence.promised
    if confidence.unsure_below == NEVER and promised is not None:
        count, most = first_tested(confidence.images, promised)
        needed = f"at most {most} wrong among" if most else "no mistake among"
        return (
            f"always unsure: {images} cannot show that at most {promised:.1%} of the answers are "
            f"wrong ({CERTAINTY:.0%} certainty needs {needed} the {count} most confident answers); "
            "accept a larger max_error, or validate on more pictures"
        )
    low, high = confidence.coverage_interval
    level = (
        f"unsure below {confidence.unsure_below:.1%}" if confidence.unsure_below else "never unsure"
    )
    answered = f"{low:.1%} to {high:.1%} of new pictures get a sure answer"
    evidence = f"here {wrong} of {sure} sure answers were wrong, on {images}"
    if promised is not None:
        return (
            f"{level}: {answered}, at most {promised:.1%} of these are wrong, with "
            f"{CERTAINTY:.0%} certainty ({evidence})"
        )
    if "coverage" in confidence.chosen_for:
        low, high = confidence.error_interval
        return (
            f"{level}: {answered}, {low:.1%} to {high:.1%} of these are wrong (95% intervals; "
            f"{evidence})"
        )
    return (
        f"{level}: {wrong} of {sure} sure answers to validation pictures were wrong, which says "
        "nothing about new pictures; 'vitlora calibrate' chooses a new threshold"
    )


def _some(samples: Sequence[Sample], most: int) -> list[Sample]:
    """Returns about ``most`` samples, the same number of each class and at least 10 of it."""
    classes: dict[int, list[Sample]] = {}
    for sample in samples:
        classes.setdefault(sample.label, []).append(sample)
    each = max(most // len(classes), 10)
    return [s for label in sorted(classes) for s in _thinned(classes[label], each)]


def _thinned(samples: Sequence[Sample], most: int) -> Sequence[Sample]:
    return samples[:: -(-len(samples) // most)]


def _dimensions(bundle: Bundle) -> int:
    """Returns the reference's dimensions: 128 if they fit into a small share of the bundle.

    On a ViT-Tiny, 128, 64 and 32 dimensions told ImageNet's photos from waste with an AUROC of
    0.996, 0.990 and 0.965 (benchmarks/confidence.py).
    """
    trained = [t for t in bundle.tensors.values() if t.is_floating_point()]
    room = sum(t.numel() * t.element_size() for t in trained) / 40 + 512
    classes = len(bundle.record.classes)
    sizes = {k: 2 * (k * classes + k * (k + 1) / 2) for k in range(128, 0, -8)}
    return next((k for k, size in sizes.items() if size <= room), 8)


def _rounded(value: float) -> float:
    """Rounds to 4 significant digits: validation supports no more."""
    return float(f"{float(value):.4g}")
