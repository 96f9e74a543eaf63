"""How many cached views of a picture it takes: a linear probe on TrashNet's test photos.

    python -m vitlora fit --data.root TRASHNET --model.backbone VIT_TINY --model.weights FILE \
        --model.adapter LinearProbe --model.lr 5e-3 --trainer.max_epochs 12 \
        --trainer.cache disk --trainer.cache_views 12 --trainer.cache_folder FOLDER
    python benchmarks/cache_views.py --data TRASHNET --weights FILE --features FOLDER

The first command fills a cache with twelve views of each picture; the second trains heads on them
much as ``fit`` does, each on another choice of so many views, keeps the best epoch of validation,
and prints the mean and the standard deviation over the seeds as JSON lines. As many views as epochs
are a run without a cache.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from vitlora.adapters import LinearProbe
from vitlora.backbones import Backbone, load_backbone
from vitlora.data.datamodule import FolderData
from vitlora.metrics.scores import Scores
from vitlora.quantization import Storage, freeze
from vitlora.training.cache.prefix import Prefix

VIT_TINY = "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
EPOCHS, VIEWS = (6, 12, 24), (1, 2, 3, 4, 6, 12)
LR, SMOOTHING, WARMUP, BATCH = 5e-3, 0.1, 0.1, 32


def main() -> None:
    """Prints and keeps one JSON line for each number of epochs and views."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--features", type=Path, required=True, help="folder of the cache")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/cache_views.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = FolderData(str(options.data), num_workers=0)
    backbone = load_backbone(VIT_TINY, data.num_classes, options.weights)
    pool, val = _cached(options.features)
    splits = {split: _labels(data, split) for split in ("train", "val", "test")}
    rows = {"val": val, "test": _test_features(backbone, data)}
    for epochs in EPOCHS:
        for views in (views for views in VIEWS if views <= epochs):
            runs = []
            for seed in range(options.seeds):
                first = seed * len(pool) // options.seeds
                chosen = [pool[(first + view) % len(pool)] for view in range(views)]
                runs.append(_test_scores(chosen, rows, splits, epochs, seed))
            names = ("test_accuracy", "test_macro_f1", "test_loss")
            line: dict[str, Any] = {"epochs": epochs, "views": views, "seeds": options.seeds}
            for name, values in zip(names, zip(*runs, strict=True), strict=True):
                line[name] = round(statistics.fmean(values), 4)
                line[f"{name}_sd"] = round(statistics.stdev(values), 4)
            print(json.dumps(line), flush=True)
            with options.output.open("a") as file:
                file.write(json.dumps(line) + "\n")


def _cached(folder: Path) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Returns the views of training and that of validation, each ``(N, D)``."""
    views, val = {}, torch.empty(0)
    for about in folder.glob("*.json"):
        fields = json.loads(about.read_text())
        numbers = bytearray((folder / fields["file"]).read_bytes())
        raw = torch.frombuffer(numbers, dtype=torch.bfloat16)
        if fields["key"]["augment"] == "none":
            val = raw.view(fields["shape"])
        else:
            views[fields["key"]["view"]] = raw.view(fields["shape"])
    return [views[view] for view in sorted(views)], val


def _labels(data: FolderData, split: str) -> torch.Tensor:
    return torch.tensor([sample.label for sample in data.folder.splits[split]])


def _test_features(backbone: Backbone, data: FolderData) -> torch.Tensor:
    data.preprocessing = backbone.preprocessing
    freeze(backbone.module, Storage("none", "bfloat16"))
    prefix = Prefix(LinearProbe().inject(backbone, "full").eval())
    with torch.autocast("cpu", torch.bfloat16):
        return torch.cat([prefix.before(images) for images, _ in data.test_dataloader()])


def _test_scores(
    views: list[torch.Tensor],
    rows: dict[str, torch.Tensor],
    labels: dict[str, torch.Tensor],
    epochs: int,
    seed: int,
) -> tuple[float, float, float]:
    """Returns accuracy, macro-F1 and loss of a head on the test split."""
    torch.manual_seed(seed)
    head = torch.nn.Linear(views[0].shape[1], int(labels["train"].max()) + 1)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    groups = [{"params": [head.weight], "weight_decay": 0.05}, {"params": [head.bias]}]
    optimizer = torch.optim.AdamW(groups, lr=LR, weight_decay=0.0)
    batches = -(-len(labels["train"]) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LR, epochs * batches, pct_start=WARMUP, cycle_momentum=False
    )
    best, kept = (-1.0, 0.0), (0.0, 0.0, 0.0)
    for epoch in range(epochs):
        for chosen in torch.randperm(len(labels["train"])).split(BATCH):
            logits = head(views[epoch % len(views)][chosen].float())
            loss = F.cross_entropy(logits, labels["train"][chosen], label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        val, test = (_scores(head, rows[split], labels[split]) for split in ("val", "test"))
        if (val.macro_f1, -val.loss) > best:
            best, kept = (val.macro_f1, -val.loss), (test.accuracy, test.macro_f1, test.loss)
    return kept


@torch.no_grad()
def _scores(head: torch.nn.Module, rows: torch.Tensor, labels: torch.Tensor) -> Scores:
    names = tuple(map(str, range(int(labels.max()) + 1)))
    return Scores(names, head(rows.float()), labels)


if __name__ == "__main__":
    main()
