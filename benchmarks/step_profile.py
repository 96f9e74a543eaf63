"""Where the time of a LoRA training step goes, by kind of operation, on one CPU thread.

    python benchmarks/step_profile.py

Random pictures and weights; the profiler's own time of each operation over five steps after two.
Rows are printed and appended to benchmarks/results/step_profile.jsonl.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from torch.utils.data import TensorDataset

from vitlora.adapters import Lora
from vitlora.training import Trainer
from vitlora.training.classifier import Classifier

RESULTS = Path(__file__).parent / "results" / "step_profile.jsonl"
RUNS = (
    ("vit_tiny_patch16_224", 16, "bf16-mixed"),
    ("vit_tiny_patch16_224", 16, "32-true"),
    ("vit_base_patch16_224", 4, "32-true"),
)
WARM_UP, STEPS = 2, 5
KINDS = {  # the first whose pattern an operation's name has
    "attention": "bmm|softmax|scaled_dot|flash_attention",
    "matrix products": "mm|linear|convolution",
    "gelu": "gelu",
    "norms": "layer_norm",
    "copies and casts": "copy_|clone|cat$",
}


class Profiled(Callback):
    """Profiles the steps after the first ones."""

    def __init__(self) -> None:
        self.profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])

    def on_train_batch_end(
        self,
        trainer: LightningTrainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Starts and stops the profiler."""
        if batch_idx + 1 == WARM_UP:
            self.profile.start()
        if batch_idx + 1 == WARM_UP + STEPS:
            self.profile.stop()


def main() -> None:
    """Prints a JSON line for each run."""
    torch.set_num_threads(1)
    for name, batch, precision in RUNS:
        seen = Profiled()
        count = batch * (WARM_UP + STEPS + 1)
        trainer = Trainer(
            max_epochs=1,
            accelerator="cpu",
            precision=precision,  # pyright: ignore[reportArgumentType]
            enable_progress_bar=False,
            callbacks=[seen],
            logger=False,
        )
        model = Classifier(6, f"timm/{name}", weights="none", adapter=Lora(rank=8))
        pictures = TensorDataset(torch.randn(count, 3, 224, 224), torch.arange(count) % 6)
        trainer.fit(model, LightningDataModule.from_datasets(pictures, batch_size=batch))
        row = {"backbone": name, "batch": batch, "precision": precision, "threads": 1}
        line = json.dumps({**row, "shares": _shares(seen.profile)})
        print(line, flush=True)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def _shares(profile: torch.profiler.profile) -> dict[str, float]:
    spent: dict[str, float] = {}
    for event in profile.key_averages():
        kinds = (kind for kind, pattern in KINDS.items() if re.search(pattern, event.key))
        kind = next(kinds, "the rest")
        spent[kind] = spent.get(kind, 0) + event.self_cpu_time_total
    whole = sum(spent.values())
    return {kind: round(time / whole, 3) for kind, time in sorted(spent.items())}


if __name__ == "__main__":
    main()
