"""How often compare's advice is a method that is truly worse than the best by over two points.

    python benchmarks/advice.py

A cheap method is worse than a dear one, in truth, by 0 to 10 points of accuracy; they disagree on
12% of the pictures. Each drawn comparison is judged by three rules: the advice (the cheap one where
it is shown to be within two points, else the more accurate), that first half of it alone, and the
rule before it (the cheap one unless the dear one is clearly better by McNemar's exact test).
Appends one JSON line for each difference and number of pictures.
"""

import argparse
import json
import math
from functools import cache
from pathlib import Path
from statistics import NormalDist

import numpy as np

from vitlora.intervals import paired

_MARGIN = 0.02
_DISAGREE = 0.12


def main() -> None:
    """Prints and keeps the lines."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/advice.jsonl"))
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    for pictures in (40, 200, 431, 2000):
        for gap in (0.0, 0.01, 0.02, 0.03, 0.05, 0.1):
            shares = [(_DISAGREE + gap) / 2, (_DISAGREE - gap) / 2, 1 - _DISAGREE]
            drawn = rng.multinomial(pictures, shares, options.draws)
            near = np.array([is_near(int(a), int(b), pictures) for a, b, _ in drawn])
            cheap = near | (drawn[:, 0] <= drawn[:, 1])  # as accurate and cheaper is the best, too
            before = np.array([p_value(int(a), int(b)) >= 0.05 or a <= b for a, b, _ in drawn])
            line = {
                "pictures": pictures,
                "true_gap": gap,
                "too_far": gap > _MARGIN,
                "draws": options.draws,
                "cheap_advised": round(float(cheap.mean()), 4),
                "said_to_be_near": round(float(near.mean()), 4),
                "cheap_advised_before": round(float(before.mean()), 4),
            }
            with options.output.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)


@cache
def is_near(better: int, worse: int, pictures: int) -> bool:
    """Returns whether the cheap method is shown to be within the margin, as the advice has it."""
    differences = np.repeat([1.0, -1.0, 0.0], [better, worse, pictures - better - worse])
    mean, error = paired(differences)
    return mean + NormalDist().inv_cdf(0.95) * error < _MARGIN


@cache
def p_value(better: int, worse: int) -> float:
    """Returns McNemar's exact one."""
    total, least = better + worse, min(better, worse)
    tail = sum(math.comb(total, k) for k in range(least + 1)) / 2**total
    return min(2 * tail, 1.0)


if __name__ == "__main__":
    main()
