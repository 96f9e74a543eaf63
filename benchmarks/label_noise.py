"""How many wrong labels ``doctor --check-labels`` finds, and how many of its finds are wrong.

    python benchmarks/label_noise.py --data TRASHNET --weights VIT_TINY [--out FILE.jsonl]

Of all pictures of ``--data`` 3% get another label, drawn by a seed; the features are those of a
frozen ViT-Tiny, or of the micro-ViT that ships with vitlora. Labels that were wrong before count
as right ones here, so precision is a lower bound. Beside it: calling every label wrong that the
out-of-fold answer does not share.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from vitlora.backbones import load_backbone
from vitlora.data.read import read_folder
from vitlora.evaluation.answers import answer
from vitlora.metrics.label_noise import out_of_fold, suspects

BASES = ("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", "vitlora/vit_micro_patch8_96")
SHARE, SEEDS = 0.03, 3


def main() -> None:
    """Prints and keeps one JSON line for each base and seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/label_noise.jsonl"))
    options = parser.parse_args()
    folder = read_folder(options.data).pooled()
    with options.out.open("w") as out:
        for name in BASES:
            weights = options.weights if name.startswith("timm/") else None
            base = load_backbone(name, len(folder.classes), weights)
            answers = answer(base.module.eval(), folder.splits["all"], base.preprocessing)
            for seed in range(SEEDS):
                found = _found(answers.features, answers.labels, seed)
                row = {"data": options.data.name, "base": name, "seed": seed, **found}
                print(json.dumps(row), flush=True)
                out.write(json.dumps(row) + "\n")


def _found(features: torch.Tensor, true: torch.Tensor, seed: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(seed)
    flipped = torch.randperm(len(true), generator=generator)[: round(SHARE * len(true))]
    classes, labels = int(true.max()) + 1, true.clone()
    moves = torch.randint(1, classes, (len(flipped),), generator=generator)
    labels[flipped] = (true[flipped] + moves) % classes
    start = time.process_time()
    probabilities = out_of_fold(features, labels)
    seconds = time.process_time() - start
    ours = [one.index for one in suspects(probabilities, labels)]
    plain = (probabilities.argmax(1) != labels).nonzero().flatten().tolist()
    wrong = set(flipped.tolist())
    return {
        "flipped": len(wrong),
        "suspects": len(ours),
        "precision": round(len(wrong & {*ours}) / len(ours), 3),
        "recall": round(len(wrong & {*ours}) / len(wrong), 3),
        "first_precision": round(len(wrong & {*ours[: len(wrong)]}) / len(wrong), 3),
        "plain_suspects": len(plain),
        "plain_precision": round(len(wrong & {*plain}) / len(plain), 3),
        "plain_recall": round(len(wrong & {*plain}) / len(wrong), 3),
        "core_seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    main()
