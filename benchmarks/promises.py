"""Whether ``unsure.max_error`` holds: thousands of draws of validation pictures from real logits.

    python benchmarks/promises.py --weights VIT_TINY --data trashnet=DIR eurocoins=DIR ...
    python benchmarks/promises.py --logits LOGITS.pt --name "LoRA, TrashNet"

A linear probe on frozen features gives each epoch's logits on the held-out pool, validation and
test together (``--logits`` reads them instead: a tensor ``(epochs, N, C)`` and labels ``(N,)``).
Draws with replacement from the pool stand for validation sets, the pool itself for all pictures to
come. Each draw chooses the epoch of its highest accuracy, fits the temperature and chooses the
threshold, all on the same pictures, as ``fit`` does. Two rules stand side by side: the promise, and
the lowest threshold that keeps to the share on the draw itself. Broken is a draw whose sure answers
are wrong more often on the pool than asked. Appends one JSON line for each pool, size and share.
"""

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F

from vitlora.backbones import load_backbone
from vitlora.data.read import read_folder
from vitlora.evaluation.answers import answer
from vitlora.metrics.confidence import NEVER, fit_temperature, threshold_for_error

_BASE = "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
_EPOCHS = 12


def main() -> None:
    """Prints and keeps the lines."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights")
    parser.add_argument("--data", nargs="*", default=[], metavar="NAME=DIR")
    parser.add_argument("--logits", type=Path)
    parser.add_argument("--name", default="logits", help="what those logits are called")
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--images", type=int, nargs="+", default=[60, 200, 1000])
    parser.add_argument("--max-error", type=float, nargs="+", default=[0.05, 0.1])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/promises.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    pools = {options.name: torch.load(options.logits)} if options.logits else {}
    for word in options.data:
        name, _, root = word.partition("=")
        pools[f"linear probe, {name}"] = probe(root, options.weights)
    for name, (logits, labels) in pools.items():
        for images in options.images:
            for line in simulate(logits, labels, images, options.max_error, options.draws):
                line = {"name": name, "classes": logits.shape[2], "pool": len(labels), **line}
                with options.output.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(json.dumps(line), flush=True)


def probe(root: str, weights: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the logits of each epoch, ``(epochs, N, C)``, on the held-out pool, and labels."""
    folder = read_folder(root)
    backbone = load_backbone(_BASE, num_classes=len(folder.classes), weights=weights)
    network, splits = backbone.module.eval(), folder.splits
    train = answer(network, splits["train"], backbone.preprocessing)
    held_out = answer(network, [*splits["val"], *splits["test"]], backbone.preprocessing)
    mean, std = train.features.mean(0), train.features.std(0)
    seen, pool = ((x.features - mean) / std for x in (train, held_out))
    torch.manual_seed(0)
    head = torch.nn.Linear(seen.shape[1], len(folder.classes))
    torch.nn.init.zeros_(head.weight)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3)
    logits = []
    for _ in range(_EPOCHS):
        for batch in torch.randperm(len(seen)).split(32):
            optimizer.zero_grad()
            F.cross_entropy(head(seen[batch]), train.labels[batch]).backward()
            optimizer.step()
        logits.append(head(pool).detach())
    return torch.stack(logits), held_out.labels


def simulate(
    logits: torch.Tensor, labels: torch.Tensor, images: int, shares: list[float], draws: int
) -> list[dict[str, object]]:
    """Returns a line for each share of wrong answers asked for."""
    generator = torch.Generator().manual_seed(0)
    right = logits.argmax(2) == labels
    found: dict[float, list[tuple[float, ...]]] = {share: [] for share in shares}
    for _ in range(draws):
        drawn = torch.randint(len(labels), (images,), generator=generator)
        epoch = int(right[:, drawn].sum(1).argmax())
        temperature = fit_temperature(logits[epoch, drawn], labels[drawn])
        confidence = (logits[epoch] / temperature).softmax(1).amax(1)
        for share in shares:
            rules = (threshold_for_error, as_measured)
            row = []
            for rule in rules:
                threshold = rule(confidence[drawn], right[epoch, drawn], share)
                sure = confidence >= threshold
                error = float((~right[epoch, sure]).float().mean()) if sure.any() else 0.0
                row += [float(error > share), float(sure.float().mean()), threshold < NEVER]
            found[share].append(tuple(row))
    lines = []
    for share, rows in found.items():
        means = torch.tensor(rows).mean(0)
        names = ("broken", "answered", "some_answered")
        new, old = ([round(float(x), 4) for x in means[i : i + 3]] for i in (0, 3))
        lines.append(
            {
                "images": images,
                "max_error": share,
                "draws": draws,
                "accuracy": round(float(right[-1].float().mean()), 4),
                "promised": dict(zip(names, new, strict=True)),
                "as_measured": dict(zip(names, old, strict=True)),
            }
        )
    return lines


def as_measured(confidence: torch.Tensor, right: torch.Tensor, max_error: float) -> float:
    """Returns the lowest threshold at which so few answers to the draw itself are wrong."""
    values, order = confidence.sort(descending=True)
    share = (~right[order]).cumsum(0) / torch.arange(1, len(values) + 1)
    ends = torch.ones_like(right)  # equal confidences stand or fall together
    ends[:-1] = values[:-1] != values[1:]
    fits = ((share <= max_error) & ends).nonzero()
    return float(values[fits[-1]]) if len(fits) else NEVER


if __name__ == "__main__":
    main()
