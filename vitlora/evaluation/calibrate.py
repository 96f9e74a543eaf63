"""After training: what validation says of a bundle's confidence, written into the bundle."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from vitlora.bundle.checkpoint import Bundle, load_bundle, save_bundle
from vitlora.data.folder import Sample
from vitlora.evaluation.answers import Answers, answer
from vitlora.metrics.confidence import CERTAINTY, NEVER, Confidence, first_tested, fit_temperature
from vitlora.metrics.reference import Reference
from vitlora.metrics.unsure import Unsure

_MOST_PICTURES = 500  # of training, to learn where they lie
_MOST_HELD_OUT = 5000  # of validation; a share of 5% has a standard error of 0.3 points there
_FEW = 100  # validation pictures; of fewer, a calibration error is mostly chance
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
        bundle: Of this network.
        network: The merged ViT, in evaluation mode.
        train: Pictures it was trained on; 500 are looked at, or 10 of each class.
        val: Pictures it was not trained on; at most 5,000 are looked at.
        unsure: When an answer counts as unsure.
        batch_size: Pictures in one forward pass.

    Returns:
        The bundle as it now lies there.

    Raises:
        BundleError: Another bundle was written there since this one was read.
    """
    record = bundle.record
    seen = answer(network, _some(train, _MOST_PICTURES), record.preprocessing, batch_size)
    held_out = answer(network, _thinned(val, _MOST_HELD_OUT), record.preprocessing, batch_size)
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


def learn(
    answers: Answers, classes: tuple[str, ...], reference: Reference, unsure: Unsure
) -> Confidence:
    """Returns what answers to validation pictures teach.

    Args:
        answers: To pictures that were not trained on.
        classes: Names, in the order of the logits.
        reference: Where the training pictures lie.
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
    """Returns what was learnt, in a few lines: no share without its interval or its promise."""
    before, after = confidence.calibration_error
    few = ", too few to be sure of it" if confidence.images < _FEW else ""
    first = (
        f"temperature {confidence.temperature:.2f}: calibration error {before:.3f} -> {after:.3f} "
        f"on {confidence.images} validation pictures{few}"
    )
    return f"{first}\n{describe_threshold(confidence)}"


def describe_threshold(confidence: Confidence) -> str:
    """Returns when an answer is unsure, and what that is worth on new pictures."""
    images, sure, wrong = confidence.images, confidence.sure, confidence.wrong
    promised = confidence.promised
    if confidence.unsure_below == NEVER and promised is not None:
        count, most = first_tested(images, promised)
        needed = (
            f"at most {most} of the {count} surest wrong" if most else f"the {count} surest right"
        )
        return (
            f"unsure always: {images} validation pictures cannot promise that at most "
            f"{promised:.1%} of any answers are wrong ({CERTAINTY:.0%} certainty would take "
            f"{needed}); accept a larger max_error, or validate on more pictures"
        )
    low, high = confidence.coverage_interval
    level = (
        f"unsure below {confidence.unsure_below:.1%}" if confidence.unsure_below else "never unsure"
    )
    answered = f"of new pictures {low:.1%} to {high:.1%} are answered for sure"
    if promised is not None:
        return (
            f"{level}: {answered}, at most {promised:.1%} of them wrongly, with {CERTAINTY:.0%} "
            f"certainty ({wrong} of {sure} sure ones were, of {images} validation pictures)"
        )
    if "coverage" in confidence.chosen_for:
        low, high = confidence.error_interval
        return (
            f"{level}: {answered}, {low:.1%} to {high:.1%} of them wrongly (95% intervals; {wrong} "
            f"of {sure} sure ones were, of {images} validation pictures)"
        )
    return (
        f"{level}: chosen so that {wrong} of {sure} sure validation pictures were wrong, which "
        "promises nothing for new ones; 'vitlora calibrate' chooses anew"
    )


def _some(samples: Sequence[Sample], most: int) -> list[Sample]:
    """Returns at most so many samples, or 10 of each class, as many of one class as of another."""
    classes: dict[int, list[Sample]] = {}
    for sample in samples:
        classes.setdefault(sample.label, []).append(sample)
    each = max(most // len(classes), 10)
    return [s for label in sorted(classes) for s in _thinned(classes[label], each)]


def _thinned(samples: Sequence[Sample], most: int) -> Sequence[Sample]:
    return samples[:: -(-len(samples) // most)]


def _dimensions(bundle: Bundle) -> int:
    """Returns how many dimensions tell pictures apart: 128 where there is room, else fewer.

    A bundle is to stay about as large as what was trained. On a ViT-Tiny, 128, 64 and 32 told
    ImageNet's photos from waste with an AUROC of 0.996, 0.990 and 0.965: benchmarks/confidence.py
    """
    trained = [t for t in bundle.tensors.values() if t.is_floating_point()]
    room = sum(t.numel() * t.element_size() for t in trained) / 40 + 512
    classes = len(bundle.record.classes)
    sizes = {k: 2 * (k * classes + k * (k + 1) / 2) for k in range(128, 0, -8)}
    return next((k for k, size in sizes.items() if size <= room), 8)


def _rounded(value: float) -> float:
    """Returns 4 significant digits, as many as validation supports."""
    return float(f"{float(value):.4g}")
