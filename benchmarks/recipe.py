"""What options of fit change in accuracy and in time, on several sets and seeds, side by side.

    python benchmarks/recipe.py --data SETS/a SETS/b --weights VIT_TINY.safetensors \
        --ways "" "--data.batch_size 16" "--model.patch_drop 0.5 --trainer.max_epochs 12"

A way is a line of options; the first is what the others are compared with. A way such as "peer 6
--lr 1e-3" is ``transformers.Trainer`` with plain PEFT instead, for 6 epochs (see trainer_peer.py),
which sees whole pictures unless it has --crop-mode center. Every set has train/, val/
and test/. Each run is ``vitlora fit`` and ``vitlora test`` in processes of their own, scored
on the test pictures; seconds are of the CPU, all threads together. A run that is in the output
already is not repeated.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from scipy.stats import t

PEER = Path(__file__).parent / "trainer_peer.py"
SCORES = ("accuracy", "macro_f1", "loss")
Row = dict[str, str | float]


def main() -> None:
    """Runs what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--backbone", default="timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", default=[""])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/recipe.jsonl"))
    options = parser.parse_args()
    for seed in options.seeds:
        for data in options.data:
            for way in options.ways:
                key: Row = {"base": options.backbone, "data": data.name, "way": way, "seed": seed}
                if any(key.items() <= row.items() for row in rows(options.output)):
                    continue
                row = key | run(options, data, way, seed)
                with options.output.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)
    print(table(rows(options.output), options.ways))


def run(options: argparse.Namespace, data: Path, way: str, seed: int) -> Row:
    """Returns the scores of one training on the test pictures, and its CPU seconds."""
    same = ("--data", str(data), "--weights", str(options.weights))
    with tempfile.TemporaryDirectory() as folder:
        before = os.times()
        if way.startswith("peer "):
            score = Path(folder) / "score.json"
            python(str(PEER), *same, "--seeds", str(seed), f"--score-to={score}", *peer(way))
            after, found = os.times(), json.loads(score.read_text())
            found["loss"] = found["nll"]
        else:
            bundle = str(Path(folder) / "bundle")
            seeded = ("--seed_everything", str(seed), "--model.backbone", options.backbone)
            python("-m", "vitlora", "fit", *same, "--output", bundle, *seeded, *way.split())
            after = os.times()
            found = json.loads(python("-m", "vitlora", "test", bundle, "--json", "-"))
    seconds = sum(after[2:4]) - sum(before[2:4])
    scores = {name: round(found[name], 6) for name in SCORES}
    return scores | {"cpu_seconds": round(seconds, 1)}


def peer(way: str) -> list[str]:
    """Returns the arguments of trainer_peer.py for "peer EPOCHS ..."."""
    _, epochs, *more = way.split()
    return ["--peer", epochs, *more]


def python(*words: str) -> str:
    """Returns what a script prints."""
    done = subprocess.run([sys.executable, *words], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def rows(path: Path) -> list[Row]:
    """Returns the runs of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(found: list[Row], ways: list[str]) -> str:
    """Returns a line for each way and set: its means, and differences to the first way's.

    Differences are of runs with the same set and seed. The last line of a way is the mean over the
    sets, with the 95% interval that the seeds leave it (Welch's t), if every set has several.
    """
    runs = {(row["way"], row["data"], row["seed"]): row for row in found}
    sets = sorted({str(row["data"]) for row in found})
    lines = ["| options | set | runs | accuracy | difference | macro-F1 | loss | CPU seconds |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for way in ways:
        gaps: list[list[float]] = []
        for data in sets:
            mine = [row for key, row in runs.items() if key[:2] == (way, data)]
            if not mine:
                continue
            pairs = [(row, runs.get((ways[0], data, row["seed"]))) for row in mine]
            gap = [float(a["accuracy"]) - float(b["accuracy"]) for a, b in pairs if b]
            gaps += [gap] if gap else []
            means = {key: _mean(mine, key) for key in (*SCORES, "cpu_seconds")}
            lines.append(
                f"| `{way}` | {data} | {len(mine)} | {means['accuracy']:.3f} | "
                f"{statistics.mean(gap) if gap else 0:+.3f} | {means['macro_f1']:.3f} | "
                f"{means['loss']:.3f} | {means['cpu_seconds']:.0f} |"
            )
        if gaps:
            mean = statistics.mean(map(statistics.mean, gaps))
            lines.append(
                f"| `{way}` | mean of {len(gaps)} | | | {mean:+.3f}{_interval(gaps)} | | | |"
            )
    return "\n".join(lines)


def _interval(gaps: list[list[float]]) -> str:
    """Returns the 95% interval of the mean over sets, as text; none if a set has one seed."""
    if any(len(gap) == 1 for gap in gaps):
        return ""
    errors = [statistics.variance(gap) / len(gap) for gap in gaps]
    if not any(errors):
        return ""
    freedom = sum(errors) ** 2 / sum(
        error**2 / (len(gap) - 1) for error, gap in zip(errors, gaps, strict=True)
    )
    half = float(t.ppf(0.975, freedom)) * sum(errors) ** 0.5 / len(gaps)
    mean = statistics.mean(map(statistics.mean, gaps))
    return f" ({mean - half:+.3f} to {mean + half:+.3f})"


def _mean(found: list[Row], key: str) -> float:
    known = [float(row[key]) for row in found if key in row]  # the oldest runs have no loss
    return statistics.mean(known) if known else float("nan")


if __name__ == "__main__":
    main()
