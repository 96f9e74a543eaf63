"""What one scale for a folder is worth: a linear probe on pictures deeper than 8 bits.

    python benchmarks/deep.py --data STEEL --weights VIT_TINY [--out FILE.jsonl]

``--data`` has train/, val/ and test/ with class folders. Grey copies of its pictures are written as
16-bit PNGs: their 256 greys spread over 12 bits, or over 7,000 to 9,000 as a thermal camera's are,
with noise below the step. Each kind is read as ``fit`` reads it, by the folder's scale, and as
values of 16 bits, whatever they are. The probe is multinomial regression on the features of a
frozen ViT-Tiny, its weight decay chosen on val; accuracy and macro-F1 are those of test.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from vitlora.backbones import load_backbone
from vitlora.data.bit_depth import ValueRange
from vitlora.data.folder import Folder
from vitlora.data.images import open_image
from vitlora.data.read import read_folder
from vitlora.data.value_range import find_range
from vitlora.evaluation.answers import answer
from vitlora.metrics.scores import Scores

VIT_TINY = "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
KINDS = {"12 bits": (0, 4095), "thermal": (7000, 9000)}
DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)


def main() -> None:
    """Prints and keeps one JSON line for each kind of file and way to read it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/deep.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = read_folder(options.data)
    backbone = load_backbone(VIT_TINY, len(folder.classes), options.weights)
    with tempfile.TemporaryDirectory() as temporary, options.out.open("w") as out:
        for row in _rows(folder, backbone, Path(temporary)):
            line = json.dumps({"data": options.data.name, **row})
            print(line, flush=True)
            out.write(line + "\n")


def _rows(folder: Folder, backbone: Any, temporary: Path) -> Any:
    yield {"files": "8 bits", "read": "as they are", **_probed(folder, backbone, None)}
    for kind, ends in KINDS.items():
        deep = _copy(folder, temporary / kind, ends)
        scale = find_range(sample.path for sample in deep.splits["train"]).value_range
        for read, value_range in ((scale, scale), ("0 to 65535", None)):
            yield {"files": kind, "read": read, **_probed(deep, backbone, value_range)}


def _copy(folder: Folder, root: Path, ends: tuple[int, int]) -> Folder:
    noise = np.random.default_rng(0)
    for samples in folder.splits.values():
        for sample in samples:
            grey = np.asarray(open_image(sample.path).convert("L"), np.float64)
            shares = (grey + noise.uniform(-0.5, 0.5, grey.shape)).clip(0, 255) / 255
            target = (root / folder.name(sample)).with_suffix(".png")
            target.parent.mkdir(parents=True, exist_ok=True)
            values = np.rint(ends[0] + shares * (ends[1] - ends[0])).astype(np.uint16)
            Image.fromarray(values).save(target)
    return read_folder(root)


def _probed(folder: Folder, backbone: Any, value_range: ValueRange | None) -> dict[str, Any]:
    preprocessing = replace(backbone.preprocessing, value_range=value_range)
    network = backbone.module.eval()
    said = {
        split: answer(network, samples, preprocessing) for split, samples in folder.splits.items()
    }
    mean, std = said["train"].features.mean(0), said["train"].features.std(0) + 1e-6
    seen = {split: (one.features - mean) / std for split, one in said.items()}
    labels = {split: one.labels for split, one in said.items()}
    heads = [head_of(seen["train"], labels["train"], len(folder.classes), d) for d in DECAYS]
    best = max(heads, key=lambda head: share_right(head, seen["val"], labels["val"]))
    scores = Scores(folder.classes, F.linear(seen["test"], *best), labels["test"])
    summary = scores.summary()
    return {key: round(summary[key], 4) for key in ("accuracy", "macro_f1")}


def head_of(
    features: torch.Tensor, labels: torch.Tensor, classes: int, decay: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the weight and the bias of multinomial regression with weight decay."""
    weight = torch.zeros(classes, features.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(features, weight, bias), labels)
        value = value + decay * weight.square().sum() / 2
        value.backward()
        return value

    optimizer.step(loss)
    return weight.detach(), bias.detach()


def share_right(
    head: tuple[torch.Tensor, torch.Tensor], features: torch.Tensor, labels: torch.Tensor
) -> float:
    """Returns the accuracy of a head on features."""
    return float((F.linear(features, *head).argmax(1) == labels).float().mean())


if __name__ == "__main__":
    main()
