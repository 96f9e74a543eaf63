#!/usr/bin/env bash
# albumentations x torch: with loader workers, every epoch and every worker gets the same draws.
#
# What the user does: puts an unseeded A.Compose into a Dataset and reads it with
#   DataLoader(num_workers=2), as every tutorial does.
# Expected: each picture of each epoch is changed in another way.
# What happens: workers are started anew each epoch as copies of the parent, whose generators never
#   advance. Both workers draw the same numbers, and the second epoch draws those of the first.
#   persistent_workers=True mends the epochs, not the workers. seed= mends neither.
# Why it hurts: nothing fails, pictures do look augmented; but a picture at one place of an epoch is
#   changed as the one there was before, and with N workers only 1/N of the draws are different.
# How to avoid it: num_workers=0, or a worker_init_fn that calls
#   compose.set_random_state(np.random.default_rng(s), random.Random(s)), s = torch.initial_seed().
#   Not set_random_seed: see albumentations_steps_draw_alike.sh.
# Upstream: albumentations-team/AlbumentationsX#266, mended there; 2.0.8 is albumentations' last.
# Seen: 2026-11-28, Python 3.11, Linux.
# Printed:
#   albumentations 2.0.8 torch 2.14.1+cu130
#   num_workers=0: epochs repeat: False, workers draw alike: False
#   num_workers=2: epochs repeat: True, workers draw alike: True
#   num_workers=2, persistent: epochs repeat: False, workers draw alike: True
#   num_workers=2, worker_init_fn: epochs repeat: False, workers draw alike: False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
. "$folder/venv/bin/activate"
python3 -m pip install --quiet \
  'albumentations==2.0.8' 'opencv-python-headless==5.0.0.93' 'numpy==2.4.6' 'torch==2.14.1'
cd "$folder"
cat > program.py <<'PYTHON'
import random
import sys

import albumentations as A
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

GREY = np.full((8, 8, 3), 128, np.uint8)


class Greys(Dataset):
    """Eight grey pictures, made lighter or darker; an item is the grey that came out."""

    def __init__(self):
        step = A.RandomBrightnessContrast(brightness_limit=0.5, contrast_limit=0, p=1)
        self.compose = A.Compose([step])

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return int(self.compose(image=GREY)["image"][0, 0, 0])


def seed_worker(_):
    seed = torch.initial_seed()
    rngs = np.random.default_rng(seed), random.Random(seed)
    get_worker_info().dataset.compose.set_random_state(*rngs)


def epochs(**options):
    loader = DataLoader(Greys(), batch_size=2, **options)
    return [torch.cat(list(loader)).tolist() for _ in range(3)]


def main():
    torch.manual_seed(0)
    print("albumentations", A.__version__, "torch", torch.__version__)
    kinds = {
        "num_workers=0": {"num_workers": 0},
        "num_workers=2": {"num_workers": 2},
        "num_workers=2, persistent": {"num_workers": 2, "persistent_workers": True},
        "num_workers=2, worker_init_fn": {"num_workers": 2, "worker_init_fn": seed_worker},
    }
    got = []
    for kind, options in kinds.items():
        first, second, third = epochs(**options)
        again = first == second == third
        alike = first[0:2] + first[4:6] == first[2:4] + first[6:8]  # batches 0, 2 and 1, 3
        got.append((again, alike))
        print(f"{kind}: epochs repeat: {again}, workers draw alike: {alike}")
    expected = [(False, False), (True, True), (False, True), (False, False)]
    if got != expected:
        sys.exit(f"changed: expected (epochs repeat, workers alike) {expected}, got {got}")


if __name__ == "__main__":
    main()
PYTHON
NO_ALBUMENTATIONS_UPDATE=1 python3 program.py
