#!/usr/bin/env bash
# datasets: of Parquet files beside one called "train" or "test", those without such a word vanish.
#
# What the user does: load_dataset("birds") on a folder of monday.parquet, tuesday.parquet and
#   test_rig.parquet; or of train-00000-of-00001.parquet and extra-00000-of-00001.parquet.
# Expected: all rows, or an error.
# What happens: file names are searched for words that name splits (train, test, val, dev, ...). One
#   hit, and only the hits are loaded, as that split. The rest is passed over without a word. In a
#   folder data/, files named as in the second example are all found.
# Why it hurts: most rows are gone; the three days become a test split of one machine.
# How to avoid it: data_files={"train": "birds/*.parquet"}; compare counts.
# Upstream: not reported.
# Seen: 2026-11-28, Python 3.11.
# Printed:
#   datasets 5.2.0 - rows by split; each file has 3
#   ['monday', 'tuesday']: {'train': 6}
#   ['monday', 'tuesday', 'test_rig']: {'test': 3}
#   ['train-00000-of-00001', 'extra-00000-of-00001']: {'train': 3}
#   ['train-00000-of-00001', 'extra-00000-of-00001'] in data/: {'train': 3, 'extra': 3}
#   with data_files: {'train': 9}
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
. "$folder/venv/bin/activate"
python3 -m pip install --quiet 'datasets==5.2.0'
cd "$folder"
export HF_HOME="$folder/cache" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1
python3 - <<'PYTHON'
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

FOLDERS = {
    "days": ["monday", "tuesday"],
    "days-rig": ["monday", "tuesday", "test_rig"],
    "splits": ["train-00000-of-00001", "extra-00000-of-00001"],
    "splits-data/data": ["train-00000-of-00001", "extra-00000-of-00001"],
}


def load(folder, names, **options):
    """Returns the rows of each split, of three rows in each file."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        pq.write_table(pa.table({"x": [1, 2, 3]}), f"{folder}/{name}.parquet")
    found = datasets.load_dataset(folder.partition("/")[0], **options)
    return {name: len(part) for name, part in found.items()}


print("datasets", datasets.__version__, "- rows by split; each file has 3")
got = []
for folder, names in FOLDERS.items():
    got.append(load(folder, names))
    print(f"{names}{' in data/' if '/' in folder else ''}: {got[-1]}")
avoided = load("days-rig", FOLDERS["days-rig"], data_files={"train": "*.parquet"})
print("with data_files:", avoided)
expected = [{"train": 6}, {"test": 3}, {"train": 3}, {"train": 3, "extra": 3}]
if got != expected or avoided != {"train": 9}:
    sys.exit(f"changed: expected {expected}, got {got}")
PYTHON
