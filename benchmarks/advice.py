"""How often compare's advice is a method that is truly worse than the best by over two points.

    python benchmarks/advice.py

The cheapest method is worse than the dearest, in truth, by 0 to 10 points of accuracy, one between
them by half of that; two equally good ones disagree on 12% of the pictures. With several seeds each
training moves its network by a normal draw of one point. `compare` and `advise` judge each drawn
comparison. The rule before them took the cheap one of two unless McNemar's test said otherwise.
Appends one JSON line for each number of methods, seeds and pictures, and each difference.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from vitlora.studies.advice import advise
from vitlora.studies.comparison import Run, compare

_MARGIN = 0.02
_WRONG, _DISAGREE = 0.1, 0.12
_SEEDS = 0.01  # deviation of a network's true accuracy from seed to seed
_SETTINGS = {(2, 1): (40, 200, 431, 2000), (3, 3): (40, 431, 2000)}


def main() -> None:
    """Prints and keeps the lines."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/advice.jsonl"))
    options = parser.parse_args()
    for (methods, seeds), counts in _SETTINGS.items():
        for pictures in counts:
            for gap in (0.0, 0.01, 0.02, 0.03, 0.05, 0.1):
                line = {
                    "judged_by": "compare, advise",
                    "methods": methods,
                    "seeds": seeds,
                    "pictures": pictures,
                    "true_gap": gap,
                    "draws": options.draws,
                    **measure(methods, seeds, pictures, gap, options.draws),
                }
                with options.output.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(json.dumps(line), flush=True)


def measure(methods: int, seeds: int, pictures: int, gap: float, draws: int) -> dict[str, float]:
    """Returns the shares of the draws in which a method is advised, and which."""
    rng = np.random.default_rng(0)
    behind = dict(zip("abc", np.linspace(gap, 0, methods), strict=False))  # the cheapest first
    found = []
    for _ in range(draws):
        rows = compare(drawn(rng, behind, seeds, pictures))
        words = advise(rows, "test", _MARGIN)
        advised = words.split()[1].rstrip(":")
        near, far = ": the cheapest that" in words, behind[advised] > _MARGIN
        cheap = rows[0]
        before = cheap.p is None or cheap.p >= 0.05
        found.append((advised == "a", far, near, near and far, before))
    names = ("cheapest_advised", "advised_too_far", "said_to_be_near", "near_but_too_far")
    names += ("cheapest_advised_before",) if (methods, seeds) == (2, 1) else ()
    return dict(zip(names, np.mean(found, 0).round(4).tolist(), strict=False))


def drawn(
    rng: np.random.Generator, behind: dict[str, float], seeds: int, pictures: int
) -> list[Run]:
    """Returns runs whose mistakes are partly the same, the cheapest method's first.

    Each picture is answered as all answer it, with a probability, else anew.
    """
    same = (1 - _DISAGREE / (2 * _WRONG * (1 - _WRONG))) ** 0.5
    shared = rng.random(pictures) < _WRONG
    runs = []
    for place, (name, gap) in enumerate(behind.items()):
        for seed in range(seeds):
            share = _WRONG + gap + (rng.normal(0, _SEEDS) if seeds > 1 else 0)
            own = rng.random(pictures) < (share - same * _WRONG) / (1 - same)
            wrong = np.where(rng.random(pictures) < same, shared, own)
            runs.append(_run(name, seed, 10**place, wrong))
    return runs


def _run(name: str, seed: int, trainable: int, wrong: np.ndarray) -> Run:
    return Run(
        method=name,
        seed=seed,
        labels=(0,) * len(wrong),
        answers=tuple(wrong.astype(int).tolist()),
        lr=1e-3,
        base="float32",
        trainable=trainable,
        seconds=1.0,
        host_bytes=None,
        device_bytes=None,
        milliseconds=1.0,
        bundle_bytes=1,
        device="cpu",
        precision="32-true",
    )


if __name__ == "__main__":
    main()
