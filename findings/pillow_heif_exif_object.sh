#!/usr/bin/env bash
# pillow-heif: saved with an Image.Exif that says "turn me", a HEIC photo stays on its side for ever.
#
# What the user does: image.save("a.heic", exif=image.getexif()) of a photo that a phone stored on
#   its side, as for every format that Pillow writes.
# Expected: a file that opens upright. HEIC has a rotation of its own, and what EXIF says of it does
#   not count; so pillow-heif writes that rotation for the orientation it is given.
# What happens: with the bytes of the same EXIF it does. Given the Exif object it finds no
#   orientation, writes EXIF alone, and on reading says that there is nothing left to turn.
# Why it hurts: nothing is said, and the orientation cannot be seen afterwards: getexif() says 1. A
#   data set converted to HEIC so has all its portrait photos on their side.
# How to avoid it: exif=exif.tobytes(), or turn the pixels first (ImageOps.exif_transpose).
# Upstream: none known.
# Seen: 2026-11-28, Python 3.11.
# Printed:
#   pillow-heif 1.8.1, Pillow 13.0.0: a photo of 64 x 48 pixels, orientation 6
#   exif=exif.tobytes()  opens as (48, 64), orientation 1
#   exif=exif            opens as (64, 48), orientation 1
#   JPEG, exif=exif      opens as (64, 48), orientation 6
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
. "$folder/venv/bin/activate"
python3 -m pip install --quiet 'pillow-heif==1.8.1' 'pillow==13.0.0'
cd "$folder"
python3 - <<'PYTHON'
import sys

import PIL
import pillow_heif
from PIL import ExifTags, Image

pillow_heif.register_heif_opener()
exif = Image.Exif()
exif[ExifTags.Base.Orientation] = 6
photo = Image.linear_gradient("L").resize((64, 48)).convert("RGB")
print(f"pillow-heif {pillow_heif.__version__}, Pillow {PIL.__version__}: a photo of 64 x 48 pixels, orientation 6")
found = {}
for name, file, given in (
    ("exif=exif.tobytes()", "a.heic", exif.tobytes()),
    ("exif=exif", "b.heic", exif),
    ("JPEG, exif=exif", "c.jpg", exif),
):
    photo.save(file, exif=given)
    with Image.open(file) as image:
        found[name] = image.size, image.getexif()[ExifTags.Base.Orientation]
        print(f"{name:20} opens as {found[name][0]}, orientation {found[name][1]}")
expected = [((48, 64), 1), ((64, 48), 1), ((64, 48), 6)]
if list(found.values()) != expected:
    sys.exit(f"changed: expected {expected}, got {list(found.values())}")
PYTHON
