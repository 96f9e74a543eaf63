#!/usr/bin/env bash
# Pillow 12 x 13: the same tall picture is scaled to other pixels; a wide one is not.
#
# What the user does: Image.resize((224, 224), BICUBIC), as in every preprocessing, with Pillow 12 in
#   training and Pillow 13 in production, or files written by both compared to the byte.
# Expected: the same pixels, or all pictures a little different.
# What happens: Pillow scales in two passes and rounds to 8 bits between them. 12 always does the rows
#   first. 13 does the columns first if that is less work, as for a tall picture. The rounding then
#   falls elsewhere: a fifth of the values change, by up to 4 levels in noise.
# Why it hurts: golden files and hashes of thumbnails differ for portraits alone, and a port of Pillow's
#   scaling to another language is right for 12 and wrong for 13, or right for landscapes only.
# How to avoid it: pin Pillow where pixels must agree, and test with tall and wide pictures.
# Upstream: Pillow pull request 9549, made for speed.
# Seen: 2026-11-29, Python 3.11, CPU.
# Printed:
#   tall: 22% of the values changed, by 4 at most
#   wide: 0% of the values changed, by 0 at most
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/scale.py" <<'PYTHON'
import sys

import numpy as np
from PIL import Image

noise = np.random.default_rng(0).integers(0, 256, (900, 300, 3), dtype=np.uint8)
for name, values in (("tall", noise), ("wide", noise.transpose(1, 0, 2))):
    picture = Image.fromarray(np.ascontiguousarray(values))
    scaled = picture.resize((224, 224), Image.Resampling.BICUBIC)
    np.save(f"{sys.argv[1]}-{name}.npy", np.asarray(scaled).astype(int))
PYTHON
for version in 12.3.0 13.0.0; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/python" -m pip install --quiet "pillow==$version" 'numpy==2.4.6'
  "$folder/$version/bin/python" "$folder/scale.py" "$folder/$version"
done
"$folder/13.0.0/bin/python" - "$folder" <<'PYTHON'
import sys

import numpy as np

changed = {}
for name in ("tall", "wide"):
    old, new = (np.load(f"{sys.argv[1]}/{version}-{name}.npy") for version in ("12.3.0", "13.0.0"))
    changed[name] = (old != new).mean()
    print(f"{name}: {changed[name]:.0%} of the values changed, by {abs(old - new).max()} at most")
if not (changed["tall"] > 0.1 and changed["wide"] == 0):
    sys.exit(f"changed: expected other pixels in the tall picture alone, got {changed}")
PYTHON
