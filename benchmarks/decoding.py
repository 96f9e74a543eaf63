"""Whether opening pictures is as fast as in another checkout, and what other formats cost.

    python benchmarks/decoding.py --data FOLDER --before CHECKOUT [--count 200] [--turns 15]

The ``open_image`` of this checkout and that of ``CHECKOUT`` take turns in one process, picture by
picture, CPU time: over the folder's JPEGs as they are (every pixel), and over six of them enlarged
to 4032 x 3024, with EXIF and an sRGB profile, decoded as for prediction (672 pixels or more). A
ratio is the other checkout's time by this one's, over all pictures in a turn: median and range of
the turns; above 1 is faster.

Then milliseconds a picture for the same 12 megapixels in other formats, and in Adobe RGB, as
``predict`` opens them. Printed and appended to benchmarks/results/decoding.jsonl.
"""

import argparse
import importlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms
from pillow_heif import register_heif_opener

from vitlora.data.icc import adobe_rgb

RESULTS = Path(__file__).parent / "results" / "decoding.jsonl"
AT_LEAST = 672
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
Open = Callable[..., Any]


def main() -> None:
    """Measures plain JPEGs against another checkout, then the other formats."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="a folder of JPEGs")
    parser.add_argument("--before", type=Path, required=True, help="another checkout")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--turns", type=int, default=15)
    options = parser.parse_args()
    before, now = _opener(options.before), _opener(Path(__file__).parents[1])
    photos = sorted(options.data.rglob("*.jpg"))
    photos = photos[:: max(len(photos) // options.count, 1)][: options.count]
    with tempfile.TemporaryDirectory() as folder, RESULTS.open("a", encoding="utf-8") as results:
        large = _large(photos[:6], Path(folder))
        kinds = {"as they are": (photos, None), "12 MP, sRGB profile": (large, AT_LEAST)}
        rows = [
            {"photos": name, **_against(before, now, files, at_least, options.turns)}
            for name, (files, at_least) in kinds.items()
        ]
        for name, file in _formats(large[0], Path(folder)).items():
            seconds = [_seconds(now, file, AT_LEAST) for _ in range(4)][1:]
            rows.append({"format": name, "ms": round(1000 * statistics.median(seconds), 1)})
        for row in rows:
            row["load_average"] = round(os.getloadavg()[0], 1)
            print(json.dumps(row), flush=True)
            results.write(json.dumps(row) + "\n")


def _opener(checkout: Path) -> Open:
    """Returns the ``open_image`` of a checkout, as if no other were there."""
    for name in [name for name in sys.modules if name.split(".")[0] == "vitlora"]:
        del sys.modules[name]
    sys.path.insert(0, str(checkout.resolve()))
    try:
        return importlib.import_module("vitlora.data.images").open_image
    finally:
        sys.path.pop(0)


def _against(
    before: Open, now: Open, files: Sequence[Path], at_least: int | None, turns: int
) -> dict[str, Any]:
    pairs = []
    for turn in range(turns + 1):
        ways = (before, now) if turn % 2 else (now, before)
        taken = dict.fromkeys(ways, 0.0)
        for file in files:  # both in a row, so that what else the machine does slows both
            for way in ways:
                taken[way] += _seconds(way, file, at_least)
        if turn:  # the first turn warms up
            pairs.append((taken[before], taken[now]))
    ratios = sorted(one / other for one, other in pairs)
    return {
        "count": len(files),
        "ms_before": round(1000 * statistics.median(one for one, _ in pairs) / len(files), 3),
        "ms_now": round(1000 * statistics.median(other for _, other in pairs) / len(files), 3),
        "ratio": round(statistics.median(ratios), 3),
        "least_most": [round(ratios[0], 3), round(ratios[-1], 3)],
        "turns": turns,
    }


def _seconds(way: Open, file: Path, at_least: int | None) -> float:
    start = time.process_time()
    way(file, at_least)
    return time.process_time() - start


def _large(photos: Sequence[Path], folder: Path) -> list[Path]:
    """Writes photos as a camera does: 12 megapixels, with noise, EXIF and an sRGB profile."""
    rng, exif = np.random.default_rng(0), Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6
    exif.get_ifd(0x8769)[0x927C] = bytes(20_000)  # the maker's own notes
    exif.get_ifd(0x8769)[0xA005] = {1: "R98"}
    written = []
    for index, photo in enumerate(photos):
        with Image.open(photo) as image:
            pixels = np.asarray(image.convert("RGB").resize((4032, 3024)), np.int16)
        noisy = (pixels + rng.normal(0, 4, pixels.shape).astype(np.int16)).clip(0, 255)
        file = folder / f"{index}.jpg"
        Image.fromarray(noisy.astype(np.uint8)).save(file, quality=90, exif=exif, icc_profile=SRGB)
        written.append(file)
    return written


def _formats(photo: Path, folder: Path) -> dict[str, Path]:
    """Writes a photo in several formats and colours."""
    register_heif_opener()
    image, wide = Image.open(photo).convert("RGB"), adobe_rgb()
    ways: dict[str, tuple[str, dict[str, Any]]] = {
        "JPEG": ("jpg", {"quality": 90}),
        "JPEG, Adobe RGB": ("jpg", {"quality": 90, "icc_profile": wide}),
        "HEIC": ("heic", {"quality": 60}),
        "HEIC, Adobe RGB": ("heic", {"quality": 60, "icc_profile": wide}),
        "AVIF": ("avif", {"quality": 60, "speed": 9}),
        "WebP": ("webp", {"quality": 80, "method": 0}),
    }
    image.info = {}
    files = {name: folder / f"{name}.{ending}" for name, (ending, _) in ways.items()}
    for name, (_, how) in ways.items():
        image.save(files[name], **how)
    return files


if __name__ == "__main__":
    main()
