"""Draws accuracy and time of vitlora's fit against the peer's, a point for each set.

    python benchmarks/time_to_score.py [--output docs/images/time-to-score.png]

Reads what recipe.py wrote. The peer is ``transformers.Trainer`` with plain PEFT. Both train for six
epochs from the same weights; of TrashNet's photos both see all (``model.crop_mode squash``), of the
others the centre. Bars are 95% intervals over the seeds (Welch's t). Prints a table.
"""

import argparse
import statistics
from pathlib import Path

from matplotlib.figure import Figure
from recipe import Row, rows
from scipy.stats import t

RESULTS = Path(__file__).parent / "results"
PEER = "peer 6 --lr 2e-3 --batch 16 --crop-mode center"
# set -> how ours and the peer were run
SETS = {
    "bloodcells": ("", PEER),
    "caltech60": ("", PEER),
    "coffeeleaf": ("", PEER),
    "eurocoins": ("", PEER),
    "steel": ("", PEER),
    "trashnet": ("--model.crop_mode squash", "peer 6 --lr 2e-3 --batch 32"),
}


def main() -> None:
    """Draws the figure and prints a line for each set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=Path("docs/images/time-to-score.png"))
    options = parser.parse_args()
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    print("| set | seeds | vitlora | peer | difference, points (95%) | CPU seconds | time |")
    print("|---|---|---|---|---|---|---|")
    for (name, (way, peer)), marker in zip(SETS.items(), "osD^vP", strict=True):
        ours, theirs = runs("recipe_kept", name, way), runs("recipe_kept", name, peer)
        mine, other = mean(ours, "accuracy"), mean(theirs, "accuracy")
        seconds = mean(ours, "cpu_seconds"), mean(theirs, "cpu_seconds")
        time, gap, half = seconds[0] / seconds[1], 100 * (mine - other), half_interval(ours, theirs)
        axes.errorbar(time, gap, half, fmt=marker, capsize=4, label=name)
        spread = f" ({gap - half:+.1f} to {gap + half:+.1f})" if half else ""
        cells = [name, f"{len(ours)}, {len(theirs)}", f"{mine:.3f}", f"{other:.3f}"]
        cells += [f"{gap:+.1f}{spread}", "{:.0f}, {:.0f}".format(*seconds), f"{time:.2f} x"]
        print(f"| {' | '.join(cells)} |")
    axes.errorbar(1, 0, fmt="k*", markersize=12, label="transformers.Trainer + PEFT")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel="CPU time of the whole run, peer = 1", xlim=(0, 1.1))
    axes.set(ylabel="test accuracy, points above the peer")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="upper left")
    figure.savefig(options.output, dpi=130, metadata={"Software": "vitlora"})


def runs(file: str, data: str, way: str) -> list[Row]:
    """Returns the runs of a set."""
    found = rows(RESULTS / f"{file}.jsonl")
    return [row for row in found if (row["data"], row["way"]) == (data, way)]


def mean(found: list[Row], key: str) -> float:
    """Returns the mean over the seeds."""
    return statistics.mean(float(row[key]) for row in found)


def half_interval(ours: list[Row], theirs: list[Row]) -> float | None:
    """Returns half the 95% interval of the difference in points; None if a side has one run."""
    sides = [[100 * float(row["accuracy"]) for row in found] for found in (ours, theirs)]
    if min(map(len, sides)) < 2:
        return None
    errors = [statistics.variance(side) / len(side) for side in sides]
    parts = (error**2 / (len(side) - 1) for error, side in zip(errors, sides, strict=True))
    freedom = sum(errors) ** 2 / sum(parts)
    return float(t.ppf(0.975, freedom)) * sum(errors) ** 0.5


if __name__ == "__main__":
    main()
