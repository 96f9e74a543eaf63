#!/usr/bin/env bash
# pillow-jxl-plugin: an animated JPEG XL opens as its last frame, and says it is not animated.
#
# What the user does: Image.open("a.jxl") on an animation, as a GIF becomes one with libjxl's cjxl.
# Expected: the first frame, as Pillow gives of GIF, WebP, PNG and AVIF; n_frames says how many.
# What happens: the decoder writes every frame into the same buffer, so the last one is left;
#   n_frames is 1 and is_animated is False.
# Why it hurts: nothing is said. A folder converted from GIF to JPEG XL holds other pictures.
# How to avoid it: read have_animation in the file's header, and refuse such files.
# Upstream: that animations are not supported is known (pillow-jpegxl-plugin#72), not this.
# Seen: 2026-11-28, Python 3.11.
# Printed:
#   pillow-jxl-plugin 1.3.8, Pillow 13.0.0
#   first frame (255, 0, 0), second frame (0, 0, 255)
#   opened (0, 0, 255), n_frames 1, is_animated False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
. "$folder/venv/bin/activate"
python3 -m pip install --quiet 'pillow-jxl-plugin==1.3.8' 'pillow==13.0.0'
cd "$folder"
python3 - <<'PYTHON'
import base64
import io
import sys
from importlib.metadata import version

import PIL
import pillow_jxl  # noqa: F401
from PIL import Image

# cjxl 0.7.0, lossless, of a GIF of 8 x 8 pixels: a red frame, then a blue one
ANIMATION = base64.b64decode(
    "/wpBBAFYUFwSCAgAAABkAEsYixXCSQLmBSQA2P/+0PsDAAAAAAAAAAAICEAAAFQASxiLFcJJQV5AAgD6AwAAAAAAAAAA"
)
print(f"pillow-jxl-plugin {version('pillow-jxl-plugin')}, Pillow {PIL.__version__}")
print("first frame (255, 0, 0), second frame (0, 0, 255)")
image = Image.open(io.BytesIO(ANIMATION))
pixel = image.convert("RGB").getpixel((0, 0))
print(f"opened {pixel}, n_frames {image.n_frames}, is_animated {image.is_animated}")
got = pixel, image.n_frames
if got != ((0, 0, 255), 1):
    sys.exit(f"changed: expected the last frame and n_frames 1, got {got}")
PYTHON
