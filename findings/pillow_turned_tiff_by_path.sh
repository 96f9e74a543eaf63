#!/usr/bin/env bash
# Pillow: an uncompressed TIFF that EXIF turns by a quarter is garbled if opened by its path.
#
# What the user does: Image.open("scan.tif") on an uncompressed TIFF of one strip whose orientation
#   tag is 5 to 8, as scanners, microscopes and Pillow itself write them; 8-bit grey, palette, RGBA,
#   CMYK or 16-bit grey.
# Expected: the picture upright, the same as from Image.open(open("scan.tif", "rb")).
# What happens: by path the file is mapped into memory (ImageFile.load), and its rows are cut to the
#   width the picture has once it is turned, not to that of the file; then the result is turned. All
#   pixels are there, in the wrong places: the picture is sheared into stripes, and lies on its side.
#   A file object has no name, so nothing is mapped and the picture is right. RGB and compressed
#   files are never mapped, nor are files of several strips.
# Why it hurts: mode and histogram are right, and nothing is said. A network trains on stripes; the
#   same file sent to a server, which opens it as a file object, is another picture.
# How to avoid it: open TIFF files as file objects, or set image.filename = "" before load().
# Upstream: none known.
# Seen: 2026-11-28, Python 3.11.
# Printed:
#   Pillow 13.0.0 - orientations read right, of 1 to 8
#   L    raw      by path 1234, as file object 12345678
#   L    tiff_lzw by path 12345678, as file object 12345678
#   P    raw      by path 1234, as file object 12345678
#   P    tiff_lzw by path 12345678, as file object 12345678
#   RGBA raw      by path 1234, as file object 12345678
#   RGBA tiff_lzw by path 12345678, as file object 12345678
#   CMYK raw      by path 1234, as file object 12345678
#   CMYK tiff_lzw by path 12345678, as file object 12345678
#   I;16 raw      by path 1234, as file object 12345678
#   I;16 tiff_lzw by path 12345678, as file object 12345678
#   RGB  raw      by path 12345678, as file object 12345678
#   RGB  tiff_lzw by path 12345678, as file object 12345678
#   L, raw, orientation 6, by path: size before loading (48, 64) - after (64, 48)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
. "$folder/venv/bin/activate"
python3 -m pip install --quiet 'pillow==13.0.0' 'numpy==2.4.6'
cd "$folder"
python3 - <<'PYTHON'
import sys
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

# EXIF 2.32, tag 0x0112: what the stored picture needs to stand upright
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, k=-1),
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: np.rot90(a, k=1),
}
NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 4), dtype=np.uint8)


def picture(mode):
    """Returns noise of 64 x 48 pixels."""
    if mode == "I;16":
        return Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257)
    if mode == "P":
        image = Image.fromarray(NOISE[..., 0])
        image.putpalette([value for value in range(256) for _ in range(3)])
        return image
    return Image.frombytes(mode, (64, 48), NOISE[..., : len(mode)].tobytes())


def right(file, want):
    """Returns whether a file opens as it should."""
    with Image.open(file) as image:
        got = np.asarray(image.copy())
        return got.shape == want.shape and bool((got == want).all())


print("Pillow", PIL.__version__, "- orientations read right, of 1 to 8")
found = {}
for mode in ("L", "P", "RGBA", "CMYK", "I;16", "RGB"):
    for compression in ("raw", "tiff_lzw"):
        ways = {"by path": [], "as file object": []}
        for orientation, turn in UPRIGHT.items():
            image = picture(mode)
            exif = Image.Exif()
            exif[0x0112] = orientation
            image.save("scan.tif", exif=exif, compression=compression)
            want = turn(np.asarray(image))
            with Path("scan.tif").open("rb") as file:
                for way, opened in (("by path", "scan.tif"), ("as file object", file)):
                    if right(opened, want):
                        ways[way].append(orientation)
        found[mode, compression] = [len(ways[way]) for way in ways]
        said = (f"{way} {''.join(map(str, ways[way]))}" for way in ways)
        print(f"{mode:4} {compression:8}", ", ".join(said))
exif = Image.Exif()
exif[0x0112] = 6
picture("L").save("scan.tif", exif=exif)
with Image.open("scan.tif") as image:
    sizes = [image.size]
    image.load()
    sizes.append(image.size)
print("L, raw, orientation 6, by path: size before loading", sizes[0], "- after", sizes[1])
garbled = {(mode, "raw") for mode in ("L", "P", "RGBA", "CMYK", "I;16")}
expected = {key: [4 if key in garbled else 8, 8] for key in found}
if found != expected or sizes != [(48, 64), (64, 48)]:
    sys.exit(f"changed: expected {expected} and (48, 64) to (64, 48), got {found} and {sizes}")
PYTHON
