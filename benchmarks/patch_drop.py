"""What leaving out patches in training costs in accuracy and saves in time, on several sets.

    python benchmarks/patch_drop.py --data SETS/a SETS/b --weights VIT_TINY.safetensors

Every set has train/, val/ and test/. Each run is ``vitlora fit`` and ``vitlora test`` in processes
of their own, scored on the test pictures; seconds are of the CPU, all threads together. A run that
is in the output already is not repeated.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

WAYS = [(0.0, 6), (0.5, 6), (0.5, 12), (0.75, 6)]  # share left out, epochs


def main() -> None:
    """Runs what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--backbone", default="timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", type=int, nargs="+", default=list(range(len(WAYS))))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/patch_drop.jsonl"))
    options = parser.parse_args()
    for seed in options.seeds:
        for data in options.data:
            for share, epochs in (WAYS[way] for way in options.ways):
                key = {"data": data.name, "patch_drop": share, "epochs": epochs, "seed": seed}
                if any(key.items() <= row.items() for row in rows(options.output)):
                    continue
                row = key | {"base": options.backbone} | run(options, data, share, epochs, seed)
                with options.output.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)
    print(table(rows(options.output)))


def run(
    options: argparse.Namespace, data: Path, share: float, epochs: int, seed: int
) -> dict[str, float]:
    """Returns the scores of one training on the test pictures, and its CPU seconds."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = str(Path(folder) / "bundle")
        before = os.times()
        vitlora(
            *("fit", "--data", str(data), "--output", bundle, "--model.backbone", options.backbone),
            *("--weights", str(options.weights), "--seed_everything", str(seed)),
            *("--trainer.max_epochs", str(epochs), "--model.patch_drop", str(share)),
        )
        after = os.times()
        found = json.loads(vitlora("test", "--checkpoint", bundle, "--json", "-"))
    seconds = sum(after[2:4]) - sum(before[2:4])
    return {
        "accuracy": found["accuracy"],
        "macro_f1": found["macro_f1"],
        "cpu_seconds": round(seconds, 1),
    }


def vitlora(*words: str) -> str:
    """Returns what a command prints."""
    command = [sys.executable, "-m", "vitlora", *words]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def rows(path: Path) -> list[dict[str, float]]:
    """Returns the runs of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(found: list[dict[str, float]]) -> str:
    """Returns a line for each set and way: means over the seeds, and their range."""
    groups: dict[tuple[float, ...], list[dict[str, float]]] = {}
    for row in found:
        groups.setdefault((row["data"], row["patch_drop"], row["epochs"]), []).append(row)
    lines = [
        "| set | patches left out | epochs | seeds | accuracy | macro-F1 | CPU seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for (data, share, epochs), runs in sorted(groups.items()):
        cells = [_spread([run[key] for run in runs]) for key in ("accuracy", "macro_f1")]
        seconds = statistics.median(run["cpu_seconds"] for run in runs)
        lines.append(
            f"| {data} | {share:g} | {epochs} | {len(runs)} | {' | '.join(cells)} | {seconds:.0f} |"
        )
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"{statistics.fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
