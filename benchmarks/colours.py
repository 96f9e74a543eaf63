"""What it changes in the answers whether colour profiles are turned into sRGB.

    python benchmarks/colours.py --data TRASHNET --weights VIT_TINY [--out FILE.jsonl]

``--data`` has train/, val/ and test/ with class folders, of photos in sRGB. A linear probe
(multinomial regression on the features of a frozen ViT-Tiny, its weight decay chosen on val) learns
them as they are. Then the test photos are saved three times as JPEGs of quality 95: in sRGB, and
with their pixels turned into Display P3 and into Adobe RGB, that profile embedded. The scenes are
the same; what differs is how a file stores them. Those of the two wide spaces are read with
``srgb`` on and off.

A line counts: accuracy and macro-F1 of the test photos; ``changed``, the share of answers that are
not those for the sRGB files; ``confidence``, the mean of the largest softmax, not calibrated;
``moved``, the mean absolute change of that. ``levels`` is the mean absolute difference of the
pixels from the sRGB files', of 255. Photos that were in sRGB once hold no colours beyond it, so
this says what a wrong reading costs, not what wider colours are worth.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from deep import DECAYS, VIT_TINY, head_of, share_right
from PIL import Image, ImageCms

from vitlora.backbones import load_backbone
from vitlora.data.folder import Folder, Sample
from vitlora.data.icc import adobe_rgb, matrix_profile
from vitlora.data.images import open_image
from vitlora.data.read import read_folder
from vitlora.evaluation.answers import answer
from vitlora.metrics.scores import Scores

# X, Y, Z relative to D50, as Apple's profile has them
_P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))


def main() -> None:
    """Prints and appends one JSON line for each kind of file and way to read it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/colours.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = read_folder(options.data)
    with tempfile.TemporaryDirectory() as temporary, options.out.open("a") as out:
        for row in _rows(folder, options.weights, Path(temporary)):
            line = json.dumps({"data": options.data.name, **row})
            print(line, flush=True)
            out.write(line + "\n")


def _rows(folder: Folder, weights: Path, temporary: Path) -> Iterator[dict[str, Any]]:
    probe = Probe(folder, weights)
    test = folder.splits["test"]
    yield {"files": "as they are", "srgb": True, **probe.scores(probe.logits(test))}
    plain = _saved(test, temporary / "srgb", None)
    before = probe.logits(plain)
    yield {"files": "sRGB", "srgb": True, **probe.scores(before)}
    for name, profile in {"Display P3": _display_p3(), "Adobe RGB": adobe_rgb()}.items():
        files = _saved(test, temporary / name, profile)
        for srgb in (True, False):
            logits = probe.logits(files, srgb)
            levels = {"levels": _apart(plain, files, srgb)}
            yield {"files": name, "srgb": srgb, **probe.scores(logits, before), **levels}


class Probe:
    """A linear probe on a frozen ViT-Tiny, trained on a folder's photos."""

    def __init__(self, folder: Folder, weights: Path) -> None:
        self._classes = folder.classes
        self._labels = torch.tensor([sample.label for sample in folder.splits["test"]])
        backbone = load_backbone(VIT_TINY, len(folder.classes), weights)
        self._network, self._preprocessing = backbone.module.eval(), backbone.preprocessing
        train, val = (self._answers(folder.splits[split]) for split in ("train", "val"))
        self._mean, self._std = train.features.mean(0), train.features.std(0) + 1e-6
        seen, held_out = self._scaled(train.features), self._scaled(val.features)
        heads = [head_of(seen, train.labels, len(folder.classes), decay) for decay in DECAYS]
        self._head = max(heads, key=lambda head: share_right(head, held_out, val.labels))

    def logits(self, samples: list[Sample], srgb: bool = True) -> torch.Tensor:
        """Returns ``(N, classes)``."""
        return F.linear(self._scaled(self._answers(samples, srgb).features), *self._head)

    def scores(self, logits: torch.Tensor, before: torch.Tensor | None = None) -> dict[str, Any]:
        """Returns how good logits are, and how far they are from others."""
        summary = Scores(self._classes, logits, self._labels).summary()
        sure = logits.softmax(1).max(1).values
        row = {key: summary[key] for key in ("accuracy", "macro_f1")}
        row["confidence"] = float(sure.mean())
        if before is not None:
            row["changed"] = float((logits.argmax(1) != before.argmax(1)).float().mean())
            row["moved"] = float((sure - before.softmax(1).max(1).values).abs().mean())
        return {key: round(value, 4) for key, value in row.items()}

    def _answers(self, samples: list[Sample], srgb: bool = True) -> Any:
        return answer(self._network, samples, replace(self._preprocessing, srgb=srgb))

    def _scaled(self, features: torch.Tensor) -> torch.Tensor:
        return (features - self._mean) / self._std


def _display_p3() -> bytes:
    shares = np.linspace(0, 1, 1024)
    light = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    return matrix_profile("Display P3", _P3, light.tolist())


def _saved(samples: list[Sample], root: Path, profile: bytes | None) -> list[Sample]:
    """Saves pictures in the colours of a profile; in sRGB, without one."""
    root.mkdir(parents=True)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    found = []
    for index, sample in enumerate(samples):
        image = open_image(sample.path)
        if profile is not None:
            wide = ImageCms.ImageCmsProfile(BytesIO(profile))
            turned = ImageCms.profileToProfile(image, srgb, wide, outputMode="RGB")
            assert turned is not None
            image = turned
        file = root / f"{index}.jpg"
        image.save(file, quality=95, icc_profile=profile)
        found.append(replace(sample, path=file))
    return found


def _apart(plain: list[Sample], files: list[Sample], srgb: bool) -> float:
    pairs = zip(plain[::10], files[::10], strict=True)
    off = [_difference(open_image(a.path), open_image(b.path, srgb=srgb)) for a, b in pairs]
    return round(float(np.mean(off)), 2)


def _difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).mean())


if __name__ == "__main__":
    main()
