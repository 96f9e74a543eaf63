"""How many wrong labels ``doctor --check-labels`` finds, and how many of its finds are wrong.

    python benchmarks/label_noise.py --data FOLDER ... --weights VIT_TINY [--out FILE.jsonl]

Of all pictures of ``--data`` 3% get another label, drawn by a seed; the features are those of a
frozen ViT-Tiny, or of the micro-ViT that ships with vitlora. Labels that were wrong before count
as right ones here, so precision is a lower bound: ``unflipped`` is how many labels are found where
none was changed. Beside it: the same by the linear probe alone, and calling every label wrong that
the probe's answer does not share.
"""

import argparse
import json
import time
from itertools import product
from pathlib import Path

import torch

from vitlora.backbones import load_backbone
from vitlora.data.read import read_folder
from vitlora.evaluation.answers import answer
from vitlora.metrics.label_noise import judged, out_of_fold, suspects

BASES = ("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", "vitlora/vit_micro_patch8_96")
SHARE, SEEDS = 0.03, 3


def main() -> None:
    """Prints and keeps one JSON line for each folder, base and seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/label_noise.jsonl"))
    options = parser.parse_args()
    with options.out.open("w") as out:
        for root, name in product(options.data, BASES):
            folder = read_folder(root).pooled()
            weights = options.weights if name.startswith("timm/") else None
            base = load_backbone(name, len(folder.classes), weights)
            answers = answer(base.module.eval(), folder.splits["all"], base.preprocessing)
            for seed in range(SEEDS):
                found = _found(answers.features, answers.labels, seed)
                row = {"data": root.name, "base": name, "seed": seed, **found}
                print(json.dumps(row), flush=True)
                out.write(json.dumps(row) + "\n")


def _found(features: torch.Tensor, true: torch.Tensor, seed: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(seed)
    flipped = torch.randperm(len(true), generator=generator)[: round(SHARE * len(true))]
    classes, labels = int(true.max()) + 1, true.clone()
    moves = torch.randint(1, classes, (len(flipped),), generator=generator)
    labels[flipped] = (true[flipped] + moves) % classes
    start = time.process_time()
    ours = _indices(judged(features, labels), labels)
    seconds = time.process_time() - start
    by_probe = out_of_fold(features, labels)
    plain = (by_probe.argmax(1) != labels).nonzero().flatten().tolist()
    wrong = set(flipped.tolist())
    return {
        "flipped": len(wrong),
        "unflipped": len(_indices(judged(features, true), true)),
        **_scores("", ours, wrong),
        **_scores("probe_", _indices(by_probe, labels), wrong),
        **_scores("plain_", plain, wrong),
        "core_seconds": round(seconds, 1),
    }


def _indices(probabilities: torch.Tensor, labels: torch.Tensor) -> list[int]:
    return [one.index for one in suspects(probabilities, labels)]


def _scores(name: str, found: list[int], wrong: set[int]) -> dict[str, float]:
    """Returns how good finds are; ``first`` is the precision of as many as there are mistakes."""
    return {
        f"{name}suspects": len(found),
        f"{name}precision": round(len(wrong & {*found}) / len(found), 3),
        f"{name}recall": round(len(wrong & {*found}) / len(wrong), 3),
        f"{name}first": round(len(wrong & {*found[: len(wrong)]}) / len(wrong), 3),
    }


if __name__ == "__main__":
    main()
