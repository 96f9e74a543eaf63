#!/usr/bin/env bash
# Lightning: ModelCheckpoint's last.ckpt is the best epoch, not the last, where a metric is watched.
#
# What the user does: ModelCheckpoint(monitor="val/loss", save_last=True), stops, and resumes from
#   last.ckpt.
# Expected: last.ckpt is the state after the last epoch.
# What happens: last.ckpt is written only where a best one is; when the metric stops improving it
#   stays behind. Without monitor it is the last epoch.
# Why it hurts: a resumed run silently repeats every epoch since the best; comparing "best" with
#   "last" compares a file with its own copy.
# How to avoid it: a second ModelCheckpoint without monitor, for the last epoch.
# Upstream: openclimatefix/pvnet#544 met it on moving to Lightning 2.6; none known in Lightning.
# Seen: 2026-11-28, Python 3.11.
# Printed:
#   lightning 2.6.6 torch 2.14.1+cu130
#   monitor=val/loss: last.ckpt is of epoch 1, of 0 to 4; 2 of 5 steps
#   monitor=None: last.ckpt is of epoch 4, of 0 to 4; 5 of 5 steps
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
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

LOSSES = (3.0, 1.0, 2.0, 2.5, 2.7)  # of five epochs; the second is the best


class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def training_step(self, batch, _):
        return self.weight.sum()

    def validation_step(self, batch, _):
        self.log("val/loss", LOSSES[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1.0)


print("lightning", L.__version__, "torch", torch.__version__)
data = DataLoader(TensorDataset(torch.zeros(4, 1)), batch_size=4)
epochs = {}
for monitor in ("val/loss", None):
    folder = f"checkpoints-{monitor is not None}"
    trainer = L.Trainer(
        max_epochs=5,
        accelerator="cpu",
        callbacks=[ModelCheckpoint(folder, monitor=monitor, save_last=True)],
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Net(), data, data)
    last = torch.load(f"{folder}/last.ckpt", weights_only=False)
    epochs[monitor] = last["epoch"]
    print(f"monitor={monitor}: last.ckpt is of epoch {last['epoch']}, of 0 to 4;",
          f"{last['global_step']} of 5 steps")
if epochs != {"val/loss": 1, None: 4}:
    sys.exit(f"changed: expected epoch 1 with a monitor and 4 without, got {epochs}")
PYTHON
