#!/usr/bin/env bash
# ImageHash x Pillow: 16-bit grey pictures without black all get the same perceptual hash.
#
# What the user does: imagehash.phash(Image.open(path)) on 16-bit PNG or TIFF files (X-ray, thermal,
#   microscopy), to find copies before training or between training and test.
# Expected: other pictures, other hashes; the same picture in 8 bits, nearly the same hash.
# What happens: ImageHash asks Pillow for convert("L"), which does not scale 16 bits but clips them
#   at 255. Whatever is brighter than 255 of 65,535 becomes white: a picture of 12 or 16 bits
#   without pure black is all white (one with it, a silhouette). phash, dhash, average_hash and
#   whash are then constants.
# Why it hurts: every picture is a copy of every other at distance 0: deduplicating keeps one, and
#   a check for leaks between training and test accuses all. Nothing is said.
# How to avoid it: scale to 8 bits first, by one factor for the whole dataset.
# Upstream: python-pillow/Pillow#3159 (open) for the clipping; none known for ImageHash.
# Seen: 2026-11-28, Python 3.11.
# Printed:
#   ImageHash 4.3.2 Pillow 13.0.0 - 20 different pictures
#   8 bits: different hashes by phash, dhash, average_hash, whash: [20, 20, 20, 20];
#   12 bits: different hashes by phash, dhash, average_hash, whash: [1, 1, 1, 1]; the only phash 8000000000000000
#   16 bits: different hashes by phash, dhash, average_hash, whash: [1, 1, 1, 1]; the only phash 8000000000000000
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
. "$folder/venv/bin/activate"
python3 -m pip install --quiet 'ImageHash==4.3.2' 'pillow==13.0.0' 'numpy==2.4.6'
cd "$folder"
python3 - <<'PYTHON'
import sys

import imagehash
import numpy as np
import PIL
from PIL import Image

KINDS = ("phash", "dhash", "average_hash", "whash")


def blobs(seed, top):
    """Returns four soft blobs at random places, from 8% to 100% of `top`, (64, 64)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    places = rng.uniform(0, 64, (4, 2))
    light = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2) / 200) for a, b in places)
    return (0.08 + 0.92 * light / light.max()) * top


print("ImageHash", imagehash.__version__, "Pillow", PIL.__version__, "- 20 different pictures")
distinct = {}
for bits, dtype in ((8, np.uint8), (12, np.uint16), (16, np.uint16)):
    hashes = {kind: set() for kind in KINDS}
    for seed in range(20):
        Image.fromarray(blobs(seed, 2**bits - 1).astype(dtype)).save("picture.png")
        with Image.open("picture.png") as picture:
            for kind in KINDS:
                hashes[kind].add(str(getattr(imagehash, kind)(picture)))
    distinct[bits] = [len(hashes[kind]) for kind in KINDS]
    print(f"{bits} bits: different hashes by {', '.join(KINDS)}: {distinct[bits]};",
          "the only phash " + hashes["phash"].pop() if distinct[bits][0] == 1 else "")
if not (min(distinct[8]) >= 19 and distinct[12] == distinct[16] == [1] * 4):
    sys.exit(f"changed: expected one hash for 12 and 16 bits, got {distinct}")
PYTHON
