"""Draws accuracy and time of vitlora's fit against the peer's, a point for each set.

    python benchmarks/beside_peer.py [--output docs/images/beside-peer.png]

Reads what recipe.py wrote. The peer is ``transformers.Trainer`` with plain PEFT. Both train for six
epochs from the same weights. Bars are 95% intervals over the seeds (Welch's t), at least two on
each side. Prints a table.
"""

import argparse
import statistics
from pathlib import Path

from matplotlib.figure import Figure
from recipe import Row, rows
from scipy.stats import t

RESULTS = Path(__file__).parent / "results"
PEER = "peer 6 --lr 2e-3 --batch 16 --crop-mode center"
SETS = ("bloodcells", "caltech60", "coffeeleaf", "eurocoins", "steel")


def main() -> None:
    """Draws the figure, and prints a line for each set and one for their mean."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=Path("docs/images/beside-peer.png"))
    options = parser.parse_args()
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color="black", linewidth=0.8)
    print("| set | seeds | vitlora | peer | difference, points (95%) | CPU seconds | time |")
    print("|---|---|---|---|---|---|---|")
    names, gaps, errors, times = [], [], [], []
    for name in SETS:
        ours, theirs = runs(name, ""), runs(name, PEER)
        mine, other = mean(ours, "accuracy"), mean(theirs, "accuracy")
        seconds = mean(ours, "cpu_seconds"), mean(theirs, "cpu_seconds")
        gap, error = 100 * (mine - other), squared_errors(ours, theirs)
        half = half_interval(error)
        axes.errorbar(len(names), gap, half, fmt="o", color="C0", capsize=4)
        names.append(f"{name}\n{seconds[0] / seconds[1]:.2f} x\nthe time")
        gaps, errors, times = [*gaps, gap], [*errors, *error], [*times, seconds[0] / seconds[1]]
        cells = [name, f"{len(ours)}, {len(theirs)}", f"{mine:.3f}", f"{other:.3f}"]
        cells += [shown(gap, half), "{:.0f}, {:.0f}".format(*seconds), f"{times[-1]:.2f} x"]
        print(f"| {' | '.join(cells)} |")
    mean_gap = shown(statistics.mean(gaps), half_interval(errors) / len(gaps))
    print(f"| mean | | | | {mean_gap} | | {statistics.geometric_mean(times):.2f} x |")
    axes.set_xticks(range(len(names)), names)
    axes.set(ylabel="test accuracy, points above\ntransformers.Trainer + PEFT")
    axes.grid(alpha=0.3, axis="y")
    figure.savefig(options.output, dpi=130, metadata={"Software": "vitlora"})


def runs(data: str, way: str) -> list[Row]:
    """Returns the runs of a set."""
    found = rows(RESULTS / "recipe_kept.jsonl")
    return [row for row in found if (row["data"], row["way"]) == (data, way)]


def mean(found: list[Row], key: str) -> float:
    """Returns the mean over the seeds."""
    return statistics.mean(float(row[key]) for row in found)


def squared_errors(*sides: list[Row]) -> list[tuple[float, int]]:
    """Returns the squared standard error of each side's mean in points, and its freedom."""
    points = [[100 * float(row["accuracy"]) for row in found] for found in sides]
    return [(statistics.variance(p) / len(p), len(p) - 1) for p in points]


def half_interval(errors: list[tuple[float, int]]) -> float:
    """Returns half the 95% interval of a sum."""
    total = sum(error for error, _ in errors)
    freedom = total**2 / sum(error**2 / free for error, free in errors)
    return float(t.ppf(0.975, freedom)) * total**0.5


def shown(gap: float, half: float) -> str:
    """Returns a difference with its interval."""
    return f"{gap:+.1f} ({gap - half:+.1f} to {gap + half:+.1f})"


if __name__ == "__main__":
    main()
