"""What leaving out patches in training costs in accuracy and saves in time, on several sets.

    python benchmarks/patch_drop.py --data SETS/a SETS/b --weights VIT_TINY.safetensors
    python benchmarks/patch_drop.py --steps    # a step's CPU time, on one thread, random weights

Every set has train/, val/ and test/. Each run is ``vitlora fit`` and ``vitlora test`` in processes
of their own, scored on the test pictures; seconds are of the CPU, all threads together. A run that
is in the output already is not repeated. Steps take turns; their ratios are of pairs of one turn,
written to ``patch_drop_step.jsonl``.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
WAYS = [(0.0, 6), (0.5, 6), (0.5, 12), (0.75, 6)]  # share left out, epochs


def main() -> None:
    """Runs what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="+", default=[])
    parser.add_argument("--backbone", default="timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--steps", action="store_true", help="time single steps instead")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", type=int, nargs="+", default=list(range(len(WAYS))))
    parser.add_argument("--output", type=Path, default=RESULTS / "patch_drop.jsonl")
    options = parser.parse_args()
    if options.steps:
        steps(RESULTS / "patch_drop_step.jsonl")
        return
    if not options.data or options.weights is None:
        parser.error("expected --data and --weights, or --steps")
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


def steps(output: Path, batch: int = 8, turns: int = 7) -> None:
    """Writes the time of a step that leaves out patches, over that of one with all."""
    import torch

    torch.set_num_threads(1)
    with output.open("w") as file:
        for precision in ("32-true", "bf16-mixed"):
            work = {share: _step(share, precision, batch) for share in (0.0, 0.5, 0.75)}
            ratios: dict[float, list[float]] = {share: [] for share in work}
            for turn in range(turns + 1):
                taken = {share: _cpu_seconds(step) for share, step in work.items()}
                if turn:  # the first turn warms up
                    for share in work:
                        ratios[share].append(taken[share] / taken[0.0])
            for share in (0.5, 0.75):
                row = {
                    "base": "vit_tiny_patch16_224",
                    "precision": precision,
                    "batch": batch,
                    "patch_drop": share,
                    "time_over_all_patches": round(statistics.median(ratios[share]), 3),
                    "min": round(min(ratios[share]), 3),
                    "max": round(max(ratios[share]), 3),
                }
                print(json.dumps(row), flush=True)
                file.write(json.dumps(row) + "\n")


def _step(share: float, precision: str, batch: int) -> Callable[[], None]:
    import torch
    import torch.nn.functional as F

    from vitlora.adapters import Lora
    from vitlora.training.classifier import Classifier

    name = "timm/vit_tiny_patch16_224"
    model = Classifier(6, name, "none", adapter=Lora(8), patch_drop=share)
    model.build(torch.device("cpu"), precision)
    model.train()
    images, labels = torch.randn(batch, 3, 224, 224), torch.zeros(batch, dtype=torch.long)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision != "32-true"):
            loss = F.cross_entropy(model(images).float(), labels)
        loss.backward()
        model.zero_grad()

    return step


def _cpu_seconds(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


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
