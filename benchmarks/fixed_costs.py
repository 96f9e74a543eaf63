"""CPU time and memory of short commands: what a run costs before and after its work.

    pip install transformers accelerate
    git worktree add ../before COMMIT
    python benchmarks/fixed_costs.py --data TRASHNET --weights VIT_TINY.safetensors \
        --before ../before

Fresh processes in turns: this build, the build before it, and for ``fit`` also
``transformers.Trainer`` with plain PEFT, whose photos are decoded and augmented by torchvision.
``fit`` trains one step on 32 photos and validates on 8. Seconds are user and system time of the
process and its children, with one thread for torch: several threads that wait for each other count
as busy. Printed and appended to benchmarks/results/fixed_costs.jsonl.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "fixed_costs.jsonl"
HERE = Path(__file__).parents[1]
VIT_TINY = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
GIANT = "timm/vit_7b_patch16_dinov3"
SPLITS = {"train": 32, "val": 8, "test": 8}


def main() -> None:
    """Prints a JSON line for each command and build."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--before", type=Path, required=True, help="a checkout of another build")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--peer", type=Path, help="run the peer here; its adapter goes there")
    options = parser.parse_args()
    if options.peer:
        _peer(options.data, options.weights, options.peer)
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = _measured(options, Path(folder))
    with RESULTS.open("a", encoding="utf-8") as file:
        for (command, who), found in rows.items():
            seconds, peaks = zip(*found, strict=True)
            row = {
                "command": command,
                "who": who,
                "cpu_seconds": round(statistics.median(seconds), 2),
                "peak_mb": round(statistics.median(peaks)),
                "turns": options.turns,
            }
            print(json.dumps(row))
            file.write(json.dumps(row) + "\n")


def _measured(
    options: argparse.Namespace, folder: Path
) -> dict[tuple[str, str], list[tuple[float, float]]]:
    rows: dict[tuple[str, str], list[tuple[float, float]]] = {}
    data = folder / "data"
    _draw(options.data, data)
    builds = {"now": HERE, "before": options.before}
    for _ in range(options.turns):
        for who, build in builds.items():
            bundle = folder / "bundle"
            shutil.rmtree(bundle, ignore_errors=True)
            for command, words in _commands(data, options.weights, bundle).items():
                found = _run(["-m", "vitlora", *words], build)
                rows.setdefault((command, who), []).append(found)
        peer = [__file__, "--data", data, "--weights", options.weights, "--before", "."]
        found = _run([*peer, "--peer", folder / "peer"], HERE)
        rows.setdefault(("fit", "transformers.Trainer + PEFT"), []).append(found)
    return rows


def _commands(data: Path, weights: Path, bundle: Path) -> dict[str, list[object]]:
    base = ["--model.backbone", f"timm/{VIT_TINY}"]
    fit = ["fit", "--data", data, *base, "--model.weights", weights, "--output", bundle]
    known = ["--checkpoint", bundle, "--data", data]
    return {
        "fit": [*fit, "--trainer.max_epochs", 1],
        "validate": ["validate", *known],
        "test": ["test", *known],
        "report": ["report", *known, "--output", bundle.with_suffix(".html")],
        "calibrate": ["calibrate", *known],
        "fit --help": ["fit", "--help"],
        "plan, ViT-Tiny": ["plan", "--data", data, *base],
        "plan, 7B": ["plan", "--model.backbone", GIANT, "--vram", "6GB"],
    }


def _draw(source: Path, target: Path) -> None:
    """Copies the first photos of each class in turn."""
    for split, count in SPLITS.items():
        classes = [sorted(folder.iterdir()) for folder in sorted((source / split).iterdir())]
        in_turn = (photo for row in zip(*classes, strict=False) for photo in row)
        for photo in islice(in_turn, count):
            place = target / split / photo.parent.name
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(photo, place)


def _run(words: Sequence[object], build: Path) -> tuple[float, float]:
    """Returns CPU seconds and peak MB of a Python process."""
    environment = {**os.environ, "PYTHONPATH": str(build), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=build,  # where -m looks first
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"status {status}: {' '.join(map(str, words))}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def _peer(root: Path, weights: Path, output: Path) -> None:
    import torch
    from peer import Peer, collate, vit_tiny
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2
    from transformers import Trainer, TrainingArguments

    bicubic = v2.InterpolationMode.BICUBIC
    last = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.5])]
    crop = v2.RandomResizedCrop(224, (0.5, 1), interpolation=bicubic)
    train = ImageFolder(str(root / "train"), v2.Compose([crop, v2.RandomHorizontalFlip(), *last]))
    centre = [v2.Resize(248, interpolation=bicubic), v2.CenterCrop(224)]
    val = ImageFolder(str(root / "val"), v2.Compose([*centre, *last]))
    arguments = TrainingArguments(
        str(output),
        num_train_epochs=1,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=32,
        learning_rate=2e-3,
        bf16=True,
        use_cpu=True,
        eval_strategy="epoch",
        save_strategy="no",
        report_to=[],
        dataloader_num_workers=2,
        logging_strategy="no",
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    wrapped = Peer(vit_tiny(weights, len(train.classes)))
    trainer = Trainer(
        wrapped,
        arguments,
        train_dataset=train,
        eval_dataset=val,
        data_collator=collate,
        compute_metrics=lambda p: {
            "accuracy": float((p.predictions.argmax(1) == p.label_ids).mean())  # pyright: ignore
        },
    )
    trainer.train()
    wrapped.network.save_pretrained(str(output), save_embedding_layers=False)


if __name__ == "__main__":
    main()
