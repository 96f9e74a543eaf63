#!/usr/bin/env bash
# datasets: imagefolder drops all other classes when a class folder's name holds "train" or "test".
#
# What the user does: load_dataset("imagefolder", data_dir="photos") on class folders such as bus,
#   car, train; or beaker, flask, "test tube".
# Expected: one split with all pictures and a label of three classes.
# What happens: folder names are searched for words that name splits (train, training, test, eval,
#   val, dev, ...) between separators. One hit, and only the hits are loaded, as that split; with
#   one folder left there is no label either. The rest is passed over without a word.
# Why it hurts: two thirds of the pictures are gone, and the split's name hides why. Whoever maps
#   over all splits trains on "test".
# How to avoid it: data_files="photos/**", which switches the search off; compare counts.
# Upstream: huggingface/datasets#5021 for file names, closed.
# Seen: 2026-11-28, Python 3.11.
# Printed:
#   datasets 5.2.0 - pictures and classes by split; 9 and 3 expected
#   ['bus', 'car', 'tram']: {'train': (9, ['bus', 'car', 'tram'])}
#   ['bus', 'car', 'train']: {'train': (3, None)}
#   ['beaker', 'flask', 'test tube']: {'test': (3, None)}
#   ['bare board', 'dev-board', 'shield']: {'validation': (3, None)}
#   with data_files: {'train': (9, ['beaker', 'flask', 'test tube'])}
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
. "$folder/venv/bin/activate"
python3 -m pip install --quiet 'datasets==5.2.0' 'pillow==13.0.0'
cd "$folder"
export HF_HOME="$folder/cache" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1
python3 - <<'PYTHON'
import sys
from pathlib import Path

import datasets
from PIL import Image

FOLDERS = (
    ["bus", "car", "tram"],
    ["bus", "car", "train"],
    ["beaker", "flask", "test tube"],
    ["bare board", "dev-board", "shield"],
)


def load(classes, **options):
    """Returns each split's pictures and classes, of three pictures in each class."""
    root = Path("-".join(classes).replace(" ", "-") + "-photos") / "root"
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(3):
            Image.new("RGB", (8, 8), (i, 0, 0)).save(root / name / f"{i}.png")
    options = {key: value.format(root=root) for key, value in options.items()}
    splits = datasets.load_dataset("imagefolder", **options)
    labels = {name: part.features.get("label") for name, part in splits.items()}
    return {
        name: (len(part), labels[name].names if labels[name] else None)
        for name, part in splits.items()
    }


print("datasets", datasets.__version__, "- pictures and classes by split; 9 and 3 expected")
got = []
for classes in FOLDERS:
    got.append(load(classes, data_dir="{root}"))
    print(f"{classes}: {got[-1]}")
avoided = load(FOLDERS[2], data_files="{root}/**")
print("with data_files:", avoided)
expected = [
    {"train": (9, FOLDERS[0])},
    {"train": (3, None)},
    {"test": (3, None)},
    {"validation": (3, None)},
]
if got != expected:
    sys.exit(f"changed: expected {expected}, got {got}")
PYTHON
