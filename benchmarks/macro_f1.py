"""How often macro-F1's 95% interval holds the truth, on populations where it is known.

    python benchmarks/macro_f1.py

Each draw takes labels by the classes' shares and answers by each class's share of right answers,
the others spread as the classes are. The truth is the macro-F1 of endless answers to
labels in the drawn counts of the classes (not in the population's shares), over the classes that
occur. Beside it the interval before, for a tenth of the draws: the percentiles of a bootstrap that
leaves absent classes out.
Appends one JSON line for each population.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from vitlora.metrics.intervals import macro_f1, macro_f1_interval

_EVEN, _TAIL = np.full(5, 0.2), 1 / np.arange(1, 31) ** 1.2
_POPULATIONS = {
    "5 classes, 60 pictures": (60, _EVEN, [0.9, 0.8, 0.85, 0.95, 0.7]),
    "5 classes, 431 pictures": (431, _EVEN, [0.9, 0.8, 0.85, 0.95, 0.7]),
    "5 classes, all right": (60, _EVEN, [1.0] * 5),
    "5 classes, 2% wrong": (60, _EVEN, [0.98] * 5),
    "98% and 2%, 70% of the rare found": (100, np.array([0.98, 0.02]), [0.98, 0.7]),
    "98% and 2%, the rare never answered": (100, np.array([0.98, 0.02]), [1.0, 0.0]),
    "long tail of 30, 500 pictures": (500, _TAIL / _TAIL.sum(), np.linspace(0.95, 0.5, 30)),
    "long tail of 30, 100 pictures": (100, _TAIL / _TAIL.sum(), np.linspace(0.95, 0.5, 30)),
    "60 classes, two of each": (120, np.full(60, 1 / 60), [0.9] * 60),
}


def main() -> None:
    """Prints and keeps the lines."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/macro_f1.jsonl"))
    options = parser.parse_args()
    for name, (count, shares, right) in _POPULATIONS.items():
        classes, rng = len(shares), np.random.default_rng(0)
        chances = np.tile(shares, (classes, 1)) * (1 - np.eye(classes))
        chances *= (1 - np.array(right))[:, None] / chances.sum(1, keepdims=True)
        chances += np.diag(right)
        found: dict[str, list[tuple[bool, float]]] = {"now": [], "before": []}
        for draw in range(options.draws):
            labels = rng.choice(classes, count, p=shares)
            places = (rng.random((count, 1)) > chances.cumsum(1)[labels]).sum(1)
            answers = places.clip(0, classes - 1)
            occurs = np.isin(np.arange(classes), [*labels, *answers])
            n = np.bincount(labels, minlength=classes)
            f1 = 2 * n * chances.diagonal() / np.maximum(n + n @ chances, 1e-12)
            truth = float(f1[occurs].mean())
            rules = {"now": macro_f1_interval(labels, answers[None])}
            if draw < max(options.draws // 10, 1):
                rules["before"] = bootstrap(labels, answers, rng)
            for rule, (low, high) in rules.items():
                found[rule].append((low - 1e-9 <= truth <= high + 1e-9, high - low))
        means = {rule: np.mean(rows, 0).round(3).tolist() for rule, rows in found.items()}
        line = {
            "population": name,
            "draws": len(found["now"]),
            "draws_before": len(found["before"]),
            "held_and_width": means,
        }
        with options.output.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)


def bootstrap(
    labels: np.ndarray, answers: np.ndarray, rng: np.random.Generator
) -> tuple[float, float]:
    """Returns the percentiles of resampled pictures, with the classes that each resample has."""
    draws = rng.integers(0, len(labels), (200, len(labels)))
    values = [macro_f1(labels[drawn], answers[None, drawn]) for drawn in draws]
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


if __name__ == "__main__":
    main()
