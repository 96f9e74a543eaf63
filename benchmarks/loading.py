"""How fast pictures become training batches, beside decoding alone and torchvision's transforms.

    python benchmarks/loading.py --data FOLDER [--count 128] [--turns 9]

Ways that take turns, in one process without workers, CPU time: ``decode``, open_image alone, every
pixel; ``ours``, a DataLoader's batches of 32 with the ``light`` recipe; ``torchvision``, the same
with Pillow and torchvision's v1 transforms: RandomResizedCrop (bicubic, antialiased), flip,
ToTensor, Normalize. Then where our time goes, step by step.

Three sizes: the folder's photos as they are, enlarged to 1024 pixels on the short side, and to 12
megapixels (4032 x 3024), with noise, saved as JPEGs of quality 90. Ratios are of pairs that took
turns: median and range, printed and appended to benchmarks/results/loading.jsonl.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms as v1

from vitlora.data.augmentation import Augmentation
from vitlora.data.dataset import ImageDataset
from vitlora.data.folder import Sample
from vitlora.data.images import open_image
from vitlora.data.preprocessing import Preprocessing

RESULTS = Path(__file__).parent / "results" / "loading.jsonl"
SIDE = 224
HALF = (0.5, 0.5, 0.5)
PREPROCESSING = Preprocessing(image_size=SIDE, crop_pct=0.9, mean=HALF, std=HALF)
SIZES = {"as they are": None, "1024 short": 1024, "12 MP": 3024}  # pixels of the short side


def main() -> None:
    """Measures all sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="a folder of photos")
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--turns", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    photos = sorted(options.data.rglob("*.jpg"))
    for name, short in SIZES.items():
        count = options.count if not short else max(options.count * 256 // short // 4, 4)
        chosen = photos[:: max(len(photos) // count, 1)][:count]
        with tempfile.TemporaryDirectory() as folder:
            files = [_enlarged(p, Path(folder), short) for p in chosen] if short else chosen
            size = Image.open(files[0]).size
            row = {"photos": name, "size": size, "count": len(files)} | _measure(files, options)
        row |= {"turns": options.turns, "load_average": round(os.getloadavg()[0], 1)}
        print(json.dumps(row), flush=True)
        with RESULTS.open("a", encoding="utf-8") as results:
            results.write(json.dumps(row) + "\n")


def _measure(files: list[Path], options: Any) -> dict[str, Any]:
    augmentation = Augmentation("light", PREPROCESSING)
    ways: dict[str, Callable[[], Any]] = {
        "decode": lambda: [open_image(file) for file in files],
        "ours": lambda: _all(files, augmentation, 2 * SIDE),
        "torchvision": lambda: _all(files, _torchvision(), None),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(options.turns + 1):
        for way in ways if turn % 2 else reversed(list(ways)):
            taken = _seconds(ways[way])
            if turn:  # the first turn warms up
                seconds[way].append(taken)
    medians = {way: 1e3 * statistics.median(taken) / len(files) for way, taken in seconds.items()}
    return {
        "cpu_ms_per_image": {way: round(value, 3) for way, value in medians.items()},
        "share_of_decoding": _ratios(seconds["decode"], seconds["ours"]),
        "over_torchvision": _ratios(seconds["torchvision"], seconds["ours"]),
        "steps_ms": _steps(files, augmentation),
    }


def _all(files: list[Path], transform: Any, at_least: int | None) -> None:
    dataset = ImageDataset([Sample(file, 0) for file in files], transform, at_least)
    for _ in DataLoader(dataset, batch_size=32):
        pass


def _torchvision() -> Any:
    return v1.Compose(
        [
            v1.RandomResizedCrop(SIDE, (0.5, 1.0), interpolation=v1.InterpolationMode.BICUBIC),
            v1.RandomHorizontalFlip(),
            v1.ToTensor(),
            v1.Normalize(HALF, HALF),
        ]
    )


def _steps(files: list[Path], augmentation: Augmentation) -> dict[str, float]:
    opened = [open_image(file, 2 * SIDE) for file in files]
    arrays = [np.asarray(image) for image in opened]
    changed = [augmentation._compose(image=array)["image"] for array in arrays]
    normal = [augmentation._normalise(pixels) for pixels in changed]
    steps: dict[str, Callable[[], Any]] = {
        "open, at a smaller scale if large": lambda: [open_image(file, 2 * SIDE) for file in files],
        "to an array": lambda: [np.asarray(image) for image in opened],
        "crop, resize, flip": lambda: [augmentation._compose(image=array) for array in arrays],
        "normalise": lambda: [augmentation._normalise(pixels) for pixels in changed],
        "stack": lambda: [torch.stack(normal[i : i + 32]) for i in range(0, len(normal), 32)],
    }
    return {
        name: round(1e3 * min(_seconds(work) for _ in range(5)) / len(files), 3)
        for name, work in steps.items()
    }


def _enlarged(photo: Path, folder: Path, short: int) -> Path:
    image = Image.open(photo).convert("RGB")
    scale = short / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC)).astype(np.float32)
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 6, (*pixels.shape[:2], 1)).astype(np.float32)
    file = folder / f"{len(list(folder.iterdir())):04}.jpg"
    Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(file, quality=90)
    return file


def _seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _ratios(over: list[float], under: list[float]) -> list[float]:
    """Returns median, least and most of the pairs' ratios."""
    ratios = [a / b for a, b in zip(over, under, strict=True)]
    return [round(x, 3) for x in (statistics.median(ratios), min(ratios), max(ratios))]


if __name__ == "__main__":
    main()
