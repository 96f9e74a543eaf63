"""Time to a score: our ways against the peer's, from the runs that recipe.py kept.

    python benchmarks/time_to_score.py --runs benchmarks/results/recipe_kept.jsonl \
        --ours "" --peer "peer 6 --lr 2e-3 --batch 16 --crop-mode center" [--picture FILE.png]

For each set: the peer's best way by mean accuracy over its seeds, its CPU seconds, and those of our
cheapest way that is at least as accurate. Choosing the best of several ways by their own score
favours the peer. Prints a table; the last line is the geometric mean over the sets that we reach.
"""

import argparse
import statistics
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from recipe import Row, rows


@dataclass(frozen=True)
class Way:
    """Runs with the same options on the same set.

    Attributes:
        name: The options.
        accuracy: Mean over the seeds.
        seconds: Mean CPU seconds of a run.
        runs: Number of seeds.
    """

    name: str
    accuracy: float
    seconds: float
    runs: int


def main() -> None:
    """Prints the table, and draws it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ours", nargs="+", required=True)
    parser.add_argument("--peer", nargs="+", required=True)
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="what recipe.py wrote")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    found = [row for file in options.runs for row in rows(file)]
    sets = {
        data: (_ways(found, data, options.ours), _ways(found, data, options.peer))
        for data in sorted({str(row["data"]) for row in found})
    }
    sets = {data: pair for data, pair in sets.items() if all(pair)}
    print(table(sets))
    if options.picture:
        _drawn(sets).savefig(options.picture, dpi=110)


def _ways(found: list[Row], data: str, names: list[str]) -> list[Way]:
    """Returns the ways that ran on a set, the cheapest first."""
    ways = []
    for name in names:
        mine = [row for row in found if row["data"] == data and row["way"] == name]
        if mine:
            accuracy, seconds = (_mean(mine, key) for key in ("accuracy", "cpu_seconds"))
            ways.append(Way(name, accuracy, seconds, len(mine)))
    return sorted(ways, key=lambda way: way.seconds)


def _mean(found: list[Row], key: str) -> float:
    return statistics.mean(float(row[key]) for row in found)


def table(sets: dict[str, tuple[list[Way], list[Way]]]) -> str:
    """Returns a line for each set, and the geometric mean."""
    lines = [
        "| set | peer's best | CPU seconds | ours, as good | CPU seconds | ratio | ours, best |"
    ]
    lines += ["|---|---|---|---|---|---|---|"]
    ratios = []
    for data, (ours, peer) in sets.items():
        best = max(peer, key=lambda way: way.accuracy)
        top = max(ours, key=lambda way: way.accuracy)
        start = (
            f"| {data} | {best.accuracy:.3f} (`{best.name}`, {best.runs}) | {best.seconds:.0f} | "
        )
        end = f" | {top.accuracy:.3f} (`{top.name}`, {top.runs}) |"
        reached = next((way for way in ours if way.accuracy >= best.accuracy), None)
        if reached is None:
            lines.append(f"{start}not reached | | {end}")
            continue
        ratios.append(reached.seconds / best.seconds)
        said = f"{reached.accuracy:.3f} (`{reached.name}`, {reached.runs}) | {reached.seconds:.0f}"
        lines.append(f"{start}{said} | {ratios[-1]:.2f}{end}")
    if ratios:
        mean = statistics.geometric_mean(ratios)
        lines.append(f"| {len(ratios)} of {len(sets)} sets | | | | | {mean:.2f} | |")
    return "\n".join(lines)


def _drawn(sets: dict[str, tuple[list[Way], list[Way]]]) -> Figure:
    """Returns accuracy over CPU seconds, a panel for each set."""
    figure = Figure(figsize=(3 * len(sets), 3.2), layout="constrained")
    panels = figure.subplots(1, len(sets), squeeze=False)[0]
    for panel, (data, (ours, peer)) in zip(panels, sets.items(), strict=True):
        for ways, name, marker in ((ours, "vitlora", "o"), (peer, "Trainer + PEFT", "s")):
            panel.plot([w.seconds for w in ways], [w.accuracy for w in ways], marker, label=name)
        panel.set(title=data, xlabel="CPU seconds", xlim=(0, None))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("test accuracy")
    panels[0].legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
