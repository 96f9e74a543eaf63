#!/usr/bin/env bash
# Lightning x torch: a resumed run with more epochs keeps the old length of its schedule.
#
# What the user does: trains 5 epochs with a schedule over trainer.estimated_stepping_batches, finds
#   it too short, and resumes with ckpt_path and max_epochs=10.
# Expected: the schedule of 10 epochs, continued at its half.
# What happens: load_state_dict puts back the length with which the schedule was made. Cosine, past
#   its end, climbs back to the full rate; LinearLR and PolynomialLR stay at 0 for good: five more
#   epochs change nothing. A LambdaLR takes its first step at 0, then jumps to half the peak.
# Why it hurts: all run to the end without a warning, and differ from a run of 10 epochs.
# How to avoid it: decide the length before training; or start a new run from the weights, with a
#   schedule of its own.
# Upstream: none known.
# Seen: 2026-11-28, Python 3.11.
# Printed:
#   lightning 2.6.6 torch 2.14.1+cu130 - rates of epochs 6 to 10
#   CosineAnnealingLR: resumed [0.0, 0.1, 0.35, 0.65, 0.9], in one run of 10 [0.5, 0.35, 0.21, 0.1, 0.02]
#   LinearLR: resumed [0.0, 0.0, 0.0, 0.0, 0.0], in one run of 10 [0.5, 0.4, 0.3, 0.2, 0.1]
#   PolynomialLR: resumed [0.0, 0.0, 0.0, 0.0, 0.0], in one run of 10 [0.5, 0.4, 0.3, 0.2, 0.1]
#   LambdaLR: resumed [0.0, 0.4, 0.3, 0.2, 0.1], in one run of 10 [0.5, 0.4, 0.3, 0.2, 0.1]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
. "$folder/venv/bin/activate"
python3 -m pip install --quiet 'lightning==2.6.6' 'torch==2.14.1' 'torchmetrics==1.9.0'
cd "$folder"
python3 - <<'PYTHON'
import logging
import sys
import warnings

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)  # Lightning is talkative

import lightning as L
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

SCHEDULES = {
    "CosineAnnealingLR": lambda optimizer, n: lr_scheduler.CosineAnnealingLR(optimizer, n),
    "LinearLR": lambda optimizer, n: lr_scheduler.LinearLR(optimizer, 1.0, 0.0, n),
    "PolynomialLR": lambda optimizer, n: lr_scheduler.PolynomialLR(optimizer, n),
    "LambdaLR": lambda optimizer, n: lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / n),
}


class Net(L.LightningModule):
    def __init__(self, kind):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.kind = kind
        self.rates = []

    def training_step(self, batch, _):
        self.rates.append(round(self.optimizers().param_groups[0]["lr"], 2))
        return self.weight.sum()

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 1.0)
        steps = self.trainer.estimated_stepping_batches
        schedule = SCHEDULES[self.kind](optimizer, steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def rates(kind, epochs, start=None, save=None):
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    net = Net(kind)
    data = DataLoader(TensorDataset(torch.zeros(4, 1)), batch_size=4)
    trainer.fit(net, data, ckpt_path=start)
    if save:
        trainer.save_checkpoint(save)
    return net.rates


print("lightning", L.__version__, "torch", torch.__version__, "- rates of epochs 6 to 10")
got = {}
for kind in SCHEDULES:
    rates(kind, 5, save="five.ckpt")
    got[kind] = rates(kind, 10, start="five.ckpt")
    print(f"{kind}: resumed {got[kind]}, in one run of 10 {rates(kind, 10)[5:]}")
cosine, lambdas = got["CosineAnnealingLR"], got["LambdaLR"]
flat = got["LinearLR"] == got["PolynomialLR"] == [0.0] * 5
if not (cosine == sorted(cosine) and cosine[-1] > 0.85 and flat and lambdas[:2] == [0.0, 0.4]):
    sys.exit(f"changed: expected a climb, zeros, zeros, 0 and a jump, got {got}")
PYTHON
