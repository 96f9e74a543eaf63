"""Which part of a picture to show the network: center, squash or border, on photos of many shapes.

    python benchmarks/crop_modes.py --data COFFEELEAF CALTECH60 TRASHNET STEEL \
        --weights VIT_TINY.safetensors [--part linear|lora] [--seeds 0 1 2] [--most 60]

ViT-Tiny, 224 pixels, bf16, one thread. Each folder has train/, val/ and test/; of a class at most
``--most`` training and a sixth as many validation pictures count, those whose names' hashes sort
first; all test pictures count. ``border, plain crops`` is seen as border and trained
as the others are: on crops stretched to the square.

``linear``: logistic regression on the frozen network's features, fitted to the evaluation's view
(``views: 0``) or to that many views of recipe ``light``; a seed draws 80% of each class's training
pictures, the same for all modes. With ``--pooled`` a seed instead splits the pictures of all three
folders anew, each class by 6, 1.5 and 2.5 in 10: for a small set, whose test pictures are few.
``lora``: vitlora's own ``fit`` and ``test``, recipe ``light``, LoRA in the last blocks, the frozen
ones cached. A run that the output has is not repeated.
"""

import argparse
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import vitlora
from vitlora.backbones.backbone import features_and_logits, load_backbone
from vitlora.data import datamodule
from vitlora.data.augmentation import Augmentation
from vitlora.data.images import open_image
from vitlora.data.preprocessing import CropMode, Preprocessing
from vitlora.data.read import read_folder

_VIT = "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
# what is seen in evaluation, and the crops of training
_MODES: dict[str, tuple[CropMode, CropMode]] = {
    "center": ("center", "center"),
    "squash": ("squash", "squash"),
    "border": ("border", "border"),
    "border, plain crops": ("border", "center"),
}
_IN_THIS_PROCESS: Any = {"data.num_workers": 0}
_DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)  # of the regression; validation chooses


def main() -> None:
    """Runs what is missing and prints the table."""
    options = _parser().parse_args()
    torch.set_num_threads(1)
    for data in options.data:
        key = {"data": data.name, "most": options.most, "part": options.part}
        key |= {"pooled": True} if options.pooled else {}
        with tempfile.TemporaryDirectory() as folder:
            some = _some(data, Path(folder, "data"), options.most)
            rows = [r for r in _rows(options.output) if ("pooled" in r) == options.pooled]
            done = [r for r in rows if key.items() <= r.items()]
            part = _linear if options.part == "linear" else _lora
            for row in part(some, options, done):
                with options.output.open("a") as file:
                    file.write(json.dumps(key | row) + "\n")
                print(json.dumps(key | row), flush=True)
    print(_table(_rows(options.output)))


def _some(data: Path, folder: Path, most: int) -> Path:
    """Copies the pictures that count."""
    for split, count in (("train", most), ("val", max(2, most // 6)), ("test", None)):
        for kind in sorted((data / split).iterdir()):
            files = sorted(kind.iterdir(), key=lambda p: hashlib.sha256(p.name.encode()).digest())
            (folder / split / kind.name).mkdir(parents=True)
            for file in files[:count]:
                shutil.copy(file, folder / split / kind.name)
    return folder


def _linear(folder: Path, options: Any, done: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    splits = read_folder(folder).splits
    samples = [sample for each in ("train", "val", "test") for sample in splits[each]]
    counts = [len(splits[each]) for each in ("train", "val", "test")]
    labels = torch.tensor([sample.label for sample in samples])
    backbone = load_backbone(_VIT, 1, options.weights)
    network = backbone.module.eval().bfloat16()
    kept: dict[str, torch.Tensor] = {}
    for mode in options.modes:
        seen, trained = _MODES[mode]
        if {row["seed"] for row in done if row["mode"] == mode} >= set(options.seeds):
            continue
        preprocessing = backbone.preprocessing.seeing(seen)
        if seen not in kept:
            kept[seen] = _features(network, samples, preprocessing)
        still = kept[seen]
        light = replace(preprocessing, crop_mode=trained)
        taught = samples if options.pooled else splits["train"]
        views = [_features(network, taught, light, v) for v in range(options.views)]
        for count, features in ((0, [still]), (options.views, views)):
            if not features or (count == 0 and mode == "border, plain crops"):
                continue
            for seed in options.seeds:
                train, *held_out = (
                    _pooled(labels, seed) if options.pooled else _given(labels, counts, seed)
                )
                given = torch.cat([each[train] for each in features])
                target = labels[train].repeat(len(features))
                scores = _probe(given, target, [(still[h], labels[h]) for h in held_out])
                yield {"mode": mode, "views": count, "seed": seed, **scores}


def _given(labels: torch.Tensor, counts: list[int], seed: int) -> list[torch.Tensor]:
    """Returns the places of 80% of each class's training pictures, of validation's and test's."""
    _, val, test = torch.arange(len(labels)).split(counts)
    return [_drawn(labels[: counts[0]], seed, (0, 0.8))[0], val, test]


def _pooled(labels: torch.Tensor, seed: int) -> list[torch.Tensor]:
    """Returns the places of the pictures to train on, to validate on and to test on."""
    return _drawn(labels, seed, (0, 0.6, 0.75, 1))


def _drawn(labels: torch.Tensor, seed: int, edges: Sequence[float]) -> list[torch.Tensor]:
    """Returns shares of the pictures of each class, drawn by the seed: their places."""
    rng = np.random.default_rng(seed)
    places = [rng.permutation(np.flatnonzero(labels == label)) for label in labels.unique()]
    return [
        torch.tensor(np.concatenate([p[ceil(low * len(p)) : ceil(high * len(p))] for p in places]))
        for low, high in pairwise(edges)
    ]


def _features(
    network: Any, samples: Any, preprocessing: Preprocessing, view: int | None = None
) -> torch.Tensor:
    """Returns what the head would get of the evaluation's view, or of one of recipe light."""
    transform = preprocessing.transform() if view is None else Augmentation("light", preprocessing)
    rows, batch = [], []
    with torch.inference_mode():
        for index, sample in enumerate(samples):
            if isinstance(transform, Augmentation):
                transform.seed(0, view or 0, index)
            batch.append(transform(open_image(sample.path)))
            if len(batch) == 32 or index + 1 == len(samples):
                rows.append(features_and_logits(network, torch.stack(batch).bfloat16())[0])
                batch = []
    return torch.cat(rows).clone()


def _probe(
    given: torch.Tensor, target: torch.Tensor, held_out: list[tuple[torch.Tensor, torch.Tensor]]
) -> dict[str, float]:
    """Returns the test scores of the regression that is best in validation."""
    mean, std = given.mean(0), given.std(0).clamp(min=1e-6)
    classes = int(target.max()) + 1
    best, answers = -1.0, torch.zeros(0)
    for decay in _DECAYS:
        weight, bias = torch.zeros(given.shape[1], classes), torch.zeros(classes)
        found = [weight.requires_grad_(), bias.requires_grad_()]
        optimizer = torch.optim.LBFGS(found, max_iter=150, line_search_fn="strong_wolfe")

        def loss(decay: float = decay, found: Any = found, reset: Any = optimizer) -> torch.Tensor:
            reset.zero_grad()
            logits = (given - mean) / std @ found[0] + found[1]
            value = F.cross_entropy(logits, target) + decay * found[0].square().sum() / 2
            value.backward()
            return value

        optimizer.step(loss)  # pyright: ignore[reportArgumentType]
        said = [((seen - mean) / std @ weight + bias).argmax(1) for seen, _ in held_out]
        right = float((said[0] == held_out[0][1]).float().mean())
        if right > best:
            best, answers = right, said[1]
    return _scores(answers, held_out[1][1], classes)


def _scores(answers: torch.Tensor, labels: torch.Tensor, classes: int) -> dict[str, float]:
    counts = torch.zeros(classes, classes, dtype=torch.double)
    counts.index_put_((labels, answers), torch.ones(len(labels), dtype=torch.double), True)
    f1 = 2 * counts.diagonal() / (counts.sum(0) + counts.sum(1)).clamp(min=1)
    accuracy = float(counts.trace() / counts.sum())
    return {"accuracy": round(accuracy, 4), "macro_f1": round(float(f1.mean()), 4)}


def _lora(folder: Path, options: Any, done: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for seed in options.seeds:
        for mode in options.modes:
            seen, trained = _MODES[mode]
            row = {"mode": mode, "blocks": options.blocks, "epochs": options.epochs, "seed": seed}
            if any(row.items() <= each.items() for each in done):
                continue
            plain = seen != trained
            datamodule.Augmentation = PlainCrops if plain else Augmentation  # pyright: ignore
            output, start = folder.parent / f"{seen}-{trained}-{seed}", time.monotonic()
            vitlora.fit(
                data=folder,
                output=output,
                seed_everything=seed,
                model={
                    "backbone": _VIT,
                    "weights": str(options.weights),
                    "crop_mode": seen,
                    "adapter.last_blocks": options.blocks,
                },
                trainer={
                    "max_epochs": options.epochs,
                    "cache": "memory",
                    "precision": "bf16-mixed",
                },
                **_IN_THIS_PROCESS,
            )
            seconds = round(time.monotonic() - start)
            scores = vitlora.test(output).scores
            found = {"accuracy": scores.accuracy, "macro_f1": scores.macro_f1}
            yield row | {k: round(v, 4) for k, v in found.items()} | {"fit_seconds": seconds}


class PlainCrops(Augmentation):
    """Training's crops as they are under center, whatever evaluation sees."""

    def __init__(self, recipe: Any, preprocessing: Preprocessing) -> None:
        super().__init__(recipe, replace(preprocessing, crop_mode="center"))


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _table(rows: list[dict[str, Any]]) -> str:
    lines = ["| data | part | mode | seeds | accuracy | macro-F1 |", "|---|---|---|---|---|---|"]
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        part = (
            f"linear, {row['views']} views" if "views" in row else f"lora, {row['blocks']} blocks"
        )
        part += ", pooled" * ("pooled" in row)
        groups.setdefault((row["data"], part, row["mode"]), []).append(row)
    for key, runs in sorted(groups.items()):
        cells = [_mean(runs, "accuracy"), _mean(runs, "macro_f1")]
        lines.append(f"| {' | '.join([*key, str(len(runs)), *cells])} |")
    return "\n".join(lines)


def _mean(runs: list[dict[str, Any]], key: str) -> str:
    values = [run[key] for run in runs]
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--part", choices=("linear", "lora"), default="linear")
    parser.add_argument("--modes", choices=_MODES, nargs="+", default=list(_MODES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--most", type=int, default=60, help="training pictures of a class")
    parser.add_argument("--pooled", action="store_true", help="split anew, for linear")
    parser.add_argument("--views", type=int, default=2, help="of recipe light, for linear")
    parser.add_argument("--blocks", type=int, default=2, help="adapted ones, for lora")
    parser.add_argument("--epochs", type=int, default=6, help="for lora")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/crop_modes.jsonl"))
    return parser


if __name__ == "__main__":
    main()
