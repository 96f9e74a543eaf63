"""What a large set costs before training begins: reading, splitting, looking at every picture.

    python benchmarks/many_pictures.py [--pictures 200000] [--classes 1000] [--out FILE.jsonl]

Draws JPEGs of noise, 64 x 64 pixels, and runs each step in a process of its own: reading the folder
(or the same as a .zip), drawing a split, decoding every picture to its end as ``fit`` does, the
search for copies, and the doctor. Core-seconds count, since a machine may do other work beside.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from vitlora.data.doctor import examine, survey
from vitlora.data.duplicates import fingerprints, group
from vitlora.data.read import read_folder


def main() -> None:
    """Prints and keeps one JSON line for each step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pictures", type=int, default=200_000)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/many_pictures.jsonl"))
    options = parser.parse_args()
    if options.step:
        print(json.dumps(_measured(STEPS[options.step], options.root)))
        return
    with tempfile.TemporaryDirectory() as temporary, options.out.open("w") as out:
        root = Path(temporary) / "photos"
        _draw(root, options.pictures, options.classes)
        with zipfile.ZipFile(root.with_suffix(".zip"), "w") as archive:
            for path in sorted(root.rglob("*.jpg")):
                archive.write(path, path.relative_to(root))
        for step in STEPS:
            place = root.with_suffix(".zip") if step.endswith("zip") else root
            words = [sys.executable, __file__, "--step", step, "--root", str(place)]
            done = subprocess.run(words, check=True, capture_output=True, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            row = {"pictures": options.pictures, "classes": options.classes, "step": step, **found}
            print(json.dumps(row), flush=True)
            out.write(json.dumps(row) + "\n")


def _draw(root: Path, pictures: int, classes: int) -> None:
    rng = np.random.default_rng(0)
    for index in range(pictures):
        folder = root / f"class {index % classes:04}"
        folder.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        small.resize((64, 64)).save(folder / f"{index // classes}.jpg", quality=80)


def _measured(step: Callable[[Path], object], root: Path) -> dict[str, float]:
    before, start = os.times(), time.perf_counter()
    step(root)
    after = os.times()
    return {
        "seconds": round(time.perf_counter() - start, 2),
        "core_seconds": round(after.user + after.system - before.user - before.system, 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
    }


def _paths(root: Path) -> list[Path]:
    return [sample.path for sample in read_folder(root).splits["all"]]


STEPS: dict[str, Callable[[Path], object]] = {
    "read": read_folder,
    "read a zip": read_folder,
    "read and split": lambda root: read_folder(root).split(0.2, 0.0, 0),
    "read and decode": lambda root: fingerprints(_paths(root)),
    "read, decode, compare": lambda root: group(list(fingerprints(_paths(root))[0].values())),
    "doctor": lambda root: examine(survey(root)),
}

if __name__ == "__main__":
    main()
