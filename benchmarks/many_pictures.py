"""What a large set costs before training begins: reading, splitting, looking at every picture.

    python benchmarks/many_pictures.py [--pictures 200000] [--classes 1000] [--photos FOLDER]
        [--steps "fit" "doctor" …] [--out FILE.jsonl]

Draws JPEGs of noise, 64 x 64 pixels, unless the folder is there, and runs each step in a process of
its own: reading the folder (or the same as a .zip), drawing a split, all that ``fit`` does with the
pictures before its first batch, the same with every picture decoded and compared, and the doctor.
Core-seconds count, since a machine may do other work beside.
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
from types import SimpleNamespace

import numpy as np
from PIL import Image

from vitlora.data.datamodule import FolderData
from vitlora.data.doctor import examine, survey
from vitlora.data.preprocessing import Preprocessing
from vitlora.data.read import read_folder


def main() -> None:
    """Prints and keeps one JSON line for each step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pictures", type=int, default=200_000)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/many_pictures.jsonl"))
    options = parser.parse_args()
    if options.step:
        print(json.dumps(_measured(STEPS[options.step], options.root)))
        return
    with tempfile.TemporaryDirectory() as temporary, options.out.open("w") as out:
        root = options.photos or Path(temporary) / "photos"
        if not root.exists():
            _draw(root, options.pictures, options.classes)
        for step in options.steps:
            if step.endswith("zip") and not root.with_suffix(".zip").exists():
                _pack(root)
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


def _pack(root: Path) -> None:
    with zipfile.ZipFile(root.with_suffix(".zip"), "w") as archive:
        for path in sorted(root.rglob("*.jpg")):
            archive.write(path, path.relative_to(root))


def _fit(root: Path, check_copies: bool | None = None) -> None:
    data = FolderData(str(root), check_copies=check_copies)
    preprocessing = Preprocessing(224, 0.9, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    model = SimpleNamespace(backbone=SimpleNamespace(preprocessing=preprocessing))
    data.trainer = SimpleNamespace(lightning_module=model)  # pyright: ignore
    data.setup("fit")


def _measured(step: Callable[[Path], object], root: Path) -> dict[str, float]:
    before, start = os.times(), time.perf_counter()
    step(root)
    after = os.times()
    return {
        "seconds": round(time.perf_counter() - start, 2),
        "core_seconds": round(after.user + after.system - before.user - before.system, 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
    }


STEPS: dict[str, Callable[[Path], object]] = {
    "read": read_folder,
    "read a zip": read_folder,
    "read and split": lambda root: read_folder(root).split(0.2, 0.0, 0),
    "fit": _fit,
    "fit, data.check_copies true": lambda root: _fit(root, check_copies=True),
    "doctor": lambda root: examine(survey(root)),
}

if __name__ == "__main__":
    main()
