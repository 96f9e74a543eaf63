"""Measures the training speed on this machine: a few real steps from random weights."""

import time
from typing import Any

import torch

from vitlora.hardware import storage_dtype
from vitlora.training.classifier import Classifier
from vitlora.training.optimizers import make_optimizer

_STEPS, _WARM_UP = 10, 2
_SECONDS = 30.0  # a slow device may stop early


def images_per_second(
    model: dict[str, Any], classes: int, device: torch.device, precision: str, batch: int
) -> float:
    """Returns the pictures per second of ten steps, or of fewer if they take over half a minute.

    Args:
        model: Options of ``Classifier``; the adapter as an object.
        classes: Outputs of the head.
        device: One of this machine.
        precision: Lightning's name of it.
        batch: Pictures at once, at least 1.
    """
    module = Classifier(classes, **{**model, "weights": "none"})
    module.build(device, precision)
    module.train().to(device)
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = make_optimizer(module.optimizer, [{"params": trained, "lr": 0.0}], device)
    side, dtype = module.backbone.preprocessing.image_size, storage_dtype(precision)
    images = torch.zeros(batch, 3, side, side, device=device)
    labels = torch.zeros(batch, dtype=torch.long, device=device)
    synchronize = getattr(torch, device.type).synchronize
    start, done = time.perf_counter(), 0
    for number in range(_WARM_UP + _STEPS):
        if number == _WARM_UP:
            start = time.perf_counter()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss, _ = module.differentiated(images, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        synchronize()
        done = number + 1 - _WARM_UP
        if done > 0 and time.perf_counter() - start > _SECONDS:
            break
    return done * batch / (time.perf_counter() - start)
