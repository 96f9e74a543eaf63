"""Images per second of training: vitlora's fit against ``transformers.Trainer`` and plain PEFT.

    pip install transformers accelerate
    python benchmarks/step_peer.py [--model vit_tiny_patch16_224] [--batch 16] [--rank 8]
        [--targets qkv proj fc1 fc2] [--precision bf16] [--steps 6] [--turns 5] [--threads 2]
        [--patch-drop 0 0.5] [--quantization nf4] [--chips own plain]

Both train the same LoRA on the same timm model (random weights: time does not depend on them) with
pictures that lie in memory, so that neither waits for a loader; patches are dropped and the base
rounded to 4 bits in ours alone. Both run their whole loops: optimiser,
schedule, clipping and logging included. They take turns in one process; each turn trains ``steps``
steps after two that do not count. Printed is the median over the turns of ours over theirs. Of one
thread on a CPU, its CPU time counts, which other processes disturb less than the clock.

``--chips`` runs each turn in a process of its own: ``own`` on this chip as it is, ``plain`` in fp32
with libraries told to use AVX2 alone, since many laptops have neither AVX-512 nor bf16. It comes
last.
"""

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule
from torch.utils.data import TensorDataset

from vitlora.adapters import Lora
from vitlora.training import Trainer
from vitlora.training.classifier import Classifier

ROLES = {"qkv": "attention.qkv", "proj": "attention.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
CHIPS = {
    "own": {},
    "plain": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
}
WARM_UP = 2
CLASSES = 6


def main() -> None:
    """Prints a JSON line for each chip and share of dropped patches."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--targets", nargs="+", choices=ROLES, default=list(ROLES))
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--patch-drop", nargs="+", type=float, default=[0.0])
    parser.add_argument("--quantization", choices=["none", "nf4"], default="none")
    parser.add_argument("--chips", nargs="+", choices=CHIPS, default=[])
    options = parser.parse_args()
    if options.chips:
        _take_turns(options)
        return
    for name in ("lightning.pytorch", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    ours: dict[float, list[float]] = {drop: [] for drop in options.patch_drop}
    theirs = []
    for _ in range(options.turns):
        theirs.append(_theirs(options))
        for drop, speeds in ours.items():
            speeds.append(_ours(options, drop))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    for drop, speeds in ours.items():
        row = {**vars(options), "patch_drop": drop, "device": device}
        del row["chips"]
        print(json.dumps({**row, **_summary(speeds, theirs)}), flush=True)


def _take_turns(options: argparse.Namespace) -> None:
    """Runs each turn on each chip in a process of its own."""
    own = sys.argv[1 : sys.argv.index("--chips")]
    rows: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for _ in range(options.turns):
        for chip in options.chips:
            more = ["--turns", "1", *(["--precision", "fp32"] if chip == "plain" else [])]
            done = subprocess.run(
                [sys.executable, __file__, *own, *more],
                env={**os.environ, **CHIPS[chip]},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            for line in done.stdout.splitlines():
                if line.startswith('{"'):
                    row = json.loads(line)
                    rows.setdefault((chip, row["patch_drop"]), []).append(row)
    for (chip, _), seen in rows.items():
        ours, theirs = (
            [row[f"{who}_images_per_second"] for row in seen] for who in ("vitlora", "peer")
        )
        row = {**seen[0], "chip": chip, "turns": len(seen)}
        print(json.dumps({**row, **_summary(ours, theirs)}), flush=True)


def _summary(ours: list[float], theirs: list[float]) -> dict[str, float]:
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {
        "vitlora_images_per_second": round(statistics.median(ours), 2),
        "peer_images_per_second": round(statistics.median(theirs), 2),
        "ratio": round(statistics.median(ratios), 3),
        "min": round(min(ratios), 3),
        "max": round(max(ratios), 3),
    }


class _Clock:
    """Times the steps after the first ones."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def step(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
        self.ends.append(time.process_time() if alone else time.perf_counter())

    def images_per_second(self, batch: int) -> float:
        timed = self.ends[WARM_UP - 1 :]
        return batch * (len(timed) - 1) / (timed[-1] - timed[0])


def _pictures(options: argparse.Namespace) -> TensorDataset:
    count = options.batch * (options.steps + WARM_UP)
    return TensorDataset(torch.randn(count, 3, 224, 224), torch.arange(count) % CLASSES)


def _ours(options: argparse.Namespace, drop: float) -> float:
    clock = _Clock()

    class Steps(Callback):
        def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
            clock.step()

    adapter = Lora(rank=options.rank, targets=[ROLES[name] for name in options.targets])
    model = Classifier(
        CLASSES,
        f"timm/{options.model}",
        weights="none",
        adapter=adapter,
        quantization=options.quantization,
        patch_drop=drop,
    )
    trainer = Trainer(
        max_epochs=1,
        precision="bf16-mixed" if options.precision == "bf16" else "32-true",
        enable_progress_bar=False,
        callbacks=[Steps()],
    )
    data = LightningDataModule.from_datasets(_pictures(options), batch_size=options.batch)
    trainer.fit(model, data)
    return clock.images_per_second(options.batch)


def _theirs(options: argparse.Namespace) -> float:
    from peer import Peer, collate
    from timm import create_model
    from transformers import Trainer as PeerTrainer
    from transformers import TrainerCallback, TrainingArguments

    names = "|".join(ROLES[name].replace("attention", "attn") for name in options.targets)
    model: Any = create_model(options.model, num_classes=CLASSES)
    clock = _Clock()

    class Steps(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.step()

    with tempfile.TemporaryDirectory() as output:
        arguments = TrainingArguments(
            output,
            num_train_epochs=1,
            per_device_train_batch_size=options.batch,
            learning_rate=2e-3,
            lr_scheduler_type="cosine",
            warmup_steps=0.1,
            bf16=options.precision == "bf16",
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            report_to=[],
            remove_unused_columns=False,
            max_grad_norm=1.0,
            disable_tqdm=True,
        )
        PeerTrainer(
            Peer(model, names, options.rank),
            arguments,
            train_dataset=_pictures(options),
            data_collator=collate,
            callbacks=[Steps()],
        ).train()
    return clock.images_per_second(options.batch)


if __name__ == "__main__":
    main()
