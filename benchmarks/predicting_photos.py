"""What bf16, int8 and decoding at a smaller scale change of a trained network's answers.

    python benchmarks/predicting_photos.py --data PHOTOS --checkpoint BUNDLE [--parts large]

``agreement``: the answers to all photos in bf16 and in torch's dynamic int8, beside those in fp32.
``large``: on every 50th photo enlarged to 12 megapixels with noise, and on mosaics of 192 photos,
also 12 megapixels: the answers when decoded at a smaller scale beside those when decoded in full,
and the CPU time to open one. ``unsure`` and ``unfamiliar``: how many are marked, how many marks
change. Rows are printed and appended to benchmarks/results/predicting.jsonl.
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from predicting import answers, int8, ratios, record, seconds_of

from vitlora.data.images import open_image
from vitlora.metrics.prediction import Prediction
from vitlora.prediction.predictor import Predictor


def main() -> None:
    """Measures the parts asked for, on one thread."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="a folder of photos")
    parser.add_argument("--checkpoint", type=Path, required=True, help="trained on such photos")
    parser.add_argument("--parts", default="large,agreement")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    parts = {"agreement": _agreement, "large": _large}
    for part in options.parts.split(","):
        record(({"part": part, **row} for row in parts[part](options)), options)


def _agreement(options: Any) -> Iterator[dict[str, Any]]:
    photos = sorted(options.data.rglob("*.jpg"))
    predictor = Predictor(options.checkpoint, device="cpu")
    plain = answers(predictor, photos)
    lower = Predictor(options.checkpoint, device="cpu", precision="bf16")
    yield {"precision": "bf16", **_differences(plain, answers(lower, photos))}
    predictor.network = int8(predictor.network)
    yield {"precision": "int8", **_differences(plain, answers(predictor, photos))}


def _large(options: Any) -> Iterator[dict[str, Any]]:
    photos = sorted(options.data.rglob("*.jpg"))[::50]
    predictor = Predictor(options.checkpoint, device="cpu")
    ample = predictor.preprocessing.at_least
    transform = predictor.preprocessing.transform()
    with tempfile.TemporaryDirectory() as folder:
        enlarged = [_enlarged(p, Path(folder) / f"{i}.jpg") for i, p in enumerate(photos)]
        mosaics = [_mosaic(photos, i, Path(folder) / f"m{i}.jpg") for i in range(16)]
        for kind, files in (("enlarged", enlarged), ("mosaic", mosaics)):
            said, opening = [], []
            for at_least in (None, ample):
                predictor._open = partial(_opened, transform, at_least)  # pyright: ignore
                said.append(answers(predictor, files))
                opening.append([seconds_of(partial(predictor._open, file)) for file in files])
            yield {
                "kind": kind,
                "ms_to_open": [round(1e3 * statistics.median(each), 1) for each in opening],
                "faster": ratios(*opening),
                **_differences(*said),
            }


def _opened(transform: Any, at_least: int | None, path: Path) -> tuple[Path, Any, bool]:
    return path, transform(open_image(path, at_least)), False


def _enlarged(photo: Path, file: Path) -> Path:
    image = Image.open(photo).convert("RGB")
    size = (4032, 3024) if image.width > image.height else (3024, 4032)
    pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC)).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 6, pixels.shape).astype(np.float32)
    Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(file, quality=90)
    return file


def _mosaic(photos: list[Path], seed: int, file: Path) -> Path:
    rng, image = np.random.default_rng(seed), Image.new("RGB", (4032, 3024))
    for y in range(0, 3024, 252):
        for x in range(0, 4032, 252):
            tile = Image.open(photos[rng.integers(len(photos))]).convert("RGB")
            image.paste(tile.resize((252, 252), Image.Resampling.BICUBIC), (x, y))
    image.save(file, quality=90)
    return file


def _differences(plain: list[Any], other: list[Any]) -> dict[str, Any]:
    pairs: list[tuple[Prediction, Prediction]] = list(zip(plain, other, strict=True))
    gaps = [max(abs(dict(a.top)[n] - p) for n, p in b.top) for a, b in pairs]
    return {
        "pictures": len(pairs),
        "same_class": sum(a.label == b.label for a, b in pairs),
        "largest_gap_of_confidence": round(max(gaps), 4),
        "mean_gap": round(statistics.mean(gaps), 5),
        "unsure": [sum(a.unsure for a, _ in pairs), sum(a.unsure != b.unsure for a, b in pairs)],
        "unfamiliar": [
            sum(a.unfamiliar for a, _ in pairs),
            sum(a.unfamiliar != b.unfamiliar for a, b in pairs),
        ],
    }


if __name__ == "__main__":
    main()
