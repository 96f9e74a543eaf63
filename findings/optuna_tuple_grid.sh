#!/usr/bin/env bash
# optuna: a grid that holds tuples never ends on journal storage: every point counts as not done.
#
# What the user does: GridSampler({"size": [(224, 224), (336, 336)]}) on a JournalStorage file, to
#   add to the study from several processes or after a break.
# Expected: two trials, then the study stops, as it does in memory, and with lists.
# What happens: the file keeps tuples as lists, so a finished trial's grid never equals the
#   sampler's: all points stay unvisited. The study runs on to n_trials, and every further call
#   trains the same points again. (On SQLite the same grid raises a ValueError.)
# Why it hurts: days of training are spent on repeats that look like progress.
# How to avoid it: strings or numbers in grids ("224x224"), or lists.
# Upstream: optuna/optuna#5061 says that only None, bool, int, float and str are supported; optuna
#   warns of other types once.
# Seen: 2026-11-28, Python 3.11.
# Printed:
#   optuna 5.0.0
#   grid of two text: 2 trials in memory, 2 on a journal
#   grid of two lists: 2 trials in memory, 2 on a journal
#   grid of two tuples: 2 trials in memory, 8 on a journal
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
. "$folder/venv/bin/activate"
python3 -m pip install --quiet 'optuna==5.0.0'
cd "$folder"
python3 - <<'PYTHON'
import sys
import warnings

warnings.simplefilter("ignore")

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

optuna.logging.set_verbosity(optuna.logging.ERROR)
GRIDS = {
    "text": ["224", "336"],
    "lists": [[224, 224], [336, 336]],
    "tuples": [(224, 224), (336, 336)],
}


def trials(storage, values):
    """Returns how many trials of at most 8 a grid of two points takes."""
    sampler = optuna.samplers.GridSampler({"size": values}, seed=0)
    study = optuna.create_study(storage=storage, sampler=sampler)
    study.optimize(lambda trial: len(trial.suggest_categorical("size", values)), n_trials=8)
    return len(study.trials)


print("optuna", optuna.__version__)
got = {}
for kind, values in GRIDS.items():
    journal = JournalStorage(JournalFileBackend(f"{kind}.log"))
    got[kind] = trials(None, values), trials(journal, values)
    print(f"grid of two {kind}: {got[kind][0]} trials in memory, {got[kind][1]} on a journal")
if got != {"text": (2, 2), "lists": (2, 2), "tuples": (2, 8)}:
    sys.exit(f"changed: expected 8 trials for tuples on a journal and 2 elsewhere, got {got}")
PYTHON
