"""The time of a training step that leaves out patches, over that of one with all.

    python benchmarks/patch_drop.py

CPU time on one thread, random weights. Steps take turns; their ratios are of pairs of one turn.
What leaving out patches costs in accuracy is in recipe.py's output.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


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


if __name__ == "__main__":
    steps(RESULTS / "patch_drop_step.jsonl")
