"""Whether a bundle's confidence holds on pictures it was not learnt from.

    python benchmarks/confidence.py --checkpoint BUNDLE --data TRASHNET --other imagenet=DIR ...

Calibrates the bundle on the folder's validation split, then looks at its test split and at folders
of another domain: calibration error before and after the temperature, what became of the threshold
for unsure answers, which share of pictures counts as unfamiliar, and how well their distance tells
them from the test split, for several sizes of the reference. Appends one JSON line to ``--output``.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import torch
from torchmetrics.functional.classification import binary_auroc

from vitlora.bundle.checkpoint import load_bundle
from vitlora.bundle.merging import merged_network
from vitlora.data.folder import Sample
from vitlora.data.listing import list_pictures
from vitlora.data.read import read_folder
from vitlora.evaluation.answers import Answers, answer
from vitlora.evaluation.calibrate import calibrate
from vitlora.hardware import pick_device
from vitlora.metrics.reference import Reference
from vitlora.metrics.unsure import Unsure


def main() -> None:
    """Prints and keeps one line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--other", nargs="*", default=[], metavar="NAME=DIR")
    parser.add_argument("--name", required=True, help="what the line is called")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/confidence.jsonl"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:  # the bundle itself stays as it is
        shutil.copytree(options.checkpoint, Path(folder) / "bundle")
        bundle = load_bundle(Path(folder) / "bundle")
        splits = read_folder(options.data, bundle.record.classes).splits
        network = merged_network(bundle, device=pick_device())
        bundle = calibrate(bundle, network, splits["train"], splits["val"], Unsure())
    record, reference = bundle.record, bundle.reference
    assert record.confidence is not None and reference is not None
    seen = {name: answer(network, splits[name], record.preprocessing) for name in splits}
    for word in options.other:
        name, _, root = word.partition("=")
        paths = list_pictures(Path(root)).pictures
        samples = [Sample(path, 0) for path in paths]
        seen[name] = answer(network, samples, record.preprocessing)
    learnt, test = record.confidence, seen.pop("test")
    before, after = (test.scores(record.classes, t) for t in (1.0, learnt.temperature))
    coverage, error = after.answered(learnt.unsure_below)
    train, _ = seen.pop("train"), seen.pop("val")
    line = {
        "name": options.name,
        "temperature": learnt.temperature,
        "val_calibration_error": learnt.calibration_error,
        "test_calibration_error": [
            round(before.calibration_error, 4),
            round(after.calibration_error, 4),
        ],
        "test_loss": [round(before.loss, 4), round(after.loss, 4)],
        "max_error": 0.05,
        "val_coverage_and_error": [learnt.coverage, learnt.error],
        "test_coverage_and_error": [round(coverage, 4), round(error, 4)],
        "test_error_of_all": round(1 - after.accuracy, 4),
        "dimensions": len(reference.whitening),
        "unfamiliar": {
            name: _far(reference, answers, learnt.unfamiliar_above)
            for name, answers in {"test": test, **seen}.items()
        },
        "answered_for_sure": {
            name: round(answers.scores(record.classes, t).answered(learnt.unsure_below)[0], 4)
            for t in (learnt.temperature,)
            for name, answers in {"test": test, **seen}.items()
        },
        "auroc_by_dimensions": {
            name: {k: _auroc(train, test, answers, k) for k in (128, 64, 32, 16)}
            for name, answers in seen.items()
        },
        "auroc_by_confidence": {name: _by_confidence(test, other) for name, other in seen.items()},
    }
    with options.output.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line, indent=1))


def _far(reference: Reference, answers: Answers, threshold: float) -> float:
    return round(float((reference.distances(answers.features) > threshold).float().mean()), 4)


def _auroc(train: Answers, test: Answers, other: Answers, dimensions: int) -> float:
    reference = Reference.of(train.features, train.labels, dimensions)
    return _told_apart(*(reference.distances(a.features) for a in (test, other)))


def _by_confidence(test: Answers, other: Answers) -> float:
    return _told_apart(*(-a.logits.softmax(1).amax(1) for a in (test, other)))


def _told_apart(test: torch.Tensor, other: torch.Tensor) -> float:
    labels = torch.cat([torch.zeros(len(test)), torch.ones(len(other))]).long()
    ranks = torch.cat([test, other]).argsort().argsort() / len(labels)  # it wants [0, 1]
    return round(float(binary_auroc(ranks, labels)), 4)


if __name__ == "__main__":
    main()
