"""Draws accuracy and time of vitlora's default against the peer's, a point for each set.

    python benchmarks/time_to_score.py [--output docs/images/time-to-score.png]

Reads what recipe.py wrote. The peer is ``transformers.Trainer`` with plain PEFT. Both train for six
epochs from the same weights. Bars are 95% intervals over the seeds (Welch's t); prints the numbers.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from scipy.stats import t

RESULTS = Path(__file__).parent / "results"
OURS = ("", "--model.crop_mode squash")
PEERS = ("peer 6 --lr 2e-3 --batch 16 --crop-mode center", "peer 6 --lr 2e-3 --batch 32")
Runs = dict[str, list[dict[str, float]]]


def main() -> None:
    """Draws the figure and prints a line for each set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=Path("docs/images/time-to-score.png"))
    options = parser.parse_args()
    ours, peers = runs(OURS, "recipe_kept"), runs(PEERS, "recipe_kept", "recipe")
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    for index, name in enumerate(sorted(ours.keys() & peers.keys())):
        mine, theirs = ours[name], peers[name]
        time = mean(mine, "cpu_seconds") / mean(theirs, "cpu_seconds")
        gap = 100 * (mean(mine, "accuracy") - mean(theirs, "accuracy"))
        half = 100 * half_interval(mine, theirs)
        label = f"{name}, {len(mine)} and {len(theirs)} seeds"
        axes.errorbar(
            time, gap, half, fmt="osD^vP"[index], color=f"C{index}", capsize=4, label=label
        )
        print(f"{label}: {time:.2f} x the time, {gap:+.1f} points (95%: +-{half:.1f})")
    axes.errorbar(1, 0, fmt="k*", markersize=12, label="transformers.Trainer + PEFT")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel="CPU time of the whole run, peer = 1", xlim=(0, 1.1))
    axes.set(ylabel="test accuracy, points above the peer")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="lower left")
    figure.savefig(options.output, dpi=130, metadata={"Software": "vitlora"})


def runs(ways: Sequence[str], *files: str) -> Runs:
    """Returns the runs of each set; of a seed that several files have, the first one's."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for file in files:
        for line in (RESULTS / f"{file}.jsonl").read_text().splitlines():
            row = json.loads(line)
            if row["way"] in ways:
                found.setdefault(row["data"], {}).setdefault(row["seed"], row)
    return {name: list(seeds.values()) for name, seeds in found.items()}


def mean(rows: list[dict[str, float]], key: str) -> float:
    """Returns the mean over the seeds."""
    return statistics.mean(row[key] for row in rows)


def half_interval(mine: list[dict[str, float]], theirs: list[dict[str, float]]) -> float:
    """Returns half the 95% interval of the difference of two means; 0 if a side has one run."""
    sides = [[row["accuracy"] for row in rows] for rows in (mine, theirs)]
    if min(map(len, sides)) < 2:
        return 0.0
    errors = [statistics.variance(side) / len(side) for side in sides]
    parts = (error**2 / (len(side) - 1) for error, side in zip(errors, sides, strict=True))
    freedom = sum(errors) ** 2 / (sum(parts) or 1)
    return float(t.ppf(0.975, max(freedom, 1))) * sum(errors) ** 0.5


if __name__ == "__main__":
    main()
