"""Time of a picture in training and in prediction, by how many a CPU computes at once.

    python benchmarks/pieces.py [--threads 1] [--turns 2]

A batch of 32 is computed in pieces of 4, 8, 16 and at once, in turns, each in a process of its own:
whether memory is there already or has to be asked for depends on what ran before. With one thread
the time is that of the CPU, with several that of the clock. Random weights and pictures: time does
not depend on them. Appended to benchmarks/results/pieces.jsonl; ``peak_mb`` is the plan's.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from vitlora import pieces
from vitlora.adapters import Lora
from vitlora.memory import footprint
from vitlora.training.classifier import Classifier
from vitlora.training.loss import summed_loss

RESULTS = Path(__file__).parent / "results" / "pieces.jsonl"
BATCH, SIZES, STEPS = 32, (4, 8, 16, 32), 3
TINY, BASE = "timm/vit_tiny_patch16_224", "timm/vit_base_patch16_224"
# backbone, precision, share of the patches left out, kind of pass
RUNS = [
    (TINY, "bf16-mixed", 0.0, "training"),
    (TINY, "32-true", 0.0, "training"),
    (TINY, "bf16-mixed", 0.5, "training"),
    (TINY, "bf16-mixed", 0.0, "prediction"),
    (TINY, "32-true", 0.0, "prediction"),
    (BASE, "bf16-mixed", 0.0, "training"),
]


def main() -> None:
    """Prints a JSON line for each network, precision and kind of pass."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--one", nargs=2, type=int, help="run here: a line of RUNS, a size")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        print(_milliseconds(RUNS[options.one[0]], options.one[1], options.threads))
        return
    for number, (backbone, precision, drop, kind) in enumerate(RUNS):
        taken: dict[int, list[float]] = {size: [] for size in SIZES}
        for _ in range(options.turns):
            for size, found in taken.items():
                words = ["--threads", options.threads, "--one", number, size]
                found.append(float(_here(words)))
        row = {
            "backbone": backbone,
            "precision": precision,
            "patch_drop": drop,
            "kind": kind,
            "threads": options.threads,
            "ms_a_picture": {size: round(statistics.median(t), 2) for size, t in taken.items()},
        }
        if kind == "training":
            model = {"backbone": backbone, "adapter": Lora(), "patch_drop": drop}
            counted = footprint(model, 6, "cpu", precision)
            row["chosen"] = counted.at_once
            row["peak_mb"] = {
                size: round(replace(counted, at_once=size).total(BATCH) / 1e6) for size in SIZES
            }
        print(json.dumps(row), flush=True)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def _here(words: list[object]) -> str:
    done = subprocess.run(
        [sys.executable, __file__, *map(str, words)], capture_output=True, text=True, check=True
    )
    return done.stdout


def _milliseconds(run: tuple[str, str, float, str], size: int, threads: int) -> float:
    backbone, precision, drop, kind = run
    model = Classifier(6, backbone, "none", adapter=Lora(), patch_drop=drop)
    model.build(torch.device("cpu"), precision)
    images = torch.randn(BATCH, 3, 224, 224)
    clock, pass_ = time.process_time, _train if kind == "training" else _predict
    clock = clock if threads == 1 else time.perf_counter
    times: list[float] = []
    for _ in range(1 + STEPS):
        start = clock()
        with torch.autocast("cpu", torch.bfloat16, enabled="bf16" in precision):
            pass_(model, images, size)
        times.append(1000 * (clock() - start) / BATCH)
    return statistics.median(times[1:])  # the first warms up


def _train(model: Classifier, images: torch.Tensor, size: int) -> None:
    model.train().zero_grad()
    trained = [p for p in model.parameters() if p.requires_grad]
    loss = partial(summed_loss, weights=None, smoothing=0.1)
    labels = torch.zeros(len(images), dtype=torch.long)
    pieces.differentiated(model, loss, images.split(size), labels, trained)[0].backward()


@torch.inference_mode()
def _predict(model: Classifier, images: torch.Tensor, size: int) -> None:
    model.eval()
    for some in images.split(size):
        model(some)


if __name__ == "__main__":
    main()
