"""Times the search for copies among up to 100,000 fingerprints, beside comparing all pairs.

python benchmarks/copies.py DIR... > benchmarks/results/copies.jsonl

``random`` are fingerprints of noise, which flatter an index. ``photos`` are those of the pictures
below each DIR and then of random crops of them, a quarter to all of their area, turned and mirrored
at random: the bits of their hashes hang together as those of photos do, and many are copies. Each
line has seconds on the clock and of all cores together, which says what an idle machine would take.
Where all pairs are compared too, the groups have to be the same.
"""

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import numpy as np
from PIL import Image

from vitlora.data.duplicates import Fingerprint, fingerprint_of, group
from vitlora.data.images import open_image
from vitlora.data.listing import list_pictures

COUNTS, ALL_PAIRS = (5_000, 20_000, 100_000), 20_000


def noise(count: int) -> list[Fingerprint]:
    """Returns fingerprints of which none is a copy of another."""
    rng = np.random.default_rng(0)
    return [
        Fingerprint(
            n.to_bytes(4),
            rng.normal(0, 500, (16, 16)).astype(np.float32),
            np.zeros((4, 4, 2), np.float32),
        )
        for n in range(count)
    ]


def crops(number: int, path: Path, count: int) -> list[Fingerprint]:
    """Returns the fingerprint of a picture and of random parts of it."""
    rng = np.random.default_rng(number)
    image = open_image(path, at_least=256)
    image.thumbnail((320, 320))
    prints = [fingerprint_of(image, f"{number}".encode())]
    for n in range(count):
        width, height = (max(16, round(side * rng.uniform(0.5, 1))) for side in image.size)
        left = int(rng.integers(image.width - width + 1))
        top = int(rng.integers(image.height - height + 1))
        part = image.crop((left, top, left + width, top + height))
        if turn := rng.integers(8):
            part = part.transpose(Image.Transpose((turn - 1) % 7))
        prints.append(fingerprint_of(part, f"{number} {n}".encode()))
    return prints


def photos(folders: list[Path], count: int) -> list[Fingerprint]:
    """Returns so many fingerprints, those of the pictures themselves first."""
    paths = sorted(path for folder in folders for path in list_pictures(folder).pictures)
    each = -(-count // len(paths)) - 1
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        made = list(pool.map(crops, range(len(paths)), paths, [each] * len(paths)))
    return [prints[n] for n in range(each + 1) for prints in made if n < len(prints)][:count]


def timed(name: str, prints: list[Fingerprint], search: str) -> list[int]:
    """Prints a line about one search; returns the groups."""
    started, worked = time.perf_counter(), time.process_time()
    groups = group(prints)
    row = {
        "prints": name,
        "count": len(prints),
        "search": search,
        "seconds": round(time.perf_counter() - started, 2),
        "core_seconds": round(time.process_time() - worked, 2),
        "groups": len(set(groups)),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(row), flush=True)
    return groups


if __name__ == "__main__":
    folders = [Path(word) for word in sys.argv[1:]]
    for name, made in {"random": noise, "photos": lambda n: photos(folders, n)}.items():
        everything = made(max(COUNTS))
        for count in COUNTS:
            groups = timed(name, everything[:count], "tables")
            if count <= ALL_PAIRS:
                with patch("vitlora.data.hamming._parts", lambda distance: []):
                    again = timed(name, everything[:count], "all pairs")
                if again != groups:
                    raise SystemExit("the searches disagree")
