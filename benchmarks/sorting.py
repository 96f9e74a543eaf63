"""Test accuracy after labelling pictures in the order of ``vitlora sort``, and in others.

    python benchmarks/sorting.py --data TRASHNET BLOODCELLS EUROCOINS --weights VIT_TINY.safetensors

The features of a frozen ViT-Tiny are computed once; what is trained is the head alone (logistic
regression), which is far cheaper than LoRA in the blocks: the figures compare orders, and are not
the accuracy that vitlora reaches. A seed draws ``--labelled`` pictures of each class of train/ and
val/ that are labelled from the start; the others are the inbox, which the head fitted to those
orders once; the first 50, 100 and 200 get their true labels, and a head fitted to all labelled
pictures is scored on test/. Intervals are over the seeds, of the difference to random order with
the same start (paired, Student's t); random is the mean of three draws for each seed. Inboxes:

- ``plain``: the pictures as they are.
- ``bursts``: every 20th is there twelve times more: cropped, turned and exposed a little otherwise.
- ``new class``: the rarest class has no labelled pictures at the start (``found``: how many of its
  pictures are among the first).
"""

import argparse
import json
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance

from vitlora.backbones import Backbone, features_and_logits, load_backbone
from vitlora.data.folder import Sample
from vitlora.data.read import read_folder
from vitlora.evaluation.answers import answer
from vitlora.labelling.ranking import doubts, ranking
from vitlora.metrics.intervals import t_quantile
from vitlora.metrics.reference import Reference

VIT = "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
BUDGETS, DRAWS = (50, 100, 200), 3
EVERY, TIMES = 20, 12  # pictures with a burst; pictures more in it
DIMENSIONS, UNFAMILIAR = 128, 0.99  # as ``vitlora calibrate`` has them
DECAY = 1e-2


def main() -> None:
    """Writes a line for each seed, inbox and order, and prints their means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--labelled", type=int, nargs="+", default=[5, 20])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--features", type=Path, help="folder to keep the features in")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/sorting.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    with options.out.open("a") as out:
        for root in options.data:
            photos = Photos.of(root, options.weights, options.features)
            for labelled in options.labelled:
                for inbox in ("plain", "bursts", "new class"):
                    rows = [
                        {"data": root.name, "labelled": labelled, "inbox": inbox, **row}
                        for seed in range(options.seeds)
                        for row in _run(photos, labelled, inbox, seed)
                    ]
                    out.writelines(f"{json.dumps(row)}\n" for row in rows)
                    out.flush()
                    _print(rows)


class Photos:
    """The features and labels of a folder's pictures, test pictures and bursts.

    Args:
        tensors: ``features``, ``labels``, ``test_features``, ``test_labels``, ``burst_features``.
    """

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.features, self.labels = tensors["features"], tensors["labels"]
        self.test_features, self.test_labels = tensors["test_features"], tensors["test_labels"]
        self.burst_features = tensors["burst_features"]  # (N // EVERY, TIMES, D)
        self.classes = int(self.labels.max()) + 1

    @classmethod
    def of(cls, root: Path, weights: Path, kept: Path | None) -> "Photos":
        """Computes the features, or reads them."""
        file = kept / f"{root.name}.pt" if kept else None
        if file is not None and file.exists():
            return cls(torch.load(file))
        folder = read_folder(root)
        base = load_backbone(VIT, len(folder.classes), weights)
        base.module.eval()
        pool = [*folder.splits["train"], *folder.splits["val"]]
        here = answer(base.module, pool, base.preprocessing)
        test = answer(base.module, folder.splits["test"], base.preprocessing)
        tensors = {
            "features": here.features,
            "labels": here.labels,
            "test_features": test.features,
            "test_labels": test.labels,
            "burst_features": _bursts(base, pool[::EVERY]),
        }
        if file is not None:
            torch.save(tensors, file)
        return cls(tensors)


@torch.inference_mode()
def _bursts(base: Backbone, samples: list[Sample]) -> torch.Tensor:
    """Returns the features of pictures as a hand-held camera sees them again, ``(N, TIMES, D)``."""
    rng, transform = np.random.default_rng(0), base.preprocessing.transform()
    found = []
    for sample in samples:
        image = base.preprocessing.open(sample.path).image
        views = [transform(_again(image, rng)) for _ in range(TIMES)]
        found.append(features_and_logits(base.module, torch.stack(views))[0])
    return torch.stack(found)


def _again(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    turned = image.rotate(rng.uniform(-4, 4), Image.Resampling.BILINEAR)
    width, height = (int(side * rng.uniform(0.86, 0.96)) for side in image.size)
    left, top = rng.integers(image.width - width + 1), rng.integers(image.height - height + 1)
    cropped = turned.crop((int(left), int(top), int(left) + width, int(top) + height))
    return ImageEnhance.Brightness(cropped).enhance(rng.uniform(0.9, 1.1))


def _run(photos: Photos, labelled: int, inbox: str, seed: int) -> Iterator[dict[str, object]]:
    """Yields the accuracy of each order after each number of answers, for one seed."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(photos.labels), generator=generator)
    rarest = int(photos.labels.bincount().argmin())
    known = [n for n in range(photos.classes) if n != rarest or inbox != "new class"]
    of_class = [drawn[photos.labels[drawn] == label] for label in known]
    start = torch.cat([some[: min(labelled, len(some) // 2)] for some in of_class])
    rest = drawn[~torch.isin(drawn, start)]
    features, labels = photos.features[rest], photos.labels[rest]
    if inbox == "bursts":
        again = rest[rest % EVERY == 0]
        features = torch.cat([features, photos.burst_features[again // EVERY].flatten(0, 1)])
        labels = torch.cat([labels, photos.labels[again].repeat_interleave(TIMES)])
    first = photos.features[start], photos.labels[start]
    head = Head(*first, photos.classes)
    probabilities = head(features)[:, known].softmax(1)
    orders = _orders(*first, features, probabilities, generator)
    budgets = [n for n in BUDGETS if n <= len(labels)]
    for name, chosen in orders.items():
        accuracy, found = dict[int, float](), dict[int, float]()
        for budget in budgets:
            firsts = [torch.tensor(one[:budget]) for one in chosen]
            scores = [_accuracy(photos, first, features[some], labels[some]) for some in firsts]
            accuracy[budget] = round(fmean(scores), 4)
            found[budget] = round(fmean(int((labels[some] == rarest).sum()) for some in firsts), 1)
        before = round(_accuracy(photos, first, features[:0], labels[:0]), 4)
        yield {"seed": seed, "order": name, "before": before, "accuracy": accuracy, "found": found}


def _orders(
    start: torch.Tensor,
    start_labels: torch.Tensor,
    features: torch.Tensor,
    probabilities: torch.Tensor,
    generator: torch.Generator,
) -> dict[str, list[list[int]]]:
    """Returns the orders to compare; several of random."""
    # the threshold is that of pictures that the reference was not made of: every third
    held = torch.arange(len(start)) % 3 == 0
    reference = Reference.of(start[~held], start_labels[~held], DIMENSIONS)
    limit = reference.distances(start[held]).quantile(UNFAMILIAR)
    unfamiliar = reference.distances(features) > limit
    none = torch.zeros_like(unfamiliar)
    doubt, equal = doubts(probabilities, none), torch.ones_like(probabilities)
    shuffled = [torch.randperm(len(features), generator=generator).tolist() for _ in range(DRAWS)]
    return {
        "random": shuffled,
        "sort": [_most(ranking(features, probabilities, unfamiliar))],
        "sort without novelty": [_most(ranking(features, probabilities, none))],
        "coverage alone": [_most(ranking(features, equal, none))],
        "doubt alone": [_most(iter(doubt.argsort(descending=True).tolist()))],
    }


def _most(order: Iterator[int]) -> list[int]:
    return [*islice(order, max(BUDGETS))]


class Head:
    """Multinomial logistic regression on standardised features.

    Args:
        features: ``(N, D)``.
        labels: ``(N,)``.
        classes: Number of outputs.
    """

    def __init__(self, features: torch.Tensor, labels: torch.Tensor, classes: int) -> None:
        self.mean, self.std = features.mean(0), features.std(0).clamp(min=1e-6)
        weights = torch.zeros(features.shape[1] + 1, classes, requires_grad=True)
        inputs = self._inputs(features)
        optimizer = torch.optim.LBFGS([weights], max_iter=60, line_search_fn="strong_wolfe")

        def step() -> torch.Tensor:
            optimizer.zero_grad()
            penalty = DECAY * weights[:-1].square().sum() / 2
            loss = F.cross_entropy(inputs @ weights, labels) + penalty
            loss.backward()
            return loss

        optimizer.step(step)  # pyright: ignore[reportArgumentType]
        self.weights = weights.detach()

    def _inputs(self, features: torch.Tensor) -> torch.Tensor:
        return F.pad((features - self.mean) / self.std, (0, 1), value=1.0)

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Returns logits ``(N, classes)``."""
        return self._inputs(features) @ self.weights


def _accuracy(
    photos: Photos,
    start: tuple[torch.Tensor, torch.Tensor],
    features: torch.Tensor,
    labels: torch.Tensor,
) -> float:
    every = torch.cat([start[0], features]), torch.cat([start[1], labels])
    head = Head(*every, photos.classes)
    right = head(photos.test_features).argmax(1) == photos.test_labels
    return float(right.float().mean())


def _print(rows: list[dict[str, object]]) -> None:
    """Prints the mean of each order, and its difference to random with a 95% interval."""
    by_order: dict[str, list[dict[str, object]]] = {}
    for row in rows:
        by_order.setdefault(str(row["order"]), []).append(row)
    print({key: rows[0][key] for key in ("data", "labelled", "inbox")})
    for name, some in by_order.items():
        cells = []
        for budget in some[0]["accuracy"]:  # pyright: ignore
            ours = [row["accuracy"][budget] for row in some]  # pyright: ignore
            theirs = [row["accuracy"][budget] for row in by_order["random"]]  # pyright: ignore
            gaps = [one - other for one, other in zip(ours, theirs, strict=True)]
            spread = t_quantile(0.975, len(gaps) - 1) * stdev(gaps) / math.sqrt(len(gaps))
            found = fmean(row["found"][budget] for row in some)  # pyright: ignore
            cells.append(f"{fmean(ours):.3f} ({fmean(gaps):+.3f} ±{spread:.3f}; {found:.0f})")
        print(f"  {name:22}", "  ".join(cells), flush=True)


if __name__ == "__main__":
    main()
