#!/usr/bin/env bash
# torchmetrics: in a MetricCollection, metrics with other thresholds can become one for good.
#
# What the user does: MetricCollection of BinaryAccuracy(threshold=0.5) and (threshold=0.9), or of
#   any metrics that count the same things by another rule.
# Expected: what each metric says on its own.
# What happens: after the first batch the collection compares their counts. Where these happen to
#   be equal, which needs only one easy batch, it updates one metric alone from then on and lets the
#   other repeat its number.
# Why it hurts: one of the two numbers is the other's. It depends on the order of the data: shuffled
#   otherwise, all is well.
# How to avoid it: MetricCollection(..., compute_groups=False).
# Upstream: Lightning-AI/torchmetrics#2596 and #2916 are of the kind, both closed.
# Seen: 2026-11-28, Python 3.11.
# Printed:
#   torchmetrics 1.9.0 torch 2.14.1+cu130
#   easy batch first:     {'over_90': 0.538, 'over_half': 0.538}
#   easy batch last:      {'over_90': 0.538, 'over_half': 0.788}
#   compute_groups=False: {'over_90': 0.538, 'over_half': 0.788}
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
. "$folder/venv/bin/activate"
python3 -m pip install --quiet 'torchmetrics==1.9.0' 'torch==2.14.1' 'numpy==2.4.6'
cd "$folder"
python3 - <<'PYTHON'
import sys

import torch
import torchmetrics
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAccuracy

torch.manual_seed(0)
labels = torch.randint(0, 2, (160,))
scores = (labels + torch.rand(160)) / 2  # right at 0.5, less often at 0.9
scores[labels != torch.randint(0, 2, (160,))] = 0.7
scores[:8] = torch.where(labels[:8] == 1, 0.98, 0.02)  # an easy batch


def accuracies(order, **options):
    metrics = {"over_half": BinaryAccuracy(threshold=0.5), "over_90": BinaryAccuracy(threshold=0.9)}
    collection = MetricCollection(metrics, **options)
    for batch in order.split(8):
        collection.update(scores[batch], labels[batch])
    return {name: round(value.item(), 3) for name, value in collection.compute().items()}


print("torchmetrics", torchmetrics.__version__, "torch", torch.__version__)
order = torch.arange(160)
easy_first, easy_last = accuracies(order), accuracies(order.flip(0))
apart = accuracies(order, compute_groups=False)
print("easy batch first:    ", easy_first)
print("easy batch last:     ", easy_last)
print("compute_groups=False:", apart)
one_number = easy_first["over_half"] == easy_first["over_90"]
if not one_number or easy_last != apart or apart["over_half"] < apart["over_90"] + 0.1:
    sys.exit(f"changed: expected one number twice, got {easy_first}, {easy_last}, {apart}")
PYTHON
