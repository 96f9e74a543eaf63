#!/usr/bin/env bash
# safetensors: save_file of a transposed numpy array writes its numbers in the wrong order.
#
# What the user does: safetensors.numpy.save_file({"weight": array}), where the array is a .T or in
#   Fortran order, such as principal directions or a layer's weight for x @ W.
# Expected: load_file gives the array back; or an error, as safetensors.torch raises.
# What happens: version 0.8 writes memory as it lies and the shape as it is. A transposed array's
#   memory is in another order: the numbers come back all there, of the right shape and dtype, in
#   wrong places. Version 0.7 copied first.
# Why it hurts: a projection or a head that is saved is noise when loaded; norms, shapes, dtypes and
#   checksums of the file all look right.
# How to avoid it: np.ascontiguousarray on all that is saved; 0.7; or safetensors.torch.
# Upstream: safetensors/safetensors#825, open.
# Seen: 2026-11-28, Python 3.11.
# Printed:
#   safetensors 0.8.0 numpy 2.4.6
#   features: shape (500, 64) as saved: True, relative error 0.00
#   features.T: shape (64, 500) as saved: True, relative error 1.42
#   np.asfortranarray(features): shape (500, 64) as saved: True, relative error 1.42
#   principal directions, vt[:16].T: shape (64, 16) as saved: True, relative error 1.39
#   lost in projecting to the 16 directions: 0.00, to them as loaded: 0.88
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
. "$folder/venv/bin/activate"
python3 -m pip install --quiet 'safetensors==0.8.0' 'numpy==2.4.6'
cd "$folder"
python3 - <<'PYTHON'
import sys

import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

rng = np.random.default_rng(0)
pictures = rng.normal(size=(500, 16)) @ rng.normal(size=(16, 64))  # 64 features of 16 directions
pictures = pictures.astype(np.float32)
u, s, vt = np.linalg.svd(pictures, full_matrices=False)
ARRAYS = {
    "features": pictures,
    "features.T": pictures.T,
    "np.asfortranarray(features)": np.asfortranarray(pictures),
    "principal directions, vt[:16].T": vt[:16].T,
}
print("safetensors", safetensors.__version__, "numpy", np.__version__)
same = []
for name, array in ARRAYS.items():
    save_file({"array": array}, "file.safetensors")
    loaded = load_file("file.safetensors")["array"]
    same.append(np.array_equal(loaded, array))
    error = np.linalg.norm(loaded - array) / np.linalg.norm(array)
    print(f"{name}: shape {loaded.shape} as saved: {loaded.shape == array.shape},",
          f"relative error {error:.2f}")


def left_over(directions):
    """Returns what is lost when the features are projected to the directions and back."""
    back = pictures @ directions @ directions.T
    return np.linalg.norm(pictures - back) / np.linalg.norm(pictures)


print(f"lost in projecting to the 16 directions: {left_over(vt[:16].T):.2f},",
      f"to them as loaded: {left_over(loaded):.2f}")
if same != [True, False, False, False]:
    sys.exit(f"changed: expected only the first to come back, got {same}")
PYTHON
